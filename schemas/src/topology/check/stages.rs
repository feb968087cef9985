//! Rules about stages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_saphyr::Spanned;

use super::Draft;
use crate::subject;
use crate::topology::{Cleanup, KeyKind, Retention, Stage};
use crate::yaml::Problems;

/// Returns the topics of a stage, each with its key in topology.yaml.
fn topics_of(stage: &Stage) -> impl Iterator<Item = (&'static str, &Spanned<String>)> {
    let reads = stage.reads.iter().map(|topic| ("reads", topic));
    let tables = stage.global_tables.iter().map(|topic| ("global_tables", topic));
    let state = stage.state.iter().map(|topic| ("state", topic));
    let emits = stage.emits.iter().map(|topic| ("emits", topic));
    reads.chain(tables).chain(state).chain(emits)
}

/// Topics and stores that a stage refers to must exist.
pub(super) fn references(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        for (key, topic) in topics_of(&stage.value).filter(|(_, topic)| !draft.topics.has(&topic.value)) {
            problems
                .add(topic.referenced, format!("{key} of `{name}`: no topic `{}` in topics", topic.value));
        }
        for store in stage.value.stores.iter().filter(|store| !draft.stores.has(&store.value)) {
            problems
                .add(store.referenced, format!("stores of `{name}`: no store `{}` in stores", store.value));
        }
    }
}

/// A topic has one role in a stage: a stage that reads its own output would loop forever.
pub(super) fn lists(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, topic) in topics_of(&stage.value) {
            if let Some(other) = seen.insert(&topic.value, key) {
                problems.add(
                    topic.referenced,
                    format!(
                        "`{}` is in both {key} and {other} of `{name}`; expected one of them",
                        topic.value
                    ),
                );
            }
        }
        let mut stores = BTreeSet::new();
        for store in stage.value.stores.iter().filter(|store| !stores.insert(&store.value)) {
            problems.add(store.referenced, format!("store `{}` occurs twice in `{name}`", store.value));
        }
    }
}

/// Each stage has a group of its own: in a shared group, stages would take each other's partitions and fence each other's
/// transactions.
pub(super) fn groups(draft: &Draft, problems: &mut Problems) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, stage) in draft.stages.valid() {
        let group = &stage.value.group;
        if let Some(other) = seen.insert(&group.value, name) {
            problems.add(
                group.referenced,
                format!(
                    "group `{}` of `{name}` is the group of `{other}`; expected one of its own",
                    group.value
                ),
            );
        }
    }
}

/// A global table is folded from its first record, and every past position can be rebuilt. Therefore it has one partition,
/// unlimited retention and no compaction.
pub(super) fn global_tables(draft: &Draft, problems: &mut Problems) {
    let names: BTreeSet<&str> = draft
        .stages
        .valid()
        .flat_map(|(_, stage)| &stage.value.global_tables)
        .map(|table| table.value.as_str())
        .collect();
    for (name, topic) in names.into_iter().filter_map(|name| Some((name, draft.topics.get(name)?))) {
        let wrongs = [
            (topic.partitions.value != 1, "partitions", "partitions: 1, which gives its entries one order"),
            (topic.retention.value != Retention::Forever, "retention", "retention: forever"),
            (topic.cleanup != Cleanup::Delete, "cleanup", "cleanup: delete, which keeps its history"),
            (topic.key != KeyKind::Entry, "key", "key: entry"),
        ];
        for (_, key, expected) in wrongs.into_iter().filter(|(wrong, _, _)| *wrong) {
            problems.add(
                draft.root.location(&["topics", name, key]),
                format!("`{name}` is folded into a global table; expected {expected}"),
            );
        }
    }
}

