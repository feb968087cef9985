//! `agentgov approvals …`: lists requests for approvals, and signs decisions about them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentgov_connect::Endpoints;
use agentgov_log_reader::LogReader;
use agentgov_log_reader::approvals::{ApprovalDecision, ApprovalFilter, ApprovedCall, AskedApproval};
use agentgov_registry::{RegisteredAgent, RegistryContext, list_agents, published_keys};
use agentgov_schemas::escape::{EscapedBytes, shell_word};
use agentgov_schemas::event::{Agent, Approval};
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::verdict::Decision;
use agentgov_schemas::{Digest, Millis, catalogue};
use agentgov_sdk::{Event, Recorder, RecorderOptions};
use agentgov_service::ExitCode;
use agentgov_token::{ApprovalClaims, KeySet, SigningKey, verify_approval};
use serde::Serialize;

use super::pdp_log::read_key;
use super::registry::check_reason;
use crate::cli::{ApprovalArgs, ApprovalsCommand, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{Text, errln, json, outln, style, text};

/// Maximum number of bytes of arguments in a list. `show` prints all.
const MAX_LISTED_BYTES: usize = 160;
/// Time after which the evaluators and decision points know a key.
const KEY_SETTLES: Duration = Duration::from_secs(2);
/// Time for the decision to reach Kafka.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

pub fn approvals(command: &ApprovalsCommand, global: &Global) -> Result<ExitCode, Failure> {
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let stack = Stack { topology: &topology, endpoints: &endpoints };
    match command {
        ApprovalsCommand::List { tenant, session, all } => {
            let filter = ApprovalFilter {
                id: "",
                tenant_id: tenant.as_deref().unwrap_or_default(),
                session_id: session.as_deref().unwrap_or_default(),
                expires_after: if *all { i64::MIN } else { now().0 },
            };
            let mut found = stack.read(&filter)?;
            if !*all {
                found.retain(|approval| approval.state == ApprovalState::Open);
            }
            if global.json {
                json(&serde_json::json!({ "approvals": found }))?;
            } else {
                print_list(&found);
            }
        }
        ApprovalsCommand::Show { id, tenant, session } => {
            let approval = stack.find(id, tenant.as_deref(), session.as_deref())?;
            if global.json {
                json(&approval)?;
            } else {
                print_approval(&approval);
            }
        }
        ApprovalsCommand::Approve(arguments) => decide(&stack, Decision::Allow, arguments, global)?,
        ApprovalsCommand::Deny(arguments) => decide(&stack, Decision::Deny, arguments, global)?,
    }
    Ok(ExitCode::Done)
}

/// A request for an approval, with its state according to the log.
#[derive(Clone, Debug, Serialize)]
pub struct ListedApproval {
    /// The request.
    #[serde(flatten)]
    pub asked: AskedApproval,
    /// SHA-256 of the arguments.
    pub arguments_sha256: String,
    /// State of the request.
    pub state: ApprovalState,
    /// The first decision with a valid signature.
    pub decision: Option<ListedDecision>,
    /// Indexes of the calls that relied on it.
    pub used_by: Vec<i32>,
}

/// State of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Waits for a person.
    Open,
    /// Approved, and no call has used it.
    Granted,
    /// Refused.
    Refused,
    /// A call has used it.
    Used,
    /// Its time is over.
    Expired,
}

impl ApprovalState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

/// Decision about a request.
#[derive(Clone, Debug, Serialize)]
pub struct ListedDecision {
    /// Name of the approver.
    pub approver: String,
    /// True if the person approved.
    pub granted: bool,
    /// Reason, in the words of the approver.
    pub reason: String,
    /// `logged_at`, in milliseconds.
    pub decided_at: i64,
}

/// The stack that a command uses.
struct Stack<'a> {
    topology: &'a Arc<Topology>,
    endpoints: &'a Endpoints,
}

