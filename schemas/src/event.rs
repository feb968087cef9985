//! Actions, as their producers tell them: subject `action-event`.
//!
//! The types borrow from the bytes they are decoded from. Their serde defaults equal the schema's defaults: tested.

use serde::{Deserialize, Serialize};

use crate::verdict::{BundleRef, JudgeError, TablePosition, Violation};
use crate::{Digest, Micros, Millis, SessionKey, catalogue};

/// Something an agent did or is about to do, as its producer told it. Nobody changes it afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionEvent<'a> {
    /// UUID of the event, version 7, or version 8 where an importer derives it from its file.
    pub event_id: &'a str,
    /// What happened: a name of the catalogue (schemas/src/catalogue.rs). Unknown names pass through and are logged.
    #[serde(rename = "type")]
    pub r#type: &'a str,
    /// The tenant. First half of every key.
    pub tenant_id: &'a str,
    /// Deployment environment, e.g. production. Names as in OpenTelemetry deployment.environment.name.
    pub environment: &'a str,
    /// The session: one conversation or run of one agent. Second half of every key.
    pub session_id: &'a str,
    /// A name of the session for people, e.g. task/trial of a recorded run.
    #[serde(borrow, default)]
    pub session_label: Option<&'a str>,
    /// Who wrote the event, and its number there.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// The producer's claim of when it happened, in microseconds since the epoch. Never used for retention or windows.
    pub occurred_at: Micros,
    /// The agent that acts.
    #[serde(borrow)]
    pub agent: Agent<'a>,
    /// On whose behalf.
    #[serde(borrow, default)]
    pub actor: Option<Actor<'a>>,
    /// The trace that the event belongs to.
    #[serde(borrow, default)]
    pub trace: Option<Trace<'a>>,
    /// The chat message.
    #[serde(borrow, default)]
    pub message: Option<Message<'a>>,
    /// The call, on tool.invoked and tool.retried.
    #[serde(borrow, default)]
    pub tool: Option<ToolCall<'a>>,
    /// The answer, on tool.response_received and tool.failed.
    #[serde(borrow, default)]
    pub result: Option<ToolResult<'a>>,
    /// The model call, on llm.* events.
    #[serde(borrow, default)]
    pub llm: Option<Llm<'a>>,
    /// The decision, on decision.made.
    #[serde(borrow, default)]
    pub decision: Option<Decision<'a>>,
    /// The approval, on approval.asked and approval.given.
    #[serde(borrow, default)]
    pub approval: Option<Approval<'a>>,
    /// On source.closed.
    #[serde(default)]
    pub closing: Option<Closing>,
}

impl<'a> ActionEvent<'a> {
    /// An event that has its identity and says nothing yet: of no environment, at time 0, with every optional field absent.
    /// The rest follows by update syntax, so that a field more changes no caller:
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

    /// Returns whether the event changes the state of its session. The closing event of a source belongs to no session, and
    /// decisions and approvals are about a session: if they changed it, policies would evaluate their own decisions. One that
    /// carries a tool call is a call all the same.
    pub fn is_applied(&self) -> bool {
        use catalogue::{APPROVAL_ASKED, APPROVAL_GIVEN, DECISION_MADE, SOURCE_CLOSED};
        self.tool.is_some()
            || ![SOURCE_CLOSED, DECISION_MADE, APPROVAL_ASKED, APPROVAL_GIVEN].contains(&self.r#type)
    }

    /// True if the policies judge it: its type is judged, or it carries a tool call. A misspelt type is no way around them.
    pub fn is_judged(&self) -> bool {
        self.tool.is_some() || catalogue::is_judged(self.r#type)
    }
}

/// The last word of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// How many events the source wrote before this one: this event's own sequence.
    pub total: i64,
}

/// A request for a person's approval, or the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval<'a> {
    /// Joins the answer to its request.
    pub id: &'a str,
    /// Who was asked, or who answered.
    #[serde(borrow, default)]
    pub approver: Option<&'a str>,
    /// The answer; absent on the request.
    #[serde(default)]
    pub granted: Option<bool>,
    /// In words.
    #[serde(borrow, default)]
    pub comment: Option<&'a str>,
}

/// A decision that was made before or during an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision<'a> {
    /// Who decided: a policy decision point, a guardrail, a person.
    pub by: &'a str,
    /// allow, deny, ask or indeterminate.
    pub decision: &'a str,
    /// The reason: a name of the verdict's reasons if agentgov decided, else words.
    #[serde(borrow, default)]
    pub reason: Option<&'a str>,
    /// The evaluation, if a policy decision point of agentgov decided.
    #[serde(borrow, default)]
    pub evaluation: Option<Evaluation<'a>>,
}

