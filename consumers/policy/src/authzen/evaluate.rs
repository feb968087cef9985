//! Evaluates one request by the policies of a bundle.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use agentgov_schemas::verdict::{Decision, Mode, RuleEffect};
use agentgov_schemas::vocabulary;
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};

use super::attributes::Attributes;
use super::bundle::AccessBundle;
use super::index::reachable;
use super::model::{ACTION_ATTRIBUTE, ActionModel, EntityModel};
use super::request::{AccessRequest, Properties};
use super::value::{self, Mismatch};
use crate::internal::InternalError;
use crate::policy::{OnError, Policy, PolicyKind};

vocabulary! {
    /// Reason of a decision.
    EvaluationReason {
        /// A grant allows it, and no enforced rule applies.
        Granted = "granted",
        /// An enforced rule applies.
        Policy = "policy",
        /// No grant applies.
        NoGrant = "no_grant",
        /// The schema declares no request with these types and this action, so no policy can be about it.
        Undeclared = "undeclared",
        /// A declared property has another type, or a rule without `@on_error("ignore")` failed.
        Error = "error",
    }
}

/// The decision about one request.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Allow, deny, ask or indeterminate.
    pub decision: Decision,
    /// Reason of the decision.
    pub reason: EvaluationReason,
    /// The policies that determine it, in order of their ids.
    pub determining: Vec<Arc<Policy>>,
    /// Rules in observe mode that apply, in order of their ids.
    pub observed: Vec<Arc<Policy>>,
    /// Errors during the evaluation.
    pub errors: Vec<EvaluationError>,
}

/// An error met while a request was evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationError {
    /// The part of the request, such as `resource.properties.status`, or the id of a policy.
    pub at: String,
    /// Message with the expected and the found value.
    pub message: String,
}

impl Evaluation {
    fn without_policies(
        decision: Decision,
        reason: EvaluationReason,
        errors: impl IntoIterator<Item = EvaluationError>,
    ) -> Self {
        let errors = errors.into_iter().collect();
        Self { decision, reason, determining: Vec::new(), observed: Vec::new(), errors }
    }
}

/// Satisfied policies and errors of all candidates.
#[derive(Default)]
struct Outcome {
    rules: BTreeSet<String>,
    grants: BTreeSet<String>,
    /// Rules that erred.
    erred: BTreeSet<String>,
    errors: Vec<EvaluationError>,
}

/// Principal and resource, with the context.
struct Converted {
    entities: Vec<Entity>,
    context: Context,
    of_principal: Arc<HashSet<EntityUid>>,
    of_resource: Arc<HashSet<EntityUid>>,
}

impl AccessBundle {
    /// Decides one request. Reads nothing but the bundle and the request.
    ///
    /// # Errors
    /// If an invariant of this crate is violated. Nothing is allowed then.
    pub fn evaluate(&self, request: &AccessRequest<'_>) -> Result<Evaluation, InternalError> {
        let model = self.model();
        let subject = model.entity_type(&request.subject.kind).filter(|of| of.has_id(&request.subject.id));
        let resource = model.entity_type(&request.resource.kind).filter(|of| of.has_id(&request.resource.id));
        let action = model.action(&request.action.name);
        let declared = subject.zip(resource).zip(action).and_then(|((subject, resource), action)| {
            let environment = self.index().environment(&subject.name, &action.uid, &resource.name)?;
            Some((subject, resource, action, environment))
        });
        let Some((subject, resource, action, environment)) = declared else {
            let reason = EvaluationReason::Undeclared;
            return Ok(Evaluation::without_policies(Decision::Deny, reason, [self.undeclared(request)]));
        };
        let (principal_uid, resource_uid) =
            (subject.uid(&request.subject.id), resource.uid(&request.resource.id));
        let action_entity = model.action_entities().get(&action.uid);
        let converted =
            self.convert(request, (subject, &principal_uid), (resource, &resource_uid), action)?;
        let Converted { mut entities, context, of_principal, of_resource } = match converted {
            Ok(converted) => converted,
            Err(errors) => {
                let reason = EvaluationReason::Error;
                return Ok(Evaluation::without_policies(Decision::Indeterminate, reason, errors));
            }
        };
        entities.extend(action_entity.cloned());
        let groups = environment.candidates((&principal_uid, &of_principal), (&resource_uid, &of_resource));
        let mut seen: HashSet<EntityUid> = entities.iter().map(Entity::uid).collect();
        let read = groups.iter().flat_map(|group| &group.entities);
        entities.extend(read.filter(|entity| seen.insert(entity.uid())).cloned());
        let entities = Entities::from_entities(entities, None).map_err(InternalError::new)?;
        let query = Request::new(principal_uid, action.uid.clone(), resource_uid, context, None)
            .map_err(InternalError::new)?;
        let mut outcome = Outcome::default();
        for group in groups {
            outcome.add(&query, &entities, &group.rules, true);
            outcome.add(&query, &entities, &group.grants, false);
        }
        self.decide(outcome)
    }

