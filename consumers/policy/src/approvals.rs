//! Approvals: a person decides about one call that the policies let a person decide.
//!
//! ```text
//!   approval.asked   ─► fold: the session has an open approval of (environment, agent, tool, bytes of the arguments)
//!   approval.decided ─► fold: signature, claims and approver are verified; the first valid decision counts
//!   call             ─► find: a granted, unexpired, unused approval of this very call turns `ask` into `allow`
//! ```
//!
//! Depends on the records and the table of keys alone.

use agentgov_enrichment::{Agent, Approval, ApprovalFault, Change, Session};
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::{self, ActionEvent, ToolCall};
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::state::ApprovalState;
use agentgov_schemas::verdict::{ApprovalFinding, ApprovalUse, Decision, DecisionCause, Origin};
use agentgov_schemas::{Digest, Millis, OpenEnum, catalogue};
use agentgov_token::{ApprovalClaims, Call, ClaimName, Claims, KeySet, TokenError, verify, verify_approval};

use crate::kernel::Kernel;

/// Longest validity of an approval, from its request on: that of a request that states a later end.
pub const MAX_APPROVAL_MILLIS: i64 = 24 * 3_600_000;
/// Length of an approval's id: the text of a UUID.
const ID_BYTES: usize = 36;

/// Approvals that count for a call.
#[derive(Clone, Copy, Debug)]
pub enum ApprovalClaim<'a> {
    /// None. The judgement names none either.
    Ignored,
    /// Of a call that is decided before it happens: each that is valid at `now`, except `excluded` ones.
    Before {
        /// The decision point's clock.
        now: Millis,
        /// Ids of approvals that other decisions rely on, before their calls are recorded.
        excluded: &'a [String],
    },
    /// Of a recorded call: the one that its token names.
    Recorded {
        /// Append time of the call.
        logged_at: Millis,
        /// The approval in the call's token, if the token is valid, or would be but for its expiry.
        claimed: Option<ClaimedApproval<'a>>,
    },
}

/// Approval that the token of a recorded call names.
#[derive(Clone, Copy, Debug)]
pub struct ClaimedApproval<'a> {
    /// Id of the approval.
    pub id: &'a str,
    /// Claim by which the token is of another call of the session. The approval is then used, and lets nothing through.
    pub altered: Option<DecisionCause>,
}

/// Approval that concerns a judged call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedApproval {
    /// Id of the approval.
    pub id: String,
    /// Relation of the call to the approval. [`ApprovalFinding::Granted`]: the decision relies on it.
    pub finding: ApprovalFinding,
    /// Claim or fault that the finding is about.
    pub cause: Option<DecisionCause>,
    /// The approver, if a valid key signed the decision.
    pub approver: Option<String>,
    /// End of its validity, if the session has it.
    pub expires_at: Option<Millis>,
    /// True if a person can still decide about it.
    pub is_open: bool,
}

impl JudgedApproval {
    /// Returns the approval as a verdict records it.
    pub fn as_use(&self) -> ApprovalUse<'_> {
        ApprovalUse {
            id: &self.id,
            finding: self.finding.into(),
            cause: self.cause.map(OpenEnum::from),
            approver: self.approver.as_deref(),
        }
    }

    /// Returns the approval that a recorded call claims although the policies do not ask for one.
    pub(crate) fn not_asked(claim: ApprovalClaim<'_>) -> Option<Self> {
        match claim {
            ApprovalClaim::Recorded { claimed: Some(claimed), .. } => {
                Some(Self::unknown(claimed.id, ApprovalFinding::NotAsked))
            }
            _ => None,
        }
    }

    fn unknown(id: &str, finding: ApprovalFinding) -> Self {
        Self { id: id.to_owned(), finding, cause: None, approver: None, expires_at: None, is_open: false }
    }
}

/// Returns the cause of a finding about a token that is invalid.
pub const fn forged_cause(error: &TokenError) -> DecisionCause {
    match error {
        TokenError::Malformed(_) => DecisionCause::Malformed,
        TokenError::UnknownKey => DecisionCause::UnknownKey,
        TokenError::WrongKind { .. } => DecisionCause::WrongKind,
        TokenError::WrongTenant { .. } => DecisionCause::WrongTenant,
        TokenError::RevokedKey { .. } => DecisionCause::RevokedKey,
        TokenError::NotYetValid { .. } => DecisionCause::NotYetValid,
        TokenError::Expired { .. } => DecisionCause::Expired,
        TokenError::BadSignature => DecisionCause::BadSignature,
    }
}

