//! Agents, tools and servers, and their entries.

use agentgov_schemas::governance::{AgentEntry, AgentState, ToolEffect, ToolEntry, ToolState, server_of};
use agentgov_schemas::wire::{EncodeError, WireError};
use agentgov_schemas::{Digest, OpenEnum, RecordEncoder, mapping};
use serde::{Serialize, Serializer};

use crate::fold::{Decoded, UnreadableReason};
use crate::settle::{Entry, ReadEntry};

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agent {
    /// Tenant id.
    pub tenant_id: String,
    /// Agent id.
    pub agent_id: String,
    /// Name for people.
    pub name: String,
    /// Responsible team or person.
    pub owner: String,
    /// Roles: Cedar groups that grants refer to.
    pub roles: Vec<String>,
    /// Whether the agent may act.
    pub state: AgentState,
    /// Purpose.
    pub description: Option<String>,
    /// Person who answers for the agent's actions, and must not approve them.
    pub sponsor: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// Environments in which the agent has grants; empty for all.
    pub environments: Vec<String>,
}

/// Registered agent: the last entry of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegisteredAgent {
    /// The agent.
    #[serde(flatten)]
    pub agent: Agent,
    /// Reason of the suspension or of its end; empty if none was given.
    pub reason: String,
}

/// A tool of a registry file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Tenant id.
    pub tenant_id: String,
    /// Server that offers the tool.
    pub server: Option<String>,
    /// Name of the tool in calls: `server/name` for a tool of a server.
    pub name: String,
    /// Responsible team or person.
    pub owner: String,
    /// Effect of a call.
    pub effect: ToolEffect,
    /// Classes of the data that the tool reads or changes.
    pub data_classes: Vec<String>,
    /// Description for people.
    pub description: Option<String>,
}

/// Registered tool, or a server of tools as a whole: the last entry of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegisteredTool {
    /// Tenant id.
    pub tenant_id: String,
    /// Server that offers the tool.
    pub server: Option<String>,
    /// Name of the tool in calls; empty on the entry of a server.
    pub name: String,
    /// Responsible team or person; empty if none is registered.
    pub owner: String,
    /// Effect of a call; absent if that of the bundle counts.
    pub effect: Option<ToolEffect>,
    /// Classes of the data that the tool reads or changes.
    pub data_classes: Vec<String>,
    /// Description for people.
    pub description: Option<String>,
    /// Whether calls are denied.
    pub state: ToolState,
    /// Reason of the last change that has one; empty if there is none.
    pub reason: String,
    /// The accepted definition.
    #[serde(flatten)]
    pub definition: AcceptedDefinition,
}

/// The accepted definition of a tool, if there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AcceptedDefinition {
    /// SHA-256 of the definition.
    #[serde(rename = "definition_digest", serialize_with = "hex_or_null")]
    pub digest: Option<Digest>,
    /// The definition as RFC 8785 JSON; empty if there is none.
    #[serde(rename = "definition")]
    pub json: String,
}

fn hex_or_null<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => serializer.collect_str(digest),
        None => serializer.serialize_none(),
    }
}

mapping!(Agent, "an agent", {
    tenant_id, agent_id, name, owner, roles, state, description, sponsor, version, environments
});
mapping!(Tool, "a tool", { tenant_id, server, name, owner, effect, data_classes, description });

impl Agent {
    /// Returns the key of the record: `tenant_id/agent_id`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant_id, self.agent_id)
    }

    pub(crate) fn to_record<'a>(&'a self, reason: &'a str, pushed_by: &'a str) -> AgentEntry<'a> {
        AgentEntry {
            tenant_id: &self.tenant_id,
            agent_id: &self.agent_id,
            name: &self.name,
            owner: &self.owner,
            roles: self.roles.iter().map(String::as_str).collect(),
            state: self.state.into(),
            description: self.description.as_deref().unwrap_or_default(),
            reason,
            pushed_by,
            sponsor: self.sponsor.as_deref().unwrap_or_default(),
            version: self.version.as_deref().unwrap_or_default(),
            environments: self.environments.iter().map(String::as_str).collect(),
        }
    }
}

impl RegisteredAgent {
    /// Returns the key of the record: `tenant_id/agent_id`.
    pub fn key(&self) -> String {
        self.agent.key()
    }

