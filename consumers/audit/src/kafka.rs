//! Readers of topics, watermarks and committed offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::topology::AUDIT_GROUP;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::AuditError;

/// Timeout of a request to Kafka.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval of the client's reports about its fetch positions.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a retry while the coordinator of a group changes.
const COORDINATOR_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Record of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Append time at the broker, in milliseconds since the epoch.
    pub logged_at: i64,
    /// The key; a missing key differs from an empty one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Offsets of a partition at the start of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that the topic still holds.
    pub low: i64,
    /// Last stable offset: every transaction before it has ended.
    pub end: i64,
}

/// Bounds of each partition of a topic.
pub type Partitions = BTreeMap<i32, Bounds>;

/// Reader of a topic from its start to the ends that its partitions have when the reader is created.
pub struct Reader<'a> {
    topic: &'a str,
    consumer: BaseConsumer<FetchProgress>,
    bounds: Partitions,
}

/// Client context with the sum of the fetch positions of all partitions. It also grows for batches of aborted transactions, which
/// deliver no message.
#[derive(Debug, Default)]
struct FetchProgress(AtomicI64);

impl ClientContext for FetchProgress {
    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        self.0.store(partitions.map(|partition| partition.next_offset.max(0)).sum(), Ordering::Relaxed);
    }
}

impl ConsumerContext for FetchProgress {}

/// Timeout since the last progress: a message, the end of a partition, or a change of the fetch positions.
struct ProgressTimeout {
    last_progress: Instant,
    fetched: i64,
}

impl ProgressTimeout {
    const fn new(now: Instant) -> Self {
        Self { last_progress: now, fetched: 0 }
    }

    const fn record_progress(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// Returns true if there was no progress for [`REQUEST_TIMEOUT`]. `fetched` is the current sum of the fetch positions.
    fn is_over(&mut self, now: Instant, fetched: i64) -> bool {
        if fetched != self.fetched {
            *self = Self { last_progress: now, fetched };
        }
        now.saturating_duration_since(self.last_progress) > REQUEST_TIMEOUT
    }
}

impl<'a> Reader<'a> {
    pub fn open(kafka: &KafkaEndpoint, topic: &'a str) -> Result<Self, AuditError> {
        let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
        let consumer = consumer(kafka, AUDIT_GROUP).map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(failed)?;
        let mut bounds = Partitions::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id()) {
            // A read_committed consumer receives the last stable offset here, not the high watermark.
            let (low, end) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT).map_err(failed)?;
            bounds.insert(partition, Bounds { low, end });
        }
        Ok(Self { topic, consumer, bounds })
    }

    pub const fn bounds(&self) -> &Partitions {
        &self.bounds
    }

    /// Calls `each` with every committed record, in order within each partition. Records that are appended during reading are left
    /// to the next audit; otherwise reading a topic that grows fast would never end.
    pub fn read(
        self,
        mut each: impl FnMut(&Record<'_>) -> Result<(), AuditError>,
    ) -> Result<Partitions, AuditError> {
        let Self { topic, consumer, bounds } = self;
        let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
        let mut from = TopicPartitionList::new();
        for (partition, Bounds { low, end }) in &bounds {
            if low < end {
                from.add_partition_offset(topic, *partition, Offset::Offset(*low)).map_err(failed)?;
            }
        }
        let mut open: BTreeSet<i32> = from.elements().iter().map(|element| element.partition()).collect();
        consumer.assign(&from).map_err(failed)?;
        let mut timeout = ProgressTimeout::new(Instant::now());
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    timeout.record_progress(Instant::now());
                    let (partition, offset) = (message.partition(), message.offset());
                    if !open.contains(&partition) {
                        continue;
                    }
                    let end = bounds.get(&partition).map_or(0, |bounds| bounds.end);
                    if offset < end {
                        let logged_at = logged_at(topic, &message)?;
                        each(&Record {
                            partition,
                            offset,
                            logged_at,
                            key: message.key(),
                            value: message.payload(),
                        })?;
                    }
                    if offset >= end.saturating_sub(1) {
                        open.remove(&partition);
                        pause(&consumer, topic, partition).map_err(failed)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                    timeout.record_progress(Instant::now());
                    pause(&consumer, topic, partition).map_err(failed)?;
                }
                other => {
                    if timeout.is_over(Instant::now(), consumer.context().0.load(Ordering::Relaxed)) {
                        return Err(match other {
                            Some(Err(error)) => failed(error),
                            _ => AuditError::Timeout { topic: topic.to_owned() },
                        });
                    }
                }
            }
        }
        Ok(bounds)
    }
}

/// Pauses a partition that is completely read, since its fetches would count as progress of the others.
fn pause(consumer: &BaseConsumer<FetchProgress>, topic: &str, partition: i32) -> Result<(), KafkaError> {
    let mut done = TopicPartitionList::new();
    done.add_partition(topic, partition);
    consumer.pause(&done)
}

