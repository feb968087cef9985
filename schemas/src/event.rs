//! Events about the actions of agents: subject `action-event`.
//!
//! The types borrow from the bytes that they are decoded from. A test holds their serde defaults to the schema's.

use serde::{Deserialize, Serialize};

use crate::bounds::MAX_ID_BYTES;
use crate::verdict::{BundleRef, JudgeError, TablePosition, Violation};
use crate::{Digest, Micros, Millis, SessionKey, catalogue};

/// Action that an agent did or is about to do, as its producer recorded it. Immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionEvent<'a> {
    /// UUID of the event, version 7, or version 8 where an importer derives it from its file.
    pub event_id: &'a str,
    /// Event type, from the catalogue (schemas/src/catalogue.rs). Unknown types pass through and are logged.
    #[serde(rename = "type")]
    pub r#type: &'a str,
    /// The tenant. First half of every key.
    pub tenant_id: &'a str,
    /// Deployment environment, e.g. production. Names as in OpenTelemetry deployment.environment.name.
    pub environment: &'a str,
    /// The session: one conversation or run of one agent. Second half of every key.
    pub session_id: &'a str,
    /// Display name of the session, e.g. task/trial of a recorded run.
    #[serde(borrow, default)]
    pub session_label: Option<&'a str>,
    /// Producer instance that wrote the event, and the event's sequence number there.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// Time of the action as the producer claims it, in microseconds since the epoch. Never used for retention or windows.
    pub occurred_at: Micros,
    /// The agent that acts.
    #[serde(borrow)]
    pub agent: Agent<'a>,
    /// Person or service on whose behalf the agent acts.
    #[serde(borrow, default)]
    pub actor: Option<Actor<'a>>,
    /// The trace that the event belongs to.
    #[serde(borrow, default)]
    pub trace: Option<Trace<'a>>,
    /// The chat message.
    #[serde(borrow, default)]
    pub message: Option<Message<'a>>,
    /// The tool call, on tool.invoked and tool.retried.
    #[serde(borrow, default)]
    pub tool: Option<ToolCall<'a>>,
    /// The tool's result, on tool.response_received and tool.failed.
    #[serde(borrow, default)]
    pub result: Option<ToolResult<'a>>,
    /// The model call, on llm.* events.
    #[serde(borrow, default)]
    pub llm: Option<Llm<'a>>,
    /// The decision, on decision.made.
    #[serde(borrow, default)]
    pub decision: Option<Decision<'a>>,
    /// The approval, on approval.asked and approval.decided.
    #[serde(borrow, default)]
    pub approval: Option<Approval<'a>>,
    /// Number of events of the source, on source.closed.
    #[serde(default)]
    pub closing: Option<Closing>,
}

