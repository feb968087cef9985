//! Errors that no input can cause.

/// A violated invariant of this crate. The event is not judged, and its session is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("internal error: {0}")]
pub struct InternalError(String);

impl InternalError {
    pub(crate) fn new(error: impl ToString) -> Self {
        Self(error.to_string())
    }
}
