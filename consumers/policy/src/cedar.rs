//! An action in Cedar's words: principal, action, resource, context.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::{LazyLock, OnceLock};

use agentgov_enrichment::{Agent, Effect, Known, Scalar, Session};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::ActionEvent;
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use chrono::{DateTime, SecondsFormat};

use crate::internal::InternalError;

/// The type of principals.
pub(crate) static AGENT: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Agent"));
/// The type of resources.
pub(crate) static TOOL: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Tool"));
static ROLE: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Role"));
static EFFECT: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Effect"));
static ACTION: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Action"));

#[expect(clippy::expect_used, reason = "constants of this file, and a test uses each")]
fn type_name(name: &str) -> EntityTypeName {
    EntityTypeName::from_str(name).expect("an identifier")
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// `Tool::"name"`.
pub(crate) fn tool_uid(name: &str) -> EntityUid {
    uid(&TOOL, name)
}

/// `Effect::"write"`.
pub(crate) fn effect_uid(effect: Effect) -> EntityUid {
    uid(&EFFECT, effect.as_str())
}

/// `Action::"act"`: every judged action is in it.
pub(crate) fn act_group() -> EntityUid {
    uid(&ACTION, "act")
}

/// A judged action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// tool.invoked.
    Invoked,
    /// tool.retried.
    Retried,
}

impl Act {
    /// In this order.
    pub(crate) const ALL: [Self; 2] = [Self::Invoked, Self::Retried];

    /// Of an event. Any other judged type is a call as well, so far.
    pub(crate) fn of(event: &ActionEvent<'_>) -> Self {
        if event.r#type == catalogue::TOOL_RETRIED { Self::Retried } else { Self::Invoked }
    }

    /// `Action::"tool.invoked"`.
    pub(crate) fn uid(self) -> EntityUid {
        uid(
            &ACTION,
            match self {
                Self::Invoked => catalogue::TOOL_INVOKED,
                Self::Retried => catalogue::TOOL_RETRIED,
            },
        )
    }
}

/// Policies that apply, and those that could not be evaluated: by id, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) satisfied: Vec<String>,
    pub(crate) errors: Vec<(String, String)>,
}

/// Which attributes of the context policies read: the others need not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These, by name.
    Only(BTreeSet<String>),
    /// Any: a policy reads the context as a whole.
    All,
}

impl Wanted {
    /// No attribute.
    pub(crate) const fn nothing() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// By what a policy says, in Cedar's JSON format.
    pub(crate) fn of(policy: &serde_json::Value) -> Self {
        let mut names = BTreeSet::new();
        if collect(policy, &mut names) { Self::Only(names) } else { Self::All }
    }

    /// What either wants.
    pub(crate) fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Only(names), Self::Only(more)) => names.extend(more.iter().cloned()),
            _ => *self = Self::All,
        }
    }

    /// True if no attribute is.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Only(names) if names.is_empty())
    }

    /// True if it is.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// True if one of these is.
    pub(crate) fn has_any(&self, names: &BTreeSet<String>) -> bool {
        names.iter().any(|name| self.has(name))
    }
}

/// Collects the attributes of the context that are read by their names. False if it is read otherwise.
fn collect(json: &serde_json::Value, names: &mut BTreeSet<String>) -> bool {
    let is_context = |json: Option<&serde_json::Value>| {
        json.and_then(|json| json.get("Var")).and_then(serde_json::Value::as_str) == Some("context")
    };
    match json {
        serde_json::Value::Object(fields) => fields.iter().all(|(field, inner)| {
            if (field == "." || field == "has") && is_context(inner.get("left")) {
                let name = inner.get("attr").and_then(serde_json::Value::as_str);
                return name.map(|name| names.insert(name.to_owned())).is_some();
            }
            !(field == "Var" && inner == "context") && collect(inner, names)
        }),
        serde_json::Value::Array(items) => items.iter().all(|item| collect(item, names)),
        _ => true,
    }
}

/// Principal, action and resource of a kind of question.
#[derive(Debug)]
pub(crate) struct Scene {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    pub(crate) entities: Entities,
    grants: OnceLock<Answer>,
}

impl Scene {
    /// Of an agent that calls a tool of this `effect`.
    ///
    /// # Errors
    /// If Cedar does not take a value. None is known that it would not.
    pub(crate) fn new(
        event: &ActionEvent<'_>,
        effect: Effect,
        agent: Option<&Agent>,
    ) -> Result<Self, InternalError> {
        let action = Act::of(event).uid();
        let principal = uid(&AGENT, &format!("{}/{}", event.tenant_id, event.agent.id));
        let resource = tool_uid(event.tool.as_ref().map_or("", |tool| tool.name));
        let entities = Entities::from_entities(
            [
                agent_entity(principal.clone(), agent)?,
                Entity::new(
                    resource.clone(),
                    HashMap::from([("effect".to_owned(), text(effect.as_str()))]),
                    HashSet::from([effect_uid(effect)]),
                )
                .map_err(InternalError::new)?,
                Entity::new_no_attrs(action.clone(), HashSet::from([act_group()])),
            ],
            None,
        )
        .map_err(InternalError::new)?;
        Ok(Self { principal, action, resource, entities, grants: OnceLock::new() })
    }