impl Stack<'_> {
    fn context(&self) -> RegistryContext<'_> {
        RegistryContext { endpoints: self.endpoints, topology: self.topology }
    }

    fn keys(&self) -> Result<KeySet, Failure> {
        published_keys(self.context()).or_exit(ExitCode::TryAgain)
    }

    fn agents(&self) -> Result<Vec<RegisteredAgent>, Failure> {
        Ok(list_agents(self.context()).or_exit(ExitCode::TryAgain)?.entries)
    }

    fn read(&self, filter: &ApprovalFilter<'_>) -> Result<Vec<ListedApproval>, Failure> {
        let reader = LogReader::new(&self.endpoints.clickhouse, self.topology).or_exit(ExitCode::Config)?;
        let asked = reader.asked_approvals(filter).or_exit(ExitCode::TryAgain)?;
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let decisions = reader.approval_decisions(filter).or_exit(ExitCode::TryAgain)?;
        let calls = reader.approved_calls(filter).or_exit(ExitCode::TryAgain)?;
        let (keys, agents, now) = (self.keys()?, self.agents()?, now());
        let listed = |asked: AskedApproval| {
            let responsible = responsible(&agents, &asked);
            listed(asked, &responsible, &decisions, &calls, &keys, now)
        };
        Ok(asked.into_iter().map(listed).collect())
    }

    /// Returns the request with an id.
    fn find(&self, id: &str, tenant: Option<&str>, session: Option<&str>) -> Result<ListedApproval, Failure> {
        if id.is_empty() {
            return Err(Failure::new(ExitCode::Usage, "expected the id of an approval, found an empty text"));
        }
        let filter = ApprovalFilter {
            id,
            tenant_id: tenant.unwrap_or_default(),
            session_id: session.unwrap_or_default(),
            expires_after: i64::MIN,
        };
        let mut found = self.read(&filter)?;
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (None, _) => Err(Failure::new(
                ExitCode::Failed,
                format!(
                    "expected a request for the approval `{id}` in the log, found none; `agentgov approvals list` shows those \
                     that are open, a second after they were made"
                ),
            )),
            (Some(last), false) => {
                found.push(last);
                let word = |text: &str| {
                    shell_word(text).map_or_else(|| format!("{text:?}"), |word| word.into_owned())
                };
                let lines = found.iter().map(|found| {
                    format!(
                        "--tenant {} --session {}",
                        word(&found.asked.tenant_id),
                        word(&found.asked.session_id)
                    )
                });
                Err(Failure::all(ExitCode::Usage, &format!("`{id}` is in several sessions:"), lines))
            }
        }
    }
}

/// Returns the owner and the sponsor of the agent that asked, by the registry.
fn responsible(agents: &[RegisteredAgent], asked: &AskedApproval) -> Vec<String> {
    let agent = agents.iter().map(|entry| &entry.agent);
    let agent = agent
        .filter(|agent| agent.tenant_id == asked.tenant_id && agent.agent_id == asked.agent_id)
        .flat_map(|agent| [Some(&agent.owner), agent.sponsor.as_ref()]);
    agent.flatten().cloned().collect()
}

/// Returns a request with its state. `responsible` are the owner and the sponsor of the agent: their decisions do not count.
fn listed(
    asked: AskedApproval,
    responsible: &[String],
    decisions: &[ApprovalDecision],
    calls: &[ApprovedCall],
    keys: &KeySet,
    now: Millis,
) -> ListedApproval {
    let arguments = Digest::of(&asked.arguments.0);
    let of = |id: &str, tenant: &str, session: &str| {
        id == asked.id && tenant == asked.tenant_id && session == asked.session_id
    };
    let decision = decisions.iter().filter(|d| of(&d.id, &d.tenant_id, &d.session_id)).find_map(|decision| {
        let (claims, _) = verify_approval(&decision.token, keys, Millis(decision.decided_at)).ok()?;
        let is_of_call = of(&claims.approval_id, &claims.tenant_id, &claims.session_id)
            && claims.environment == asked.environment
            && claims.agent_id == asked.agent_id
            && claims.tool == asked.tool
            && claims.arguments == arguments
            && decision.decided_at < asked.expires_at
            && !is_own(&asked, responsible, &claims.approver);
        is_of_call.then(|| ListedDecision {
            approver: claims.approver,
            granted: claims.outcome == Decision::Allow,
            reason: decision.reason.clone(),
            decided_at: decision.decided_at,
        })
    });
    let used_by: Vec<i32> =
        calls.iter().filter(|c| of(&c.id, &c.tenant_id, &c.session_id)).map(|c| c.call).collect();
    let state = match &decision {
        _ if !used_by.is_empty() => ApprovalState::Used,
        Some(decision) if !decision.granted => ApprovalState::Refused,
        _ if now.0 >= asked.expires_at => ApprovalState::Expired,
        Some(_) => ApprovalState::Granted,
        None => ApprovalState::Open,
    };
    ListedApproval { asked, arguments_sha256: arguments.to_string(), state, decision, used_by }
}

/// Returns true if the request is for the approver, for an agent of this name, or for an agent that the approver is responsible for.
fn is_own(asked: &AskedApproval, responsible: &[String], approver: &str) -> bool {
    let names = [&asked.actor_id, &asked.agent_id].into_iter().chain(responsible);
    names.into_iter().any(|name| agentgov_policy::is_same_person(name, approver))
}

