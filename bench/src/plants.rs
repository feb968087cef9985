//! Mistakes of a stage or of a decision point, planted through the hooks of the runtime and of the decision point: they contain
//! none themselves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentgov_faults::{
    PLANT_ALTER_DECISION, PLANT_COMMIT_FIRST, PLANT_DOUBLE_DECISION, PLANT_FORGET_DECISION,
    PLANT_NO_TAIL_READ,
};
use agentgov_pdp::{DecisionLog, NotRecorded, RecordedDecision};
use agentgov_runtime::hooks::{self, GroupConsumer, Hooks, TopicPartition};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// One decision of this number is recorded wrongly.
const WRONG_ONE_IN: u64 = 20;
/// Timeout of a request for committed offsets.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets the stages of this process make the mistakes that `FAILPOINTS` names.
pub fn arm() {
    hooks::set(Hooks { before_transaction, restored_progress, resume_offset });
    agentgov_pdp::hooks::set_record(record_decision);
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

/// Records each decision, or makes a planted mistake with some.
fn record_decision(log: &dyn DecisionLog, decision: &RecordedDecision<'_>) -> Result<(), NotRecorded> {
    static DECISIONS: AtomicU64 = AtomicU64::new(0);
    let number = DECISIONS.fetch_add(1, Ordering::Relaxed);
    let is_wrong = |plant, offset| number % WRONG_ONE_IN == offset && is_planted(plant);
    if is_wrong(PLANT_FORGET_DECISION, 1) {
        return Ok(());
    }
    if is_wrong(PLANT_DOUBLE_DECISION, 2) {
        log.record(decision)?;
    }
    if is_wrong(PLANT_ALTER_DECISION, 3) {
        let mut altered = decision.clone();
        altered.decision.decision = "indeterminate";
        return log.record(&altered);
    }
    log.record(decision)
}
