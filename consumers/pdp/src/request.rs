//! Requests of AuthZEN's Authorization API, parsed from JSON. Unknown members are ignored; every error names its
//! member.

use std::sync::Arc;
use std::time::Instant;

use agentgov_policy::authzen::{AccessAction, AccessEntity, AccessRequest, Properties};
use serde_json::Value;

use crate::http::MAX_EVALUATIONS;
use crate::json::{Body, ContextOf};
use crate::point::Question;

/// A complete request for a decision.
#[derive(Debug)]
pub(crate) struct EvaluationRequest {
    subject: Arc<AccessEntity>,
    action: Arc<AccessAction>,
    resource: Arc<AccessEntity>,
    context: ContextPart,
}

impl EvaluationRequest {
    /// Reads the body of `/access/v1/evaluation`.
    ///
    /// # Errors
    /// Names the member that is missing or not of its type.
    pub(crate) fn read(body: &Body) -> Result<Self, String> {
        Parts::read(root(body)?, "", body, ContextOf::Whole)?.complete(&Parts::default())
    }

    /// Returns the question of a request that arrived at this time.
    pub(crate) fn question(&self, received_at: Instant) -> Question<'_> {
        let Self { subject, action, resource, context: ContextPart { members, arguments } } = self;
        let request = AccessRequest { subject, action, resource, context: members };
        Question { request, arguments: arguments.as_deref(), received_at }
    }
}

/// The body of `/access/v1/evaluations`.
#[derive(Debug)]
pub(crate) enum EvaluationsRequest {
    /// A body without `evaluations` is one request.
    One(Box<EvaluationRequest>),
    /// Several requests, each with its members or the reason why it is invalid.
    Many(Semantic, Vec<Result<EvaluationRequest, String>>),
}

/// Condition under which a batch ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

impl Semantic {
    /// Returns true if the batch ends after such a decision.
    pub(crate) fn ends_after(self, allowed: bool) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => !allowed,
            Self::PermitOnFirstPermit => allowed,
        }
    }

    fn read(options: Option<&Value>) -> Result<Self, String> {
        let Some(options) = options else { return Ok(Self::ExecuteAll) };
        let Some(options) = options.as_object() else { return Err(wrong("options", "an object", options)) };
        let at = "options.evaluations_semantic";
        match options.get("evaluations_semantic") {
            None => Ok(Self::ExecuteAll),
            Some(Value::String(name)) => match name.as_str() {
                "execute_all" => Ok(Self::ExecuteAll),
                "deny_on_first_deny" => Ok(Self::DenyOnFirstDeny),
                "permit_on_first_permit" => Ok(Self::PermitOnFirstPermit),
                _ => Err(format!(
                    "`{at}`: expected execute_all, deny_on_first_deny or permit_on_first_permit, found another text"
                )),
            },
            Some(other) => Err(wrong(at, "a text", other)),
        }
    }
}

impl EvaluationsRequest {
    /// Reads the body.
    ///
    /// # Errors
    /// Names the member that is missing or not of its type. A mistake within one evaluation is an error of that one only.
    pub(crate) fn read(body: &Body) -> Result<Self, String> {
        let whole = root(body)?;
        let semantic = Semantic::read(whole.get("options"))?;
        let defaults = Parts::read(whole, "", body, ContextOf::Whole)?;
        let items = match whole.get("evaluations") {
            None => return Ok(Self::One(Box::new(defaults.complete(&Parts::default())?))),
            Some(Value::Array(items)) if items.is_empty() => {
                return Ok(Self::One(Box::new(defaults.complete(&Parts::default())?)));
            }
            Some(Value::Array(items)) if items.len() > MAX_EVALUATIONS => {
                return Err(format!(
                    "`evaluations`: expected at most {MAX_EVALUATIONS} evaluations, found {}",
                    items.len()
                ));
            }
            Some(Value::Array(items)) => items,
            Some(other) => return Err(wrong("evaluations", "a list", other)),
        };
        let mut requests = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let at = format!("evaluations[{number}]");
            let Some(item) = item.as_object() else { return Err(wrong(&at, "an object", item)) };
            let parts = Parts::read(item, &at, body, ContextOf::Evaluation(number));
            requests.push(parts.and_then(|parts| parts.complete(&defaults)));
        }
        Ok(Self::Many(semantic, requests))
    }
}

