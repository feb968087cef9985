use agentgov_schemas::verdict::ErrorCode;

use crate::expression::Failure;

/// Something that could not be computed. Never quotes a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// The derived value, kind of fact, policy or field concerned.
    pub subject: String,
    /// What went wrong.
    pub message: String,
}

impl Finding {
    /// One with a message.
    pub fn new(code: ErrorCode, subject: &str, message: impl Into<String>) -> Self {
        Self { code, subject: subject.to_owned(), message: message.into() }
    }

    /// A failure of an expression, unless something is only not known, or named already.
    pub(crate) fn of(code: ErrorCode, subject: &str, failure: Failure) -> Option<Self> {
        match failure {
            // The arguments have a finding of their own.
            Failure::Absent | Failure::Arguments => None,
            Failure::Error(message) => Some(Self::new(code, subject, message)),
        }
    }
}
