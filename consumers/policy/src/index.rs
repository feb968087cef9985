//! Only policies that can match are evaluated: by action, resource and principal type, before Cedar sees them.
//!
//! A tool's effect is a matter of the bundle, so what a policy's scope says of action and resource is decided here, once,
//! for every tool that the bundle names and for all others together; Cedar is not asked that again. The rest is Cedar's to decide.
//! Forbids and grants are separate sets: a forbid that applies, enforced or observed, must not hide whether a grant exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_enrichment::{Effect, Tools};
use cedar_policy::{
    ActionConstraint, Effect as PolicyEffect, EntityUid, Policy, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};

use crate::cedar::{self, Act, Wanted};
use crate::membership;

/// The policies that can match a kind of request.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Forbids, enforced and observed.
    pub(crate) rules: PolicySet,
    /// Permits.
    pub(crate) grants: PolicySet,
    /// What they read of the context.
    pub(crate) wanted: Wanted,
}

/// Candidates by action and tool.
#[derive(Debug)]
pub(crate) struct Index {
    tools: BTreeMap<String, [Arc<Candidates>; 2]>,
    others: [Arc<Candidates>; 2],
}

impl Index {
    pub(crate) fn new<'p>(policies: impl Iterator<Item = &'p Policy>, tools: &Tools) -> Self {
        let policies: Vec<Scoped> = policies.map(Scoped::of).collect();
        let by_act = Act::ALL.map(|act| ByResource::of(&policies, act));
        // Tools with the same candidates share them.
        let mut shared: BTreeMap<Vec<usize>, Arc<Candidates>> = BTreeMap::new();
        let mut candidates = |tool: Option<&str>| {
            let effect = tools.effect(tool.unwrap_or_default());
            by_act.each_ref().map(|by_resource| {
                let positions = by_resource.positions(tool, effect);
                if let Some(shared) = shared.get(&positions) {
                    return Arc::clone(shared);
                }
                let chosen = positions.iter().filter_map(|position| policies.get(*position));
                let candidates = Arc::new(Candidates::new(chosen));
                shared.insert(positions, Arc::clone(&candidates));
                candidates
            })
        };
        let mut names: BTreeSet<&str> = tools.names().collect();
        names.extend(by_act.iter().flat_map(|by_resource| by_resource.tools.keys()));
        Self {
            others: candidates(None),
            tools: names.into_iter().map(|name| (name.to_owned(), candidates(Some(name)))).collect(),
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
    fn new<'p>(policies: impl Iterator<Item = &'p Scoped>) -> Self {
        let mut candidates =
            Self { rules: PolicySet::new(), grants: PolicySet::new(), wanted: Wanted::nothing() };
        for scoped in policies {
            candidates.wanted.add(&scoped.wanted);
            let set = match scoped.policy.effect() {
                PolicyEffect::Forbid => &mut candidates.rules,
                PolicyEffect::Permit => &mut candidates.grants,
            };
            // Ids are unique in a bundle: checked while compiling.
            let added = set.add(scoped.policy.clone());
            debug_assert!(added.is_ok(), "{added:?}");
        }
        candidates
    }
}

/// A policy as it is asked, and what was read of it once for all tools.
struct Scoped {
    policy: Policy,
    action: ActionConstraint,
    resources: Resources,
    wanted: Wanted,
}

impl Scoped {
    fn of(policy: &Policy) -> Self {
        let resources = if principal_can_match(&policy.principal_constraint()) {
            Resources::of(&policy.resource_constraint())
        } else {
            Resources::None
        };
        let json = policy.to_json().ok();
        let wanted = Wanted::of(json.as_ref());
        let cheaper = json.and_then(|mut json| {
            membership::compare(&mut json);
            leave_out_what_is_decided(&mut json);
            Policy::from_json(Some(policy.id().clone()), json).ok()
        });
        let asked = cheaper.unwrap_or_else(|| policy.clone());
        Self { action: policy.action_constraint(), resources, wanted, policy: asked }
    }
}