/// The members that a request has. The evaluations of a batch share those of the defaults: a copy for each would be a
/// thousand times the body.
#[derive(Debug, Default)]
struct Parts {
    at: String,
    subject: Option<Arc<AccessEntity>>,
    action: Option<Arc<AccessAction>>,
    resource: Option<Arc<AccessEntity>>,
    context: Option<ContextPart>,
}

/// A context, with the text of its `arguments`.
#[derive(Clone, Debug, Default)]
struct ContextPart {
    members: Arc<Properties>,
    arguments: Option<Arc<str>>,
}

/// Whether an entity needs an id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IdRule {
    Required,
    /// The entity is searched for: an id is ignored.
    Ignored,
}

impl Parts {
    fn read(of: &Properties, at: &str, body: &Body, owner: ContextOf) -> Result<Self, String> {
        let path = |key: &str| join(at, key);
        let entity = |key: &str| {
            let entity = of.get(key).map(|value| entity(value, &path(key), IdRule::Required)).transpose()?;
            Ok::<_, String>(entity.map(Arc::new))
        };
        let context = match of.get("context") {
            None => None,
            Some(Value::Object(context)) => Some(ContextPart {
                members: Arc::new(context.clone()),
                arguments: body.arguments(owner).map(Arc::from),
            }),
            Some(other) => return Err(wrong(&path("context"), "an object", other)),
        };
        let action = of.get("action").map(|value| action(value, &path("action"))).transpose()?;
        Ok(Self {
            at: at.to_owned(),
            subject: entity("subject")?,
            action: action.map(Arc::new),
            resource: entity("resource")?,
            context,
        })
    }

    /// Takes each missing member as a whole from the defaults.
    fn complete(self, defaults: &Self) -> Result<EvaluationRequest, String> {
        let missing = |key: &str| missing(&join(&self.at, key), "an object");
        Ok(EvaluationRequest {
            subject: self.subject.or_else(|| defaults.subject.clone()).ok_or_else(|| missing("subject"))?,
            action: self.action.or_else(|| defaults.action.clone()).ok_or_else(|| missing("action"))?,
            resource: self
                .resource
                .or_else(|| defaults.resource.clone())
                .ok_or_else(|| missing("resource"))?,
            context: self.context.or_else(|| defaults.context.clone()).unwrap_or_default(),
        })
    }
}

/// Kind of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SearchKind {
    Subject,
    Resource,
    Action,
}

/// The body of `/access/v1/search/…`.
#[derive(Debug)]
pub(crate) struct SearchRequest {
    pub(crate) subject: AccessEntity,
    /// Empty in a search for actions.
    pub(crate) action: AccessAction,
    pub(crate) resource: AccessEntity,
    pub(crate) context: Properties,
    /// Text of `context.arguments`.
    pub(crate) arguments: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) limit: Option<usize>,
}

impl SearchRequest {
    /// Reads the body.
    ///
    /// # Errors
    /// Names the member that is missing or not of its type.
    pub(crate) fn read(body: &Body, kind: SearchKind) -> Result<Self, String> {
        let whole = root(body)?;
        let part = |key: &str, target: SearchKind| {
            let value = whole.get(key).ok_or_else(|| missing(key, "an object"))?;
            entity(value, key, if kind == target { IdRule::Ignored } else { IdRule::Required })
        };
        let subject = part("subject", SearchKind::Subject)?;
        let action = match (kind, whole.get("action")) {
            (SearchKind::Action, _) => AccessAction::default(),
            (_, Some(value)) => action(value, "action")?,
            (_, None) => return Err(missing("action", "an object")),
        };
        let resource = part("resource", SearchKind::Resource)?;
        let context = match whole.get("context") {
            None => Properties::new(),
            Some(Value::Object(context)) => context.clone(),
            Some(other) => return Err(wrong("context", "an object", other)),
        };
        let (token, limit) = page(whole.get("page"))?;
        let arguments = body.arguments(ContextOf::Whole).map(str::to_owned);
        Ok(Self { subject, action, resource, context, arguments, token, limit })
    }
}

