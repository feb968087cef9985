//! Index of the policies of a bundle: selects the candidates of a request by action, resource and principal type.
//!
//! The index decides the constraints on action and resource, and the comparisons with tool names in conditions, once for each
//! tool that the bundle names and once for all other tools: for the effect in tools.yaml when the bundle is compiled, for another
//! effect, which the registry has, at the first call. Cedar evaluates the residual policies.
//! Forbids and grants are in separate policy sets, because an applying forbid, enforced or observed, must not hide whether a grant
//! exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use agentgov_enrichment::Tools;
use agentgov_schemas::Vocabulary as _;
use agentgov_schemas::governance::ToolEffect;
use cedar_policy::pst::{self, Clause, Template};
use cedar_policy::{
    ActionConstraint, Effect as PolicyEffect, EntityUid, Policy, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};

use crate::cedar::{self, CallAction, RequiredAttributes};
use crate::internal::InternalError;
use crate::{partial_eval, policy, rewrite};

/// Policies that can match a kind of request.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Forbids, both enforced and observed.
    pub(crate) rules: PolicySet,
    /// Permits.
    pub(crate) grants: PolicySet,
    /// Attributes of the context that the rules read.
    pub(crate) required_by_rules: RequiredAttributes,
    /// Attributes of the context that the grants read.
    pub(crate) required_by_grants: RequiredAttributes,
    /// Attributes read by the rules that make the verdict indeterminate if they fail.
    pub(crate) decisive: RequiredAttributes,
    /// Attributes read by each grant, with its id.
    pub(crate) by_grant: Vec<(String, RequiredAttributes)>,
}

/// Candidates by action, tool and effect.
#[derive(Debug)]
pub(crate) struct Index {
    policies: IndexedPolicies,
    tools: BTreeMap<String, ToolCandidates>,
    others: ToolCandidates,
}

/// Candidates of a tool.
#[derive(Debug)]
struct ToolCandidates {
    /// Effect in tools.yaml, for which the candidates exist.
    effect: ToolEffect,
    by_action: [Arc<Candidates>; 2],
    /// Candidates for other effects, each from its first call on.
    of_other_effects: Mutex<BTreeMap<(ToolEffect, CallAction), Arc<Candidates>>>,
}

impl Index {
    /// # Errors
    /// If a policy cannot be added. Without it, a call that it forbids would be allowed.
    pub(crate) fn new<'p>(
        policies: impl Iterator<Item = &'p Policy>,
        tools: &Tools,
    ) -> Result<Self, InternalError> {
        let policies = IndexedPolicies::new(policies.map(IndexedPolicy::new).collect());
        // Tools with the same candidates share one value.
        let mut shared: BTreeMap<Vec<CandidateRef>, Arc<Candidates>> = BTreeMap::new();
        let mut candidates = |tool: Option<&str>| {
            let effect = tool.map_or_else(|| tools.default_effect(), |tool| tools.effect(tool));
            let mut for_action = |action: CallAction| {
                let selected = policies.of(action).select(tool, effect);
                if let Some(shared) = shared.get(&selected) {
                    return Ok(Arc::clone(shared));
                }
                let candidates = Arc::new(policies.candidates(&selected)?);
                shared.insert(selected, Arc::clone(&candidates));
                Ok::<_, InternalError>(candidates)
            };
            let by_action = [for_action(CallAction::Invoked)?, for_action(CallAction::Retried)?];
            Ok::<_, InternalError>(ToolCandidates { effect, by_action, of_other_effects: Mutex::default() })
        };
        let mut names: BTreeSet<&str> = tools.names().collect();
        let of_policies = policies.by_action.iter().flat_map(|by_resource| by_resource.tools.keys());
        names.extend(of_policies.map(String::as_str));
        let others = candidates(None)?;
        let tools = names.into_iter().map(|name| Ok((name.to_owned(), candidates(Some(name))?)));
        let tools = tools.collect::<Result<_, InternalError>>()?;
        Ok(Self { policies, tools, others })
    }

    /// Returns the candidates for a call of `tool`, whose effect may be another one than in tools.yaml.
    ///
    /// # Errors
    /// If a policy cannot be added.
    pub(crate) fn candidates(
        &self,
        action: CallAction,
        tool: &str,
        effect: ToolEffect,
    ) -> Result<Arc<Candidates>, InternalError> {
        let named = self.tools.get(tool);
        let of_tool = named.unwrap_or(&self.others);
        if effect == of_tool.effect {
            let [invoked, retried] = &of_tool.by_action;
            return Ok(Arc::clone(match action {
                CallAction::Invoked => invoked,
                CallAction::Retried => retried,
            }));
        }
        let mut known = of_tool.of_other_effects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(candidates) = known.get(&(effect, action)) {
            return Ok(Arc::clone(candidates));
        }
        let selected = self.policies.of(action).select(named.map(|_| tool), effect);
        let candidates = Arc::new(self.policies.candidates(&selected)?);
        known.insert((effect, action), Arc::clone(&candidates));
        Ok(candidates)
    }
}

