//! Table `agents`.

use agentgov_runtime::sink::native::{List, Text};
use agentgov_schemas::governance::AgentEntry;

columns! {
    /// Columns of an entry of the agent registry.
    a: AgentEntry<'a> {
        "tenant_id": Text = a.tenant_id,
        "agent_id": Text = a.agent_id,
        "name": Text = a.name,
        "owner": Text = a.owner,
        "roles": List<Text> = &mut a.roles.iter().copied(),
        "state": Text = a.state.as_str(),
        "description": Text = a.description,
        "reason": Text = a.reason,
        "pushed_by": Text = a.pushed_by,
        "sponsor": Text = a.sponsor,
        "version": Text = a.version,
        "environments": List<Text> = &mut a.environments.iter().copied(),
    }
}
