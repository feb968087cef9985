//! A run's events, in their order.

use agentgov_schemas::event::{Actor, Agent};
use agentgov_schemas::{Micros, catalogue};
use agentgov_sdk::{Content, Event, Message, ToolCall, ToolResult};

use super::Run;
use super::line::{Call, Said};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// One second a message.
const STEP: i64 = 1_000_000;

/// The events of `run`: message i at `start` + i seconds. Their ids are the caller's to set.
pub(crate) fn events<'a>(
    run: &'a Run,
    session_id: &'a str,
    agent: Agent<'a>,
    start: Micros,
) -> Vec<Event<'a>> {
    let actor = run.user_id.as_deref().map(|id| Actor { id, r#type: "human" });
    let at = |step: usize| {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        Some(Micros(start.0.saturating_add(step.saturating_mul(STEP))))
    };
    let event = |step, r#type| Event {
        session_label: Some(&run.label),
        occurred_at: at(step),
        actor,
        ..Event::new(r#type, session_id, agent)
    };
    let mut events = vec![event(0, catalogue::SESSION_STARTED)];
    for (step, message) in run.messages.iter().enumerate() {
        let told = |role, text: &'a Option<String>, tool_calls| Message {
            id: &message.id,
            role,
            has_text: has_text(text),
            tool_calls,
            content: text.as_deref().map(|text| content(text, TEXT)),
        };
        match &message.said {
            Said::User { text } => {
                let message = Some(told("user", text, 0));
                events.push(Event { message, ..event(step, catalogue::USER_INPUT) });
            }
            Said::System { text } => {
                let message = Some(told("system", text, 0));
                events.push(Event { message, ..event(step, catalogue::LLM_INPUT_SENT) });
            }
            Said::Assistant { text, calls } => {
                let message = told("assistant", text, i32::try_from(calls.len()).unwrap_or(i32::MAX));
                if message.has_text {
                    events.push(Event { message: Some(message), ..event(step, catalogue::OUTPUT_DISPLAYED) });
                }
                let message = Some(Message { content: None, ..message });
                let invoked = |call| Event {
                    message,
                    tool: Some(tool_call(call)),
                    ..event(step, catalogue::TOOL_INVOKED)
                };
                events.extend(calls.iter().map(invoked));
            }
            Said::Tool { call_id, name, text } => {
                let text = text.as_deref().unwrap_or_default();
                let result = ToolResult {
                    call_id,
                    name: name.as_deref(),
                    is_error: None,
                    content: content(text, if is_json(text) { JSON } else { TEXT }),
                };
                events.push(Event { result: Some(result), ..event(step, catalogue::TOOL_RESPONSE_RECEIVED) });
            }
        }
    }
    events.push(event(run.messages.len(), catalogue::SESSION_ENDED));
    events
}

fn tool_call(call: &Call) -> ToolCall<'_> {
    ToolCall { name: &call.name, call_id: &call.id, arguments: content(&call.arguments, JSON) }
}

const fn content<'a>(text: &'a str, media_type: &'a str) -> Content<'a> {
    Content { data: text.as_bytes(), media_type }
}

fn has_text(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.trim().is_empty())
}

/// Whether a result may claim to be JSON: the format does not say what it is.
fn is_json(text: &str) -> bool {
    text.starts_with(['{', '[']) && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}