    pub(crate) fn from_record(record: &AgentEntry<'_>) -> Result<Self, UnreadableReason> {
        let state = record.state.known().ok_or_else(|| UnreadableReason::UnknownName {
            expected: "active, suspended or retired",
            field: "state",
            found: record.state.to_string(),
        })?;
        let agent = Agent {
            tenant_id: record.tenant_id.to_owned(),
            agent_id: record.agent_id.to_owned(),
            name: record.name.to_owned(),
            owner: record.owner.to_owned(),
            roles: owned(&record.roles),
            state,
            description: non_empty(record.description),
            sponsor: non_empty(record.sponsor),
            version: non_empty(record.version),
            environments: owned(&record.environments),
        };
        Ok(Self { agent, reason: record.reason.to_owned() })
    }
}

impl Entry for RegisteredAgent {
    type Record = AgentEntry<'static>;
    type State = AgentState;
    const ACTIVE: AgentState = AgentState::Active;

    fn key(&self) -> String {
        self.agent.key()
    }

    fn state(&self) -> AgentState {
        self.agent.state
    }

    fn encode(
        &self,
        pushed_by: &str,
        encoder: &mut RecordEncoder<Self::Record>,
    ) -> Result<Vec<u8>, EncodeError> {
        encoder.encode(&self.agent.to_record(&self.reason, pushed_by))
    }

    fn read(decoded: &Decoded<'_, Self::Record>) -> Result<ReadEntry<Self>, WireError> {
        let record = decoded.read::<AgentEntry<'_>>()?;
        Ok(ReadEntry {
            key: format!("{}/{}", record.tenant_id, record.agent_id),
            pushed_by: record.pushed_by.to_owned(),
            entry: Self::from_record(&record),
        })
    }
}

impl Tool {
    /// Returns the key of the record: `tenant_id/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant_id, self.name)
    }
}

impl RegisteredTool {
    /// Creates the entry of a tool that nothing is registered about. `name` is the name in calls.
    pub(crate) fn of_tool(tenant_id: &str, name: &str) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            server: server_of(name).map(str::to_owned),
            name: name.to_owned(),
            owner: String::new(),
            effect: None,
            data_classes: Vec::new(),
            description: None,
            state: ToolState::Active,
            reason: String::new(),
            definition: AcceptedDefinition::default(),
        }
    }

    /// Creates the entry of a server.
    pub(crate) fn of_server(tenant_id: &str, server: &str) -> Self {
        Self { server: Some(server.to_owned()), ..Self::of_tool(tenant_id, "") }
    }

    /// Returns the name of the server, by the name in calls as the policies read it; empty for a tool of no server.
    pub fn server_name(&self) -> &str {
        let server = if self.is_server() { self.server.as_deref() } else { server_of(&self.name) };
        server.unwrap_or_default()
    }

    /// Returns whether this is the entry of a server as a whole.
    pub const fn is_server(&self) -> bool {
        self.name.is_empty()
    }

    /// Returns the key of the record: `tenant_id/name`, or `tenant_id/server/` for a server.
    pub fn key(&self) -> String {
        if self.is_server() {
            format!("{}/{}/", self.tenant_id, self.server.as_deref().unwrap_or_default())
        } else {
            format!("{}/{}", self.tenant_id, self.name)
        }
    }

    /// Returns the entry that has the content of a registry file, and keeps what the file does not say.
    pub(crate) fn with_file(self, tool: &Tool) -> Self {
        Self {
            server: tool.server.clone(),
            owner: tool.owner.clone(),
            effect: Some(tool.effect),
            data_classes: tool.data_classes.clone(),
            // Entries have no description, or one that is not empty.
            description: tool.description.clone().filter(|description| !description.is_empty()),
            ..self
        }
    }

    pub(crate) fn to_record<'a>(&'a self, pushed_by: &'a str) -> ToolEntry<'a> {
        ToolEntry {
            tenant_id: &self.tenant_id,
            name: &self.name,
            owner: &self.owner,
            effect: self.effect.map_or_else(|| OpenEnum::from_name(""), OpenEnum::from),
            description: self.description.as_deref().unwrap_or_default(),
            pushed_by,
            server: self.server.as_deref().unwrap_or_default(),
            data_classes: self.data_classes.iter().map(String::as_str).collect(),
            definition: &self.definition.json,
            definition_digest: self.definition.digest,
            state: self.state.into(),
            reason: &self.reason,
        }
    }

    pub(crate) fn from_record(record: &ToolEntry<'_>) -> Result<Self, UnreadableReason> {
        let effect = record.effect.known();
        if effect.is_none() && !record.effect.as_str().is_empty() {
            return Err(UnreadableReason::UnknownName {
                expected: "read, write, destructive or external",
                field: "effect",
                found: record.effect.to_string(),
            });
        }
        let state = record.state.known().ok_or_else(|| UnreadableReason::UnknownName {
            expected: "active or suspended",
            field: "state",
            found: record.state.to_string(),
        })?;
        Ok(Self {
            tenant_id: record.tenant_id.to_owned(),
            server: non_empty(record.server),
            name: record.name.to_owned(),
            owner: record.owner.to_owned(),
            effect,
            data_classes: owned(&record.data_classes),
            description: non_empty(record.description),
            state,
            reason: record.reason.to_owned(),
            definition: AcceptedDefinition {
                digest: record.definition_digest,
                json: record.definition.to_owned(),
            },
        })
    }
}

