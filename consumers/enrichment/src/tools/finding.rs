use agentgov_schemas::verdict::{ErrorCode, JudgeError};

use crate::expression::Failure;

/// Error of an expression or of an input. Never quotes a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Error code.
    pub code: ErrorCode,
    /// Name of the derived value, kind of fact, policy or field with the error.
    pub subject: String,
    /// Description.
    pub message: String,
}

impl Finding {
    /// Creates a finding.
    pub fn new(code: ErrorCode, subject: &str, message: impl Into<String>) -> Self {
        Self { code, subject: subject.to_owned(), message: message.into() }
    }

    /// Returns the finding as records carry it.
    pub fn as_error(&self) -> JudgeError<'_> {
        JudgeError { code: self.code.into(), subject: &self.subject, message: &self.message }
    }

    /// Creates a finding from the failure of an expression. A missing value is no error.
    pub(crate) fn from_failure(code: ErrorCode, subject: &str, failure: Failure) -> Option<Self> {
        match failure {
            // Unreadable arguments have one finding of their own.
            Failure::Missing | Failure::UnreadableArguments => None,
            Failure::Error(message) => Some(Self::new(code, subject, message)),
        }
    }
}
