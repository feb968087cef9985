//! The kernel: steps one event in its session, and returns at most one verdict and the changes of the session.

use std::borrow::Cow;
use std::sync::Arc;

use agentgov_enrichment::{
    Agent, AgentTable, CallContext, Change, Finding, RefusedCall, RegisteredTool, Session, ToolTable,
};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::{AgentState, ToolEffect, ToolState};
use agentgov_schemas::topology::SessionLimits;
use agentgov_schemas::verdict::{
    ApprovalFinding, Decision, ErrorCode, Mode, Origin, Reason, RecordFinding, RuleEffect,
};
use agentgov_token::KeySet;
use cedar_policy::PolicySet;

use crate::approvals::{ApprovalClaim, ClaimedApproval, JudgedApproval, approval_of, claims_of_call};
use crate::bundle::Bundle;
use crate::cedar::{
    AuthorizationOutcome, AuthorizationRequest, CallAction, RequestTemplate, RequiredAttributes, TIME,
    is_datetime,
};
use crate::internal::InternalError;
use crate::judgement::{Judgement, known_json};
use crate::policy::{OnError, Policy, PolicyKind};
use crate::request_cache::RequestCache;
use crate::table::BundleTable;

/// Version of the rules by which verdicts are made: those of this crate, of enrichment, of Cedar and of the evaluator.
/// Evaluation bases record it, since verdicts of another version may differ for the same inputs. A test of the evaluator
/// requires a new version if the verdicts on its cases change.
pub const RULES_VERSION: i32 = 2;

/// Inputs of the kernel besides the event and its session.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// Table of agents.
    pub agents: &'a AgentTable,
    /// Table of tools and servers.
    pub tools: &'a ToolTable,
    /// Table of bundles.
    pub bundles: &'a BundleTable,
    /// Keys that sign decisions and approvals.
    pub keys: &'a KeySet,
    /// Limits of a session.
    pub limits: SessionLimits,
    /// Topic of the table of agents, which verdicts record.
    pub agents_topic: &'a str,
    /// Topic of the table of tools, which verdicts record.
    pub tools_topic: &'a str,
    /// Topic of the table of bundles, which verdicts record.
    pub bundles_topic: &'a str,
    /// Cache of Cedar requests.
    pub requests: &'a RequestCache,
}

/// Result of stepping one event.
#[derive(Clone, Debug)]
pub struct Step<'k> {
    /// Judgement, if events of this type are judged.
    pub verdict: Option<Judgement<'k>>,
    /// Entries to write to the changelog, in order. Empty for a duplicate.
    pub changes: Vec<Change>,
    /// Errors of fact rules in tools.yaml. No verdict carries them, since a result has no verdict.
    pub findings: Vec<Finding>,
    /// The call of the event's result, if it was refused and this is its first result.
    pub refused: Option<RefusedCall>,
}

