//! Changelog records of the evaluator and the alerter: subjects `session-state` and `alert-state`.
//!
//! The types borrow from the bytes that they are decoded from. A test holds their serde defaults to the schema's.

use serde::{Deserialize, Serialize};

use crate::verdict::{ApprovalFinding, Decision, DecisionCause, Origin};
use crate::{Digest, Micros, Millis, OpenEnum, vocabulary};

/// Sequence numbers of one source that a session has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSequence<'a> {
    /// The source.
    pub id: &'a str,
    /// Highest sequence number seen.
    pub sequence: i64,
    /// The last numbers, at most 16, in the order of arrival. Each has 24 bytes: the number (big-endian, two's complement) and
    /// 16 bytes of the event's digest (ADR 0015).
    #[serde(with = "serde_bytes", default)]
    pub recent: &'a [u8],
    /// Number of entries, of 16 numbers each, that hold the earlier numbers.
    #[serde(default)]
    pub blocks: i32,
    /// Highest sequence number seen by a version that kept no numbers. Which numbers up to this one were sent is not known.
    #[serde(default)]
    pub unknown_through: Option<i64>,
}

/// Sixteen numbers of a source that the header no longer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers<'a> {
    /// The source.
    pub source: &'a str,
    /// Index of this block of sixteen, from 0.
    pub block: i32,
    /// The numbers, 24 bytes each as in the header.
    #[serde(with = "serde_bytes")]
    pub numbers: &'a [u8],
}

/// State of a session besides its facts and calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHeader<'a> {
    /// occurred_at of session.started, or of the first event.
    pub started_at: Micros,
    /// logged_at of the last applied record.
    pub last_logged_at: Millis,
    /// Offset of the last applied record in its partition.
    pub applied_through: i64,
    /// Number of applied events, without duplicates.
    pub events: i64,
    /// Number of applied tool calls.
    pub tool_calls: i32,
    /// Sequence numbers of each source, to recognise duplicates.
    #[serde(borrow)]
    pub sources: Vec<SourceSequence<'a>>,
    /// Number of facts and calls that are kept.
    pub facts: i32,
    /// Size, in bytes, of the facts and calls that are kept.
    pub bytes: i64,
    /// True after session.ended.
    pub ended: bool,
    /// True once the limit kept a fact or call from being stored.
    pub limited: bool,
}

/// Result of an earlier tool call of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact<'a> {
    /// Kind of the fact, from the bundle's tools.yaml.
    pub kind: &'a str,
    /// Key of the fact within its kind.
    pub key: &'a str,
    /// JSON value, unchanged.
    #[serde(with = "serde_bytes")]
    pub value: &'a [u8],
    /// Offset of the event that contains the fact.
    pub offset: i64,
}

/// Latest tool call with a call id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call<'a> {
    /// Call id.
    pub call_id: &'a str,
    /// Name of the tool.
    pub tool: &'a str,
    /// Index of the call in the session.
    pub call_index: i32,
    /// Arguments, unchanged.
    #[serde(with = "serde_bytes")]
    pub arguments: &'a [u8],
    /// Offset of the call's event.
    pub offset: i64,
    /// True once the call has a result.
    pub answered: bool,
    /// Outcome of the decision before the call, if a valid token on it says another than allow.
    #[serde(borrow, default)]
    pub refused: Option<OpenEnum<'a, Decision>>,
}

/// Decision token that a call of the session has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedToken<'a> {
    /// Id of the decision: `jti`.
    pub id: &'a str,
    /// End of the token's validity: `exp`.
    pub expires_at: Millis,
}

vocabulary! {
    /// State of a request for an approval.
    ApprovalState {
        /// No person has decided yet.
        Open = "open",
        /// A person approved the call.
        Granted = "granted",
        /// A person refused the call.
        Refused = "refused",
    }
}

