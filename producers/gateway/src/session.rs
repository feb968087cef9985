//! One session of one agent: asks before each call, and records calls and results in the order in which they are decided.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_authzen_client::{After, AskError, CallQuestion, Decision, DecisionClient, PermittedTool};
use agentgov_schemas::event::{Agent, Trace};
use agentgov_schemas::{Digest, catalogue};
use agentgov_sdk::{Content, Event, Message, Receipt, RecordError, Recorder, ToolCall, ToolResult};
use serde_json::json;

/// Time for which a question is asked again while the state of the session is not known.
const MAX_UNKNOWN: Duration = Duration::from_secs(3);
/// Time that a call waits for the calls of the same session that are being decided.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a result waits for its turn. Afterwards it is recorded in the middle of another call's decision, whose verdict may
/// then know more than the decision did.
const RESULT_TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes of a token of a decision.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Maximum bytes of the reason for a refusal: it may quote what a peer sent.
const MAX_REASON_BYTES: usize = 1_000;
/// Bytes of a result that an event keeps if the whole result is too large for it.
const PREFIX_BYTES: usize = 16 << 10;
/// Type of the event for a frame that was refused.
pub const FRAME_REFUSED: &str = "gateway.refused";
/// Type of the event for answers to a server's questions, which come with a call that is made again.
pub const INPUT_PROVIDED: &str = "gateway.input_provided";
/// Type of the event for a server's answer to a call that asks for input.
pub const INPUT_REQUIRED: &str = "gateway.input_required";
/// Type of the event for a definition of a tool that a server listed, and that nobody has accepted.
pub const DEFINITION_NOT_ACCEPTED: &str = "gateway.definition_not_accepted";
/// Media type of JSON.
const JSON: &str = "application/json";
/// Media type of text.
const TEXT: &str = "text/plain; charset=utf-8";

/// Source of decisions.
pub trait Decider: Send + Sync {
    /// Asks for a decision, and asks again for about `max_wait` while the state of the session is not known.
    ///
    /// # Errors
    /// If there is no decision.
    fn decide(&self, question: &CallQuestion<'_>, max_wait: Duration) -> Result<Decision, AskError>;

    /// Returns the tools that the agent of the question may use.
    ///
    /// # Errors
    /// If there is no complete list.
    fn permitted_tools(&self, question: &CallQuestion<'_>) -> Result<Vec<PermittedTool>, AskError>;
}

impl Decider for DecisionClient {
    fn decide(&self, question: &CallQuestion<'_>, max_wait: Duration) -> Result<Decision, AskError> {
        self.decide_when_known(question, max_wait, |_| {})
    }

    fn permitted_tools(&self, question: &CallQuestion<'_>) -> Result<Vec<PermittedTool>, AskError> {
        Self::permitted_tools(self, question)
    }
}

/// Log of what the agent does.
pub trait Journal: Send + Sync {
    /// Records an event.
    ///
    /// # Errors
    /// If the event is not recorded.
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError>;

    /// Checks that an event can be recorded, apart from missing room.
    ///
    /// # Errors
    /// If it cannot.
    fn check(&self, event: &Event<'_>) -> Result<(), RecordError>;

    /// Returns the id of the source that the events have.
    fn source_id(&self) -> &str;
}

impl Journal for Recorder {
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        Self::record(self, event)
    }

    fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        Self::check(self, event)
    }

    fn source_id(&self) -> &str {
        Self::source_id(self)
    }
}

/// Owner of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The tenant.
    pub tenant_id: String,
    /// The environment.
    pub environment: String,
    /// The agent.
    pub agent_id: String,
    /// Id of the session.
    pub session_id: String,
}

/// A call of a tool before it is made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The tool.
    pub tool: &'a str,
    /// Id of the call; the same for each attempt.
    pub call_id: &'a str,
    /// The arguments, byte for byte.
    pub arguments: &'a str,
    /// True if the call was made before, and is made again with the answers to the server's questions.
    pub is_retry: bool,
    /// SHA-256 of the definition that the server listed.
    pub definition: Option<Digest>,
    /// The trace of the call.
    pub trace: Option<Trace<'a>>,
}

/// Result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallResult<'a> {
    /// The bytes of the result, or of the error.
    pub content: &'a str,
    /// True if the call failed, as far as the server says so.
    pub is_error: bool,
    /// True if there is no result: the server answered with an error of the protocol, or not at all.
    pub is_failure: bool,
}

/// Call that must not be sent on, and is not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The decision point gave no decision.
    NotDecided(String),
    /// No event can hold the call.
    TooLarge(String),
    /// The call could not be recorded.
    NotRecorded(String),
    /// Too many calls of the session are being decided.
    Busy,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDecided(reason) => write!(f, "the call is not decided: {reason}"),
            Self::TooLarge(reason) => write!(f, "the call cannot be recorded: {reason}"),
            Self::NotRecorded(reason) => write!(f, "the call is not recorded: {reason}"),
            Self::Busy => {
                f.write_str("the call is not decided: too many calls of the session wait for a decision")
            }
        }
    }
}

