//! The index of a bundle's policies: selects the candidates of a request by types, action, resource and principal.
//!
//! A policy that names its resource or principal, in its scope or in the comparison that its first condition begins with, is
//! evaluated only for that entity and, after `in`, its members. All others are evaluated for each request of their types.
//! Forbids and grants are separate sets: a forbid that applies, enforced or observed, must not hide whether a grant exists.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, Var};
use cedar_policy::{
    ActionConstraint, Effect, Entity, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint,
    RequestEnv, ResourceConstraint,
};

use super::entities::KnownEntities;
use super::model::Model;
use crate::index::static_template;
use crate::internal::InternalError;

/// Policies that are evaluated together.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Forbids, enforced and observed.
    pub(super) rules: PolicySet,
    /// Permits.
    pub(super) grants: PolicySet,
    /// Known entities whose attributes or memberships a condition reads by name.
    pub(super) entities: Vec<Entity>,
}

/// Candidates by principal type, action and resource type.
#[derive(Debug)]
pub(super) struct Index(HashMap<EntityTypeName, HashMap<EntityUid, HashMap<EntityTypeName, Environment>>>);

/// The candidates of one combination of types and action.
#[derive(Debug, Default)]
pub(super) struct Environment {
    always: Option<Arc<Candidates>>,
    by_key: HashMap<Key, Arc<Candidates>>,
}

/// Entity that restricts a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Always,
    /// The resource is this entity.
    Resource(EntityUid),
    /// The principal is this entity.
    Principal(EntityUid),
    /// The resource is this entity, or a member of it.
    InResource(EntityUid),
    /// The principal is this entity, or a member of it.
    InPrincipal(EntityUid),
}

impl Index {
    /// # Errors
    /// If a policy cannot be added. Without it, a request that it forbids would be allowed.
    pub(super) fn new(
        policies: &[&Policy],
        model: &Model,
        known: &KnownEntities,
    ) -> Result<Self, InternalError> {
        let indexed: Vec<Indexed> = policies.iter().map(|policy| Indexed::new(policy, known)).collect();
        // Environments with the same candidates share them.
        let mut shared: BTreeMap<Vec<usize>, Arc<Candidates>> = BTreeMap::new();
        let mut index: HashMap<_, HashMap<_, HashMap<_, _>>> = HashMap::new();
        for request in model.schema.request_envs() {
            let mut positions: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
            for (at, policy) in indexed.iter().enumerate() {
                if policy.matches(&request, model) {
                    policy.keys.iter().for_each(|key| positions.entry(key).or_default().push(at));
                }
            }
            let mut environment = Environment::default();
            for (key, positions) in positions {
                let candidates = match shared.get(&positions) {
                    Some(candidates) => Arc::clone(candidates),
                    None => {
                        let chosen = positions.iter().filter_map(|at| indexed.get(*at));
                        let candidates = Arc::new(Candidates::new(chosen, known)?);
                        shared.insert(positions, Arc::clone(&candidates));
                        candidates
                    }
                };
                match key {
                    Key::Always => environment.always = Some(candidates),
                    key => drop(environment.by_key.insert(key.clone(), candidates)),
                }
            }
            let of_principal = index.entry(request.principal().clone()).or_default();
            let of_action = of_principal.entry(request.action().clone()).or_default();
            of_action.insert(request.resource().clone(), environment);
        }
        Ok(Self(index))
    }

    /// Returns the candidates of requests of these types; `None` if the schema declares no such request.
    pub(super) fn environment(
        &self,
        principal: &EntityTypeName,
        action: &EntityUid,
        resource: &EntityTypeName,
    ) -> Option<&Environment> {
        self.0.get(principal)?.get(action)?.get(resource)
    }
}

impl Environment {
    /// Returns each group of candidates once: the policies that can apply to this principal and resource, which are members of
    /// these entities.
    pub(super) fn candidates<'e>(
        &'e self,
        (principal, of_principal): (&EntityUid, &HashSet<EntityUid>),
        (resource, of_resource): (&EntityUid, &HashSet<EntityUid>),
    ) -> Vec<&'e Candidates> {
        let mut found: Vec<&Candidates> = self.always.iter().map(|candidates| &**candidates).collect();
        if self.by_key.is_empty() {
            return found;
        }
        let mut look_up = |key: Key| found.extend(self.by_key.get(&key).map(|candidates| &**candidates));
        look_up(Key::Resource(resource.clone()));
        look_up(Key::Principal(principal.clone()));
        of_resource.iter().chain([resource]).for_each(|uid| look_up(Key::InResource(uid.clone())));
        of_principal.iter().chain([principal]).for_each(|uid| look_up(Key::InPrincipal(uid.clone())));
        found
    }
}

