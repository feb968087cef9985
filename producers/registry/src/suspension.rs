//! Suspension of an agent and its end.

use std::collections::BTreeSet;
use std::time::Instant;

use agentgov_schemas::governance::AgentState;

use crate::agents::{LoggedEntry, MAX_ROUNDS, UpdatedAgent, update_agents};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspensionOutcome {
    /// The entry with the new state was appended.
    Changed {
        /// When all in-sync replicas had the entry.
        acknowledged: Instant,
    },
    /// The agent has this state already; nothing was appended.
    Unchanged,
}

impl SuspensionOutcome {
    /// Returns the outcome's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Refusal to change an agent's state. Nothing was appended, or the entry of another command that the appended one replaced was
/// appended again.
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
        "agent `{key}`: expected an active or a suspended agent, found a retired one, which stays retired; register \
         its successor under another id"
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
/// have the entry, and each process that follows the topic reads it shortly afterwards. If another command appends an active
/// agent after a suspension, the function appends the suspension again.
///
/// # Errors
/// If the change is refused, the topic cannot be read to its end, the entry was not acknowledged, or the last entry has another
/// state, which another command appended.
pub fn change_suspension(
    context: RegistryContext<'_>,
    suspension: Suspension,
    (tenant_id, agent_id): (&str, &str),
    reason: &str,
    pushed_by: &str,
) -> Result<SuspensionOutcome, Error> {
    let key = format!("{tenant_id}/{agent_id}");
    let keys = BTreeSet::from([key.clone()]);
    let acknowledged = update_until_last(suspension, &key, || {
        let derive = |key: &str, entries: &[LoggedEntry], _: Option<&RegisteredAgent>| {
            suspension.derive(key, reason, entries)
        };
        let updated = update_agents(context, &keys, pushed_by, derive)?.remove(&key);
        Ok(updated.ok_or_else(|| SuspensionRefusal::UnknownAgent { key: key.clone() })?)
    })?;
    Ok(acknowledged
        .map_or(SuspensionOutcome::Unchanged, |acknowledged| SuspensionOutcome::Changed { acknowledged }))
}

/// Updates an agent until its last entry has the new state. Returns the time of the last acknowledgement. A push that read the
/// topic before this call appended may append after it, and fail before it reads the topic again: then only this call can
/// suspend the agent again. It never repeats the end of a suspension, because the last entry may be a later suspension.
pub(crate) fn update_until_last(
    suspension: Suspension,
    key: &str,
    mut update: impl FnMut() -> Result<UpdatedAgent, Error>,
) -> Result<Option<Instant>, Error> {
    let mut last_acknowledged = None;
    let mut found = None;
    for _ in 0..MAX_ROUNDS {
        let UpdatedAgent { acknowledged, last_state, .. } = update()?;
        last_acknowledged = acknowledged.or(last_acknowledged);
        if last_state == Some(suspension.state()) {
            return Ok(last_acknowledged);
        }
        found = last_state;
        if suspension == Suspension::Resume {
            break;
        }
    }
    let (expected, found) = (suspension.state().as_str(), found.map_or("unknown", AgentState::as_str));
    Err(Error::Overtaken { key: key.to_owned(), expected, found })
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