/// Request for a person's approval of one call, with its decision. Avro: `ApprovalState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredApproval<'a> {
    /// Id of the approval: that of the evaluation that asked.
    pub id: &'a str,
    /// Deployment environment of the call.
    pub environment: &'a str,
    /// The agent that wants to call the tool.
    pub agent: &'a str,
    /// Name of the tool.
    pub tool: &'a str,
    /// SHA-256 of the bytes of the arguments.
    pub arguments: Digest,
    /// Person or service on whose behalf the agent asked.
    #[serde(borrow, default)]
    pub actor: Option<&'a str>,
    /// First millisecond at which it is expired, by `logged_at`.
    pub expires_at: Millis,
    /// State of the request.
    #[serde(borrow)]
    pub state: OpenEnum<'a, ApprovalState>,
    /// The approver, once it is decided.
    #[serde(borrow, default)]
    pub approver: Option<&'a str>,
    /// Key that signed the decision.
    #[serde(borrow, default)]
    pub key_id: Option<&'a str>,
    /// Reason why the last decision about it does not count.
    #[serde(borrow, default)]
    pub finding: Option<OpenEnum<'a, ApprovalFinding>>,
    /// Claim or fault that `finding` is about.
    #[serde(borrow, default)]
    pub cause: Option<OpenEnum<'a, DecisionCause>>,
    /// Offset of the call that used it.
    #[serde(default)]
    pub used_at: Option<i64>,
}

/// Progress entry of the evaluator's changelog partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Input offset after the last applied record. If it differs from the committed offset, the changelog is incomplete.
    pub next_offset: i64,
    /// Offset in governance.bundles up to which alerts about refused bundles were emitted. Only partition 0 emits them.
    #[serde(default)]
    pub bundles_announced: i64,
    /// Digest of the evaluation basis of the last applied records; absent: none was recorded.
    #[serde(default)]
    pub basis: Option<Digest>,
}

/// Entry of the evaluator's changelog: a session's header, a fact, a call, numbers of a source, a used token, an
/// approval, or the progress of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState<'a> {
    /// The tenant; empty on progress.
    pub tenant_id: &'a str,
    /// The session; empty on progress.
    pub session_id: &'a str,
    /// The header.
    #[serde(borrow, default)]
    pub header: Option<SessionHeader<'a>>,
    /// A fact.
    #[serde(borrow, default)]
    pub fact: Option<Fact<'a>>,
    /// A call.
    #[serde(borrow, default)]
    pub call: Option<Call<'a>>,
    /// Progress of the partition.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Numbers of a source.
    #[serde(borrow, default)]
    pub numbers: Option<Numbers<'a>>,
    /// A used token.
    #[serde(borrow, default)]
    pub token: Option<UsedToken<'a>>,
    /// An approval.
    #[serde(borrow, default)]
    pub approval: Option<StoredApproval<'a>>,
}

impl<'a> SessionState<'a> {
    /// Creates an entry without content.
    pub const fn new(tenant_id: &'a str, session_id: &'a str) -> Self {
        Self {
            tenant_id,
            session_id,
            header: None,
            fact: None,
            call: None,
            progress: None,
            numbers: None,
            token: None,
            approval: None,
        }
    }
}

/// An open alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertWindow<'a> {
    /// @id of the violated policy.
    pub policy: &'a str,
    /// Id of the alert.
    pub alert_id: &'a str,
    /// Last revision of the alert.
    pub revision: i32,
    /// logged_at of the alert's first action.
    pub opened_at: Millis,
    /// Position of the alert's first action.
    #[serde(borrow)]
    pub first_origin: Origin<'a>,
}

/// Entry of the alerter's changelog: an open alert, or the progress of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertState<'a> {
    /// The tenant; empty on progress.
    pub tenant_id: &'a str,
    /// The session; empty on progress.
    pub session_id: &'a str,
    /// The window.
    #[serde(borrow, default)]
    pub window: Option<AlertWindow<'a>>,
    /// Progress of the partition.
    #[serde(default)]
    pub progress: Option<AlertProgress>,
}

/// Progress entry of the alerter's changelog partition. Avro: `Progress` of `alert-state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertProgress {
    /// Input offset after the last applied record. If it differs from the committed offset, the changelog is incomplete.
    pub next_offset: i64,
}