/// A policy is asked of actions and tools only that its scope matches, and what it says of them has no other effect.
fn leave_out_what_is_decided(policy: &mut serde_json::Value) {
    for part in ["action", "resource"] {
        if let Some(constraint) = policy.get_mut(part) {
            *constraint = serde_json::json!({ "op": "All" });
        }
    }
}

/// The tools that a policy's scope matches.
enum Resources {
    All,
    Tool(String),
    Effect(Effect),
    None,
}

impl Resources {
    fn of(constraint: &ResourceConstraint) -> Self {
        let tool = |uid: &EntityUid| {
            (*uid.type_name() == *cedar::TOOL).then(|| Self::Tool(uid.id().unescaped().to_owned()))
        };
        let effect = |uid: &EntityUid| {
            Effect::ALL.into_iter().find(|effect| *uid == cedar::effect_uid(*effect)).map(Self::Effect)
        };
        // A tool is in itself and in its effect, and in nothing else.
        let within = |uid: &EntityUid| tool(uid).or_else(|| effect(uid));
        match constraint {
            ResourceConstraint::Any => Some(Self::All),
            ResourceConstraint::Is(kind) => (*kind == *cedar::TOOL).then_some(Self::All),
            ResourceConstraint::Eq(uid) => tool(uid),
            ResourceConstraint::In(uid) => within(uid),
            ResourceConstraint::IsIn(kind, uid) => (*kind == *cedar::TOOL).then(|| within(uid)).flatten(),
        }
        .unwrap_or(Self::None)
    }
}

/// Positions of the policies whose scope matches an action, in their order, by the tools that it matches.
#[derive(Default)]
struct ByResource<'p> {
    all: Vec<usize>,
    effects: BTreeMap<&'static str, Vec<usize>>,
    tools: BTreeMap<&'p str, Vec<usize>>,
}

impl<'p> ByResource<'p> {
    fn of(policies: &'p [Scoped], act: Act) -> Self {
        let mut by_resource = Self::default();
        let matching = policies.iter().enumerate().filter(|(_, scoped)| action_matches(&scoped.action, act));
        for (position, scoped) in matching {
            match &scoped.resources {
                Resources::All => by_resource.all.push(position),
                Resources::Effect(effect) => {
                    by_resource.effects.entry(effect.as_str()).or_default().push(position);
                }
                Resources::Tool(name) => by_resource.tools.entry(name).or_default().push(position),
                Resources::None => {}
            }
        }
        by_resource
    }

    /// `tool` is `None` for those that no policy and no entry of tools.yaml names.
    fn positions(&self, tool: Option<&str>, effect: Effect) -> Vec<usize> {
        let of_tool = tool.and_then(|tool| self.tools.get(tool));
        let narrower = [self.effects.get(effect.as_str()), of_tool].into_iter().flatten().flatten();
        let mut positions: Vec<usize> = self.all.iter().chain(narrower).copied().collect();
        positions.sort_unstable();
        positions
    }
}

fn principal_can_match(constraint: &PrincipalConstraint) -> bool {
    match constraint {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => *kind == *cedar::AGENT,
        PrincipalConstraint::Eq(uid) => *uid.type_name() == *cedar::AGENT,
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
    }
}

fn action_matches(constraint: &ActionConstraint, act: Act) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => *uid == act.uid(),
        ActionConstraint::In(uids) => uids.iter().any(|uid| *uid == act.uid() || *uid == cedar::act_group()),
    }
}

#[cfg(test)]
mod tests {
    use agentgov_enrichment::{Agent, AgentState, Known, Scalar, Session};
    use agentgov_schemas::event::{ActionEvent, Agent as EventAgent, Payload, Source, ToolCall};
    use agentgov_schemas::{Digest, Micros};
    use cedar_policy::{Authorizer, Decision, PolicyId};
    use proptest::prelude::*;

    use super::*;
    use crate::cedar::{Answer, Question, Scene};

