//! Result of a run.

use std::collections::BTreeMap;

use agentgov_audit::{AuditError, Finding, FindingKind, Report};
use serde::Serialize;

use crate::decisions::DecisionReport;
use crate::exits::UnexpectedExits;
use crate::foreign_client::ForeignClientReport;
use crate::producers::ProducerReports;

/// Failure of the stack or the harness, which leaves a run without a result.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// A process could not be started or signalled.
    #[error("fault harness: {stage}: {source}")]
    Process {
        /// Name of the stage.
        stage: String,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The proxy could not be started.
    #[error("fault harness: proxy: {source}")]
    Proxy {
        /// Error of the system.
        source: std::io::Error,
    },
    /// The full store could not be reset.
    #[error("fault harness: cannot reset the full store: {0}")]
    Full(String),
    /// The foreign client could not start, or its rows could not be read.
    #[error("fault harness: foreign client: {0}")]
    ForeignClient(String),
    /// The decision points could not be prepared, or their decisions could not be read.
    #[error("fault harness: decision points: {0}")]
    DecisionPoints(String),
    /// The HTTP client could not be created.
    #[error("fault harness: {0}")]
    Http(#[from] reqwest::Error),
    /// A part of the stack did not restart.
    #[error(transparent)]
    Stack(#[from] agentgov_testenv::Error),
    /// The audit failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Faults and findings of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Seed of the schedule.
    pub seed: u64,
    /// Number of SIGKILLs, of stages, producers and parts.
    pub kills: u64,
    /// Executed faults by kind: `kill evaluator`, `pause log-sink`, `kill broker`, `scale alerter`.
    pub done: BTreeMap<String, u64>,
    /// Faults without effect, since their process had just ended.
    pub missed: u64,
    /// Unexpected exits by name and status. Their processes were restarted.
    pub unexpected_exits: BTreeMap<String, UnexpectedExits>,
    /// Processes that ended or stopped at their failpoints: `killed at …`, `stopped at …`.
    pub at_failpoints: BTreeMap<String, u64>,
    /// Events that `record` acknowledged.
    pub events: u64,
    /// Acknowledged events that are not in the topic.
    pub missing: u64,
    /// Sources that acknowledged an event.
    pub sources: u64,
    /// Sources whose closing event is in the topic, with a total that covers all acknowledged events.
    pub closed: u64,
    /// Errors of producers.
    pub failed: Vec<String>,
    /// Last acknowledged sequence number by source.
    #[serde(skip)]
    pub acknowledged: BTreeMap<String, i64>,
    /// Milliseconds from the first fault to the last.
    pub faults_ms: u128,
    /// Records without a row when the faults were over.
    pub behind: u64,
    /// Milliseconds from then until the audit found no pending work; `None` if the deadline passed.
    pub settled_ms: Option<u128>,
    /// Report of the foreign client, if one ran.
    pub foreign_client: Option<ForeignClientReport>,
    /// Decisions of the decision points, if they ran.
    pub decisions: Option<DecisionReport>,
    /// Last report of the audit.
    pub audit: Report,
}

impl Outcome {
    /// Returns the problems beyond the audit's findings, one line each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.failed.clone();
        if self.settled_ms.is_none() {
            problems.push(format!(
                "expected all work done before the deadline, found {} records without a row and {} actions and findings without a response",
                self.audit.pending, self.audit.unanswered
            ));
        }
        if self.missing > 0 {
            problems.push(format!(
                "expected every acknowledged event in the log, found {} missing",
                self.missing
            ));
        }
        if self.audit.without_basis > 0 {
            problems.push(format!(
                "expected an evaluation basis for every verdict, found {} verdicts without one",
                self.audit.without_basis
            ));
        }
        problems.extend(self.foreign_client.iter().flat_map(ForeignClientReport::problems));
        problems.extend(self.decisions.iter().flat_map(DecisionReport::problems));
        // A foreign client closes its sources arbitrarily.
        let all_closed = self.foreign_client.is_some() || self.audit.closed_sources == self.audit.sources;
        if self.closed != self.sources || !all_closed {
            problems.push(format!(
                "expected every source closed: {} acknowledged events and {} of them closed; the log contains {} sources, {} of them closed",
                self.sources, self.closed, self.audit.sources, self.audit.closed_sources
            ));
        }
        problems
    }

    /// Returns true if there is no problem.
    pub fn is_clean(&self) -> bool {
        self.audit.findings.iter().all(|finding| self.is_caused_by_foreign_client(finding))
            && self.problems().is_empty()
    }

    /// Returns true for findings that a foreign client causes by its claims. Its records are compared with the rows one by
    /// one, as are the sources of the load.
    fn is_caused_by_foreign_client(&self, finding: &Finding) -> bool {
        self.foreign_client.is_some()
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

    /// Stores the producers' reports.
    pub(crate) fn store_reports(&mut self, reports: ProducerReports) {
        self.sources = reports.acknowledged.len() as u64;
        self.events = reports.acknowledged.values().map(|last| last.unsigned_abs() + 1).sum();
        self.failed = reports.failed;
        self.acknowledged = reports.acknowledged;
    }

    /// Stores the audit's report and compares it with the tenant's acknowledged events.
    pub(crate) fn store_audit(&mut self, tenant: &str, report: Report) {
        (self.missing, self.closed) = (0, 0);
        for (source, last) in &self.acknowledged {
            let seen = report.source(tenant, source).unwrap_or_default();
            let after = u64::try_from(last.saturating_add(1).saturating_sub(seen.end)).unwrap_or_default();
            self.missing = self.missing.saturating_add(after).saturating_add(seen.gaps);
            // The closing event follows the last acknowledged one.
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
    fn missing_acknowledged_events_are_counted() {
        let seen = |end, gaps, total| SourceSummary { end, gaps, total };
        for (what, seen, missing, closed) in [
            ("whole", Some(seen(11, 0, Some(10))), 0, 1),
            ("more than was reported", Some(seen(14, 0, Some(13))), 0, 1),
            ("not closed", Some(seen(10, 0, None)), 0, 0),
            ("the last two lost, but closed", Some(seen(9, 0, Some(8))), 1, 0),
            ("one lost in the middle", Some(seen(11, 1, Some(10))), 1, 1),
            ("not in the log", None, 10, 0),
            ("closed too early", Some(seen(12, 0, Some(8))), 0, 0),
        ] {
            let acknowledged = BTreeMap::from([("s".to_owned(), 9)]);
            let mut outcome = Outcome { settled_ms: Some(0), ..Outcome::default() };
            outcome.store_reports(ProducerReports { acknowledged, failed: Vec::new() });
            let by_source = seen.map(|seen| (("t".to_owned(), "s".to_owned()), seen)).into_iter().collect();
            outcome.store_audit("t", Report { by_source, ..Report::default() });
            assert_eq!((outcome.events, outcome.missing, outcome.closed), (10, missing, closed), "{what}");
            assert_eq!(outcome.is_clean(), missing == 0 && closed == 1, "{what}");
        }
    }
}