/// Returns the offset after the last record, committed or not, of each partition of a topic.
pub fn high_watermarks(kafka: &KafkaEndpoint, topic: &str) -> Result<BTreeMap<i32, i64>, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
    let mut config = kafka.consumer_config(AUDIT_GROUP);
    let consumer: BaseConsumer =
        config.set("isolation.level", "read_uncommitted").create().map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(failed)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id());
    partitions
        .map(|partition| {
            let (_, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT).map_err(failed)?;
            Ok((partition, high))
        })
        .collect()
}

/// Returns the offsets that a group has committed on a topic, by partition.
pub fn committed(
    kafka: &KafkaEndpoint,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
    let consumer = consumer(kafka, group).map_err(failed)?;
    let mut requested = TopicPartitionList::new();
    for partition in partitions {
        requested.add_partition(topic, *partition);
    }
    let until = Instant::now() + REQUEST_TIMEOUT;
    let answer = loop {
        match consumer.committed_offsets(requested.clone(), REQUEST_TIMEOUT) {
            Ok(answer) => break answer,
            Err(error) if is_coordinator_changing(&error) && Instant::now() < until => {
                std::thread::sleep(COORDINATOR_RETRY_INTERVAL)
            }
            Err(error) => return Err(failed(error)),
        }
    };
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset()
    {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    };
    Ok(answer.elements().iter().filter_map(offset).collect())
}

/// Returns true if the group's coordinator is moving to another broker. A broker that was busy for longer than its session with the
/// controller loses its partitions for a moment.
fn is_coordinator_changing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let code = error.rdkafka_error_code();
    matches!(code, Some(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator))
}

fn consumer(kafka: &KafkaEndpoint, group: &str) -> Result<BaseConsumer<FetchProgress>, KafkaError> {
    kafka
        .consumer_config(group)
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string())
        .create_with_context(FetchProgress::default())
}

/// Returns the append time of a record.
fn logged_at(topic: &str, message: &impl Message) -> Result<i64, AuditError> {
    let (partition, offset) = (message.partition(), message.offset());
    let missing = || AuditError::NoTimestamp { topic: topic.to_owned(), partition, offset };
    message.timestamp().to_millis().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    /// Checks the timeout at points in time: seconds after the start, whether a message arrives right before, and the fetch position.
    fn timeouts(checks: &[(u64, bool, i64)]) -> Vec<bool> {
        let start = Instant::now();
        let mut timeout = ProgressTimeout::new(start);
        let check = |(seconds, message, fetched): &(u64, bool, i64)| {
            let now = start + Duration::from_secs(*seconds);
            if *message {
                timeout.record_progress(now);
            }
            timeout.is_over(now, *fetched)
        };
        checks.iter().map(check).collect()
    }

    #[test]
    fn fetches_without_messages_are_progress() {
        let cases = [
            (&[(15, false, 0), (16, false, 0)][..], &[false, true][..], "nothing at all"),
            (
                &[(10, true, 0), (20, false, 0), (26, false, 0)],
                &[false, false, true],
                "a message, then nothing",
            ),
            (
                &[(10, false, 100), (20, false, 200), (30, false, 300), (600, false, 400)],
                &[false; 4],
                "an aborted transaction that takes minutes: fetches go on",
            ),
            (&[(10, false, 100), (25, false, 100), (26, false, 100)], &[false, false, true], "fetches end"),
        ];
        for (checks, expected, why) in cases {
            assert_eq!(timeouts(checks), expected, "{why}");
        }
    }

    #[test]
    fn client_reports_its_fetch_positions() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        let producer: BaseProducer =
            config.set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        for _ in 0..30 {
            producer.send(BaseRecord::<(), str>::to("a").partition(0).payload("x")).unwrap();
        }
        producer.flush(Duration::from_secs(60)).unwrap();
        let consumer = consumer(&KafkaEndpoint::at(cluster.bootstrap_servers()), "audit").unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset("a", 0, Offset::Beginning).unwrap();
        consumer.assign(&from).unwrap();
        let began = Instant::now();
        while consumer.context().0.load(Ordering::Relaxed) < 30 {
            assert!(began.elapsed() < Duration::from_secs(60));
            drop(consumer.poll(Duration::from_millis(100)));
        }
    }

    #[test]
    fn record_without_a_timestamp_is_an_error() {
        let at = |timestamp| {
            let message = rdkafka::message::OwnedMessage::new(None, None, "t".into(), timestamp, 3, 7, None);
            logged_at("t", &message)
        };
        assert_eq!(at(rdkafka::Timestamp::LogAppendTime(5)).unwrap(), 5);
        let error = at(rdkafka::Timestamp::NotAvailable).unwrap_err().to_string();
        assert!(error.contains("t/3 offset 7"), "{error}");
    }
}
