use std::fmt;

use super::Location;

/// One mistake in a file that a person wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// The file, as it was named to us.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
    /// What was expected, what was found, what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl std::error::Error for Problem {}

/// Collects the problems of one file.
#[derive(Debug)]
pub struct Problems {
    file: String,
    found: Vec<Problem>,
}

impl Problems {
    /// None yet, of `file`.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    /// Reports one.
    pub fn add(&mut self, at: Location, message: impl Into<String>) {
        self.found.push(Problem {
            file: self.file.clone(),
            line: at.line().max(1),
            column: at.column().max(1),
            message: message.into(),
        });
    }

    /// True if none was reported so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The value, if nothing was reported; else all problems in the order of the file. `value` must be there if nothing
    /// was reported.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(self.into_sorted()),
        }
    }

    /// All problems in the order of the file.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found.dedup();
        self.found
    }
}
