//! How a command fails: what to print, and what to exit with.

use std::fmt;

use agentgov_runtime::{ExitCode, StageError};
use agentgov_schemas::escape::EscapedLines;

use crate::print::{Text, text};

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub code: ExitCode,
    message: Text,
}

impl Failure {
    /// Ends with `code` and prints `message`.
    pub fn new(code: ExitCode, message: impl fmt::Display) -> Self {
        Self { code, message: Text::from(message.to_string()) }
    }

    /// A report of several lines, whose author has escaped its parts.
    pub fn report(code: ExitCode, report: impl fmt::Display) -> Self {
        Self { code, message: text!("{}", EscapedLines(report)) }
    }

    /// Several problems, a line each.
    pub fn all(code: ExitCode, what: &str, problems: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let mut lines = vec![Text::from(what)];
        lines.extend(problems.into_iter().map(|problem| text!("  {}", problem)));
        Self { code, message: Text::join(&lines, "\n") }
    }

    /// The message, escaped.
    pub const fn message(&self) -> &Text {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_str())
    }
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Self::new(error.exit_code(), error)
    }
}

/// Gives any error an exit code.
pub trait OrExit<T> {
    /// The value, or a failure with this code.
    fn or_exit(self, code: ExitCode) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: ExitCode) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(code, error))
    }
}
