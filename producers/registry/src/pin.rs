//! Comparison of the definitions that a server lists with the accepted ones, and their acceptance.

use std::collections::{BTreeMap, BTreeSet};

use agentgov_schemas::Digest;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::definition::ToolDefinition;
use serde::Serialize;
use serde_json::Value;

use crate::push::last_tool;
use crate::settle::{LoggedEntry, update};
use crate::{AcceptedDefinition, Error, RegisteredTool, RegistryContext};

/// How a tool's definition differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DefinitionChange {
    /// No definition of the tool is accepted.
    New,
    /// Another definition is accepted.
    Changed,
    /// The server no longer lists the tool.
    Gone,
    /// This definition is accepted.
    Unchanged,
}

/// The definition of a tool, before and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DefinitionDiff {
    /// Name of the tool in calls.
    pub name: String,
    /// How they differ.
    pub change: DefinitionChange,
    /// The accepted definition, or the one before.
    pub before: AcceptedDefinition,
    /// The listed definition, or the accepted one.
    pub now: AcceptedDefinition,
    /// The members that differ.
    pub members: Vec<MemberDiff>,
}

/// A member of a definition that differs, as JSON; absent if the definition does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberDiff {
    /// Its name.
    pub member: String,
    /// Its value before.
    pub before: Option<Value>,
    /// Its value now.
    pub now: Option<Value>,
}

impl From<&ToolDefinition> for AcceptedDefinition {
    fn from(definition: &ToolDefinition) -> Self {
        Self { digest: Some(definition.digest), json: definition.json.clone() }
    }
}

impl DefinitionDiff {
    /// Compares two definitions of a tool.
    pub fn new(name: &str, before: AcceptedDefinition, now: AcceptedDefinition) -> Self {
        let change = match (before.digest, now.digest) {
            (before, now) if before == now => DefinitionChange::Unchanged,
            (None, _) => DefinitionChange::New,
            (_, None) => DefinitionChange::Gone,
            _ => DefinitionChange::Changed,
        };
        let members = if change == DefinitionChange::Changed {
            let (old, new) = (members(&before), members(&now));
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let differing = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
            differing
                .map(|name| MemberDiff {
                    member: name.clone(),
                    before: old.get(name).cloned(),
                    now: new.get(name).cloned(),
                })
                .collect()
        } else {
            Vec::new()
        };
        Self { name: name.to_owned(), change, before, now, members }
    }

    /// Returns whether a person must look at it.
    pub fn differs(&self) -> bool {
        self.change != DefinitionChange::Unchanged
    }
}

fn members(definition: &AcceptedDefinition) -> BTreeMap<String, Value> {
    serde_json::from_str(&definition.json).unwrap_or_default()
}

/// Compares the tools that a server lists with the accepted definitions, in the order of their names. `accepted` are the
/// registered tools of the server.
///
/// # Errors
/// If the name of a tool in calls would be too long.
pub fn compare_definitions<'t>(
    server: &str,
    accepted: impl IntoIterator<Item = &'t RegisteredTool>,
    listed: &[ToolDefinition],
) -> Result<Vec<DefinitionDiff>, Error> {
    let mut definitions: BTreeMap<String, (AcceptedDefinition, AcceptedDefinition)> = BTreeMap::new();
    for tool in accepted {
        definitions.entry(tool.name.clone()).or_default().0 = tool.definition.clone();
    }
    for tool in listed {
        definitions.entry(name_in_calls(server, tool)?).or_default().1 = tool.into();
    }
    let known =
        definitions.into_iter().filter(|(_, (before, now))| before.digest.is_some() || now.digest.is_some());
    Ok(known.map(|(name, (before, now))| DefinitionDiff::new(&name, before, now)).collect())
}

/// Returns the digest of a server's list: of the names and definition digests of the tools that `diffs` has as of now.
pub fn list_digest(diffs: &[DefinitionDiff]) -> Digest {
    let digests = diffs.iter().filter_map(|diff| Some((&diff.name, diff.now.digest?)));
    let tools: BTreeMap<&String, String> = digests.map(|(name, digest)| (name, digest.to_string())).collect();
    Digest::of_parts(tools.iter().flat_map(|(name, digest)| [name.as_bytes(), digest.as_bytes()]))
}

fn name_in_calls(server: &str, tool: &ToolDefinition) -> Result<String, Error> {
    let name = format!("{server}/{}", tool.name);
    if name.len() > MAX_ID_BYTES {
        return Err(Error::NameTooLong { size: name.len() });
    }
    Ok(name)
}

/// Accepts the definitions that a server lists, and withdraws those of tools that it no longer lists. Returns the keys of the
/// appended entries.
///
/// # Errors
/// If the topic cannot be read or written.
pub fn accept_definitions(
    context: RegistryContext<'_>,
    tenant_id: &str,
    diffs: &[DefinitionDiff],
    reason: &str,
    pushed_by: &str,
) -> Result<Vec<String>, Error> {
    let differing = diffs.iter().filter(|diff| diff.differs());
    let by_key: BTreeMap<String, (RegisteredTool, &DefinitionDiff)> = differing
        .map(|diff| {
            let blank = RegisteredTool::of_tool(tenant_id, &diff.name);
            (blank.key(), (blank, diff))
        })
        .collect();
    let keys: BTreeSet<String> = by_key.keys().cloned().collect();
    let updated = update(context, &keys, pushed_by, |key, entries, own| {
        let (blank, diff) = by_key.get(key).ok_or_else(|| Error::Encode {
            key: key.to_owned(),
            message: "expected a tool of the server, found none".to_owned(),
        })?;
        Ok(accepted_tool((blank, &diff.now), reason, entries, own))
    })?;
    Ok(updated
        .into_iter()
        .filter(|(_, updated)| updated.acknowledged.is_some())
        .map(|(key, _)| key)
        .collect())
}

