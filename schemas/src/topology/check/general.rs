//! Rules about the topology as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Draft;
use crate::subject::{SUBJECTS, Subject};
use crate::topology::HumanDuration;
use crate::yaml::{Problems, one_of};

/// A later format is not guessed at.
pub(super) fn version(draft: &Draft, problems: &mut Problems) {
    if let Some(version) = draft.version.as_ref().filter(|version| version.value != 1) {
        problems.add(version.referenced, format!("expected version 1, found {}", version.value));
    }
}

/// Code asks for a topic by its schema, so each schema has exactly one.
pub(super) fn schemas(draft: &Draft, problems: &mut Problems) {
    let mut carriers: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, topic) in draft.topics.valid() {
        let schema = &topic.value.schema;
        if Subject::by_name(&schema.value).is_none() {
            let names: Vec<_> = SUBJECTS.iter().map(|subject| subject.name).collect();
            problems.add(
                schema.referenced,
                format!("unknown schema `{}`; expected {}", schema.value, one_of(&names)),
            );
        } else if let Some(other) = carriers.insert(&schema.value, name) {
            problems.add(
                schema.referenced,
                format!(
                    "schema `{}` is carried by `{other}` already; expected one topic a schema",
                    schema.value
                ),
            );
        }
    }
    // A topic that could not be read may be the one.
    if draft.topics.0.values().any(Option::is_none) {
        return;
    }
    for subject in SUBJECTS.iter().filter(|subject| !carriers.contains_key(subject.name)) {
        problems.add(
            draft.root.location(&["topics"]),
            format!("expected a topic with schema `{}`", subject.name),
        );
    }
}

/// A process that misses two heartbeats in a row may still be alive, and Kafka's brokers refuse transactions above 15
/// minutes (transaction.max.timeout.ms).
pub(super) fn timing(draft: &Draft, problems: &mut Problems) {
    const LONGEST_TRANSACTION: Duration = Duration::from_secs(15 * 60);
    let Some(timing) = draft.timing else { return };
    let place = |key| draft.root.location(&["timing", key]);
    for (key, span) in [
        ("session_timeout", timing.session_timeout),
        ("heartbeat", timing.heartbeat),
        ("transaction_timeout", timing.transaction_timeout),
        ("insert_timeout", timing.insert_timeout),
    ] {
        if span == HumanDuration(Duration::ZERO) {
            problems.add(place(key), format!("{key}: expected more than 0"));
        }
    }
    if timing.session_timeout.0 <= timing.heartbeat.0 * 2 {
        problems.add(place("heartbeat"), "expected a heartbeat below half of session_timeout".to_owned());
    }
    if timing.transaction_timeout.0 > LONGEST_TRANSACTION {
        problems.add(place("transaction_timeout"), "expected at most 15m, which brokers allow".to_owned());
    }
}
