//! Decides with the policies, facts and counters with which the evaluator will judge the call. Records each decision
//! before it is returned.
//!
//! ```text
//!   question ─► [question] names a call ─► Follower: its session, as it is known ─► Kernel::decide
//!            ─► token signed ─► DecisionLog: written to the spool ─► answer
//! ```

mod approvals;
mod question;
mod recording;
mod search;
mod signing;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentgov_enrichment::{Finding, MAX_APPROVALS, Session};
use agentgov_follower::{Follower, Unavailable};
use agentgov_policy::authzen::{EvaluationError, Properties};
use agentgov_policy::{ApprovalClaim, Bundle, JudgedApproval, Kernel, Policy};
use agentgov_schemas::event::{self, Actor, Agent, Evaluation, Trace};
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::verdict::{ApprovalFinding, Decision, Reason, TablePosition};
use agentgov_schemas::{Digest, Micros, Millis, NotReadyReason, SessionKey};
use agentgov_service::Health;
use agentgov_service::failpoint;
use agentgov_service::metrics::record_waiting_decisions;
use agentgov_token::{Claims, KnownThrough, SigningKey};
use serde_json::json;
use uuid::Uuid;

use crate::answer::{Answer, BundleId};
use crate::callers::Caller;
use crate::hooks;
use crate::point::{DecisionPoint, Found, Question, Refusal, Search};
pub use approvals::AskedApproval;
use approvals::{AccessRequest, ApprovalsAhead, Asking, CallKey};
use question::CallQuestion;
pub use recording::NotRecorded;
use recording::RecordingFaults;
use signing::KeyAge;

/// Maximum time that the decisions of a request wait for the sequence numbers in its `after`, all together.
const AFTER_TIMEOUT: Duration = Duration::from_millis(250);
/// Reason of a decision without the state of the session.
const UNAVAILABLE: &str = "unavailable";
/// Reason of a denial because the decision could not be recorded.
const NOT_RECORDED: &str = "not_recorded";
/// Reason of a denial because the signing key may not sign: an allow without a token could not be verified.
const NOT_SIGNED: &str = "not_signed";
/// Shortest rest of an approval's validity with which a decision relies on it, in milliseconds.
const MIN_REST_MILLIS: i64 = 2_000;

/// Recorder of decisions. The executable implements it with the SDK's recorder.
pub trait DecisionLog: Send + Sync + 'static {
    /// Writes a decision to the spool. Once this returns, the decision may be sent to the caller.
    ///
    /// # Errors
    /// The reason why it was not written; the call is then denied.
    fn record(&self, decision: &RecordedDecision<'_>) -> Result<(), NotRecorded>;

    /// Writes the request for an approval to the spool. Once this returns, its id may be sent to the caller.
    ///
    /// # Errors
    /// The reason why it was not written; the response then names no request.
    fn record_asked(&self, asked: &AskedApproval<'_>) -> Result<(), String>;

    /// Returns the bytes of events that Kafka has not acknowledged.
    fn waiting_bytes(&self) -> u64 {
        0
    }
}

/// Content of a `decision.made` event.
#[derive(Clone, Debug)]
pub struct RecordedDecision<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The environment.
    pub environment: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// The agent that makes the call.
    pub agent: Agent<'a>,
    /// Person or service for which the agent acts.
    pub actor: Option<Actor<'a>>,
    /// Trace of the request.
    pub trace: Option<Trace<'a>>,
    /// Time at which the call was decided.
    pub occurred_at: Micros,
    /// The decision.
    pub decision: event::Decision<'a>,
}

/// Settings of a [`LogPoint`].
#[derive(Debug)]
pub struct LogPointConfig {
    /// Name of the decision point: `decision.by` of its events, and issuer of its tokens.
    pub name: String,
    /// Key that signs the tokens. Without it responses carry no token.
    pub signing_key: Option<SigningKey>,
    /// Validity of a token.
    pub token_lifetime: Duration,
    /// Validity of an approval, from the request for it on.
    pub approval_lifetime: Duration,
    /// Tenants of the callers. It is not ready if its key may not sign for one of them.
    pub tenants: BTreeSet<String>,
}

/// Token of a decision.
enum Token {
    /// Signed, with the millisecond at which it expires.
    Signed(String, Millis),
    /// There is no signing key.
    NotConfigured,
    /// The signing key may not sign.
    Refused,
}