/// Policies of a bundle, with those that match each action.
#[derive(Debug)]
struct IndexedPolicies {
    policies: Vec<IndexedPolicy>,
    by_action: [ByResource; 2],
}

impl IndexedPolicies {
    fn new(policies: Vec<IndexedPolicy>) -> Self {
        Self { by_action: CallAction::ALL.map(|action| ByResource::of(&policies, action)), policies }
    }

    const fn of(&self, action: CallAction) -> &ByResource {
        let [invoked, retried] = &self.by_action;
        match action {
            CallAction::Invoked => invoked,
            CallAction::Retried => retried,
        }
    }

    /// # Errors
    /// If a policy cannot be added.
    fn candidates(&self, selected: &[CandidateRef]) -> Result<Candidates, InternalError> {
        let residual = |selected: &CandidateRef| {
            self.policies.get(selected.position)?.residuals.policies.get(selected.residual)
        };
        let residuals = selected.iter().map(residual).collect::<Option<Vec<_>>>();
        Candidates::new(residuals.ok_or_else(|| InternalError::new("a policy is not in the index"))?)
    }
}

impl Candidates {
    /// Returns true if the grant with this id reads one of these attributes.
    pub(crate) fn grant_reads(&self, id: &str, names: &BTreeSet<String>) -> bool {
        self.by_grant.iter().any(|(grant, required)| grant == id && required.intersects(names))
    }

    fn new<'p>(policies: impl IntoIterator<Item = &'p ResidualPolicy>) -> Result<Self, InternalError> {
        let mut candidates = Self {
            rules: PolicySet::new(),
            grants: PolicySet::new(),
            required_by_rules: RequiredAttributes::none(),
            required_by_grants: RequiredAttributes::none(),
            decisive: RequiredAttributes::none(),
            by_grant: Vec::new(),
        };
        for ResidualPolicy { policy, required } in policies {
            if policy::is_indeterminate_on_error(policy) {
                candidates.decisive.extend(required);
            }
            let (set, all_required) = match policy.effect() {
                PolicyEffect::Forbid => (&mut candidates.rules, &mut candidates.required_by_rules),
                PolicyEffect::Permit => {
                    candidates.by_grant.push((policy.id().to_string(), required.clone()));
                    (&mut candidates.grants, &mut candidates.required_by_grants)
                }
            };
            all_required.extend(required);
            set.add(policy.clone()).map_err(InternalError::new)?;
        }
        Ok(candidates)
    }
}

/// Policy with its scope and its residuals.
#[derive(Debug)]
struct IndexedPolicy {
    action: ActionConstraint,
    resources: ResourceScope,
    residuals: Residuals,
}

/// Residuals of a policy.
#[derive(Debug)]
struct Residuals {
    policies: Vec<ResidualPolicy>,
    /// Position of the residual for each tool that the conditions name; `None` if the policy cannot apply to the tool.
    named: BTreeMap<String, Option<usize>>,
    /// Position of the residual for all other tools.
    others: Option<usize>,
}

