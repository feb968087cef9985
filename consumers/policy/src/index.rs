//! Only policies that can match are evaluated: by action, resource and principal type, before Cedar sees them.
//!
//! A tool's effect is a matter of the bundle, so what a policy's scope says of action and resource is decided here, once,
//! for every tool that the bundle names and for all others together, and so is what its conditions say of the tool's name;
//! Cedar is not asked that again. The rest is Cedar's to decide.
//! Forbids and grants are separate sets: a forbid that applies, enforced or observed, must not hide whether a grant exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentgov_enrichment::{Effect, Tools};
use cedar_policy::{
    ActionConstraint, Effect as PolicyEffect, EntityUid, Policy, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};

use crate::cedar::{self, Act, Wanted};
use crate::internal::InternalError;
use crate::{membership, policy, specialise};

/// The policies that can match a kind of request.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Forbids, enforced and observed.
    pub(crate) rules: PolicySet,
    /// Permits.
    pub(crate) grants: PolicySet,
    /// What the rules read of the context.
    pub(crate) wanted_by_rules: Wanted,
    /// What the grants read of it.
    pub(crate) wanted_by_grants: Wanted,
    /// Attributes read by the rules that make the verdict indeterminate if they err.
    pub(crate) decisive: Wanted,
    /// Attributes read by each grant, by its id.
    pub(crate) by_grant: Vec<(String, Wanted)>,
}

/// Candidates by action and tool.
#[derive(Debug)]
pub(crate) struct Index {
    tools: BTreeMap<String, [Arc<Candidates>; 2]>,
    others: [Arc<Candidates>; 2],
}

impl Index {
    /// # Errors
    /// If a policy cannot be added: without it, a call that it forbids would be allowed.
    pub(crate) fn new<'p>(
        policies: impl Iterator<Item = &'p Policy>,
        tools: &Tools,
    ) -> Result<Self, InternalError> {
        let policies: Vec<Scoped> = policies.map(Scoped::of).collect();
        let by_act = Act::ALL.map(|act| ByResource::of(&policies, act));
        // Tools with the same candidates share them.
        let mut shared: BTreeMap<Vec<Chosen>, Arc<Candidates>> = BTreeMap::new();
        let mut candidates = |tool: Option<&str>| {
            let effect = tool.map_or_else(|| tools.default_effect(), |tool| tools.effect(tool));
            let mut of_act = |by_resource: &ByResource<'_>| {
                let chosen = by_resource.chosen(tool, effect);
                if let Some(shared) = shared.get(&chosen) {
                    return Ok(Arc::clone(shared));
                }
                let asked = chosen
                    .iter()
                    .map(|chosen| policies.get(chosen.position)?.asked.get(chosen.variant))
                    .collect::<Option<Vec<_>>>();
                let asked = asked.ok_or_else(|| InternalError::new("a policy is not in the index"))?;
                let candidates = Arc::new(Candidates::new(asked)?);
                shared.insert(chosen, Arc::clone(&candidates));
                Ok(candidates)
            };
            let [invoked, retried] = &by_act;
            Ok([of_act(invoked)?, of_act(retried)?])
        };
        let mut names: BTreeSet<&str> = tools.names().collect();
        names.extend(by_act.iter().flat_map(|by_resource| by_resource.tools.keys()));
        let others = candidates(None)?;
        let tools = names.into_iter().map(|name| Ok((name.to_owned(), candidates(Some(name))?)));
        Ok(Self { others, tools: tools.collect::<Result<_, InternalError>>()? })
    }

    /// Those of a call of `tool`.
    pub(crate) fn candidates(&self, act: Act, tool: &str) -> &Candidates {
        let [invoked, retried] = self.tools.get(tool).unwrap_or(&self.others);
        match act {
            Act::Invoked => invoked,
            Act::Retried => retried,
        }
    }
}

impl Candidates {
    /// Returns true if a grant reads one of these attributes.
    pub(crate) fn grant_reads(&self, id: &str, names: &BTreeSet<String>) -> bool {
        self.by_grant.iter().any(|(grant, wanted)| grant == id && wanted.has_any(names))
    }

    fn new<'p>(policies: impl IntoIterator<Item = &'p Asked>) -> Result<Self, InternalError> {
        let mut candidates = Self {
            rules: PolicySet::new(),
            grants: PolicySet::new(),
            wanted_by_rules: Wanted::nothing(),
            wanted_by_grants: Wanted::nothing(),
            decisive: Wanted::nothing(),
            by_grant: Vec::new(),
        };
        for asked in policies {
            if policy::decides_or_errs(&asked.policy) {
                candidates.decisive.add(&asked.wanted);
            }
            let (set, wanted) = match asked.policy.effect() {
                PolicyEffect::Forbid => (&mut candidates.rules, &mut candidates.wanted_by_rules),
                PolicyEffect::Permit => {
                    candidates.by_grant.push((asked.policy.id().to_string(), asked.wanted.clone()));
                    (&mut candidates.grants, &mut candidates.wanted_by_grants)
                }
            };
            wanted.add(&asked.wanted);
            set.add(asked.policy.clone()).map_err(InternalError::new)?;
        }
        Ok(candidates)
    }
}

