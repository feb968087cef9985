//! Report of an audit.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A record has no row, although later records of its partition have.
    Lost,
    /// An offset has more than one row.
    Doubled,
    /// A row differs from the record at its offset.
    Different,
    /// Events of one source in one session and partition are not in the order of their sequence numbers.
    Reordered,
    /// A processed action does not have exactly one verdict or reject, or has a wrong duplicate verdict.
    Unjudged,
    /// A processed violation has no alert.
    AlertMissing,
    /// A violation has more than one alert, or an alert has no violation.
    AlertDoubled,
    /// A verdict names other positions of tables than the evaluation basis of its action.
    OtherBasis,
    /// A sequence number is missing: its source wrote a later one, or a total that includes it.
    SequenceGap,
    /// The evaluator's counters of a session differ from its events: it counted a repeat, or missed an event.
    Miscounted,
    /// A record is not in the partition of its session's key.
    Misplaced,
    /// A source used a sequence number for several events.
    SequenceReused,
    /// A source used a negative sequence number.
    NegativeSequence,
    /// A source closed with several totals, or with a total that is negative or not above each sequence number.
    WrongTotal,
    /// Offsets of the topic of actions without a record: transactions took them, or compaction removed the records.
    Transactional,
}

impl FindingKind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 15] = [
        Self::Lost,
        Self::Doubled,
        Self::Different,
        Self::Reordered,
        Self::Unjudged,
        Self::AlertMissing,
        Self::AlertDoubled,
        Self::OtherBasis,
        Self::SequenceGap,
        Self::Miscounted,
        Self::Misplaced,
        Self::SequenceReused,
        Self::NegativeSequence,
        Self::WrongTotal,
        Self::Transactional,
    ];

    /// Returns the name of the kind for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Different => "different",
            Self::Reordered => "reordered",
            Self::Unjudged => "unjudged",
            Self::AlertMissing => "alert missing",
            Self::AlertDoubled => "alert doubled",
            Self::OtherBasis => "other basis",
            Self::SequenceGap => "sequence gap",
            Self::Miscounted => "miscounted",
            Self::Misplaced => "misplaced",
            Self::SequenceReused => "sequence reused",
            Self::NegativeSequence => "negative sequence",
            Self::WrongTotal => "wrong total",
            Self::Transactional => "transactional",
        }
    }

    /// Returns true if a producer caused the finding. The log has the records as they were written, and the producer must be fixed.
    pub const fn is_caused_by_producer(self) -> bool {
        match self {
            Self::Reordered
            | Self::SequenceGap
            | Self::Misplaced
            | Self::SequenceReused
            | Self::NegativeSequence
            | Self::WrongTotal
            | Self::Transactional => true,
            Self::Lost
            | Self::Doubled
            | Self::Different
            | Self::Unjudged
            | Self::AlertMissing
            | Self::AlertDoubled
            | Self::OtherBasis
            | Self::Miscounted => false,
        }
    }

    /// Returns likely causes of such a finding, and the action to take.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Lost => "rows were deleted from outside, or the sink skipped records: docs/errors/hole.md",
            Self::Doubled => {
                "two sinks wrote to the table past its fence, or rows were inserted from outside"
            }
            Self::Different => {
                "the topic was recreated, or rows were changed from outside: docs/errors/other-cluster.md"
            }
            Self::Reordered => {
                "a producer that is not idempotent, or that wrote one source from two processes; each event was judged"
            }
            Self::Unjudged => {
                "verdicts were deleted, the evaluator's offsets were moved by hand, or an earlier version of it passed them"
            }
            Self::AlertMissing => "alerts were deleted, or the alerter's offsets were moved by hand",
            Self::AlertDoubled => "the alerter's changelog was deleted, or its offsets were moved by hand",
            Self::OtherBasis => {
                "evaluation bases were deleted, or an earlier version of the evaluator judged: such a verdict cannot be recomputed"
            }
            Self::Miscounted => "the evaluator's changelog was changed, or its offsets were moved by hand",
            Self::SequenceGap => "the source lost events before they reached Kafka, or died before it closed",
            Self::Misplaced => {
                "a producer with another partitioner, or without the key tenant/session: facts of a session are known in one \
                 partition only; set its partitioner to murmur2 (librdkafka: murmur2_random) and its key"
            }
            Self::SequenceReused => {
                "two processes write as one source, or a source restarted under its old id: give each its own id; each event was judged"
            }
            Self::NegativeSequence => {
                "a producer numbers its events itself and wrongly: sources count from 0"
            }
            Self::WrongTotal => {
                "the source closed with a total that its events contradict: its producer miscounts, or lost its spool's end"
            }
            Self::Transactional => {
                "either a producer writes transactions: the offsets are those of markers and of aborted records, and no record is lost; \
                 make it non-transactional (no transactional.id), since readers wait for its transactions. Or the topic's \
                 cleanup.policy is or was compact, which removes records: check it (`agentgov topology plan`) and set it to delete"
            }
        }
    }
}

/// Interval of consecutive numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Source, or topic and partition, of the numbers.
    pub of: String,
    /// First number.
    pub first: i64,
    /// Last number.
    pub last: i64,
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.first)?;
        if self.first == self.last { Ok(()) } else { write!(f, " to {}", self.last) }
    }
}

/// Maximum number of intervals that a finding lists. Further ones are only counted.
const MAX_INTERVALS: usize = 1_000;
/// Maximum number of positions that a finding lists. Further ones are only counted.
pub const MAX_PLACES: usize = 1_000;

