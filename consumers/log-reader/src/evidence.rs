//! Decisions beside the calls that they are about, and the evidence for them.
//!
//! Any producer can write `decision.made` with any id. Only a token that the evaluator verified proves a decision: its claims
//! are in the call that carries it, and the verdict on that call confirms them.

use std::collections::{BTreeMap, BTreeSet};

use agentgov_schemas::verdict::DecisionFinding;
use agentgov_token::Claims;
use serde::Serialize;

use crate::session::{CallDecision, Event, Verdict};

/// Evidence for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionEvidence {
    /// The token on a call, which the evaluator verified. It proves the claims of the token: issuer, outcome, call, bundle and
    /// known records; not the reason and the rules, which only the decision's event states.
    Token,
    /// The decision's event alone, which any producer can write.
    Claim,
}

/// Decision about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundDecision {
    pub decision: CallDecision,
    pub evidence: DecisionEvidence,
    /// Number of different events with its id, beside the one that is shown.
    pub other_events: usize,
}

/// Decisions of a session.
#[derive(Debug, Default)]
pub(crate) struct CallDecisions {
    /// Events, in the order of the log.
    events: Vec<CallDecision>,
    /// Different events by id.
    by_id: BTreeMap<String, BTreeSet<CallDecision>>,
    /// Claims of verified tokens by id of the decision.
    verified: BTreeMap<String, Claims>,
}

/// Returns the claims of a call's token, if the verdict on the call confirms them.
pub(crate) fn verified_claims(claims: &[u8], verdict: &Verdict) -> Option<Claims> {
    let claims: Claims = serde_json::from_slice(claims).ok()?;
    let is_confirmed = claims.decision_id == verdict.prior_decision_id
        && claims.outcome.as_str() == verdict.prior_decision_outcome;
    is_confirmed.then_some(claims)
}

impl CallDecisions {
    pub fn new(events: Vec<CallDecision>, verified: impl IntoIterator<Item = Claims>) -> Self {
        let mut by_id: BTreeMap<String, BTreeSet<CallDecision>> = BTreeMap::new();
        for event in &events {
            by_id.entry(event.id.clone()).or_default().insert(without_position(event));
        }
        let verified = verified.into_iter().map(|claims| (claims.decision_id.clone(), claims)).collect();
        Self { events, by_id, verified }
    }

    /// Returns the decision about a call: that of its token, otherwise the latest event before it about its id and tool.
    pub fn about(&self, call: &Event, verdict: &Verdict) -> Option<FoundDecision> {
        if !call.decision.is_empty() {
            return None;
        }
        let id = &call.token_decision_id;
        if id.is_empty() {
            let is_same = |decision: &&CallDecision| {
                (decision.call_id.as_str(), decision.tool.as_str())
                    == (call.call_id.as_str(), call.tool.as_str())
                    && (decision.partition, decision.offset) < (call.partition, call.offset)
            };
            let latest =
                self.events.iter().rfind(|decision| !decision.call_id.is_empty() && is_same(decision));
            return latest.map(|event| self.claimed(event));
        }
        if verdict.prior_decision_id == *id
            && let Some(claims) = self.verified.get(id)
        {
            return Some(self.proven(claims));
        }
        // A forged token may name the decision about another call.
        if verdict.prior_decision_finding == DecisionFinding::Forged.as_str() {
            return None;
        }
        self.events.iter().find(|event| event.id == *id).map(|event| self.claimed(event))
    }

    /// Returns the evidence for the decision that an event states.
    pub fn evidence(&self, event: &Event) -> DecisionEvidence {
        let position = (event.partition, event.offset);
        // Events are in the order of their positions.
        let decision =
            self.events.binary_search_by_key(&position, |decision| (decision.partition, decision.offset));
        let decision = decision.ok().and_then(|at| self.events.get(at));
        let is_proven = |decision: &CallDecision| {
            self.verified.get(&decision.id).is_some_and(|claims| decision.agrees_with(claims))
        };
        if decision.is_some_and(is_proven) { DecisionEvidence::Token } else { DecisionEvidence::Claim }
    }