/// Signs and publishes a decision. The kernel applies the same rules to the record; they are checked here so that a person learns
/// at once that a decision would not count.
fn decide(
    stack: &Stack<'_>,
    outcome: Decision,
    arguments: &ApprovalArgs,
    global: &Global,
) -> Result<(), Failure> {
    let ApprovalArgs { id, reason, key, tenant, session } = arguments;
    check_reason(reason)?;
    let key = read_key(key)?;
    let approval = stack.find(id, tenant.as_deref(), session.as_deref())?;
    let approver = check_key(&stack.keys()?, &key, &approval.asked.tenant_id)?;
    check_open(&approval)?;
    let responsible = responsible(&stack.agents()?, &approval.asked);
    if is_own(&approval.asked, &responsible, &approver) {
        return Err(Failure::new(
            ExitCode::Failed,
            format!(
                "expected another approver than `{approver}`: the call is for this person, or by an agent of theirs; nothing was \
                 published"
            ),
        ));
    }
    let now = now().0.div_euclid(1_000);
    let asked = &approval.asked;
    let claims = ApprovalClaims {
        approval_id: asked.id.clone(),
        approver: approver.clone(),
        issued_at: now,
        expires_at: asked.expires_at.div_euclid(1_000),
        tenant_id: asked.tenant_id.clone(),
        environment: asked.environment.clone(),
        session_id: asked.session_id.clone(),
        agent_id: asked.agent_id.clone(),
        tool: asked.tool.clone(),
        // Of the bytes that the person sees, not of what the request claims.
        arguments: Digest::of(&asked.arguments.0),
        outcome,
    };
    let token = key.sign_approval(&claims).or_exit(ExitCode::Failed)?;
    publish(stack, asked, outcome, &approver, reason, &token)?;
    let granted = outcome == Decision::Allow;
    if global.json {
        return json(&serde_json::json!({
            "id": asked.id, "granted": granted, "approver": approver, "reason": reason, "key_id": key.kid(),
            "expires_at": asked.expires_at,
        }));
    }
    let outcome = if granted { "approved" } else { "refused" };
    outln!("{} {} as {}: {} of session {}", outcome, asked.id, approver, asked.tool, asked.session_id);
    Ok(())
}

/// Returns the name of the approver whose key this is. Waits until evaluators and decision points know a new key.
fn check_key(keys: &KeySet, key: &SigningKey, tenant_id: &str) -> Result<String, Failure> {
    let failed = |found: String| {
        let message =
            format!("key {}: expected a key of an approver, {found}; nothing was published", key.kid());
        Failure::new(ExitCode::Failed, message)
    };
    let Some(published) = keys.get(key.kid()) else {
        return Err(failed("found none with this id on the topic of keys".to_owned()));
    };
    if published.kind != KeyKind::Approver {
        return Err(failed(format!("found one of a {}", published.kind.as_str())));
    }
    if published.revoked_at.is_some() {
        return Err(failed("found a revoked one".to_owned()));
    }
    if published.tenant_id.as_deref().is_some_and(|of| of != tenant_id) {
        return Err(failed("found one for another tenant".to_owned()));
    }
    let age = now().0.saturating_sub(published.valid_from.0);
    let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
    std::thread::sleep(KEY_SETTLES.saturating_sub(age));
    Ok(published.name.clone())
}

fn check_open(approval: &ListedApproval) -> Result<(), Failure> {
    if approval.state == ApprovalState::Open {
        return Ok(());
    }
    let by = approval.decision.as_ref().map(|decision| format!(", decided by `{}`", decision.approver));
    let message = format!(
        "approval {}: expected an open one, found state {}{}; nothing was published",
        approval.asked.id,
        approval.state.as_str(),
        by.unwrap_or_default()
    );
    Err(Failure::new(ExitCode::Failed, message))
}

fn publish(
    stack: &Stack<'_>,
    asked: &AskedApproval,
    outcome: Decision,
    approver: &str,
    reason: &str,
    token: &str,
) -> Result<(), Failure> {
    let Endpoints { kafka, schema_registry, .. } = stack.endpoints;
    let options = RecorderOptions::new(
        kafka.clone(),
        schema_registry.clone(),
        Arc::clone(stack.topology),
        &asked.tenant_id,
        &asked.environment,
    );
    let recorder = Recorder::start(options).or_exit(ExitCode::TryAgain)?;
    let approval = Approval {
        approver: Some(approver),
        granted: Some(outcome == Decision::Allow),
        comment: Some(reason),
        tool: Some(&asked.tool),
        expires_at: Some(Millis(asked.expires_at)),
        token: Some(token),
        ..Approval::new(&asked.id)
    };
    let event = Event {
        approval: Some(approval),
        ..Event::new(catalogue::APPROVAL_DECIDED, &asked.session_id, Agent::new(&asked.agent_id))
    };
    recorder.record(&event).or_exit(ExitCode::Failed)?;
    recorder.close(CLOSE_TIMEOUT).or_exit(ExitCode::TryAgain)?;
    Ok(())
}