/// Returns the approval that a token relies on, if it lets a call of this session through. An expired token counts: its
/// call is logged late, and still used the approval.
pub fn approval_of<'c>(
    claims: &'c Claims,
    event: &ActionEvent<'_>,
    partition: i32,
) -> Option<ClaimedApproval<'c>> {
    let is_of_session = claims.tenant_id == event.tenant_id && claims.session_id == event.session_id;
    let id = claims.approval_id.as_deref().filter(|_| is_of_session && claims.outcome == Decision::Allow)?;
    Some(ClaimedApproval { id, altered: difference_from_call(claims, event, partition) })
}

/// Returns the claims of the token of a call, if the token is valid, or would be but for its expiry.
pub(crate) fn claims_of_call(event: &ActionEvent<'_>, keys: &KeySet, logged_at: Millis) -> Option<Claims> {
    let token = event.tool.as_ref()?.decision_token?;
    match verify(token, keys, KeyKind::Pdp, logged_at) {
        Ok(claims) => Some(claims),
        Err(TokenError::Expired { claims, .. }) => Some(*claims),
        Err(_) => None,
    }
}

/// Returns the first claim that differs from a call in a partition. Digests the arguments, since the event's own digest is a
/// claim of its producer. Used tokens are known per partition, so a token is valid in one partition only.
pub fn difference_from_call(
    claims: &Claims,
    event: &ActionEvent<'_>,
    partition: i32,
) -> Option<DecisionCause> {
    let ToolCall { name, call_id, arguments, definition, .. } = event.tool.as_ref()?;
    let difference = claims.first_difference(&Call {
        tenant_id: event.tenant_id,
        environment: event.environment,
        session_id: event.session_id,
        agent_id: event.agent.id,
        tool: name,
        call_id,
        arguments: Digest::of(arguments.data),
        definition: *definition,
    });
    let is_elsewhere = claims.through.partition != partition;
    difference.map(altered_cause).or_else(|| is_elsewhere.then_some(DecisionCause::Partition))
}

const fn altered_cause(claim: ClaimName) -> DecisionCause {
    match claim {
        ClaimName::Tenant => DecisionCause::Tenant,
        ClaimName::Environment => DecisionCause::Environment,
        ClaimName::Session => DecisionCause::Session,
        ClaimName::Agent => DecisionCause::Agent,
        ClaimName::Tool => DecisionCause::Tool,
        ClaimName::CallId => DecisionCause::CallId,
        ClaimName::Arguments => DecisionCause::Arguments,
        ClaimName::Definition => DecisionCause::Definition,
    }
}

