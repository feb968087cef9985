//! Only policies that can match are evaluated: by action, resource and principal type, before Cedar sees them.
//!
//! A tool's effect is a matter of the bundle, so what a policy's scope says of action and resource is decided here, once,
//! for every tool that the bundle names and for all others together. Candidates keep their whole text: Cedar decides.
//! Forbids and grants are separate sets: a forbid that applies, enforced or observed, must not hide whether a grant exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_enrichment::{Effect, Tools};
use cedar_policy::{
    ActionConstraint, Effect as PolicyEffect, EntityUid, Policy, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};

use crate::cedar::{self, Act};

/// The policies that can match a kind of request.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    /// Forbids, enforced and observed.
    pub(crate) rules: PolicySet,
    /// Permits.
    pub(crate) grants: PolicySet,
}

/// Candidates by action and tool.
#[derive(Debug)]
pub(crate) struct Index {
    tools: BTreeMap<String, [Arc<Candidates>; 2]>,
    others: [Arc<Candidates>; 2],
}

impl Index {
    pub(crate) fn new<'p>(policies: impl Iterator<Item = &'p Policy>, tools: &Tools) -> Self {
        let policies: Vec<&Policy> = policies.collect();
        let mut names: BTreeSet<String> = tools.names().map(str::to_owned).collect();
        names.extend(policies.iter().filter_map(|p| named_tool(&p.resource_constraint())));
        // Tools with the same candidates share them.
        let mut shared: BTreeMap<Vec<usize>, Arc<Candidates>> = BTreeMap::new();
        let mut candidates = |tool: Option<&str>| {
            let effect = tools.effect(tool.unwrap_or_default());
            Act::ALL.map(|act| {
                let can_match = |p: &&Policy| {
                    principal_can_match(&p.principal_constraint())
                        && action_can_match(&p.action_constraint(), act)
                        && resource_can_match(&p.resource_constraint(), tool, effect)
                };
                let positions: Vec<usize> =
                    policies.iter().enumerate().filter(|(_, p)| can_match(p)).map(|(i, _)| i).collect();
                let chosen = || positions.iter().filter_map(|i| policies.get(*i).copied());
                Arc::clone(
                    shared.entry(positions.clone()).or_insert_with(|| Arc::new(Candidates::new(chosen()))),
                )
            })
        };
        Self {
            others: candidates(None),
            tools: names.into_iter().map(|name| (name.clone(), candidates(Some(&name)))).collect(),
        }
    }

    pub(crate) fn candidates(&self, act: Act, tool: &str) -> &Candidates {
        let [invoked, retried] = self.tools.get(tool).unwrap_or(&self.others);
        match act {
            Act::Invoked => invoked,
            Act::Retried => retried,
        }
    }
}

impl Candidates {
    fn new<'p>(policies: impl Iterator<Item = &'p Policy>) -> Self {
        let mut candidates = Self::default();
        for policy in policies {
            let set = match policy.effect() {
                PolicyEffect::Forbid => &mut candidates.rules,
                PolicyEffect::Permit => &mut candidates.grants,
            };
            // Ids are unique in a bundle: checked while compiling.
            let added = set.add(policy.clone());
            debug_assert!(added.is_ok(), "{added:?}");
        }
        candidates
    }
}

fn principal_can_match(constraint: &PrincipalConstraint) -> bool {
    match constraint {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => *kind == *cedar::AGENT,
        PrincipalConstraint::Eq(uid) => *uid.type_name() == *cedar::AGENT,
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
    }
}

fn action_can_match(constraint: &ActionConstraint, act: Act) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => *uid == act.uid(),
        ActionConstraint::In(uids) => uids.iter().any(|uid| *uid == act.uid() || *uid == cedar::act_group()),
    }
}

/// `tool` is `None` for those that no policy and no entry of tools.yaml names.
fn resource_can_match(constraint: &ResourceConstraint, tool: Option<&str>, effect: Effect) -> bool {
    let is = |uid: &EntityUid| tool.is_some_and(|tool| *uid == cedar::tool_uid(tool));
    let within = |uid: &EntityUid| is(uid) || *uid == cedar::effect_uid(effect);
    match constraint {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(uid) => is(uid),
        ResourceConstraint::In(uid) => within(uid),
        ResourceConstraint::Is(kind) => *kind == *cedar::TOOL,
        ResourceConstraint::IsIn(kind, uid) => *kind == *cedar::TOOL && within(uid),
    }
}

fn named_tool(constraint: &ResourceConstraint) -> Option<String> {
    match constraint {
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            (*uid.type_name() == *cedar::TOOL).then(|| uid.id().unescaped().to_owned())
        }
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
    }
}
