//! Input of a recorder: one action of an agent. The recorder adds ids, the time, the sequence number and the digests.

use agentgov_schemas::event::{Actor, Agent, Approval, Decision, Llm, Trace};
use agentgov_schemas::{Digest, Micros};
use uuid::Uuid;

/// Bytes sent to or received from a model, a tool or a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The bytes. Published unchanged, unless the recorder's [`Redact`](crate::Redact) hook replaces them.
    pub data: &'a [u8],
    /// Media type, e.g. application/json.
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
    /// Number of tool calls in the message.
    pub tool_calls: i32,
    /// The text. `None` on a tool call: the text of its message has an event of its own.
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
    /// SHA-256 of the tool's definition that the enforcement point saw, as RFC 8785 JSON; `None` if it saw none.
    pub definition: Option<Digest>,
}

impl<'a> ToolCall<'a> {
    /// Creates a call without a decision token, and without a definition.
    pub const fn new(name: &'a str, call_id: &'a str, arguments: Content<'a>) -> Self {
        Self { name, call_id, arguments, decision_token: None, definition: None }
    }
}

/// The answer of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolResult<'a> {
    /// Id of the answered call.
    pub call_id: &'a str,
    /// Name of the tool, if the caller knows it. Redaction by tool needs it.
    pub name: Option<&'a str>,
    /// Whether the call failed, if the caller knows it.
    pub is_error: Option<bool>,
    /// The answer, as the tool returned it.
    pub content: Content<'a>,
}

/// One action of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Event type, a name of [`agentgov_schemas::catalogue`]. Unknown names pass through and are logged.
    pub r#type: &'a str,
    /// Id of the session: one conversation or run of one agent. Events of a session keep the order in which they are
    /// recorded.
    pub session_id: &'a str,
    /// Name of the session for people.
    pub session_label: Option<&'a str>,
    /// Time of the action; `None` means now.
    pub occurred_at: Option<Micros>,
    /// Id of the event; `None` means a new UUID of version 7.
    pub event_id: Option<Uuid>,
    /// The agent that acts.
    pub agent: Agent<'a>,
    /// The person or system on whose behalf the agent acts.
    pub actor: Option<Actor<'a>>,
    /// The trace that the event belongs to.
    pub trace: Option<Trace<'a>>,
    /// The chat message.
    pub message: Option<Message<'a>>,
    /// The call, in tool.invoked and tool.retried.
    pub tool: Option<ToolCall<'a>>,
    /// The answer, in tool.response_received and tool.failed.
    pub result: Option<ToolResult<'a>>,
    /// The model call, in llm.* events.
    pub llm: Option<Llm<'a>>,
    /// The decision, in decision.made.
    pub decision: Option<&'a Decision<'a>>,
    /// The approval, in approval.asked and approval.decided.
    pub approval: Option<Approval<'a>>,
}

impl<'a> Event<'a> {
    /// Creates an event with type, session and agent only. Set other fields with struct update syntax.
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
