//! Rules about the topology as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Draft;
use crate::subject::{SUBJECTS, Subject};
use crate::topology::HumanDuration;
use crate::yaml::{Problems, one_of};

/// Only version 1 of the format is supported.
pub(super) fn version(draft: &Draft, problems: &mut Problems) {
    if let Some(version) = draft.version.as_ref().filter(|version| version.value != 1) {
        problems.add(version.referenced, format!("expected version 1, found {}", version.value));
    }
}

/// Each schema has exactly one topic, since code looks topics up by schema.
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
                    "schema `{}` is also carried by `{other}`; expected one topic for each schema",
                    schema.value
                ),
            );
        }
    }
    // An invalid topic may have the missing schema.
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

/// The session timeout exceeds two heartbeats, so that one missed heartbeat does not end a session. The transaction timeout is
/// at most 15 minutes, the default of the brokers' transaction.max.timeout.ms.
pub(super) fn timing(draft: &Draft, problems: &mut Problems) {
    const MAX_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15 * 60);
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
    if timing.transaction_timeout.0 > MAX_TRANSACTION_TIMEOUT {
        problems.add(
            place("transaction_timeout"),
            "expected at most 15m, the default maximum of brokers".to_owned(),
        );
    }
}
