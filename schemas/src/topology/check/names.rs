//! Rules about names and descriptions.

use std::collections::BTreeMap;

use super::Draft;
use crate::yaml::{Location, Problems};

/// Kafka's rules for topic names (Topic.validate): 1 to 249 of these characters, not `.` or `..`. Metric names turn dots into
/// underscores, so brokers reject two names that differ only in them.
pub(super) fn topics(draft: &Draft, problems: &mut Problems) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for name in draft.topics.0.keys() {
        let at = draft.root.location(&["topics", name]);
        if !is_kafka_name(name) {
            problems.add(
                at,
                format!(
                    "topic `{name}`: expected a name of 1 to 249 of the characters a-z A-Z 0-9 . _ -, other than . and .."
                ),
            );
        }
        if let Some(other) = seen.insert(name.replace('.', "_"), name) {
            problems.add(
                at,
                format!(
                    "topic `{name}` differs from `{other}` only in . and _, which Kafka's metrics confuse"
                ),
            );
        }
    }
}

/// A stage's name is also a command, a metric label and a part of client ids; a group is a prefix of transactional ids; SQL
/// contains the names of tables without quotes.
pub(super) fn others(draft: &Draft, problems: &mut Problems) {
    for (kind, names) in [
        (
            "stage",
            draft
                .stages
                .0
                .keys()
                .map(|name| (name, draft.root.location(&["stages", name])))
                .collect::<Vec<_>>(),
        ),
        ("store", draft.stores.0.keys().map(|name| (name, draft.root.location(&["stores", name]))).collect()),
        (
            "principal",
            draft
                .principals
                .0
                .keys()
                .map(|name| (name, draft.root.location(&["principals", name])))
                .collect(),
        ),
    ] {
        for (name, at) in names {
            if !is_word(name, '-') {
                problems.add(at, format!("{kind} `{name}`: expected a name of a-z 0-9 -, a letter first"));
            }
        }
    }
    for (name, stage) in draft.stages.valid() {
        let group = &stage.value.group;
        if !is_kafka_name(&group.value) {
            problems.add(
                group.referenced,
                format!("group of `{name}`: expected 1 to 249 of the characters a-z A-Z 0-9 . _ -"),
            );
        }
    }
    for (_, store) in draft.stores.valid() {
        for (name, table) in &store.value.tables {
            if !is_word(name, '_') {
                problems.add(
                    table.referenced,
                    format!("table `{name}`: expected a name of a-z 0-9 _, a letter first"),
                );
            }
        }
    }
}

/// Owners and descriptions are not empty.
pub(super) fn texts(draft: &Draft, problems: &mut Problems) {
    let mut filled = |text: &str, at: Location, what: String| {
        if text.trim().is_empty() {
            problems.add(at, format!("{what}: expected a text, found none"));
        }
    };
    for (name, topic) in draft.topics.valid() {
        filled(&topic.value.owner.value, topic.value.owner.referenced, format!("owner of `{name}`"));
        filled(
            &topic.value.what,
            draft.root.location(&["topics", name, "what"]),
            format!("content of `{name}`"),
        );
    }
    for (name, stage) in draft.stages.valid() {
        filled(
            &stage.value.what,
            draft.root.location(&["stages", name, "what"]),
            format!("purpose of `{name}`"),
        );
    }
    for (name, store) in draft.stores.valid() {
        filled(
            &store.value.what,
            draft.root.location(&["stores", name, "what"]),
            format!("purpose of `{name}`"),
        );
        for (table, entry) in &store.value.tables {
            let at = draft.root.location(&["stores", name, "tables", table, "what"]);
            filled(&entry.value.what, at, format!("content of a row of `{table}`"));
        }
    }
}

fn is_kafka_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed)
}

fn is_word(name: &str, separator: char) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == separator)
}
