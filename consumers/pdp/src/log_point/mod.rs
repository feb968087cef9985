//! Decides with the policies, facts and counters with which the evaluator will judge the call. Records each decision
//! before it is returned.
//!
//! ```text
//!   question ─► [question] names a call ─► Follower: its session, as it is known ─► Kernel::decide
//!            ─► token signed ─► DecisionLog: written to the spool ─► answer
//! ```

mod question;
mod search;
mod signing;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentgov_enrichment::{Finding, Session};
use agentgov_follower::{Follower, Unavailable};
use agentgov_policy::authzen::{EvaluationError, Properties};
use agentgov_policy::{Bundle, Kernel, Policy};
use agentgov_schemas::event::{self, Actor, Agent, Evaluation, Trace};
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::verdict::{Decision, TablePosition};
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
use question::CallQuestion;
use signing::KeyAge;

/// Maximum time that the decisions of a request wait for the sequence numbers in its `after`, all together.
const AFTER_TIMEOUT: Duration = Duration::from_millis(250);
/// Reason of a decision without the state of the session.
const UNAVAILABLE: &str = "unavailable";
/// Reason of a denial because the decision could not be recorded.
const NOT_RECORDED: &str = "not_recorded";
/// Reason of a denial because the signing key may not sign: an allow without a token could not be verified.
const NOT_SIGNED: &str = "not_signed";

/// Recorder of decisions. The executable implements it with the SDK's recorder.
pub trait DecisionLog: Send + Sync + 'static {
    /// Writes a decision to the spool. Once this returns, the decision may be sent to the caller.
    ///
    /// # Errors
    /// The reason why it was not written; the call is then denied.
    fn record(&self, decision: &RecordedDecision<'_>) -> Result<(), String>;

    /// Returns the bytes of decisions that Kafka has not acknowledged.
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
    known: Option<String>,
    through: Option<event::Through>,
    /// Name and text of the reason why the session is not known.
    unavailable: Option<(&'static str, String)>,
}

impl<L: DecisionLog> LogPoint<L> {
    /// Decides on the state of `follower`, and records to `log`.
    pub const fn new(follower: Arc<Follower>, log: L, config: LogPointConfig) -> Self {
        Self { follower, log, config, key_known_since: OnceLock::new() }
    }

    /// Decides a call. Waits for its `after` at most for `wait`.
    async fn decide(&self, call: &CallQuestion<'_>, wait: Duration) -> Result<Outcome, Refusal> {
        let key = SessionKey { tenant_id: call.tenant_id, session_id: call.session_id };
        let event = call.event();
        let decided = self.follower.read(key, call.after, wait, |view| {
            let judgement = view.kernel.decide(view.session, &event)?;
            Ok::<_, agentgov_policy::InternalError>(Outcome {
                decision: judgement.decision,
                reason: judgement.reason.as_str(),
                determining: judgement.determining,
                violations: judgement.violations,
                bundle: judgement.bundle,
                errors: judgement.errors,
                tables: judgement.tables.iter().map(|(topic, next)| ((*topic).to_owned(), *next)).collect(),
                agents: Some(view.kernel.agents.next_offset()),
                known: Some(judgement.known),
                through: Some(view.through),
                unavailable: None,
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
        let allows_effect = |bundle: &Arc<Bundle>| {
            let tools = bundle.tools();
            tools.names().any(|name| name == call.tool) && bundle.allows_unavailable(tools.effect(call.tool))
        };
        let allows = |kernel: &Kernel<'_>| {
            let judgement = kernel.decide(&Session::new(), &call.event());
            judgement.is_ok_and(|judgement| judgement.decision == Decision::Allow)
        };
        let is_allowed = may_allow
            && bundle.as_ref().is_some_and(allows_effect)
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
            known: None,
            through: None,
            unavailable: Some((reason.name(), reason.to_string())),
        })
    }

    /// Returns the reason why the key must not sign a decision about this tenant, if there is one.
    fn check_key(&self, key: &SigningKey, tenant_id: Option<&str>, now: Micros) -> Result<(), String> {
        let checked = self.follower.tables().with_keys(|keys| {
            let known_since = match keys.get(key.kid()) {
                Some(_) => *self.key_known_since.get_or_init(Instant::now),
                None => Instant::now(),
            };
            let age = KeyAge::new(Millis(now.0.div_euclid(1_000)), known_since);
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
        let expires_at = issued_at.saturating_add(lifetime);
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
            unavailable: outcome.unavailable.as_ref().map(|(code, _)| (*code).to_owned()),
            approval_id: None,
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
    ) -> Result<(), String> {
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
        let errors = self.errors.into_iter();
        Answer {
            decision: self.decision,
            reason: self.reason,
            observed: self.violations.into_iter().filter(|policy| policy.is_observed()).collect(),
            policies: self.determining,
            errors: errors.map(|e| EvaluationError { at: e.subject, message: e.message }).collect(),
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
        let mut outcome = self.decide(&call, question.remaining(AFTER_TIMEOUT)).await?;
        let id = Uuid::now_v7();
        let mut buffer = Uuid::encode_buffer();
        let id_text: &str = id.hyphenated().encode_lower(&mut buffer);
        let (token, expires_at) = match self.sign(&call, &outcome, id_text, now)? {
            Token::Signed(token, expires_at) => (Some(token), Some(expires_at)),
            Token::NotConfigured => (None, None),
            Token::Refused => {
                outcome.deny_instead_of_allow(NOT_SIGNED);
                (None, None)
            }
        };
        failpoint::edge("pdp::decided");
        let recorded = self.record(caller, &call, &outcome, id_text, expires_at);
        failpoint::edge("pdp::recorded");
        match recorded {
            Ok(()) => Ok(outcome.answer(id, true, token)),
            Err(reason) => {
                tracing::error!(
                    decision = id_text,
                    reason,
                    "a decision could not be recorded: the call is denied"
                );
                outcome.decision = Decision::Deny;
                outcome.reason = NOT_RECORDED;
                outcome.determining.clear();
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

/// Returns the wall clock. A clock before 1970 counts as 1970.
fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
