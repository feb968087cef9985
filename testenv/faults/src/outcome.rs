//! What came of a run.

use std::collections::BTreeMap;

use agentgov_audit::{AuditError, Finding, FindingKind, Report};
use serde::Serialize;

use crate::ended::Ended;
use crate::producers::Heard;
use crate::strangers::Strangers;

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
    /// The stranger's producer could not begin, or what it did could not be looked up.
    #[error("fault harness: the stranger: {0}")]
    Stranger(String),
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
    /// How processes ended without being killed, by name and status. They were started again.
    pub ended: BTreeMap<String, Ended>,
    /// Processes that ended or stopped where they had been sent to: `killed at …`, `stopped at …`.
    pub at_edges: BTreeMap<String, u64>,
    /// Events that `record` acknowledged.
    pub events: u64,
    /// Of those, how many the topic does not hold.
    pub missing: u64,
    /// Sources that acknowledged an event.
    pub sources: u64,
    /// Of those, how many have said in the log that they ended, with a total that leaves no acknowledged event out.
    pub closed: u64,
    /// What producers could not do: what they said.
    pub failed: Vec<String>,
    /// Last sequence that was acknowledged, by source.
    #[serde(skip)]
    pub acknowledged: BTreeMap<String, i64>,
    /// From the first fault to the last, in milliseconds.
    pub faults_ms: u128,
    /// Records that had no row yet when the faults were over: how far behind the sink was.
    pub behind: u64,
    /// From there until the audit had nothing left to wait for, in milliseconds. `None`: that did not come in time.
    pub settled_ms: Option<u128>,
    /// What a stranger's producer did beside the load, if there was one.
    pub strangers: Option<Strangers>,
    /// What the audit said at last.
    pub audit: Report,
}

impl Outcome {
    /// What is wrong beyond the audit's findings, a line each.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.failed.clone();
        if self.settled_ms.is_none() {
            complaints.push(format!(
                "not settled in time: {} records without a row, {} actions and findings without an answer",
                self.audit.pending, self.audit.unanswered
            ));
        }
        if self.missing > 0 {
            complaints.push(format!("{} events were acknowledged and are not in the log", self.missing));
        }
        complaints.extend(self.strangers.iter().flat_map(Strangers::complaints));
        // A stranger closes as it likes.
        let all_closed = self.strangers.is_some() || self.audit.closed_sources == self.audit.sources;
        if self.closed != self.sources || !all_closed {
            complaints.push(format!(
                "{} sources acknowledged events, {} of them closed; the log knows {}, and {} closed",
                self.sources, self.closed, self.audit.sources, self.audit.closed_sources
            ));
        }
        complaints
    }

    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.audit.findings.iter().all(|finding| self.is_of_strangers(finding))
            && self.complaints().is_empty()
    }

    /// True for what a stranger brings about by what it claims. Its records are held against the rows one by one, as the load's sources are.
    fn is_of_strangers(&self, finding: &Finding) -> bool {
        self.strangers.is_some()
            && matches!(
                finding.kind,
                FindingKind::SequenceGap
                    | FindingKind::Misplaced
                    | FindingKind::SequenceReused
                    | FindingKind::NegativeSequence
                    | FindingKind::WrongTotal
                    | FindingKind::Transactional
            )
    }

    /// Notes what the producers said.
    pub(crate) fn heard(&mut self, heard: Heard) {
        self.sources = heard.acknowledged.len() as u64;
        self.events = heard.acknowledged.values().map(|last| last.unsigned_abs() + 1).sum();
        self.failed = heard.failed;
        self.acknowledged = heard.acknowledged;
    }

    /// Notes what the audit found, and holds what the tenant's sources acknowledged against it.
    pub(crate) fn audited(&mut self, tenant: &str, report: Report) {
        (self.missing, self.closed) = (0, 0);
        for (source, last) in &self.acknowledged {
            let seen = report.source(tenant, source).unwrap_or_default();
            let after = u64::try_from(last.saturating_add(1).saturating_sub(seen.end)).unwrap_or_default();
            self.missing = self.missing.saturating_add(after).saturating_add(seen.gaps);
            // The closing event has the number after the last one.
            self.closed += u64::from(
                seen.total.is_some_and(|total| total > *last && total.checked_add(1) == Some(seen.end)),
            );
        }
        self.audit = report;
    }
}

#[cfg(test)]
mod tests {
    use agentgov_audit::SourceSummary;

    use super::*;

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_counted() {
        let seen = |end, gaps, total| SourceSummary { end, gaps, total };
        for (what, seen, missing, closed) in [
            ("whole", Some(seen(11, 0, Some(10))), 0, 1),
            ("more than was heard of", Some(seen(14, 0, Some(13))), 0, 1),
            ("not closed", Some(seen(10, 0, None)), 0, 0),
            ("the last two lost, and closed all the same", Some(seen(9, 0, Some(8))), 1, 0),
            ("one lost in the middle", Some(seen(11, 1, Some(10))), 1, 1),
            ("never heard of", None, 10, 0),
            ("closed too early", Some(seen(12, 0, Some(8))), 0, 0),
        ] {
            let acknowledged = BTreeMap::from([("s".to_owned(), 9)]);
            let mut outcome = Outcome { settled_ms: Some(0), ..Outcome::default() };
            outcome.heard(Heard { acknowledged, failed: Vec::new() });
            let by_source = seen.map(|seen| (("t".to_owned(), "s".to_owned()), seen)).into_iter().collect();
            outcome.audited("t", Report { by_source, ..Report::default() });
            assert_eq!((outcome.events, outcome.missing, outcome.closed), (10, missing, closed), "{what}");
            assert_eq!(outcome.is_clean(), missing == 0 && closed == 1, "{what}");
        }
    }
}