/// Part of a policy that Cedar evaluates, and the attributes of the context that it reads.
#[derive(Debug)]
struct ResidualPolicy {
    policy: Policy,
    required: RequiredAttributes,
}

impl IndexedPolicy {
    fn new(policy: &Policy) -> Self {
        let resources = if principal_can_match(&policy.principal_constraint()) {
            ResourceScope::of(&policy.resource_constraint())
        } else {
            ResourceScope::None
        };
        let residuals = Residuals::of(policy);
        Self { action: policy.action_constraint(), resources, residuals }
    }
}

impl Residuals {
    fn of(policy: &Policy) -> Self {
        // A policy without a syntax tree is evaluated as a whole, with the same outcome.
        let Some(template) = static_template(policy) else {
            return Self::uniform(ResidualPolicy::whole(policy));
        };
        let clauses = template.clauses();
        let Some(names) = partial_eval::named_tools(clauses) else {
            return Self::uniform(ResidualPolicy::new(policy, &template, clauses));
        };
        let (mut policies, mut known): (Vec<ResidualPolicy>, Vec<Vec<Clause>>) = (Vec::new(), Vec::new());
        let mut residual = |tool: Option<&str>| {
            let clauses = partial_eval::residual(clauses, tool)?;
            // Most tools that a policy names have the same residual.
            Some(known.iter().position(|known| *known == clauses).unwrap_or_else(|| {
                policies.push(ResidualPolicy::new(policy, &template, &clauses));
                known.push(clauses);
                known.len() - 1
            }))
        };
        let others = residual(None);
        let named = names.into_iter().map(|name| {
            let residual = residual(Some(&name));
            (name, residual)
        });
        Self { named: named.collect(), others, policies }
    }

    /// Creates residuals that are the same for every tool.
    fn uniform(policy: ResidualPolicy) -> Self {
        Self { policies: vec![policy], named: BTreeMap::new(), others: Some(0) }
    }
}

impl ResidualPolicy {
    fn whole(policy: &Policy) -> Self {
        Self { policy: policy.clone(), required: RequiredAttributes::All }
    }

    /// Builds the residual of `policy` with the remaining `clauses` of its `template`. Action and resource are unconstrained, since the
    /// index has matched them already.
    fn new(policy: &Policy, template: &Template, clauses: &[Clause]) -> Self {
        let expanded = clauses.iter().map(|clause| match clause {
            Clause::When(body) => Clause::When(rewrite::expand_contains(body)),
            Clause::Unless(body) => Clause::Unless(rewrite::expand_contains(body)),
        });
        let mut residual = template.clone();
        residual.action = pst::ActionConstraint::Any;
        residual.resource = pst::ResourceConstraint::Any;
        let built = residual.try_with_clauses(expanded).ok().and_then(|template| {
            let policy = pst::StaticPolicy::try_from(template).ok()?;
            Policy::from_pst(policy.into()).ok()
        });
        // If that fails, Cedar evaluates the whole policy, with the same outcome.
        built.map_or_else(
            || Self::whole(policy),
            |policy| Self { policy, required: RequiredAttributes::of(clauses) },
        )
    }
}

/// Returns the syntax tree of a policy, or `None` for a linked template.
pub(crate) fn static_template(policy: &Policy) -> Option<Template> {
    match policy.to_pst().ok()? {
        pst::Policy::Static(policy) => Some(policy.body().clone()),
        pst::Policy::Linked(_) => None,
    }
}

/// Tools that the scope of a policy matches.
#[derive(Debug)]
enum ResourceScope {
    All,
    Tool(String),
    Effect(ToolEffect),
    None,
}