    const TOOLS: &str = "
default: { effect: external }
tools:
  look: { effect: read }
  change: { effect: write }
  drop: { effect: destructive }
";
    const PRINCIPALS: &[&str] = &[
        "principal",
        "principal == Agent::\"t/bot\"",
        "principal == Agent::\"t/other\"",
        "principal == Tool::\"look\"",
        "principal in Role::\"clerk\"",
        "principal in Role::\"boss\"",
        "principal is Agent",
        "principal is Role",
        "principal is Agent in Role::\"clerk\"",
        "principal is Agent in Role::\"boss\"",
    ];
    const ACTIONS: &[&str] = &[
        "action",
        "action == Action::\"tool.invoked\"",
        "action == Action::\"tool.retried\"",
        "action == Action::\"act\"",
        "action in Action::\"act\"",
        "action in [Action::\"tool.retried\", Action::\"drink\"]",
        "action in [Action::\"tool.invoked\", Action::\"act\"]",
        "action == Action::\"drink\"",
        "action in []",
    ];
    const RESOURCES: &[&str] = &[
        "resource",
        "resource == Tool::\"look\"",
        "resource == Tool::\"change\"",
        "resource == Tool::\"unlisted\"",
        "resource == Tool::\"\"",
        "resource == Agent::\"t/bot\"",
        "resource in Effect::\"read\"",
        "resource in Effect::\"write\"",
        "resource in Effect::\"external\"",
        "resource in Effect::\"none\"",
        "resource in Tool::\"drop\"",
        "resource is Tool",
        "resource is Effect",
        "resource is Tool in Effect::\"destructive\"",
        "resource is Tool in Tool::\"change\"",
        "resource is Agent in Effect::\"read\"",
    ];
    const CONDITIONS: &[&str] = &[
        "true",
        "context.n > 1",
        "context has n && context.n > 1",
        "context has n && context.n == 2",
        "context.n == 2 || true",
        "true || context.n > 1",
        "context has s && context.s like \"a*\"",
        "context.s == \"a\"",
        "principal.state == \"active\"",
        "principal.owner == \"us\"",
        "principal has owner && principal.owner like \"u*\"",
        "[\"a\", \"b\"].contains(context.s)",
        "![1, 2].contains(context.n) || [Tool::\"look\", Tool::\"drop\"].contains(resource)",
        "resource.effect == \"read\"",
        "resource.missing",
        "context.session.tool_calls == 0",
        "context.session.n",
        "[Tool::\"look\", Tool::\"drop\"].contains(resource)",
        "context has n && [1, 2].contains(context.n)",
        "context has n && context.n + 9223372036854775807 > 0",
        "context.session == {\"events\": 0, \"tool_calls\": 0}",
        "context == {\"n\": 2}",
        "[context].contains({\"n\": 2})",
        "context.environment == \"e\" && context has session.tool_calls",
    ];

    fn policies() -> impl Strategy<Value = Vec<(bool, usize, usize, usize, usize)>> {
        let one =
            (any::<bool>(), 0..PRINCIPALS.len(), 0..ACTIONS.len(), 0..RESOURCES.len(), 0..CONDITIONS.len());
        prop::collection::vec(one, 0..25)
    }

    /// Missing, of its type, or of another one.
    fn value() -> impl Strategy<Value = Option<Scalar>> {
        prop_oneof![
            Just(None),
            (0..4_i64).prop_map(|n| Some(Scalar::Long(n))),
            "[ab]{0,2}".prop_map(|text| Some(Scalar::Text(text))),
            any::<bool>().prop_map(|b| Some(Scalar::Bool(b))),
            Just(Some(Scalar::Set([Scalar::Long(2)].into()))),
        ]
    }

