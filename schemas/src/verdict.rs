//! Verdicts on actions: subject `verdict`.
//!
//! The types borrow from the bytes that they are decoded from. A test holds their serde defaults to the schema's.

use serde::{Deserialize, Serialize};

use crate::{Digest, Micros, Millis, OpenEnum, vocabulary};

/// Verdict on one action. It refers to the action by position and repeats the fields that analysts filter on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict<'a> {
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
    /// event_id of the action.
    pub event_id: &'a str,
    /// Event type of the action.
    #[serde(rename = "type")]
    pub r#type: &'a str,
    /// occurred_at of the action.
    pub occurred_at: Micros,
    /// Position of the action. Each judged action has exactly one verdict, or one reject of the evaluator.
    #[serde(borrow)]
    pub origin: Origin<'a>,
    /// Name of the tool that was called.
    #[serde(borrow, default)]
    pub tool: Option<&'a str>,
    /// Id of the tool call.
    #[serde(borrow, default)]
    pub call_id: Option<&'a str>,
    /// Index of the tool call in its session, from 0.
    #[serde(default)]
    pub call_index: Option<i32>,
    /// Decision: allow, deny, ask, indeterminate (an error prevented a decision) or duplicate (sent before, not judged again).
    #[serde(borrow)]
    pub decision: OpenEnum<'a, Decision>,
    /// Reason of the decision, e.g. granted, approved, policy, suspended, no_grant, error, no_bundle or duplicate.
    #[serde(borrow)]
    pub reason: OpenEnum<'a, Reason>,
    /// Determining policies, as Cedar defines them, of the enforced set; sorted by id.
    #[serde(borrow)]
    pub determining_policies: Vec<&'a str>,
    /// Every forbid that applied, enforced and observed; sorted by id.
    #[serde(borrow)]
    pub violations: Vec<Violation<'a>>,
    /// Bundle that judged; absent if none was active.
    #[serde(borrow, default)]
    pub bundle: Option<BundleRef<'a>>,
    /// Positions up to which the governance topics were folded.
    #[serde(borrow)]
    pub tables: Vec<TablePosition<'a>>,
    /// SHA-256 over the inputs of the decision in canonical form: derived values, facts, counters and registry entry.
    pub known_digest: Digest,
    /// Inputs of the decision as JSON: derived values, facts referred to (kind, key, origin), counters.
    pub known: &'a str,
    /// Every error that occurred while judging.
    #[serde(borrow)]
    pub errors: Vec<JudgeError<'a>>,
    /// Position of the first sending, on a record that its source has sent before.
    #[serde(borrow, default)]
    pub duplicate_of: Option<DuplicateOf<'a>>,
    /// True if the session had reached its limit; facts may be missing.
    #[serde(default)]
    pub state_limit: bool,
    /// Faults of the record itself, in the order of [`RecordFinding`]. They change no decision.
    #[serde(borrow, default)]
    pub findings: Vec<OpenEnum<'a, RecordFinding>>,
    /// The decision before the call. Absent on a duplicate, and on verdicts of earlier versions.
    #[serde(borrow, default)]
    pub prior_decision: Option<PriorDecision<'a>>,
    /// An approval that concerns the call. Absent if there is none, and on verdicts of earlier versions.
    #[serde(borrow, default)]
    pub approval: Option<ApprovalUse<'a>>,
}

/// Relation of a call to an approval: the one that its token names, or one for the same call in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalUse<'a> {
    /// Id of the approval: that of the evaluation that asked for it.
    pub id: &'a str,
    /// The relation.
    #[serde(borrow)]
    pub finding: OpenEnum<'a, ApprovalFinding>,
    /// Claim or fault that the finding is about; absent if there is none.
    #[serde(borrow, default)]
    pub cause: Option<OpenEnum<'a, DecisionCause>>,
    /// The approver; absent if no valid key signed the decision.
    #[serde(borrow, default)]
    pub approver: Option<&'a str>,
}

