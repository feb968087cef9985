//! Errors of the engine server and their HTTP responses.

use std::path::PathBuf;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use thiserror::Error;

use super::framing::FramingError;

/// Failure of the engine server or of a statement.
#[derive(Debug, Error)]
pub(crate) enum EngineError {
    /// The library cannot be loaded.
    #[error("expected the engine's library at {path}, but it does not load: {reason}")]
    Library {
        /// Path of the library.
        path: PathBuf,
        /// Error of the loader.
        reason: String,
    },
    /// The storage cannot be opened.
    #[error("the engine cannot open its storage in {path}: is another process using it?")]
    Open {
        /// Directory of the storage.
        path: PathBuf,
    },
    /// The engine rejected a statement; its message, as in `Code: 60. DB::Exception: …`.
    #[error("{0}")]
    Statement(String),
    /// The library returned neither a result nor an error, which violates its contract.
    #[error("Code: 1001. DB::Exception: the engine's library gave neither a result nor an error")]
    NoOutcome,
    /// The body ended early, or its framing is wrong.
    #[error("Code: {code}. DB::Exception: cannot read the request body: {0}", code = framing_code(.0))]
    Framing(#[from] FramingError),
    /// The connection broke before the end of the body.
    #[error("Code: 33. DB::Exception: the request body was cut: {0}")]
    Truncated(String),
    /// No bytes of the body arrived before the timeout.
    #[error("Code: 209. DB::Exception: no bytes of the request body for {0} s (http_receive_timeout)")]
    Stalled(u64),
    /// The request is invalid.
    #[error("Code: 36. DB::Exception: {0}")]
    Request(String),
    /// The server is stopping.
    #[error("Code: 210. DB::Exception: the engine server is stopping")]
    Stopping,
    /// The socket or the runtime failed.
    #[error("the engine server cannot {what}: {source}")]
    Server {
        /// Failed operation.
        what: &'static str,
        /// Error of the system.
        source: std::io::Error,
    },
}

fn framing_code(error: &FramingError) -> u16 {
    match error {
        FramingError::Checksum { .. } => 40,
        FramingError::Method { .. } => 89,
        FramingError::Sizes { .. } | FramingError::Block { .. } => 271,
        FramingError::Truncated { .. } => 33,
    }
}

impl EngineError {
    /// Returns ClickHouse's error code, parsed from the message; 1002 (unknown) if it has none.
    fn code(&self) -> u32 {
        let text = self.to_string();
        let digits =
            text.split("Code: ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(1002)
    }
}

/// Returns ClickHouse's HTTP status of common error codes; clients rely on the code.
fn status(code: u32) -> StatusCode {
    match code {
        194 | 516 => StatusCode::FORBIDDEN,
        46 | 47 | 50 | 56 | 60 | 63 | 81 | 83 | 84 | 115 => StatusCode::NOT_FOUND,
        6 | 25 | 26 | 27 | 33 | 36 | 38 | 40 | 41 | 42 | 43 | 44 | 53 | 62 | 69 | 70 | 72 | 89 | 117
        | 130 | 271 | 457 => StatusCode::BAD_REQUEST,
        48 => StatusCode::NOT_IMPLEMENTED,
        159 | 209 => StatusCode::REQUEST_TIMEOUT,
        210 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for EngineError {
    fn into_response(self) -> Response {
        let code = self.code();
        let header = HeaderName::from_static("x-clickhouse-exception-code");
        (status(code), [(header, HeaderValue::from(code))], format!("{self}\n")).into_response()
    }
}
