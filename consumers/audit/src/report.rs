//! What an audit found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A record of a topic is no row, although later ones of its partition are.
    Lost,
    /// An offset is more than one row.
    Doubled,
    /// A row is not what its topic holds at that offset.
    Different,
    /// Events of one source do not stand in the order of their sequence, in one session and one partition.
    Reordered,
    /// An action that the evaluator has passed has not exactly one verdict or reject, or a verdict that says wrongly that it
    /// was sent before.
    Unjudged,
    /// A violation that the alerter has passed has no alert.
    AlertMissing,
    /// A violation has more than one alert, or an alert has no violation.
    AlertDoubled,
    /// A source wrote a later sequence, or a total, but not this one.
    SequenceGap,
    /// What the evaluator has counted in a session is not what its events are: a repeated one was counted, or one was not.
    Miscounted,
    /// A record does not stand in the partition of its session's key.
    Misplaced,
    /// A source used a sequence for several events.
    SequenceReused,
    /// A source used a sequence below 0.
    NegativeSequence,
    /// A source closed with a total that is negative, that is not above each of its events, or with several.
    WrongTotal,
    /// Offsets of the topic of actions at which no record stands: transactions took them, or compaction removed the records.
    Transactional,
}

impl FindingKind {
    /// Every kind, in the order in which reports have them.
    pub const ALL: [Self; 14] = [
        Self::Lost,
        Self::Doubled,
        Self::Different,
        Self::Reordered,
        Self::Unjudged,
        Self::AlertMissing,
        Self::AlertDoubled,
        Self::SequenceGap,
        Self::Miscounted,
        Self::Misplaced,
        Self::SequenceReused,
        Self::NegativeSequence,
        Self::WrongTotal,
        Self::Transactional,
    ];

    /// The kind in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Different => "different",
            Self::Reordered => "reordered",
            Self::Unjudged => "unjudged",
            Self::AlertMissing => "alert missing",
            Self::AlertDoubled => "alert doubled",
            Self::SequenceGap => "sequence gap",
            Self::Miscounted => "miscounted",
            Self::Misplaced => "misplaced",
            Self::SequenceReused => "sequence reused",
            Self::NegativeSequence => "negative sequence",
            Self::WrongTotal => "wrong total",
            Self::Transactional => "transactional",
        }
    }

    /// True if a producer did it: the log holds what was written, and the producer must be mended.
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
            | Self::Miscounted => false,
        }
    }

    /// Likely causes of such a finding, and what to do about it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Lost => "rows were deleted from outside, or the sink skipped records: docs/errors/hole.md",
            Self::Doubled => {
                "two sinks wrote to the table past its fence, or rows were inserted from outside"
            }
            Self::Different => {
                "the topic was created anew, or rows were changed from outside: docs/errors/other-cluster.md"
            }
            Self::Reordered => {
                "a producer that is not idempotent, or that wrote one source from two processes; each event was judged"
            }
            Self::Unjudged => {
                "verdicts were deleted, the evaluator's offsets were moved by hand, or an earlier version of it passed them"
            }
            Self::AlertMissing => "alerts were deleted, or the alerter's offsets were moved by hand",
            Self::AlertDoubled => "the alerter's changelog was deleted, or its offsets were moved by hand",
            Self::Miscounted => "the evaluator's changelog was changed, or its offsets were moved by hand",
            Self::SequenceGap => "the source lost events before they reached Kafka, or died before it closed",
            Self::Misplaced => {
                "a producer with another partitioner, or without the key tenant/session: facts of a session are known in one \
                 partition only; set its partitioner to murmur2 (librdkafka: murmur2_random) and its key"
            }
            Self::SequenceReused => {
                "two processes write as one source, or a source began anew under its old id: give each its own; each event was judged"
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

/// Consecutive numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Numbers of: a source, or a partition of a topic.
    pub of: String,
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.first)?;
        if self.first == self.last { Ok(()) } else { write!(f, " to {}", self.last) }
    }
}

/// Intervals that a finding lists; the others are counted.
const MAX_INTERVALS: usize = 1_000;

