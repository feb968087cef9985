//! A bundle's own tests: `tests/*.yaml`, sessions that people can read, with what the policies must say of each call.
//!
//! ```yaml
//! agent: { roles: [clerk] }
//! tests:
//!   - name: only what was looked at is changed
//!     steps:
//!       - call: change_order
//!         input: { order: A1 }
//!         expect: [look-first]       # violations, all of them; then the decision must be deny …
//!       - call: get_order
//!         input: { order: A1 }
//!         result: { order: A1, state: open }
//!       - call: change_order         # … and without any it must be allow
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

/// What became of a bundle's tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every test, in order of files and lines.
    pub cases: Vec<Case>,
    /// Test files that cannot be read.
    pub problems: Vec<Problem>,
    /// Rules that no test violates: they may as well not be there.
    pub never_violated: Vec<String>,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Its file, within the bundle.
    pub file: String,
    /// The line that it begins in.
    pub line: u64,
    /// Its name.
    pub name: String,
    /// What is not as expected, each at its step. Empty: it passed.
    pub failures: Vec<Problem>,
}

impl Report {
    /// True if every file could be read and every test passed.
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