/// Derives the entry that accepts a definition of the tool of `blank` after `entries`. It keeps the suspension of an `own` entry, as a
/// push does: an entry of another acceptance may follow from an earlier own one, which ended it.
fn accepted_tool(
    (blank, definition): (&RegisteredTool, &AcceptedDefinition),
    reason: &str,
    entries: &[LoggedEntry<RegisteredTool>],
    own: Option<&RegisteredTool>,
) -> RegisteredTool {
    let last = last_tool(blank.clone(), entries, own);
    if last.definition == *definition {
        return last;
    }
    RegisteredTool { definition: definition.clone(), reason: reason.to_owned(), ..last }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::governance::ToolState;

    use super::*;

    fn listed(json: &str) -> ToolDefinition {
        ToolDefinition::parse(json).unwrap()
    }

    fn registered(name: &str, json: Option<&str>) -> RegisteredTool {
        let definition = json.map(|json| AcceptedDefinition::from(&listed(json))).unwrap_or_default();
        RegisteredTool { definition, ..RegisteredTool::of_tool("acme", name) }
    }

    #[test]
    fn each_difference_is_named() {
        use DefinitionChange::{Changed, Gone, New, Unchanged};
        let accepted = [
            registered("files/a", Some(r#"{"name":"a","description":"x","title":"T"}"#)),
            registered("files/b", Some(r#"{"name":"b"}"#)),
            registered("files/c", Some(r#"{"name":"c"}"#)),
            registered("files/d", None),
            registered("files/e", None),
        ];
        let listed = [
            listed(r#"{"name":"a","description":"y","title":"T","annotations":{}}"#),
            listed(r#"{"name":"b"}"#),
            listed(r#"{"name":"d"}"#),
            listed(r#"{"name":"f"}"#),
        ];
        let diffs = compare_definitions("files", &accepted, &listed).unwrap();
        let found: Vec<_> = diffs.iter().map(|diff| (diff.name.as_str(), diff.change)).collect();
        let expected = [
            ("files/a", Changed),
            ("files/b", Unchanged),
            ("files/c", Gone),
            ("files/d", New),
            ("files/f", New),
        ];
        assert_eq!(found, expected);
        let members: Vec<_> = diffs[0].members.iter().map(|member| member.member.as_str()).collect();
        assert_eq!(members, ["annotations", "description"]);
        assert_eq!(diffs[0].members[1].now, Some("y".into()));
        let long = [listed_with_name(&"x".repeat(MAX_ID_BYTES))];
        assert!(matches!(compare_definitions("files", [], &long), Err(Error::NameTooLong { size: 4102 })));
    }

    #[test]
    fn acceptance_keeps_the_suspension_of_its_own_entry() {
        let active = registered("files/a", None);
        let accepted = registered("files/a", Some(r#"{"name":"a"}"#));
        let suspended = |tool: &RegisteredTool| RegisteredTool {
            state: ToolState::Suspended,
            reason: "stolen".into(),
            ..tool.clone()
        };
        let mut entries = vec![];
        let mut derive = |entry: &RegisteredTool, own| {
            entries.push(LoggedEntry { offset: 0, entry: Ok(entry.clone()) });
            accepted_tool((&active, &accepted.definition), "reviewed", &entries, own)
        };
        let first = derive(&active, None);
        assert_eq!(first, RegisteredTool { reason: "reviewed".into(), ..accepted.clone() });
        let kept = derive(&suspended(&active), Some(&first));
        assert_eq!((kept.state, &kept.definition), (ToolState::Suspended, &accepted.definition));
        // Another acceptance of the same definition, which follows from the first own entry.
        let last = derive(&first, Some(&kept));
        assert_eq!((last.state, &last.definition), (ToolState::Suspended, &accepted.definition));
    }

    #[test]
    fn digest_of_a_list_names_its_tools_and_definitions_and_not_the_accepted_ones() {
        let digest = |accepted: &[RegisteredTool], list: &[&str]| {
            let list: Vec<_> = list.iter().map(|json| listed(json)).collect();
            list_digest(&compare_definitions("files", accepted, &list).unwrap())
        };
        let (a, b) = (r#"{"name":"a"}"#, r#"{"name":"b"}"#);
        let all = digest(&[], &[a, b]);
        assert_eq!(digest(&[], &[b, a]), all);
        for accepted in [registered("files/a", Some(a)), registered("files/c", Some(r#"{"name":"c"}"#))] {
            assert_eq!(digest(&[accepted], &[a, b]), all);
        }
        for other in [&[a][..], &[a, r#"{"name":"b","title":"T"}"#], &[a, r#"{"name":"c"}"#], &[]] {
            assert_ne!(digest(&[], other), all, "{other:?}");
        }
    }

    fn listed_with_name(name: &str) -> ToolDefinition {
        listed(&format!(r#"{{"name":"{name}"}}"#))
    }
}
