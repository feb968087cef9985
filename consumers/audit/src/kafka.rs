//! Reading topics from their start to their end, and how far groups are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::topology::AUDIT_GROUP;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::AuditError;

/// How long Kafka may take to answer.
const CALL: Duration = Duration::from_secs(15);
/// How long to wait before a group that is on its way to another coordinator is asked about again.
const MOVING: Duration = Duration::from_millis(200);

/// A record as it stands in its topic.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The broker's append time, in milliseconds since the epoch.
    pub logged_at: i64,
    /// The key; `None` differs from an empty one.
    pub key: Option<&'a [u8]>,
    /// The value; `None`: a tombstone.
    pub value: Option<&'a [u8]>,
}

/// The offsets of a partition when reading began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that the topic still holds.
    pub low: i64,
    /// Last stable offset: every transaction below it has ended.
    pub end: i64,
}

/// Bounds of each partition of a topic.
pub type Partitions = BTreeMap<i32, Bounds>;

/// Reads a topic from its start to the end that each partition has when reading begins.
pub struct Reader<'a> {
    topic: &'a str,
    consumer: BaseConsumer,
    bounds: Partitions,
}

impl<'a> Reader<'a> {
    pub fn open(kafka: &KafkaEndpoint, topic: &'a str) -> Result<Self, AuditError> {
        let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
        let consumer = consumer(kafka, AUDIT_GROUP).map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(topic), CALL).map_err(failed)?;
        let mut bounds = Partitions::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id()) {
            // A read_committed consumer gets the last stable offset here, not the high watermark.
            let (low, end) = consumer.fetch_watermarks(topic, partition, CALL).map_err(failed)?;
            bounds.insert(partition, Bounds { low, end });
        }
        Ok(Self { topic, consumer, bounds })
    }

    pub const fn bounds(&self) -> &Partitions {
        &self.bounds
    }

    /// Calls `each` with every committed record, in order within each partition. Records that are appended meanwhile belong
    /// to the next audit: a topic that grows as fast as it is read would otherwise never end.
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
        let mut heard = Instant::now();
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    if !open.contains(&partition) {
                        continue;
                    }
                    let end = bounds.get(&partition).map_or(0, |bounds| bounds.end);
                    if offset < end {
                        each(&Record {
                            partition,
                            offset,
                            logged_at: message.timestamp().to_millis().unwrap_or_default(),
                            key: message.key(),
                            value: message.payload(),
                        })?;
                    }
                    if offset >= end.saturating_sub(1) {
                        open.remove(&partition);
                        let mut done = TopicPartitionList::new();
                        done.add_partition(topic, partition);
                        consumer.pause(&done).map_err(failed)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                    heard = Instant::now();
                }
                Some(Err(error)) if heard.elapsed() > CALL => return Err(failed(error)),
                None if heard.elapsed() > CALL => return Err(AuditError::Silent { topic: topic.to_owned() }),
                Some(Err(_)) | None => {}
            }
        }
        Ok(bounds)
    }
}

/// The offset after the last record of each partition of a topic, committed or not.
pub fn high_watermarks(kafka: &KafkaEndpoint, topic: &str) -> Result<BTreeMap<i32, i64>, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
    let mut config = kafka.consumer_config(AUDIT_GROUP);
    let consumer: BaseConsumer =
        config.set("isolation.level", "read_uncommitted").create().map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), CALL).map_err(failed)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id());
    partitions
        .map(|partition| {
            let (_, high) = consumer.fetch_watermarks(topic, partition, CALL).map_err(failed)?;
            Ok((partition, high))
        })
        .collect()
}

/// The offsets that a group has committed on a topic, by partition.
pub fn committed(
    kafka: &KafkaEndpoint,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
    let consumer = consumer(kafka, group).map_err(failed)?;
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, *partition);
    }
    let until = Instant::now() + CALL;
    let answer = loop {
        match consumer.committed_offsets(asked.clone(), CALL) {
            Ok(answer) => break answer,
            Err(error) if is_moving(&error) && Instant::now() < until => std::thread::sleep(MOVING),
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

/// The group's coordinator is on its way to another broker, or back to this one: a broker that was busy for longer than its
/// session with the controller has lost what it led for a moment.
fn is_moving(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let code = error.rdkafka_error_code();
    matches!(code, Some(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator))
}

fn consumer(kafka: &KafkaEndpoint, group: &str) -> Result<BaseConsumer, KafkaError> {
    kafka
        .consumer_config(group)
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .create()
}
