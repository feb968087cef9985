//! Fetching: what has come, up to a limit. Big batches under load, small ones when idle.

use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;

use super::assignment::GroupContext;

/// How long to wait for a first record before looking around.
const IDLE: Duration = Duration::from_millis(50);
/// How long to gather once something has come: a transaction costs some 20 ms whatever its size.
const GATHER: Duration = Duration::from_millis(5);
const MOST_RECORDS: usize = 20_000;
const MOST_BYTES: usize = 32 << 20;

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
pub(super) fn fetch(consumer: &BaseConsumer<GroupContext>) -> Fetched<'_> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut gathering: Option<Instant> = None;
    let mut end = End::Enough;
    while records.len() < MOST_RECORDS && bytes < MOST_BYTES {
        let wait = gathering.map_or(IDLE, |until| until.saturating_duration_since(Instant::now()));
        match consumer.poll(wait) {
            Some(Ok(message)) => {
                bytes += message.payload_len();
                records.push(message);
                gathering.get_or_insert_with(|| Instant::now() + GATHER);
            }
            Some(Err(error)) => {
                end = match error {
                    KafkaError::MessageConsumptionFatal(_) => End::Fatal(error),
                    KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => End::OffsetGone,
                    _ => End::Trouble(error),
                };
                break;
            }
            None => break,
        }
    }
    Fetched { records, end }
}
