//! Clients made for one reading, beside a stage's own consumer: they join no group and have no position, no rebalance and no history. They
//! read committed records only.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;

/// Without a step for so long, reading is given up, to be begun anew. Each record is a step, and each batch that holds none.
pub(crate) const STANDS: Duration = Duration::from_secs(10);
/// How often the client reports how far it has fetched: of a long range without records nothing else shows that it moves.
const STATISTICS: Duration = Duration::from_secs(1);

/// A client that one reading uses.
pub(crate) type FreshReader = BaseConsumer<Fetched>;

/// Settings of fresh readers. `config` is a reader's (`KafkaEndpoint::reader_config`).
pub(crate) fn settings(mut config: ClientConfig) -> ClientConfig {
    config
        .set("statistics.interval.ms", STATISTICS.as_millis().to_string())
        .set("fetch.wait.max.ms", "20")
        .set("queued.max.messages.kbytes", "8192");
    config
}

/// Makes a client with [`settings`].
pub(crate) fn create(settings: &ClientConfig) -> KafkaResult<FreshReader> {
    settings.create_with_context(Fetched::default())
}

/// Takes note of how far the client has fetched.
#[derive(Debug, Default)]
pub(crate) struct Fetched(AtomicI64);

impl Fetched {
    fn offsets(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ClientContext for Fetched {
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        self.0.store(partitions.map(|partition| partition.next_offset.max(0)).sum(), Ordering::Relaxed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka, fresh reader");
    }
}

impl ConsumerContext for Fetched {}

/// Decides whether a reading still moves.
pub(crate) struct Movement {
    since: Instant,
    fetched: i64,
}

impl Movement {
    pub(crate) fn of(fetched: &Fetched) -> Self {
        Self { since: Instant::now(), fetched: fetched.offsets() }
    }

    /// Notes a step that the statistics do not show.
    pub(crate) fn moved(&mut self) {
        self.since = Instant::now();
    }

    /// True if nothing has moved for [`STANDS`].
    pub(crate) fn stands(&mut self, fetched: &Fetched) -> bool {
        let fetched = fetched.offsets();
        if fetched != self.fetched {
            *self = Self { since: Instant::now(), fetched };
        }
        self.since.elapsed() > STANDS
    }
}
