//! Decisions beside the calls that they are about, and how they differ from the verdicts.

use agentgov_schemas::verdict::Decision;
use serde::Serialize;

use crate::session::{CallDecision, Event, Verdict};

/// Part that names the inputs of a decision, which may differ without another result.
const KNOWN_DIGEST: &str = "known_digest";

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
        let parts = [
            ("outcome", decision.outcome != verdict.decision),
            ("reason", decision.reason != verdict.reason),
            ("violations", decision.violations != verdict.violations),
            (KNOWN_DIGEST, decision.known_digest != verdict.known_digest),
        ];
        let parts: Vec<_> = parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect();
        // A duplicate is not judged again.
        if parts.is_empty() || verdict.decision == Decision::Duplicate.as_str() {
            return None;
        }
        let first_input = if !decision.unavailable.is_empty() {
            "unavailable"
        } else if decision.bundle_digest != verdict.bundle_digest {
            "bundle"
        } else if decision.known_digest != verdict.known_digest {
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

/// Decisions of a session, in the order of the log.
pub(crate) struct CallDecisions(pub Vec<CallDecision>);

impl CallDecisions {
    /// Returns the decision about a call.
    pub fn about(&self, call: &Event) -> Option<&CallDecision> {
        if !call.decision.is_empty() {
            return None;
        }
        if !call.token_decision_id.is_empty() {
            return self.0.iter().find(|decision| decision.id == call.token_decision_id);
        }
        let is_same = |decision: &&CallDecision| {
            (decision.call_id.as_str(), decision.tool.as_str()) == (call.call_id.as_str(), call.tool.as_str())
                && (decision.partition, decision.offset) < (call.partition, call.offset)
        };
        self.0.iter().rfind(|decision| !decision.call_id.is_empty() && is_same(decision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: &str, offset: i64, call_id: &str) -> CallDecision {
        CallDecision {
            partition: 0,
            offset,
            id: id.to_owned(),
            tool: "pay".to_owned(),
            call_id: call_id.to_owned(),
            outcome: "allow".to_owned(),
            reason: "granted".to_owned(),
            decided_by: "pdp".to_owned(),
            caller: String::new(),
            violations: Vec::new(),
            bundle: "a 1".to_owned(),
            bundle_digest: "aa".to_owned(),
            known_digest: "00".to_owned(),
            known_partition: 0,
            known_through: 0,
            unavailable: String::new(),
        }
    }

    fn call(offset: i64, call_id: &str, token_decision_id: &str) -> Event {
        Event {
            topic: "agent.actions".to_owned(),
            partition: 0,
            offset,
            logged_at: 0,
            occurred_at: 0,
            source_id: "a".to_owned(),
            source_sequence: 0,
            agent_id: "clerk".to_owned(),
            event_type: "tool.invoked".to_owned(),
            role: String::new(),
            text: "".into(),
            tool: "pay".to_owned(),
            call_id: call_id.to_owned(),
            arguments: "{}".into(),
            result: "".into(),
            token_decision_id: token_decision_id.to_owned(),
            decision: String::new(),
            decision_reason: String::new(),
            decided_by: String::new(),
        }
    }

    #[test]
    fn call_has_the_decision_of_its_token_or_the_latest_one_about_its_id() {
        let decisions = [("a", 1, "c1"), ("b", 3, "c1"), ("c", 5, "c2"), ("d", 9, "c1"), ("e", 2, "")];
        let decisions =
            CallDecisions(decisions.map(|(id, offset, call_id)| decision(id, offset, call_id)).into());
        for (call, expected) in [
            (call(4, "c1", "a"), Some("a")),
            (call(4, "c1", "no-such-decision"), None),
            (call(4, "c1", ""), Some("b")),
            (call(2, "c1", ""), Some("a")),
            (call(4, "c2", ""), None),
            (call(4, "", ""), None),
            (Event { tool: "read".to_owned(), ..call(4, "c1", "") }, None),
            (Event { decision: "allow".to_owned(), ..call(4, "c1", "a") }, None),
        ] {
            let found = decisions.about(&call).map(|decision| decision.id.as_str());
            assert_eq!(found, expected, "{call:?}");
        }
    }
}
