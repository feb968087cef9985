//! Detects a consumer that does not return the records of a partition that it owns.
//!
//! Such a consumer looks idle: polls return nothing. It is stalled if a fresh reader finds a record at the consumer's
//! position (`empty_tail`). No other symptom exists, and without a remedy the partition would stay unprocessed until
//! the next rebalance.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::empty_tail::UnreadRecord;

/// Time for which a consumer may leave a record unread after a fresh reader has found it, while it has nothing else to
/// return.
const STALL_TIMEOUT: Duration = Duration::from_secs(45);

/// Time at which fresh readers first found the unread records, and time at which the consumer last had nothing to
/// return.
#[derive(Debug, Default)]
pub(super) struct StallDetector {
    /// Resume position before the record and time of its discovery, by partition.
    first_seen: BTreeMap<i32, (i64, Instant)>,
    drained: Option<Instant>,
}

impl StallDetector {
    /// Marks the end of a fetch after which the consumer had nothing more to return.
    pub(super) const fn mark_drained(&mut self, now: Instant) {
        self.drained = Some(now);
    }

    /// Resets the detector when partitions are assigned again.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Adds a record that a fresh reader found in a partition with the current resume position `position`. Returns true
    /// if the consumer has nothing to return and has not returned this record since it was first found. A consumer that
    /// is busy with other records is never stalled.
    pub(super) fn is_stalled(&mut self, found: &UnreadRecord, position: i64, now: Instant) -> bool {
        if found.position != position {
            self.first_seen.remove(&found.partition);
            return false;
        }
        let first_seen = self.first_seen.entry(found.partition).or_insert((position, now));
        if first_seen.0 != position {
            *first_seen = (position, now);
        }
        let idle_for = self.drained.map(|drained| drained.saturating_duration_since(first_seen.1));
        idle_for.is_some_and(|idle_for| idle_for >= STALL_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_idle_consumer_that_leaves_a_record_unread_is_stalled() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut detector = StallDetector::default();
        let found = |partition, position| {
            let (topic, offset) = ("a".to_owned(), position + 1);
            UnreadRecord { topic, partition, position, offset }
        };
        let steps = [
            // When, whether the consumer is idle then, partition, where the record was found, the resume position, stalled?
            (0, true, 0, 5, 5, false, "found for the first time"),
            (44, true, 0, 5, 5, false, "not for long enough"),
            (45, true, 0, 5, 5, true, "idle, with a record to return"),
            (60, true, 1, 9, 9, false, "another partition"),
            (200, false, 1, 9, 9, false, "busy since"),
            (201, true, 1, 9, 10, false, "it moved while it was read"),
            (202, true, 1, 9, 9, false, "from the beginning"),
            (260, true, 1, 10, 10, false, "another record"),
            (305, true, 1, 10, 10, true, "which waits as well"),
        ];
        for (seconds, is_idle, partition, position, now_at, is_stalled, why) in steps {
            if is_idle {
                detector.mark_drained(at(seconds));
            }
            assert_eq!(
                detector.is_stalled(&found(partition, position), now_at, at(seconds)),
                is_stalled,
                "{why}"
            );
        }
        detector.reset();
        detector.mark_drained(at(400));
        assert!(!detector.is_stalled(&found(1, 10), 10, at(400)), "the partitions are assigned again");
    }
}
