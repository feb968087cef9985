//! Alerts about violations: subject `alert`.
//!
//! The types borrow from the bytes that they are decoded from. A test holds their serde defaults to the schema's.

use serde::{Deserialize, Serialize};

use crate::verdict::{Decision, Mode, Origin, Severity};
use crate::{Digest, Micros, Millis, OpenEnum, Vocabulary};

/// Policy id of alerts about the result of a call whose decision was not allow. The evaluator emits them, since the call has
/// its verdict before the result arrives.
pub const REFUSED_POLICY: &str = "agentgov:refused";

/// Alert about a violation. Violations of one policy in one session share an alert id within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert<'a> {
    /// Hash of tenant, session, policy and first origin, in hex.
    pub alert_id: &'a str,
    /// Revision of the alert: 0 for the first violation, then 1, 2 …
    pub revision: i32,
    /// The tenant. First half of every key.
    pub tenant_id: &'a str,
    /// Deployment environment, e.g. production. Names as in OpenTelemetry deployment.environment.name.
    pub environment: &'a str,
    /// The session: one conversation or run of one agent. Second half of every key.
    pub session_id: &'a str,
    /// Display name of the session, e.g. task/trial of a recorded run.
    #[serde(borrow, default)]
    pub session_label: Option<&'a str>,
    /// The acting agent.
    pub agent_id: &'a str,
    /// The action's event_id.
    pub event_id: &'a str,
    /// @id of the violated policy, or a built-in name such as agentgov:no-grant if no policy applies.
    pub policy: &'a str,
    /// Severity of the violation: low, medium, high or critical.
    #[serde(borrow)]
    pub severity: OpenEnum<'a, Severity>,
    /// Mode of the policy: enforce or observe.
    #[serde(borrow)]
    pub mode: OpenEnum<'a, Mode>,
    /// The verdict's decision, or `refused` or `rejected` for an alert that no verdict raised.
    #[serde(borrow)]
    pub decision: OpenEnum<'a, AlertDecision>,
    /// Name of the tool that was called.
    #[serde(borrow, default)]
    pub tool: Option<&'a str>,
    /// Index of the tool call in its session, from 0.
    #[serde(default)]
    pub call_index: Option<i32>,
    /// One-line description of the violation for people.
    pub message: &'a str,
    /// occurred_at of the action.
    pub occurred_at: Micros,
    /// logged_at of the alert's first action.
    pub opened_at: Millis,
    /// Position of this revision's action.
    #[serde(borrow)]
    pub origin: Origin<'a>,
    /// Position of the action that opened the alert.
    #[serde(borrow)]
    pub first_origin: Origin<'a>,
    /// Digest of the bundle that judged.
    #[serde(default)]
    pub bundle_digest: Option<Digest>,
    /// True if the call carries a valid token of a decision other than allow: the caller recorded the call and did not
    /// make it.
    #[serde(default)]
    pub prevented: bool,
}

/// Decision of an [`Alert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AlertDecision {
    /// Decision of the verdict that raised the alert.
    Verdict(Decision),
    /// A bundle that does not load raised the alert.
    Refused,
    /// A stage that rejects many records raised the alert.
    Rejected,
}

impl Vocabulary for AlertDecision {
    const ALL: &'static [Self] = &[
        Self::Verdict(Decision::Allow),
        Self::Verdict(Decision::Deny),
        Self::Verdict(Decision::Ask),
        Self::Verdict(Decision::Indeterminate),
        Self::Verdict(Decision::Duplicate),
        Self::Refused,
        Self::Rejected,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Verdict(decision) => decision.as_str(),
            Self::Refused => "refused",
            Self::Rejected => "rejected",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        match name {
            "refused" => Some(Self::Refused),
            "rejected" => Some(Self::Rejected),
            verdict => Decision::by_name(verdict).map(Self::Verdict),
        }
    }
}
