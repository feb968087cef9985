//! Principals, actions and resources in Cedar's words, kept between questions: to build them costs more than to ask.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use agentgov_enrichment::Agent;
use agentgov_schemas::Digest;
use agentgov_schemas::event::ActionEvent;

use crate::bundle::Bundle;
use crate::cedar::{Act, Scene};
use crate::internal::InternalError;

/// Most that are kept; then it begins anew.
const MOST: usize = 10_000;

/// What a [`Kernel`](crate::Kernel) keeps from event to event. It decides nothing: an empty one gives the same verdicts. One
/// goes with one table of agents: it is known by how far that is folded.
#[derive(Debug, Default)]
pub struct Scenes(RefCell<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Of what: the agents as far as they were folded, and the bundle.
    of: Option<(i64, Digest)>,
    scenes: HashMap<String, Arc<Scene>>,
    /// The key in work.
    key: String,
}

impl Scenes {
    /// The scene of `event`, whose agent is `agent` as of `agents`, the first offset not yet folded.
    pub(crate) fn of(
        &self,
        event: &ActionEvent<'_>,
        bundle: &Bundle,
        agent: Option<&Agent>,
        agents: i64,
    ) -> Result<Arc<Scene>, InternalError> {
        let kept = &mut *self.0.borrow_mut();
        let of = Some((agents, bundle.digest()));
        if kept.of != of || kept.scenes.len() >= MOST {
            kept.scenes.clear();
            kept.of = of;
        }
        let tool = event.tool.as_ref().map_or("", |tool| tool.name);
        let (tenant, name) = (event.tenant_id, event.agent.id);
        kept.key.clear();
        // With lengths, so that no two are the same.
        write!(kept.key, "{}:{tenant}{}:{name}{:?}{tool}", tenant.len(), name.len(), Act::of(event))
            .map_err(InternalError::new)?;
        if let Some(scene) = kept.scenes.get(&kept.key) {
            return Ok(Arc::clone(scene));
        }
        let scene = Arc::new(Scene::new(event, bundle.tools().effect(tool), agent)?);
        kept.scenes.insert(kept.key.clone(), Arc::clone(&scene));
        Ok(scene)
    }
}