impl ResourceScope {
    fn of(constraint: &ResourceConstraint) -> Self {
        let tool = |uid: &EntityUid| {
            (*uid.type_name() == *cedar::TOOL).then(|| Self::Tool(uid.id().unescaped().to_owned()))
        };
        let effect = |uid: &EntityUid| {
            ToolEffect::ALL
                .iter()
                .copied()
                .find(|effect| *uid == cedar::effect_uid(*effect))
                .map(Self::Effect)
        };
        // A tool is a member of itself and of its effect only.
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

/// Positions of a policy and of one of its residuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CandidateRef {
    position: usize,
    residual: usize,
}

/// Residual of a policy for one tool, which replaces the residual for other tools.
#[derive(Debug)]
struct ToolOverride {
    position: usize,
    /// `None` if the policy cannot apply to the tool.
    residual: Option<usize>,
    /// Applies only if the tool has this effect.
    effect: Option<ToolEffect>,
}

/// Policies whose scope matches an action, by the tools that the scope matches.
#[derive(Debug, Default)]
struct ByResource {
    all: Vec<CandidateRef>,
    effects: BTreeMap<&'static str, Vec<CandidateRef>>,
    tools: BTreeMap<String, Vec<ToolOverride>>,
}

impl ByResource {
    fn of(policies: &[IndexedPolicy], act: CallAction) -> Self {
        let mut by_resource = Self::default();
        let matching = policies.iter().enumerate().filter(|(_, policy)| action_matches(&policy.action, act));
        for (position, policy) in matching {
            let Residuals { named, others, .. } = &policy.residuals;
            let of_others = others.map(|residual| CandidateRef { position, residual });
            let effect = match &policy.resources {
                ResourceScope::All => {
                    by_resource.all.extend(of_others);
                    None
                }
                ResourceScope::Effect(effect) => {
                    by_resource.effects.entry(effect.as_str()).or_default().extend(of_others);
                    Some(*effect)
                }
                ResourceScope::Tool(name) => {
                    let residual = named.get(name).copied().unwrap_or(*others);
                    let tool_override = ToolOverride { position, residual, effect: None };
                    by_resource.tools.entry(name.clone()).or_default().push(tool_override);
                    continue;
                }
                ResourceScope::None => continue,
            };
            for (name, residual) in named {
                let tool_override = ToolOverride { position, residual: *residual, effect };
                by_resource.tools.entry(name.clone()).or_default().push(tool_override);
            }
        }
        by_resource
    }

    /// Returns the candidates in the order of their positions. `tool` is `None` for a tool that no policy and no entry of tools.yaml
    /// names.
    fn select(&self, tool: Option<&str>, effect: ToolEffect) -> Vec<CandidateRef> {
        let of_effect = self.effects.get(effect.as_str()).into_iter().flatten();
        let mut selected: BTreeMap<usize, usize> =
            self.all.iter().chain(of_effect).map(|selected| (selected.position, selected.residual)).collect();
        let overrides = tool.and_then(|tool| self.tools.get(tool)).into_iter().flatten();
        for tool_override in overrides.filter(|e| e.effect.is_none_or(|only| only == effect)) {
            match tool_override.residual {
                Some(residual) => selected.insert(tool_override.position, residual),
                None => selected.remove(&tool_override.position),
            };
        }
        selected.into_iter().map(|(position, residual)| CandidateRef { position, residual }).collect()
    }
}

fn principal_can_match(constraint: &PrincipalConstraint) -> bool {
    match constraint {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => *kind == *cedar::AGENT,
        PrincipalConstraint::Eq(uid) => *uid.type_name() == *cedar::AGENT,
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
    }
}

fn action_matches(constraint: &ActionConstraint, act: CallAction) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => *uid == act.uid(),
        ActionConstraint::In(uids) => {
            uids.iter().any(|uid| *uid == act.uid() || *uid == cedar::call_action_group())
        }
    }
}

#[cfg(test)]
mod tests {
    use agentgov_enrichment::{Agent, CallContext, Scalar, Session};
    use agentgov_schemas::event::{ActionEvent, Agent as EventAgent, Payload, Source, ToolCall};
    use agentgov_schemas::governance::AgentState;
    use agentgov_schemas::{Digest, SessionKey};
    use cedar_policy::{Authorizer, Decision, PolicyId};
    use proptest::prelude::*;