    /// What those grants say that read nothing but the scene: asked once.
    ///
    /// # Errors
    /// Those of `ask`.
    pub(crate) fn grants(
        &self,
        ask: impl FnOnce() -> Result<Answer, InternalError>,
    ) -> Result<Cow<'_, Answer>, InternalError> {
        let answer = match self.grants.get() {
            Some(answer) => answer,
            None => {
                let answer = ask()?;
                self.grants.get_or_init(|| answer)
            }
        };
        Ok(Cow::Borrowed(answer))
    }
}

/// What Cedar is asked.
#[derive(Debug)]
pub(crate) struct Question<'s> {
    pub(crate) request: Request,
    pub(crate) scene: &'s Scene,
}

impl<'s> Question<'s> {
    /// About `event`, with what is `wanted` of the context.
    ///
    /// # Errors
    /// If Cedar does not take a value. None is known that it would not.
    pub(crate) fn new(
        event: &ActionEvent<'_>,
        scene: &'s Scene,
        session: &Session,
        known: &Known,
        wanted: &Wanted,
    ) -> Result<Self, InternalError> {
        let pairs = context(event, session, known, wanted)?;
        let context = Context::from_pairs(pairs).map_err(InternalError::new)?;
        let Scene { principal, action, resource, .. } = scene;
        let request = Request::new(principal.clone(), action.clone(), resource.clone(), context, None)
            .map_err(InternalError::new)?;
        Ok(Self { request, scene })
    }

    /// Asks all policies of a set, which are of one effect.
    pub(crate) fn ask(&self, policies: &PolicySet) -> Answer {
        let response = Authorizer::new().is_authorized(&self.request, policies, &self.scene.entities);
        let mut satisfied: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        satisfied.sort();
        let mut errors: Vec<(String, String)> = response
            .diagnostics()
            .errors()
            .map(|error| {
                let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
                (error.policy_id().to_string(), error.inner().to_string())
            })
            .collect();
        errors.sort();
        Answer { satisfied, errors }
    }
}

fn agent_entity(principal: EntityUid, agent: Option<&Agent>) -> Result<Entity, InternalError> {
    let mut attributes = HashMap::new();
    attributes.insert("state".to_owned(), text(agent.map_or("unregistered", |agent| agent.state.as_str())));
    if let Some(agent) = agent {
        attributes.insert("owner".to_owned(), text(&agent.owner));
    }
    let roles = agent.into_iter().flat_map(|agent| &agent.roles).map(|role| uid(&ROLE, role)).collect();
    Entity::new(principal, attributes, roles).map_err(InternalError::new)
}

/// Exactly what [`crate::schema::CONTEXT`] and the derived values declare, as far as it is wanted.
fn context(
    event: &ActionEvent<'_>,
    session: &Session,
    known: &Known,
    wanted: &Wanted,
) -> Result<Vec<(String, RestrictedExpression)>, InternalError> {
    type Attribute = Result<Option<RestrictedExpression>, InternalError>;
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: &dyn Fn() -> Attribute| -> Result<(), InternalError> {
        if wanted.has(name) {
            pairs.extend(value()?.map(|value| (name.to_owned(), value)));
        }
        Ok(())
    };
    add("environment", &|| Ok(Some(text(event.environment))))?;
    add("tenant", &|| Ok(Some(text(event.tenant_id))))?;
    add("session", &|| {
        let session = record([
            ("events", RestrictedExpression::new_long(session.events())),
            ("tool_calls", RestrictedExpression::new_long(session.tool_calls().into())),
        ]);
        session.map(Some)
    })?;
    add("message", &|| {
        let Some(message) = &event.message else { return Ok(None) };
        let message = record([
            ("has_text", RestrictedExpression::new_bool(message.has_text)),
            ("tool_calls", RestrictedExpression::new_long(message.tool_calls.into())),
        ]);
        message.map(Some)
    })?;
    add("actor", &|| {
        let Some(actor) = &event.actor else { return Ok(None) };
        record([("id", text(actor.id)), ("kind", text(actor.r#type))]).map(Some)
    })?;
    add(TIME, &|| Ok(datetime(event.occurred_at.0)))?;
    for (name, value) in &known.derived {
        add(name, &|| Ok(Some(scalar(value))))?;
    }
    Ok(pairs)
}

/// The context's attribute of `occurred_at`.
pub(crate) const TIME: &str = "time";

/// Returns false for a time that Cedar's datetime does not hold. A producer's clock is unchecked.
pub(crate) fn is_datetime(micros: i64) -> bool {
    /// The years 1 to 9999, in microseconds since the epoch.
    const YEARS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
    YEARS.contains(&micros)
}

/// To the millisecond.
fn datetime(micros: i64) -> Option<RestrictedExpression> {
    let time = DateTime::from_timestamp_micros(micros).filter(|_| is_datetime(micros))?;
    Some(RestrictedExpression::new_datetime(time.to_rfc3339_opts(SecondsFormat::Millis, true)))
}

fn scalar(value: &Scalar) -> RestrictedExpression {
    match value {
        Scalar::Bool(value) => RestrictedExpression::new_bool(*value),
        Scalar::Long(value) => RestrictedExpression::new_long(*value),
        Scalar::Text(value) => text(value),
        Scalar::Set(values) => RestrictedExpression::new_set(values.iter().map(scalar)),
    }
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// Fails if a name stands twice.
fn record<const N: usize>(
    fields: [(&str, RestrictedExpression); N],
) -> Result<RestrictedExpression, InternalError> {
    RestrictedExpression::new_record(fields.map(|(name, value)| (name.to_owned(), value)))
        .map_err(InternalError::new)
}