/// A policy, and what was read of it once for all tools.
struct Scoped {
    action: ActionConstraint,
    resources: Resources,
    /// As it is asked of different tools.
    asked: Vec<Asked>,
    /// Which of them it is, of each tool that its conditions name. None: of that tool it need not be asked.
    named: BTreeMap<String, Option<usize>>,
    /// Which of them it is, of all other tools.
    others: Option<usize>,
}

/// A policy as it is asked, and what it reads of the context.
#[derive(Debug)]
struct Asked {
    policy: Policy,
    wanted: Wanted,
}

impl Scoped {
    fn of(policy: &Policy) -> Self {
        let resources = if principal_can_match(&policy.principal_constraint()) {
            Resources::of(&policy.resource_constraint())
        } else {
            Resources::None
        };
        let action = policy.action_constraint();
        let (mut asked, mut named, mut others) = (Vec::new(), BTreeMap::new(), Some(0));
        let Ok(json) = policy.to_json() else {
            asked.push(Asked { policy: policy.clone(), wanted: Wanted::All });
            return Self { action, resources, asked, named, others };
        };
        let Some(names) = specialise::named(&json) else {
            asked.push(Asked::of(policy, json));
            return Self { action, resources, asked, named, others };
        };
        let mut decided = Vec::new();
        let mut variant = |tool: Option<&str>| {
            let json = specialise::decide(&json, tool)?;
            // Most tools that a policy names are one to it.
            Some(decided.iter().position(|known| *known == json).unwrap_or_else(|| {
                asked.push(Asked::of(policy, json.clone()));
                decided.push(json);
                decided.len() - 1
            }))
        };
        others = variant(None);
        for name in names {
            let variant = variant(Some(&name));
            named.insert(name, variant);
        }
        Self { action, resources, asked, named, others }
    }
}

impl Asked {
    /// `json` is what is left of `policy` to be asked.
    fn of(policy: &Policy, mut json: serde_json::Value) -> Self {
        let wanted = Wanted::of(&json);
        membership::compare(&mut json);
        leave_out_what_is_decided(&mut json);
        match Policy::from_json(Some(policy.id().clone()), json) {
            Ok(cheaper) => Self { policy: cheaper, wanted },
            Err(_) => Self { policy: policy.clone(), wanted: Wanted::All },
        }
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

/// A policy by its position, and which of the ways in which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chosen {
    position: usize,
    variant: usize,
}

/// What is different of a tool.
struct Exception {
    position: usize,
    /// As it is asked of the tool, if at all.
    variant: Option<usize>,
    /// Only if this is the tool's effect.
    effect: Option<Effect>,
}

/// The policies whose scope matches an action, by the tools that it matches.
#[derive(Default)]
struct ByResource<'p> {
    all: Vec<Chosen>,
    effects: BTreeMap<&'static str, Vec<Chosen>>,
    tools: BTreeMap<&'p str, Vec<Exception>>,
}

impl<'p> ByResource<'p> {
    fn of(policies: &'p [Scoped], act: Act) -> Self {
        let mut by_resource = Self::default();
        let matching = policies.iter().enumerate().filter(|(_, scoped)| action_matches(&scoped.action, act));
        for (position, scoped) in matching {
            let others = scoped.others.map(|variant| Chosen { position, variant });
            let effect = match &scoped.resources {
                Resources::All => {
                    by_resource.all.extend(others);
                    None
                }
                Resources::Effect(effect) => {
                    by_resource.effects.entry(effect.as_str()).or_default().extend(others);
                    Some(*effect)
                }
                Resources::Tool(name) => {
                    let variant = scoped.named.get(name).copied().unwrap_or(scoped.others);
                    let exception = Exception { position, variant, effect: None };
                    by_resource.tools.entry(name).or_default().push(exception);
                    continue;
                }
                Resources::None => continue,
            };
            for (name, variant) in &scoped.named {
                let exception = Exception { position, variant: *variant, effect };
                by_resource.tools.entry(name).or_default().push(exception);
            }
        }
        by_resource
    }