    use super::*;
    use crate::cedar::{AuthorizationOutcome, AuthorizationRequest, RequestTemplate};

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
        "context has n.s || context.n > 1",
        "resource is Tool && context has s.x",
        "-context.n < 0 && principal is Agent in Role::\"clerk\"",
        "{\"n\": context.n}.n == 2 || [context.n].containsAny([1, 2])",
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
    fn policy_that_names_many_tools_is_a_candidate_for_each() {
        let names: Vec<String> = (0..100).map(|i| format!("Tool::\"{i}\"")).collect();
        let text = format!(
            "permit (principal, action, resource) when {{ [{}].contains(resource) }};",
            names.join(", ")
        );
        let policy = Policy::parse(None, text).unwrap();
        let tools = Tools::compile("tools.yaml", TOOLS, &[]).unwrap();
        let index = Index::new([&policy].into_iter(), &tools).unwrap();
        for tool in ["99", "other"] {
            for effect in ToolEffect::ALL.iter().copied() {
                let candidates = index.candidates(CallAction::Invoked, tool, effect).unwrap();
                assert_eq!(candidates.grants.num_of_policies(), 1, "{tool} {effect}");
            }
        }
    }

    /// Without the policy, a call that it forbids would be allowed.
    #[test]
    fn policy_that_cannot_be_added_is_an_error() {
        let tools = Tools::compile("tools.yaml", TOOLS, &[]).unwrap();
        let forbid = Policy::parse(None, "forbid (principal, action, resource);").unwrap();
        let error = Index::new([&forbid, &forbid].into_iter(), &tools).unwrap_err();
        assert!(error.to_string().contains("duplicate"), "{error}");
    }

    /// A tool with an empty name may be listed. Other unlisted tools must not share its entry.
    #[test]
    fn unlisted_tool_has_the_default_effect() {
        let tools = "default: { effect: external }\ntools:\n  '': { effect: read }\n";
        let tools = Tools::compile("tools.yaml", tools, &[]).unwrap();
        let grant = Policy::parse(None, "permit (principal, action, resource in Effect::\"read\");").unwrap();
        let index = Index::new([&grant].into_iter(), &tools).unwrap();
        let granted = |tool: &str| {
            let candidates = index.candidates(CallAction::Invoked, tool, tools.effect(tool)).unwrap();
            candidates.grants.num_of_policies()
        };
        assert_eq!((granted(""), granted("other")), (1, 0));
    }

    fn policies() -> impl Strategy<Value = Vec<(bool, usize, usize, usize, usize)>> {
        let one =
            (any::<bool>(), 0..PRINCIPALS.len(), 0..ACTIONS.len(), 0..RESOURCES.len(), 0..CONDITIONS.len());
        prop::collection::vec(one, 0..25)
    }

    /// Generates a missing value, or a value of the right or of another type.
    fn value() -> impl Strategy<Value = Option<Scalar>> {
        prop_oneof![
            Just(None),
            (0..4_i64).prop_map(|n| Some(Scalar::Long(n))),
            "[ab]{0,2}".prop_map(|text| Some(Scalar::Text(text))),
            any::<bool>().prop_map(|b| Some(Scalar::Bool(b))),
            Just(Some(Scalar::Set([Scalar::Long(2)].into()))),
        ]
    }