impl Entry for RegisteredTool {
    type Record = ToolEntry<'static>;
    type State = ToolState;
    const ACTIVE: ToolState = ToolState::Active;

    fn key(&self) -> String {
        self.key()
    }

    fn state(&self) -> ToolState {
        self.state
    }

    fn encode(
        &self,
        pushed_by: &str,
        encoder: &mut RecordEncoder<Self::Record>,
    ) -> Result<Vec<u8>, EncodeError> {
        encoder.encode(&self.to_record(pushed_by))
    }

    fn read(decoded: &Decoded<'_, Self::Record>) -> Result<ReadEntry<Self>, WireError> {
        let record = decoded.read::<ToolEntry<'_>>()?;
        let mut blank = Self::of_tool(record.tenant_id, record.name);
        blank.server = non_empty(record.server);
        Ok(ReadEntry {
            key: blank.key(),
            pushed_by: record.pushed_by.to_owned(),
            entry: Self::from_record(&record),
        })
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Returns `None` for an empty string.
fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Vocabulary as _;

    use super::*;

    #[test]
    fn entry_converted_to_a_record_and_back_is_unchanged() {
        for state in AgentState::ALL.iter().copied() {
            let agent = Agent {
                tenant_id: "acme".into(),
                agent_id: "clerk".into(),
                name: "Clerk".into(),
                owner: "desk".into(),
                roles: vec!["clerk".into(), "night".into()],
                state,
                description: None,
                sponsor: Some("ada".into()),
                version: Some("2".into()),
                environments: vec!["production".into()],
            };
            let reason = "a reason".to_owned();
            let registered = RegisteredAgent::from_record(&agent.to_record(&reason, "me")).unwrap();
            assert_eq!(registered, RegisteredAgent { agent, reason });
        }
        let effects = ToolEffect::ALL.iter().copied().map(Some).chain([None]);
        for (effect, state) in effects.zip(ToolState::ALL.iter().copied().cycle()) {
            let tool = RegisteredTool {
                owner: "desk".into(),
                effect,
                data_classes: vec!["personal".into()],
                description: Some("books".into()),
                state,
                reason: "a reason".into(),
                definition: AcceptedDefinition { digest: Some(Digest::of(b"{}")), json: "{}".into() },
                ..RegisteredTool::of_tool("acme", "files/book")
            };
            assert_eq!(tool.server.as_deref(), Some("files"));
            assert_eq!(RegisteredTool::from_record(&tool.to_record("me")).unwrap(), tool);
        }
        let server = RegisteredTool::of_server("acme", "files");
        assert_eq!((server.key().as_str(), server.is_server()), ("acme/files/", true));
        assert_eq!(RegisteredTool::from_record(&server.to_record("me")).unwrap(), server);
    }

    #[test]
    fn unknown_effect_or_state_is_an_error() {
        let entry = ToolEntry::new("a", "b");
        for (entry, expected) in [
            (
                ToolEntry { effect: OpenEnum::from_name("shrug"), ..entry.clone() },
                "expected read, write, destructive or external, found effect `shrug`",
            ),
            (
                ToolEntry { state: OpenEnum::from_name("paused"), ..entry.clone() },
                "expected active or suspended, found state `paused`",
            ),
        ] {
            assert_eq!(RegisteredTool::from_record(&entry).unwrap_err().to_string(), expected);
        }
    }
}
