//! What the sink's consumer fetches, and from where. A lane that is not ready is not given to it: there is no offset that could stand
//! for "not yet" (see [`agentgov_connect::assign`]).

use agentgov_connect::assign::{assign, seek};
use agentgov_service::StageError;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::group;
use super::lane::{Fetching, Lane};
use crate::consumer::RebalanceListener;

/// Fetches the partitions of the lanes whose claims hold, each from where it stands, and no others.
///
/// A lane that was in doubt is moved back to where it stands. One that the consumer does not have yet, or has lost, is given to it
/// together with all others whose claims hold; that stops and starts them all.
pub(super) fn fetch(
    consumer: &BaseConsumer<RebalanceListener>,
    lanes: &mut [Lane],
) -> Result<(), StageError> {
    let ready = |lane: &Lane| lane.claim_at.is_none() && !lane.shares.is_empty();
    let back = |lane: &&Lane| ready(lane) && lane.fetching == Fetching::Rests;
    let anew = lanes.iter().any(|lane| ready(lane) && lane.fetching == Fetching::No);
    if anew || !seek(consumer, &list(lanes.iter().filter(back))?) {
        assign(consumer, &list(lanes.iter().filter(|lane| ready(lane)))?)
            .map_err(StageError::kafka("assign partitions"))?;
        for lane in &mut *lanes {
            lane.fetching = if ready(lane) { Fetching::Rests } else { Fetching::No };
        }
    }
    let back = list(lanes.iter().filter(back))?;
    if back.count() > 0 {
        consumer.resume(&back).map_err(StageError::kafka("resume partitions"))?;
    }
    for lane in lanes.iter_mut().filter(|lane| ready(lane)) {
        lane.fetching = Fetching::Yes;
    }
    Ok(())
}

/// Fetches nothing for the lanes that are in doubt.
pub(super) fn pause(consumer: &BaseConsumer<RebalanceListener>, lanes: &[Lane]) -> Result<(), StageError> {
    let rests = |lane: &&Lane| lane.claim_at.is_some() && lane.fetching == Fetching::Rests;
    let list = list(lanes.iter().filter(rests))?;
    if list.count() == 0 {
        return Ok(());
    }
    consumer.pause(&list).map_err(StageError::kafka("pause partitions"))
}

/// The partitions of `lanes`, from where they stand.
fn list<'l>(lanes: impl Iterator<Item = &'l Lane>) -> Result<TopicPartitionList, StageError> {
    let shares = lanes.flat_map(|lane| lane.shares.values());
    let list: KafkaResult<_> =
        group::list(shares.map(|share| (&share.at, Offset::Offset(share.fetch_position()))));
    list.map_err(StageError::kafka("list partitions"))
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

    /// Librdkafka's own broker: a real one cannot be made to answer late. Each fetch brings one record.
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

    /// In doubt, and not given to the consumer.
    fn lane(topic: &str) -> Lane {
        let mut lane = Lane::new(Route {
            topic: topic.into(),
            table: topic.into(),
            gapless: true,
            retention: Retention::Forever,
        });
        lane.assign(&[TopicPartition::new(topic, 0)]);
        lane
    }

    /// Polls until the lanes stand at `ends`, one record after the other.
    fn take(consumer: &BaseConsumer<RebalanceListener>, lanes: &mut [Lane], ends: &[i64]) {
        let began = Instant::now();
        while lanes.iter().zip(ends).any(|(lane, end)| lane.shares[&0].next < *end) {
            assert!(began.elapsed() < DEADLINE, "expected {ends:?}: {lanes:?}");
            let Some(message) = consumer.poll(ROUND_TRIP).transpose().unwrap() else { continue };
            let lane = lanes.iter_mut().find(|lane| lane.route.topic == message.topic()).unwrap();
            if lane.claim_at.is_some() {
                continue;
            }
            let next = &mut lane.shares.get_mut(&0).unwrap().next;
            // What comes again is nothing new to a lane.
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
    fn no_record_is_passed_over_when_lanes_become_ready_one_after_the_other() {
        let cluster = slow_cluster(&["a", "b"], 60);
        let consumer = consumer(&cluster);
        let mut lanes = [lane("a"), lane("b")];
        lanes.iter_mut().for_each(|lane| lane.claim_at = None);
        fetch(&consumer, &mut lanes).unwrap();
        take(&consumer, &mut lanes, &[5, 5]);

        // The group gives both to this process anew; the broker is connected, and takes its time.
        consumer.unassign().unwrap();
        lanes = [lane("a"), lane("b")];
        for ready in 0..lanes.len() {
            lanes[ready].claim_at = None;
            fetch(&consumer, &mut lanes).unwrap();
        }
        assert!(lanes.iter().all(|lane| lane.fetching == Fetching::Yes));
        take(&consumer, &mut lanes, &[50, 50]);
    }

    #[test]
    fn a_lane_that_was_in_doubt_goes_on_where_it_stands() {
        let cluster = slow_cluster(&["a", "b"], 40);
        let consumer = consumer(&cluster);
        let mut lanes = [lane("a"), lane("b")];
        lanes.iter_mut().for_each(|lane| lane.claim_at = None);
        fetch(&consumer, &mut lanes).unwrap();
        take(&consumer, &mut lanes, &[20, 20]);

        lanes[1].doubt();
        pause(&consumer, &lanes).unwrap();
        take(&consumer, &mut lanes, &[30, 0]);
        // The table has less than was gathered.
        lanes[1].shares.get_mut(&0).unwrap().next = 5;
        lanes[1].claim_at = None;
        fetch(&consumer, &mut lanes).unwrap();
        take(&consumer, &mut lanes, &[40, 40]);
    }

    #[test]
    fn partitions_may_be_taken_away_at_once() {
        const PARTITIONS: i32 = 100;
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", PARTITIONS, 1).unwrap();
        cluster.create_topic("b", PARTITIONS, 1).unwrap();
        let consumer = consumer(&cluster);
        for _ in 0..10 {
            let mut lanes = ["a", "b"].map(|topic| {
                let mut lane = lane(topic);
                let all: Vec<_> =
                    (0..PARTITIONS).map(|partition| TopicPartition::new(topic, partition)).collect();
                lane.assign(&all);
                lane
            });
            for ready in 0..lanes.len() {
                lanes[ready].claim_at = None;
                fetch(&consumer, &mut lanes).unwrap();
            }
            consumer.unassign().unwrap();
        }
    }
}