/// A session. Any number of threads share it.
pub struct Session {
    identity: Identity,
    decider: Box<dyn Decider>,
    journal: Box<dyn Journal>,
    turn: Turn,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The right to add an event to the session. Decision and record of a call are one turn, so that the later verdict knows the same
/// events as the decision, and two calls at the same time cannot both be the first.
#[derive(Default)]
struct Turn {
    state: Mutex<TurnState>,
    freed: Condvar,
}

#[derive(Default)]
struct TurnState {
    is_taken: bool,
    /// Sequence number of the last recorded event.
    last: Option<i64>,
}

struct TurnGuard<'t> {
    turn: &'t Turn,
    is_owner: bool,
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, TurnState> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, timeout: Duration) -> Option<TurnGuard<'_>> {
        let until = Instant::now() + timeout;
        let mut state = self.state();
        while state.is_taken {
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_taken = true;
        Some(TurnGuard { turn: self, is_owner: true })
    }

    /// Takes the turn, or shares it with the event that is being decided.
    fn take_or_share(&self, timeout: Duration) -> TurnGuard<'_> {
        self.take(timeout).unwrap_or(TurnGuard { turn: self, is_owner: false })
    }
}

impl TurnGuard<'_> {
    fn last(&self) -> Option<i64> {
        self.turn.state().last
    }

    fn recorded(&self, receipt: Receipt) {
        let mut state = self.turn.state();
        state.last = state.last.max(Some(receipt.sequence));
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        if self.is_owner {
            self.turn.state().is_taken = false;
            self.turn.freed.notify_one();
        }
    }
}

impl Session {
    /// Creates a session. Records nothing.
    pub fn new(identity: Identity, decider: Box<dyn Decider>, journal: Box<dyn Journal>) -> Self {
        Self { identity, decider, journal, turn: Turn::default() }
    }

    /// Returns the owner.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Records an event without content: `session.started` or `session.ended`.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_plain(&self, r#type: &str) -> Result<(), RecordError> {
        self.append(&self.event(r#type))
    }

    /// Decides a call, and records it with its decision, even if it is denied. `Ok` with a decision that is no allow means that the
    /// call must not be sent on; so does every error.
    ///
    /// With `is_final` false, a call that a person may approve is not recorded: the caller asks again.
    ///
    /// # Errors
    /// If the call is not decided, or not recorded.
    pub fn decide(&self, call: &Call<'_>, is_final: bool) -> Result<Decision, CallError> {
        // The token is not known yet; an event with the longest one must fit.
        let token = "x".repeat(MAX_TOKEN_BYTES);
        let checked = self.journal.check(&self.call_event(call, Some(&token)));
        checked.map_err(|error| CallError::TooLarge(error.to_string()))?;
        let turn = self.turn.take(TURN_TIMEOUT).ok_or(CallError::Busy)?;
        let question = CallQuestion {
            call_id: Some(call.call_id),
            arguments: call.arguments,
            definition: call.definition,
            trace: call.trace,
            after: self.after(&turn),
            ..self.question(call.tool)
        };
        let decision = self.decider.decide(&question, MAX_UNKNOWN).map_err(|error| match error {
            // The request has more bytes than the decision point reads.
            AskError::Refused { status: 413, .. } => CallError::TooLarge(error.to_string()),
            error => CallError::NotDecided(error.to_string()),
        })?;
        if decision.is_allowed() && !decision.context.recorded {
            return Err(CallError::NotDecided(
                "expected a decision that is recorded, found another".to_owned(),
            ));
        }
        if decision.waits_for_approval() && !is_final {
            return Ok(decision);
        }
        let event = self.call_event(call, decision.context.token.as_deref());
        let receipt =
            self.journal.record(&event).map_err(|error| CallError::NotRecorded(error.to_string()))?;
        turn.recorded(receipt);
        Ok(decision)
    }

    /// Records the result of a call. A result that no event can hold is recorded by digest, size and beginning, as an event that
    /// states no fact.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_result(
        &self,
        tool: &str,
        call_id: &str,
        result: &CallResult<'_>,
    ) -> Result<(), RecordError> {
        let r#type =
            if result.is_failure { catalogue::TOOL_FAILED } else { catalogue::TOOL_RESPONSE_RECEIVED };
        let event = |r#type, content| Event {
            result: Some(ToolResult {
                call_id,
                name: Some(tool),
                is_error: Some(result.is_error || result.is_failure),
                content: Content { data: content, media_type: JSON },
            }),
            ..self.event(r#type)
        };
        let whole = event(r#type, result.content.as_bytes());
        match self.journal.check(&whole) {
            Err(RecordError::TooLarge { .. }) => {}
            _ => return self.append(&whole),
        }
        let summary = summary(result.content).to_string();
        self.append(&event(catalogue::TOOL_RESPONSE_TRUNCATED, summary.as_bytes()))
    }

    /// Records that a frame was refused or dropped, with the digest of its bytes.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_refusal(&self, from: &str, reason: &str, frame: &[u8]) -> Result<(), RecordError> {
        let text = json!({ "from": from, "reason": reason, "bytes": frame.len(), "sha256": Digest::of(frame).to_string() });
        self.record_note(FRAME_REFUSED, &text.to_string())
    }

