//! The registered agents: governance.agents, folded.

use std::collections::BTreeMap;

use agentgov_schemas::governance::{AgentEntry, AgentState};

/// What verdicts need to know of a registered agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Who answers for it.
    pub owner: String,
    /// Its roles, sorted, each once.
    pub roles: Vec<String>,
    /// Whether it may act.
    pub state: AgentState,
}

/// The agent registry as far as it was read. The last entry of a (tenant, agent) counts.
#[derive(Clone, Debug, Default)]
pub struct AgentTable {
    agents: BTreeMap<String, BTreeMap<String, Agent>>,
    next_offset: i64,
}

impl AgentTable {
    /// Takes in the record at `offset` of the governance topic.
    pub fn fold(&mut self, entry: &AgentEntry<'_>, offset: i64) {
        let mut roles: Vec<String> = entry.roles.iter().map(|role| (*role).to_owned()).collect();
        roles.sort();
        roles.dedup();
        // A state of a later build must not grant anything.
        let state = entry.state.known().unwrap_or(AgentState::Retired);
        let agent = Agent { owner: entry.owner.to_owned(), roles, state };
        self.agents.entry(entry.tenant_id.to_owned()).or_default().insert(entry.agent_id.to_owned(), agent);
        self.skip(offset);
    }

    /// Passes over the record at `offset`, which could not be read.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    /// The agent, if it is registered.
    pub fn get(&self, tenant_id: &str, agent_id: &str) -> Option<&Agent> {
        self.agents.get(tenant_id)?.get(agent_id)
    }

    /// The first offset not yet folded: what a verdict names.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::OpenEnum;

    use super::*;

    #[test]
    fn the_last_entry_of_a_tenants_agent_counts() {
        let mut table = AgentTable::default();
        let mut entry = AgentEntry {
            tenant_id: "acme",
            agent_id: "bot",
            name: "Bot",
            owner: "support",
            roles: vec!["clerk", "agent", "clerk"],
            state: AgentState::Active.into(),
            description: "",
            pushed_by: "",
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
}
