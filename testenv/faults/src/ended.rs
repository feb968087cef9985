//! Processes that ended by themselves: how, how often, and what they said at last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;

use serde::Serialize;

use crate::run::Setup;

/// How many lines of its log are kept of a process that ended by itself.
const LAST_WORDS: usize = 12;

/// Processes that ended by themselves, in one way.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ended {
    /// How many.
    pub times: u64,
    /// The last lines of the log of all processes of that name, when the first of them ended so.
    pub last_words: Vec<String>,
}

/// By name and status.
pub(crate) type Ends = BTreeMap<String, Ended>;

/// Counts one. `when` follows the name: it is empty, or says under which circumstances.
pub(crate) fn note(setup: &Setup<'_>, ends: &mut Ends, name: &str, when: &str, status: ExitStatus) {
    let first = || Ended { times: 0, last_words: last_words(setup, name) };
    ends.entry(format!("{name}{when}: {status}")).or_insert_with(first).times += 1;
}

/// Where all processes of a name log. It goes with the stack.
pub(crate) fn log_of(setup: &Setup<'_>, name: &str) -> PathBuf {
    // One of a pipeline: several may share the stack.
    setup.env.logs().join(format!("{}-{name}.log", setup.endpoints.clickhouse.database))
}

fn last_words(setup: &Setup<'_>, name: &str) -> Vec<String> {
    let log = std::fs::read(log_of(setup, name)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(LAST_WORDS)).map(|line| (*line).to_owned()).collect()
}