impl<'a> ActionEvent<'a> {
    /// Returns the field and the size of the first id or name above [`MAX_ID_BYTES`]. The evaluator rejects such an event, because
    /// these names are parts of keys and repeated in each header, verdict and alert, which must have room for the rest.
    pub fn too_long_id(&self) -> Option<(&'static str, usize)> {
        let ids = [
            ("event_id", self.event_id),
            ("type", self.r#type),
            ("environment", self.environment),
            ("session_id", self.session_id),
            ("source.id", self.source.id),
            ("agent.id", self.agent.id),
            ("tool.name", self.tool.as_ref().map_or("", |tool| tool.name)),
            ("tool.call_id", self.tool.as_ref().map_or("", |tool| tool.call_id)),
            ("result.call_id", self.result.as_ref().map_or("", |result| result.call_id)),
            ("approval.tool", self.approval.and_then(|approval| approval.tool).unwrap_or("")),
        ];
        let too_long = ids.iter().find(|(_, id)| id.len() > MAX_ID_BYTES)?;
        Some((too_long.0, too_long.1.len()))
    }

    /// Creates an event with the given identity, an empty environment, time 0, and no optional field. Callers set the other
    /// fields with struct update syntax, so that a new field changes no caller:
    ///
    /// ```
    /// # use agentgov_schemas::SessionKey;
    /// # use agentgov_schemas::event::{ActionEvent, Agent, Source};
    /// # let (session, source) = (SessionKey { tenant_id: "acme", session_id: "s" }, Source { id: "a", sequence: 0 });
    /// let event = ActionEvent {
    ///     environment: "production",
    ///     ..ActionEvent::new("0192f0c1-0000-7000-8000-000000000000", "user.input", session, source, Agent::new("bot"))
    /// };
    /// ```
    pub const fn new(
        event_id: &'a str,
        r#type: &'a str,
        session: SessionKey<'a>,
        source: Source<'a>,
        agent: Agent<'a>,
    ) -> Self {
        Self {
            event_id,
            r#type,
            tenant_id: session.tenant_id,
            environment: "",
            session_id: session.session_id,
            session_label: None,
            source,
            occurred_at: Micros(0),
            agent,
            actor: None,
            trace: None,
            message: None,
            tool: None,
            result: None,
            llm: None,
            decision: None,
            approval: None,
            closing: None,
        }
    }

    /// Returns whether the event is applied to its session: it counts, and begins the session. The closing event of a source
    /// belongs to no session, and decisions and approvals must not count, or policies would evaluate their own decisions. An
    /// event that carries a tool call is applied in any case.
    pub fn is_applied(&self) -> bool {
        use catalogue::{APPROVAL_ASKED, APPROVAL_DECIDED, DECISION_MADE, SOURCE_CLOSED};
        self.tool.is_some()
            || ![SOURCE_CLOSED, DECISION_MADE, APPROVAL_ASKED, APPROVAL_DECIDED].contains(&self.r#type)
    }

    /// Returns whether the event asks for an approval or decides one. It changes the approvals of its session only.
    pub fn is_approval(&self) -> bool {
        self.tool.is_none() && [catalogue::APPROVAL_ASKED, catalogue::APPROVAL_DECIDED].contains(&self.r#type)
    }

    /// Returns true if policies judge the event: its type is judged, or it carries a tool call. A misspelt type therefore does
    /// not bypass the policies.
    pub fn is_judged(&self) -> bool {
        self.tool.is_some() || catalogue::is_judged(self.r#type)
    }
}

/// Content of a source.closed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Number of events that the source wrote before this one; equal to this event's sequence.
    pub total: i64,
}

/// A request for a person's approval, or the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval<'a> {
    /// Identifier that the request and its decision share. Of a policy decision point of agentgov: the UUID of the evaluation
    /// that asked.
    pub id: &'a str,
    /// Person whose approval is requested, or who decided.
    #[serde(borrow, default)]
    pub approver: Option<&'a str>,
    /// The decision; absent on the request.
    #[serde(default)]
    pub granted: Option<bool>,
    /// Why a person is asked, or the reason of the decision, for people.
    #[serde(borrow, default)]
    pub comment: Option<&'a str>,
    /// Name of the tool that the agent wants to call.
    #[serde(borrow, default)]
    pub tool: Option<&'a str>,
    /// Id of the call, if the caller of the decision point gave it.
    #[serde(borrow, default)]
    pub call_id: Option<&'a str>,
    /// Arguments of the call. The approval is for exactly these bytes.
    #[serde(borrow, default)]
    pub arguments: Option<Payload<'a>>,
    /// First millisecond at which the approval is expired, since the epoch.
    #[serde(default)]
    pub expires_at: Option<Millis>,
    /// The decision as the approver signed it. The other fields of a decision are for people and queries: only these claims
    /// count.
    #[serde(borrow, default)]
    pub token: Option<&'a str>,
}

impl<'a> Approval<'a> {
    /// Creates an approval with its id only. Callers set other fields with struct update syntax.
    pub const fn new(id: &'a str) -> Self {
        Self {
            id,
            approver: None,
            granted: None,
            comment: None,
            tool: None,
            call_id: None,
            arguments: None,
            expires_at: None,
            token: None,
        }
    }
}

/// A decision that was made before or during an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision<'a> {
    /// Decider: a policy decision point, a guardrail or a person.
    pub by: &'a str,
    /// allow, deny, ask or indeterminate.
    pub decision: &'a str,
    /// Reason: a name of a verdict's reason if agentgov decided, otherwise a text for people.
    #[serde(borrow, default)]
    pub reason: Option<&'a str>,
    /// The evaluation, if a policy decision point of agentgov decided. Boxed, since most events have none.
    #[serde(borrow, default)]
    pub evaluation: Option<Box<Evaluation<'a>>>,
}

/// Evaluation by a policy decision point of agentgov, with inputs and result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation<'a> {
    /// UUID of the decision: `jti` of its token.
    pub id: &'a str,
    /// Authenticated caller; absent without authentication.
    #[serde(borrow, default)]
    pub caller: Option<&'a str>,
    /// Name of the tool that the agent wants to call.
    pub tool: &'a str,
    /// Id of the tool call, if the caller gave it.
    #[serde(borrow, default)]
    pub call_id: Option<&'a str>,
    /// Arguments of the tool call.
    #[serde(borrow)]
    pub arguments: Payload<'a>,
    /// Determining policies, as Cedar defines them, of the enforced set; sorted by id.
    #[serde(borrow, default)]
    pub determining_policies: Vec<&'a str>,
    /// Every forbid that applied, enforced and observed; sorted by id.
    #[serde(borrow, default)]
    pub violations: Vec<Violation<'a>>,
    /// Bundle that decided; absent if none was active.
    #[serde(borrow, default)]
    pub bundle: Option<BundleRef<'a>>,
    /// Positions of the governance topics that the decision used.
    #[serde(borrow, default)]
    pub tables: Vec<TablePosition<'a>>,
    /// SHA-256 of `known`; absent if the state of the session was not available.
    #[serde(default)]
    pub known_digest: Option<Digest>,
    /// Inputs of the decision as JSON, in the form of a verdict; absent if the state of the session was not available.
    #[serde(borrow, default)]
    pub known: Option<&'a str>,
    /// Every error that occurred while deciding.
    #[serde(borrow, default)]
    pub errors: Vec<JudgeError<'a>>,
    /// Position up to which the session's records were applied; absent if the state of the session was not available.
    #[serde(default)]
    pub through: Option<Through>,
    /// Reason for which the state of the session was not available; each has a page in docs/errors. Then the setting `unavailable` of
    /// the bundle decided instead of its policies.
    #[serde(borrow, default)]
    pub unavailable: Option<&'a str>,
    /// RFC 7638 thumbprint of the key that signed the decision's token; absent if there is no token.
    #[serde(borrow, default)]
    pub key_id: Option<&'a str>,
    /// End of the token's validity, in milliseconds since the epoch; absent if there is no token.
    #[serde(default)]
    pub expires_at: Option<Millis>,
    /// SHA-256 of the tool's definition, if the caller stated it.
    #[serde(default)]
    pub definition: Option<Digest>,
    /// Id of the approval that the decision relies on.
    #[serde(borrow, default)]
    pub approval: Option<&'a str>,
}

