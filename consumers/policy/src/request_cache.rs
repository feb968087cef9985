//! Principals, actions and resources as Cedar's entities, kept between requests: building them costs more than authorizing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use agentgov_enrichment::Agent;
use agentgov_schemas::Digest;
use agentgov_schemas::event::ActionEvent;

use crate::bundle::Bundle;
use crate::cedar::{Act, RequestTemplate};
use crate::internal::InternalError;

/// Most entries. A full cache is cleared.
const MAX_ENTRIES: usize = 10_000;

/// A cache of the requests of a [`Kernel`](crate::Kernel). It changes no verdict. It is valid for one offset of the table of
/// agents and one bundle, and cleared when either changes.
#[derive(Debug, Default)]
pub struct RequestCache(RefCell<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The offset of the table of agents, and the bundle, for which it is valid.
    of: Option<(i64, Digest)>,
    requests: HashMap<String, Arc<RequestTemplate>>,
    /// The key in work.
    key: String,
}

impl RequestCache {
    /// Returns the template of `event`, whose agent is `agent` as of `agents`, the first offset not yet folded.
    pub(crate) fn of(
        &self,
        event: &ActionEvent<'_>,
        bundle: &Bundle,
        agent: Option<&Agent>,
        agents: i64,
    ) -> Result<Arc<RequestTemplate>, InternalError> {
        let kept = &mut *self.0.borrow_mut();
        let of = Some((agents, bundle.digest()));
        if kept.of != of || kept.requests.len() >= MAX_ENTRIES {
            kept.requests.clear();
            kept.of = of;
        }
        let tool = event.tool.as_ref().map_or("", |tool| tool.name);
        let (tenant, name) = (event.tenant_id, event.agent.id);
        kept.key.clear();
        // With lengths, so that no two are the same.
        write!(kept.key, "{}:{tenant}{}:{name}{:?}{tool}", tenant.len(), name.len(), Act::of(event))
            .map_err(InternalError::new)?;
        if let Some(template) = kept.requests.get(&kept.key) {
            return Ok(Arc::clone(template));
        }
        let template = Arc::new(RequestTemplate::new(event, bundle.tools().effect(tool), agent)?);
        kept.requests.insert(kept.key.clone(), Arc::clone(&template));
        Ok(template)
    }
}
