//! What a caller says of an action. The recorder adds ids, the clock, the number at the source, and the digests.

use agentgov_schemas::Micros;
use agentgov_schemas::event::{Actor, Agent, Approval, Decision, Llm, Trace};
use uuid::Uuid;

/// Bytes as they came from or went to a model, a tool or a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The bytes. Published as they are, unless the recorder's [`Redact`](crate::Redact) says otherwise.
    pub data: &'a [u8],
    /// What they claim to be, e.g. application/json.
    pub media_type: &'a str,
}

/// The chat message that the event is, or that a tool call came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Identifier of the message within its session.
    pub id: &'a str,
    /// user, assistant, tool or system.
    pub role: &'a str,
    /// True if the message has non-blank text for the user.
    pub has_text: bool,
    /// How many tool calls the message makes.
    pub tool_calls: i32,
    /// The text; `None` on a tool call, whose message is told once by its own event.
    pub content: Option<Content<'a>>,
}

/// A call of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolCall<'a> {
    /// Name of the tool.
    pub name: &'a str,
    /// The call's id, as the model chose it.
    pub call_id: &'a str,
    /// The arguments, as the model wrote them.
    pub arguments: Content<'a>,
    /// The token of the decision on this call, as the policy decision point returned it.
    pub decision_token: Option<&'a str>,
}

impl<'a> ToolCall<'a> {
    /// A call without the token of a decision.
    pub const fn new(name: &'a str, call_id: &'a str, arguments: Content<'a>) -> Self {
        Self { name, call_id, arguments, decision_token: None }
    }
}

/// What a tool answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolResult<'a> {
    /// Id of the call that is answered.
    pub call_id: &'a str,
    /// Name of the tool, where the caller knows it. Rules of redaction by tool need it.
    pub name: Option<&'a str>,
    /// Whether the call failed, where the caller knows it.
    pub is_error: Option<bool>,
    /// The answer, as the tool gave it.
    pub content: Content<'a>,
}

/// One action of an agent, as its caller tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What happened: a name of [`agentgov_schemas::catalogue`]. Unknown names pass through and are logged.
    pub r#type: &'a str,
    /// The session: one conversation or run of one agent. Events of a session keep the order in which they are recorded.
    pub session_id: &'a str,
    /// A name of the session for people.
    pub session_label: Option<&'a str>,
    /// When it happened; `None`: now.
    pub occurred_at: Option<Micros>,
    /// Its id; `None`: a new UUID, version 7.
    pub event_id: Option<Uuid>,
    /// The agent that acts.
    pub agent: Agent<'a>,
    /// On whose behalf.
    pub actor: Option<Actor<'a>>,
    /// The trace that the event belongs to.
    pub trace: Option<Trace<'a>>,
    /// The chat message.
    pub message: Option<Message<'a>>,
    /// The call, on tool.invoked and tool.retried.
    pub tool: Option<ToolCall<'a>>,
    /// The answer, on tool.response_received and tool.failed.
    pub result: Option<ToolResult<'a>>,
    /// The model call, on llm.* events.
    pub llm: Option<Llm<'a>>,
    /// The decision, on decision.made.
    pub decision: Option<&'a Decision<'a>>,
    /// The approval, on approval.asked and approval.given.
    pub approval: Option<Approval<'a>>,
}

impl<'a> Event<'a> {
    /// An event with nothing but its type, session and agent; the rest by struct update syntax.
    pub const fn new(r#type: &'a str, session_id: &'a str, agent: Agent<'a>) -> Self {
        Self {
            r#type,
            session_id,
            session_label: None,
            occurred_at: None,
            event_id: None,
            agent,
            actor: None,
            trace: None,
            message: None,
            tool: None,
            result: None,
            llm: None,
            decision: None,
            approval: None,
        }
    }
}