/// Decision point on the state of the log.
#[derive(Debug)]
pub struct LogPoint<L> {
    follower: Arc<Follower>,
    log: L,
    config: LogPointConfig,
    /// Time at which the signing key was first found published.
    key_known_since: OnceLock<Instant>,
    approvals: ApprovalsAhead,
    faults: RecordingFaults,
}

/// Outcome of the policies, without references to the state.
struct Outcome {
    decision: Decision,
    reason: &'static str,
    determining: Vec<Arc<Policy>>,
    /// Every rule that applied.
    violations: Vec<Arc<Policy>>,
    bundle: Option<Arc<Bundle>>,
    errors: Vec<Finding>,
    tables: Vec<(String, i64)>,
    /// Position of the table of agents; absent if the session is not known.
    agents: Option<i64>,
    /// Position of the table of tools; absent if the session is not known.
    tools_position: Option<i64>,
    known: Option<String>,
    through: Option<event::Through>,
    /// Name and text of the reason why the session is not known.
    unavailable: Option<(&'static str, String)>,
    /// Approval that concerns the call.
    approval: Option<JudgedApproval>,
    /// Reason why no approval can follow from a request.
    no_request: Option<String>,
    /// Number of approvals that the session takes beside those that the log shows.
    room_for_approvals: usize,
    /// Request for an approval of the call.
    access_request: Option<AccessRequest>,
    /// Reason why no approval can be requested.
    access_error: Option<String>,
}

impl<L: DecisionLog> LogPoint<L> {
    /// Decides on the state of `follower`, and records to `log`.
    pub fn new(follower: Arc<Follower>, log: L, config: LogPointConfig) -> Self {
        Self {
            follower,
            log,
            config,
            key_known_since: OnceLock::new(),
            approvals: ApprovalsAhead::default(),
            faults: RecordingFaults::default(),
        }
    }

    /// Decides a call. Waits for its `after` at most for `wait`. Approvals count only with a signing key: the evaluator
    /// believes a call that the token of its decision names them for.
    async fn decide(&self, call: &CallQuestion<'_>, wait: Duration) -> Result<Outcome, Refusal> {
        let key = SessionKey { tenant_id: call.tenant_id, session_id: call.session_id };
        let event = call.event();
        let now = millis(now());
        let excluded = self.approvals.relied_on(now);
        // An approval that is about to expire leaves no time for the call.
        let used_at = Millis(now.0.saturating_add(MIN_REST_MILLIS));
        let claim = match self.config.signing_key {
            Some(_) => ApprovalClaim::Before { now: used_at, excluded: &excluded },
            None => ApprovalClaim::Ignored,
        };
        let call_key = CallKey::of(call);
        let decided = self.follower.read(key, call.after, wait, |view| {
            let claim = fresh_claim(claim, view.stale_keys);
            let judgement = view.kernel.decide(view.session, &event, claim)?;
            if judgement.decision == Decision::Ask {
                self.approvals.settle(&call_key, |id| view.session.approval(id).is_some());
            }
            Ok::<_, agentgov_policy::InternalError>(Outcome {
                decision: judgement.decision,
                reason: judgement.reason.as_str(),
                determining: judgement.determining,
                violations: judgement.violations,
                bundle: judgement.bundle,
                errors: judgement.errors,
                tables: judgement.tables.iter().map(|(topic, next)| ((*topic).to_owned(), *next)).collect(),
                agents: Some(view.kernel.agents.next_offset()),
                tools_position: Some(view.kernel.tools.next_offset()),
                known: Some(judgement.known),
                through: Some(view.through),
                unavailable: None,
                approval: judgement.approval,
                no_request: view.stale_keys.map(no_request_by_keys),
                room_for_approvals: view.session.room_for_approvals(now),
                access_request: None,
                access_error: None,
            })
        });
        match decided.await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(Refusal::Internal(error.to_string())),
            Err(reason) => self.decide_unavailable(call, &reason),
        }
    }

