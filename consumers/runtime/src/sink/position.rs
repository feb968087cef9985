//! Resume position of a topic-partition, from its rows in the table and its offsets in the topic. A pure function.

use std::ops::Range;

use super::protocol::Tail;

/// Offsets that the topic holds: from `low` up to, not including, `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermarks {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// Resume position of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResumePoint {
    /// Offset after the table's last row. The next row counts skipped offsets from here.
    pub(super) next: i64,
    /// Offset at which fetching starts: `next`, or the log start offset if the offsets between are proven to be empty.
    pub(super) fetch: i64,
    /// End of the offsets that are proven to hold no record. A record before this end contradicts the proof: the topic was
    /// created again.
    pub(super) empty_to: i64,
}

impl ResumePoint {
    /// Creates a resume point without proven offsets.
    pub(super) const fn at(next: i64) -> Self {
        Self { next, fetch: next, empty_to: next }
    }
}

/// Decision about a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Resume at `resume`, after comparing the record at `compare` with that of the table, if the topic still has it.
    Continue { resume: ResumePoint, compare: Option<i64> },
    /// Retention deleted the offsets `from` to `to` (not included) before they were read. If the gap is accepted,
    /// resume at `to`.
    Overtaken { from: i64, to: i64, compare: Option<i64> },
    /// The topic ends before the offset that the table expects.
    Shorter { expected: i64 },
    /// The table should have `expected` rows between its first and its last offset, not counting skipped offsets.
    Hole { expected: Range<u64> },
}

/// Ranges recorded for a partition beside its rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecordedRanges<'r> {
    /// Accepted gaps.
    pub(super) gaps: &'r [Range<i64>],
    /// Ranges in which a fresh reader found no record.
    pub(super) empty: &'r [Range<i64>],
}

/// Returns the decision about a partition. `gapless`: every offset is a row, or is counted as skipped by the row after
/// it.
///
/// A proof of empty offsets applies only if it covers all offsets that retention deleted. Offsets that still exist are
/// read.
pub(super) fn resume_position(
    tail: Option<&Tail>,
    marks: Watermarks,
    RecordedRanges { gaps, empty }: RecordedRanges<'_>,
    gapless: bool,
) -> Position {
    let mut next = tail.map_or(0, |tail| tail.last + 1);
    if marks.high < next {
        return Position::Shorter { expected: next };
    }
    if let (Some(tail), true) = (tail, gapless) {
        let whole = tail.first..tail.last + 1;
        let most = whole.end.abs_diff(whole.start);
        let most = most.saturating_sub(tail.skipped);
        let least = most.saturating_sub(count_covered(gaps, &whole));
        if !(least..=most).contains(&tail.count) {
            return Position::Hole { expected: least..most + 1 };
        }
    }
    // An accepted gap that no row follows yet.
    next = gaps.iter().filter(|gap| gap.contains(&next)).map(|gap| gap.end).max().unwrap_or(next);
    let compare = tail.map(|tail| tail.last).filter(|last| *last >= marks.low);
    if marks.low <= next {
        return Position::Continue { resume: ResumePoint::at(next), compare };
    }
    let empty_to = empty.iter().filter(|empty| empty.contains(&next)).map(|empty| empty.end).max();
    match empty_to {
        Some(empty_to) if empty_to > marks.high => Position::Shorter { expected: empty_to },
        Some(empty_to) if empty_to >= marks.low => {
            Position::Continue { resume: ResumePoint { next, fetch: marks.low, empty_to }, compare }
        }
        _ => Position::Overtaken { from: next, to: marks.low, compare },
    }
}

