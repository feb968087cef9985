//! Responses. An error is a text that names the member, as AuthZEN specifies, and never contains a decision.

use agentgov_schemas::escape::Escaped;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::point::Refusal;

/// Reason why a request gets an error.
#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) status: StatusCode,
    message: String,
    /// Value of `WWW-Authenticate`.
    challenge: Option<&'static str>,
}

/// Challenge without an error: the request has no token.
const ASK: &str = "Bearer realm=\"agentgov\"";
const INVALID_REQUEST: &str = "Bearer realm=\"agentgov\", error=\"invalid_request\"";
const INVALID_TOKEN: &str = "Bearer realm=\"agentgov\", error=\"invalid_token\"";
const INSUFFICIENT_SCOPE: &str = "Bearer realm=\"agentgov\", error=\"insufficient_scope\"";

impl HttpError {
    fn new(status: StatusCode, message: impl Into<String>, challenge: Option<&'static str>) -> Self {
        Self { status, message: message.into(), challenge }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message, None)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("expected a body of at most {limit} bytes, found more");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message, None)
    }

    pub(super) fn timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", None)
    }

    pub(super) fn no_keys() -> Self {
        let message =
            "expected a decision point that signs, found one that decides by a bundle alone: it has no keys";
        Self::new(StatusCode::NOT_FOUND, message, None)
    }

    pub(super) fn unavailable(reason: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, None)
    }

    pub(super) fn no_token() -> Self {
        let message = "expected a bearer token (`Authorization: Bearer …`), found none";
        Self::new(StatusCode::UNAUTHORIZED, message, Some(ASK))
    }

    pub(super) fn malformed_token() -> Self {
        let message = "expected one header `Authorization: Bearer …` with one token, found another form";
        Self::new(StatusCode::BAD_REQUEST, message, Some(INVALID_REQUEST))
    }

    pub(super) fn unknown_token() -> Self {
        let message = "expected the token of a known caller, found another";
        Self::new(StatusCode::UNAUTHORIZED, message, Some(INVALID_TOKEN))
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(message) => Self::bad_request(message),
            Refusal::Forbidden(message) => {
                Self::new(StatusCode::FORBIDDEN, message, Some(INSUFFICIENT_SCOPE))
            }
            Refusal::Internal(message) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message, None),
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let text = format!("{}\n", Escaped(self.message));
        let mut response = (self.status, text).into_response();
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// Returns a JSON response.
pub(super) fn json(value: &impl Serialize) -> Result<Response, HttpError> {
    let body = serde_json::to_vec(value).map_err(|e| {
        HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the answer could not be written: {e}"),
            None,
        )
    })?;
    let content_type = HeaderValue::from_static("application/json");
    // A decision is valid at this moment only.
    let cache = HeaderValue::from_static("no-store");
    Ok(([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, cache)], body).into_response())
}

pub(super) async fn not_found(uri: Uri) -> HttpError {
    let message = format!(
        "expected a path of AuthZEN's Authorization API, such as {}, found {}",
        super::metadata::EVALUATION,
        uri.path()
    );
    HttpError::new(StatusCode::NOT_FOUND, message, None)
}

pub(super) async fn method_not_allowed(method: Method) -> HttpError {
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("expected another method here, found {method}"),
        None,
    )
}