    /// Decides without the state of the session: `unavailable` of the bundle must allow the effect of the tool, and the
    /// policies must allow the call in a session without events. So a forbid, a missing grant, a suspended agent and a tool
    /// that tools.yaml does not list deny as always. A caller, or a record, can bring about that a session is in two
    /// partitions or that a number does not arrive, so these deny whatever the bundle says.
    fn decide_unavailable(&self, call: &CallQuestion<'_>, reason: &Unavailable) -> Result<Outcome, Refusal> {
        let tables = self.follower.tables();
        let bundle = tables.bundle(call.environment).filter(|_| tables.are_loaded());
        let may_allow = match reason {
            Unavailable::Internal(message) => return Err(Refusal::Internal(message.clone())),
            Unavailable::NotArrived { .. }
            | Unavailable::TwoPartitions { .. }
            | Unavailable::OtherPartitions { .. } => false,
            Unavailable::Loading(_) | Unavailable::Stale { .. } | Unavailable::Behind { .. } => true,
        };
        let is_listed = |bundle: &Arc<Bundle>| bundle.tools().names().any(|name| name == call.tool);
        let allows = |kernel: &Kernel<'_>| {
            let allows_effect = |bundle: &Arc<Bundle>| {
                bundle.allows_unavailable(kernel.effect(bundle, call.tenant_id, call.tool))
            };
            if !bundle.as_ref().is_some_and(allows_effect) {
                return false;
            }
            let judgement = kernel.decide(&Session::new(), &call.event(), ApprovalClaim::Ignored);
            judgement.is_ok_and(|judgement| judgement.decision == Decision::Allow)
        };
        let is_allowed = may_allow
            && bundle.as_ref().is_some_and(is_listed)
            && tables.with_kernel(allows).map_err(|error| Refusal::Internal(error.to_string()))?;
        Ok(Outcome {
            decision: if is_allowed { Decision::Allow } else { Decision::Deny },
            reason: UNAVAILABLE,
            determining: Vec::new(),
            violations: Vec::new(),
            bundle,
            errors: Vec::new(),
            tables: Vec::new(),
            agents: None,
            tools_position: None,
            known: None,
            through: None,
            unavailable: Some((reason.name(), reason.to_string())),
            approval: None,
            no_request: None,
            room_for_approvals: 0,
            access_request: None,
            access_error: None,
        })
    }

    /// Decides a call. If it relies on an approval, no other decision of this process does until its token expires.
    async fn decide_alone(
        &self,
        call: &CallQuestion<'_>,
        question: &Question<'_>,
    ) -> Result<Outcome, Refusal> {
        loop {
            let outcome = self.decide(call, question.remaining(AFTER_TIMEOUT)).await?;
            let Some(approval) = outcome.relied_on() else { return Ok(outcome) };
            let now = millis(now());
            let lifetime = i64::try_from(self.config.token_lifetime.as_millis()).unwrap_or(i64::MAX);
            // One second more: the evaluator and this process have different clocks.
            let until = Millis(now.0.saturating_add(lifetime).saturating_add(1_000));
            if self.approvals.rely_on(&approval.id, until, now) {
                return Ok(outcome);
            }
        }
    }

    /// Sets the request for an approval of a call about which the policies ask, and records it if it is new.
    fn request_access(&self, call: &CallQuestion<'_>, outcome: &mut Outcome, id: &str, now: Micros) {
        if outcome.decision != Decision::Ask || self.config.signing_key.is_none() {
            return;
        }
        outcome.access_request = match outcome.approval.as_ref().and_then(request_of) {
            Some(request) => Some(request),
            None => match self.ask(call, outcome, id, now) {
                Ok(request) => Some(request),
                Err(reason) => {
                    tracing::warn!(decision = id, reason, "no approval can be requested");
                    outcome.access_error = Some(reason);
                    None
                }
            },
        };
    }

    /// Asks for an approval, unless this process has asked already.
    fn ask(
        &self,
        call: &CallQuestion<'_>,
        outcome: &Outcome,
        id: &str,
        now: Micros,
    ) -> Result<AccessRequest, String> {
        if let Some(reason) = &outcome.no_request {
            return Err(reason.clone());
        }
        let call_key = CallKey::of(call);
        let asked_at = millis(now);
        let lifetime = i64::try_from(self.config.approval_lifetime.as_millis()).unwrap_or(i64::MAX);
        let expires_at = Millis(asked_at.0.saturating_add(lifetime));
        match self.approvals.ask(call_key.clone(), id, expires_at, outcome.room_for_approvals, asked_at) {
            Asking::New => {}
            Asking::Pending(id, expires_at) => return Ok(AccessRequest { id, expires_at, refused_by: None }),
            Asking::NoRoom => {
                return Err(format!(
                    "expected fewer than {MAX_APPROVALS} approvals in the session, found as many; wait until some expire"
                ));
            }
            Asking::Full => return Err("too many requests wait for the log; ask again".to_owned()),
        }
        let policies = outcome.determining.iter();
        let titles = policies.map(|policy| policy.title.as_deref().unwrap_or(&policy.id));
        let comment = titles.collect::<Vec<_>>().join("; ");
        let asked = AskedApproval {
            tenant_id: call.tenant_id,
            environment: call.environment,
            session_id: call.session_id,
            agent: Agent::new(call.agent_id),
            actor: call.actor,
            trace: call.trace,
            occurred_at: now,
            approval: event::Approval {
                comment: Some(&comment),
                tool: Some(call.tool),
                call_id: call.call_id,
                arguments: Some(call.payload()),
                expires_at: Some(expires_at),
                ..event::Approval::new(id)
            },
        };
        if let Err(reason) = self.log.record_asked(&asked) {
            self.approvals.forget(&call_key, id);
            return Err(reason);
        }
        Ok(AccessRequest { id: id.to_owned(), expires_at, refused_by: None })
    }

    /// Returns the reason why the key must not sign a decision about this tenant, if there is one.
    fn check_key(&self, key: &SigningKey, tenant_id: Option<&str>, now: Micros) -> Result<(), String> {
        let checked = self.follower.tables().with_keys(|keys| {
            let known_since = match keys.get(key.kid()) {
                Some(_) => *self.key_known_since.get_or_init(Instant::now),
                None => Instant::now(),
            };
            let age = KeyAge::new(millis(now), known_since);
            signing::check_key(keys, key, tenant_id, age)
        });
        checked.map_err(|reason| reason.to_string())?
    }

    /// Signs the claims of a decision.
    fn sign(
        &self,
        call: &CallQuestion<'_>,
        outcome: &Outcome,
        id: &str,
        now: Micros,
    ) -> Result<Token, Refusal> {
        let Some(key) = &self.config.signing_key else { return Ok(Token::NotConfigured) };
        if let Err(reason) = self.check_key(key, Some(call.tenant_id), now) {
            tracing::debug!(decision = id, reason, "a decision is not signed");
            return Ok(Token::Refused);
        }
        let issued_at = now.0.div_euclid(1_000_000);
        let lifetime = i64::try_from(self.config.token_lifetime.as_secs()).unwrap_or(i64::MAX);
        let approval = outcome.relied_on();
        // A call with a valid token is then logged before the approval expires.
        let approval_ends =
            approval.and_then(|approval| approval.expires_at).map_or(i64::MAX, |end| end.0.div_euclid(1_000));
        let expires_at = issued_at.saturating_add(lifetime).min(approval_ends);
        let through = outcome.through.map_or((self.follower.partition_of(call.key()), -1), |through| {
            (through.partition, through.next_offset.saturating_sub(1))
        });
        let claims = Claims {
            decision_id: id.to_owned(),
            issuer: self.config.name.clone(),
            issued_at,
            expires_at,
            tenant_id: call.tenant_id.to_owned(),
            environment: call.environment.to_owned(),
            session_id: call.session_id.to_owned(),
            agent_id: call.agent_id.to_owned(),
            tool: call.tool.to_owned(),
            call_id: call.call_id.map(str::to_owned),
            arguments: call.arguments_sha256,
            definition: call.definition,
            outcome: outcome.decision,
            bundle: outcome.bundle.as_ref().map(|bundle| bundle.digest()),
            through: KnownThrough::from(through),
            agents: outcome.agents,
            tools: outcome.tools_position,
            unavailable: outcome.unavailable.as_ref().map(|(code, _)| (*code).to_owned()),
            approval_id: approval.map(|approval| approval.id.clone()),
        };
        let token = key.sign(&claims).map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(Token::Signed(token, Millis(expires_at.saturating_mul(1000))))
    }

    fn record(
        &self,
        caller: Option<&Caller>,
        call: &CallQuestion<'_>,
        outcome: &Outcome,
        id: &str,
        expires_at: Option<Millis>,
    ) -> Result<(), NotRecorded> {
        let evaluation = Evaluation {
            id,
            caller: caller.map(|caller| caller.name.as_str()),
            tool: call.tool,
            call_id: call.call_id,
            arguments: call.payload(),
            determining_policies: outcome.determining.iter().map(|policy| policy.id.as_str()).collect(),
            violations: outcome.violations.iter().filter_map(|policy| policy.violation()).collect(),
            bundle: outcome.bundle.as_ref().map(|bundle| bundle.reference()),
            tables: outcome
                .tables
                .iter()
                .map(|(topic, next_offset)| TablePosition { topic, next_offset: *next_offset })
                .collect(),
            known_digest: outcome.known.as_ref().map(|known| Digest::of(known.as_bytes())),
            known: outcome.known.as_deref(),
            errors: outcome.errors.iter().map(Finding::as_error).collect(),
            through: outcome.through,
            unavailable: outcome.unavailable.as_ref().map(|(name, _)| *name),
            key_id: expires_at.and(self.config.signing_key.as_ref()).map(SigningKey::kid),
            expires_at,
            definition: call.definition,
            approval: outcome.relied_on().map(|approval| approval.id.as_str()),
        };
        let decision = RecordedDecision {
            tenant_id: call.tenant_id,
            environment: call.environment,
            session_id: call.session_id,
            agent: Agent::new(call.agent_id),
            actor: call.actor,
            trace: call.trace,
            occurred_at: call.time,
            decision: event::Decision {
                by: &self.config.name,
                decision: outcome.decision.as_str(),
                reason: Some(outcome.reason),
                evaluation: Some(Box::new(evaluation)),
            },
        };
        hooks::record(&self.log, &decision)
    }
}

