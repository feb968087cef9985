//! Agents and tools of a registry file.

use agentgov_schemas::governance::{AgentEntry, AgentState, ToolEffect, ToolEntry};
use agentgov_schemas::mapping;
use serde::Serialize;

use crate::fold::UnreadableReason;

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

/// A tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Tenant id.
    pub tenant_id: String,
    /// Name of the tool in calls.
    pub name: String,
    /// Responsible team or person.
    pub owner: String,
    /// Effect of a call.
    pub effect: ToolEffect,
    /// Description for people.
    pub description: Option<String>,
}

mapping!(Agent, "an agent", { tenant_id, agent_id, name, owner, roles, state, description });
mapping!(Tool, "a tool", { tenant_id, name, owner, effect, description });

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
            roles: record.roles.iter().map(|role| (*role).to_owned()).collect(),
            state,
            description: non_empty(record.description),
        };
        Ok(Self { agent, reason: record.reason.to_owned() })
    }
}

impl Tool {
    /// Returns the key of the record: `tenant_id/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant_id, self.name)
    }

    pub(crate) fn to_record<'a>(&'a self, pushed_by: &'a str) -> ToolEntry<'a> {
        ToolEntry {
            tenant_id: &self.tenant_id,
            name: &self.name,
            owner: &self.owner,
            effect: self.effect.into(),
            description: self.description.as_deref().unwrap_or_default(),
            pushed_by,
        }
    }

    pub(crate) fn from_record(record: &ToolEntry<'_>) -> Result<Self, UnreadableReason> {
        let effect = record.effect.known().ok_or_else(|| UnreadableReason::UnknownName {
            expected: "read, write, destructive or external",
            field: "effect",
            found: record.effect.to_string(),
        })?;
        Ok(Self {
            tenant_id: record.tenant_id.to_owned(),
            name: record.name.to_owned(),
            owner: record.owner.to_owned(),
            effect,
            description: non_empty(record.description),
        })
    }
}

/// Returns `None` for an empty string.
fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::{OpenEnum, Vocabulary as _};

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
            };
            let reason = "a reason".to_owned();
            let registered = RegisteredAgent::from_record(&agent.to_record(&reason, "me")).unwrap();
            assert_eq!(registered, RegisteredAgent { agent, reason });
        }
        for effect in ToolEffect::ALL.iter().copied() {
            let tool = Tool {
                tenant_id: "acme".into(),
                name: "book".into(),
                owner: "desk".into(),
                effect,
                description: Some("books".into()),
            };
            assert_eq!(Tool::from_record(&tool.to_record("me")).unwrap(), tool);
        }
    }

    #[test]
    fn unknown_effect_is_an_error() {
        let tool = ToolEntry {
            tenant_id: "a",
            name: "b",
            owner: "c",
            effect: OpenEnum::from_name("shrug"),
            description: "",
            pushed_by: "",
        };
        assert_eq!(
            Tool::from_record(&tool).unwrap_err().to_string(),
            "expected read, write, destructive or external, found effect `shrug`"
        );
    }
}