impl Kernel<'_> {
    /// Applies `approval.asked` or `approval.decided` to the approvals of its session. An event that no approval can follow from
    /// changes nothing.
    pub(crate) fn fold_approval(
        &self,
        session: &mut Session,
        event: &ActionEvent<'_>,
        origin: &Origin<'_>,
    ) -> Vec<Change> {
        let Some(approval) = event.approval.filter(|approval| approval.id.len() == ID_BYTES) else {
            return Vec::new();
        };
        if event.r#type == catalogue::APPROVAL_ASKED {
            let asked = asked(&approval, event, origin.logged_at);
            return asked
                .map_or_else(Vec::new, |asked| session.ask_approval(approval.id, asked, origin.logged_at));
        }
        // The first decision counts. A record that is no valid decision only leaves its fault.
        let is_open = |approval: &&Approval| approval.state == ApprovalState::Open;
        let Some(open) = session.approval(approval.id).filter(is_open) else { return Vec::new() };
        let decided = self.decided(&approval, open, event, origin.logged_at);
        session.decide_approval(approval.id, origin.logged_at, |open| match decided {
            Ok((claims, key_id)) => {
                let is_granted = claims.outcome == Decision::Allow;
                open.state = if is_granted { ApprovalState::Granted } else { ApprovalState::Refused };
                open.expires_at = open.expires_at.min(end_of(&claims));
                open.decided_by = Some((claims.approver, key_id));
                open.fault = None;
            }
            Err(fault) => open.fault = Some(fault),
        })
    }

    /// Verifies a decision about an open approval. Returns its claims and the id of the key.
    fn decided(
        &self,
        approval: &event::Approval<'_>,
        open: &Approval,
        event: &ActionEvent<'_>,
        logged_at: Millis,
    ) -> Result<(ApprovalClaims, String), ApprovalFault> {
        let forged = |cause| ApprovalFault { finding: ApprovalFinding::Forged, cause: Some(cause) };
        let token = approval.token.ok_or_else(|| forged(DecisionCause::Malformed))?;
        let (claims, key_id) =
            verify_approval(token, self.keys, logged_at).map_err(|error| forged(forged_cause(&error)))?;
        if claims.approver.len() > MAX_ID_BYTES {
            return Err(forged(DecisionCause::Malformed));
        }
        if let Some(cause) = first_difference(&claims, approval.id, open, event) {
            return Err(ApprovalFault { finding: ApprovalFinding::Altered, cause: Some(cause) });
        }
        if open.is_expired(logged_at) || logged_at >= end_of(&claims) {
            return Err(ApprovalFault { finding: ApprovalFinding::Expired, cause: None });
        }
        let agent = self.agents.get(event.tenant_id, &open.agent);
        if is_own(&claims.approver, open, agent, None) {
            return Err(ApprovalFault { finding: ApprovalFinding::Own, cause: None });
        }
        Ok((claims, key_id.to_owned()))
    }

    /// Returns the approval that concerns a call about which the policies ask: the one that `claim` names, otherwise the one
    /// for the same call that lets it through, can still be decided, was refused, or does not count, in this order.
    pub(crate) fn find_approval(
        &self,
        session: &Session,
        event: &ActionEvent<'_>,
        claim: ApprovalClaim<'_>,
    ) -> Option<JudgedApproval> {
        let tool = event.tool.as_ref()?;
        if let ApprovalClaim::Recorded { claimed: Some(claimed), .. } = claim
            && session.approval(claimed.id).is_none()
        {
            return Some(JudgedApproval::unknown(claimed.id, ApprovalFinding::Unknown));
        }
        if !session.has_approvals() {
            return None;
        }
        let arguments = Digest::of(tool.arguments.data);
        let judge = |(id, approval): (&str, &Approval)| {
            let cause = [
                (DecisionCause::Environment, approval.environment == event.environment),
                (DecisionCause::Agent, approval.agent == event.agent.id),
                (DecisionCause::Tool, approval.tool == tool.name),
                (DecisionCause::Arguments, approval.arguments == arguments),
            ]
            .into_iter()
            .find_map(|(cause, is_equal)| (!is_equal).then_some(cause))
            .or_else(|| altered_token(claim));
            (cause, self.judge_approval(id, approval, cause, event, claim))
        };
        match claim {
            ApprovalClaim::Ignored => None,
            ApprovalClaim::Recorded { claimed: Some(claimed), .. } => {
                session.approval(claimed.id).map(|approval| judge((claimed.id, approval)).1)
            }
            ApprovalClaim::Recorded { claimed: None, .. } | ApprovalClaim::Before { .. } => {
                let is_excluded = |id: &str| match claim {
                    ApprovalClaim::Before { excluded, .. } => excluded.iter().any(|excluded| excluded == id),
                    _ => false,
                };
                let same_call = session
                    .approvals()
                    .filter(|(id, _)| !is_excluded(id))
                    .map(judge)
                    .filter(|(difference, _)| difference.is_none());
                same_call.map(|(_, judged)| judged).min_by_key(rank)
            }
        }
    }

    fn judge_approval(
        &self,
        id: &str,
        approval: &Approval,
        difference: Option<DecisionCause>,
        event: &ActionEvent<'_>,
        claim: ApprovalClaim<'_>,
    ) -> JudgedApproval {
        let (now, is_claimed) = match claim {
            ApprovalClaim::Ignored => (Millis(i64::MAX), false),
            ApprovalClaim::Before { now, .. } => (now, true),
            ApprovalClaim::Recorded { logged_at, claimed } => {
                (logged_at, claimed.is_some_and(|claimed| claimed.id == id))
            }
        };
        let is_expired = approval.is_expired(now);
        let (finding, cause) = if difference.is_some() {
            (ApprovalFinding::Altered, difference)
        } else if approval.used_at.is_some() {
            (ApprovalFinding::Reused, None)
        } else if let Some(fault) = approval.fault {
            (fault.finding, fault.cause)
        } else if is_expired {
            (ApprovalFinding::Expired, None)
        } else {
            match approval.state {
                ApprovalState::Open => (ApprovalFinding::Open, None),
                ApprovalState::Refused => (ApprovalFinding::Refused, None),
                ApprovalState::Granted => self.judge_granted(approval, event, claim, is_claimed),
            }
        };
        JudgedApproval {
            id: id.to_owned(),
            finding,
            cause,
            approver: approval.decided_by.as_ref().map(|(approver, _)| approver.clone()),
            expires_at: Some(approval.expires_at),
            is_open: approval.state == ApprovalState::Open && !is_expired,
        }
    }

    /// Judges an approval that a person granted, of this very call, unused and not expired.
    fn judge_granted(
        &self,
        approval: &Approval,
        event: &ActionEvent<'_>,
        claim: ApprovalClaim<'_>,
        is_claimed: bool,
    ) -> (ApprovalFinding, Option<DecisionCause>) {
        let Some((approver, key_id)) = &approval.decided_by else {
            return (ApprovalFinding::Forged, Some(DecisionCause::Malformed));
        };
        let Some(key) = self.keys.get(key_id) else {
            return (ApprovalFinding::Forged, Some(DecisionCause::UnknownKey));
        };
        // A call that is decided now is logged later than each known revocation.
        let is_revoked = key.revoked_at.is_some_and(|revoked_at| match claim {
            ApprovalClaim::Recorded { logged_at, .. } => logged_at >= revoked_at,
            ApprovalClaim::Before { .. } | ApprovalClaim::Ignored => true,
        });
        let agent = self.agents.get(event.tenant_id, event.agent.id);
        if is_revoked {
            (ApprovalFinding::Forged, Some(DecisionCause::RevokedKey))
        } else if is_own(approver, approval, agent, event.actor.map(|actor| actor.id)) {
            (ApprovalFinding::Own, None)
        } else if is_claimed {
            (ApprovalFinding::Granted, None)
        } else {
            (ApprovalFinding::Unclaimed, None)
        }
    }
}