impl Outcome {
    /// Returns the approval that an allow relies on.
    fn relied_on(&self) -> Option<&JudgedApproval> {
        let is_approved = self.decision == Decision::Allow && self.reason == Reason::Approved.as_str();
        self.approval.as_ref().filter(|approval| is_approved && approval.finding == ApprovalFinding::Granted)
    }

    fn deny_instead_of_allow(&mut self, reason: &'static str) {
        if self.decision == Decision::Allow {
            self.decision = Decision::Deny;
            self.reason = reason;
            self.determining.clear();
        }
    }

    fn answer(self, id: Uuid, recorded: bool, token: Option<String>) -> Answer {
        let mut more = Properties::new();
        if let Some(through) = self.through {
            more.insert(
                "known_through".to_owned(),
                json!({ "partition": through.partition, "offset": through.next_offset.saturating_sub(1) }),
            );
        }
        if let Some((name, message)) = &self.unavailable {
            more.insert("unavailable".to_owned(), json!({ "code": name, "message": message }));
        }
        if let Some(token) = token {
            more.insert("token".to_owned(), json!(token));
        }
        if let Some(approval) = self.relied_on() {
            more.insert("approval".to_owned(), json!({ "id": approval.id, "approver": approval.approver }));
        }
        if let Some(request) = &self.access_request {
            more.insert("access_request".to_owned(), request.to_json());
        }
        let errors = self.errors.into_iter().map(|e| EvaluationError { at: e.subject, message: e.message });
        let access_error =
            self.access_error.map(|message| EvaluationError { at: "access_request".to_owned(), message });
        Answer {
            decision: self.decision,
            reason: self.reason,
            observed: self.violations.into_iter().filter(|policy| policy.is_observed()).collect(),
            policies: self.determining,
            errors: errors.chain(access_error).collect(),
            evaluation_id: id,
            bundle: self.bundle.as_ref().map(|bundle| BundleId {
                name: bundle.name().into(),
                version: bundle.version().into(),
                digest: bundle.digest(),
            }),
            recorded,
            more,
        }
    }
}

