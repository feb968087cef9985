//! Answer of a decision point.

use agentgov_schemas::Vocabulary as _;
use agentgov_schemas::verdict::Decision as Outcome;
use serde::Deserialize;
use serde_json::Value;

/// Codes of an unknown state that may pass by itself, so that a later question may get another answer.
const PASSING: [&str; 4] = ["loading", "stale", "behind", "not_arrived"];

/// Decision about a call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Decision {
    /// True for an allow only. Use [`Self::is_allowed`].
    pub decision: bool,
    /// The reasons.
    pub context: DecisionContext,
}

/// Reasons of a decision.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DecisionContext {
    /// allow, deny, ask or indeterminate.
    pub outcome: String,
    /// Reason, as an identifier.
    pub reason: String,
    /// Rules that determine the decision.
    #[serde(default)]
    pub policies: Vec<PolicyRef>,
    /// Remediations of these rules.
    #[serde(default)]
    pub remediation: Vec<String>,
    /// Id of the decision.
    pub evaluation_id: String,
    /// True if the decision is recorded.
    pub recorded: bool,
    /// Token of the decision; the call's event carries it.
    pub token: Option<String>,
    /// Set if the state of the session was not known.
    pub unavailable: Option<Unavailable>,
    /// How to request an approval, if the outcome is `ask`.
    pub access_request: Option<AccessRequest>,
}

/// Rule of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PolicyRef {
    /// Id of the rule.
    pub id: String,
    /// Title for people.
    pub title: Option<String>,
}

/// Cause of an unknown state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Unavailable {
    /// The cause, as an identifier.
    pub code: String,
    /// The cause, for people.
    #[serde(default)]
    pub message: String,
}

/// Request for an approval.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AccessRequest {
    /// Id of the evaluation that a person approves.
    pub evaluation_id: String,
    /// Time at which the request expires.
    #[serde(default)]
    pub expires_at: Value,
    /// URL at which to request the approval.
    pub endpoint: Option<String>,
    /// `open`, or `refused` once a person has refused.
    #[serde(default)]
    pub state: String,
    /// Text for people about the state.
    #[serde(default)]
    pub message: String,
}

impl AccessRequest {
    /// Returns true if a person has refused.
    pub fn is_refused(&self) -> bool {
        self.state == "refused"
    }
}

/// Tool that an agent may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedTool {
    /// Name of the tool.
    pub name: String,
    /// SHA-256, in hex, of its accepted definition; `None` if none was accepted.
    pub definition: Option<String>,
}

impl Decision {
    /// Parses an answer.
    ///
    /// # Errors
    /// The expected and the found content. A decision that contradicts its outcome is an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let answer: Self =
            serde_json::from_str(text).map_err(|error| format!("expected a decision: {error}"))?;
        let outcome = &answer.context.outcome;
        let Some(known) = Outcome::by_name(outcome) else {
            return Err(format!("expected a decision, found the outcome {outcome:?}"));
        };
        if (known == Outcome::Allow) != answer.decision {
            return Err(format!(
                "expected a decision that is true for the outcome allow only, found {} for {outcome}",
                answer.decision
            ));
        }
        Ok(answer)
    }

    /// Returns true if the call may be made.
    pub const fn is_allowed(&self) -> bool {
        self.decision
    }

    /// Returns true if the same question may get another answer soon, because the state of the session was not known.
    pub fn may_change_soon(&self) -> bool {
        let code = self.context.unavailable.as_ref().map(|unavailable| unavailable.code.as_str());
        code.is_some_and(|code| PASSING.contains(&code))
    }

    /// Returns true if a person may approve the call.
    pub fn is_ask(&self) -> bool {
        self.context.outcome == Outcome::Ask.as_str()
    }

    /// Returns the refused request, if a person has refused the call.
    pub fn refused_request(&self) -> Option<&AccessRequest> {
        self.context.access_request.as_ref().filter(|request| self.is_ask() && request.is_refused())
    }

    /// Returns true if a person may approve the call, and has not decided.
    pub fn waits_for_approval(&self) -> bool {
        self.is_ask() && self.refused_request().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(decision: &str, outcome: &str, more: &str) -> Result<Decision, String> {
        Decision::parse(&format!(
            r#"{{"decision": {decision}, "context": {{"outcome": "{outcome}", "reason": "r", "evaluation_id": "e", "recorded": true{more}}}, "new": 1}}"#
        ))
    }

    #[test]
    fn answer_is_an_allow_only_if_outcome_and_decision_say_so() {
        assert!(parse("true", "allow", "").unwrap().is_allowed());
        for outcome in ["deny", "ask", "indeterminate"] {
            assert!(!parse("false", outcome, "").unwrap().is_allowed(), "{outcome}");
            assert!(parse("true", outcome, "").is_err(), "{outcome}");
        }
        for (decision, outcome) in [("false", "allow"), ("true", "ALLOW"), ("true", ""), ("1", "allow")] {
            assert!(parse(decision, outcome, "").is_err(), "{decision} {outcome}");
        }
        for text in [
            "",
            "null",
            "{}",
            r#"{"decision": true}"#,
            r#"{"decision": true, "decision": false, "context": {}}"#,
        ] {
            assert!(Decision::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn answer_may_change_while_the_state_is_not_known() {
        let unavailable = |code: &str| {
            parse("false", "deny", &format!(r#", "unavailable": {{"code": "{code}"}}"#)).unwrap()
        };
        assert!(PASSING.iter().all(|code| unavailable(code).may_change_soon()));
        assert!(!unavailable("two_partitions").may_change_soon());
        assert!(!parse("false", "deny", "").unwrap().may_change_soon());
    }
}
