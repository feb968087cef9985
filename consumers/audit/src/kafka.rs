//! Reading topics from their start to their end, and how far groups are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::AuditError;

const CALL: Duration = Duration::from_secs(15);

/// Calls `each` with the offset, logged_at is not needed, and value of every record of a partition, in order, up to what
/// is its end now. Returns the first offset that the topic still holds.
pub fn read(
    kafka: &KafkaEndpoint,
    topic: &str,
    partition: i32,
    mut each: impl FnMut(i64, &[u8]),
) -> Result<i64, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), partition, source };
    let consumer = consumer(kafka, "agentgov.audit").map_err(failed)?;
    let (low, _) = consumer.fetch_watermarks(topic, partition, CALL).map_err(failed)?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(failed)?;
    consumer.assign(&from).map_err(failed)?;
    let mut heard = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                each(message.offset(), message.payload().unwrap_or_default());
                heard = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(low),
            Some(Err(error)) if heard.elapsed() > CALL => return Err(failed(error)),
            None if heard.elapsed() > CALL => {
                return Err(AuditError::Silent { topic: topic.to_owned(), partition });
            }
            Some(Err(_)) | None => {}
        }
    }
}

/// Partitions of a topic.
pub fn partitions(kafka: &KafkaEndpoint, topic: &str) -> Result<Vec<i32>, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), partition: 0, source };
    let consumer = consumer(kafka, "agentgov.audit").map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), CALL).map_err(failed)?;
    Ok(metadata.topics().iter().flat_map(|t| t.partitions().iter().map(|p| p.id())).collect())
}

/// The offsets that a group has committed on a topic, by partition.
pub fn committed(
    kafka: &KafkaEndpoint,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>, AuditError> {
    let failed = |source| AuditError::Kafka { topic: topic.to_owned(), partition: 0, source };
    let consumer = consumer(kafka, group).map_err(failed)?;
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, *partition);
    }
    let answer = consumer.committed_offsets(asked, CALL).map_err(failed)?;
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset()
    {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    };
    Ok(answer.elements().iter().filter_map(offset).collect())
}

fn consumer(kafka: &KafkaEndpoint, group: &str) -> Result<BaseConsumer, KafkaError> {
    kafka
        .client_config()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
}
