//! Tools that an agent may know of.

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::AgentState;

use crate::cedar::{self, CallAction};
use crate::internal::InternalError;
use crate::kernel::Kernel;

impl Kernel<'_> {
    /// Returns true if the tool of a call is not suspended, and the scope of a grant matches the call: its agent, its action and its
    /// tool. Conditions and rules are about the arguments and the session of a call, so a tool that they deny now, or ask about, may
    /// be used later.
    ///
    /// # Errors
    /// If an invariant of this crate is violated.
    pub fn has_grant(&self, event: &ActionEvent<'_>) -> Result<bool, InternalError> {
        let agent = self.agents.get(event.tenant_id, event.agent.id);
        let agent = agent.filter(|agent| agent.state == AgentState::Active);
        let bundle = self.bundles.active(event.environment);
        let (Some(agent), Some(bundle), Some(tool)) = (agent, bundle, &event.tool) else { return Ok(false) };
        if self.registered_tool(event).block(event).is_some() {
            return Ok(false);
        }
        let effect = self.effect(bundle, event.tenant_id, tool.name);
        let candidates = bundle.index().candidates(CallAction::of(event), tool.name, effect)?;
        let mut grants = candidates.grants.policies();
        Ok(grants.any(|grant| cedar::is_principal(&grant.principal_constraint(), event, agent)))
    }
}
