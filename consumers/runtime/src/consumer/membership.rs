//! The group membership under which a batch commits.

use agentgov_service::StageError;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};

/// Returns the group metadata of the generation in which the records of the last poll were fetched. `None`: the group
/// has continued without this process, another process may own its partitions, and the revocation is in the consumer's
/// queue.
///
/// A client that has lost its session resets its member id or its generation before the loop polls the revocation. A
/// broker accepts a transaction's offsets from any client that sends neither. The client marks its assignment as lost
/// in the same step, so this function reads the mark after the metadata.
///
/// # Errors
/// Fails if the consumer was created without a group.
pub(crate) fn membership<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
) -> Result<Option<ConsumerGroupMetadata>, StageError> {
    let Some(metadata) = consumer.group_metadata() else {
        return Err(StageError::Internal("expected a consumer with a group, found one without".into()));
    };
    Ok((!consumer.assignment_lost()).then_some(metadata))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use agentgov_connect::KafkaEndpoint;
    use agentgov_schemas::topology::{HumanDuration, Timing, Topology};
    use rdkafka::TopicPartitionList;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::{Rebalance, RebalanceListener, member_config};
    use super::*;

    #[test]
    fn a_lost_session_has_no_membership_before_its_revocation_is_polled() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 1, 1).unwrap();
        let kafka = KafkaEndpoint::at(cluster.bootstrap_servers());
        let timing = Timing {
            heartbeat: HumanDuration(Duration::from_millis(50)),
            ..Topology::embedded().unwrap().timing
        };
        let consumer: BaseConsumer<RebalanceListener> = member_config(&kafka, "stage", &timing)
            .create_with_context(RebalanceListener::default())
            .unwrap();
        consumer.subscribe(&["a"]).unwrap();
        let began = Instant::now();
        let next = || loop {
            assert!(began.elapsed() < Duration::from_secs(60));
            let _ = consumer.poll(Duration::from_millis(20));
            if let Some(rebalance) = consumer.context().take() {
                break rebalance;
            }
        };
        assert!(matches!(next(), Rebalance::Assigned(_)));
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("a", 0, rdkafka::Offset::Offset(0)).unwrap();
        agentgov_connect::assign::assign(&consumer, &list).unwrap();
        assert!(membership(&consumer).unwrap().is_some());

        let unknown_member = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
        cluster.request_errors(RDKafkaApiKey::Heartbeat, &[unknown_member]);
        while membership(&consumer).unwrap().is_some() {
            assert!(began.elapsed() < Duration::from_secs(60), "the heartbeat was refused");
        }
        assert_eq!(next(), Rebalance::Revoked { lost: true });
        assert!(matches!(next(), Rebalance::Assigned(_)), "it joins again");
        assert!(membership(&consumer).unwrap().is_some());
    }
}