/// Relation of a call to the decision that was made before it, according to the token on the call. It changes no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorDecision<'a> {
    /// The relation.
    #[serde(borrow)]
    pub finding: OpenEnum<'a, DecisionFinding>,
    /// Claim, input or fault that the finding is about; absent if there is none.
    #[serde(borrow, default)]
    pub cause: Option<OpenEnum<'a, DecisionCause>>,
    /// UUID of the decision; absent if the token is forged, unless it is expired and of this very call.
    #[serde(borrow, default)]
    pub id: Option<&'a str>,
    /// Outcome of the decision; absent if its id is.
    #[serde(borrow, default)]
    pub outcome: Option<OpenEnum<'a, Decision>>,
    /// True if the bundle requires a decision before each call.
    #[serde(default)]
    pub required: bool,
    /// Code of the reason for which the decision did not know the state of the session; absent if it did.
    #[serde(borrow, default)]
    pub unavailable: Option<&'a str>,
}

impl PriorDecision<'_> {
    /// Returns true if the token is valid and used for the first time, for this very call.
    pub fn is_valid(&self) -> bool {
        matches!(self.finding, OpenEnum::Known(DecisionFinding::Matched | DecisionFinding::Differs))
    }

    /// Returns true if the token is valid but for its expiry when the call was logged.
    pub fn is_expired(&self) -> bool {
        self.finding == DecisionFinding::Forged
            && self.cause.is_some_and(|cause| cause == DecisionCause::Expired)
    }

    /// Returns true if a token that is valid, at least until its expiry, allows the call without the state of its session.
    pub fn is_allowed_unseen(&self) -> bool {
        (self.is_valid() || self.is_expired())
            && self.unavailable.is_some()
            && self.outcome.is_some_and(|outcome| outcome == Decision::Allow)
    }

    /// Returns true if a valid token of another decision than allow is on the call: the caller recorded the call and did
    /// not make it. An expired token proves nothing of the kind, since a second use of it is not recognised.
    pub fn is_prevented(&self) -> bool {
        self.is_valid() && self.outcome.is_some_and(|outcome| outcome != Decision::Allow)
    }
}

vocabulary! {
    /// Relation of a call to the decision before it. If several apply, the verdict has the first in this order.
    DecisionFinding {
        /// The call carries no token.
        Undecided = "undecided",
        /// The token on the call is invalid.
        Forged = "forged",
        /// The token is of a decision on another call.
        Altered = "altered",
        /// An earlier call of the session has used the token.
        Reused = "reused",
        /// The verdict has another decision than the token.
        Differs = "differs",
        /// Verdict and token have the same decision.
        Matched = "matched",
    }
}

vocabulary! {
    /// Relation of a call to an approval.
    ApprovalFinding {
        /// The decision relies on the approval, and uses it up.
        Granted = "granted",
        /// A person approved the call, but its token does not name the approval.
        Unclaimed = "unclaimed",
        /// No person has decided yet.
        Open = "open",
        /// A person refused.
        Refused = "refused",
        /// The signature of the approver's decision is invalid. The cause is that of a [`DecisionFinding::Forged`].
        Forged = "forged",
        /// The approver's decision, or the approval that the token names, is about another call.
        Altered = "altered",
        /// The approver is the person or service for which the call is made, its agent, or the agent's owner or sponsor.
        Own = "own",
        /// An earlier call used the approval.
        Reused = "reused",
        /// The time of the approval was over.
        Expired = "expired",
        /// The session does not have the approval that the token names.
        Unknown = "unknown",
        /// The token names an approval, and the policies do not ask for one.
        NotAsked = "not_asked",
    }
}

impl ApprovalFinding {
    /// Findings that a person must see: somebody who may not approved this call, or an approval of another call is on it.
    pub const SUSPECT: [Self; 4] = [Self::Forged, Self::Altered, Self::Own, Self::Unknown];

    /// Returns true for a finding that a person must see.
    pub fn is_suspect(self) -> bool {
        Self::SUSPECT.contains(&self)
    }
}

