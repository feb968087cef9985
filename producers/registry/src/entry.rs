//! Agents and tools, as their owners register them.

use agentgov_schemas::governance::{AgentEntry, AgentState, ToolEffect, ToolEntry};
use agentgov_schemas::mapping;
use serde::Serialize;

use crate::fold::UnreadableReason;

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agent {
    /// The tenant.
    pub tenant_id: String,
    /// The agent.
    pub agent_id: String,
    /// A name for people.
    pub name: String,
    /// The team or person who answers for it.
    pub owner: String,
    /// Its roles: Cedar groups that grants are given to.
    pub roles: Vec<String>,
    /// Whether it may act.
    pub state: AgentState,
    /// What it is for.
    pub description: Option<String>,
}

/// A tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// The tenant.
    pub tenant_id: String,
    /// The tool, as calls name it.
    pub name: String,
    /// The team or person who answers for it.
    pub owner: String,
    /// What a call of it may do.
    pub effect: ToolEffect,
    /// What it does.
    pub description: Option<String>,
}

mapping!(Agent, "an agent", { tenant_id, agent_id, name, owner, roles, state, description });
mapping!(Tool, "a tool", { tenant_id, name, owner, effect, description });

impl Agent {
    /// The Kafka key: `tenant_id/agent_id`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.tenant_id, self.agent_id)
    }

    pub(crate) fn to_record<'a>(&'a self, pushed_by: &'a str) -> AgentEntry<'a> {
        AgentEntry {
            tenant_id: &self.tenant_id,
            agent_id: &self.agent_id,
            name: &self.name,
            owner: &self.owner,
            roles: self.roles.iter().map(String::as_str).collect(),
            state: self.state.into(),
            description: self.description.as_deref().unwrap_or_default(),
            pushed_by,
        }
    }

    pub(crate) fn from_record(record: &AgentEntry<'_>) -> Result<Self, UnreadableReason> {
        let state = record.state.known().ok_or_else(|| UnreadableReason::UnknownName {
            expected: "active, suspended or retired",
            field: "state",
            found: record.state.to_string(),
        })?;
        Ok(Self {
            tenant_id: record.tenant_id.to_owned(),
            agent_id: record.agent_id.to_owned(),
            name: record.name.to_owned(),
            owner: record.owner.to_owned(),
            roles: record.roles.iter().map(|role| (*role).to_owned()).collect(),
            state,
            description: some(record.description),
        })
    }
}

impl Tool {
    /// The Kafka key: `tenant_id/name`.
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
            description: some(record.description),
        })
    }
}

/// An empty text says nothing.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::{OpenEnum, Vocabulary as _};

    use super::*;

    #[test]
    fn records_and_back() {
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
            assert_eq!(Agent::from_record(&agent.to_record("me")).unwrap(), agent);
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
    fn a_word_of_a_later_build_is_no_entry() {
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
