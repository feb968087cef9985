//! Creates the events of a run.

use agentgov_schemas::event::{Actor, Agent};
use agentgov_schemas::{Micros, catalogue};
use agentgov_sdk::{Content, Event, Message, ToolCall, ToolResult};

use super::run::{Answer, Call, MessageBody, Run};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Time between two messages: one second.
const STEP: i64 = 1_000_000;

/// Returns the events of `run`, each with the index of its message. Message i has the time `start` + i seconds. The caller sets
/// the event ids.
pub(crate) fn events<'a>(
    run: &'a Run,
    session_id: &'a str,
    label: &'a str,
    agent: Agent<'a>,
    start: Micros,
) -> Vec<(Option<usize>, Event<'a>)> {
    let actor = run.user_id.as_deref().map(|id| Actor { id, r#type: "human" });
    let at = |step: usize| {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        Some(Micros(start.0.saturating_add(step.saturating_mul(STEP))))
    };
    let event = |step, r#type| Event {
        session_label: Some(label),
        occurred_at: at(step),
        actor,
        ..Event::new(r#type, session_id, agent)
    };
    let mut events = vec![(None, event(0, catalogue::SESSION_STARTED))];
    for message in &run.messages {
        let step = message.index;
        let chat_message = |role, text: &'a Option<String>| Message {
            id: &message.id,
            role,
            has_text: has_text(text),
            tool_calls: 0,
            content: text.as_deref().map(|text| content(text, TEXT)),
        };
        let of_message =
            |message, r#type| (Some(step), Event { message: Some(message), ..event(step, r#type) });
        match &message.body {
            MessageBody::User { text } => {
                events.push(of_message(chat_message("user", text), catalogue::USER_INPUT))
            }
            MessageBody::System { role, text } => {
                events.push(of_message(chat_message(role, text), catalogue::LLM_INPUT_SENT));
            }
            MessageBody::Assistant { text, beside, calls } => {
                let message = Message {
                    has_text: has_text(text) || !beside.is_empty(),
                    tool_calls: i32::try_from(calls.len()).unwrap_or(i32::MAX),
                    ..chat_message("assistant", text)
                };
                let displayed = text.as_deref().filter(|_| has_text(text)).into_iter();
                for text in displayed.chain(beside.iter().map(String::as_str)) {
                    let message = Message { content: Some(content(text, TEXT)), ..message };
                    events.push(of_message(message, catalogue::OUTPUT_DISPLAYED));
                }
                let message = Message { content: None, ..message };
                let invoked = |call| Event {
                    message: Some(message),
                    tool: Some(tool_call(call)),
                    ..event(step, catalogue::TOOL_INVOKED)
                };
                events.extend(calls.iter().map(|call| (Some(step), invoked(call))));
            }
            MessageBody::Tool(answer) => {
                let result = Some(tool_result(answer));
                events.push((Some(step), Event { result, ..event(step, catalogue::TOOL_RESPONSE_RECEIVED) }));
            }
        }
    }
    events.push((None, event(run.length, catalogue::SESSION_ENDED)));
    events
}

fn tool_result(answer: &Answer) -> ToolResult<'_> {
    let text = answer.text.as_deref().unwrap_or_default();
    ToolResult {
        call_id: &answer.call_id,
        name: answer.name.as_deref(),
        is_error: answer.is_error,
        content: content(text, if is_json(text) { JSON } else { TEXT }),
    }
}

fn tool_call(call: &Call) -> ToolCall<'_> {
    ToolCall::new(&call.name, &call.id, content(&call.arguments, JSON))
}

const fn content<'a>(text: &'a str, media_type: &'a str) -> Content<'a> {
    Content { data: text.as_bytes(), media_type }
}

fn has_text(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.trim().is_empty())
}

/// Returns true if a result has the media type JSON. The format does not declare it.
fn is_json(text: &str) -> bool {
    text.starts_with(['{', '[']) && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}
