//! Hooks with which the fault harness plants a mistake in a loop, to show that its audit finds the mistake (ADR 0026).
//!
//! Only `agentgov-bench armed` sets them. No environment variable sets a hook in the product. Without a hook a call
//! costs one load.

use std::sync::OnceLock;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

pub use crate::consumer::{RebalanceListener, TopicPartition};

/// Consumer of a stage's group.
pub type GroupConsumer = BaseConsumer<RebalanceListener>;

/// The hooks of a process.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Runs before the transaction of a batch begins, with the offsets that the transaction is to commit.
    pub before_transaction: fn(&GroupConsumer, &TopicPartitionList) -> KafkaResult<()>,
    /// Returns the input offset up to which a changelog counts as applied, from the group's committed offset and the
    /// changelog's progress entry.
    pub restored_progress: fn(committed: Option<i64>, progress: Option<i64>) -> Option<i64>,
    /// Returns the offset at which the sink resumes a partition, from the offset after the table's last row.
    pub resume_offset: fn(&GroupConsumer, &TopicPartition, next: i64) -> KafkaResult<i64>,
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Sets the hooks of this process. The first ones stay.
pub fn set(hooks: Hooks) {
    HOOKS.get_or_init(|| hooks);
}

pub(crate) fn before_transaction(consumer: &GroupConsumer, offsets: &TopicPartitionList) -> KafkaResult<()> {
    HOOKS.get().map_or(Ok(()), |hooks| (hooks.before_transaction)(consumer, offsets))
}

pub(crate) fn restored_progress(committed: Option<i64>, progress: Option<i64>) -> Option<i64> {
    HOOKS.get().map_or(progress, |hooks| (hooks.restored_progress)(committed, progress))
}

pub(crate) fn resume_offset(consumer: &GroupConsumer, at: &TopicPartition, next: i64) -> KafkaResult<i64> {
    HOOKS.get().map_or(Ok(next), |hooks| (hooks.resume_offset)(consumer, at, next))
}
