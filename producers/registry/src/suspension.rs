//! Suspension of an agent and its end.

use std::collections::BTreeSet;

use agentgov_schemas::governance::AgentState;
use serde::Serialize;

use crate::agents::{LoggedEntry, update_agents};
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

    /// Derives the agent's next entry from its entries. It is the last one if the agent has the state already.
    pub(crate) fn derive(
        self,
        key: &str,
        reason: &str,
        entries: &[LoggedEntry],
    ) -> Result<RegisteredAgent, Error> {
        let key = || key.to_owned();
        // An older entry does not replace a last one that has an unknown state.
        let last = entries.last().ok_or_else(|| SuspensionRefusal::UnknownAgent { key: key() })?;
        let current = last
            .agent
            .as_ref()
            .map_err(|reason| SuspensionRefusal::Unreadable { key: key(), reason: reason.clone() })?;
        match current.agent.state {
            AgentState::Retired => Err(SuspensionRefusal::Retired { key: key() }.into()),
            state if state == self.state() => Ok(current.clone()),
            AgentState::Active | AgentState::Suspended => {
                let agent = Agent { state: self.state(), ..current.agent.clone() };
                Ok(RegisteredAgent { agent, reason: reason.to_owned() })
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
    let keys = BTreeSet::from([format!("{tenant_id}/{agent_id}")]);
    let updated =
        update_agents(context, &keys, pushed_by, |key, entries, _| suspension.derive(key, reason, entries))?;
    let is_changed = updated.values().any(|agent| agent.is_changed);
    Ok(if is_changed { SuspensionOutcome::Changed } else { SuspensionOutcome::Unchanged })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn agent(state: AgentState) -> Agent {
        Agent {
            tenant_id: "acme".into(),
            agent_id: "clerk".into(),
            name: "Clerk".into(),
            owner: "desk".into(),
            roles: vec!["clerk".into()],
            state,
            description: Some("helps".into()),
        }
    }

    #[test]
    fn state_and_change_give_the_new_state_or_a_refusal() {
        use AgentState::{Active, Retired, Suspended};
        use Suspension::{Resume, Suspend};
        let refusal = || SuspensionRefusal::Retired { key: "acme/clerk".into() };
        for (state, suspension, expected) in [
            (Active, Suspend, Ok((Suspended, "new"))),
            (Suspended, Suspend, Ok((Suspended, "old"))),
            (Retired, Suspend, Err(refusal())),
            (Active, Resume, Ok((Active, "old"))),
            (Suspended, Resume, Ok((Active, "new"))),
            (Retired, Resume, Err(refusal())),
        ] {
            let registered = RegisteredAgent { agent: agent(state), reason: "old".into() };
            let entry = LoggedEntry { offset: 0, agent: Ok(registered) };
            let derived = suspension.derive("acme/clerk", "new", &[entry]).map_err(|e| e.to_string());
            let expected = expected
                .map_err(|refusal| refusal.to_string())
                .map(|(state, reason)| RegisteredAgent { agent: agent(state), reason: reason.to_owned() });
            assert_eq!(derived, expected, "{state:?} {suspension:?}");
        }
    }
}