    /// Describes the part of a request that the schema does not declare.
    fn undeclared(&self, request: &AccessRequest<'_>) -> EvaluationError {
        let model = self.model();
        let error =
            |at: &str, message: &str| EvaluationError { at: at.to_owned(), message: message.to_owned() };
        for (at, entity) in [("subject", request.subject), ("resource", request.resource)] {
            match model.entity_type(&entity.kind) {
                None => {
                    return error(
                        &format!("{at}.type"),
                        "expected a type of the bundle's schema, found another",
                    );
                }
                Some(of) if !of.has_id(&entity.id) => {
                    return error(
                        &format!("{at}.id"),
                        "expected an id of the enumerated type, found another",
                    );
                }
                Some(_) => {}
            }
        }
        if model.action(&request.action.name).is_none() {
            return error("action.name", "expected an action of the bundle's schema, found another");
        }
        error("action.name", "expected an action that the schema applies to these types, found another")
    }

    /// Converts a request into Cedar's values. The inner error lists the properties that are not of their declared types.
    fn convert(
        &self,
        request: &AccessRequest<'_>,
        (subject, principal_uid): (&EntityModel, &EntityUid),
        (resource, resource_uid): (&EntityModel, &EntityUid),
        action: &ActionModel,
    ) -> Result<Result<Converted, Vec<EvaluationError>>, InternalError> {
        let mut errors = Vec::new();
        let mut refs = Vec::new();
        let mut entities = Vec::new();
        let same = principal_uid == resource_uid;
        let merged;
        let subject_properties = if same && !request.resource.properties.is_empty() {
            merged = merge(&request.subject.properties, &request.resource.properties, &mut errors);
            &merged
        } else {
            &request.subject.properties
        };
        let of_principal = self.entity(
            "subject",
            subject,
            principal_uid,
            subject_properties,
            &mut refs,
            &mut entities,
            &mut errors,
        )?;
        let of_resource = if same {
            Arc::clone(&of_principal)
        } else {
            let properties = &request.resource.properties;
            self.entity(
                "resource",
                resource,
                resource_uid,
                properties,
                &mut refs,
                &mut entities,
                &mut errors,
            )?
        };
        let pairs = self.context(request, action, &mut refs, &mut errors)?;
        if !errors.is_empty() {
            return Ok(Err(errors));
        }
        let context = Context::from_pairs(pairs).map_err(InternalError::new)?;
        for uid in reachable(refs.into_iter().collect(), self.known()) {
            if uid != *principal_uid && uid != *resource_uid {
                entities.extend(self.known().get(&uid).map(|known| known.entity.clone()));
            }
        }
        Ok(Ok(Converted { entities, context, of_principal, of_resource }))
    }

