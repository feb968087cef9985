//! Suspension of an agent and its end.

use agentgov_schemas::governance::{AgentEntry, AgentState};
use serde::Serialize;

use crate::fold::fold;
use crate::push::append;
use crate::{Agent, Error, RegisteredAgent, RegistryContext};

/// Change of an agent's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// Denies each call of the agent from now on.
    Suspend,
    /// Ends the suspension.
    Resume,
}

/// Result of suspending or resuming an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionOutcome {
    /// The entry with the new state was appended.
    Changed,
    /// The agent has this state already; nothing was appended.
    Unchanged,
}

/// Refusal to change an agent's state. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuspensionRefusal {
    /// The agent is not registered.
    #[error("expected a registered agent, found `{key}`; `agentgov registry list` lists them")]
    UnknownAgent {
        /// The key.
        key: String,
    },
    /// A retired agent never acts again.
    #[error(
        "agent `{key}`: expected an active or a suspended agent, found a retired one, which stays retired"
    )]
    Retired {
        /// The key.
        key: String,
    },
    /// The agent's last entry has a state of a later version.
    #[error("agent `{key}`: its last entry: {reason}; push the agent again with `agentgov registry push`")]
    Unreadable {
        /// The key.
        key: String,
        /// Reason.
        reason: String,
    },
}

impl Suspension {
    /// Returns the state after the change.
    pub const fn state(self) -> AgentState {
        match self {
            Self::Suspend => AgentState::Suspended,
            Self::Resume => AgentState::Active,
        }
    }

    /// Returns the agent with its new state, or `None` if it has that state already.
    fn apply(self, agent: &Agent) -> Result<Option<Agent>, SuspensionRefusal> {
        match agent.state {
            AgentState::Retired => Err(SuspensionRefusal::Retired { key: agent.key() }),
            state if state == self.state() => Ok(None),
            AgentState::Active | AgentState::Suspended => {
                Ok(Some(Agent { state: self.state(), ..agent.clone() }))
            }
        }
    }
}

/// Appends the agent's last entry with another state, unless it has that state. When the function returns, all in-sync replicas
/// have the entry, and each process that follows the topic reads it shortly afterwards.
///
/// # Errors
/// If the change is refused, the topic cannot be read to its end, or the entry was not acknowledged.
pub fn change_suspension(
    context: RegistryContext<'_>,
    suspension: Suspension,
    (tenant_id, agent_id): (&str, &str),
    reason: &str,
    pushed_by: &str,
) -> Result<SuspensionOutcome, Error> {
    let current = last_entry(context, tenant_id, agent_id)?;
    let Some(agent) = suspension.apply(&current.agent)? else { return Ok(SuspensionOutcome::Unchanged) };
    let topic = context.topic::<AgentEntry<'static>>()?;
    let key = agent.key();
    let value = topic
        .encoder()?
        .encode(&agent.to_record(reason, pushed_by))
        .map_err(|e| Error::Encode { key: key.clone(), message: e.to_string() })?;
    append(&topic, &[(key, value)])?;
    Ok(SuspensionOutcome::Changed)
}

/// Reads the topic to its end. An older entry does not replace a last one that has an unknown state.
fn last_entry(
    context: RegistryContext<'_>,
    tenant_id: &str,
    agent_id: &str,
) -> Result<RegisteredAgent, Error> {
    let mut last = None;
    fold(&context.topic::<AgentEntry<'static>>()?, |_, decoded| {
        let entry = decoded.read::<AgentEntry<'_>>()?;
        if (entry.tenant_id, entry.agent_id) == (tenant_id, agent_id) {
            last = Some(RegisteredAgent::from_record(&entry).map_err(|reason| reason.to_string()));
        }
        Ok(())
    })?;
    let key = format!("{tenant_id}/{agent_id}");
    let entry = last.ok_or_else(|| SuspensionRefusal::UnknownAgent { key: key.clone() })?;
    Ok(entry.map_err(|reason| SuspensionRefusal::Unreadable { key, reason })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_change_give_the_new_state_or_a_refusal() {
        use AgentState::{Active, Retired, Suspended};
        use Suspension::{Resume, Suspend};
        let refusal = || SuspensionRefusal::Retired { key: "acme/clerk".into() };
        for (state, suspension, expected) in [
            (Active, Suspend, Ok(Some(Suspended))),
            (Suspended, Suspend, Ok(None)),
            (Retired, Suspend, Err(refusal())),
            (Active, Resume, Ok(None)),
            (Suspended, Resume, Ok(Some(Active))),
            (Retired, Resume, Err(refusal())),
        ] {
            let agent = Agent {
                tenant_id: "acme".into(),
                agent_id: "clerk".into(),
                name: "Clerk".into(),
                owner: "desk".into(),
                roles: vec!["clerk".into()],
                state,
                description: Some("helps".into()),
            };
            let expected = expected.map(|state| state.map(|state| Agent { state, ..agent.clone() }));
            assert_eq!(suspension.apply(&agent), expected, "{state:?} {suspension:?}");
        }
    }
}