impl Candidates {
    fn new<'p>(
        policies: impl Iterator<Item = &'p Indexed<'p>>,
        known: &KnownEntities,
    ) -> Result<Self, InternalError> {
        let mut candidates = Self { rules: PolicySet::new(), grants: PolicySet::new(), entities: Vec::new() };
        let mut reads = BTreeSet::new();
        for Indexed { policy, reads: more, .. } in policies {
            let set = match policy.effect() {
                Effect::Forbid => &mut candidates.rules,
                Effect::Permit => &mut candidates.grants,
            };
            set.add((*policy).clone()).map_err(InternalError::new)?;
            reads.extend(more.iter().cloned());
        }
        let entities = reads.iter().filter_map(|uid| known.get(uid));
        candidates.entities = entities.map(|known| known.entity.clone()).collect();
        Ok(candidates)
    }
}

/// Policy with the entity that restricts it.
struct Indexed<'p> {
    policy: &'p Policy,
    /// It is evaluated for each of them.
    keys: BTreeSet<Key>,
    /// Known entities that its conditions read by name, and those that their properties refer to.
    reads: BTreeSet<EntityUid>,
}

impl<'p> Indexed<'p> {
    fn new(policy: &'p Policy, known: &KnownEntities) -> Self {
        let template = static_template(policy);
        let clauses = template.as_ref().map(|template| template.clauses());
        let reads = match &clauses {
            Some(clauses) => clauses.iter().flat_map(|clause| entities_read(body(clause))).collect(),
            // The conditions cannot be read, so any entity that the policy names counts.
            None => policy.entity_literals().into_iter().collect(),
        };
        let keys = keys(policy, clauses.and_then(|clauses| clauses.first()));
        Self { policy, keys, reads: reachable(reads, known) }
    }

    fn matches(&self, request: &RequestEnv, model: &Model) -> bool {
        let may_be_in = |kind: &EntityTypeName, uid: &EntityUid| {
            kind == uid.type_name()
                || model
                    .schema
                    .ancestors(kind)
                    .is_some_and(|mut ancestors| ancestors.any(|ancestor| ancestor == uid.type_name()))
        };
        let (principal, resource) = (request.principal(), request.resource());
        let principal = match self.policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Is(kind) => kind == *principal,
            PrincipalConstraint::Eq(uid) => uid.type_name() == principal,
            PrincipalConstraint::In(uid) => may_be_in(principal, &uid),
            PrincipalConstraint::IsIn(kind, uid) => kind == *principal && may_be_in(principal, &uid),
        };
        let resource = match self.policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Is(kind) => kind == *resource,
            ResourceConstraint::Eq(uid) => uid.type_name() == resource,
            ResourceConstraint::In(uid) => may_be_in(resource, &uid),
            ResourceConstraint::IsIn(kind, uid) => kind == *resource && may_be_in(resource, &uid),
        };
        let in_action = |uid: &EntityUid| {
            let action = model.action(request.action().id().unescaped());
            action.is_some_and(|action| action.groups.contains(uid))
        };
        let action = match self.policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == *request.action(),
            ActionConstraint::In(uids) => uids.iter().any(in_action),
        };
        principal && action && resource
    }
}

/// Returns the narrowest restriction in the scope or in the first condition of a policy.
fn keys(policy: &Policy, first: Option<&Clause>) -> BTreeSet<Key> {
    let (mut exact, mut within) = (BTreeSet::new(), None);
    match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) => drop(exact.insert(Key::Resource(uid))),
        ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => within = Some(Key::InResource(uid)),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => {}
    }
    match policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) if exact.is_empty() => drop(exact.insert(Key::Principal(uid))),
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
            within = within.or(Some(Key::InPrincipal(uid)));
        }
        PrincipalConstraint::Eq(_) | PrincipalConstraint::Any | PrincipalConstraint::Is(_) => {}
    }
    if exact.is_empty()
        && let Some(Clause::When(body)) = first
    {
        exact = compared(leftmost(body));
    }
    if exact.is_empty() { BTreeSet::from([within.unwrap_or(Key::Always)]) } else { exact }
}

/// Returns the operand of a chain of `&&` that is evaluated first. No operand before it can fail.
fn leftmost(expr: &Arc<Expr>) -> &Expr {
    let mut expr = &**expr;
    while let Expr::BinaryOp { op: BinaryOp::And, left, .. } = expr {
        expr = left;
    }
    expr
}

/// Returns the entities that a comparison restricts the resource or the principal to, or `None` for another expression.
fn compared(expr: &Expr) -> BTreeSet<Key> {
    let key = |var: &Expr| -> Option<fn(EntityUid) -> Key> {
        match var {
            Expr::Var(Var::Resource) => Some(Key::Resource),
            Expr::Var(Var::Principal) => Some(Key::Principal),
            _ => None,
        }
    };
    let Expr::BinaryOp { op, left, right } = expr else { return BTreeSet::new() };
    let found = match op {
        BinaryOp::Eq => {
            let pair = key(left).zip(literal(right)).or_else(|| key(right).zip(literal(left)));
            pair.map(|(key, uid)| BTreeSet::from([key(uid)]))
        }
        BinaryOp::Contains => match (&**left, key(right)) {
            (Expr::Set(elements), Some(key)) => {
                elements.iter().map(|element| literal(element).map(key)).collect()
            }
            _ => None,
        },
        _ => None,
    };
    found.unwrap_or_default()
}