impl<L: DecisionLog> DecisionPoint for LogPoint<L> {
    async fn evaluate(&self, caller: Option<&Caller>, question: Question<'_>) -> Result<Answer, Refusal> {
        let now = now();
        let call = CallQuestion::read(caller, &question, now)?;
        let mut outcome = self.decide_alone(&call, &question).await?;
        let relied_on = outcome.relied_on().map(|approval| approval.id.clone());
        let id = Uuid::now_v7();
        let mut buffer = Uuid::encode_buffer();
        let id_text: &str = id.hyphenated().encode_lower(&mut buffer);
        let release = || relied_on.iter().for_each(|id| self.approvals.release(id));
        let signed = self.sign(&call, &outcome, id_text, now).inspect_err(|_| release())?;
        let (token, expires_at) = match signed {
            Token::Signed(token, expires_at) => (Some(token), Some(expires_at)),
            Token::NotConfigured => (None, None),
            Token::Refused => {
                outcome.deny_instead_of_allow(NOT_SIGNED);
                release();
                (None, None)
            }
        };
        self.request_access(&call, &mut outcome, id_text, now);
        failpoint::edge("pdp::decided");
        let recorded = self.record(caller, &call, &outcome, id_text, expires_at);
        failpoint::edge("pdp::recorded");
        match recorded {
            Ok(()) => {
                self.faults.recorded();
                Ok(outcome.answer(id, true, token))
            }
            Err(fault) => {
                if let Some(decisions) = self.faults.failed(&fault, Instant::now()) {
                    let (decision, reason) = (id_text, fault.reason());
                    tracing::error!(
                        decision,
                        reason,
                        decisions,
                        "decisions could not be recorded: the calls are denied"
                    );
                }
                release();
                outcome.decision = Decision::Deny;
                outcome.reason = NOT_RECORDED;
                outcome.determining.clear();
                outcome.access_request = None;
                Ok(outcome.answer(id, false, None))
            }
        }
    }