/// Returns the number of offsets of `whole` within `gaps`, which may overlap.
fn count_covered(gaps: &[Range<i64>], whole: &Range<i64>) -> u64 {
    let mut gaps: Vec<_> = gaps.iter().map(|g| g.start.max(whole.start)..g.end.min(whole.end)).collect();
    gaps.sort_by_key(|gap| gap.start);
    let mut end = whole.start;
    let mut sum = 0;
    for gap in gaps {
        let start = gap.start.max(end);
        sum += gap.end.max(start).abs_diff(start);
        end = end.max(gap.end);
    }
    sum
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges that have one")]
mod tests {
    use agentgov_schemas::{Digest, Millis};
    use proptest::prelude::*;

    use super::super::protocol::Identity;
    use super::*;

    fn tail(first: i64, last: i64, count: u64) -> Option<Tail> {
        tail_with_skipped(first, last, count, 0)
    }

    fn tail_with_skipped(first: i64, last: i64, count: u64, skipped: u64) -> Option<Tail> {
        let identity = Identity { sha256: Digest::of(b""), logged_at: Millis(0) };
        Some(Tail { first, last, count, skipped, identity })
    }

    fn continue_at(next: i64, compare: Option<i64>) -> Position {
        Position::Continue { resume: ResumePoint::at(next), compare }
    }

    #[test]
    fn resume_position_follows_the_table_the_topic_and_the_recorded_ranges() {
        let marks = |low, high| Watermarks { low, high };
        let overtaken = |from, to, compare| Position::Overtaken { from, to, compare };
        for (what, tail, marks, gaps, gapless, expected) in [
            ("nothing anywhere", None, marks(0, 0), vec![], true, continue_at(0, None)),
            ("nothing read yet", None, marks(0, 9), vec![], true, continue_at(0, None)),
            ("retention before the first tail read", None, marks(3, 9), vec![], true, overtaken(0, 3, None)),
            ("that gap accepted, nothing written", None, marks(3, 9), vec![0..3], true, continue_at(3, None)),
            ("that gap has grown since", None, marks(5, 9), vec![0..3], true, overtaken(3, 5, None)),
            ("all read", tail(0, 8, 9), marks(0, 9), vec![], true, continue_at(9, Some(8))),
            ("last record gone", tail(0, 8, 9), marks(9, 12), vec![], true, continue_at(9, None)),
            ("overtaken", tail(0, 8, 9), marks(10, 12), vec![], true, overtaken(9, 10, None)),
            (
                "gap accepted, nothing written since",
                tail(0, 8, 9),
                marks(10, 12),
                vec![9..10],
                true,
                continue_at(10, None),
            ),
            (
                "gap accepted and passed",
                tail(0, 12, 12),
                marks(10, 13),
                vec![9..10],
                true,
                continue_at(13, Some(12)),
            ),
            ("topic re-created", tail(0, 8, 9), marks(0, 3), vec![], true, Position::Shorter { expected: 9 }),
            ("topic one short", tail(0, 8, 9), marks(0, 8), vec![], false, Position::Shorter { expected: 9 }),
            ("one row missing", tail(0, 8, 8), marks(0, 9), vec![], true, Position::Hole { expected: 9..10 }),
            (
                "one row doubled",
                tail(0, 8, 10),
                marks(0, 9),
                vec![],
                true,
                Position::Hole { expected: 9..10 },
            ),
            ("transactions leave gaps", tail(0, 8, 7), marks(0, 9), vec![], false, continue_at(9, Some(8))),
            ("old months dropped", tail(4, 8, 5), marks(0, 9), vec![], true, continue_at(9, Some(8))),
            (
                "a gap and a missing row",
                tail(0, 8, 6),
                marks(0, 9),
                vec![2..4],
                true,
                Position::Hole { expected: 7..10 },
            ),
            (
                "skipped offsets",
                tail_with_skipped(0, 8, 6, 3),
                marks(0, 9),
                vec![],
                true,
                continue_at(9, Some(8)),
            ),
            (
                "only skipped offsets before the row",
                tail_with_skipped(0, 8, 1, 8),
                marks(0, 9),
                vec![],
                true,
                continue_at(9, Some(8)),
            ),
            (
                "a marker at the end",
                tail_with_skipped(0, 8, 6, 3),
                marks(0, 11),
                vec![],
                true,
                continue_at(9, Some(8)),
            ),
            (
                "skipped offsets and one row missing",
                tail_with_skipped(0, 8, 5, 3),
                marks(0, 9),
                vec![],
                true,
                Position::Hole { expected: 6..7 },
            ),
            (
                "skipped offsets and one row doubled",
                tail_with_skipped(0, 8, 7, 3),
                marks(0, 9),
                vec![],
                true,
                Position::Hole { expected: 6..7 },
            ),
            (
                "skipped offsets and a gap",
                tail_with_skipped(0, 8, 4, 3),
                marks(0, 9),
                vec![2..4],
                true,
                continue_at(9, Some(8)),
            ),
            (
                "skipped offsets, a gap and a missing row",
                tail_with_skipped(0, 8, 3, 3),
                marks(0, 9),
                vec![2..4],
                true,
                Position::Hole { expected: 4..7 },
            ),
            (
                "old months dropped within skipped offsets",
                tail_with_skipped(4, 8, 3, 2),
                marks(0, 9),
                vec![],
                true,
                continue_at(9, Some(8)),
            ),
            (
                "retention within skipped offsets",
                tail_with_skipped(0, 8, 6, 3),
                marks(10, 12),
                vec![],
                true,
                overtaken(9, 10, None),
            ),
            (
                "the rest that retention left was skipped",
                tail_with_skipped(0, 12, 7, 4),
                marks(10, 13),
                vec![9..11],
                true,
                continue_at(13, Some(12)),
            ),
            (
                "more skipped offsets than offsets",
                tail_with_skipped(0, 8, 1, u64::MAX),
                marks(0, 9),
                vec![],
                true,
                Position::Hole { expected: 0..1 },
            ),
            (
                "topic re-created, shorter",
                tail_with_skipped(0, 8, 6, 3),
                marks(0, 3),
                vec![],
                true,
                Position::Shorter { expected: 9 },
            ),
            ("overlapping gaps", tail(0, 8, 6), marks(0, 9), vec![2..4, 3..5], true, continue_at(9, Some(8))),
        ] {
            let recorded = RecordedRanges { gaps: &gaps, empty: &[] };
            assert_eq!(resume_position(tail.as_ref(), marks, recorded, gapless), expected, "{what}");
        }
    }

    /// The table has offsets 0 to 8, and the topic `low..high`.
    #[test]
    fn proof_covers_only_deleted_offsets_within_its_range() {
        let overtaken = |to| Position::Overtaken { from: 9, to, compare: None };
        let resume = |fetch, empty_to| Position::Continue {
            resume: ResumePoint { next: 9, fetch, empty_to },
            compare: None,
        };
        for (what, low, high, empty, expected) in [
            ("all of it is deleted", 14, 14, &[9..14][..], resume(14, 14)),
            ("and records came since", 14, 20, &[9..14], resume(14, 14)),
            ("a part of it is deleted", 12, 14, &[9..14], resume(12, 14)),
            ("made before the last rows", 14, 14, &[5..14], resume(14, 14)),
            ("the longest one counts", 14, 14, &[9..11, 9..14, 7..12], resume(14, 14)),
            ("a record may have stood behind it", 15, 20, &[9..14], overtaken(15)),
            ("a record may have stood before it", 14, 20, &[10..14], overtaken(14)),
            ("of other offsets", 14, 20, &[0..9, 14..20], overtaken(14)),
            ("two with a record between them", 14, 20, &[9..11, 12..14], overtaken(14)),
            ("backwards", 14, 20, &[Range { start: 14, end: 9 }], overtaken(14)),
            ("nothing is deleted: it is read", 9, 20, &[9..14], continue_at(9, None)),
            ("more than the topic has", 14, 14, &[9..i64::MAX], Position::Shorter { expected: i64::MAX }),
        ] {
            let marks = Watermarks { low, high };
            for gapless in [true, false] {
                let recorded = RecordedRanges { gaps: &[], empty };
                assert_eq!(
                    resume_position(tail(0, 8, 9).as_ref(), marks, recorded, gapless),
                    expected,
                    "{what}"
                );
            }
        }
        let marks = Watermarks { low: 14, high: 14 };
        let none = resume_position(None, marks, RecordedRanges { gaps: &[], empty: &[0..14] }, true);
        let resume = ResumePoint { next: 0, fetch: 14, empty_to: 14 };
        assert_eq!(none, Position::Continue { resume, compare: None }, "no record ever came");
        let accepted = RecordedRanges { gaps: &[9..12], empty: &[12..14] };
        let resume = ResumePoint { next: 12, fetch: 14, empty_to: 14 };
        let accepted = resume_position(tail(0, 8, 9).as_ref(), marks, accepted, true);
        assert_eq!(accepted, Position::Continue { resume, compare: None }, "behind a gap that was accepted");
    }

    proptest! {
        /// For any recorded ranges, a deleted offset that is not proven to be empty ends the stage, and every existing
        /// offset is read.
        #[test]
        fn only_proven_offsets_are_skipped(
            next in 0_i64..20,
            low in 0_i64..20,
            more in 0_i64..20,
            empty in prop::collection::vec((0_i64..20, 0_i64..30), 0..4),
        ) {
            let empty: Vec<_> = empty.into_iter().map(|(from, to)| from..to).collect();
            let tail = if next > 0 { tail(0, next - 1, next.unsigned_abs()) } else { None };
            let marks = Watermarks { low, high: low.max(next) + more };
            let recorded = RecordedRanges { gaps: &[], empty: &empty };
            if let Position::Continue { resume, .. } = resume_position(tail.as_ref(), marks, recorded, true) {
                prop_assert_eq!(resume.next, next);
                prop_assert_eq!(resume.fetch, next.max(low));
                let is_empty = |offset: i64| empty.iter().any(|empty| empty.contains(&offset));
                prop_assert!((next..resume.fetch.max(resume.empty_to)).all(is_empty));
            }
        }
    }
}