vocabulary! {
    /// Cause of a [`DecisionFinding`].
    DecisionCause {
        /// Forged: the text is not a token, or has another algorithm, type or form.
        Malformed = "malformed",
        /// Forged: no key of this id is published.
        UnknownKey = "unknown_key",
        /// Forged: the key is not one of a decision point.
        WrongKind = "wrong_kind",
        /// Forged: another key signed the token, or the token was changed.
        BadSignature = "bad_signature",
        /// Forged: the key was revoked when the call was logged.
        RevokedKey = "revoked_key",
        /// Forged: the key was published after the call was logged.
        NotYetValid = "not_yet_valid",
        /// Forged: the key signs for another tenant.
        WrongTenant = "wrong_tenant",
        /// Forged: the token was expired when the call was logged.
        Expired = "expired",
        /// Altered: the tenant.
        Tenant = "tenant",
        /// Altered: the environment.
        Environment = "environment",
        /// Altered: the session.
        Session = "session",
        /// Altered: the agent.
        Agent = "agent",
        /// Altered: the tool.
        Tool = "tool",
        /// Altered: the id of the call.
        CallId = "call_id",
        /// Altered: the bytes of the arguments.
        Arguments = "args",
        /// Altered: the stated definition of the tool.
        Definition = "definition",
        /// Altered: the partition of the session.
        Partition = "partition",
        /// Altered: the id of the approval.
        Approval = "approval",
        /// Reused: the session has no room for the ids of more tokens, or may forget the id before the token expires, so
        /// another use would not be known.
        Limit = "limit",
        /// Differs: the state of the session was not known when the call was decided.
        Unavailable = "unavailable",
        /// Differs: another bundle was active.
        Bundle = "bundle",
        /// Differs: another position of the table of agents was known.
        Agents = "agents",
        /// Differs: another position of the table of tools was known.
        Tools = "tools",
        /// Differs: records of the session were not known when the call was decided.
        Records = "records",
        /// Differs: fields of the call's event that the token does not bind, such as `message`, `actor` and `occurred_at`.
        Event = "event",
    }
}

vocabulary! {
    /// Outcome of judging an action.
    Decision {
        /// A grant applies, and no enforced rule does, or a person approved the call.
        Allow = "allow",
        /// An enforced rule applies, no grant does, the agent or the tool is suspended, or the tool's definition is not the accepted one.
        Deny = "deny",
        /// Every enforced rule that applies requires a person's approval.
        Ask = "ask",
        /// An error prevented a decision: an input or a policy could not be evaluated.
        Indeterminate = "indeterminate",
        /// The event was sent before and is not judged again.
        Duplicate = "duplicate",
    }
}

vocabulary! {
    /// Reason of a [`Decision`].
    Reason {
        /// A grant applies.
        Granted = "granted",
        /// A person approved a call that the policies let a person decide.
        Approved = "approved",
        /// An enforced rule applies.
        Policy = "policy",
        /// The agent is suspended.
        Suspended = "suspended",
        /// The tool is suspended.
        ToolSuspended = "tool_suspended",
        /// The server of the tool is suspended.
        ServerSuspended = "server_suspended",
        /// The call states a definition of its tool, and none is accepted.
        Unpinned = "unpinned",
        /// The call states another definition of its tool than the accepted one.
        DefinitionChanged = "definition_changed",
        /// No grant applies, or the agent is unregistered or retired.
        NoGrant = "no_grant",
        /// A policy could not be evaluated, or uses a value that could not be computed.
        Error = "error",
        /// No bundle is active for the environment.
        NoBundle = "no_bundle",
        /// The event was sent before.
        Duplicate = "duplicate",
    }
}

vocabulary! {
    /// Severity of a violation.
    Severity {
        /// For information.
        Low = "low",
        /// To be reviewed.
        Medium = "medium",
        /// To be handled soon.
        High = "high",
        /// To be handled at once, at any hour.
        Critical = "critical",
    }
}

