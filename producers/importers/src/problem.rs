//! A line that cannot be imported.

use std::fmt;

use serde_json::Value;

/// What is wrong with a line of a file: shown as `file:line: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What was expected, what was found, and where in the line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// A JSON value in a few words, for "found …".
pub(crate) fn found(value: Option<&Value>) -> String {
    const SHOWN: usize = 40;
    match value {
        None => "nothing".to_owned(),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Array(items)) => format!("an array of {}", items.len()),
        Some(Value::Object(_)) => "an object".to_owned(),
        Some(Value::String(text)) if text.chars().count() > SHOWN => {
            format!("{}…", Value::from(text.chars().take(SHOWN).collect::<String>()))
        }
        Some(value) => value.to_string(),
    }
}
