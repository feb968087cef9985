//! Reads the content of a message: a text, or parts. Joins the texts, and inserts a description of each other part.

use agentgov_schemas::Digest;

use super::calls::call;
use super::media;
use super::reader::{Reader, name};
use super::run::{Answer, Call};
use crate::json::{Kind, Object, Value};
use crate::problem::cut;

/// The content of a message.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) text: Option<String>,
    pub(super) calls: Vec<Call>,
    pub(super) answers: Vec<Answer>,
}

/// Reads a content. With `of_tool` it may be any JSON, whose bytes are then the text.
pub(super) fn content(reader: &mut Reader<'_>, at: &str, value: Option<Value<'_>>, of_tool: bool) -> Content {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Content::default() };
    let mut content = Content::default();
    match value.kind() {
        Kind::String => content.text = reader.text(at, value),
        Kind::Array if !of_tool || value.items().all(is_part) => {
            for (index, item) in value.items().enumerate() {
                part(reader, &format!("{at}[{index}]"), item, &mut content);
            }
            if content.text.is_none() && content.calls.is_empty() && content.answers.is_empty() {
                content.text = Some(String::new());
            }
        }
        Kind::Object if is_part(value) => part(reader, at, value, &mut content),
        _ if of_tool => {
            reader.note_surrogate_in_json(at, value.bytes());
            content.text = Some(value.as_written().into_owned());
        }
        _ => reader.problem(at, "a string, null, or an array of parts", Some(value)),
    }
    content
}

/// Returns true if a value is a part of a message, and not tool data that also has a `type`.
fn is_part(value: Value<'_>) -> bool {
    let Some(part) = value.object() else { return false };
    let has = |names: &[&str]| part.any(names).is_some();
    match part.get("type").and_then(Value::text).as_deref() {
        Some("text" | "input_text" | "output_text") => has(&["text", "content"]),
        Some("refusal") => has(&["refusal"]),
        Some("tool_use") => has(&["name"]),
        Some("tool_result") => has(&["tool_use_id"]),
        Some("thinking" | "redacted_thinking" | "reasoning") => has(&["thinking", "data", "text", "summary"]),
        Some(kind) => media::is_kind(kind) && media::holds_any(&part, kind),
        None => false,
    }
}

fn part(reader: &mut Reader<'_>, at: &str, value: Value<'_>, content: &mut Content) {
    let Some(fields) = value.object() else {
        return match value.kind() {
            Kind::String => add(content, reader.text(at, value)),
            _ => reader.problem(at, "a part: an object or a string", Some(value)),
        };
    };
    let kind = fields.get("type").and_then(Value::text);
    match kind.as_deref() {
        Some("text" | "input_text" | "output_text" | "refusal") | None if text_of(&fields).is_some() => {
            reader.note_unknown("messages[].content[]", at, &fields, &["type", "text", "content", "refusal"]);
            add(content, text_of(&fields).and_then(|text| reader.text(at, text)));
        }
        // The text is null.
        Some("text" | "input_text" | "output_text") if fields.fields().any(|(name, _)| name == "text") => {
            add(content, Some(String::new()));
        }
        Some("tool_use") => content.calls.extend(call(reader, at, value)),
        Some("tool_result") => content.answers.push(answer(reader, at, &fields)),
        Some("thinking" | "redacted_thinking" | "reasoning") => {
            reader.note("messages[].content[] of type thinking or reasoning is not imported", at);
        }
        Some(kind) if media::is_kind(kind) => add(content, Some(media::described(reader, at, kind, value))),
        kind => {
            let kind = kind.unwrap_or("without a type");
            reader.note(&format!("messages[].content[] of type {} is imported as its digest", cut(kind)), at);
            let bytes = value.bytes();
            add(content, Some(format!("[{kind}, {} bytes, sha256:{}]", bytes.len(), Digest::of(bytes))));
        }
    }
}

/// Returns the text of a part. AgentDojo names it `content`; the assistants API wraps it in an object.
fn text_of<'b>(part: &Object<'b>) -> Option<Value<'b>> {
    let text = part.any(&["text", "content", "refusal"])?;
    let text = match text.object() {
        Some(inner) => inner.get("value")?,
        None => text,
    };
    (text.kind() == Kind::String).then_some(text)
}

fn add(content: &mut Content, text: Option<String>) {
    if let Some(text) = text {
        content.text.get_or_insert_default().push_str(&text);
    }
}

/// Reads an answer that is a part of a user's message.
fn answer(reader: &mut Reader<'_>, at: &str, fields: &Object<'_>) -> Answer {
    let inner = match fields.some("content") {
        // Nested results are not read, so that the depth of recursion is bounded.
        Some(inner) if !holds_answers(inner) => {
            content(reader, &format!("{at}.content"), Some(inner), true).text
        }
        Some(inner) => {
            reader.note_surrogate_in_json(&format!("{at}.content"), inner.bytes());
            Some(inner.as_written().into_owned())
        }
        None => None,
    };
    let is_error = fields.any(&["is_error", "isError"]).filter(|value| value.kind() == Kind::Bool);
    Answer {
        call_id: fields.any(&["tool_use_id", "tool_call_id"]).and_then(name).unwrap_or_default(),
        of_user: false,
        perhaps_call_id: None,
        name: None,
        tool: None,
        text: inner,
        is_error: is_error.map(|value| value.bytes() == b"true"),
    }
}

/// Returns true if a value, or an item of it, is a tool call or a tool result.
fn holds_answers(value: Value<'_>) -> bool {
    let is_of_call = |value: Value<'_>| {
        value.object().and_then(|part| part.get("type")?.text()).is_some_and(|kind| kind.starts_with("tool_"))
    };
    is_of_call(value) || value.items().any(is_of_call)
}
