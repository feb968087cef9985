//! Searches over the registered agents and the tools of the active bundle. Records nothing.

use agentgov_policy::authzen::{AccessAction, AccessEntity, AccessRequest, Properties};
use agentgov_schemas::catalogue;
use agentgov_schemas::verdict::Decision;

use super::question::CallQuestion;
use super::{DecisionLog, LogPoint, now};
use crate::callers::Caller;
use crate::point::{Found, FoundResult, Question, Refusal, Search, SearchTarget};

/// Maximum number of calls that one page of a search decides. The next page continues after them.
const MAX_DECIDED: usize = 200;

impl<L: DecisionLog> LogPoint<L> {
    /// Decides one call for each candidate.
    pub(super) async fn search_calls(
        &self,
        caller: Option<&Caller>,
        search: &Search<'_>,
    ) -> Result<Found, Refusal> {
        let call = |subject: &AccessEntity, action: &AccessAction, resource: &AccessEntity| {
            (subject.clone(), action.clone(), resource.clone())
        };
        let candidates: Vec<(FoundResult, (AccessEntity, AccessAction, AccessEntity))> = match search.target {
            SearchTarget::Subject { kind, action, resource } => {
                let tenant = tenant(caller, search.context)?;
                let agents = if kind == "agent" { self.follower.tables().agents(tenant) } else { Vec::new() };
                let candidate = |id: String| {
                    let subject = entity(kind, &id);
                    (FoundResult::Entity { kind: kind.to_owned(), id }, call(&subject, action, resource))
                };
                agents.into_iter().map(candidate).collect()
            }
            SearchTarget::Resource { kind, subject, action } => {
                let environment = environment(caller, search.context)?;
                let bundle = self.follower.tables().bundle(environment).filter(|_| kind == "tool");
                let tools = bundle.iter().flat_map(|bundle| bundle.tools().names());
                let candidate = |id: &str| {
                    let found = FoundResult::Entity { kind: kind.to_owned(), id: id.to_owned() };
                    (found, call(subject, action, &entity(kind, id)))
                };
                tools.map(candidate).collect()
            }
            SearchTarget::Action { subject, resource } => {
                let name = catalogue::TOOL_INVOKED.to_owned();
                let action = AccessAction { name: name.clone(), properties: Properties::new() };
                vec![(FoundResult::Action { name }, call(subject, &action, resource))]
            }
        };
        let mut found = Found::default();
        for (at, (result, (subject, action, resource))) in
            candidates.into_iter().enumerate().skip(search.from)
        {
            if found.results.len() >= search.limit || at.saturating_sub(search.from) >= MAX_DECIDED {
                found.next = Some(at);
                break;
            }
            let request = AccessRequest {
                subject: &subject,
                action: &action,
                resource: &resource,
                context: search.context,
            };
            let question = CallQuestion::read(caller, &Question { request, arguments: None }, now())?;
            if self.decide(&question).await?.decision == Decision::Allow {
                found.results.push(result);
            }
        }
        Ok(found)
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