/// Position in the topic of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The partition.
    pub partition: i32,
    /// The first offset that is not included.
    pub next_offset: i64,
}

/// Call of a model (OpenTelemetry gen_ai.*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Llm<'a> {
    /// gen_ai.provider.name.
    pub provider_name: &'a str,
    /// gen_ai.request.model.
    pub request_model: &'a str,
    /// gen_ai.response.model.
    #[serde(borrow, default)]
    pub response_model: Option<&'a str>,
    /// gen_ai.usage.input_tokens.
    #[serde(default)]
    pub input_tokens: Option<i64>,
    /// gen_ai.usage.output_tokens.
    #[serde(default)]
    pub output_tokens: Option<i64>,
    /// gen_ai.response.finish_reasons, joined by commas.
    #[serde(borrow, default)]
    pub finish_reason: Option<&'a str>,
    /// error.type, on llm.failed.
    #[serde(borrow, default)]
    pub error_type: Option<&'a str>,
}

/// Result of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult<'a> {
    /// gen_ai.tool.call.id of the call.
    pub call_id: &'a str,
    /// gen_ai.tool.name, if the producer knows it.
    #[serde(borrow, default)]
    pub name: Option<&'a str>,
    /// Whether the call failed; absent if the producer does not know.
    #[serde(default)]
    pub is_error: Option<bool>,
    /// gen_ai.tool.call.result, unchanged.
    #[serde(borrow)]
    pub content: Payload<'a>,
}

