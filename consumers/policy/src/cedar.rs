//! An action in Cedar's words: principal, action, resource, context.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::{LazyLock, OnceLock};

use agentgov_enrichment::{Agent, CallContext, Scalar, Session};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::ToolEffect;
use cedar_policy::pst::{Clause, Expr, Var};
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
pub(crate) fn effect_uid(effect: ToolEffect) -> EntityUid {
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

/// The policies that apply, and those that erred: by id, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthorizationOutcome {
    pub(crate) satisfied: Vec<String>,
    pub(crate) errors: Vec<(String, String)>,
}

/// The attributes of the context that policies read. The others need not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequiredAttributes {
    /// These, by name.
    Only(BTreeSet<String>),
    /// Any: a policy reads the context as a whole.
    All,
}

impl RequiredAttributes {
    /// No attribute.
    pub(crate) const fn nothing() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// The attributes that clauses of a policy read.
    pub(crate) fn of(clauses: &[Clause]) -> Self {
        let mut required = Self::nothing();
        for clause in clauses {
            let (Clause::When(body) | Clause::Unless(body)) = clause;
            required.add(&body.reduce(&Self::read_by, &Self::or, Self::nothing()));
        }
        required
    }

    /// What an expression itself reads of the context, if it reads it.
    fn read_by(expr: &Expr) -> Option<Self> {
        let is_context = |expr: &Expr| matches!(expr, Expr::Var(Var::Context));
        let attribute = |name: &str| Some(Self::Only(BTreeSet::from([name.to_owned()])));
        match expr {
            Expr::GetAttr { expr, attr } if is_context(expr) => attribute(attr),
            Expr::HasAttr { expr, attrs } if is_context(expr) => attribute(attrs.first()),
            _ => is_context(expr).then_some(Self::All),
        }
    }

    fn or(mut self, other: Self) -> Self {
        self.add(&other);
        self
    }

    /// Adds the attributes of `other`.
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

/// Principal, action and resource of a kind of request, with their entities.
#[derive(Debug)]
pub(crate) struct RequestTemplate {
    principal: EntityUid,
    action: EntityUid,
    resource: EntityUid,
    pub(crate) entities: Entities,
    grants: OnceLock<AuthorizationOutcome>,
}

impl RequestTemplate {
    /// Of an agent that calls a tool of this `effect`.
    ///
    /// # Errors
    /// If Cedar does not take a value. None is known that it would not.
    pub(crate) fn new(
        event: &ActionEvent<'_>,
        effect: ToolEffect,
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

    /// The outcome of grants that read nothing of the context. It is evaluated once.
    ///
    /// # Errors
    /// Those of `authorize`.
    pub(crate) fn grants(
        &self,
        authorize: impl FnOnce() -> Result<AuthorizationOutcome, InternalError>,
    ) -> Result<Cow<'_, AuthorizationOutcome>, InternalError> {
        let outcome = match self.grants.get() {
            Some(outcome) => outcome,
            None => {
                let outcome = authorize()?;
                self.grants.get_or_init(|| outcome)
            }
        };
        Ok(Cow::Borrowed(outcome))
    }
}

/// A request with its context.
#[derive(Debug)]
pub(crate) struct AuthorizationRequest<'s> {
    pub(crate) request: Request,
    pub(crate) template: &'s RequestTemplate,
}

impl<'s> AuthorizationRequest<'s> {
    /// The request of `event`, with the attributes that are `required` of the context.
    ///
    /// # Errors
    /// If Cedar does not take a value. None is known that it would not.
    pub(crate) fn new(
        event: &ActionEvent<'_>,
        template: &'s RequestTemplate,
        session: &Session,
        known: &CallContext,
        required: &RequiredAttributes,
    ) -> Result<Self, InternalError> {
        let pairs = context(event, session, known, required)?;
        let context = Context::from_pairs(pairs).map_err(InternalError::new)?;
        let RequestTemplate { principal, action, resource, .. } = template;
        let request = Request::new(principal.clone(), action.clone(), resource.clone(), context, None)
            .map_err(InternalError::new)?;
        Ok(Self { request, template })
    }

    /// Evaluates all policies of a set, which are of one effect.
    pub(crate) fn authorize(&self, policies: &PolicySet) -> AuthorizationOutcome {
        let response = Authorizer::new().is_authorized(&self.request, policies, &self.template.entities);
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
        AuthorizationOutcome { satisfied, errors }
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

/// Exactly what [`crate::schema::CONTEXT`] and the derived values declare, as far as it is required.
fn context(
    event: &ActionEvent<'_>,
    session: &Session,
    known: &CallContext,
    required: &RequiredAttributes,
) -> Result<Vec<(String, RestrictedExpression)>, InternalError> {
    type Attribute = Result<Option<RestrictedExpression>, InternalError>;
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: &dyn Fn() -> Attribute| -> Result<(), InternalError> {
        if required.has(name) {
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
