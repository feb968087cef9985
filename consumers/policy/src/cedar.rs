//! An action in Cedar's words: principal, action, resource, context.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::LazyLock;

use agentgov_enrichment::{Agent, Effect, Known, Scalar, Session};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::ActionEvent;
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use chrono::{DateTime, Datelike as _, SecondsFormat};

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

/// What Cedar is asked.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
}

/// Policies that apply, and those that could not be evaluated: by id, in order.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) satisfied: Vec<String>,
    pub(crate) errors: Vec<(String, String)>,
}

impl Question {
    /// About `event`, which calls a tool of this `effect`.
    ///
    /// # Errors
    /// In words: Cedar does not take a value. None is known that it would not.
    pub(crate) fn new(
        event: &ActionEvent<'_>,
        effect: Effect,
        agent: Option<&Agent>,
        session: &Session,
        known: &Known,
    ) -> Result<Self, String> {
        let act = Act::of(event);
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
                .map_err(|e| e.to_string())?,
                Entity::new_no_attrs(act.uid(), HashSet::from([act_group()])),
            ],
            None,
        )
        .map_err(|e| e.to_string())?;
        let context = Context::from_pairs(context(event, session, known)).map_err(|e| e.to_string())?;
        let request =
            Request::new(principal, act.uid(), resource, context, None).map_err(|e| e.to_string())?;
        Ok(Self { request, entities })
    }

    /// Asks all policies of a set, which are of one effect.
    pub(crate) fn ask(&self, policies: &PolicySet) -> Answer {
        if policies.is_empty() {
            return Answer::default();
        }
        let response = Authorizer::new().is_authorized(&self.request, policies, &self.entities);
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

fn agent_entity(principal: EntityUid, agent: Option<&Agent>) -> Result<Entity, String> {
    let mut attributes = HashMap::new();
    attributes.insert("state".to_owned(), text(agent.map_or("unregistered", |agent| agent.state.as_str())));
    if let Some(agent) = agent {
        attributes.insert("owner".to_owned(), text(&agent.owner));
    }
    let roles = agent.into_iter().flat_map(|agent| &agent.roles).map(|role| uid(&ROLE, role)).collect();
    Entity::new(principal, attributes, roles).map_err(|e| e.to_string())
}

/// Exactly what [`crate::schema::CONTEXT`] and the derived values declare.
fn context(event: &ActionEvent<'_>, session: &Session, known: &Known) -> Vec<(String, RestrictedExpression)> {
    let mut pairs = vec![
        ("environment".to_owned(), text(event.environment)),
        ("tenant".to_owned(), text(event.tenant_id)),
        (
            "session".to_owned(),
            record([
                ("events", RestrictedExpression::new_long(session.events())),
                ("tool_calls", RestrictedExpression::new_long(session.tool_calls().into())),
            ]),
        ),
    ];
    if let Some(message) = &event.message {
        let fields = [
            ("has_text", RestrictedExpression::new_bool(message.has_text)),
            ("tool_calls", RestrictedExpression::new_long(message.tool_calls.into())),
        ];
        pairs.push(("message".to_owned(), record(fields)));
    }
    if let Some(actor) = &event.actor {
        pairs.push(("actor".to_owned(), record([("id", text(actor.id)), ("kind", text(actor.r#type))])));
    }
    if let Some(time) = datetime(event.occurred_at.0) {
        pairs.push(("time".to_owned(), time));
    }
    pairs.extend(known.derived.iter().map(|(name, value)| (name.clone(), scalar(value))));
    pairs
}

/// To the millisecond. A producer's clock says anything: a time that Cedar has no word for is absent.
fn datetime(micros: i64) -> Option<RestrictedExpression> {
    let time = DateTime::from_timestamp_micros(micros).filter(|time| (1..=9999).contains(&time.year()))?;
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

fn record<const N: usize>(fields: [(&str, RestrictedExpression); N]) -> RestrictedExpression {
    // Fails on a key that stands twice only.
    RestrictedExpression::new_record(fields.map(|(name, value)| (name.to_owned(), value)))
        .unwrap_or_else(|_| RestrictedExpression::new_set([]))
}
