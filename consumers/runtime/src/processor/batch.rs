//! Fetching: what has come, up to a limit. Big batches under load, small ones when idle.

use std::time::{Duration, Instant};

use agentgov_connect::assign::whole_millis;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use crate::consumer::{RebalanceListener, is_offset_gone};

/// How long to wait for a first record before looking around.
const IDLE: Duration = Duration::from_millis(50);
/// How long to gather once something has come: a transaction costs some 20 ms whatever its size.
const GATHER: Duration = Duration::from_millis(5);
/// Batches begin so far apart, under load. A transaction is a request to the broker for each partition of each topic, however few records
/// there are: more often than this costs more cores than it saves waiting (ADR 0030 has figures).
pub(super) const APART: Duration = Duration::from_millis(70);
/// The same where transactions write the input: it comes as they commit, so at the pace of the stage before, and what waited for that
/// need not wait again. Several processes of that stage commit in turn.
pub(super) const APART_BY_COMMITS: Duration = Duration::from_millis(35);
const MOST_RECORDS: usize = 20_000;
/// What a batch begins with, and never falls below.
const FEW_RECORDS: usize = 100;
/// How long stepping a batch should take at most: so long a rebalance or a request to stop may go unheard.
const STEPPING: Duration = Duration::from_secs(1);
const MOST_BYTES: usize = 32 << 20;

/// How many records a batch may have, as many as are stepped in a moment, on this machine and with these policies; and when the
/// next one may begin.
pub(super) struct Pace {
    most: usize,
    began: Option<Instant>,
    /// How far apart batches begin, under load.
    apart: Duration,
}

impl Pace {
    pub(super) fn new(apart: Duration) -> Self {
        Self { most: FEW_RECORDS * 10, began: None, apart }
    }

    /// Stepping `records` began then, and took so long.
    pub(super) fn took(&mut self, records: usize, began: Instant, time: Duration) {
        if records > 0 {
            self.began = Some(began);
        }
        if time > STEPPING {
            self.most = (records / 2).max(FEW_RECORDS);
        } else if records >= self.most && time < STEPPING / 2 {
            self.most = (self.most * 2).min(MOST_RECORDS);
        }
    }

    /// Until when to gather what follows a first record, which came `now`.
    fn gather_until(&self, now: Instant) -> Instant {
        let apart = self.began.map(|began| began + self.apart);
        apart.map_or(now + GATHER, |apart| apart.max(now + GATHER))
    }
}

/// What fetching came to: records, in order within each partition, perhaps none; and why it ended there. Records that came
/// before an error are not dropped with it: the consumer's position is already behind them.
pub(super) struct Fetched<'c> {
    pub records: Vec<BorrowedMessage<'c>>,
    pub end: End,
}

/// Why fetching ended.
pub(super) enum End {
    /// There is nothing more, or enough.
    Enough,
    /// Retention has overtaken a partition in work.
    OffsetGone,
    /// Kafka is away, or says something that may pass.
    Trouble(KafkaError),
    /// This consumer is finished.
    Fatal(KafkaError),
}

/// Polls until there is nothing more, or enough. Rebalances are noted in the consumer's context meanwhile.
pub(super) fn fetch<'c>(consumer: &'c BaseConsumer<RebalanceListener>, pace: &Pace) -> Fetched<'c> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut gathering: Option<Instant> = None;
    let mut end = End::Enough;
    while records.len() < pace.most && bytes < MOST_BYTES {
        // What is there already costs no look at the clock.
        let there = if records.is_empty() { None } else { consumer.poll(Duration::ZERO) };
        let polled = there.or_else(|| {
            let wait = gathering.map_or(IDLE, |until| until.saturating_duration_since(Instant::now()));
            consumer.poll(whole_millis(wait))
        });
        match polled {
            Some(Ok(message)) => {
                bytes += message.payload_len();
                records.push(message);
                gathering.get_or_insert_with(|| pace.gather_until(Instant::now()));
            }
            Some(Err(error)) => {
                end = match error {
                    KafkaError::MessageConsumptionFatal(_) => End::Fatal(error),
                    error if is_offset_gone(&error) => End::OffsetGone,
                    error => End::Trouble(error),
                };
                break;
            }
            None => break,
        }
    }
    Fetched { records, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_what_is_stepped_in_a_moment() {
        let mut pace = Pace::new(APART);
        let now = Instant::now();
        let slow = |pace: &mut Pace| pace.took(pace.most, now, STEPPING * 3);
        let quick = |pace: &mut Pace| pace.took(pace.most, now, STEPPING / 10);
        (0..20).for_each(|_| slow(&mut pace));
        assert_eq!(pace.most, FEW_RECORDS);
        pace.took(3, now, STEPPING / 10);
        assert_eq!(pace.most, FEW_RECORDS, "a batch that was not full says nothing");
        (0..20).for_each(|_| quick(&mut pace));
        assert_eq!(pace.most, MOST_RECORDS);
    }

    #[test]
    fn batches_begin_apart_under_load_and_at_once_when_idle() {
        let mut pace = Pace::new(APART);
        let began = Instant::now();
        assert_eq!(pace.gather_until(began), began + GATHER, "the first one");
        pace.took(3, began, STEPPING / 10);
        assert_eq!(pace.gather_until(began + APART / 2), began + APART, "under load");
        pace.took(0, began + APART / 2, STEPPING / 10);
        assert_eq!(pace.gather_until(began + APART / 2), began + APART, "nothing is no batch");
        let idle = began + APART * 3;
        assert_eq!(pace.gather_until(idle), idle + GATHER, "after a while");
    }
}
