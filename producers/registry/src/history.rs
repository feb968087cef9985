//! History of the governance topics of agents and tools, which keep each entry for ever.

use std::collections::BTreeMap;

use agentgov_schemas::Millis;
use serde::Serialize;

use crate::fold::fold;
use crate::settle::{Entry, ReadEntry};
use crate::{Error, RegisteredAgent, RegisteredTool, RegistryContext, UnreadableRecord};

/// An entry of a governance topic, with its author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedChange<E> {
    /// Offset of the entry.
    pub offset: i64,
    /// Time at which the broker appended it, in milliseconds since the epoch.
    pub logged_at: Millis,
    /// Person or service that pushed it.
    pub pushed_by: String,
    /// The entry.
    #[serde(flatten)]
    pub entry: E,
}

/// Entries of a topic, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicHistory<E> {
    /// The entries that this build can read.
    pub changes: Vec<LoggedChange<E>>,
    /// The others.
    pub unreadable: Vec<UnreadableRecord>,
}

/// Returns the entries of agents before offset `as_of`, or all of them.
pub fn agent_history(
    context: RegistryContext<'_>,
    as_of: Option<i64>,
) -> Result<TopicHistory<RegisteredAgent>, Error> {
    read(context, as_of)
}

/// Returns the entries of tools and servers before offset `as_of`, or all of them.
pub fn tool_history(
    context: RegistryContext<'_>,
    as_of: Option<i64>,
) -> Result<TopicHistory<RegisteredTool>, Error> {
    read(context, as_of)
}

fn read<E: Entry>(context: RegistryContext<'_>, as_of: Option<i64>) -> Result<TopicHistory<E>, Error> {
    let end = as_of.unwrap_or(i64::MAX);
    let mut changes = Vec::new();
    let mut unreadable = fold(&context.topic::<E::Record>()?, |position, decoded| {
        if position.offset < end {
            let ReadEntry { pushed_by, entry, .. } = E::read(decoded)?;
            let (offset, logged_at) = (position.offset, position.logged_at);
            changes.push(LoggedChange { offset, logged_at, pushed_by, entry: entry? });
        }
        Ok(())
    })?;
    unreadable.retain(|record| record.offset < end);
    Ok(TopicHistory { changes, unreadable })
}

impl TopicHistory<RegisteredAgent> {
    /// Returns the last entry of each agent.
    pub fn last(&self) -> Vec<&LoggedChange<RegisteredAgent>> {
        last(&self.changes)
    }
}

impl TopicHistory<RegisteredTool> {
    /// Returns the last entry of each tool and server.
    pub fn last(&self) -> Vec<&LoggedChange<RegisteredTool>> {
        last(&self.changes)
    }

    /// Returns the entry that accepted the current definition of a tool, and the one that accepted the definition before
    /// it. An entry without a definition accepts none. `name` is the name in calls.
    pub fn accepted(&self, tenant_id: &str, name: &str) -> [Option<&LoggedChange<RegisteredTool>>; 2] {
        let of_tool = |change: &&LoggedChange<RegisteredTool>| {
            change.entry.tenant_id == tenant_id && change.entry.name == name
        };
        let (mut accepting, mut digest) = (Vec::new(), None);
        for change in self.changes.iter().filter(of_tool) {
            if change.entry.definition.digest != digest {
                digest = change.entry.definition.digest;
                accepting.extend(digest.map(|_| change));
            }
        }
        let current = if digest.is_some() { accepting.pop() } else { None };
        [current, accepting.pop()]
    }
}

fn last<E: Entry>(changes: &[LoggedChange<E>]) -> Vec<&LoggedChange<E>> {
    let last: BTreeMap<String, &LoggedChange<E>> =
        changes.iter().map(|change| (change.entry.key(), change)).collect();
    last.into_values().collect()
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Digest;

    use super::*;
    use crate::AcceptedDefinition;

    #[test]
    fn accepted_definition_and_the_one_before_it_are_found() {
        for (accepted, current, former) in [
            (vec![], None, None),
            (vec![None], None, None),
            (vec![None, Some("a")], Some(1), None),
            (vec![Some("a"), Some("a")], Some(0), None),
            (vec![Some("a"), Some("b"), Some("b")], Some(1), Some(0)),
            (vec![Some("a"), Some("b"), Some("a")], Some(2), Some(1)),
            (vec![Some("a"), None], None, Some(0)),
            (vec![Some("a"), None, Some("b")], Some(2), Some(0)),
        ] {
            let changes = (0..).zip(&accepted).map(|(offset, json)| LoggedChange {
                offset,
                logged_at: Millis(0),
                pushed_by: "me".into(),
                entry: RegisteredTool {
                    definition: AcceptedDefinition {
                        digest: json.map(|json| Digest::of(json.as_bytes())),
                        json: json.unwrap_or_default().to_owned(),
                    },
                    ..RegisteredTool::of_tool("acme", "files/read")
                },
            });
            let history = TopicHistory { changes: changes.collect(), unreadable: Vec::new() };
            let found =
                history.accepted("acme", "files/read").map(|change| change.map(|change| change.offset));
            assert_eq!(found, [current, former], "{accepted:?}");
            assert_eq!(history.accepted("acme", "files/other"), [None, None]);
        }
    }
}