impl<'k> Kernel<'k> {
    /// Judges the event at `origin` by the state of its session before the event, and applies the event to the session. The caller must
    /// have replaced an expired session (see [`Session::is_expired`]).
    ///
    /// # Errors
    /// If an invariant of this crate is violated. The session is then unchanged.
    pub fn step(
        &self,
        session: &mut Session,
        event: &ActionEvent<'_>,
        origin: &Origin<'_>,
    ) -> Result<Step<'k>, InternalError> {
        let claims = claims_of_call(event, self.keys, origin.logged_at);
        let claimed = claims.as_ref().and_then(|claims| approval_of(claims, event, origin.partition));
        self.step_claiming(session, event, origin, claimed)
    }

    /// Does the same as [`Self::step`], for a caller that has verified the call's token: `claimed` is the approval that the token
    /// names (see [`approval_of`](crate::approval_of)).
    ///
    /// # Errors
    /// If an invariant of this crate is violated. The session is then unchanged.
    pub fn step_claiming(
        &self,
        session: &mut Session,
        event: &ActionEvent<'_>,
        origin: &Origin<'_>,
        claimed: Option<ClaimedApproval<'_>>,
    ) -> Result<Step<'k>, InternalError> {
        if event.is_approval() {
            let changes = self.fold_approval(session, event, origin);
            return Ok(Step { verdict: None, changes, findings: Vec::new(), refused: None });
        }
        let judged = event.is_judged();
        let check = session.check_sequence(event);
        let findings_of_record =
            || call_finding(event).into_iter().chain(check.findings.iter().copied()).collect();
        if let Some(highest) = check.highest_if_repeat {
            let verdict = judged
                .then(|| Judgement { findings: findings_of_record(), ..self.duplicate(session, highest) });
            return Ok(Step { verdict, changes: Vec::new(), findings: Vec::new(), refused: None });
        }
        let bundle = self.bundles.active(event.environment);
        let claim = ApprovalClaim::Recorded { logged_at: origin.logged_at, claimed };
        let verdict = match judged {
            true => {
                let judgement = self.judge(bundle, session, event, claim)?;
                Some(Judgement { findings: findings_of_record(), ..judgement })
            }
            false => None,
        };
        let tools = bundle.map(|bundle| bundle.tools());
        let mut applied = session.apply(event, &check, origin, tools, &self.limits);
        if let Some(claimed) = claimed {
            session.use_approval(claimed.id, origin.offset, &mut applied.changes);
        }
        Ok(Step { verdict, changes: applied.changes, findings: applied.findings, refused: applied.refused })
    }

    /// Judges an event before it is recorded, as [`Self::step`] will judge it, and changes nothing. Does not check its
    /// sequence number. If the judgement relies on an approval, the token of the call must name it.
    ///
    /// # Errors
    /// If an invariant of this crate is violated.
    pub fn decide(
        &self,
        session: &Session,
        event: &ActionEvent<'_>,
        claim: ApprovalClaim<'_>,
    ) -> Result<Judgement<'k>, InternalError> {
        let findings = call_finding(event).into_iter().collect();
        let bundle = self.bundles.active(event.environment);
        Ok(Judgement { findings, ..self.judge(bundle, session, event, claim)? })
    }

    /// Applies an event to its session as [`Self::step`] does, without judging it. Does nothing for a repeat.
    pub fn apply(&self, session: &mut Session, event: &ActionEvent<'_>, origin: &Origin<'_>) {
        if event.is_approval() {
            self.fold_approval(session, event, origin);
            return;
        }
        let check = session.check_sequence(event);
        if check.highest_if_repeat.is_none() {
            let tools = self.bundles.active(event.environment).map(|bundle| bundle.tools());
            // A token is verified only if it can change the session.
            let claims = session.has_approvals().then(|| claims_of_call(event, self.keys, origin.logged_at));
            let claims = claims.flatten();
            let claimed = claims.as_ref().and_then(|claims| approval_of(claims, event, origin.partition));
            let mut applied = session.apply(event, &check, origin, tools, &self.limits);
            if let Some(claimed) = claimed {
                session.use_approval(claimed.id, origin.offset, &mut applied.changes);
            }
        }
    }

    /// Returns the effect of calling a tool: that of the registry, or that of the bundle if the registry has none.
    pub fn effect(&self, bundle: &Bundle, tenant_id: &str, tool: &str) -> ToolEffect {
        let registered = self.tools.get(tenant_id, tool).and_then(|registered| registered.effect);
        registered.unwrap_or_else(|| bundle.tools().effect(tool))
    }

    pub(crate) fn registered_tool(&self, event: &ActionEvent<'_>) -> ToolInRegistry {
        let Some(tool) = &event.tool else { return ToolInRegistry::default() };
        ToolInRegistry {
            entry: self.tools.get(event.tenant_id, tool.name).copied(),
            is_server_suspended: self.tools.is_server_suspended(event.tenant_id, tool.name),
        }
    }

    fn duplicate(&self, session: &Session, last_sequence: i64) -> Judgement<'k> {
        Judgement {
            call_index: None,
            known: "{}".to_owned(),
            last_sequence: Some(last_sequence),
            ..self.judgement(session, Decision::Duplicate, Reason::Duplicate)
        }
    }

    fn judge(
        &self,
        bundle: Option<&Arc<Bundle>>,
        session: &Session,
        event: &ActionEvent<'_>,
        claim: ApprovalClaim<'_>,
    ) -> Result<Judgement<'k>, InternalError> {
        let agent = self.agents.get(event.tenant_id, event.agent.id);
        let tool = self.registered_tool(event);
        let blocked = if is_suspended(agent) { Some(Reason::Suspended) } else { tool.block(event) };
        let call_index = Some(session.call_index(event));
        let Some(bundle) = bundle else {
            let known = known_json(agent, &tool, &CallContext::default(), session, None)?;
            let (decision, reason) = match blocked {
                Some(reason) => (Decision::Deny, reason),
                None => (Decision::Indeterminate, Reason::NoBundle),
            };
            return Ok(Judgement { call_index, known, ..self.judgement(session, decision, reason) });
        };
        let mut known = bundle.tools().derive(session, event);
        if !is_datetime(event.occurred_at.0) {
            known.erred.insert(TIME.to_owned());
        }
        let effect = self.effect(bundle, event.tenant_id, event.tool.as_ref().map_or("", |tool| tool.name));
        let positions = (self.agents.next_offset(), self.tools.next_offset());
        let template = self.requests.template(event, bundle, (agent, effect), positions)?;
        let mut outcome = evaluate(bundle, session, event, (agent, effect, blocked), &known, &template)?;
        let approval = self.apply_approval(&mut outcome, session, event, claim);
        let mut errors = std::mem::take(&mut known.findings);
        errors.extend(outcome.errors);
        Ok(Judgement {
            call_index,
            determining: outcome.determining,
            violations: outcome.violations,
            bundle: Some(Arc::clone(bundle)),
            errors,
            known: known_json(agent, &tool, &known, session, approval.as_ref())?,
            approval,
            ..self.judgement(session, outcome.decision, outcome.reason)
        })
    }

    /// Turns `ask` into `allow` if an approval of this call counts. Returns the approval that concerns the call.
    fn apply_approval(
        &self,
        outcome: &mut Outcome,
        session: &Session,
        event: &ActionEvent<'_>,
        claim: ApprovalClaim<'_>,
    ) -> Option<JudgedApproval> {
        if outcome.decision != Decision::Ask {
            return JudgedApproval::not_asked(claim);
        }
        let approval = self.find_approval(session, event, claim)?;
        if approval.finding == ApprovalFinding::Granted {
            outcome.decision = Decision::Allow;
            outcome.reason = Reason::Approved;
            outcome.determining = std::mem::take(&mut outcome.granted);
        }
        Some(approval)
    }

    fn judgement(&self, session: &Session, decision: Decision, reason: Reason) -> Judgement<'k> {
        Judgement {
            decision,
            reason,
            call_index: None,
            determining: Vec::new(),
            violations: Vec::new(),
            bundle: None,
            errors: Vec::new(),
            tables: [
                (self.agents_topic, self.agents.next_offset()),
                (self.tools_topic, self.tools.next_offset()),
                (self.bundles_topic, self.bundles.next_offset()),
            ],
            known: String::new(),
            last_sequence: None,
            state_limit: session.limited(),
            findings: Vec::new(),
            approval: None,
        }
    }
}

