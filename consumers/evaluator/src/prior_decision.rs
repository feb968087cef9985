//! Relation of a call to the decision that was made before it, according to the token on the call.
//!
//! ```text
//!   token ─► verify (keys, logged_at) ─► same call? ─► first use? ─► same outcome as the verdict?
//!            forged                      altered       reused        differs, or matched
//! ```
//!
//! Depends on the records alone: the call, its session, and the tables as they are folded. Reads no clock.

use agentgov_enrichment::{Change, RefusedCall, Session, TokenUse};
use agentgov_policy::{ClaimedApproval, Judgement, Kernel, approval_of, difference_from_call, forged_cause};
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::state::UsedToken;
use agentgov_schemas::verdict::{DecisionCause, DecisionFinding, Origin, PriorDecision};
use agentgov_schemas::{Millis, OpenEnum};
use agentgov_token::{Claims, KeySet, TokenError, verify};

/// The token of a call, before the call is judged.
#[derive(Debug)]
pub(crate) struct CallToken {
    claims: Result<Claims, ForgedToken>,
    /// Offset of the session's last applied record; `None` for a new session.
    known_through: Option<i64>,
}

/// Token that is invalid.
#[derive(Debug)]
struct ForgedToken {
    cause: DecisionCause,
    /// Claims of a token that is valid but for its expiry.
    expired: Option<Box<Claims>>,
}

/// Finding about the token of a judged call.
#[derive(Debug)]
pub(crate) struct TokenFinding {
    finding: DecisionFinding,
    cause: Option<DecisionCause>,
    /// Claims of a token that a valid key signed; if it is expired, only those of this very call.
    claims: Option<Claims>,
}

impl CallToken {
    /// Verifies the token of a call by the state of its session before the call. Returns `None` for a call without a token.
    pub fn read(
        event: &ActionEvent<'_>,
        session: &Session,
        keys: &KeySet,
        logged_at: Millis,
    ) -> Option<Self> {
        let token = event.tool.as_ref()?.decision_token?;
        Some(Self {
            claims: verify(token, keys, KeyKind::Pdp, logged_at).map_err(ForgedToken::from),
            known_through: session.applied_through(),
        })
    }

    /// Returns the approval that the token relies on, if it lets a call of this session through.
    pub fn approval(&self, event: &ActionEvent<'_>, partition: i32) -> Option<ClaimedApproval<'_>> {
        let claims = match &self.claims {
            Ok(claims) => claims,
            Err(ForgedToken { expired, .. }) => expired.as_deref()?,
        };
        approval_of(claims, event, partition)
    }

    /// Compares the token with the call and with its judgement, and records its use in the session. Appends the changed
    /// entries to `changes`.
    pub fn compare(
        self,
        event: &ActionEvent<'_>,
        judgement: &Judgement<'_>,
        kernel: &Kernel<'_>,
        origin: &Origin<'_>,
        session: &mut Session,
        changes: &mut Vec<Change>,
    ) -> TokenFinding {
        let claims = match self.claims {
            Ok(claims) => claims,
            // A call that is logged late, e.g. after an outage, has an expired token; its decision stays known. The use is
            // not recorded: the session may have forgotten an earlier one.
            Err(ForgedToken { cause, expired }) => {
                let claims =
                    expired.filter(|claims| difference_from_call(claims, event, origin.partition).is_none());
                let claims = claims.map(|claims| *claims);
                return TokenFinding { finding: DecisionFinding::Forged, cause: Some(cause), claims };
            }
        };
        let (finding, cause) = if let Some(cause) = difference_from_call(&claims, event, origin.partition) {
            (DecisionFinding::Altered, Some(cause))
        } else {
            let ttl = kernel.limits.ttl.0;
            match session.use_token(&used_token(&claims), origin.logged_at, ttl, changes) {
                TokenUse::Repeated => (DecisionFinding::Reused, None),
                TokenUse::NotKept => (DecisionFinding::Reused, Some(DecisionCause::Limit)),
                TokenUse::First if claims.outcome == judgement.decision => (DecisionFinding::Matched, None),
                TokenUse::First => {
                    let cause = input_that_differs(&claims, judgement, kernel, self.known_through);
                    (DecisionFinding::Differs, Some(cause))
                }
            }
        };
        TokenFinding { finding, cause, claims: Some(claims) }
    }
}

impl TokenFinding {
    /// Marks the call as refused in its session, if the token is valid and its outcome is not allow. Sets `refused` if the
    /// event has the call's result as well.
    pub fn refuse_call(
        &self,
        event: &ActionEvent<'_>,
        origin: &Origin<'_>,
        call_index: Option<i32>,
        session: &mut Session,
        refused: &mut Option<RefusedCall>,
    ) {
        let prevented = self.record(false).is_prevented();
        let (Some(tool), Some(claims), true) = (&event.tool, &self.claims, prevented) else { return };
        session.refuse_call(tool.call_id, origin.offset, claims.outcome);
        if event.result.is_some_and(|result| result.call_id == tool.call_id) {
            let (tool, outcome) = (tool.name.to_owned(), claims.outcome);
            *refused = Some(RefusedCall { tool, call_index, outcome });
        }
    }

    /// Returns the finding as a verdict records it.
    pub fn record(&self, required: bool) -> PriorDecision<'_> {
        PriorDecision {
            finding: self.finding.into(),
            cause: self.cause.map(OpenEnum::from),
            id: self.claims.as_ref().map(|claims| claims.decision_id.as_str()),
            outcome: self.claims.as_ref().map(|claims| claims.outcome.into()),
            required,
            unavailable: self.claims.as_ref().and_then(|claims| claims.unavailable.as_deref()),
        }
    }
}

/// Returns the record of a call without a token.
pub(crate) const fn undecided(required: bool) -> PriorDecision<'static> {
    PriorDecision {
        finding: OpenEnum::Known(DecisionFinding::Undecided),
        cause: None,
        id: None,
        outcome: None,
        required,
        unavailable: None,
    }
}

fn used_token(claims: &Claims) -> UsedToken<'_> {
    UsedToken { id: &claims.decision_id, expires_at: Millis(claims.expires_at.saturating_mul(1000)) }
}

/// Returns the first input, in the order of [`DecisionCause`], of which the decision knew another value than the judgement.
fn input_that_differs(
    claims: &Claims,
    judgement: &Judgement<'_>,
    kernel: &Kernel<'_>,
    known_through: Option<i64>,
) -> DecisionCause {
    if claims.unavailable.is_some() {
        DecisionCause::Unavailable
    } else if claims.bundle != judgement.bundle.as_ref().map(|bundle| bundle.digest()) {
        DecisionCause::Bundle
    } else if claims.agents.is_some_and(|next_offset| next_offset != kernel.agents.next_offset()) {
        DecisionCause::Agents
    } else if claims.tools.is_some_and(|next_offset| next_offset != kernel.tools.next_offset()) {
        DecisionCause::Tools
    } else if known_through.is_some_and(|offset| offset > claims.through.offset) {
        DecisionCause::Records
    } else {
        DecisionCause::Event
    }
}

impl From<TokenError> for ForgedToken {
    fn from(error: TokenError) -> Self {
        let cause = forged_cause(&error);
        match error {
            TokenError::Expired { claims, .. } => Self { cause, expired: Some(claims) },
            _ => Self { cause, expired: None },
        }
    }
}