    fn claimed(&self, event: &CallDecision) -> FoundDecision {
        let other_events = self.different_events(&event.id).saturating_sub(1);
        FoundDecision { decision: event.clone(), evidence: DecisionEvidence::Claim, other_events }
    }

    /// Returns the decision of a verified token: the first event that agrees with its claims, otherwise the claims alone.
    fn proven(&self, claims: &Claims) -> FoundDecision {
        let mut events = self.events.iter();
        let agreeing = events.find(|event| event.id == claims.decision_id && event.agrees_with(claims));
        let different = self.different_events(&claims.decision_id);
        let other_events = different.saturating_sub(usize::from(agreeing.is_some()));
        let decision = agreeing.cloned().unwrap_or_else(|| CallDecision::from_claims(claims));
        FoundDecision { decision, evidence: DecisionEvidence::Token, other_events }
    }

    fn different_events(&self, id: &str) -> usize {
        self.by_id.get(id).map_or(0, BTreeSet::len)
    }
}

/// Returns the content of a decision: an event that was sent again has another position only.
fn without_position(event: &CallDecision) -> CallDecision {
    CallDecision { partition: 0, offset: 0, ..event.clone() }
}

impl CallDecision {
    /// Returns the decision that a token's claims prove. It has no position, reason, rules and inputs.
    fn from_claims(claims: &Claims) -> Self {
        let is_known = claims.unavailable.is_none();
        Self {
            partition: -1,
            offset: -1,
            id: claims.decision_id.clone(),
            agent_id: claims.agent_id.clone(),
            tool: claims.tool.clone(),
            call_id: claims.call_id.clone().unwrap_or_default(),
            outcome: claims.outcome.as_str().to_owned(),
            reason: String::new(),
            decided_by: claims.issuer.clone(),
            caller: String::new(),
            violations: Vec::new(),
            bundle: String::new(),
            bundle_digest: claims.bundle.map(|digest| digest.to_string()).unwrap_or_default(),
            known_digest: String::new(),
            known_partition: if is_known { claims.through.partition } else { -1 },
            known_through: if is_known { claims.through.offset } else { -1 },
            unavailable: claims.unavailable.clone().unwrap_or_default(),
        }
    }

