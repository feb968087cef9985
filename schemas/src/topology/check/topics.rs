//! Rules about topics.

use super::Draft;
use crate::subject::{self, Subject};
use crate::topology::{Cleanup, KeyKind, ProducerKind, Retention};
use crate::yaml::Problems;

/// Schemas of topics that clients other than stages write: actions, governance topics and controls.
const EXTERNALLY_WRITTEN: &[Subject] =
    &[subject::ACTION_EVENT, subject::AGENT, subject::TOOL, subject::BUNDLE, subject::CONTROL, subject::KEY];

/// Limits on numbers. A batch needs at least 64 KiB, so that every reject (with 4 KiB of the record) and alert fits. A consumer
/// must hold a batch for each partition, so a batch has at most 64 MiB.
pub(super) fn numbers(draft: &Draft, problems: &mut Problems) {
    const BATCH_BYTES: std::ops::RangeInclusive<i32> = 65_536..=67_108_864;
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
        if !BATCH_BYTES.contains(&bytes.value) {
            problems.add(
                bytes.referenced,
                format!(
                    "expected between {} and {} bytes, found {}",
                    BATCH_BYTES.start(),
                    BATCH_BYTES.end(),
                    bytes.value
                ),
            );
        }
    }
}

/// Only changelogs are compacted, since compaction keeps only the last record of a key.
pub(super) fn compaction(draft: &Draft, problems: &mut Problems) {
    let is_state = |name: &str| {
        draft
            .stages
            .valid()
            .any(|(_, stage)| stage.value.state.as_ref().is_some_and(|state| state.value == name))
    };
    // The topic may be the changelog of a stage that is invalid.
    let all_stages_known = draft.stages.0.values().all(Option::is_some);
    for (name, topic) in draft.topics.valid() {
        if topic.value.cleanup != Cleanup::Compact {
            continue;
        }
        if topic.value.retention.value != Retention::Forever {
            problems.add(
                topic.value.retention.referenced,
                format!(
                    "`{name}` is compacted; expected retention: forever, since retention would delete valid state"
                ),
            );
        }
        if topic.value.key != KeyKind::Entry {
            problems.add(
                draft.root.location(&["topics", name, "key"]),
                format!(
                    "`{name}` is compacted; expected key: entry, since compaction keeps one record of each key"
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

/// In the topic of actions each offset is a record, and the records of a session are in one partition.
pub(super) fn actions(draft: &Draft, problems: &mut Problems) {
    for (name, topic) in draft.topics.valid() {
        if topic.value.schema.value != subject::ACTION_EVENT.name {
            continue;
        }
        if topic.value.producer != ProducerKind::Idempotent {
            problems.add(
                draft.root.location(&["topics", name, "producer"]),
                format!("`{name}` carries actions; expected producer: idempotent, since an open transaction holds back other producers' events"),
            );
        }
        if topic.value.key != KeyKind::Session {
            problems.add(
                draft.root.location(&["topics", name, "key"]),
                format!("`{name}` carries actions; expected key: session, so that the actions of a session are in order"),
            );
        }
    }
}

/// Every topic has a reader and a writer. Stages write in transactions, other clients without.
pub(super) fn used(draft: &Draft, problems: &mut Problems) {
    if draft.stages.0.values().any(Option::is_none) {
        return; // An invalid stage may be the missing reader or writer.
    }
    for (name, topic) in draft.topics.valid() {
        let at = draft.root.location(&["topics", name]);
        let is = |used: &serde_saphyr::Spanned<String>| used.value == name;
        let stages = || draft.stages.valid().map(|(_, stage)| &stage.value);
        let is_state = stages().any(|s| s.state.as_ref().is_some_and(is));
        if !is_state && !stages().any(|s| s.reads.iter().chain(&s.global_tables).any(is)) {
            problems.add(
                at,
                format!("no stage reads `{name}`; expected a stage that reads it, or no such topic"),
            );
        }
        let outside = EXTERNALLY_WRITTEN.iter().any(|subject| subject.name == topic.value.schema.value);
        let staged = is_state || stages().any(|s| s.emits.iter().any(is));
        if !staged && !outside {
            problems.add(
                at,
                format!("no stage writes `{name}`; expected a stage that emits it, or no such topic"),
            );
        }
        let expected = match (staged, topic.value.producer) {
            (true, ProducerKind::Idempotent) => {
                "transactional: a stage writes it in one transaction with its offsets"
            }
            (false, ProducerKind::Transactional) if outside => {
                "idempotent: clients other than stages write it"
            }
            _ => continue,
        };
        // The rule `actions` reports this topic.
        if topic.value.schema.value != subject::ACTION_EVENT.name {
            problems.add(
                draft.root.location(&["topics", name, "producer"]),
                format!("producer of `{name}`: expected {expected}"),
            );
        }
    }
}
