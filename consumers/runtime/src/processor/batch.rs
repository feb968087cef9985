//! Fetching: what has come, up to a limit. Big batches under load, small ones when idle.

use std::time::{Duration, Instant};

use agentgov_connect::assign::ceil_to_millis;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use crate::consumer::{RebalanceListener, is_offset_gone};

/// How long to wait for a first record before looking around.
const IDLE_TIMEOUT: Duration = Duration::from_millis(50);
/// How long to gather once something has come: a transaction costs some 20 ms whatever its size.
const GATHER_INTERVAL: Duration = Duration::from_millis(5);
/// Batches begin so far apart, under load. A transaction is a request to the broker for each partition of each topic, however few records
/// there are: more often than this costs more cores than it saves waiting (ADR 0030 has figures).
pub(super) const BATCH_INTERVAL: Duration = Duration::from_millis(70);
/// The same where transactions write the input: it comes as they commit, so at the pace of the stage before, and what waited for that
/// need not wait again. Several processes of that stage commit in turn.
pub(super) const COMMITTED_BATCH_INTERVAL: Duration = Duration::from_millis(35);
const MAX_RECORDS: usize = 20_000;
/// What a batch begins with, and never falls below.
const MIN_RECORDS: usize = 100;
/// How long stepping a batch should take at most: so long a rebalance or a request to stop may go unheard.
const MAX_STEP_TIME: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 32 << 20;

/// How many records a batch may have, as many as are stepped in a moment, on this machine and with these policies; and when the
/// next one may begin.
pub(super) struct BatchPacer {
    max_records: usize,
    last_began: Option<Instant>,
    /// How far apart batches begin, under load.
    interval: Duration,
}

impl BatchPacer {
    pub(super) fn new(interval: Duration) -> Self {
        Self { max_records: MIN_RECORDS * 10, last_began: None, interval }
    }

    /// Stepping `records` began then, and took so long.
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

    /// Until when to gather what follows a first record, which came `now`.
    fn gather_until(&self, now: Instant) -> Instant {
        let next = self.last_began.map(|began| began + self.interval);
        next.map_or(now + GATHER_INTERVAL, |next| next.max(now + GATHER_INTERVAL))
    }
}

/// What fetching came to: records, in order within each partition, perhaps none; and why it ended there. Records that came
/// before an error are not dropped with it: the consumer's position is already behind them.
pub(super) struct FetchedBatch<'c> {
    pub records: Vec<BorrowedMessage<'c>>,
    pub end: FetchEnd,
}

/// Why fetching ended.
pub(super) enum FetchEnd {
    /// The consumer has nothing more to return.
    Drained,
    /// The batch is full; more may be there.
    Full,
    /// Retention has overtaken a partition in work.
    OffsetGone,
    /// Kafka is away, or says something that may pass.
    Transient(KafkaError),
    /// This consumer is finished.
    Fatal(KafkaError),
}

/// Polls until there is nothing more, or enough. Rebalances are noted in the consumer's context meanwhile.
pub(super) fn fetch<'c>(
    consumer: &'c BaseConsumer<RebalanceListener>,
    pacer: &BatchPacer,
) -> FetchedBatch<'c> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut gathering: Option<Instant> = None;
    let mut end = FetchEnd::Full;
    while records.len() < pacer.max_records && bytes < MAX_BYTES {
        // What is there already costs no look at the clock.
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
                    KafkaError::MessageConsumptionFatal(_) => FetchEnd::Fatal(error),
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
    FetchedBatch { records, end }
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
        assert_eq!(pacer.max_records, MIN_RECORDS, "a batch that was not full says nothing");
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
            "nothing is no batch"
        );
        let idle = began + BATCH_INTERVAL * 3;
        assert_eq!(pacer.gather_until(idle), idle + GATHER_INTERVAL, "after a while");
    }
}
