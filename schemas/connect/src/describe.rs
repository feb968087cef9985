//! Error messages with their causes.

/// Returns the message of an error with those of its causes. reqwest's own message omits them, e.g. "connection refused".
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
