//! Errors that no input leads to.

/// An invariant of ours does not hold. The event is not judged, and its session is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("internal error: {0}")]
pub struct InternalError(String);

impl InternalError {
    pub(crate) fn new(error: impl ToString) -> Self {
        Self(error.to_string())
    }
}