vocabulary! {
    /// Mode of a rule.
    Mode {
        /// The rule takes part in the decision.
        Enforce = "enforce",
        /// The rule is evaluated and recorded, without effect on the decision.
        Observe = "observe",
    }
}

vocabulary! {
    /// Effect of an enforced rule that applies.
    RuleEffect {
        /// The action is refused.
        Deny = "deny",
        /// A person must approve the action.
        Ask = "ask",
    }
}

vocabulary! {
    /// Fault of an action's record. The action is still judged. The variants are in the order in which a verdict lists them.
    /// Each has a page in docs/errors.
    RecordFinding {
        /// The record is not in the partition of its session's key.
        Misplaced = "misplaced",
        /// The event carries a tool call, and the catalogue does not have its type.
        UnknownType = "unknown_type",
        /// The event carries a tool call, and its type is not one of tool calls.
        UnexpectedCall = "unexpected_call",
        /// The sequence number is negative; sources count from 0.
        NegativeSequence = "negative_sequence",
        /// The source has sent another event with this sequence number.
        SequenceReused = "sequence_reused",
        /// The sequence number is new, and lower than one that the source has sent before.
        OutOfOrder = "out_of_order",
        /// A version of the evaluator that kept no numbers may have seen this sequence number.
        SequenceUnknown = "sequence_unknown",
        /// The session has more numbers or sources than are kept; a repeat of this number will not be recognised.
        SequenceLimit = "sequence_limit",
    }
}

vocabulary! {
    /// Code of a [`JudgeError`]. Each has a page in docs/errors.
    ErrorCode {
        /// The arguments are not JSON; the values derived from them are errors.
        ArgumentsNotJson = "arguments_not_json",
        /// The arguments have too many values; the values derived from them are errors.
        ArgumentsTooLarge = "arguments_too_large",
        /// The event is a tool call without a tool.
        ToolMissing = "tool_missing",
        /// The expression of a derived value failed; the value is an error.
        DerivedError = "derived_error",
        /// A derived value does not have its declared type; the value is an error.
        DerivedType = "derived_type",
        /// The expression for the facts that a call refers to failed; they are not listed.
        RefersError = "refers_error",
        /// The expression that extracts a fact from a result failed; facts of that kind are no longer certain.
        StatesError = "states_error",
        /// A policy could not be evaluated.
        PolicyError = "policy_error",
        /// The inputs make the verdict larger than its topic's maximum; they are omitted.
        KnownTooLarge = "known_too_large",
    }
}

/// Sequence number that the session has already seen from this source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateOf<'a> {
    /// Id of the source.
    pub source_id: &'a str,
    /// Sequence number of this event.
    pub sequence: i64,
    /// Highest sequence number seen before this event.
    pub last_sequence: i64,
}

/// Error that occurred while judging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeError<'a> {
    /// Kind of error.
    #[serde(borrow)]
    pub code: OpenEnum<'a, ErrorCode>,
    /// Derived value, policy or field with the error.
    pub subject: &'a str,
    /// Description for people.
    pub message: &'a str,
}

/// Position up to which a governance topic was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePosition<'a> {
    /// The governance topic.
    pub topic: &'a str,
    /// First offset that was not yet folded.
    pub next_offset: i64,
}

/// Reference to the bundle that judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRef<'a> {
    /// Name of the bundle.
    pub name: &'a str,
    /// Version of the bundle.
    pub version: &'a str,
    /// Digest of the bundle.
    pub digest: Digest,
}

/// Forbid policy that applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation<'a> {
    /// @id of the policy.
    pub policy: &'a str,
    /// Severity: low, medium, high or critical.
    #[serde(borrow)]
    pub severity: OpenEnum<'a, Severity>,
    /// Mode: enforce or observe.
    #[serde(borrow)]
    pub mode: OpenEnum<'a, Mode>,
    /// Effect: deny or ask.
    #[serde(borrow)]
    pub effect: OpenEnum<'a, RuleEffect>,
}

/// Position of a record in Kafka, which identifies a record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Append time at the broker, in milliseconds since the epoch.
    pub logged_at: Millis,
}
