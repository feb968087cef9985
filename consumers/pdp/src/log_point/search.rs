//! Searches over the registered agents, and over the tools of the active bundle and of the registry. Records nothing.

use std::collections::BTreeSet;

use agentgov_policy::authzen::{AccessAction, AccessEntity, AccessRequest, Properties};
use agentgov_schemas::verdict::Decision;
use agentgov_schemas::{Digest, catalogue};
use serde_json::json;

use super::question::CallQuestion;
use super::{AFTER_TIMEOUT, DecisionLog, LogPoint, now};
use crate::callers::Caller;
use crate::point::{Found, FoundResult, Question, Refusal, Search, SearchTarget};

/// Maximum number of calls that one page of a search decides. The next page continues after them.
const MAX_DECIDED: usize = 200;

/// Type of the subjects that are agents.
const AGENT_TYPE: &str = "agent";
/// Type of the resources that are tools.
const TOOL_TYPE: &str = "tool";
/// Action of a search for the tools that an agent may know of, whatever their arguments will be.
const LIST_TOOLS: &str = "tools/list";
/// Action of a call.
const CALL_TOOL: &str = "tools/call";
/// Id that is valid for every searched part, before there is a candidate.
const ANY_ID: &str = "-";

impl<L: DecisionLog> LogPoint<L> {
    /// Decides one call for each candidate.
    pub(super) async fn search_calls(
        &self,
        caller: Option<&Caller>,
        search: &Search<'_>,
    ) -> Result<Found, Refusal> {
        let mut call = SearchedCall::new(&search.target);
        // Checks the request even if there is no candidate.
        CallQuestion::read(caller, &call.question(search), now())?;
        let mut found = Found::default();
        for (checked, id) in self.candidates(caller, search)?.into_iter().enumerate() {
            if found.results.len() >= search.limit || checked >= MAX_DECIDED {
                found.next = Some(search.from.saturating_add(checked));
                break;
            }
            call.set(&search.target, &id);
            let question = call.question(search);
            let wait = question.remaining(AFTER_TIMEOUT);
            let question = CallQuestion::read(caller, &question, now())?;
            let is_found = if call.is_listing {
                self.has_grant(&question)?
            } else {
                self.decide(&question, wait).await?.decision == Decision::Allow
            };
            if is_found {
                let definition = self.follower.tables().definition(question.tenant_id, question.tool);
                let definition =
                    definition.filter(|_| matches!(search.target, SearchTarget::Resource { .. }));
                found.results.push(result(&search.target, id, definition));
            }
            // Other requests get their turn between two decisions.
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    /// Returns true if the agent may know of the tool. No state of a session is needed.
    fn has_grant(&self, call: &CallQuestion<'_>) -> Result<bool, Refusal> {
        let tables = self.follower.tables();
        if !tables.are_loaded() {
            return Ok(false);
        }
        let has_grant = tables.with_kernel(|kernel| kernel.has_grant(&call.event()));
        let has_grant = has_grant.map_err(|error| Refusal::Internal(error.to_string()))?;
        has_grant.map_err(|error| Refusal::Internal(error.to_string()))
    }

    /// Returns the ids of the page's candidates, and one more if there are more.
    fn candidates(&self, caller: Option<&Caller>, search: &Search<'_>) -> Result<Vec<String>, Refusal> {
        let tables = self.follower.tables();
        let most = MAX_DECIDED.saturating_add(1);
        Ok(match search.target {
            SearchTarget::Subject { kind, .. } => {
                let tenant = tenant(caller, search.context)?;
                let agents = if kind == AGENT_TYPE { tables.agents(tenant) } else { Vec::new() };
                agents.into_iter().skip(search.from).take(most).collect()
            }
            SearchTarget::Resource { kind, .. } => {
                let environment = environment(caller, search.context)?;
                let bundle = tables.bundle(environment).filter(|_| kind == TOOL_TYPE);
                let registered = if kind == TOOL_TYPE {
                    tables.tools(tenant(caller, search.context)?)
                } else {
                    Vec::new()
                };
                let listed = bundle.iter().flat_map(|bundle| bundle.tools().names()).map(str::to_owned);
                let tools: BTreeSet<String> = listed.chain(registered).collect();
                tools.into_iter().skip(search.from).take(most).collect()
            }
            SearchTarget::Action { .. } => {
                std::iter::once(catalogue::TOOL_INVOKED.to_owned()).skip(search.from).collect()
            }
        })
    }
}

/// The call of a candidate. It has no properties, since they do not count.
struct SearchedCall {
    subject: AccessEntity,
    action: AccessAction,
    resource: AccessEntity,
    is_listing: bool,
}

impl SearchedCall {
    fn new(target: &SearchTarget<'_>) -> Self {
        let of = |of: &AccessEntity| entity(&of.kind, &of.id);
        let (subject, action, resource) = match *target {
            SearchTarget::Subject { action, resource, .. } => {
                (entity(AGENT_TYPE, ANY_ID), action.name.as_str(), of(resource))
            }
            SearchTarget::Resource { subject, action, .. } => {
                (of(subject), action.name.as_str(), entity(TOOL_TYPE, ANY_ID))
            }
            SearchTarget::Action { subject, resource } => {
                (of(subject), catalogue::TOOL_INVOKED, of(resource))
            }
        };
        let is_listing = action == LIST_TOOLS && matches!(target, SearchTarget::Resource { .. });
        let action = if is_listing { CALL_TOOL } else { action };
        let action = AccessAction { name: action.to_owned(), properties: Properties::new() };
        Self { subject, action, resource, is_listing }
    }

    /// Sets the searched part.
    fn set(&mut self, target: &SearchTarget<'_>, id: &str) {
        let part = match target {
            SearchTarget::Subject { .. } => &mut self.subject.id,
            SearchTarget::Resource { .. } => &mut self.resource.id,
            SearchTarget::Action { .. } => &mut self.action.name,
        };
        id.clone_into(part);
    }

    const fn question<'q>(&'q self, search: &Search<'q>) -> Question<'q> {
        let Self { subject, action, resource, .. } = self;
        let request = AccessRequest { subject, action, resource, context: search.context };
        Question { request, arguments: search.arguments, received_at: search.received_at }
    }
}

/// Creates the result for a candidate. `definition` is the digest of the tool's accepted definition.
fn result(target: &SearchTarget<'_>, id: String, definition: Option<Digest>) -> FoundResult {
    match target {
        SearchTarget::Subject { kind, .. } | SearchTarget::Resource { kind, .. } => {
            let properties =
                definition.map(|definition| ("definition".to_owned(), json!(definition.to_string())));
            FoundResult::Entity { kind: (*kind).to_owned(), id, properties: properties.into_iter().collect() }
        }
        SearchTarget::Action { .. } => FoundResult::Action { name: id },
    }
}

fn entity(kind: &str, id: &str) -> AccessEntity {
    AccessEntity { kind: kind.to_owned(), id: id.to_owned(), properties: Properties::new() }
}

fn tenant<'r>(caller: Option<&'r Caller>, context: &'r Properties) -> Result<&'r str, Refusal> {
    caller.map(|caller| caller.tenant.as_str()).map_or_else(|| named(context, "tenant"), Ok)
}

fn environment<'r>(caller: Option<&'r Caller>, context: &'r Properties) -> Result<&'r str, Refusal> {
    caller.map(|caller| caller.environment.as_str()).map_or_else(|| named(context, "environment"), Ok)
}

fn named<'r>(context: &'r Properties, name: &str) -> Result<&'r str, Refusal> {
    let value = context.get(name).and_then(serde_json::Value::as_str);
    value.ok_or_else(|| Refusal::Invalid(format!("`context.{name}`: expected a text, found none")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use agentgov_connect::KafkaEndpoint;
    use agentgov_follower::{Follower, FollowerConfig};
    use agentgov_schemas::Micros;
    use agentgov_schemas::topology::Topology;

    use super::*;
    use crate::log_point::{AskedApproval, LogPointConfig, NotRecorded, RecordedDecision};

    struct NoLog;

    impl DecisionLog for NoLog {
        fn record(&self, _: &RecordedDecision<'_>) -> Result<(), NotRecorded> {
            Err(NotRecorded::Log("a search records nothing".to_owned()))
        }

        fn record_asked(&self, _: &AskedApproval<'_>) -> Result<(), String> {
            Err("a search asks nobody".to_owned())
        }
    }

    /// Returns a decision point that has read nothing, so that there are no candidates.
    fn empty() -> LogPoint<NoLog> {
        let topology = std::fs::read_to_string(agentgov_test_support::root().join("topology.yaml")).unwrap();
        let config = FollowerConfig {
            kafka: KafkaEndpoint { bootstrap: String::new(), tls: None, login: None },
            max_staleness: Duration::ZERO,
            max_ahead_bytes: 0,
        };
        let follower = Follower::new(&Topology::parse("topology.yaml", &topology).unwrap(), config).unwrap();
        let config = LogPointConfig {
            name: "pdp".to_owned(),
            signing_key: None,
            token_lifetime: Duration::ZERO,
            approval_lifetime: Duration::ZERO,
            tenants: BTreeSet::new(),
        };
        LogPoint::new(Arc::new(follower), NoLog, config)
    }

    fn search<'r>(
        target: SearchTarget<'r>,
        context: &'r Properties,
        arguments: Option<&'r str>,
    ) -> Search<'r> {
        Search { target, context, arguments, received_at: Instant::now(), from: 0, limit: 10 }
    }

