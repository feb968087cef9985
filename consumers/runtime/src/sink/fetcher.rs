//! Controls which partitions the sink's consumer fetches, and from where. It assigns only partitions of ready writers:
//! no offset could express "not yet" (see [`agentgov_connect::assign`]).

use agentgov_connect::assign::{assign, seek};
use agentgov_service::StageError;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::group;
use super::table_writer::{FetchState, TableWriter};
use crate::consumer::RebalanceListener;

/// Fetches the partitions of the writers whose claims hold, each from its position, and no others.
///
/// A writer that was invalidated is moved back to its position. Partitions that the consumer does not have are assigned
/// together with those of all other ready writers, which stops and restarts all of them.
pub(super) fn fetch(
    consumer: &BaseConsumer<RebalanceListener>,
    writers: &mut [TableWriter],
) -> Result<(), StageError> {
    let ready = |writer: &TableWriter| writer.claim_at.is_none() && !writer.partitions.is_empty();
    let paused = |writer: &&TableWriter| ready(writer) && writer.fetch_state == FetchState::Paused;
    let reassign = writers.iter().any(|writer| ready(writer) && writer.fetch_state == FetchState::Unassigned);
    if reassign || !seek(consumer, &list(writers.iter().filter(paused))?) {
        assign(consumer, &list(writers.iter().filter(|writer| ready(writer)))?)
            .map_err(StageError::kafka("assigning partitions"))?;
        for writer in &mut *writers {
            writer.fetch_state = if ready(writer) { FetchState::Paused } else { FetchState::Unassigned };
        }
    }
    let paused = list(writers.iter().filter(paused))?;
    if paused.count() > 0 {
        consumer.resume(&paused).map_err(StageError::kafka("resuming partitions"))?;
    }
    for writer in writers.iter_mut().filter(|writer| ready(writer)) {
        writer.fetch_state = FetchState::Active;
    }
    Ok(())
}

/// Pauses the partitions of invalidated writers.
pub(super) fn pause(
    consumer: &BaseConsumer<RebalanceListener>,
    writers: &[TableWriter],
) -> Result<(), StageError> {
    let is_paused =
        |writer: &&TableWriter| writer.claim_at.is_some() && writer.fetch_state == FetchState::Paused;
    let list = list(writers.iter().filter(is_paused))?;
    if list.count() == 0 {
        return Ok(());
    }
    consumer.pause(&list).map_err(StageError::kafka("pausing partitions"))
}

