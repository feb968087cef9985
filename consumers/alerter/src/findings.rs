//! Findings of a verdict: each leads to an alert.

use agentgov_schemas::OpenEnum;
use agentgov_schemas::verdict::{Decision, Mode, Reason, Severity, Verdict};

/// A violated policy, or a decision that no policy explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// Id of the policy, [`NO_GRANT`], [`SUSPENDED`] or [`INDETERMINATE`].
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
/// Policy id of alerts for a call without a decision: an evaluation error, or no active bundle.
pub const INDETERMINATE: &str = "agentgov:indeterminate";

/// Returns the findings of a verdict, in the order of its violations. A duplicate has none, because the verdict of the
/// first event had them.
pub fn findings<'a>(verdict: &Verdict<'a>) -> Vec<Finding<'a>> {
    if verdict.duplicate_of.is_some() {
        return Vec::new();
    }
    let mut found: Vec<Finding<'a>> = verdict
        .violations
        .iter()
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
        (OpenEnum::Known(Decision::Deny), OpenEnum::Known(Reason::NoGrant)) => {
            found.push(own(NO_GRANT, "has no grant for this"));
        }
        (OpenEnum::Known(Decision::Deny), OpenEnum::Known(Reason::Suspended)) => {
            found.push(own(SUSPENDED, "is suspended"));
        }
        (OpenEnum::Known(Decision::Indeterminate), _) => {
            found.push(own(INDETERMINATE, "could not be judged"));
        }
        _ => {}
    }
    found
}
