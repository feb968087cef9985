//! Rules about who logs in to Kafka.

use std::collections::BTreeMap;

use super::Draft;
use crate::yaml::{Location, Problems};

/// Each principal is one user: of two that share a login, each has the rights of both, and nobody can tell who did what.
pub(super) fn principals(draft: &Draft, problems: &mut Problems) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, login, at) in logins(draft) {
        if !is_login(login) {
            problems.add(
                at,
                format!(
                    "principal of `{name}`: expected 1 to 249 printable ASCII characters, none of them a quote, a backslash or *, which \
                     Kafka takes for everyone"
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

/// A principal that may do nothing is a mistake, and so is one that nobody can tell the purpose of.
pub(super) fn tasks(draft: &Draft, problems: &mut Problems) {
    for (name, principal) in draft.principals.valid() {
        let place = |key| draft.root.location(&["principals", name, key]);
        if principal.value.what.trim().is_empty() {
            problems.add(place("what"), format!("who `{name}` is: expected a text, found none"));
        }
        if principal.value.may.is_empty() {
            problems.add(
                place("may"),
                format!("`{name}` may do nothing; expected record, govern, operate, audit or deploy"),
            );
        }
        for (at, task) in principal.value.may.iter().enumerate() {
            if principal.value.may.iter().take(at).any(|earlier| earlier.value == task.value) {
                problems.add(task.referenced, format!("stands twice in what `{name}` may"));
            }
        }
    }
}

/// A stage may use every transactional id that begins with its group and a hyphen: another stage's must not.
pub(super) fn transactional_ids(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        let group = &stage.value.group;
        for (other, wider) in draft.stages.valid() {
            if group.value.starts_with(&format!("{}-", wider.value.group.value)) {
                problems.add(
                    group.referenced,
                    format!(
                        "group of `{name}`: begins with that of `{other}` and a hyphen, so `{other}` could fence its transactions; \
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
