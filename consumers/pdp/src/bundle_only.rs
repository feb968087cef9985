//! Decides with a bundle of `model: authzen` alone: no log, no registry, no session. Records nothing.

use agentgov_policy::authzen::{
    AccessAction, AccessBundle, AccessEntity, AccessRequest, Evaluation, Properties,
};
use agentgov_schemas::verdict::Decision;
use uuid::Uuid;

use crate::answer::{Answer, BundleId};
use crate::callers::Caller;
use crate::point::{DecisionPoint, Found, FoundResult, Question, Refusal, Search, SearchTarget};

/// Maximum number of requests that one page of a search evaluates. The next page continues after them.
const MAX_SEARCHED: usize = 2_000;
/// Type of the subjects about which a caller bound to an agent may ask.
const AGENT_TYPE: &str = "agent";

/// Decision point with one bundle.
#[derive(Debug)]
pub struct BundleOnly {
    bundle: AccessBundle,
    id: BundleId,
}

impl BundleOnly {
    /// Creates a decision point with this bundle.
    pub fn new(bundle: AccessBundle) -> Self {
        let id = BundleId {
            name: bundle.name().into(),
            version: bundle.version().into(),
            digest: bundle.digest(),
        };
        Self { bundle, id }
    }

    fn decide(&self, request: &AccessRequest<'_>) -> Result<Evaluation, Refusal> {
        self.bundle.evaluate(request).map_err(|e| Refusal::Internal(e.to_string()))
    }

    /// Lists the candidates that would be allowed. Other requests get their turn between two evaluations.
    async fn filter<'c>(
        &self,
        candidates: impl Iterator<Item = &'c str> + Send,
        (from, limit): (usize, usize),
        is_allowed: impl Fn(&'c str) -> Result<bool, Refusal> + Send + Sync,
    ) -> Result<(Vec<&'c str>, Option<usize>), Refusal> {
        let mut found = Vec::new();
        for (at, candidate) in candidates.enumerate().skip(from) {
            if found.len() >= limit || at - from >= MAX_SEARCHED {
                return Ok((found, Some(at)));
            }
            if is_allowed(candidate)? {
                found.push(candidate);
            }
            tokio::task::yield_now().await;
        }
        Ok((found, None))
    }

    fn is_allowed(
        &self,
        subject: &AccessEntity,
        action: &AccessAction,
        resource: &AccessEntity,
        context: &Properties,
    ) -> Result<bool, Refusal> {
        let request = AccessRequest { subject, action, resource, context };
        Ok(self.decide(&request)?.decision == Decision::Allow)
    }
}

/// Checks that a caller bound to an agent asks about this agent only.
fn check_subject(caller: Option<&Caller>, subject: Option<&AccessEntity>) -> Result<(), Refusal> {
    let Some(agent) = caller.and_then(|caller| caller.agent.as_deref()) else { return Ok(()) };
    if subject.is_some_and(|subject| subject.kind == AGENT_TYPE && subject.id == agent) {
        return Ok(());
    }
    Err(Refusal::Forbidden(
        "expected the subject to be the agent that the token is for, found another; ask with a token of that agent"
            .to_owned(),
    ))
}

impl DecisionPoint for BundleOnly {
    async fn evaluate(&self, caller: Option<&Caller>, question: Question<'_>) -> Result<Answer, Refusal> {
        check_subject(caller, Some(question.request.subject))?;
        let Evaluation { decision, reason, determining, observed, errors } =
            self.decide(&question.request)?;
        Ok(Answer {
            decision,
            reason: reason.as_str(),
            policies: determining,
            observed,
            errors,
            evaluation_id: Uuid::now_v7(),
            bundle: Some(self.id.clone()),
            recorded: false,
            more: Properties::new(),
        })
    }

    async fn search(&self, caller: Option<&Caller>, search: Search<'_>) -> Result<Found, Refusal> {
        let Search { target, context, from, limit, .. } = search;
        let page = (from, limit);
        match target {
            SearchTarget::Subject { kind, action, resource } => {
                check_subject(caller, None)?;
                let ids = self.bundle.ids(kind).iter().map(String::as_str);
                let (found, next) = self
                    .filter(ids, page, |id| self.is_allowed(&entity(kind, id), action, resource, context))
                    .await?;
                Ok(Found { results: entities(kind, &found), next })
            }
            SearchTarget::Resource { kind, subject, action } => {
                check_subject(caller, Some(subject))?;
                let ids = self.bundle.ids(kind).iter().map(String::as_str);
                let (found, next) = self
                    .filter(ids, page, |id| self.is_allowed(subject, action, &entity(kind, id), context))
                    .await?;
                Ok(Found { results: entities(kind, &found), next })
            }
            SearchTarget::Action { subject, resource } => {
                check_subject(caller, Some(subject))?;
                let names: Vec<&str> = self.bundle.actions(&subject.kind, &resource.kind).collect();
                let is_allowed = |name: &str| {
                    let action = AccessAction { name: name.to_owned(), properties: Properties::new() };
                    self.is_allowed(subject, &action, resource, context)
                };
                let (found, next) = self.filter(names.into_iter(), page, is_allowed).await?;
                let results = found.iter().map(|name| FoundResult::Action { name: (*name).to_owned() });
                Ok(Found { results: results.collect(), next })
            }
        }
    }
}

fn entity(kind: &str, id: &str) -> AccessEntity {
    AccessEntity { kind: kind.to_owned(), id: id.to_owned(), properties: Properties::new() }
}

fn entities(kind: &str, ids: &[&str]) -> Vec<FoundResult> {
    let result = |id: &&str| FoundResult::Entity {
        kind: kind.to_owned(),
        id: (*id).to_owned(),
        properties: Properties::new(),
    };
    ids.iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use agentgov_policy::BundleFiles;

    use super::*;

    #[test]
    fn search_lets_other_tasks_run() {
        let folder = agentgov_test_support::root().join("examples/authzen/certification");
        let file = |name: &str| (name.to_owned(), std::fs::read(folder.join(name)).unwrap());
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let names = names.filter(|path| path.is_file());
        let files: BTreeMap<_, _> =
            names.map(|path| file(path.file_name().unwrap().to_str().unwrap())).collect();
        let point = BundleOnly::new(AccessBundle::compile(&BundleFiles(files)).unwrap());
        let (action, resource) = (
            AccessAction { name: "read".to_owned(), ..AccessAction::default() },
            entity("record", "record-1"),
        );
        let context = Properties::new();
        let search = Search {
            target: SearchTarget::Subject { kind: "user", action: &action, resource: &resource },
            context: &context,
            arguments: None,
            received_at: Instant::now(),
            from: 0,
            limit: 10,
        };
        let other_task = Arc::new(AtomicBool::new(false));
        let has_run = Arc::clone(&other_task);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(async {
            tokio::spawn(async move { other_task.store(true, Ordering::SeqCst) });
            point.search(None, search).await
        });
        assert!(!found.unwrap().results.is_empty());
        assert!(has_run.load(Ordering::SeqCst));
    }
}