    fn union(answers: [Answer; 2]) -> (Vec<String>, Vec<(String, String)>) {
        let [mut a, b] = answers;
        a.satisfied.extend(b.satisfied);
        a.errors.extend(b.errors);
        a.satisfied.sort();
        a.errors.sort();
        (a.satisfied, a.errors)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// The candidates say what Cedar says of all policies in one set.
        #[test]
        fn nothing_that_matters_is_left_out(
            policies in policies(),
            tool in prop::sample::select(vec!["look", "change", "drop", "unlisted", "other", ""]),
            retried in any::<bool>(),
            registered in any::<bool>(),
            role in prop::sample::select(vec!["clerk", "boss", "guest"]),
            n in value(),
            s in value(),
        ) {
            let tools = Tools::compile("tools.yaml", TOOLS, &[]).unwrap();
            let all: Vec<Policy> = policies
                .iter()
                .enumerate()
                .map(|(i, (permit, p, a, r, c))| {
                    let effect = if *permit { "permit" } else { "forbid" };
                    let text = format!(
                        "{effect} ({}, {}, {}) when {{ {} }};",
                        PRINCIPALS[*p], ACTIONS[*a], RESOURCES[*r], CONDITIONS[*c]
                    );
                    Policy::parse(Some(PolicyId::new(format!("p{i:02}"))), text).unwrap()
                })
                .collect();
            let index = Index::new(all.iter(), &tools);
            let event = ActionEvent {
                event_id: "",
                r#type: if retried { "tool.retried" } else { "tool.invoked" },
                tenant_id: "t",
                environment: "e",
                session_id: "",
                session_label: None,
                source: Source { id: "", sequence: 0 },
                occurred_at: Micros(0),
                agent: EventAgent { id: "bot", name: None, version: None },
                actor: None,
                trace: None,
                message: None,
                tool: Some(ToolCall {
                    name: tool,
                    call_id: "",
                    arguments: Payload { data: b"", sha256: Digest::of(b""), media_type: "", redacted: false },
                }),
                result: None,
                llm: None,
                decision: None,
                approval: None,
                closing: None,
            };
            let agent = Agent { owner: "us".into(), roles: vec![role.into()], state: AgentState::Active };
            let derived = [("n", n), ("s", s)].into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect();
            let known = Known { derived, ..Known::default() };
            let agent = registered.then_some(&agent);
            let scene = Scene::new(&event, tools.effect(tool), agent).unwrap();
            let session = Session::new();
            let asked = |wanted: &Wanted| Question::new(&event, &scene, &session, &known, wanted).unwrap();
            let candidates = index.candidates(Act::of(&event), tool);
            let (question, sliced) = (asked(&Wanted::All), asked(&candidates.wanted));
            for policies in [&candidates.rules, &candidates.grants] {
                let (whole, sliced) = (question.ask(policies), sliced.ask(policies));
                prop_assert_eq!(&whole.satisfied, &sliced.satisfied);
                // The messages list what is there.
                let ids = |answer: &Answer| answer.errors.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
                prop_assert_eq!(ids(&whole), ids(&sliced));
            }

            let rules = question.ask(&candidates.rules);
            let grants = question.ask(&candidates.grants);
            let plain = Authorizer::new().is_authorized(
                &question.request,
                &PolicySet::from_policies(all.clone()).unwrap(),
                &scene.entities,
            );
            let allowed = rules.satisfied.is_empty() && !grants.satisfied.is_empty();
            prop_assert_eq!(plain.decision() == Decision::Allow, allowed);
            let mut reason: Vec<String> = plain.diagnostics().reason().map(ToString::to_string).collect();
            reason.sort();
            prop_assert_eq!(&reason, if rules.satisfied.is_empty() { &grants.satisfied } else { &rules.satisfied });

            // The same, policy by policy: also those that Cedar's one set does not name.
            let of = |effect| PolicySet::from_policies(all.iter().filter(|p| p.effect() == effect).cloned()).unwrap();
            let whole = [question.ask(&of(PolicyEffect::Forbid)), question.ask(&of(PolicyEffect::Permit))];
            prop_assert_eq!(union([rules, grants]), union(whole));
        }
    }
}
