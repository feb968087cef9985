//! Kafka clients that each serve one read, in addition to a stage's own consumer. They join no group, so they have no
//! committed position and no rebalances. They read committed records only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;

/// Time without progress after which a reading is abandoned and later restarted. Each record is progress, and so is
/// each batch without one.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of the client's statistics. In a long range without records only they show progress.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

/// Client of one reading.
pub(crate) type FreshReader = BaseConsumer<FetchPositions>;

/// Returns the settings of fresh readers. `config` is the configuration of a reader (`KafkaEndpoint::reader_config`).
pub(crate) fn settings(mut config: ClientConfig) -> ClientConfig {
    config
        .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string())
        .set("fetch.wait.max.ms", "20")
        .set("queued.max.messages.kbytes", "8192");
    config
}

/// Creates a client with [`settings`].
pub(crate) fn create(settings: &ClientConfig) -> KafkaResult<FreshReader> {
    settings.create_with_context(FetchPositions::default())
}

/// Offset up to which the client has fetched each partition. A reader reads one topic.
#[derive(Debug, Default)]
pub(crate) struct FetchPositions(Mutex<BTreeMap<i32, i64>>);

impl FetchPositions {
    fn by_partition(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self) -> i64 {
        self.by_partition().values().sum()
    }

    /// Returns the next offset to fetch of a partition; -1 before the first statistics.
    pub(crate) fn offset(&self, partition: i32) -> i64 {
        self.by_partition().get(&partition).copied().unwrap_or(-1)
    }
}

impl ClientContext for FetchPositions {
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        // librdkafka reports partition -1 for records without a partition.
        let fetched =
            partitions.filter(|of| of.partition >= 0).map(|of| (of.partition, of.next_offset.max(0)));
        *self.by_partition() = fetched.collect();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "error of a fresh reader's Kafka client");
    }
}

impl ConsumerContext for FetchPositions {}

/// Detects a reading that makes no progress.
pub(crate) struct ProgressWatch {
    since: Instant,
    fetched: i64,
}

impl ProgressWatch {
    pub(crate) fn new(fetched: &FetchPositions) -> Self {
        Self { since: Instant::now(), fetched: fetched.sum() }
    }

    /// Records progress that the statistics do not show.
    pub(crate) fn record_progress(&mut self) {
        self.since = Instant::now();
    }

    /// Returns true after [`STALL_TIMEOUT`] without progress.
    pub(crate) fn is_stalled(&mut self, fetched: &FetchPositions) -> bool {
        let fetched = fetched.sum();
        if fetched != self.fetched {
            *self = Self { since: Instant::now(), fetched };
        }
        self.since.elapsed() > STALL_TIMEOUT
    }
}