fn literal(expr: &Expr) -> Option<EntityUid> {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => uid.to_string().parse().ok(),
        _ => None,
    }
}

const fn body(clause: &Clause) -> &Arc<Expr> {
    match clause {
        Clause::When(body) | Clause::Unless(body) => body,
    }
}

/// Returns the entities that an expression names, except those that it only compares with.
fn entities_read(expr: &Expr) -> BTreeSet<EntityUid> {
    expr.reduce(
        &|expr| match expr {
            Expr::Literal(Literal::EntityUID(_)) => Some(literal(expr).into_iter().collect()),
            Expr::BinaryOp { op: BinaryOp::Eq | BinaryOp::NotEq, left, right } => {
                let sides = [left, right].into_iter().filter(|side| literal(side).is_none());
                Some(sides.flat_map(|side| entities_read(side)).collect())
            }
            Expr::BinaryOp { op: BinaryOp::In, left, right } if is_literal(right) => {
                Some(entities_read(left))
            }
            Expr::BinaryOp { op: BinaryOp::Contains, left, right } if is_literal(left) => {
                Some(entities_read(right))
            }
            _ => None,
        },
        &|mut left: BTreeSet<EntityUid>, right| {
            left.extend(right);
            left
        },
        BTreeSet::new(),
    )
}

/// Returns true for an entity or a list of entities.
fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Set(elements) => elements.iter().all(|element| literal(element).is_some()),
        _ => literal(expr).is_some(),
    }
}

/// Returns the known entities of `from` and the entities that their properties refer to.
pub(super) fn reachable(from: BTreeSet<EntityUid>, known: &KnownEntities) -> BTreeSet<EntityUid> {
    let mut found = BTreeSet::new();
    let mut next: Vec<EntityUid> = from.into_iter().collect();
    while let Some(uid) = next.pop() {
        let Some(entity) = known.get(&uid) else { continue };
        if found.insert(uid) {
            next.extend(entity.refs.iter().cloned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authzen::AccessBundle;
    use crate::files::BundleFiles;

    /// Returns the ids of the policies that a request evaluates.
    fn candidates(policies: &str, (principal, resource): (&str, &str)) -> Vec<String> {
        let files = [
            ("bundle.yaml", "name: b\nversion: '1'\nmodel: authzen\nenvironments: [demo]\n"),
            (
                "schema.cedarschema",
                "entity team; entity user in [team]; entity doc; entity page; \
                 action read appliesTo { principal: user, resource: [doc, page] };",
            ),
            ("entities.yaml", "entities: []\n"),
            ("p.cedar", policies),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        let bundle = AccessBundle::compile(&BundleFiles(files.into())).unwrap();
        let uid = |text: &str| text.parse::<EntityUid>().unwrap();
        let (principal, resource) = (uid(principal), uid(resource));
        let action = uid("Action::\"read\"");
        let environment =
            bundle.index().environment(principal.type_name(), &action, resource.type_name()).unwrap();
        let team = HashSet::from([uid("team::\"staff\"")]);
        let groups = environment.candidates((&principal, &team), (&resource, &HashSet::new()));
        let sets = groups.iter().flat_map(|group| [&group.rules, &group.grants]);
        let mut ids: Vec<String> =
            sets.flat_map(|set| set.policies().map(|policy| policy.id().to_string())).collect();
        ids.sort();
        ids
    }

    #[test]
    fn policies_about_others_are_no_candidates() {
        let mut policies = String::new();
        for at in 0..200 {
            let scopes = [
                format!("principal, action, resource == doc::\"{at}\""),
                format!("principal == user::\"{at}\", action, resource"),
                format!("principal in team::\"{at}\", action, resource"),
            ];
            for (kind, scope) in scopes.iter().enumerate() {
                policies += &format!("@id(\"{kind}-{at}\") permit ({scope});\n");
            }
            policies += &format!(
                "@id(\"3-{at}\") permit (principal, action, resource) when {{ resource == doc::\"{at}\" && true }};\n"
            );
        }
        policies += "@id(\"page\") permit (principal, action, resource is page);\n\
                     @id(\"staff\") permit (principal in team::\"staff\", action, resource);\n\
                     @id(\"all\") @severity(\"low\") forbid (principal, action, resource is doc);\n\
                     @id(\"late\") permit (principal, action, resource is doc) when { true && resource == doc::\"x\" };";
        let expected = ["0-7", "1-9", "3-7", "all", "late", "staff"];
        assert_eq!(candidates(&policies, ("user::\"9\"", "doc::\"7\"")), expected);
        assert_eq!(candidates(&policies, ("user::\"x\"", "page::\"7\"")), ["page", "staff"]);
    }
}