/// Returns the claim by which the token of a recorded call is of another call.
const fn altered_token(claim: ApprovalClaim<'_>) -> Option<DecisionCause> {
    match claim {
        ApprovalClaim::Recorded { claimed: Some(claimed), .. } => claimed.altered,
        _ => None,
    }
}

/// Order in which the approvals of a call count.
fn rank(judged: &JudgedApproval) -> u8 {
    match judged.finding {
        ApprovalFinding::Granted | ApprovalFinding::Unclaimed => 0,
        _ if judged.is_open => 1,
        ApprovalFinding::Refused => 2,
        ApprovalFinding::Own | ApprovalFinding::Forged | ApprovalFinding::Altered => 3,
        _ => 4,
    }
}

/// Reads a request; `None` if no approval can follow from it.
fn asked(approval: &event::Approval<'_>, event: &ActionEvent<'_>, logged_at: Millis) -> Option<Approval> {
    let tool = approval.tool.filter(|tool| !tool.is_empty() && tool.len() <= MAX_ID_BYTES)?;
    let latest = Millis(logged_at.0.saturating_add(MAX_APPROVAL_MILLIS));
    let actor = event.actor.map(|actor| actor.id);
    if actor.is_some_and(|actor| actor.len() > MAX_ID_BYTES) {
        return None;
    }
    Some(Approval {
        environment: event.environment.to_owned(),
        agent: event.agent.id.to_owned(),
        tool: tool.to_owned(),
        // The digest in the event is a claim of its producer.
        arguments: Digest::of(approval.arguments?.data),
        actor: actor.map(str::to_owned),
        expires_at: approval.expires_at?.min(latest),
        state: ApprovalState::Open,
        decided_by: None,
        fault: None,
        used_at: None,
    })
}

/// Returns the first claim that differs from the open approval.
fn first_difference(
    claims: &ApprovalClaims,
    id: &str,
    open: &Approval,
    event: &ActionEvent<'_>,
) -> Option<DecisionCause> {
    let equal = [
        (DecisionCause::Tenant, claims.tenant_id == event.tenant_id),
        (DecisionCause::Session, claims.session_id == event.session_id),
        (DecisionCause::Approval, claims.approval_id == id),
        (DecisionCause::Environment, claims.environment == open.environment),
        (DecisionCause::Agent, claims.agent_id == open.agent),
        (DecisionCause::Tool, claims.tool == open.tool),
        (DecisionCause::Arguments, claims.arguments == open.arguments),
    ];
    equal.into_iter().find_map(|(cause, is_equal)| (!is_equal).then_some(cause))
}

const fn end_of(claims: &ApprovalClaims) -> Millis {
    Millis(claims.expires_at.saturating_mul(1000))
}

/// Returns true if the approver would approve what is done for themselves: they are the person on whose behalf the agent asked
/// or calls, the agent, or its owner or sponsor in the registry.
fn is_own(approver: &str, approval: &Approval, agent: Option<&Agent>, caller: Option<&str>) -> bool {
    let registered = agent.map(|agent| [agent.owner.as_str(), agent.sponsor.as_str()]);
    [approval.actor.as_deref(), caller, Some(&approval.agent)]
        .into_iter()
        .flatten()
        .chain(registered.into_iter().flatten())
        .any(|other| is_same_person(other, approver))
}

/// Returns true if two names are those of one person. Names that differ only in case or in blanks at their ends count as equal.
pub fn is_same_person(name: &str, other: &str) -> bool {
    let normal = |name: &str| name.trim().to_lowercase();
    normal(name) == normal(other)
}
