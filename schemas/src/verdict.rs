//! What the policies say of an action: subject `verdict`.
//!
//! The types borrow from the bytes they are decoded from. Their serde defaults equal the schema's defaults: tested.

use serde::{Deserialize, Serialize};

use crate::{Digest, Micros, Millis, OpenEnum, vocabulary};

/// What the policies say of one action. It points at its action and repeats the few fields that analysts filter on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict<'a> {
    /// The tenant. First half of every key.
    pub tenant_id: &'a str,
    /// Deployment environment, e.g. production. Names as in OpenTelemetry deployment.environment.name.
    pub environment: &'a str,
    /// The session: one conversation or run of one agent. Second half of every key.
    pub session_id: &'a str,
    /// A name of the session for people, e.g. task/trial of a recorded run.
    #[serde(borrow, default)]
    pub session_label: Option<&'a str>,
    /// The acting agent.
    pub agent_id: &'a str,
    /// The action's event_id.
    pub event_id: &'a str,
    /// The action's type.
    #[serde(rename = "type")]
    pub r#type: &'a str,
    /// The action's occurred_at.
    pub occurred_at: Micros,
    /// Where the action stands. Each judged action has one verdict, or one reject of the evaluator.
    #[serde(borrow)]
    pub origin: Origin<'a>,
    /// Name of the tool that was called.
    #[serde(borrow, default)]
    pub tool: Option<&'a str>,
    /// The call's id.
    #[serde(borrow, default)]
    pub call_id: Option<&'a str>,
    /// Index of the tool call in its session, from 0.
    #[serde(default)]
    pub call_index: Option<i32>,
    /// allow, deny, ask, indeterminate (an error kept the policies from deciding) or duplicate (sent before: not judged again).
    #[serde(borrow)]
    pub decision: OpenEnum<'a, Decision>,
    /// Why: granted, policy, no_grant, error, no_bundle or duplicate.
    #[serde(borrow)]
    pub reason: OpenEnum<'a, Reason>,
    /// Cedar's determining policies of the enforced set, in order of their ids.
    #[serde(borrow)]
    pub determining_policies: Vec<&'a str>,
    /// Every forbid that applied, enforced and observed, in order of their ids.
    #[serde(borrow)]
    pub violations: Vec<Violation<'a>>,
    /// The bundle; absent if none was active.
    #[serde(borrow, default)]
    pub bundle: Option<BundleRef<'a>>,
    /// What was known of the registry.
    #[serde(borrow)]
    pub tables: Vec<TablePosition<'a>>,
    /// SHA-256 over what was known: derived values, facts, counters and registry entry, in canonical form.
    pub known_digest: Digest,
    /// What was known, as JSON: derived values, facts referred to (kind, key, origin), counters.
    pub known: &'a str,
    /// Every error met while judging.
    #[serde(borrow)]
    pub errors: Vec<JudgeError<'a>>,
    /// Present on a record that its source sent before.
    #[serde(borrow, default)]
    pub duplicate_of: Option<DuplicateOf<'a>>,
    /// True if the session had reached its limit, so that facts may be missing.
    #[serde(default)]
    pub state_limit: bool,
    /// What is wrong with the record itself, beside what the policies say, in the order of [`RecordFinding`].
    #[serde(borrow, default)]
    pub findings: Vec<OpenEnum<'a, RecordFinding>>,
}

vocabulary! {
    /// Outcome of judging an action.
    Decision {
        /// A grant applies, and no enforced rule.
        Allow = "allow",
        /// An enforced rule applies, or no grant does.
        Deny = "deny",
        /// Only rules apply that want a person's approval.
        Ask = "ask",
        /// An error kept the policies from deciding: what is known, or a policy, could not be computed.
        Indeterminate = "indeterminate",
        /// The event was sent before: it is not judged again.
        Duplicate = "duplicate",
    }
}

vocabulary! {
    /// Reason of a [`Decision`].
    Reason {
        /// A grant applies.
        Granted = "granted",
        /// An enforced rule applies.
        Policy = "policy",
        /// No grant applies, or the agent is not active.
        NoGrant = "no_grant",
        /// A policy could not be evaluated, or mentions a value that could not be computed.
        Error = "error",
        /// No bundle is active for the environment.
        NoBundle = "no_bundle",
        /// The event was sent before.
        Duplicate = "duplicate",
    }
}