/// A changelog is compacted, and only its stage writes it.
pub(super) fn state(draft: &Draft, problems: &mut Problems) {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, state) in draft.stages.valid().filter_map(|(n, stage)| Some((n, stage.value.state.as_ref()?)))
    {
        if draft.topics.get(&state.value).is_some_and(|topic| topic.cleanup != Cleanup::Compact) {
            problems.add(
                draft.root.location(&["topics", &state.value, "cleanup"]),
                format!("`{}` is the state of `{name}`; expected cleanup: compact", state.value),
            );
        }
        if let Some(other) = owners.insert(&state.value, name) {
            problems.add(
                state.referenced,
                format!("`{}` is the state of `{other}`; expected a changelog of its own", state.value),
            );
        }
    }
    for (name, stage) in draft.stages.valid() {
        for topic in &stage.value.emits {
            if let Some(owner) = owners.get(topic.value.as_str()).filter(|owner| **owner != name) {
                problems.add(
                    topic.referenced,
                    format!(
                        "emits of `{name}`: `{}` is the state of `{owner}`, which no other stage may write",
                        topic.value
                    ),
                );
            }
        }
    }
}

/// A stage with a reject share must emit rejects, and the other way round.
pub(super) fn emits(draft: &Draft, problems: &mut Problems) {
    let Some((rejects, _)) =
        draft.topics.valid().find(|(_, topic)| topic.value.schema.value == subject::REJECT.name)
    else {
        return;
    };
    for (name, stage) in draft.stages.valid() {
        let has_share = stage.value.reject_share.is_some();
        let emits_rejects = stage.value.emits.iter().any(|topic| topic.value == rejects);
        if has_share && !emits_rejects {
            problems.add(
                draft.root.location(&["stages", name, "reject_share"]),
                format!("`{name}` has a reject_share; expected `{rejects}` in its emits"),
            );
        }
        if emits_rejects && !has_share {
            problems.add(
                stage.referenced,
                format!("`{name}` emits `{rejects}`; expected a reject_share above which the stage stops"),
            );
        }
    }
}

/// A stage reads topics and either emits records (in Kafka transactions) or writes a store (under claims). No commit covers
/// both.
pub(super) fn jobs(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        if stage.value.reads.is_empty() {
            problems.add(stage.referenced, format!("`{name}` reads nothing; expected a topic in its reads"));
        }
        let processes = !stage.value.emits.is_empty() || stage.value.state.is_some();
        let stores = !stage.value.stores.is_empty();
        match (processes, stores) {
            (true, true) => problems.add(
                stage.referenced,
                format!("`{name}` has stores and emits or state; expected one of the two, since no commit covers both"),
            ),
            (false, false) => {
                problems.add(stage.referenced, format!("`{name}` writes nothing; expected emits, state or stores"));
            }
            _ => (),
        }
    }
}

/// Limits must be above 0.
pub(super) fn limits(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        if let Some(share) = &stage.value.reject_share {
            let above = share.value.above;
            if !(above > 0.0 && above <= 1.0) {
                problems.add(
                    draft.root.location(&["stages", name, "reject_share", "above"]),
                    format!("expected a share above 0 and at most 1, found {above}"),
                );
            }
            if share.value.window == 0 {
                problems.add(
                    draft.root.location(&["stages", name, "reject_share", "window"]),
                    "expected a window of at least 1 record, found 0".to_owned(),
                );
            }
        }
        if let Some(session) = &stage.value.session {
            for (key, nothing) in [
                ("ttl", session.value.ttl.0 == Duration::ZERO),
                ("max_facts", session.value.max_facts == 0),
                ("max_bytes", session.value.max_bytes == 0),
            ] {
                if nothing {
                    let at = draft.root.location(&["stages", name, "session", key]);
                    problems.add(at, format!("{key}: expected more than 0"));
                }
            }
            if stage.value.state.is_none() {
                problems.add(
                    draft.root.location(&["stages", name, "session"]),
                    format!("`{name}` limits its sessions; expected a state that keeps them"),
                );
            }
        }
        if let Some(window) =
            stage.value.alert_window.as_ref().filter(|window| window.value.0 == Duration::ZERO)
        {
            problems.add(window.referenced, "expected an alert_window above 0".to_owned());
        }
    }
}