/// Call of a tool (OpenTelemetry gen_ai.tool.*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall<'a> {
    /// gen_ai.tool.name.
    pub name: &'a str,
    /// gen_ai.tool.call.id. Not unique in a session: a result belongs to the latest call of its id.
    pub call_id: &'a str,
    /// gen_ai.tool.call.arguments, unchanged.
    #[serde(borrow)]
    pub arguments: Payload<'a>,
    /// The token of the decision on this call, as the policy decision point returned it. A claim: the evaluator verifies it.
    #[serde(borrow, default)]
    pub decision_token: Option<&'a str>,
    /// SHA-256 of the tool's definition that the enforcement point saw, as RFC 8785 JSON; absent if it saw none. The kernel compares
    /// it with the accepted one.
    #[serde(default)]
    pub definition: Option<Digest>,
}

impl<'a> ToolCall<'a> {
    /// Creates a call without the token of a decision, and without a definition.
    pub const fn new(name: &'a str, call_id: &'a str, arguments: Payload<'a>) -> Self {
        Self { name, call_id, arguments, decision_token: None, definition: None }
    }
}

/// Chat message that the event records, or that contains the tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<'a> {
    /// Identifier of the message within its session.
    pub id: &'a str,
    /// user, assistant, tool or system.
    pub role: &'a str,
    /// True if the message has non-blank text for the user.
    pub has_text: bool,
    /// Number of tool calls in the message.
    pub tool_calls: i32,
    /// Text of the message; absent on a tool call, since the message has an event of its own.
    #[serde(borrow, default)]
    pub content: Option<Payload<'a>>,
}

/// Bytes that a model, a tool or a person sent or received. Never re-serialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload<'a> {
    /// The bytes, after redaction if there was any.
    #[serde(with = "serde_bytes")]
    pub data: &'a [u8],
    /// SHA-256 of `data`.
    pub sha256: Digest,
    /// Media type that the producer claims, e.g. application/json. Readers must expect any bytes.
    pub media_type: &'a str,
    /// True if the producer redacted the bytes before it published them.
    #[serde(default)]
    pub redacted: bool,
}

/// W3C trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace<'a> {
    /// 32 hex digits.
    pub trace_id: &'a str,
    /// 16 hex digits.
    pub span_id: &'a str,
}

/// The person or service on whose behalf the agent acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor<'a> {
    /// Identifier within the tenant.
    pub id: &'a str,
    /// human or service.
    #[serde(rename = "type")]
    pub r#type: &'a str,
}

/// The acting agent (OpenTelemetry gen_ai.agent.*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent<'a> {
    /// gen_ai.agent.id; the key into the agent registry.
    pub id: &'a str,
    /// gen_ai.agent.name.
    #[serde(borrow, default)]
    pub name: Option<&'a str>,
    /// gen_ai.agent.version.
    #[serde(borrow, default)]
    pub version: Option<&'a str>,
}

impl<'a> Agent<'a> {
    /// Creates an agent with an id, without name and version.
    pub const fn new(id: &'a str) -> Self {
        Self { id, name: None, version: None }
    }
}

/// The running producer instance that wrote the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source<'a> {
    /// Identifier of the producer instance. Never used again after the instance ends.
    pub id: &'a str,
    /// Sequence number of the event at this source: 0, 1, 2 … without a gap.
    pub sequence: i64,
}
