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
    /// End offset in the newest response.
    end: Option<i64>,
    /// True while the end offset is before the reader's position.
    is_truncated: bool,
}

impl Freshness {
    /// Returns a time: the copy includes every record that was committed before it.
    pub fn fresh_at(&self) -> Option<Instant> {
        self.inner().fresh_at
    }

    /// Returns the partition's end offset according to the newest response.
    pub fn end(&self) -> Option<i64> {
        self.inner().end
    }

    /// Records the response to a request of time `asked`: the partition's end offset is `end`. `position` is the
    /// reader's position before the request. An end before it confirms nothing: the topic was truncated or created
    /// again. Returns true for the first such response.
    pub fn observe_end(&self, asked: Instant, end: i64, position: i64) -> bool {
        let mut inner = self.inner();
        inner.end = Some(end);
        let is_truncated = end < position || inner.confirmed_end.is_some_and(|confirmed| end < confirmed);
        let was_truncated = std::mem::replace(&mut inner.is_truncated, is_truncated);
        if is_truncated {
            inner.pending = None;
            return !was_truncated;
        }
        if position == end || inner.confirmed_end == Some(end) {
            inner.confirm(asked, end);
        } else if inner.pending.is_none() {
            inner.pending = Some((asked, end));
        }
        false
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

    /// Confirms the pending request if it is older than `empty_at`, since the reader is at the end of the partition. The
    /// last offsets before the end may have no record, so the position alone would not show that. The client found the
    /// end after `empty_at`, perhaps before a newer request.
    pub fn reach_end(&self, empty_at: Option<Instant>) {
        let mut inner = self.inner();
        if let Some((asked, end)) = inner.pending
            && empty_at.is_some_and(|empty_at| asked < empty_at)
        {
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
        freshness.reach_end(Some(b));
        assert_eq!(freshness.fresh_at(), Some(a));
        freshness.observe_end(b, 7, 5);
        assert_eq!(freshness.fresh_at(), Some(b), "nothing was added");
        freshness.observe_end(c, 8, 5);
        assert_eq!(freshness.fresh_at(), Some(b), "one offset was added");
        assert!(!freshness.is_waiting_since(c) && freshness.is_waiting_since(d));
    }

    #[test]
    fn end_that_may_have_been_queued_before_the_question_confirms_it_not() {
        let [a, b, c, d] = times();
        let freshness = Freshness::default();
        // The queue was empty at `a`, then the end was queued, then the question was asked; the thread was busy until `c`.
        freshness.observe_end(b, 7, 5);
        for empty_at in [None, Some(a), Some(b)] {
            freshness.reach_end(empty_at);
            assert_eq!(freshness.fresh_at(), None, "a record may have been committed after the end");
        }
        freshness.observe_end(c, 7, 5);
        assert_eq!(freshness.fresh_at(), None, "the unchanged end was never reached");
        assert!(freshness.is_waiting_since(d), "the reader is restarted");
        freshness.reach_end(Some(c));
        assert_eq!(freshness.fresh_at(), Some(b));
    }

    #[test]
    fn truncated_topic_is_not_fresh_until_it_has_grown_to_the_position() {
        let [a, b, c, d] = times();
        let freshness = Freshness::default();
        assert!(!freshness.observe_end(a, 9, 9));
        assert!(freshness.observe_end(b, 3, 9), "reported");
        assert!(!freshness.observe_end(c, 4, 9), "once");
        freshness.reach_end(Some(d));
        freshness.advance(9);
        assert_eq!(freshness.fresh_at(), Some(a));
        freshness.observe_end(d, 9, 9);
        assert_eq!(freshness.fresh_at(), Some(d));
        let markers = Freshness::default();
        markers.observe_end(a, 9, 7);
        markers.reach_end(Some(b));
        assert!(markers.observe_end(c, 8, 7), "the reader has reached offset 9");
    }
}