/// How a policy decision point of agentgov reached a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation<'a> {
    /// UUID of the decision: `jti` of its token.
    pub id: &'a str,
    /// The authenticated caller; absent where no caller is authenticated.
    #[serde(borrow, default)]
    pub caller: Option<&'a str>,
    /// Name of the tool that the agent wants to call.
    pub tool: &'a str,
    /// The call's id, if the caller named it.
    #[serde(borrow, default)]
    pub call_id: Option<&'a str>,
    /// The arguments of the call.
    #[serde(borrow)]
    pub arguments: Payload<'a>,
    /// Cedar's determining policies of the enforced set, in order of their ids.
    #[serde(borrow, default)]
    pub determining_policies: Vec<&'a str>,
    /// Every forbid that applied, enforced and observed, in order of their ids.
    #[serde(borrow, default)]
    pub violations: Vec<Violation<'a>>,
    /// The bundle; absent if none was active.
    #[serde(borrow, default)]
    pub bundle: Option<BundleRef<'a>>,
    /// Positions of the governance topics that the decision used.
    #[serde(borrow, default)]
    pub tables: Vec<TablePosition<'a>>,
    /// SHA-256 of `known`; absent if the state of the session was not available.
    #[serde(default)]
    pub known_digest: Option<Digest>,
    /// The known values, as JSON in the form of a verdict; absent if the state of the session was not available.
    #[serde(borrow, default)]
    pub known: Option<&'a str>,
    /// Every error met while deciding.
    #[serde(borrow, default)]
    pub errors: Vec<JudgeError<'a>>,
    /// Records of the session before this position were known; absent if the state of the session was not available.
    #[serde(default)]
    pub through: Option<Through>,
    /// Why the state of the session was not available: a name of docs/errors. Then `unavailable` of the bundle decided,
    /// not its policies.
    #[serde(borrow, default)]
    pub unavailable: Option<&'a str>,
    /// RFC 7638 thumbprint of the key that signed the decision's token; absent if there is no token.
    #[serde(borrow, default)]
    pub key_id: Option<&'a str>,
    /// End of the token's validity, in milliseconds since the epoch; absent if there is no token.
    #[serde(default)]
    pub expires_at: Option<Millis>,
}

/// A position in the topic of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The partition.
    pub partition: i32,
    /// The first offset that is not included.
    pub next_offset: i64,
}

/// A call of a model (OpenTelemetry gen_ai.*).
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

/// What a tool answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult<'a> {
    /// gen_ai.tool.call.id of the call that is answered.
    pub call_id: &'a str,
    /// gen_ai.tool.name, where the producer knows it.
    #[serde(borrow, default)]
    pub name: Option<&'a str>,
    /// True or false if the producer knows whether the call failed; absent if it does not.
    #[serde(default)]
    pub is_error: Option<bool>,
    /// gen_ai.tool.call.result, as the tool gave it.
    #[serde(borrow)]
    pub content: Payload<'a>,
}

/// A call of a tool (OpenTelemetry gen_ai.tool.*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall<'a> {
    /// gen_ai.tool.name.
    pub name: &'a str,
    /// gen_ai.tool.call.id. Not unique in a session: a result belongs to the latest call of its id.
    pub call_id: &'a str,
    /// gen_ai.tool.call.arguments, as the model wrote them.
    #[serde(borrow)]
    pub arguments: Payload<'a>,
    /// The token of the decision on this call, as the policy decision point returned it. A claim: the evaluator verifies it.
    #[serde(borrow, default)]
    pub decision_token: Option<&'a str>,
}

impl<'a> ToolCall<'a> {
    /// A call without the token of a decision.
    pub const fn new(name: &'a str, call_id: &'a str, arguments: Payload<'a>) -> Self {
        Self { name, call_id, arguments, decision_token: None }
    }
}

/// The chat message that the event is, or that a tool call came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<'a> {
    /// Identifier of the message within its session.
    pub id: &'a str,
    /// user, assistant, tool or system.
    pub role: &'a str,
    /// True if the message has non-blank text for the user.
    pub has_text: bool,
    /// How many tool calls the message makes.
    pub tool_calls: i32,
    /// The text; absent on a tool call, whose message is told once by its own event.
    #[serde(borrow, default)]
    pub content: Option<Payload<'a>>,
}

/// Bytes as they came from or went to a model, a tool or a person. Never re-serialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload<'a> {
    /// The bytes as they stand in this event: after redaction, if any.
    #[serde(with = "serde_bytes")]
    pub data: &'a [u8],
    /// SHA-256 of `data`.
    pub sha256: Digest,
    /// What the bytes claim to be, e.g. application/json. A claim: readers must expect anything.
    pub media_type: &'a str,
    /// True if a rule of the producer changed the bytes before they were published.
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
    /// An agent of which only the id is known.
    pub const fn new(id: &'a str) -> Self {
        Self { id, name: None, version: None }
    }
}

/// The running producer instance that wrote the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source<'a> {
    /// One instance of one producer, never used again after it ends.
    pub id: &'a str,
    /// Number of the event at this source: 0, 1, 2 … without a gap.
    pub sequence: i64,
}