    /// In the order of their positions. `tool` is `None` for those that no policy and no entry of tools.yaml names.
    fn chosen(&self, tool: Option<&str>, effect: Effect) -> Vec<Chosen> {
        let of_effect = self.effects.get(effect.as_str()).into_iter().flatten();
        let mut chosen: BTreeMap<usize, usize> =
            self.all.iter().chain(of_effect).map(|chosen| (chosen.position, chosen.variant)).collect();
        let exceptions = tool.and_then(|tool| self.tools.get(tool)).into_iter().flatten();
        for exception in exceptions.filter(|e| e.effect.is_none_or(|only| only == effect)) {
            match exception.variant {
                Some(variant) => chosen.insert(exception.position, variant),
                None => chosen.remove(&exception.position),
            };
        }
        chosen.into_iter().map(|(position, variant)| Chosen { position, variant }).collect()
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
        "resource == Tool::\"look\" || context.n > 1",
        "context.n > 1 || resource == Tool::\"look\"",
        "resource != Tool::\"drop\" && context.s == \"a\"",
        "context.s && resource == Tool::\"named\"",
        "resource == Tool::\"named\" && context.s",
        "!(Tool::\"look\" == resource) || principal.state == \"active\"",
        "if resource == Tool::\"named\" then context.missing else context.n == 2",
        "resource == Effect::\"read\" || resource == Agent::\"look\"",
        "[Tool::\"look\", Effect::\"read\", Tool::\"named\"].contains(resource) && context has n",
        "[].contains(resource) || resource in Effect::\"read\"",
        "[resource == Tool::\"look\"].contains(context has n)",
        "{\"it\": resource == Tool::\"change\"}.it",
        "true } unless { resource == Tool::\"look\" } when { context.n > 1",
        "context.n > 1 } unless { resource == Tool::\"named\"",
        "resource == Tool::\"look\" } when { context.s } unless { resource != Tool::\"look\"",
    ];

    #[test]
    fn of_many_tools_each_is_asked_about() {
        let names: Vec<String> = (0..100).map(|i| format!("Tool::\"{i}\"")).collect();
        let text = format!(
            "permit (principal, action, resource) when {{ [{}].contains(resource) }};",
            names.join(", ")
        );
        let policy = Policy::parse(None, text).unwrap();
        let tools = Tools::compile("tools.yaml", TOOLS, &[]).unwrap();
        let index = Index::new([&policy].into_iter(), &tools).unwrap();
        for tool in ["99", "other"] {
            assert_eq!(index.candidates(Act::Invoked, tool).grants.num_of_policies(), 1, "{tool}");
        }
    }

    /// Without it, what it forbids would be allowed.
    #[test]
    fn policy_that_cannot_be_added_is_an_error() {
        let tools = Tools::compile("tools.yaml", TOOLS, &[]).unwrap();
        let forbid = Policy::parse(None, "forbid (principal, action, resource);").unwrap();
        let error = Index::new([&forbid, &forbid].into_iter(), &tools).unwrap_err();
        assert!(error.to_string().contains("duplicate"), "{error}");
    }

    /// A tool without a name may be listed; a tool that is not listed is another.
    #[test]
    fn unlisted_tool_has_the_default_effect() {
        let tools = "default: { effect: external }\ntools:\n  '': { effect: read }\n";
        let tools = Tools::compile("tools.yaml", tools, &[]).unwrap();
        let grant = Policy::parse(None, "permit (principal, action, resource in Effect::\"read\");").unwrap();
        let index = Index::new([&grant].into_iter(), &tools).unwrap();
        let granted = |tool: &str| index.candidates(Act::Invoked, tool).grants.num_of_policies();
        assert_eq!((granted(""), granted("other")), (1, 0));
    }

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
            tool in prop::sample::select(vec!["look", "change", "drop", "unlisted", "named", "other", ""]),
            retried in any::<bool>(),
            registered in any::<bool>(),
            role in prop::sample::select(vec!["clerk", "boss", "guest"]),
            n in value(),
            s in value(),
            other in value(),
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
            let index = Index::new(all.iter(), &tools).unwrap();
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
            let question = asked(&Wanted::All);
            for (policies, wanted) in [
                (&candidates.rules, &candidates.wanted_by_rules),
                (&candidates.grants, &candidates.wanted_by_grants),
            ] {
                let (whole, sliced) = (question.ask(policies), asked(wanted).ask(policies));
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
            prop_assert_eq!(union([rules, grants]), union(whole.clone()));

            // Each policy whose outcome changes with the value reads the value.
            let mut derived = known.derived.clone();
            derived.remove("n");
            derived.extend(other.map(|value| ("n".to_owned(), value)));
            let known = Known { derived, ..Known::default() };
            let question = Question::new(&event, &scene, &session, &known, &Wanted::All).unwrap();
            let names = BTreeSet::from(["n".to_owned()]);
            let differ = |of_one: &Answer, of_other: &Answer| -> BTreeSet<String> {
                let ids = |answer: &Answer| -> BTreeSet<String> {
                    let errors = answer.errors.iter().map(|(id, _)| format!("{id}!"));
                    answer.satisfied.iter().cloned().chain(errors).collect()
                };
                ids(of_one).symmetric_difference(&ids(of_other)).map(|id| id.trim_end_matches('!').to_owned()).collect()
            };
            let [rules, grants] = whole;
            if !differ(&rules, &question.ask(&of(PolicyEffect::Forbid))).is_empty() {
                prop_assert!(candidates.decisive.has_any(&names));
            }
            for id in differ(&grants, &question.ask(&of(PolicyEffect::Permit))) {
                prop_assert!(candidates.grant_reads(&id, &names), "{}", id);
            }
        }
    }
}
