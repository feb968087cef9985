//! Rules about topics.

use super::Draft;
use crate::subject::{self, Subject};
use crate::topology::{Cleanup, KeyKind, ProducerKind, Retention};
use crate::yaml::Problems;

/// Topics that are written from outside the stages: what agents do, and what the registry says.
const FROM_OUTSIDE: &[Subject] =
    &[subject::ACTION_EVENT, subject::AGENT, subject::TOOL, subject::BUNDLE, subject::CONTROL];

/// A record of 64 KiB is the least that a reject with its first 4 KiB and an alert fit into with room to spare; a batch of
/// 64 MiB is the most that a consumer can be asked to hold per partition.
pub(super) fn numbers(draft: &Draft, problems: &mut Problems) {
    const BATCH: std::ops::RangeInclusive<i32> = 65_536..=67_108_864;
    for (name, topic) in draft.topics.valid() {
        let partitions = &topic.value.partitions;
        if !(1..=10_000).contains(&partitions.value) {
            problems.add(
                partitions.referenced,
                format!("expected 1 to 10000 partitions, found {}", partitions.value),
            );
        }
        if let Some(replication) = topic.value.replication.filter(|n| !(1..=99).contains(n)) {
            let at = draft.root.location(&["topics", name, "replication"]);
            problems.add(at, format!("expected 1 to 99 replicas, found {replication}"));
        }
        if topic.value.retention.value == Retention::For(std::time::Duration::ZERO) {
            problems.add(topic.value.retention.referenced, "expected a retention above 0".to_owned());
        }
        let bytes = &topic.value.max_message_bytes;
        if !BATCH.contains(&bytes.value) {
            problems.add(
                bytes.referenced,
                format!(
                    "expected between {} and {} bytes, found {}",
                    BATCH.start(),
                    BATCH.end(),
                    bytes.value
                ),
            );
        }
    }
}

/// Compaction keeps the last record of a key: right for a changelog, a loss anywhere else.
pub(super) fn compaction(draft: &Draft, problems: &mut Problems) {
    let is_state = |name: &str| {
        draft
            .stages
            .valid()
            .any(|(_, stage)| stage.value.state.as_ref().is_some_and(|state| state.value == name))
    };
    // A stage that could not be read may have it as its state.
    let all_stages_known = draft.stages.0.values().all(Option::is_some);
    for (name, topic) in draft.topics.valid() {
        if topic.value.cleanup != Cleanup::Compact {
            continue;
        }
        if topic.value.retention.value != Retention::Forever {
            problems.add(
                topic.value.retention.referenced,
                format!(
                    "`{name}` is compacted; expected retention: forever, or state that is still valid goes"
                ),
            );
        }
        if topic.value.key != KeyKind::Entry {
            problems.add(
                draft.root.location(&["topics", name, "key"]),
                format!(
                    "`{name}` is compacted; expected key: entry, or a session's entries replace each other"
                ),
            );
        }
        if all_stages_known && !is_state(name) {
            problems.add(
                draft.root.location(&["topics", name, "cleanup"]),
                format!(
                    "`{name}` is no stage's state; expected cleanup: delete, since compaction loses records"
                ),
            );
        }
    }
}

/// The log of actions: each offset one record, a session's records in one partition, none replaced.
pub(super) fn actions(draft: &Draft, problems: &mut Problems) {
    for (name, topic) in draft.topics.valid() {
        if topic.value.schema.value != subject::ACTION_EVENT.name {
            continue;
        }
        if topic.value.producer != ProducerKind::Idempotent {
            problems.add(
                draft.root.location(&["topics", name, "producer"]),
                format!("`{name}` carries actions; expected producer: idempotent, as an open transaction holds back what others tell"),
            );
        }
        if topic.value.key != KeyKind::Session {
            problems.add(
                draft.root.location(&["topics", name, "key"]),
                format!("`{name}` carries actions; expected key: session, so that a session's are in order"),
            );
        }
    }
}

/// Every topic has a reader and a writer. Stages write in transactions, others without.
pub(super) fn used(draft: &Draft, problems: &mut Problems) {
    if draft.stages.0.values().any(Option::is_none) {
        return; // The missing reader or writer may be the stage that could not be read.
    }
    for (name, topic) in draft.topics.valid() {
        let at = draft.root.location(&["topics", name]);
        let is = |used: &serde_saphyr::Spanned<String>| used.value == name;
        let stages = || draft.stages.valid().map(|(_, stage)| &stage.value);
        let is_state = stages().any(|s| s.state.as_ref().is_some_and(is));
        if !is_state && !stages().any(|s| s.reads.iter().chain(&s.global_tables).any(is)) {
            problems
                .add(at, format!("nobody reads `{name}`; expected a stage that reads it, or no such topic"));
        }
        let outside = FROM_OUTSIDE.iter().any(|subject| subject.name == topic.value.schema.value);
        let staged = is_state || stages().any(|s| s.emits.iter().any(is));
        if !staged && !outside {
            problems
                .add(at, format!("nobody writes `{name}`; expected a stage that emits it, or no such topic"));
        }
        let expected = match (staged, topic.value.producer) {
            (true, ProducerKind::Idempotent) => "transactional: a stage writes it together with its offsets",
            (false, ProducerKind::Transactional) if outside => {
                "idempotent: it is written from outside the stages"
            }
            _ => continue,
        };
        // The rule `actions` says it already.
        if topic.value.schema.value != subject::ACTION_EVENT.name {
            problems.add(
                draft.root.location(&["topics", name, "producer"]),
                format!("producer of `{name}`: expected {expected}"),
            );
        }
    }
}
