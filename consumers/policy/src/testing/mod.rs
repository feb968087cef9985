//! Tests of a bundle: `tests/*.yaml` describe sessions and the expected judgement of each call.
//!
//! ```yaml
//! agent: { roles: [clerk] }
//! tests:
//!   - name: only orders that were read are changed
//!     steps:
//!       - call: change_order
//!         input: { order: A1 }
//!         expect: [read-first]       # all violations; the default decision is then deny
//!       - call: get_order
//!         input: { order: A1 }
//!         result: { order: A1, state: open }
//!       - call: change_order         # without violations, the default decision is allow
//!         input: { order: A1 }
//! ```

mod check;
mod file;
mod run;

use std::fmt;

use agentgov_schemas::escape::Escaped;
use agentgov_schemas::yaml::Problem;
use serde::Serialize;

pub(crate) use check::TestCheck;
pub use run::run;

/// Result of running the tests of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// All tests, in order of files and lines.
    pub cases: Vec<Case>,
    /// Problems of unreadable test files.
    pub problems: Vec<Problem>,
    /// Rules that no test violates, so that no test would notice their removal.
    pub never_violated: Vec<String>,
}

/// Result of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Path of its file in the bundle.
    pub file: String,
    /// Line of its beginning.
    pub line: u64,
    /// Name of the test.
    pub name: String,
    /// Deviations, each with the place of its step. Empty if the test passed.
    pub failures: Vec<Problem>,
}

impl Report {
    /// Returns true if all files were readable and all tests passed.
    pub fn passed(&self) -> bool {
        self.problems.is_empty() && self.cases.iter().all(|case| case.failures.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            let word = if case.failures.is_empty() { "ok    " } else { "FAILED" };
            writeln!(f, "{word} {}:{} {}", Escaped(&case.file), case.line, Escaped(&case.name))?;
            for failure in &case.failures {
                writeln!(f, "       {}", Escaped(failure))?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "FAILED {}", Escaped(problem))?;
        }
        for id in &self.never_violated {
            writeln!(f, "note   no test violates `{}`", Escaped(id))?;
        }
        let failed = self.cases.iter().filter(|case| !case.failures.is_empty()).count() + self.problems.len();
        write!(f, "{} tests, {failed} failed", self.cases.len())
    }
}
