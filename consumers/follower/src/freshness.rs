//! How old a copy of a partition may be.
//!
//! A thread asks for the end of each partition every second. The copy is as fresh as the newest such question whose answer,
//! the end, the reader has reached: then everything that was committed before the question is in the copy. An idle topic has
//! no records to tell that, so a confirmed end that stays the same confirms each later question too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Freshness of the copy of one partition.
#[derive(Debug, Default)]
pub(crate) struct Freshness(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// When the newest question was asked that the copy is known to include.
    fresh_at: Option<Instant>,
    /// The end up to which everything was read.
    confirmed_end: Option<i64>,
    /// The oldest question that is not confirmed, and its answer.
    pending: Option<(Instant, i64)>,
}

impl Freshness {
    /// Returns a moment before which everything committed is in the copy.
    pub fn fresh_at(&self) -> Option<Instant> {
        self.inner().fresh_at
    }

    /// The partition ended at `end` when it was asked at `asked`; the copy ended at `position`.
    pub fn observe_end(&self, asked: Instant, end: i64, position: i64) {
        let mut inner = self.inner();
        if position >= end || inner.confirmed_end == Some(end) {
            inner.confirm(asked, end);
        } else if inner.pending.is_none() {
            inner.pending = Some((asked, end));
        }
    }

    /// The copy ends at `position` now.
    pub fn advance(&self, position: i64) {
        let mut inner = self.inner();
        if let Some((asked, end)) = inner.pending
            && position >= end
        {
            inner.confirm(asked, end);
        }
    }

    /// The reader is at the end of the partition. Offsets before it may have no record.
    pub fn reach_end(&self) {
        let mut inner = self.inner();
        if let Some((asked, end)) = inner.pending {
            inner.confirm(asked, end);
        }
    }

    /// Returns whether a question has waited for its confirmation since before `since`.
    pub fn is_waiting_since(&self, since: Instant) -> bool {
        self.inner().pending.is_some_and(|(asked, _)| asked < since)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn confirm(&mut self, asked: Instant, end: i64) {
        self.fresh_at = self.fresh_at.max(Some(asked));
        self.confirmed_end = self.confirmed_end.max(Some(end));
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times() -> [Instant; 4] {
        let first = Instant::now();
        [0, 1, 2, 3].map(|second| first + Duration::from_secs(second))
    }

    #[test]
    fn question_is_confirmed_by_the_position() {
        let [a, b, c, _] = times();
        let freshness = Freshness::default();
        assert_eq!(freshness.fresh_at(), None);
        freshness.observe_end(a, 5, 3);
        assert_eq!(freshness.fresh_at(), None, "two records are missing");
        freshness.advance(4);
        freshness.observe_end(b, 7, 4);
        assert_eq!(freshness.fresh_at(), None);
        freshness.advance(5);
        assert_eq!(freshness.fresh_at(), Some(a), "the newer question is not confirmed");
        freshness.observe_end(c, 7, 7);
        assert_eq!(freshness.fresh_at(), Some(c));
    }

    #[test]
    fn idle_partition_stays_fresh_and_its_markers_need_an_end() {
        let [a, b, c, d] = times();
        let freshness = Freshness::default();
        // Offsets 5 and 6 are markers.
        freshness.observe_end(a, 7, 5);
        assert!(freshness.is_waiting_since(b));
        freshness.reach_end();
        assert_eq!(freshness.fresh_at(), Some(a));
        freshness.observe_end(b, 7, 5);
        assert_eq!(freshness.fresh_at(), Some(b), "nothing was added");
        freshness.observe_end(c, 8, 5);
        assert_eq!(freshness.fresh_at(), Some(b), "one offset was added");
        assert!(!freshness.is_waiting_since(c) && freshness.is_waiting_since(d));
    }
}