/// Returns a finding for an event that carries a tool call but has another type.
fn call_finding(event: &ActionEvent<'_>) -> Option<RecordFinding> {
    if event.tool.is_none() || catalogue::is_judged(event.r#type) {
        return None;
    }
    let known = catalogue::is_known(event.r#type);
    Some(if known { RecordFinding::UnexpectedCall } else { RecordFinding::UnknownType })
}

/// What the registry has about the tool of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ToolInRegistry {
    pub(crate) entry: Option<RegisteredTool>,
    pub(crate) is_server_suspended: bool,
}

impl ToolInRegistry {
    /// Returns the reason for which the call is denied, whatever the policies decide. Only a call that states a definition is
    /// compared with the accepted one: other callers never see definitions.
    pub(crate) fn block(&self, event: &ActionEvent<'_>) -> Option<Reason> {
        if self.is_server_suspended {
            return Some(Reason::ServerSuspended);
        }
        if self.entry.is_some_and(|tool| tool.state == ToolState::Suspended) {
            return Some(Reason::ToolSuspended);
        }
        let stated = event.tool.as_ref()?.definition?;
        match self.entry.and_then(|tool| tool.definition) {
            None => Some(Reason::Unpinned),
            Some(accepted) if accepted != stated => Some(Reason::DefinitionChanged),
            Some(_) => None,
        }
    }
}

