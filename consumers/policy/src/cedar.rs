//! Conversion of an action to a Cedar request: principal, action, resource, context.

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
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet,
    PrincipalConstraint, Request, RestrictedExpression,
};
use chrono::{DateTime, SecondsFormat};

use crate::internal::InternalError;

/// Entity type of principals.
pub(crate) static AGENT: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Agent"));
/// Entity type of resources.
pub(crate) static TOOL: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Tool"));
static ROLE: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Role"));
static EFFECT: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Effect"));
static ACTION: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Action"));

#[expect(clippy::expect_used, reason = "the argument is a constant of this file, and tests use each of them")]
fn type_name(name: &str) -> EntityTypeName {
    EntityTypeName::from_str(name).expect("an identifier")
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// Returns `Tool::"name"`.
pub(crate) fn tool_uid(name: &str) -> EntityUid {
    uid(&TOOL, name)
}

/// Returns the entity of an effect, such as `Effect::"write"`.
pub(crate) fn effect_uid(effect: ToolEffect) -> EntityUid {
    uid(&EFFECT, effect.as_str())
}

/// Returns `Action::"act"`, the group of all judged actions.
pub(crate) fn call_action_group() -> EntityUid {
    uid(&ACTION, "act")
}

/// Action of a judged call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CallAction {
    /// tool.invoked.
    Invoked,
    /// tool.retried.
    Retried,
}

impl CallAction {
    /// All actions, in the order of the index.
    pub(crate) const ALL: [Self; 2] = [Self::Invoked, Self::Retried];

    /// Returns the action of an event. Calls in events of other types count as invoked.
    pub(crate) fn of(event: &ActionEvent<'_>) -> Self {
        if event.r#type == catalogue::TOOL_RETRIED { Self::Retried } else { Self::Invoked }
    }

    /// Returns the entity, such as `Action::"tool.invoked"`.
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

/// Ids of the policies that apply, and errors by policy id. Both are sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthorizationOutcome {
    pub(crate) satisfied: Vec<String>,
    pub(crate) errors: Vec<(String, String)>,
}

/// Attributes of the context that policies read. Other attributes need not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequiredAttributes {
    /// These attributes.
    Only(BTreeSet<String>),
    /// All attributes, since a policy reads the context as a whole.
    All,
}

impl RequiredAttributes {
    /// Returns the empty set.
    pub(crate) const fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// Returns the attributes that the clauses of a policy read.
    pub(crate) fn of(clauses: &[Clause]) -> Self {
        let mut required = Self::none();
        for clause in clauses {
            let (Clause::When(body) | Clause::Unless(body)) = clause;
            required.extend(&body.reduce(&Self::read_by, &Self::union, Self::none()));
        }
        required
    }

    /// Returns the attributes that an expression itself reads, or `None` if its operands must be inspected.
    fn read_by(expr: &Expr) -> Option<Self> {
        let is_context = |expr: &Expr| matches!(expr, Expr::Var(Var::Context));
        let attribute = |name: &str| Some(Self::Only(BTreeSet::from([name.to_owned()])));
        match expr {
            Expr::GetAttr { expr, attr } if is_context(expr) => attribute(attr),
            Expr::HasAttr { expr, attrs } if is_context(expr) => attribute(attrs.first()),
            _ => is_context(expr).then_some(Self::All),
        }
    }

    fn union(mut self, other: Self) -> Self {
        self.extend(&other);
        self
    }

    /// Adds the attributes of `other`.
    pub(crate) fn extend(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Only(names), Self::Only(more)) => names.extend(more.iter().cloned()),
            _ => *self = Self::All,
        }
    }

    /// Returns true if no attribute is required.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Only(names) if names.is_empty())
    }

    /// Returns true if the attribute is required.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// Returns true if one of these attributes is required.
    pub(crate) fn intersects(&self, names: &BTreeSet<String>) -> bool {
        names.iter().any(|name| self.contains(name))
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
    /// Creates the template for a call by `agent` of a tool with this `effect`.
    ///
    /// # Errors
    /// If Cedar rejects a value. No such value is known.
    pub(crate) fn new(
        event: &ActionEvent<'_>,
        effect: ToolEffect,
        agent: Option<&Agent>,
    ) -> Result<Self, InternalError> {
        let action = CallAction::of(event).uid();
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
                Entity::new_no_attrs(action.clone(), HashSet::from([call_action_group()])),
            ],
            None,
        )
        .map_err(InternalError::new)?;
        Ok(Self { principal, action, resource, entities, grants: OnceLock::new() })
    }

    /// Returns the outcome of grants that do not read the context. It is evaluated once.
    ///
    /// # Errors
    /// Errors of `authorize`.
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

/// Request with its context.
#[derive(Debug)]
pub(crate) struct AuthorizationRequest<'s> {
    pub(crate) request: Request,
    pub(crate) template: &'s RequestTemplate,
}

impl<'s> AuthorizationRequest<'s> {
    /// Creates the request of `event` with the `required` attributes of the context.
    ///
    /// # Errors
    /// If Cedar rejects a value. No such value is known.
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

    /// Evaluates all policies of a set, which must have one effect.
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

/// Returns true if the scope of a policy matches the agent of an event.
pub(crate) fn is_principal(constraint: &PrincipalConstraint, event: &ActionEvent<'_>, agent: &Agent) -> bool {
    let principal = uid(&AGENT, &format!("{}/{}", event.tenant_id, event.agent.id));
    let is_within = |within: &EntityUid| {
        *within == principal || agent.roles.iter().any(|role| *within == uid(&ROLE, role))
    };
    match constraint {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Is(kind) => *kind == *AGENT,
        PrincipalConstraint::Eq(uid) => *uid == principal,
        PrincipalConstraint::In(within) => is_within(within),
        PrincipalConstraint::IsIn(kind, within) => *kind == *AGENT && is_within(within),
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

/// Builds the required attributes of the context, as [`crate::schema::CONTEXT`] and the derived values declare them.
fn context(
    event: &ActionEvent<'_>,
    session: &Session,
    known: &CallContext,
    required: &RequiredAttributes,
) -> Result<Vec<(String, RestrictedExpression)>, InternalError> {
    type Attribute = Result<Option<RestrictedExpression>, InternalError>;
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: &dyn Fn() -> Attribute| -> Result<(), InternalError> {
        if required.contains(name) {
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

/// Attribute of the context with `occurred_at`.
pub(crate) const TIME: &str = "time";

/// Returns false for a time that a Cedar datetime cannot hold. The clock of a producer is not checked.
pub(crate) fn is_datetime(micros: i64) -> bool {
    /// The years 1 to 9999, in microseconds since the epoch.
    const YEARS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
    YEARS.contains(&micros)
}

/// Converts a time, with millisecond precision.
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

/// Creates a record. Fails if a name is used twice.
fn record<const N: usize>(
    fields: [(&str, RestrictedExpression); N],
) -> Result<RestrictedExpression, InternalError> {
    RestrictedExpression::new_record(fields.map(|(name, value)| (name.to_owned(), value)))
        .map_err(InternalError::new)
}
