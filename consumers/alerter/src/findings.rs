//! Findings of a verdict: each leads to an alert.

use agentgov_schemas::OpenEnum;
use agentgov_schemas::verdict::{
    ApprovalFinding, Decision, DecisionFinding, Mode, PriorDecision, Reason, Severity, Verdict,
};

/// A violated policy, or a decision that no policy explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// Id of the policy, or one of the names below.
    pub policy: &'a str,
    /// Severity of the policy.
    pub severity: OpenEnum<'a, Severity>,
    /// Whether the policy was enforced or observed.
    pub mode: OpenEnum<'a, Mode>,
    /// Text between the call and the policy's id in the alert's message.
    pub description: &'static str,
}

/// Policy id of alerts for a call that no policy forbids and no grant allows.
pub const NO_GRANT: &str = "agentgov:no-grant";
/// Policy id of alerts for a call of a suspended agent.
pub const SUSPENDED: &str = "agentgov:suspended";
/// Policy id of alerts for a call of a suspended tool.
pub const TOOL_SUSPENDED: &str = "agentgov:tool-suspended";
/// Policy id of alerts for a call of a tool whose server is suspended.
pub const SERVER_SUSPENDED: &str = "agentgov:server-suspended";
/// Policy id of alerts for a call of a tool that has no accepted definition.
pub const UNPINNED: &str = "agentgov:unpinned";
/// Policy id of alerts for a call of a tool whose definition is not the accepted one.
pub const DEFINITION_CHANGED: &str = "agentgov:definition-changed";
/// Policy id of alerts for a call without a decision: an evaluation error, or no active bundle.
pub const INDETERMINATE: &str = "agentgov:indeterminate";
/// Policy id of alerts for a call without a token, where the bundle requires a decision before each call.
pub const UNDECIDED: &str = "agentgov:undecided";
/// Policy id of alerts for a call with an invalid token.
pub const FORGED: &str = "agentgov:forged";
/// Policy id of alerts for a call with the token of a decision on another call.
pub const ALTERED: &str = "agentgov:altered";
/// Policy id of alerts for a call with a token that an earlier call has used.
pub const REUSED: &str = "agentgov:reused";
/// Policy id of alerts for a call whose verdict has another decision than its token.
pub const DIFFERS: &str = "agentgov:differs";

/// Policy id of alerts for a call that was allowed without the state of its session.
pub const UNAVAILABLE: &str = "agentgov:unavailable";

/// Policy id of alerts for a call about which the policies ask, whose approval no entitled person signed for this very call.
pub const APPROVAL: &str = "agentgov:approval";

/// Returns the findings of a verdict, in the order of its violations. A duplicate has none, because the verdict of the
/// first event had them.
pub fn findings<'a>(verdict: &Verdict<'a>) -> Vec<Finding<'a>> {
    if verdict.duplicate_of.is_some() {
        return Vec::new();
    }
    // A person has decided about the rules that ask.
    let is_approved = verdict.reason == Reason::Approved;
    let mut found: Vec<Finding<'a>> = verdict
        .violations
        .iter()
        .filter(|violation| !(is_approved && violation.mode == Mode::Enforce))
        .map(|v| Finding {
            policy: v.policy,
            severity: v.severity,
            mode: v.mode,
            description: "violates the policy",
        })
        .collect();
    let own = |policy, description| Finding {
        policy,
        severity: Severity::High.into(),
        mode: Mode::Enforce.into(),
        description,
    };
    match (verdict.decision, verdict.reason) {
        (OpenEnum::Known(Decision::Deny), OpenEnum::Known(reason)) => {
            found.extend(denial(reason).map(|(policy, description)| own(policy, description)));
        }
        (OpenEnum::Known(Decision::Indeterminate), _) => {
            found.push(own(INDETERMINATE, "could not be judged"));
        }
        _ => {}
    }
    if verdict
        .approval
        .is_some_and(|approval| approval.finding.known().is_some_and(ApprovalFinding::is_suspect))
    {
        found.push(own(APPROVAL, "has an approval that does not count"));
    }
    if let Some(prior) = &verdict.prior_decision {
        found.extend(decision_finding(prior));
        if prior.is_allowed_unseen() {
            found.push(own(UNAVAILABLE, "was allowed while the state of its session was not known"));
        }
    }
    found
}

/// Returns policy id and description of a denial that no policy explains.
const fn denial(reason: Reason) -> Option<(&'static str, &'static str)> {
    match reason {
        Reason::NoGrant => Some((NO_GRANT, "has no grant for this")),
        Reason::Suspended => Some((SUSPENDED, "is suspended")),
        Reason::ToolSuspended => Some((TOOL_SUSPENDED, "calls a suspended tool")),
        Reason::ServerSuspended => Some((SERVER_SUSPENDED, "calls a tool of a suspended server")),
        Reason::Unpinned => Some((UNPINNED, "calls a tool that has no accepted definition")),
        Reason::DefinitionChanged => {
            Some((DEFINITION_CHANGED, "calls a tool whose definition is not the accepted one"))
        }
        Reason::Granted
        | Reason::Approved
        | Reason::Policy
        | Reason::Error
        | Reason::NoBundle
        | Reason::Duplicate => None,
    }
}

/// Returns the finding of the decision before the call, if a person must see it.
fn decision_finding(prior: &PriorDecision<'_>) -> Option<Finding<'static>> {
    let (policy, severity, description) = match prior.finding.known()? {
        DecisionFinding::Matched => return None,
        DecisionFinding::Undecided if !prior.required => return None,
        DecisionFinding::Undecided => (UNDECIDED, Severity::High, "has no decision for this"),
        DecisionFinding::Forged if prior.is_expired() => {
            (FORGED, Severity::Medium, "was logged after its token had expired")
        }
        DecisionFinding::Forged => (FORGED, Severity::High, "has an invalid token"),
        DecisionFinding::Altered => (ALTERED, Severity::High, "has the token of another call"),
        DecisionFinding::Reused => (REUSED, Severity::High, "has a token that was used before"),
        DecisionFinding::Differs => (DIFFERS, Severity::Medium, "was decided and judged differently"),
    };
    Some(Finding { policy, severity: severity.into(), mode: Mode::Enforce.into(), description })
}