    fn union(answers: [AuthorizationOutcome; 2]) -> (Vec<String>, Vec<(String, String)>) {
        let [mut a, b] = answers;
        a.satisfied.extend(b.satisfied);
        a.errors.extend(b.errors);
        a.satisfied.sort();
        a.errors.sort();
        (a.satisfied, a.errors)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Compares the outcome of the candidates with that of plain Cedar on all policies in one set.
        #[test]
        fn index_decides_as_plain_cedar(
            policies in policies(),
            tool in prop::sample::select(vec!["look", "change", "drop", "unlisted", "named", "other", ""]),
            retried in any::<bool>(),
            registered in any::<bool>(),
            effect in prop::option::of(prop::sample::select(ToolEffect::ALL)),
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
            let kind = if retried { "tool.retried" } else { "tool.invoked" };
            let (session, source) = (SessionKey { tenant_id: "t", session_id: "" }, Source { id: "", sequence: 0 });
            let event = ActionEvent {
                environment: "e",
                tool: Some(ToolCall::new(tool, "", Payload { data: b"", sha256: Digest::of(b""), media_type: "", redacted: false })),
                ..ActionEvent::new("", kind, session, source, EventAgent::new("bot"))
            };
            let agent = Agent {
                owner: "us".into(),
                roles: vec![role.into()],
                state: AgentState::Active,
                sponsor: String::new(),
                environments: Vec::new(),
            };
            let derived = [("n", n), ("s", s)].into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect();
            let known = CallContext { derived, ..CallContext::default() };
            let agent = registered.then_some(&agent);
            let effect = effect.unwrap_or_else(|| tools.effect(tool));
            let scene = RequestTemplate::new(&event, effect, agent).unwrap();
            let session = Session::new();
            let asked = |wanted: &RequiredAttributes| AuthorizationRequest::new(&event, &scene, &session, &known, wanted).unwrap();
            let candidates = index.candidates(CallAction::of(&event), tool, effect).unwrap();
            let question = asked(&RequiredAttributes::All);
            for (policies, wanted) in [
                (&candidates.rules, &candidates.required_by_rules),
                (&candidates.grants, &candidates.required_by_grants),
            ] {
                let (whole, sliced) = (question.authorize(policies), asked(wanted).authorize(policies));
                prop_assert_eq!(&whole.satisfied, &sliced.satisfied);
                // The messages list the available attributes, so only ids are compared.
                let ids = |answer: &AuthorizationOutcome| answer.errors.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
                prop_assert_eq!(ids(&whole), ids(&sliced));
            }

            let rules = question.authorize(&candidates.rules);
            let grants = question.authorize(&candidates.grants);
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

            // Compares each policy: plain Cedar does not report all of them in one set.
            let of = |effect| PolicySet::from_policies(all.iter().filter(|p| p.effect() == effect).cloned()).unwrap();
            let whole = [question.authorize(&of(PolicyEffect::Forbid)), question.authorize(&of(PolicyEffect::Permit))];
            prop_assert_eq!(union([rules, grants]), union(whole.clone()));

            // A policy whose outcome changes with the value must be known to read it.
            let mut derived = known.derived.clone();
            derived.remove("n");
            derived.extend(other.map(|value| ("n".to_owned(), value)));
            let known = CallContext { derived, ..CallContext::default() };
            let question = AuthorizationRequest::new(&event, &scene, &session, &known, &RequiredAttributes::All).unwrap();
            let names = BTreeSet::from(["n".to_owned()]);
            let differ = |of_one: &AuthorizationOutcome, of_other: &AuthorizationOutcome| -> BTreeSet<String> {
                let ids = |answer: &AuthorizationOutcome| -> BTreeSet<String> {
                    let errors = answer.errors.iter().map(|(id, _)| format!("{id}!"));
                    answer.satisfied.iter().cloned().chain(errors).collect()
                };
                ids(of_one).symmetric_difference(&ids(of_other)).map(|id| id.trim_end_matches('!').to_owned()).collect()
            };
            let [rules, grants] = whole;
            if !differ(&rules, &question.authorize(&of(PolicyEffect::Forbid))).is_empty() {
                prop_assert!(candidates.decisive.intersects(&names));
            }
            for id in differ(&grants, &question.authorize(&of(PolicyEffect::Permit))) {
                prop_assert!(candidates.grant_reads(&id, &names), "{}", id);
            }
        }
    }
}
