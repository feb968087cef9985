//! Unexpected exits of processes, with counts and log excerpts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;

use serde::Serialize;

use crate::run::Setup;

/// Number of log lines kept of an unexpected exit.
const MAX_LOG_LINES: usize = 12;

/// Unexpected exits of one kind.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UnexpectedExits {
    /// Number of exits.
    pub times: u64,
    /// Last lines of the log at the first of them. Processes of the same name share the log.
    pub log_tail: Vec<String>,
}

/// Unexpected exits by process name and status.
pub(crate) type ExitsByStatus = BTreeMap<String, UnexpectedExits>;

/// Counts an exit. `circumstance` is appended to the name, and may be empty.
pub(crate) fn count_exit(
    setup: &Setup<'_>,
    ends: &mut ExitsByStatus,
    name: &str,
    circumstance: &str,
    status: ExitStatus,
) {
    let first = || UnexpectedExits { times: 0, log_tail: log_tail(setup, name) };
    ends.entry(format!("{name}{circumstance}: {status}")).or_insert_with(first).times += 1;
}

/// Returns the log file that processes of a name share, in the stack's folder.
pub(crate) fn log_path(setup: &Setup<'_>, name: &str) -> PathBuf {
    // Several pipelines may share the stack, so the name contains the pipeline's database.
    setup.env.logs().join(format!("{}-{name}.log", setup.endpoints.clickhouse.database))
}

fn log_tail(setup: &Setup<'_>, name: &str) -> Vec<String> {
    let log = std::fs::read(log_path(setup, name)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(MAX_LOG_LINES)).map(|line| (*line).to_owned()).collect()
}
