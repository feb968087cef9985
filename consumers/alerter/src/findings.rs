//! What of a verdict someone must see.

use agentgov_schemas::OpenEnum;
use agentgov_schemas::verdict::{Decision, Mode, Reason, Severity, Verdict};

/// A policy that was violated, or what stands in its place where no policy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// The policy's id, or `agentgov:…`.
    pub policy: &'a str,
    /// How bad it is.
    pub severity: OpenEnum<'a, Severity>,
    /// Whether the policy decided.
    pub mode: OpenEnum<'a, Mode>,
    /// What happened, without the names of agent and tool.
    pub what: &'static str,
}

/// An agent did what no grant allows: no policy forbids it, and none allows it.
pub const NO_GRANT: &str = "agentgov:no-grant";
/// The policies could not decide: an error, or no bundle.
pub const INDETERMINATE: &str = "agentgov:indeterminate";

/// The findings of a verdict, in order of their policies' ids. A duplicate has none: its first telling had them.
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
            what: "violates the policy",
        })
        .collect();
    let own =
        |policy, what| Finding { policy, severity: Severity::High.into(), mode: Mode::Enforce.into(), what };
    match (verdict.decision, verdict.reason) {
        (OpenEnum::Known(Decision::Deny), OpenEnum::Known(Reason::NoGrant)) => {
            found.push(own(NO_GRANT, "has no grant for this"));
        }
        (OpenEnum::Known(Decision::Indeterminate), _) => {
            found.push(own(INDETERMINATE, "could not be judged"));
        }
        _ => {}
    }
    found
}
