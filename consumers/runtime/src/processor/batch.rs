//! Fetching of batches: the available records, up to a limit. Batches are large under load and small when idle.

use std::time::{Duration, Instant};

use agentgov_connect::assign::ceil_to_millis;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use crate::consumer::{RebalanceListener, is_offset_gone};

/// Time to wait for a first record before the loop does its other work.
const IDLE_TIMEOUT: Duration = Duration::from_millis(50);
/// Time to gather records after the first one. A transaction costs some 20 ms, whatever its size.
const GATHER_INTERVAL: Duration = Duration::from_millis(5);
/// Interval between the starts of batches, under load. A transaction is a request to the broker for each partition of
/// each topic, however few records it has. A shorter interval costs more CPU time than it saves in latency (ADR 0030
/// has figures).
pub(super) const BATCH_INTERVAL: Duration = Duration::from_millis(70);
/// Interval between the starts of batches, under load, for an input that the previous stage writes in transactions. Its
/// records have already waited for their transaction to commit. The processes of that stage commit in turn.
pub(super) const COMMITTED_BATCH_INTERVAL: Duration = Duration::from_millis(35);
const MAX_RECORDS: usize = 20_000;
/// Lower bound of the batch limit.
const MIN_RECORDS: usize = 100;
/// Longest time that stepping a batch should take. Meanwhile the loop notices neither a rebalance nor a shutdown
/// request.
const MAX_STEP_TIME: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 32 << 20;

/// Limits batches to the records that this machine steps in [`MAX_STEP_TIME`] with these policies, and spaces their
/// starts.
pub(super) struct BatchPacer {
    max_records: usize,
    last_began: Option<Instant>,
    /// Interval between the starts of batches, under load.
    interval: Duration,
}

impl BatchPacer {
    pub(super) fn new(interval: Duration) -> Self {
        Self { max_records: MIN_RECORDS * 10, last_began: None, interval }
    }

    /// Adjusts the limit after a batch of `records` that started at `began` and took `time` to step.
    pub(super) fn record_step(&mut self, records: usize, began: Instant, time: Duration) {
        if records > 0 {
            self.last_began = Some(began);
        }
        if time > MAX_STEP_TIME {
            self.max_records = (records / 2).max(MIN_RECORDS);
        } else if records >= self.max_records && time < MAX_STEP_TIME / 2 {
            self.max_records = (self.max_records * 2).min(MAX_RECORDS);
        }
    }

    /// Returns the time until which to gather records after a first record that came `now`.
    fn gather_until(&self, now: Instant) -> Instant {
        let next = self.last_began.map(|began| began + self.interval);
        next.map_or(now + GATHER_INTERVAL, |next| next.max(now + GATHER_INTERVAL))
    }
}

/// Fetched records, in order within each partition and possibly none, and the reason why fetching ended. Records that
/// came before an error are kept: the consumer's position is already after them.
pub(super) struct FetchedBatch<'c> {
    pub records: Vec<BorrowedMessage<'c>>,
    pub end: FetchEnd,
}

/// Reason why fetching ended.
pub(super) enum FetchEnd {
    /// The consumer has nothing more to return.
    Drained,
    /// The batch is full; more records may be available.
    Full,
    /// Retention has deleted the position of a partition.
    OffsetGone,
    /// Kafka is unavailable, or another error that may pass.
    Transient(KafkaError),
}

/// Polls until no more records are available, or the limit is reached. The consumer's context records rebalances
/// meanwhile.
///
/// # Errors
/// If the client has failed with a fatal error. The client reports it once.
pub(super) fn fetch<'c>(
    consumer: &'c BaseConsumer<RebalanceListener>,
    pacer: &BatchPacer,
) -> Result<FetchedBatch<'c>, KafkaError> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut gathering: Option<Instant> = None;
    let mut end = FetchEnd::Full;
    while records.len() < pacer.max_records && bytes < MAX_BYTES {
        // A record that is already queued costs no clock read.
        let there = if records.is_empty() { None } else { consumer.poll(Duration::ZERO) };
        let polled = there.or_else(|| {
            let wait =
                gathering.map_or(IDLE_TIMEOUT, |until| until.saturating_duration_since(Instant::now()));
            consumer.poll(ceil_to_millis(wait))
        });
        match polled {
            Some(Ok(message)) => {
                bytes += message.payload_len();
                records.push(message);
                gathering.get_or_insert_with(|| pacer.gather_until(Instant::now()));
            }
            Some(Err(error)) => {
                end = match error {
                    KafkaError::MessageConsumptionFatal(_) => return Err(error),
                    error if is_offset_gone(&error) => FetchEnd::OffsetGone,
                    error => FetchEnd::Transient(error),
                };
                break;
            }
            None => {
                end = FetchEnd::Drained;
                break;
            }
        }
    }
    Ok(FetchedBatch { records, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_limit_follows_the_step_time() {
        let mut pacer = BatchPacer::new(BATCH_INTERVAL);
        let now = Instant::now();
        let slow = |pacer: &mut BatchPacer| pacer.record_step(pacer.max_records, now, MAX_STEP_TIME * 3);
        let quick = |pacer: &mut BatchPacer| pacer.record_step(pacer.max_records, now, MAX_STEP_TIME / 10);
        (0..20).for_each(|_| slow(&mut pacer));
        assert_eq!(pacer.max_records, MIN_RECORDS);
        pacer.record_step(3, now, MAX_STEP_TIME / 10);
        assert_eq!(pacer.max_records, MIN_RECORDS, "a batch that was not full does not raise the limit");
        (0..20).for_each(|_| quick(&mut pacer));
        assert_eq!(pacer.max_records, MAX_RECORDS);
    }

    #[test]
    fn gathering_waits_for_the_batch_interval_only_under_load() {
        let mut pacer = BatchPacer::new(BATCH_INTERVAL);
        let began = Instant::now();
        assert_eq!(pacer.gather_until(began), began + GATHER_INTERVAL, "the first one");
        pacer.record_step(3, began, MAX_STEP_TIME / 10);
        assert_eq!(pacer.gather_until(began + BATCH_INTERVAL / 2), began + BATCH_INTERVAL, "under load");
        pacer.record_step(0, began + BATCH_INTERVAL / 2, MAX_STEP_TIME / 10);
        assert_eq!(
            pacer.gather_until(began + BATCH_INTERVAL / 2),
            began + BATCH_INTERVAL,
            "an empty batch does not count"
        );
        let idle = began + BATCH_INTERVAL * 3;
        assert_eq!(pacer.gather_until(idle), idle + GATHER_INTERVAL, "after the interval");
    }
}