/// Outcome of the policies of a bundle.
struct Outcome {
    decision: Decision,
    reason: Reason,
    determining: Vec<Arc<Policy>>,
    /// Grants that apply.
    granted: Vec<Arc<Policy>>,
    violations: Vec<Arc<Policy>>,
    errors: Vec<Finding>,
}

fn evaluate(
    bundle: &Bundle,
    session: &Session,
    event: &ActionEvent<'_>,
    (agent, effect, blocked): (Option<&Agent>, ToolEffect, Option<Reason>),
    known: &CallContext,
    template: &RequestTemplate,
) -> Result<Outcome, InternalError> {
    // A call without a tool is judged like one of an unlisted tool, and never allowed.
    let tool = event.tool.as_ref().map_or("", |tool| tool.name);
    let candidates = bundle.index().candidates(CallAction::of(event), tool, effect)?;
    let has_grants = agent.is_some_and(|agent| agent.has_grants_in(event.environment));
    let authorize = |policies: &PolicySet, required: &RequiredAttributes| {
        if policies.is_empty() {
            return Ok(AuthorizationOutcome::default());
        }
        let outcome =
            AuthorizationRequest::new(event, template, session, known, required)?.authorize(policies);
        if outcome.errors.is_empty() {
            return Ok(outcome);
        }
        // Cedar's message about a missing attribute lists the available ones. With all attributes the message does not depend on the index.
        AuthorizationRequest::new(event, template, session, known, &RequiredAttributes::All)
            .map(|request| request.authorize(policies))
    };
    let rules = authorize(&candidates.rules, &candidates.required_by_rules)?;
    let grants = if has_grants {
        let authorize = || authorize(&candidates.grants, &candidates.required_by_grants);
        // Grants that do not read the context have one outcome for all requests of a template.
        if candidates.required_by_grants.is_empty() {
            template.grants(authorize)?
        } else {
            Cow::Owned(authorize()?)
        }
    } else {
        Cow::Owned(AuthorizationOutcome::default())
    };
    // A missing entry is an error: ignoring the rule would allow what it forbids.
    let policies = |ids: &[String]| {
        let policy = |id: &String| {
            bundle
                .policy(id)
                .map(Arc::clone)
                .ok_or_else(|| InternalError::new(format!("expected policy {id} in its bundle, found none")))
        };
        ids.iter().map(policy).collect::<Result<Vec<Arc<Policy>>, InternalError>>()
    };
    let violations = policies(&rules.satisfied)?;
    let granted = policies(&grants.satisfied)?;
    // A verdict is indeterminate if an enforced rule failed or reads an erred value, or if all grants read an erred value.
    let reads_erred_value = |grant: &Arc<Policy>| candidates.grant_reads(&grant.id, &known.erred);
    let undecided = event.tool.is_none()
        || rules.errors.iter().any(|(id, _)| bundle.policy(id).is_none_or(|p| is_indeterminate_on_error(p)))
        || (!known.erred.is_empty()
            && (candidates.decisive.intersects(&known.erred) || granted.iter().all(reads_erred_value)));
    let mut errors: Vec<Finding> = rules
        .errors
        .iter()
        .chain(&grants.errors)
        .map(|(id, message)| Finding::new(ErrorCode::PolicyError, id, message.clone()))
        .collect();
    // Erred derived values have findings already.
    let required = [&candidates.required_by_rules, &candidates.required_by_grants];
    if known.erred.contains(TIME) && required.iter().any(|required| required.contains(TIME)) {
        let message = "expected an `occurred_at` in the years 1 to 9999, found another year";
        errors.push(Finding::new(ErrorCode::DerivedError, TIME, message));
    }
    let enforced: Vec<Arc<Policy>> = violations.iter().filter(|p| is_enforced(p)).map(Arc::clone).collect();
    let (decision, reason) = if let Some(reason) = blocked {
        (Decision::Deny, reason)
    } else if enforced.iter().any(|policy| denies(policy)) {
        (Decision::Deny, Reason::Policy)
    } else if granted.is_empty() {
        (Decision::Deny, Reason::NoGrant)
    } else if undecided {
        (Decision::Indeterminate, Reason::Error)
    } else if !enforced.is_empty() {
        (Decision::Ask, Reason::Policy)
    } else {
        (Decision::Allow, Reason::Granted)
    };
    // As in Cedar: the applying rules determine the decision, or the grants if no rule applies.
    let determining = if enforced.is_empty() { granted.clone() } else { enforced };
    Ok(Outcome { decision, reason, determining, granted, violations, errors })
}