vocabulary! {
    /// How bad a violation is.
    Severity {
        /// Worth knowing.
        Low = "low",
        /// Worth a look.
        Medium = "medium",
        /// Worth an interruption.
        High = "high",
        /// Worth waking someone.
        Critical = "critical",
    }
}

vocabulary! {
    /// Whether a rule decides.
    Mode {
        /// It decides.
        Enforce = "enforce",
        /// It is only noted.
        Observe = "observe",
    }
}

vocabulary! {
    /// Decision of an enforced rule that applies.
    RuleEffect {
        /// The action is refused.
        Deny = "deny",
        /// A person must approve the action.
        Ask = "ask",
    }
}

vocabulary! {
    /// Fault of an action's record that does not keep it from being judged, in the order in which a verdict has them. Each has
    /// a page in docs/errors.
    RecordFinding {
        /// The record does not stand in the partition of its session's key.
        Misplaced = "misplaced",
        /// The event carries a tool call and is of a type that the catalogue does not have.
        UnknownType = "unknown_type",
        /// The event carries a tool call and is of a known type that is no call's.
        UnexpectedCall = "unexpected_call",
        /// The number is negative: sources count from 0.
        NegativeSequence = "negative_sequence",
        /// The source sent something else under this number.
        SequenceReused = "sequence_reused",
        /// The number is below one that the source sent before, and was not seen.
        OutOfOrder = "out_of_order",
        /// The number may have been seen by a version of the evaluator that kept no numbers.
        SequenceUnknown = "sequence_unknown",
        /// The session has more numbers or sources than are kept: a repeat of this number will not be recognised.
        SequenceLimit = "sequence_limit",
    }
}

vocabulary! {
    /// Code of a [`JudgeError`]. Each has a page in docs/errors.
    ErrorCode {
        /// The arguments are no JSON: what is derived from them erred.
        ArgumentsNotJson = "arguments_not_json",
        /// The arguments have too many values: what is derived from them erred.
        ArgumentsTooLarge = "arguments_too_large",
        /// The event says that a tool is called, but not which.
        ToolMissing = "tool_missing",
        /// The expression of a derived value failed: the value erred.
        DerivedError = "derived_error",
        /// A derived value has not the type that it declares: it erred.
        DerivedType = "derived_type",
        /// The expression that says which facts a call refers to failed: those are not listed.
        RefersError = "refers_error",
        /// An expression that extracts a fact from a result failed: facts of that kind are no longer certain.
        StatesError = "states_error",
        /// A policy could not be evaluated.
        PolicyError = "policy_error",
        /// What was known makes the verdict larger than its topic takes: it is left out.
        KnownTooLarge = "known_too_large",
    }
}

/// The sequence that the session had already seen from this source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateOf<'a> {
    /// The source.
    pub source_id: &'a str,
    /// This event's sequence.
    pub sequence: i64,
    /// The highest sequence seen before it.
    pub last_sequence: i64,
}

/// Something that could not be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeError<'a> {
    /// What kind of error it is.
    #[serde(borrow)]
    pub code: OpenEnum<'a, ErrorCode>,
    /// The derived value, policy or field concerned.
    pub subject: &'a str,
    /// What went wrong.
    pub message: &'a str,
}

/// How far a governance topic had been folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePosition<'a> {
    /// The governance topic.
    pub topic: &'a str,
    /// The first offset not yet folded.
    pub next_offset: i64,
}

/// The bundle that judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its digest.
    pub digest: Digest,
}

/// A forbid policy that applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation<'a> {
    /// The policy's @id.
    pub policy: &'a str,
    /// low, medium, high or critical.
    #[serde(borrow)]
    pub severity: OpenEnum<'a, Severity>,
    /// enforce or observe.
    #[serde(borrow)]
    pub mode: OpenEnum<'a, Mode>,
    /// deny or ask.
    #[serde(borrow)]
    pub effect: OpenEnum<'a, RuleEffect>,
}

/// Where a record stands in Kafka: the identity of a record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The broker's append time, in milliseconds since the epoch.
    pub logged_at: Millis,
}
