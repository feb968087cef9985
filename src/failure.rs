//! Failures of commands: the message to print and the exit code.

use std::fmt;

use agentgov_schemas::escape::EscapedLines;
use agentgov_service::{ExitCode, StageError};
use serde_json::{Value, json};

use crate::print::{Text, text};

/// Failure of a command.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub code: ExitCode,
    summary: Summary,
    problems: Vec<String>,
}

#[derive(Clone, Debug)]
enum Summary {
    /// One line, not escaped.
    Line(String),
    /// Several lines, whose outside text is already escaped.
    Report(String),
}

impl Failure {
    /// Fails with `code` and a one-line `message`.
    pub fn new(code: ExitCode, message: impl fmt::Display) -> Self {
        Self { code, summary: Summary::Line(message.to_string()), problems: Vec::new() }
    }

    /// Fails with a report of several lines, whose outside text is already escaped.
    pub fn report(code: ExitCode, report: impl fmt::Display) -> Self {
        Self { code, summary: Summary::Report(report.to_string()), problems: Vec::new() }
    }

    /// Fails with several problems, one per line below `heading`.
    pub fn all(code: ExitCode, heading: &str, problems: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let problems = problems.into_iter().map(|problem| problem.to_string()).collect();
        Self { code, summary: Summary::Line(heading.to_owned()), problems }
    }

    /// Returns the escaped message.
    pub fn message(&self) -> Text {
        let mut lines = vec![match &self.summary {
            Summary::Line(line) => Text::from(line),
            Summary::Report(lines) => text!("{}", EscapedLines(lines)),
        }];
        lines.extend(self.problems.iter().map(|problem| text!("  {}", problem)));
        Text::join(&lines, "\n")
    }

    /// Formats the failure as JSON.
    pub fn to_json(&self) -> Value {
        let (Summary::Line(message) | Summary::Report(message)) = &self.summary;
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

/// Converts errors into failures with an exit code.
pub trait OrExit<T> {
    /// Converts an error with a one-line message.
    fn or_exit(self, code: ExitCode) -> Result<T, Failure>;

    /// Converts an error whose message is a report of several lines.
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