/// Returns the partitions of `writers` with their positions.
fn list<'l>(writers: impl Iterator<Item = &'l TableWriter>) -> Result<TopicPartitionList, StageError> {
    let partitions = writers.flat_map(|writer| writer.partitions.values());
    let list: KafkaResult<_> =
        group::list(partitions.map(|owned| (&owned.at, Offset::Offset(owned.fetch_position()))));
    list.map_err(StageError::kafka("listing partitions"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use agentgov_connect::KafkaEndpoint;
    use agentgov_schemas::topology::Retention;
    use rdkafka::ClientConfig;
    use rdkafka::Message as _;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::super::{Route, TopicPartition};
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A mock broker of librdkafka with slow responses. Each fetch returns one record.
    fn slow_cluster(topics: &[&str], records: usize) -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("batch.num.messages", "1");
        let producer: BaseProducer = config.create().unwrap();
        for topic in topics {
            cluster.create_topic(topic, 1, 1).unwrap();
            for _ in 0..records {
                producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload("x")).unwrap();
            }
        }
        producer.flush(DEADLINE).unwrap();
        cluster.broker_round_trip_time(1, ROUND_TRIP).unwrap();
        cluster
    }

    fn consumer(cluster: &MockCluster<'static, DefaultProducerContext>) -> BaseConsumer<RebalanceListener> {
        let mut config = KafkaEndpoint::at(cluster.bootstrap_servers()).consumer_config("sink");
        config.set("auto.offset.reset", "error").set("fetch.message.max.bytes", "1");
        config.create_with_context(RebalanceListener::default()).unwrap()
    }

    /// Returns a writer that is invalidated and not assigned to the consumer.
    fn invalidated_writer(topic: &str) -> TableWriter {
        let mut writer = TableWriter::new(Route {
            topic: topic.into(),
            table: topic.into(),
            gapless: true,
            retention: Retention::Forever,
        });
        writer.assign(&[TopicPartition::new(topic, 0)]);
        writer
    }

    /// Polls until the writers reach `ends`, and checks that no offset is skipped.
    fn take(consumer: &BaseConsumer<RebalanceListener>, writers: &mut [TableWriter], ends: &[i64]) {
        let began = Instant::now();
        while writers.iter().zip(ends).any(|(writer, end)| writer.partitions[&0].next < *end) {
            assert!(began.elapsed() < DEADLINE, "expected {ends:?}: {writers:?}");
            let Some(message) = consumer.poll(ROUND_TRIP).transpose().unwrap() else { continue };
            let writer = writers.iter_mut().find(|writer| writer.route.topic == message.topic()).unwrap();
            if writer.claim_at.is_some() {
                continue;
            }
            let next = &mut writer.partitions.get_mut(&0).unwrap().next;
            // A writer ignores a record that it already has.
            assert!(
                message.offset() <= *next,
                "{}: expected {next}, found {}",
                message.topic(),
                message.offset()
            );
            *next = (*next).max(message.offset() + 1);
        }
    }

    #[test]
    fn writers_that_become_ready_one_by_one_lose_no_record() {
        let cluster = slow_cluster(&["a", "b"], 60);
        let consumer = consumer(&cluster);
        let mut writers = [invalidated_writer("a"), invalidated_writer("b")];
        writers.iter_mut().for_each(|writer| writer.claim_at = None);
        fetch(&consumer, &mut writers).unwrap();
        take(&consumer, &mut writers, &[5, 5]);

        // The group assigns both again. The broker is connected, and responds slowly.
        consumer.unassign().unwrap();
        writers = [invalidated_writer("a"), invalidated_writer("b")];
        for ready in 0..writers.len() {
            writers[ready].claim_at = None;
            fetch(&consumer, &mut writers).unwrap();
        }
        assert!(writers.iter().all(|writer| writer.fetch_state == FetchState::Active));
        take(&consumer, &mut writers, &[50, 50]);
    }

    #[test]
    fn invalidated_writer_resumes_at_its_position() {
        let cluster = slow_cluster(&["a", "b"], 40);
        let consumer = consumer(&cluster);
        let mut writers = [invalidated_writer("a"), invalidated_writer("b")];
        writers.iter_mut().for_each(|writer| writer.claim_at = None);
        fetch(&consumer, &mut writers).unwrap();
        take(&consumer, &mut writers, &[20, 20]);

        writers[1].invalidate();
        pause(&consumer, &writers).unwrap();
        take(&consumer, &mut writers, &[30, 0]);
        // The table has fewer rows than the writer had buffered.
        writers[1].partitions.get_mut(&0).unwrap().next = 5;
        writers[1].claim_at = None;
        fetch(&consumer, &mut writers).unwrap();
        take(&consumer, &mut writers, &[40, 40]);
    }

    #[test]
    fn partitions_can_be_revoked_right_after_assignment() {
        const PARTITIONS: i32 = 100;
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", PARTITIONS, 1).unwrap();
        cluster.create_topic("b", PARTITIONS, 1).unwrap();
        let consumer = consumer(&cluster);
        for _ in 0..10 {
            let mut writers = ["a", "b"].map(|topic| {
                let mut writer = invalidated_writer(topic);
                let all: Vec<_> =
                    (0..PARTITIONS).map(|partition| TopicPartition::new(topic, partition)).collect();
                writer.assign(&all);
                writer
            });
            for ready in 0..writers.len() {
                writers[ready].claim_at = None;
                fetch(&consumer, &mut writers).unwrap();
            }
            consumer.unassign().unwrap();
        }
    }
}
