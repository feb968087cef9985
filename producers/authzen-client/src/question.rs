//! Question about a call of a tool, as a decision point on the log expects it.

use agentgov_schemas::event::{Actor, Trace};
use agentgov_schemas::{Digest, Micros};
use serde::Serialize;
use serde_json::{Value, json};

/// A call of a tool before it is made. Record the call with the same bytes of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallQuestion<'a> {
    /// The tenant; ignored by a decision point that knows its caller.
    pub tenant_id: &'a str,
    /// The environment; ignored by a decision point that knows its caller.
    pub environment: &'a str,
    /// The agent that makes the call.
    pub agent_id: &'a str,
    /// The session of the call.
    pub session_id: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// Id of the call; `None` if it has none.
    pub call_id: Option<&'a str>,
    /// The arguments, byte for byte.
    pub arguments: &'a str,
    /// SHA-256 of the definition of the tool that the enforcement point has seen.
    pub definition: Option<Digest>,
    /// Message that contains the call.
    pub message: Option<MessageContext<'a>>,
    /// Person or system on whose behalf the agent acts.
    pub actor: Option<Actor<'a>>,
    /// The trace that the call belongs to.
    pub trace: Option<Trace<'a>>,
    /// Time of the call; `None` means the clock of the decision point.
    pub time: Option<Micros>,
    /// Last recorded event of the session. The answer waits until the decision point has read it.
    pub after: Option<After<'a>>,
}

/// Message that contains a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MessageContext<'a> {
    /// Id of the message.
    pub id: &'a str,
    /// Role of its author.
    pub role: &'a str,
    /// True if it has text for the user.
    pub has_text: bool,
    /// Number of its calls.
    pub tool_calls: i32,
}

/// Source and sequence number of a recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct After<'a> {
    /// Id of the source.
    pub source: &'a str,
    /// Sequence number of the event.
    pub sequence: i64,
}

/// Members of `context`.
#[derive(Serialize)]
struct Context<'a> {
    tenant: &'a str,
    environment: &'a str,
    session: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<&'a str>,
    /// A text is used as it is, so the decision is about exactly these bytes.
    arguments: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<Actor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Trace<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<After<'a>>,
}

impl<'a> CallQuestion<'a> {
    /// Creates a question with the given identity, empty arguments (`{}`) and no optional member. Set the others with struct
    /// update syntax.
    pub const fn new(
        (tenant_id, environment): (&'a str, &'a str),
        agent_id: &'a str,
        session_id: &'a str,
        tool: &'a str,
    ) -> Self {
        Self {
            tenant_id,
            environment,
            agent_id,
            session_id,
            tool,
            call_id: None,
            arguments: "{}",
            definition: None,
            message: None,
            actor: None,
            trace: None,
            time: None,
            after: None,
        }
    }

    /// Returns the body of the request.
    pub fn to_json(&self) -> Value {
        json!({
            "subject": { "type": "agent", "id": self.agent_id },
            "action": { "name": "tools/call" },
            "resource": { "type": "tool", "id": self.tool },
            "context": self.context(),
        })
    }

    /// Returns a page of the search for the tools that the agent may use.
    pub(crate) fn to_search(self, token: Option<&str>) -> Value {
        let mut page = json!({ "limit": MAX_PAGE });
        if let (Some(token), Some(page)) = (token, page.as_object_mut()) {
            page.insert("token".to_owned(), json!(token));
        }
        json!({
            "subject": { "type": "agent", "id": self.agent_id },
            "action": { "name": "tools/list" },
            "resource": { "type": "tool" },
            "context": self.context(),
            "page": page,
        })
    }

    fn context(&self) -> Context<'a> {
        let Self { tenant_id, environment, session_id, call_id, arguments, definition, .. } = *self;
        let Self { message, actor, trace, time, after, .. } = *self;
        Context {
            tenant: tenant_id,
            environment,
            session: session_id,
            call_id,
            arguments,
            definition: definition.map(|digest| digest.to_string()),
            message,
            actor,
            trace,
            time: time.map(|time| time.0),
            after,
        }
    }
}

/// Results of one page of a search.
const MAX_PAGE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_has_the_bytes_of_the_arguments_and_no_absent_member() {
        let arguments = r#"{"n": 12345678901234567890123, "b":1.0}"#;
        let question = CallQuestion { arguments, ..CallQuestion::new(("acme", "test"), "bot", "s", "pay") };
        assert_eq!(
            question.to_json(),
            json!({
                "subject": { "type": "agent", "id": "bot" },
                "action": { "name": "tools/call" },
                "resource": { "type": "tool", "id": "pay" },
                "context": { "tenant": "acme", "environment": "test", "session": "s", "arguments": arguments },
            })
        );
        let whole = CallQuestion {
            call_id: Some("c1"),
            definition: Some(Digest::of(b"x")),
            message: Some(MessageContext { id: "m", role: "assistant", has_text: true, tool_calls: 2 }),
            actor: Some(Actor { id: "ada", r#type: "user" }),
            trace: Some(Trace { trace_id: "t", span_id: "p" }),
            time: Some(Micros(7)),
            after: Some(After { source: "a", sequence: 3 }),
            ..question
        };
        let context = &whole.to_json()["context"];
        assert_eq!(
            context["message"],
            json!({ "id": "m", "role": "assistant", "has_text": true, "tool_calls": 2 })
        );
        assert_eq!(context["actor"], json!({ "id": "ada", "type": "user" }));
        assert_eq!(context["trace"], json!({ "trace_id": "t", "span_id": "p" }));
        assert_eq!(context["after"], json!({ "source": "a", "sequence": 3 }));
        assert_eq!(
            (&context["time"], &context["definition"], &context["call_id"]),
            (&json!(7), &json!(Digest::of(b"x").to_string()), &json!("c1"))
        );
    }
}
