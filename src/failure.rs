//! How a command fails: what to print, and what to exit with.

use std::fmt;

use agentgov_schemas::escape::EscapedLines;
use agentgov_service::{ExitCode, StageError};
use serde_json::{Value, json};

use crate::print::{Text, text};

/// A command's failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The process's exit code.
    pub code: ExitCode,
    what: What,
    problems: Vec<String>,
}

#[derive(Clone, Debug)]
enum What {
    /// One line, raw.
    Line(String),
    /// Lines, whose author has escaped their parts.
    Report(String),
}

impl Failure {
    /// Ends with `code` and prints `message`.
    pub fn new(code: ExitCode, message: impl fmt::Display) -> Self {
        Self { code, what: What::Line(message.to_string()), problems: Vec::new() }
    }

    /// A report of several lines, whose author has escaped its parts.
    pub fn report(code: ExitCode, report: impl fmt::Display) -> Self {
        Self { code, what: What::Report(report.to_string()), problems: Vec::new() }
    }

    /// Several problems, a line each.
    pub fn all(code: ExitCode, what: &str, problems: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let problems = problems.into_iter().map(|problem| problem.to_string()).collect();
        Self { code, what: What::Line(what.to_owned()), problems }
    }

    /// The message, escaped.
    pub fn message(&self) -> Text {
        let mut lines = vec![match &self.what {
            What::Line(line) => Text::from(line),
            What::Report(lines) => text!("{}", EscapedLines(lines)),
        }];
        lines.extend(self.problems.iter().map(|problem| text!("  {}", problem)));
        Text::join(&lines, "\n")
    }

    /// For a program.
    pub fn to_json(&self) -> Value {
        let (What::Line(message) | What::Report(message)) = &self.what;
        json!({ "error": { "exit_code": self.code as u8, "message": message, "problems": self.problems } })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message().as_str())
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

    /// The same of an error that is a report of several lines.
    fn or_report(self, code: ExitCode) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: ExitCode) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(code, error))
    }

    fn or_report(self, code: ExitCode) -> Result<T, Failure> {
        self.map_err(|error| Failure::report(code, error))
    }
}
