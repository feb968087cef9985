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

/// What reading a topic came to, by partition: the first offset that it still holds.
pub type Lows = BTreeMap<i32, i64>;

/// Calls `each` with partition, offset, key and value (of a tombstone: none) of every record of a topic, in order within each partition, up to what is
/// its end now.
pub fn read(
    kafka: &KafkaEndpoint,
    topic: &str,
    mut each: impl FnMut(i32, i64, &[u8], Option<&[u8]>),
) -> Result<Lows, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), source };
    let consumer = consumer(kafka, AUDIT_GROUP).map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), CALL).map_err(failed)?;
    let (mut lows, mut from) = (Lows::new(), TopicPartitionList::new());
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id()) {
        let (low, _) = consumer.fetch_watermarks(topic, partition, CALL).map_err(failed)?;
        from.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(failed)?;
        lows.insert(partition, low);
    }
    consumer.assign(&from).map_err(failed)?;
    let mut open: BTreeSet<i32> = lows.keys().copied().collect();
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                // What came after its end was first seen belongs to the next audit.
                if open.contains(&message.partition()) {
                    let key = message.key().unwrap_or_default();
                    each(message.partition(), message.offset(), key, message.payload());
                }
                heard = Instant::now();
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
    Ok(lows)
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