    /// Returns true if the event states what the claims of the token with its id prove.
    fn agrees_with(&self, claims: &Claims) -> bool {
        let proven = Self::from_claims(claims);
        let parts = |decision: &Self| {
            let Self { id, agent_id, tool, call_id, outcome, .. } = decision;
            [
                id,
                agent_id,
                tool,
                call_id,
                outcome,
                &decision.decided_by,
                &decision.bundle_digest,
                &decision.unavailable,
            ]
            .map(String::clone)
        };
        let known = |decision: &Self| (decision.known_partition, decision.known_through);
        parts(self) == parts(&proven) && known(self) == known(&proven)
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Digest;
    use agentgov_schemas::verdict::Decision;
    use agentgov_token::KnownThrough;

    use super::*;

    fn decision(id: &str, offset: i64, call_id: &str) -> CallDecision {
        CallDecision {
            partition: 0,
            offset,
            id: id.to_owned(),
            agent_id: "clerk".to_owned(),
            tool: "pay".to_owned(),
            call_id: call_id.to_owned(),
            outcome: "allow".to_owned(),
            reason: "granted".to_owned(),
            decided_by: "pdp".to_owned(),
            caller: String::new(),
            violations: Vec::new(),
            bundle: "a 1".to_owned(),
            bundle_digest: Digest::of(b"a").to_string(),
            known_digest: "00".to_owned(),
            known_partition: 0,
            known_through: 0,
            unavailable: String::new(),
        }
    }

    fn claims(id: &str) -> Claims {
        Claims {
            decision_id: id.to_owned(),
            issuer: "pdp".to_owned(),
            issued_at: 0,
            expires_at: 60,
            tenant_id: "acme".to_owned(),
            environment: "production".to_owned(),
            session_id: "s".to_owned(),
            agent_id: "clerk".to_owned(),
            tool: "pay".to_owned(),
            call_id: Some("c1".to_owned()),
            arguments: Digest::of(b"{}"),
            definition: None,
            outcome: Decision::Allow,
            bundle: Some(Digest::of(b"a")),
            through: KnownThrough { partition: 0, offset: 0 },
            agents: Some(1),
            tools: None,
            unavailable: None,
            approval_id: None,
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

    fn verdict(finding: &str, id: &str) -> Verdict {
        let outcome = if id.is_empty() { "" } else { "allow" };
        Verdict {
            prior_decision_finding: finding.to_owned(),
            prior_decision_id: id.to_owned(),
            prior_decision_outcome: outcome.to_owned(),
            ..Verdict::default()
        }
    }

    #[test]
    fn call_has_the_decision_of_its_token_or_the_latest_one_about_its_id() {
        let decisions = [("a", 1, "c1"), ("e", 2, ""), ("b", 3, "c1"), ("c", 5, "c2"), ("d", 9, "c1")];
        let decisions = decisions.map(|(id, offset, call_id)| decision(id, offset, call_id)).into();
        let decisions = CallDecisions::new(decisions, []);
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
            let found = decisions.about(&call, &verdict("", ""));
            assert_eq!(found.as_ref().map(|found| found.decision.id.as_str()), expected, "{call:?}");
            assert!(found.is_none_or(|found| found.evidence == DecisionEvidence::Claim));
        }
        assert_eq!(decisions.about(&call(4, "c1", "a"), &verdict("forged", "")), None);
    }

    /// The attack: events of the id of a real decision that state something else, and land before the real one.
    #[test]
    fn verified_token_prevails_over_events_that_claim_something_else() {
        type Change = fn(&mut CallDecision);
        let changes: [Change; 9] = [
            |forged| forged.outcome = "deny".to_owned(),
            |forged| forged.decided_by = "the boss".to_owned(),
            |forged| forged.agent_id = "other".to_owned(),
            |forged| forged.tool = "read".to_owned(),
            |forged| forged.call_id = "c9".to_owned(),
            |forged| forged.bundle_digest = Digest::of(b"b").to_string(),
            |forged| forged.known_through = 7,
            |forged| forged.known_partition = 7,
            |forged| forged.unavailable = "stale".to_owned(),
        ];
        let call = call(9, "c1", "a");
        for change in changes {
            let mut forged = decision("a", 1, "c1");
            forged.reason = "forged".to_owned();
            change(&mut forged);
            let twice = CallDecision { offset: 3, ..decision("a", 2, "c1") };
            let events = vec![forged.clone(), decision("a", 2, "c1"), twice];
            let decisions = CallDecisions::new(events, [claims("a")]);
            let found = decisions.about(&call, &verdict("matched", "a")).unwrap();
            assert_eq!(
                (found.decision.reason.as_str(), found.evidence),
                ("granted", DecisionEvidence::Token)
            );
            assert_eq!(found.other_events, 1, "an event that was sent twice is one");
            let evidence = |offset| decisions.evidence(&Event { offset, ..call.clone() });
            assert_eq!(evidence(1), DecisionEvidence::Claim, "{forged:?}");
            assert_eq!((evidence(2), evidence(3)), (DecisionEvidence::Token, DecisionEvidence::Token));

            // The real event is not in the log yet, or never comes.
            let decisions = CallDecisions::new(vec![forged], [claims("a")]);
            let found = decisions.about(&call, &verdict("matched", "a")).unwrap();
            assert_eq!(
                (found.decision.decided_by.as_str(), found.decision.outcome.as_str()),
                ("pdp", "allow")
            );
            assert_eq!((found.decision.reason.as_str(), found.other_events), ("", 1));
        }
    }

    #[test]
    fn claims_are_verified_only_if_the_verdict_names_them() {
        let json = |claims: &Claims| serde_json::to_vec(claims).unwrap();
        assert_eq!(verified_claims(&json(&claims("a")), &verdict("altered", "a")), Some(claims("a")));
        let denied = Claims { outcome: Decision::Deny, ..claims("a") };
        for (claims, verdict) in [
            (json(&claims("a")), verdict("forged", "")),
            (json(&claims("b")), verdict("matched", "a")),
            (json(&denied), verdict("matched", "a")),
            (b"no JSON".to_vec(), verdict("matched", "a")),
        ] {
            assert_eq!(verified_claims(&claims, &verdict), None);
        }
    }
}
