//! What the group says of this consumer's partitions. The callback only takes note: claiming what was assigned needs
//! I/O, and the loop does that between two polls. Revoked partitions are given up at once, inside the callback.

use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::bindings::rd_kafka_resp_err_t as RespErr;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

/// What happened to the assignment since the last look, the latest word only.
#[derive(Debug)]
pub(super) enum Change {
    /// These are ours, once we say so by calling assign.
    Assigned(Vec<i32>),
    /// Nothing is ours: drop what is in work and what is known. True if they were lost: the group went on without us.
    Revoked { lost: bool },
}

#[derive(Debug, Default)]
pub(super) struct GroupContext {
    changes: Mutex<Vec<Change>>,
}

impl GroupContext {
    /// The changes since the last call, oldest first.
    pub(super) fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }
}

impl ClientContext for GroupContext {}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RespErr, tpl: &mut TopicPartitionList) {
        if err == RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let partitions = tpl.elements().iter().map(|e| e.partition()).collect();
            tracing::info!(?partitions, "assigned");
            self.note(Change::Assigned(partitions));
        } else {
            let lost = consumer.assignment_lost();
            tracing::info!(lost, "revoked");
            self.note(Change::Revoked { lost });
            if let Err(error) = consumer.unassign() {
                tracing::error!(%error, "unassign failed");
            }
        }
    }
}
