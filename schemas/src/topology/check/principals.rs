//! Rules about principals.

use std::collections::BTreeMap;

use super::Draft;
use crate::yaml::{Location, Problems};

/// Two principals must not share a login: each would have the rights of both, and logs could not distinguish them.
pub(super) fn principals(draft: &Draft, problems: &mut Problems) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, login, at) in logins(draft) {
        if !is_login(login) {
            problems.add(
                at,
                format!(
                    "principal of `{name}`: expected 1 to 249 printable ASCII characters, none of them a quote, a backslash or *, which \
                     Kafka reads as every principal"
                ),
            );
        }
        if let Some(other) = seen.insert(login, name) {
            problems.add(
                at,
                format!("`{name}` logs in as `{login}`, as `{other}` does; expected a principal of its own"),
            );
        }
    }
}

/// A principal must have a description and at least one task.
pub(super) fn tasks(draft: &Draft, problems: &mut Problems) {
    for (name, principal) in draft.principals.valid() {
        let place = |key| draft.root.location(&["principals", name, key]);
        if principal.value.what.trim().is_empty() {
            problems.add(place("what"), format!("description of `{name}`: expected a text, found none"));
        }
        if principal.value.may.is_empty() {
            problems.add(
                place("may"),
                format!("`{name}` has no tasks; expected record, govern, operate, audit, deploy, decide, enforce or approve"),
            );
        }
        for (at, task) in principal.value.may.iter().enumerate() {
            if principal.value.may.iter().take(at).any(|earlier| earlier.value == task.value) {
                problems.add(task.referenced, format!("occurs twice in the tasks of `{name}`"));
            }
        }
    }
}

/// A stage may use every transactional id that starts with its group and a hyphen, so no other group may start like that.
pub(super) fn transactional_ids(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        let group = &stage.value.group;
        for (other, wider) in draft.stages.valid() {
            if group.value.starts_with(&format!("{}-", wider.value.group.value)) {
                problems.add(
                    group.referenced,
                    format!(
                        "group of `{name}`: starts with the group of `{other}` and a hyphen, so `{other}` could fence its transactions; \
                         expected another name"
                    ),
                );
            }
        }
    }
}

fn logins(draft: &Draft) -> Vec<(&str, &str, Location)> {
    let stages = draft.stages.valid().map(|(name, stage)| match &stage.value.principal {
        Some(login) => (name, login.value.as_str(), login.referenced),
        None => (name, name, draft.root.location(&["stages", name])),
    });
    let others = draft.principals.valid().map(|(name, principal)| match &principal.value.principal {
        Some(login) => (name, login.value.as_str(), login.referenced),
        None => (name, name, draft.root.location(&["principals", name])),
    });
    stages.chain(others).collect()
}

fn is_login(login: &str) -> bool {
    let allowed = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '\'' | '"' | '`' | '\\' | '*');
    (1..=249).contains(&login.len()) && login.trim() == login && login.chars().all(allowed)
}
