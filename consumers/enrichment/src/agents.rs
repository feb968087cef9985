//! Table of the registered agents, folded from governance.agents.

use std::collections::BTreeMap;

use agentgov_schemas::governance::{AgentEntry, AgentState};

/// Registry data of an agent that verdicts depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Team or person that is responsible for the agent.
    pub owner: String,
    /// Roles, sorted and without duplicates.
    pub roles: Vec<String>,
    /// State in the registry.
    pub state: AgentState,
    /// Person who answers for the agent's actions; empty if none is registered.
    pub sponsor: String,
    /// Environments in which the agent has grants, sorted and without duplicates; empty for all.
    pub environments: Vec<String>,
}

impl Agent {
    /// Returns whether the agent has the grants of its roles in an environment.
    pub fn has_grants_in(&self, environment: &str) -> bool {
        let is_listed = self.environments.is_empty() || self.environments.iter().any(|e| e == environment);
        self.state == AgentState::Active && is_listed
    }
}

/// Global table of agents by tenant and id. The last entry of an agent wins.
#[derive(Clone, Debug, Default)]
pub struct AgentTable {
    agents: BTreeMap<String, BTreeMap<String, Agent>>,
    next_offset: i64,
}

impl AgentTable {
    /// Applies the record at `offset` of the topic.
    pub fn fold(&mut self, entry: &AgentEntry<'_>, offset: i64) {
        let (roles, environments) = (sorted(&entry.roles), sorted(&entry.environments));
        // A state that this build does not know must not grant anything.
        let state = entry.state.known().unwrap_or(AgentState::Retired);
        let sponsor = entry.sponsor.to_owned();
        let agent = Agent { owner: entry.owner.to_owned(), roles, state, sponsor, environments };
        self.agents.entry(entry.tenant_id.to_owned()).or_default().insert(entry.agent_id.to_owned(), agent);
        self.skip(offset);
    }

    /// Skips the record at `offset`, which could not be decoded.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    /// Returns the agent if it is registered.
    pub fn get(&self, tenant_id: &str, agent_id: &str) -> Option<&Agent> {
        self.agents.get(tenant_id)?.get(agent_id)
    }

    /// Returns the ids of a tenant's agents, sorted.
    pub fn ids(&self, tenant_id: &str) -> impl Iterator<Item = &str> {
        self.agents.get(tenant_id).into_iter().flat_map(|agents| agents.keys().map(String::as_str))
    }

    /// Returns the next offset to fold. Verdicts record it as the position of the table.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }
}

/// Returns the names sorted and without duplicates.
fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::OpenEnum;

    use super::*;

    #[test]
    fn fold_of_several_entries_keeps_the_last_of_each_tenants_agent() {
        let mut table = AgentTable::default();
        let mut entry = AgentEntry {
            owner: "support",
            roles: vec!["clerk", "agent", "clerk"],
            ..AgentEntry::new("acme", "bot", AgentState::Active)
        };
        table.fold(&entry, 4);
        assert_eq!(table.get("acme", "bot").unwrap().roles, ["agent", "clerk"]);
        assert_eq!(table.get("other", "bot"), None, "another tenant's agent of the same id");
        entry.state = OpenEnum::from_name("on leave");
        table.fold(&entry, 7);
        assert_eq!(
            table.get("acme", "bot").unwrap().state,
            AgentState::Retired,
            "an unknown state grants nothing"
        );
        assert_eq!(table.next_offset(), 8);
    }

    #[test]
    fn only_an_active_agent_has_grants_and_only_in_its_environments() {
        for (state, environments, expected) in [
            (AgentState::Active, vec![], true),
            (AgentState::Active, vec!["staging", "production"], true),
            (AgentState::Active, vec!["staging"], false),
            (AgentState::Suspended, vec![], false),
            (AgentState::Retired, vec!["production"], false),
        ] {
            let mut table = AgentTable::default();
            table.fold(&AgentEntry { environments, ..AgentEntry::new("acme", "bot", state) }, 0);
            assert_eq!(table.get("acme", "bot").unwrap().has_grants_in("production"), expected);
        }
    }
}
