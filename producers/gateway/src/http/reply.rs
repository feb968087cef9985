//! Responses without a message of the server.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::envelope::RequestId;
use crate::reply;

/// JSON-RPC code of MCP: a header differs from the body.
pub(super) const HEADER_MISMATCH: i32 = -32020;

/// An error response.
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    body: Vec<u8>,
    is_json: bool,
}

impl HttpError {
    /// Creates a response with a text.
    pub fn text(status: StatusCode, message: &str) -> Self {
        Self { status, body: format!("{message}\n").into_bytes(), is_json: false }
    }

    /// Creates a response for an invalid request.
    pub fn bad_request(message: &str) -> Self {
        Self::text(StatusCode::BAD_REQUEST, message)
    }

    /// Creates a response for a request without a valid token.
    pub fn unauthorized(message: &str) -> Self {
        Self::text(StatusCode::UNAUTHORIZED, message)
    }

    /// Creates a response for an invalid message, with an error of JSON-RPC.
    pub(super) fn rpc(id: Option<&RequestId>, code: i32, message: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: reply::error(id, code, message), is_json: true }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let media_type = if self.is_json { "application/json" } else { "text/plain; charset=utf-8" };
        let mut response = (self.status, self.body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