    #[test]
    fn search_is_checked_even_without_candidates() {
        let point = empty();
        let (subject, resource) = (entity("agent", "bot"), entity("tool", "pay"));
        let action = AccessAction { name: "tools/call".to_owned(), properties: Properties::new() };
        let (agents, tools) = (
            SearchTarget::Subject { kind: "agent", action: &action, resource: &resource },
            SearchTarget::Resource { kind: "tool", subject: &subject, action: &action },
        );
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for target in [agents, tools] {
            let found = |context: serde_json::Value| {
                let context = context.as_object().unwrap();
                runtime.block_on(point.search_calls(None, &search(target, context, None)))
            };
            let whole = json!({"tenant": "acme", "environment": "test", "session": "s"});
            assert_eq!(found(whole), Ok(Found::default()));
            assert_eq!(
                found(json!({"tenant": "acme", "environment": "test"})),
                Err(Refusal::Invalid("`context.session`: expected a text, found none".to_owned()))
            );
        }
    }

    #[test]
    fn call_of_a_candidate_has_the_arguments_and_no_properties() {
        let mut subject = entity("agent", "bot");
        subject.properties.insert("large".to_owned(), json!("x"));
        let action = AccessAction { name: "tools/call".to_owned(), properties: subject.properties.clone() };
        let context =
            json!({"tenant": "acme", "environment": "test", "session": "s", "arguments": {"n": 1.0}});
        let target = SearchTarget::Resource { kind: "tool", subject: &subject, action: &action };
        let search = search(target, context.as_object().unwrap(), Some(r#"{"n":  1.0}"#));
        let mut call = SearchedCall::new(&target);
        call.set(&target, "pay");
        let question = call.question(&search);
        assert!(
            question.request.subject.properties.is_empty() && question.request.action.properties.is_empty()
        );
        let call = CallQuestion::read(None, &question, Micros(7)).unwrap();
        assert_eq!((call.agent_id, call.tool, &*call.arguments), ("bot", "pay", r#"{"n":  1.0}"#));
    }
}
