//! Clients made for one reading, beside a stage's own consumer: they join no group and have no position, no rebalance and no history. They
//! read committed records only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;

/// Without a step for so long, reading is given up, to be begun anew. Each record is a step, and each batch that holds none.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the client reports how far it has fetched: of a long range without records nothing else shows that it moves.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

/// A client that one reading uses.
pub(crate) type FreshReader = BaseConsumer<FetchPositions>;

/// Settings of fresh readers. `config` is a reader's (`KafkaEndpoint::reader_config`).
pub(crate) fn settings(mut config: ClientConfig) -> ClientConfig {
    config
        .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string())
        .set("fetch.wait.max.ms", "20")
        .set("queued.max.messages.kbytes", "8192");
    config
}

/// Makes a client with [`settings`].
pub(crate) fn create(settings: &ClientConfig) -> KafkaResult<FreshReader> {
    settings.create_with_context(FetchPositions::default())
}

/// Offset up to which the client has fetched each partition; one topic for a reader.
#[derive(Debug, Default)]
pub(crate) struct FetchPositions(Mutex<BTreeMap<i32, i64>>);

impl FetchPositions {
    fn by_partition(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self) -> i64 {
        self.by_partition().values().sum()
    }

    /// Next offset to fetch of a partition; -1 before the first statistics.
    pub(crate) fn offset(&self, partition: i32) -> i64 {
        self.by_partition().get(&partition).copied().unwrap_or(-1)
    }
}

impl ClientContext for FetchPositions {
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        // Partition -1 is librdkafka's for records without one.
        let fetched =
            partitions.filter(|of| of.partition >= 0).map(|of| (of.partition, of.next_offset.max(0)));
        *self.by_partition() = fetched.collect();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka, fresh reader");
    }
}

impl ConsumerContext for FetchPositions {}

/// Decides whether a reading still moves.
pub(crate) struct ProgressWatch {
    since: Instant,
    fetched: i64,
}

impl ProgressWatch {
    pub(crate) fn new(fetched: &FetchPositions) -> Self {
        Self { since: Instant::now(), fetched: fetched.sum() }
    }

    /// Notes a step that the statistics do not show.
    pub(crate) fn record_progress(&mut self) {
        self.since = Instant::now();
    }

    /// True if nothing has moved for [`STALL_TIMEOUT`].
    pub(crate) fn is_stalled(&mut self, fetched: &FetchPositions) -> bool {
        let fetched = fetched.sum();
        if fetched != self.fetched {
            *self = Self { since: Instant::now(), fetched };
        }
        self.since.elapsed() > STALL_TIMEOUT
    }
}