/// Prints requests, each on two lines.
pub fn print_list(approvals: &[ListedApproval]) {
    if approvals.is_empty() {
        errln!("no request for an approval");
    }
    for approval in approvals {
        let AskedApproval { id, tenant_id, session_id, agent_id, tool, arguments, expires_at, .. } =
            &approval.asked;
        let until = time(*expires_at);
        outln!(
            "{} {} {}/{} {} until {}",
            style(id).bold(),
            approval.state.as_str(),
            tenant_id,
            agent_id,
            session_id,
            until
        );
        outln!("  {}({})", style(tool).cyan(), shortened(&arguments.0));
    }
}

/// Prints a request with its whole arguments.
pub fn print_approval(approval: &ListedApproval) {
    let AskedApproval { id, tenant_id, environment, session_id, agent_id, actor_id, tool, .. } =
        &approval.asked;
    let asked = &approval.asked;
    outln!("{} {}", style(id).bold(), approval.state.as_str());
    outln!("  tenant {} · environment {} · session {}", tenant_id, environment, session_id);
    outln!("  agent {}", agent_id);
    if !actor_id.is_empty() {
        outln!("  on behalf of {}", actor_id);
    }
    outln!("  asked {} · expires {}", time(asked.asked_at), time(asked.expires_at));
    if !asked.comment.is_empty() {
        outln!("  {}", asked.comment);
    }
    outln!("  {}({})", style(tool).cyan(), EscapedBytes(&asked.arguments.0));
    outln!("  sha256 of the arguments {}", approval.arguments_sha256);
    if let Some(decision) = &approval.decision {
        let outcome = if decision.granted { "approved" } else { "refused" };
        outln!("  {} {} by {}: {}", outcome, time(decision.decided_at), decision.approver, decision.reason);
    }
    for call in &approval.used_by {
        outln!("  used by call {}", call);
    }
}

/// Returns arguments for a list, cut after [`MAX_LISTED_BYTES`].
fn shortened(arguments: &[u8]) -> Text {
    match arguments.get(..MAX_LISTED_BYTES) {
        Some(shown) if shown.len() < arguments.len() => text!("{}{}", EscapedBytes(shown), "…"),
        _ => text!("{}", EscapedBytes(arguments)),
    }
}

fn time(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| format!("{millis} ms"), |time| time.to_string())
}

/// Returns the wall clock. A clock before 1970 counts as 1970.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use agentgov_log_reader::LoggedBytes;
    use agentgov_schemas::governance::{KeyEntry, KeyState};

    use super::*;

    const ID: &str = "0192f0c1-7a3b-7c4d-9e5f-000000000001";

    #[test]
    fn decision_by_the_owner_of_the_agent_leaves_the_request_open() {
        let text = str::to_owned;
        let asked = AskedApproval {
            id: text(ID),
            tenant_id: text("acme"),
            environment: text("production"),
            session_id: text("s"),
            agent_id: text("bot"),
            actor_id: text("eve"),
            tool: text("pay"),
            call_id: text(""),
            arguments: LoggedBytes(b"{}".to_vec()),
            comment: text(""),
            asked_at: 1_000,
            expires_at: 90_000,
        };
        let key = SigningKey::from_seed(&[1; 32]);
        let mut keys = KeySet::default();
        let public_key = key.public_key().to_jwk().to_string();
        let entry = KeyEntry {
            kid: key.kid(),
            kind: KeyKind::Approver.into(),
            name: "ada",
            tenant_id: None,
            public_key: &public_key,
            state: KeyState::Active.into(),
            reason: "",
            pushed_by: "",
        };
        keys.fold(&entry, 0, Millis(0)).unwrap();
        let claims = ApprovalClaims {
            approval_id: text(ID),
            approver: text("ada"),
            issued_at: 2,
            expires_at: 90,
            tenant_id: text("acme"),
            environment: text("production"),
            session_id: text("s"),
            agent_id: text("bot"),
            tool: text("pay"),
            arguments: Digest::of(b"{}"),
            outcome: Decision::Allow,
        };
        let decision = ApprovalDecision {
            id: text(ID),
            tenant_id: text("acme"),
            session_id: text("s"),
            reason: text("fine"),
            token: key.sign_approval(&claims).unwrap(),
            decided_at: 3_000,
        };
        for (responsible, state) in [("Ada", ApprovalState::Open), ("sam", ApprovalState::Granted)] {
            let decisions = std::slice::from_ref(&decision);
            let found = listed(asked.clone(), &[text(responsible)], decisions, &[], &keys, Millis(4_000));
            assert_eq!(found.state, state, "{responsible}");
        }
    }
}
