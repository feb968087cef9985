//! What an audit found.

use std::collections::BTreeMap;

use serde::Serialize;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A record of a topic is no row, although later ones of its partition are.
    Lost,
    /// An offset is more than one row.
    Doubled,
    /// A row is not what its topic holds at that offset.
    Different,
    /// Events of one source in one session do not stand in the order of their sequence.
    Reordered,
    /// A judged action that the evaluator has passed has not exactly one verdict or reject.
    Unjudged,
    /// A violation that the alerter has passed has no alert.
    AlertMissing,
    /// A violation has more than one alert, or an alert has no violation.
    AlertDoubled,
    /// A source wrote a later sequence, or a total, but not this one.
    SequenceGap,
    /// What the evaluator has counted in a session is not what its events are: a repeated one was counted, or one was not.
    Miscounted,
}

impl Kind {
    /// Every kind, in the order in which reports have them.
    pub const ALL: [Self; 9] = [
        Self::Lost,
        Self::Doubled,
        Self::Different,
        Self::Reordered,
        Self::Unjudged,
        Self::AlertMissing,
        Self::AlertDoubled,
        Self::SequenceGap,
        Self::Miscounted,
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
        }
    }

    /// What such a finding can mean, for who has to act on it.
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
                "a producer that is not idempotent, or that wrote one source from two processes"
            }
            Self::Unjudged => "verdicts were deleted, or the evaluator's offsets were moved by hand",
            Self::AlertMissing => "alerts were deleted, or the alerter's offsets were moved by hand",
            Self::AlertDoubled => "the alerter's changelog was deleted, or its offsets were moved by hand",
            Self::Miscounted => "the evaluator's changelog was changed, or its offsets were moved by hand",
            Self::SequenceGap => "the source lost events before they reached Kafka, or died before it closed",
        }
    }
}

/// All findings of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// How often.
    pub count: u64,
    /// The first place: topic/partition@offset, or source and sequence.
    pub first: String,
}

/// What the topic holds of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSeen {
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
    /// What the topic holds of each source.
    #[serde(skip)]
    pub by_source: BTreeMap<String, SourceSeen>,
    /// What is wrong, in the order of [`Kind::ALL`]; empty: nothing is.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Counts one finding; the first place of a kind is kept.
    pub(crate) fn add(&mut self, kind: Kind, place: impl FnOnce() -> String) {
        match self.findings.iter_mut().find(|finding| finding.kind == kind) {
            Some(finding) => finding.count += 1,
            None => {
                self.findings.push(Finding { kind, count: 1, first: place() });
                self.findings.sort_by_key(|finding| finding.kind);
            }
        }
    }

    /// How often something of a kind was found.
    pub fn count(&self, kind: Kind) -> u64 {
        self.findings.iter().find(|finding| finding.kind == kind).map_or(0, |finding| finding.count)
    }
}
