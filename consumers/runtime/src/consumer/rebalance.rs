//! Rebalances of a stage's group. The callback only records them. The loop handles them between two polls, as restoring
//! state and claiming partitions need I/O.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

/// Partition of a topic. Claims and rows carry its name, `topic/partition`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    name: Arc<str>,
}

impl TopicPartition {
    /// Creates the value for `partition` of `topic`.
    pub fn new(topic: &str, partition: i32) -> Self {
        Self { topic: topic.into(), partition, name: format!("{topic}/{partition}").into() }
    }

    /// Returns `topic/partition`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Change of the partitions that this process owns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    /// The process owns these partitions. It fetches them once the loop has assigned them.
    Assigned(Vec<TopicPartition>),
    /// The process owns no partition. `lost`: the group has continued without this process.
    Revoked { lost: bool },
}

/// Keeps the last rebalance for the loop.
#[derive(Debug, Default)]
pub struct RebalanceListener {
    last: Mutex<Option<Rebalance>>,
    is_pending: AtomicBool,
}

impl RebalanceListener {
    /// Returns true if a rebalance is pending: `take` returns it.
    pub(crate) fn has_rebalance(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    /// Returns the last rebalance since the last call. Each rebalance replaces the assignment before it. A loop that
    /// applied an earlier one could fetch partitions that this process no longer owns.
    pub(crate) fn take(&self) -> Option<Rebalance> {
        self.is_pending.store(false, Ordering::Release);
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn record(&self, rebalance: Rebalance) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(rebalance);
        self.is_pending.store(true, Ordering::Release);
    }
}

impl ClientContext for RebalanceListener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, message, "kafka");
            }
            _ => tracing::warn!(facility, message, "kafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ConsumerContext for RebalanceListener {
    /// Answers an assignment at once with an empty one, so that the group never waits for a store or a changelog. The
    /// loop assigns the partitions when it knows the resume positions. A revocation is answered here, before any other
    /// work.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let (rebalance, answered) = match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let assigned = partitions.elements();
                let assigned =
                    assigned.iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect();
                (Rebalance::Assigned(assigned), consumer.assign(&TopicPartitionList::new()))
            }
            _ => {
                // Read before `unassign`, which resets it.
                let lost = consumer.assignment_lost();
                (Rebalance::Revoked { lost }, consumer.unassign())
            }
        };
        tracing::info!(?rebalance, "rebalance");
        if let Err(error) = answered {
            tracing::error!(%error, ?rebalance, "could not answer the rebalance");
        }
        self.record(rebalance);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "could not commit offsets; only the reported lag is affected");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use agentgov_connect::KafkaEndpoint;
    use agentgov_schemas::topology::Topology;
    use rdkafka::mocking::MockCluster;

    use super::super::member_config;
    use super::*;

    fn next(consumer: &BaseConsumer<RebalanceListener>) -> Rebalance {
        let began = Instant::now();
        while !consumer.context().has_rebalance() {
            assert!(began.elapsed() < Duration::from_secs(60));
            let _ = consumer.poll(Duration::from_millis(20));
        }
        consumer.context().take().unwrap()
    }

    #[test]
    fn the_last_of_several_rebalances_is_the_one_that_counts() {
        let listener = RebalanceListener::default();
        assert_eq!((listener.has_rebalance(), listener.take()), (false, None));
        let assigned = |partition| Rebalance::Assigned(vec![TopicPartition::new("a", partition)]);
        for (rebalances, last) in [
            (vec![assigned(0)], assigned(0)),
            (vec![assigned(0), Rebalance::Revoked { lost: true }], Rebalance::Revoked { lost: true }),
            (vec![Rebalance::Revoked { lost: false }, assigned(1)], assigned(1)),
            (vec![assigned(0), Rebalance::Revoked { lost: false }, assigned(1)], assigned(1)),
        ] {
            rebalances.into_iter().for_each(|rebalance| listener.record(rebalance));
            assert!(listener.has_rebalance());
            assert_eq!((listener.take(), listener.has_rebalance()), (Some(last), false));
        }
        assert_eq!(listener.take(), None);
    }

    #[test]
    fn assignment_is_empty_until_the_loop_assigns_partitions() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 2, 1).unwrap();
        let kafka = KafkaEndpoint::at(cluster.bootstrap_servers());
        let timing = &Topology::embedded().unwrap().timing;
        let consumer: BaseConsumer<RebalanceListener> =
            member_config(&kafka, "stage", timing).create_with_context(RebalanceListener::default()).unwrap();
        consumer.subscribe(&["a"]).unwrap();
        let owned = [0, 1].map(|partition| TopicPartition::new("a", partition));
        assert_eq!(next(&consumer), Rebalance::Assigned(owned.to_vec()));
        assert!(!consumer.context().has_rebalance(), "taken");
        assert_eq!(consumer.assignment().unwrap().count(), 0);

        let mut list = TopicPartitionList::new();
        list.add_partition_offset("a", 0, rdkafka::Offset::Offset(0)).unwrap();
        agentgov_connect::assign::assign(&consumer, &list).unwrap();
        consumer.unsubscribe();
        assert_eq!(next(&consumer), Rebalance::Revoked { lost: false });
        assert_eq!(consumer.assignment().unwrap().count(), 0, "given up within the callback");
    }
}
