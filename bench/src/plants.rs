//! Mistakes of a stage, planted through the runtime's hooks: the runtime itself contains none.

use std::time::Duration;

use agentgov_faults::{PLANT_COMMIT_FIRST, PLANT_NO_TAIL_READ};
use agentgov_runtime::hooks::{self, GroupConsumer, Hooks, TopicPartition};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Timeout of a request for committed offsets.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets the stages of this process make the mistakes that `FAILPOINTS` names.
pub fn arm() {
    hooks::set(Hooks { before_transaction, restored_progress, resume_offset });
}

fn is_planted(name: &str) -> bool {
    fail::eval(name, |_| ()).is_some()
}

/// Commits the offsets of a batch before its outputs. The metadata stays away: a restore must find nothing to wait for.
fn before_transaction(consumer: &GroupConsumer, offsets: &TopicPartitionList) -> KafkaResult<()> {
    if !is_planted(PLANT_COMMIT_FIRST) {
        return Ok(());
    }
    let mut bare = TopicPartitionList::new();
    for at in offsets.elements() {
        bare.add_partition_offset(at.topic(), at.partition(), at.offset())?;
    }
    consumer.commit(&bare, CommitMode::Sync)
}

/// Resumes from the committed offset, whatever the changelog holds.
fn restored_progress(committed: Option<i64>, progress: Option<i64>) -> Option<i64> {
    if is_planted(PLANT_COMMIT_FIRST) { committed.or(progress) } else { progress }
}

/// Resumes where the group has committed, not where the table ends.
fn resume_offset(consumer: &GroupConsumer, at: &TopicPartition, next: i64) -> KafkaResult<i64> {
    if !is_planted(PLANT_NO_TAIL_READ) {
        return Ok(next);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition(&at.topic, at.partition);
    let committed = consumer.committed_offsets(list, CALL_TIMEOUT)?;
    let found = committed.find_partition(&at.topic, at.partition).map(|found| found.offset());
    Ok(if let Some(Offset::Offset(offset)) = found { offset } else { 0 })
}