    /// Adds an entity with its known properties, overridden by those of the request, and returns its parents.
    #[expect(clippy::too_many_arguments, reason = "three of them collect what the whole request gives")]
    fn entity(
        &self,
        at: &str,
        of: &EntityModel,
        uid: &EntityUid,
        properties: &Properties,
        refs: &mut Vec<EntityUid>,
        entities: &mut Vec<Entity>,
        errors: &mut Vec<EvaluationError>,
    ) -> Result<Arc<HashSet<EntityUid>>, InternalError> {
        let known = self.known().get(uid);
        let ancestors = known.map(|known| Arc::clone(&known.ancestors)).unwrap_or_default();
        if let Some(known) = known {
            refs.extend(known.refs.iter().cloned());
        }
        let overrides = properties.keys().any(|name| of.attributes.contains_key(name));
        match known {
            Some(known) if !overrides => entities.push(known.entity.clone()),
            _ => {
                let merged;
                let properties = match known {
                    Some(known) if !known.properties.is_empty() => {
                        merged = over(&known.properties, properties);
                        &merged
                    }
                    _ => properties,
                };
                let mut attributes: HashMap<String, RestrictedExpression> = HashMap::new();
                for converted in value::declared(properties, &of.attributes, self.model(), refs) {
                    match converted {
                        Ok((name, value)) => drop(attributes.insert(name, value)),
                        Err(mismatch) => errors.push(error(&format!("{at}.properties"), mismatch)),
                    }
                }
                if errors.is_empty() {
                    let entity = Entity::new(uid.clone(), attributes, HashSet::clone(&ancestors));
                    entities.push(entity.map_err(InternalError::new)?);
                }
            }
        }
        Ok(ancestors)
    }

    /// Converts the declared attributes of the context. `context.action` has the properties of the request's action, never an
    /// attribute `action` of the request's own context. If the schema says that it is optional, it is absent for an action
    /// without declared properties: strict validation lets a policy read its required members after `context has action`.
    fn context(
        &self,
        request: &AccessRequest<'_>,
        action: &ActionModel,
        refs: &mut Vec<EntityUid>,
        errors: &mut Vec<EvaluationError>,
    ) -> Result<Vec<(String, RestrictedExpression)>, InternalError> {
        let mut convert = |at: &str, properties: &Properties, declared: &Attributes| {
            let mut pairs = Vec::new();
            for converted in value::declared(properties, declared, self.model(), refs) {
                match converted {
                    Ok(pair) => pairs.push(pair),
                    Err(mismatch) => errors.push(error(at, mismatch)),
                }
            }
            pairs
        };
        let mut pairs = convert("context", request.context, &action.context);
        if let Some(declared) = &action.properties {
            let properties = convert("action.properties", &request.action.properties, declared);
            if !(properties.is_empty() && action.are_properties_optional) {
                let properties = RestrictedExpression::new_record(properties).map_err(InternalError::new)?;
                pairs.push((ACTION_ATTRIBUTE.to_owned(), properties));
            }
        }
        Ok(pairs)
    }

    fn decide(&self, outcome: Outcome) -> Result<Evaluation, InternalError> {
        let Outcome { rules, grants, erred, errors } = outcome;
        // A rule without its entry would not count, and what it forbids would be allowed.
        let policy = |id: &String| {
            let found = self.policy(id).map(Arc::clone);
            found.ok_or_else(|| InternalError::new(format!("expected policy {id} in its bundle, found none")))
        };
        let policies = |ids: &BTreeSet<String>| ids.iter().map(policy).collect::<Result<Vec<_>, _>>();
        let (enforced, observed): (Vec<_>, Vec<_>) =
            policies(&rules)?.into_iter().partition(|policy| is_enforced(policy));
        let granted = policies(&grants)?;
        let undecided = policies(&erred)?.iter().any(|policy| keeps_from_deciding(policy));
        let (decision, reason) = if enforced.iter().any(|policy| denies(policy)) {
            (Decision::Deny, EvaluationReason::Policy)
        } else if granted.is_empty() {
            (Decision::Deny, EvaluationReason::NoGrant)
        } else if undecided {
            (Decision::Indeterminate, EvaluationReason::Error)
        } else if !enforced.is_empty() {
            (Decision::Ask, EvaluationReason::Policy)
        } else {
            (Decision::Allow, EvaluationReason::Granted)
        };
        let determining = if enforced.is_empty() { granted } else { enforced };
        Ok(Evaluation { decision, reason, determining, observed, errors })
    }
}