    async fn search(&self, caller: Option<&Caller>, search: Search<'_>) -> Result<Found, Refusal> {
        self.search_calls(caller, &search).await
    }

    fn jwks(&self) -> Result<Option<serde_json::Value>, String> {
        let keys = self.follower.tables().with_keys(|keys| keys.jwks(KeyKind::Pdp));
        keys.map(Some).map_err(|reason| reason.to_string())
    }

    fn report(&self, health: &Health) {
        record_waiting_decisions(self.log.waiting_bytes());
        match self.faults.current(Instant::now()) {
            None => health.clear(NotReadyReason::Spool),
            Some(reason) => health.set_not_ready(NotReadyReason::Spool, reason),
        }
        let Some(key) = &self.config.signing_key else { return };
        let tenants = self.config.tenants.iter().map(|tenant| Some(tenant.as_str()));
        // Without callers, the tenants are not known before their requests.
        let mut tenants = tenants.chain(std::iter::once(None));
        match tenants.try_for_each(|tenant| self.check_key(key, tenant, now())) {
            Ok(()) => health.clear(NotReadyReason::SigningKey),
            Err(reason) => health.set_not_ready(NotReadyReason::SigningKey, reason),
        }
    }
}

/// Returns the claim with which a call is decided: no approval counts by keys that may be too old, since its key may be revoked.
fn fresh_claim<'a>(claim: ApprovalClaim<'a>, stale_keys: Option<&Unavailable>) -> ApprovalClaim<'a> {
    if stale_keys.is_some() { ApprovalClaim::Ignored } else { claim }
}

/// Returns the reason why no approval can follow from a request while the keys may be too old.
fn no_request_by_keys(reason: &Unavailable) -> String {
    format!("no approval counts while the keys are not known: {reason}; ask again")
}

/// Returns the request of an approval that a person can still decide, or has refused.
fn request_of(approval: &JudgedApproval) -> Option<AccessRequest> {
    let expires_at = approval.expires_at?;
    let refused_by = || approval.approver.clone().unwrap_or_else(|| "a person".to_owned());
    let is_refused = approval.finding == ApprovalFinding::Refused;
    (approval.is_open || is_refused).then(|| AccessRequest {
        id: approval.id.clone(),
        expires_at,
        refused_by: is_refused.then(refused_by),
    })
}

const fn millis(time: Micros) -> Millis {
    Millis(time.0.div_euclid(1_000))
}

/// Returns the wall clock. A clock before 1970 counts as 1970.
fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_approval_counts_by_keys_that_may_be_too_old() {
        let claim = ApprovalClaim::Before { now: Millis(0), excluded: &[] };
        assert!(matches!(fresh_claim(claim, None), ApprovalClaim::Before { .. }));
        let stale = Unavailable::Loading("governance.keys");
        assert!(matches!(fresh_claim(claim, Some(&stale)), ApprovalClaim::Ignored));
        assert!(no_request_by_keys(&stale).contains("governance.keys"));
    }
}
