//! Upper bound of the age of a partition's copy.
//!
//! A thread requests the end offset of each partition every second. Once the reader has reached that offset, the copy
//! includes every record that was committed before the request: the copy is as fresh as the newest such request. The
//! reader gets no records from an idle partition, so a response with the same end offset confirms its request at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Freshness of the copy of one partition.
#[derive(Debug, Default)]
pub(crate) struct Freshness(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Time of the newest confirmed request.
    fresh_at: Option<Instant>,
    /// End offset that the reader has reached.
    confirmed_end: Option<i64>,
    /// Time of the oldest unconfirmed request, and the end offset in its response.
    pending: Option<(Instant, i64)>,
}

impl Freshness {
    /// Returns a time: the copy includes every record that was committed before it.
    pub fn fresh_at(&self) -> Option<Instant> {
        self.inner().fresh_at
    }

    /// Records the response to a request of time `asked`: the partition's end offset is `end`, the reader's `position`.
    pub fn observe_end(&self, asked: Instant, end: i64, position: i64) {
        let mut inner = self.inner();
        if position >= end || inner.confirmed_end == Some(end) {
            inner.confirm(asked, end);
        } else if inner.pending.is_none() {
            inner.pending = Some((asked, end));
        }
    }

    /// Confirms the pending request if the reader's new `position` has reached its end offset.
    pub fn advance(&self, position: i64) {
        let mut inner = self.inner();
        if let Some((asked, end)) = inner.pending
            && position >= end
        {
            inner.confirm(asked, end);
        }
    }

    /// Confirms the pending request, since the reader is at the end of the partition. The last offsets before the end may
    /// have no record, so the position alone would not show that.
    pub fn reach_end(&self) {
        let mut inner = self.inner();
        if let Some((asked, end)) = inner.pending {
            inner.confirm(asked, end);
        }
    }

    /// Returns true if the pending request is older than `since`.
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