    /// Records the digest of answers that come with a call which is made again. No policy sees them.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_input(&self, call_id: &str, input: &str) -> Result<(), RecordError> {
        let text = json!({ "call_id": call_id, "bytes": input.len(), "sha256": Digest::of(input.as_bytes()).to_string() });
        self.record_note(INPUT_PROVIDED, &text.to_string())
    }

    /// Records the digest of a server's answer that asks for input. It is no result.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_question(&self, call_id: &str, question: &str) -> Result<(), RecordError> {
        let text = json!({ "call_id": call_id, "bytes": question.len(), "sha256": Digest::of(question.as_bytes()).to_string() });
        self.record_note(INPUT_REQUIRED, &text.to_string())
    }

    /// Records that a server listed a definition which is not the accepted one.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_definition(
        &self,
        tool: &str,
        listed: Digest,
        accepted: Option<&str>,
    ) -> Result<(), RecordError> {
        let text = json!({ "tool": tool, "listed": listed.to_string(), "accepted": accepted });
        self.record_note(DEFINITION_NOT_ACCEPTED, &text.to_string())
    }

    /// Returns the tools that the agent may use.
    ///
    /// # Errors
    /// If there is no complete list.
    pub fn permitted_tools(&self) -> Result<Vec<PermittedTool>, AskError> {
        let turn = self.turn.take_or_share(Duration::ZERO);
        let after = self.after(&turn);
        drop(turn);
        self.decider.permitted_tools(&CallQuestion { after, ..self.question("-") })
    }

    /// Records what a person wrote to the agent. A text that no event can hold is recorded by digest, size and beginning.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn record_user_input(&self, message_id: &str, text: &str) -> Result<(), RecordError> {
        let has_text = !text.trim().is_empty();
        let event = |text, media_type| {
            let content = Some(Content { data: text, media_type });
            let message = Message { id: message_id, role: "user", has_text, tool_calls: 0, content };
            Event { message: Some(message), ..self.event(catalogue::USER_INPUT) }
        };
        let whole = event(text.as_bytes(), TEXT);
        match self.journal.check(&whole) {
            Err(RecordError::TooLarge { .. }) => {}
            _ => return self.append(&whole),
        }
        self.append(&event(summary(text).to_string().as_bytes(), JSON))
    }

    pub(crate) fn record_note(&self, r#type: &str, text: &str) -> Result<(), RecordError> {
        let content = Content { data: text.as_bytes(), media_type: JSON };
        let message =
            Message { id: "", role: "system", has_text: false, tool_calls: 0, content: Some(content) };
        self.append(&Event { message: Some(message), ..self.event(r#type) })
    }

    fn append(&self, event: &Event<'_>) -> Result<(), RecordError> {
        let turn = self.turn.take_or_share(RESULT_TURN_TIMEOUT);
        turn.recorded(self.journal.record(event)?);
        Ok(())
    }

    fn after(&self, turn: &TurnGuard<'_>) -> Option<After<'_>> {
        turn.last().map(|sequence| After { source: self.journal.source_id(), sequence })
    }

    fn question<'a>(&'a self, tool: &'a str) -> CallQuestion<'a> {
        let Identity { tenant_id, environment, agent_id, session_id } = &self.identity;
        CallQuestion::new((tenant_id, environment), agent_id, session_id, tool)
    }

    fn event<'a>(&'a self, r#type: &'a str) -> Event<'a> {
        let agent = Agent { id: &self.identity.agent_id, name: None, version: None };
        Event::new(r#type, &self.identity.session_id, agent)
    }

    fn call_event<'a>(&'a self, call: &Call<'a>, token: Option<&'a str>) -> Event<'a> {
        let content = Content { data: call.arguments.as_bytes(), media_type: JSON };
        let tool = ToolCall {
            decision_token: token,
            definition: call.definition,
            ..ToolCall::new(call.tool, call.call_id, content)
        };
        let r#type = if call.is_retry { catalogue::TOOL_RETRIED } else { catalogue::TOOL_INVOKED };
        Event { tool: Some(tool), trace: call.trace, ..self.event(r#type) }
    }
}

/// Returns the beginning of a reason, which fits into an event and a line of the log.
pub(crate) fn shorten_reason(reason: &str) -> &str {
    reason.split_at(reason.floor_char_boundary(MAX_REASON_BYTES)).0
}

/// Returns digest, size and beginning of a result.
fn summary(content: &str) -> serde_json::Value {
    let beginning = content.split_at(content.floor_char_boundary(PREFIX_BYTES)).0;
    json!({
        "truncated": {
            "sha256": Digest::of(content.as_bytes()).to_string(), "bytes": content.len(), "beginning": beginning,
        },
    })
}