impl Outcome {
    fn add(&mut self, query: &Request, entities: &Entities, policies: &PolicySet, are_rules: bool) {
        if policies.is_empty() {
            return;
        }
        let response = Authorizer::new().is_authorized(query, policies, entities);
        let satisfied = if are_rules { &mut self.rules } else { &mut self.grants };
        satisfied.extend(response.diagnostics().reason().map(ToString::to_string));
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let at = error.policy_id().to_string();
            if are_rules {
                self.erred.insert(at.clone());
            }
            self.errors.push(EvaluationError { at, message: error.inner().to_string() });
        }
    }
}

fn error(at: &str, mismatch: Mismatch) -> EvaluationError {
    let path = mismatch.path.iter().fold(at.to_owned(), |path, name| format!("{path}.{name}"));
    EvaluationError { at: path, message: mismatch.message }
}

/// Returns the known properties, overridden by those of the request.
fn over(known: &Properties, request: &Properties) -> Properties {
    let mut merged = known.clone();
    merged.extend(request.iter().map(|(name, value)| (name.clone(), value.clone())));
    merged
}

/// Merges the properties of an entity that is both subject and resource. Two values of one property are an error.
fn merge(subject: &Properties, resource: &Properties, errors: &mut Vec<EvaluationError>) -> Properties {
    for (name, value) in resource {
        if subject.get(name).is_some_and(|other| other != value) {
            errors.push(EvaluationError {
                at: format!("resource.properties.{name}"),
                message: "expected the value of the subject, which is the same entity, found another"
                    .to_owned(),
            });
        }
    }
    over(subject, resource)
}

const fn is_enforced(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Rule { mode: Mode::Enforce, .. })
}

const fn keeps_from_deciding(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Rule { mode: Mode::Enforce, on_error: OnError::Indeterminate, .. })
}

const fn denies(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Rule { mode: Mode::Enforce, effect: RuleEffect::Deny, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authzen::AccessAction;
    use crate::authzen::AccessEntity;
    use crate::files::BundleFiles;

    /// Dropping a rule would allow the request.
    #[test]
    fn policy_that_applies_and_is_not_in_its_bundle_is_an_error() {
        let files = [
            ("bundle.yaml", "name: b\nversion: '1'\nmodel: authzen\nenvironments: [demo]\n"),
            ("schema.cedarschema", "entity user; action read appliesTo { principal: user, resource: user };"),
            ("entities.yaml", "entities: []\n"),
            (
                "p.cedar",
                "@id(\"all\") permit (principal, action, resource); \
                 @id(\"r\") @severity(\"low\") forbid (principal, action, resource);",
            ),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        let mut bundle = AccessBundle::compile(&BundleFiles(files.into())).unwrap();
        let user =
            AccessEntity { kind: "user".to_owned(), id: "x".to_owned(), properties: Properties::new() };
        let action = AccessAction { name: "read".to_owned(), properties: Properties::new() };
        let context = Properties::new();
        let request = AccessRequest { subject: &user, action: &action, resource: &user, context: &context };
        assert_eq!(bundle.evaluate(&request).unwrap().decision, Decision::Deny);
        bundle.lose_policy("r");
        assert!(bundle.evaluate(&request).unwrap_err().to_string().contains("expected policy r"));
    }
}
