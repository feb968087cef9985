//! How a command fails: what to print, and what to exit with.

use std::fmt;

use agentgov_runtime::{ExitCode, StageError};

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub code: ExitCode,
    message: String,
}

impl Failure {
    /// Ends with `code` and prints `message`.
    pub fn new(code: ExitCode, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// Several problems, a line each.
    pub fn all(code: ExitCode, what: &str, problems: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let lines: Vec<String> = problems.into_iter().map(|problem| format!("  {problem}")).collect();
        Self { code, message: format!("{what}\n{}", lines.join("\n")) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
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