fn page(page: Option<&Value>) -> Result<(Option<String>, Option<usize>), String> {
    let Some(page) = page else { return Ok((None, None)) };
    let Some(page) = page.as_object() else { return Err(wrong("page", "an object", page)) };
    let token = match page.get("token") {
        None => None,
        Some(Value::String(token)) => Some(token.clone()),
        Some(other) => return Err(wrong("page.token", "a text", other)),
    };
    let limit =
        match page.get("limit") {
            None => None,
            Some(limit) => {
                let number =
                    limit.as_u64().filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok());
                let found = if limit.as_u64() == Some(0) { "0" } else { kind(limit) };
                Some(number.ok_or_else(|| {
                    format!("`page.limit`: expected a whole number, 1 or more, found {found}")
                })?)
            }
        };
    Ok((token, limit))
}

fn root(body: &Body) -> Result<&Properties, String> {
    body.value
        .as_object()
        .ok_or_else(|| format!("expected a JSON object as the body, found {}", kind(&body.value)))
}

fn entity(value: &Value, at: &str, ids: IdRule) -> Result<AccessEntity, String> {
    let Some(entity) = value.as_object() else { return Err(wrong(at, "an object", value)) };
    let id = match ids {
        IdRule::Required => text(entity, at, "id")?,
        IdRule::Ignored => String::new(),
    };
    Ok(AccessEntity { kind: text(entity, at, "type")?, id, properties: properties(entity, at)? })
}

fn action(value: &Value, at: &str) -> Result<AccessAction, String> {
    let Some(action) = value.as_object() else { return Err(wrong(at, "an object", value)) };
    Ok(AccessAction { name: text(action, at, "name")?, properties: properties(action, at)? })
}

fn text(of: &Properties, at: &str, key: &str) -> Result<String, String> {
    match of.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(&join(at, key), "a text", other)),
        None => Err(missing(&join(at, key), "a text")),
    }
}

fn properties(of: &Properties, at: &str) -> Result<Properties, String> {
    match of.get("properties") {
        None => Ok(Properties::new()),
        Some(Value::Object(properties)) => Ok(properties.clone()),
        Some(other) => Err(wrong(&join(at, "properties"), "an object", other)),
    }
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

fn missing(at: &str, expected: &str) -> String {
    format!("`{at}`: expected {expected}, found nothing")
}

fn wrong(at: &str, expected: &str, found: &Value) -> String {
    format!("`{at}`: expected {expected}, found {}", kind(found))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_share_the_defaults() {
        let text = r#"{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read"},
                       "resource": {"type": "record", "id": "1"}, "context": {"arguments": {"n": 1.0}},
                       "evaluations": [{}, {}, {"context": {"arguments": 2.0}}]}"#;
        let body = Body::parse(text.as_bytes()).unwrap();
        let EvaluationsRequest::Many(_, items) = EvaluationsRequest::read(&body).unwrap() else {
            panic!("expected a batch")
        };
        let items: Vec<EvaluationRequest> = items.into_iter().map(Result::unwrap).collect();
        let [first, second, third] = items.as_slice() else { panic!("{items:?}") };
        assert!(Arc::ptr_eq(&first.subject, &second.subject));
        assert!(Arc::ptr_eq(&first.action, &second.action));
        assert!(Arc::ptr_eq(&first.resource, &second.resource));
        assert!(Arc::ptr_eq(&first.context.members, &second.context.members));
        let arguments = |item: &EvaluationRequest| item.context.arguments.clone().unwrap();
        assert_eq!(&*arguments(first), r#"{"n": 1.0}"#);
        assert!(Arc::ptr_eq(&arguments(first), &arguments(second)));
        assert_eq!(&*arguments(third), "2.0");
    }
}
