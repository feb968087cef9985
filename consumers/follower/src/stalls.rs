//! Times at which a reader is restarted.
//!
//! librdkafka reports the end of a partition once, and a request to a broker that shuts down may wait forever. A restart
//! requests the partitions again, and the client reports their ends again.

use std::time::{Duration, Instant};

/// Last event of each partition of a reader, and its last restart.
#[derive(Debug)]
pub(crate) struct Stalls {
    timeout: Duration,
    last_events: Vec<Instant>,
    last_restart: Instant,
}

impl Stalls {
    pub fn new(timeout: Duration, partitions: usize, now: Instant) -> Self {
        Self { timeout, last_events: vec![now; partitions], last_restart: now }
    }

    /// Records an event of a partition: it is not stalled.
    pub fn record_event(&mut self, partition: i32, now: Instant) {
        let index = usize::try_from(partition).ok();
        if let Some(last) = index.and_then(|index| self.last_events.get_mut(index)) {
            *last = now;
        }
    }

    /// Returns true if the reader has to be restarted: a partition for which `is_waiting` has had no event for the
    /// timeout. `is_waiting` gets the time before which the wait has begun.
    pub fn is_due(&mut self, now: Instant, is_waiting: impl Fn(i32, Instant) -> bool) -> bool {
        let Some(since) = now.checked_sub(self.timeout) else { return false };
        let is_stalled = |(partition, last): (i32, &Instant)| *last < since && is_waiting(partition, since);
        let is_due = self.last_restart < since && (0..).zip(&self.last_events).any(is_stalled);
        if is_due {
            self.last_restart = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_without_events_restarts_the_reader_while_others_are_read() {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stalls = Stalls::new(TIMEOUT, 2, start);
        for second in 1..6 {
            stalls.record_event(0, at(second));
            assert!(!stalls.is_due(at(second), |_, _| true));
        }
        stalls.record_event(0, at(6));
        assert!(!stalls.is_due(at(6), |partition, _| partition == 0), "partition 1 waits for nothing");
        assert!(!stalls.is_due(at(6), |_, since| at(2) < since), "it has not waited long enough");
        assert!(stalls.is_due(at(6), |partition, _| partition == 1));
        stalls.record_event(0, at(11));
        assert!(!stalls.is_due(at(11), |_, _| true), "once per timeout");
        assert!(stalls.is_due(at(12), |_, _| true));
        stalls.record_event(1, at(17));
        stalls.record_event(0, at(18));
        assert!(!stalls.is_due(at(18), |_, _| true), "both have events");
    }
}
