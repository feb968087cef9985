//! What came of a run.

use std::collections::BTreeMap;

use agentgov_audit::{AuditError, Report};
use agentgov_sdk::FlushError;
use serde::Serialize;

/// Why a run came to nothing: the stack, not the pipeline, failed.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// A stage's process could not be started or signalled.
    #[error("fault harness: {stage}: {source}")]
    Process {
        /// The stage.
        stage: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The proxy could not be started.
    #[error("fault harness: proxy: {source}")]
    Proxy {
        /// What the system said.
        source: std::io::Error,
    },
    /// The store was to have room again, and said something else for too long.
    #[error("fault harness: giving the store room again: {0}")]
    Full(String),
    /// There is no HTTP client.
    #[error("fault harness: {0}")]
    Http(#[from] reqwest::Error),
    /// A part of the stack did not come back after its kill.
    #[error(transparent)]
    Stack(#[from] agentgov_testenv::Error),
    /// The audit could not be made.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// What was done, and what was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// What the schedule was made from.
    pub seed: u64,
    /// SIGKILLs, of stages and parts.
    pub kills: u64,
    /// What was done, by kind: `kill evaluator`, `pause log-sink`, `kill broker`, `scale alerter`.
    pub done: BTreeMap<String, u64>,
    /// Steps whose process had just ended by itself: nothing was done.
    pub missed: u64,
    /// How stages ended without being killed, by stage and status, and how often. They were started again.
    pub ended: BTreeMap<String, u64>,
    /// Processes that ended or stopped where they had been sent to: `killed at …`, `stopped at …`.
    pub at_edges: BTreeMap<String, u64>,
    /// Events that the sources wrote and that Kafka acknowledged, closing events included.
    pub events: u64,
    /// Sources that closed: everything of theirs is durable.
    pub sources: u64,
    /// Sources that could not: what they said.
    pub stopped_sources: Vec<String>,
    /// From the first fault to the last, in milliseconds.
    pub faults_ms: u128,
    /// Records that had no row yet when the faults were over: how far behind the sink was.
    pub behind: u64,
    /// From there until the audit had nothing left to wait for, in milliseconds. `None`: that did not come in time.
    pub settled_ms: Option<u128>,
    /// What the audit said at last.
    pub audit: Report,
}

impl Outcome {
    /// What is wrong beyond the audit's findings, a line each.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.stopped_sources.clone();
        if self.settled_ms.is_none() {
            complaints.push(format!(
                "not settled in time: {} records without a row, {} actions and findings without an answer",
                self.audit.pending, self.audit.unanswered
            ));
        }
        if self.audit.closed_sources != self.sources {
            complaints.push(format!(
                "{} sources were closed, the log knows {}",
                self.sources, self.audit.closed_sources
            ));
        }
        complaints
    }

    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.audit.findings.is_empty() && self.complaints().is_empty()
    }

    /// Notes how a source ended.
    pub(crate) fn source(&mut self, ended: Result<i64, FlushError>) {
        match ended {
            Ok(total) => {
                self.sources += 1;
                self.events += u64::try_from(total).unwrap_or_default() + 1;
            }
            Err(error) => self.stopped_sources.push(error.to_string()),
        }
    }
}
