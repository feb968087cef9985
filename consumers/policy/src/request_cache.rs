//! Cache of Cedar requests: building entities is slower than authorizing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use agentgov_enrichment::Agent;
use agentgov_schemas::Digest;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::ToolEffect;

use crate::bundle::Bundle;
use crate::cedar::{CallAction, RequestTemplate};
use crate::internal::InternalError;

/// Maximum number of entries. A full cache is cleared.
const MAX_ENTRIES: usize = 10_000;

/// Cache of the requests of a [`Kernel`](crate::Kernel). It does not affect verdicts. It is valid for one bundle and one offset of
/// each table, and is cleared when either changes.
#[derive(Debug, Default)]
pub struct RequestCache(RefCell<CacheState>);

#[derive(Debug, Default)]
struct CacheState {
    /// Offsets of the tables of agents and tools, and digest of the bundle, that the entries are valid for.
    valid_for: Option<(i64, i64, Digest)>,
    requests: HashMap<String, Arc<RequestTemplate>>,
    /// Buffer for keys.
    key: String,
}

impl RequestCache {
    /// Returns the request template of `event`, whose agent and effect are those at the given next offsets of the tables of agents
    /// and tools.
    pub(crate) fn template(
        &self,
        event: &ActionEvent<'_>,
        bundle: &Bundle,
        (agent, effect): (Option<&Agent>, ToolEffect),
        (agents, tools): (i64, i64),
    ) -> Result<Arc<RequestTemplate>, InternalError> {
        let state = &mut *self.0.borrow_mut();
        let valid_for = Some((agents, tools, bundle.digest()));
        if state.valid_for != valid_for || state.requests.len() >= MAX_ENTRIES {
            state.requests.clear();
            state.valid_for = valid_for;
        }
        let tool = event.tool.as_ref().map_or("", |tool| tool.name);
        let (tenant, name) = (event.tenant_id, event.agent.id);
        state.key.clear();
        // Lengths keep keys of different requests distinct.
        write!(state.key, "{}:{tenant}{}:{name}{:?}{tool}", tenant.len(), name.len(), CallAction::of(event))
            .map_err(InternalError::new)?;
        if let Some(template) = state.requests.get(&state.key) {
            return Ok(Arc::clone(template));
        }
        let template = Arc::new(RequestTemplate::new(event, effect, agent)?);
        state.requests.insert(state.key.clone(), Arc::clone(&template));
        Ok(template)
    }
}
