//! Differences between decisions and verdicts.

use agentgov_schemas::verdict::Decision;
use serde::Serialize;

use crate::session::{CallDecision, Verdict};

/// Part that names the inputs of a decision, which may differ without another result.
const KNOWN_DIGEST: &str = "known_digest";
/// Reason of a denial because the key of the decision point may not sign.
const NOT_SIGNED: &str = "not_signed";

/// Difference between a decision and the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Parts that differ: outcome, reason, violations, known_digest.
    pub parts: Vec<&'static str>,
    /// Cause: the one that the verdict names, otherwise the first input that differs.
    pub cause: String,
}

impl Disagreement {
    /// Compares a decision with the verdict on its call. Returns `None` if outcome, reason, violations and inputs are equal.
    pub fn between(decision: &CallDecision, verdict: &Verdict) -> Option<Self> {
        // A token has no reason, violations and inputs.
        let has_event = decision.offset >= 0;
        let parts = [
            ("outcome", decision.outcome != verdict.decision),
            ("reason", has_event && decision.reason != verdict.reason),
            ("violations", has_event && decision.violations != verdict.violations),
            (KNOWN_DIGEST, has_event && decision.known_digest != verdict.known_digest),
        ];
        let parts: Vec<_> = parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect();
        // A duplicate is not judged again.
        if parts.is_empty() || verdict.decision == Decision::Duplicate.as_str() {
            return None;
        }
        let first_input = if !decision.unavailable.is_empty() {
            "unavailable"
        } else if decision.reason == NOT_SIGNED {
            "signing_key"
        } else if decision.bundle_digest != verdict.bundle_digest {
            "bundle"
        } else if has_event && decision.known_digest != verdict.known_digest {
            "known"
        } else {
            "event"
        };
        let named = (verdict.prior_decision_id == decision.id)
            .then_some(verdict.prior_decision_cause.as_str())
            .filter(|cause| !cause.is_empty());
        Some(Self { parts, cause: named.unwrap_or(first_input).to_owned() })
    }

    /// Returns true if outcome, reason or violations differ, and not only the inputs: two concurrent calls of a session know
    /// different numbers of its events.
    pub fn has_other_result(&self) -> bool {
        self.parts.iter().any(|part| *part != KNOWN_DIGEST)
    }
}
