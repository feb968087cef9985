use crate::expression::Failure;

/// Something that could not be computed. Never quotes a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A name of docs/errors.
    pub code: &'static str,
    /// The derived value, kind of fact, policy or field concerned.
    pub subject: String,
    /// What went wrong.
    pub message: String,
}

impl Finding {
    /// The arguments are no JSON: what is derived from them erred.
    pub const ARGUMENTS_NOT_JSON: &'static str = "arguments_not_json";
    /// The arguments have too many values: what is derived from them erred.
    pub const ARGUMENTS_TOO_LARGE: &'static str = "arguments_too_large";
    /// The event says that a tool is called, but not which.
    pub const TOOL_MISSING: &'static str = "tool_missing";
    /// The expression of a derived value failed: the value erred.
    pub const DERIVED_ERROR: &'static str = "derived_error";
    /// A derived value has not the type that it declares: it erred.
    pub const DERIVED_TYPE: &'static str = "derived_type";
    /// The expression that says which facts a call refers to failed: those are not listed.
    pub const REFERS_ERROR: &'static str = "refers_error";
    /// An expression that extracts a fact from a result failed: facts of that kind are no longer certain.
    pub const STATES_ERROR: &'static str = "states_error";
    /// A policy could not be evaluated.
    pub const POLICY_ERROR: &'static str = "policy_error";

    /// One with a message.
    pub fn new(code: &'static str, subject: &str, message: impl Into<String>) -> Self {
        Self { code, subject: subject.to_owned(), message: message.into() }
    }

    /// A failure of an expression, unless something is only not known, or named already.
    pub(crate) fn of(code: &'static str, subject: &str, failure: Failure) -> Option<Self> {
        match failure {
            // The arguments have a finding of their own.
            Failure::Absent | Failure::Arguments => None,
            Failure::Error(message) => Some(Self::new(code, subject, message)),
        }
    }
}