/// Returns whether the agent is suspended. Then every call is denied, whatever the policies decide.
fn is_suspended(agent: Option<&Agent>) -> bool {
    agent.is_some_and(|agent| agent.state == AgentState::Suspended)
}

fn is_enforced(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Rule { mode: Mode::Enforce, .. })
}

fn is_indeterminate_on_error(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Rule { mode: Mode::Enforce, on_error: OnError::Indeterminate, .. })
}

fn denies(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Rule { mode: Mode::Enforce, effect: RuleEffect::Deny, .. })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use agentgov_schemas::event::{self, Payload, Source, ToolCall};
    use agentgov_schemas::topology::HumanDuration;
    use agentgov_schemas::{Digest, Micros, Millis, SessionKey};

    use super::*;
    use crate::files::BundleFiles;
    use crate::generated_schema;

    fn bundle() -> Bundle {
        let mut files = BTreeMap::from([
            ("bundle.yaml".to_owned(), b"name: b\nversion: '1'\nenvironments: [demo]\n".to_vec()),
            ("tools.yaml".to_owned(), b"default: { effect: read }\n".to_vec()),
            (
                "rules.cedar".to_owned(),
                b"@id(\"r\") @severity(\"high\") forbid (principal, action, resource);".to_vec(),
            ),
        ]);
        let schema = generated_schema(&BundleFiles(files.clone())).unwrap();
        files.insert("schema.cedarschema".to_owned(), schema.into());
        Bundle::compile(&BundleFiles(files)).unwrap()
    }

    /// Dropping a violation would allow the call.
    #[test]
    fn applying_rule_missing_from_its_bundle_is_an_error_that_changes_nothing() {
        let data = b"{}";
        let arguments = Payload { data, sha256: Digest::of(data), media_type: "", redacted: false };
        let event = ActionEvent {
            environment: "demo",
            occurred_at: Micros(0),
            tool: Some(ToolCall::new("look", "c", arguments)),
            ..ActionEvent::new(
                "e",
                catalogue::TOOL_INVOKED,
                SessionKey { tenant_id: "t", session_id: "s" },
                Source { id: "p", sequence: 0 },
                event::Agent { id: "a", name: None, version: None },
            )
        };
        let origin = Origin { topic: "actions", partition: 0, offset: 0, logged_at: Millis(0) };
        for lost in [false, true] {
            let mut bundle = bundle();
            if lost {
                bundle.lose_policy("r");
            }
            let (agents, bundles) = (AgentTable::default(), BundleTable::with_bundle(Arc::new(bundle)));
            let kernel = Kernel {
                agents: &agents,
                tools: &ToolTable::default(),
                bundles: &bundles,
                keys: &KeySet::new(),
                limits: SessionLimits { ttl: HumanDuration(Duration::MAX), max_facts: 9, max_bytes: 999 },
                agents_topic: "agents",
                tools_topic: "tools",
                bundles_topic: "bundles",
                requests: &RequestCache::default(),
            };
            let mut session = Session::new();
            let before = session.header().events;
            let step = kernel.step(&mut session, &event, &origin);
            if lost {
                assert!(step.unwrap_err().to_string().starts_with("internal error: expected policy r"));
                assert_eq!(session.header().events, before);
            } else {
                assert_eq!(step.unwrap().verdict.unwrap().decision, Decision::Deny);
            }
        }
    }
}