/// All findings of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Kind of the findings.
    pub kind: FindingKind,
    /// Number of findings. For gaps the number of missing sequence numbers, for transactions the number of offsets.
    pub count: u64,
    /// First position: topic/partition@offset, or source and sequence number.
    pub first: String,
    /// Positions of the findings, with session or source: the first thousand. Empty for kinds with intervals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
    /// Number of findings that are not in `places`.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_places: u64,
    /// Number of findings by partition of the topic of actions, if the kind has partitions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_partition: BTreeMap<i32, u64>,
    /// Missing sequence numbers, or offsets that transactions took: the first thousand intervals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
    /// Number of further intervals.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_intervals: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Summary of a source's records in the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSummary {
    /// Sequence number after the highest; 0 without events.
    pub end: i64,
    /// Number of missing sequence numbers below `end`.
    pub gaps: u64,
    /// Total with which the source closed.
    pub total: Option<i64>,
}

/// Report of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Number of records in the topics.
    pub records: u64,
    /// Number of rows in the tables.
    pub rows: u64,
    /// Number of skipped offsets that the rows of actions count. Rows and skipped offsets together are all offsets.
    pub skipped: u64,
    /// Number of offsets of the topic of actions that an open transaction holds back from the audit and from the stages.
    pub held_back: u64,
    /// Number of records that the sink has not reached.
    pub pending: u64,
    /// Number of actions and violations that the evaluator or the alerter has not reached.
    pub unanswered: u64,
    /// Number of judged actions.
    pub judged: u64,
    /// Number of judged actions with a duplicate verdict.
    pub sent_again: u64,
    /// Number of verdicts before the first evaluation basis of their partition. They cannot be recomputed.
    pub without_basis: u64,
    /// Number of sessions whose counters were compared with their events.
    pub sessions: u64,
    /// Number of sources.
    pub sources: u64,
    /// Number of sources that have closed.
    pub closed_sources: u64,
    /// Summary of each source, by tenant and source id.
    #[serde(skip)]
    pub by_source: BTreeMap<(String, String), SourceSummary>,
    /// Findings, in the order of [`FindingKind::ALL`].
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding.
    pub(crate) fn add(&mut self, kind: FindingKind, place: impl Fn() -> String) {
        self.add_one(kind, place);
    }

    /// Adds a finding in a partition of the topic of actions.
    pub(crate) fn add_in(&mut self, kind: FindingKind, partition: i32, place: impl Fn() -> String) {
        if let Some(finding) = self.add_one(kind, place) {
            *finding.by_partition.entry(partition).or_default() += 1;
        }
    }

    /// Adds `count` findings of a kind that the report has already, without their positions.
    pub(crate) fn add_more_in(&mut self, kind: FindingKind, partition: i32, count: u64) {
        if let Some(finding) = self.findings.iter_mut().find(|finding| finding.kind == kind) {
            finding.count = finding.count.saturating_add(count);
            finding.more_places = finding.more_places.saturating_add(count);
            let here = finding.by_partition.entry(partition).or_default();
            *here = here.saturating_add(count);
        }
    }

    /// Adds an interval of missing or skipped numbers.
    pub(crate) fn add_interval(&mut self, kind: FindingKind, count: u64, interval: Interval) {
        if let Some(finding) = self.entry(kind, || interval.to_string()) {
            finding.count = finding.count.saturating_add(count);
            if finding.intervals.len() < MAX_INTERVALS {
                finding.intervals.push(interval);
            } else {
                finding.more_intervals += 1;
            }
        }
    }

    /// Adds a finding and returns the entry of its kind. Never returns `None`.
    fn add_one(&mut self, kind: FindingKind, place: impl Fn() -> String) -> Option<&mut Finding> {
        let finding = self.entry(kind, &place)?;
        finding.count = finding.count.saturating_add(1);
        if finding.places.len() < MAX_PLACES {
            finding.places.push(place());
        } else {
            finding.more_places += 1;
        }
        Some(finding)
    }

    /// Returns the entry of a kind. Never returns `None`.
    fn entry(&mut self, kind: FindingKind, first: impl FnOnce() -> String) -> Option<&mut Finding> {
        let at = match self.findings.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(at) => at,
            Err(at) => {
                let finding = Finding {
                    kind,
                    count: 0,
                    first: first(),
                    places: Vec::new(),
                    more_places: 0,
                    by_partition: BTreeMap::new(),
                    intervals: Vec::new(),
                    more_intervals: 0,
                };
                self.findings.insert(at, finding);
                at
            }
        };
        self.findings.get_mut(at)
    }

    /// Returns the summary of a source.
    pub fn source(&self, tenant: &str, id: &str) -> Option<SourceSummary> {
        self.by_source.get(&(tenant.to_owned(), id.to_owned())).copied()
    }

    /// Returns the finding of a kind, if there is one.
    pub fn finding(&self, kind: FindingKind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// Returns the number of findings of a kind.
    pub fn count(&self, kind: FindingKind) -> u64 {
        self.finding(kind).map_or(0, |finding| finding.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_lists_its_first_places_and_counts_the_others() {
        let mut report = Report::default();
        let more = 7;
        for n in 0..MAX_PLACES + more {
            report.add_in(FindingKind::Misplaced, 3, || format!("actions/3@{n}"));
        }
        report.add_more_in(FindingKind::Misplaced, 4, 5);
        let finding = report.finding(FindingKind::Misplaced).unwrap();
        assert_eq!(finding.places.len(), MAX_PLACES);
        assert_eq!((&*finding.first, &*finding.places[1]), ("actions/3@0", "actions/3@1"));
        assert_eq!(finding.more_places, more as u64 + 5);
        assert_eq!(finding.count, finding.places.len() as u64 + finding.more_places);
        assert_eq!(finding.by_partition, [(3, (MAX_PLACES + more) as u64), (4, 5)].into());
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(json["places"].as_array().unwrap().len(), MAX_PLACES);
    }
}