/// All findings of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// How often; of gaps, how many numbers are missing, and of transactions, how many offsets they took.
    pub count: u64,
    /// The first place: topic/partition@offset, or source and sequence.
    pub first: String,
    /// How often in each partition of the topic of actions, where the kind has one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_partition: BTreeMap<i32, u64>,
    /// The numbers that are missing, or the offsets that transactions took: the first thousand intervals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intervals: Vec<Interval>,
    /// How many intervals more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_intervals: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the topic holds of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSummary {
    /// Sequence after the highest; 0: nothing.
    pub end: i64,
    /// How many below are not there.
    pub gaps: u64,
    /// What it closed with.
    pub total: Option<i64>,
}

/// What an audit looked at, and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records of the topics that were read.
    pub records: u64,
    /// Rows of the tables that were compared.
    pub rows: u64,
    /// Offsets of the topic of actions that rows count as holding no record: rows and these together are the offsets.
    pub skipped: u64,
    /// Offsets of the topic of actions behind an open transaction: the audit has not looked at them, and no stage reads them.
    pub held_back: u64,
    /// Records that no row can be expected of yet: the sink is behind them.
    pub pending: u64,
    /// Judged actions and violations that no answer can be expected of yet: evaluator or alerter is behind them.
    pub unanswered: u64,
    /// Judged actions among the records.
    pub judged: u64,
    /// Of those, sent again: their verdicts say `duplicate`.
    pub sent_again: u64,
    /// Sessions whose counters in the evaluator's changelog were compared with their events.
    pub sessions: u64,
    /// Sources seen, and how many of them have closed.
    pub sources: u64,
    /// See [`Self::sources`].
    pub closed_sources: u64,
    /// What the topic holds of each source, by tenant and source.
    #[serde(skip)]
    pub by_source: BTreeMap<(String, String), SourceSummary>,
    /// What is wrong, in the order of [`FindingKind::ALL`]; empty: nothing is.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Counts one finding; the first place of a kind is kept.
    pub(crate) fn add(&mut self, kind: FindingKind, place: impl FnOnce() -> String) {
        self.add_many(kind, 1, place);
    }

    /// Counts findings in a partition of the topic of actions.
    pub(crate) fn add_in(
        &mut self,
        kind: FindingKind,
        partition: i32,
        count: u64,
        place: impl FnOnce() -> String,
    ) {
        if let Some(finding) = self.add_many(kind, count, place) {
            let here = finding.by_partition.entry(partition).or_default();
            *here = here.saturating_add(count);
        }
    }

    /// Counts numbers that are missing, or passed over.
    pub(crate) fn add_interval(&mut self, kind: FindingKind, count: u64, interval: Interval) {
        if let Some(finding) = self.add_many(kind, count, || interval.to_string()) {
            if finding.intervals.len() < MAX_INTERVALS {
                finding.intervals.push(interval);
            } else {
                finding.more_intervals += 1;
            }
        }
    }

    /// `None` does not happen.
    fn add_many(
        &mut self,
        kind: FindingKind,
        count: u64,
        place: impl FnOnce() -> String,
    ) -> Option<&mut Finding> {
        let at = match self.findings.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(at) => at,
            Err(at) => {
                let finding = Finding {
                    kind,
                    count: 0,
                    first: place(),
                    by_partition: BTreeMap::new(),
                    intervals: Vec::new(),
                    more_intervals: 0,
                };
                self.findings.insert(at, finding);
                at
            }
        };
        let finding = self.findings.get_mut(at)?;
        finding.count = finding.count.saturating_add(count);
        Some(finding)
    }

    /// What the topic holds of a source of a tenant.
    pub fn source(&self, tenant: &str, id: &str) -> Option<SourceSummary> {
        self.by_source.get(&(tenant.to_owned(), id.to_owned())).copied()
    }

    /// The finding of a kind, if there is one.
    pub fn finding(&self, kind: FindingKind) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.kind == kind)
    }

    /// How often something of a kind was found.
    pub fn count(&self, kind: FindingKind) -> u64 {
        self.finding(kind).map_or(0, |finding| finding.count)
    }
}
