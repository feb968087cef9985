//! Reads tool calls in their dialects.
//!
//! `{id, function: {name, arguments}}` (chat completions), `{id, name, arguments}` (tau2), `{id, function, args}` (AgentDojo),
//! `{id, name, args}` (LangChain), `{id, name, input}` (Anthropic), `{id, custom: {name, input}}`, and the older
//! `function_call: {name, arguments}`.

use super::reader::{Reader, name};
use super::run::Call;
use crate::json::{Kind, Object, Value};

/// Reads the calls of an assistant's message.
pub(super) fn tool_calls(reader: &mut Reader<'_>, at: &str, fields: &Object<'_>) -> Vec<Call> {
    let mut calls = Vec::new();
    if let Some(function_call) = fields.some("function_call") {
        calls.extend(call(reader, &format!("{at}.function_call"), function_call));
    }
    let at = format!("{at}.tool_calls");
    match fields.some("tool_calls") {
        None => {}
        Some(listed) if listed.kind() == Kind::Array => {
            for (index, listed) in listed.items().enumerate() {
                calls.extend(call(reader, &format!("{at}[{index}]"), listed));
            }
        }
        other => reader.problem(&at, "an array or null", other),
    }
    calls
}

/// Fields of a call, and of the object with its name, that are read or have no content for an event.
const KNOWN: &[&str] = &[
    "id",
    "type",
    "index",
    "function",
    "custom",
    "name",
    "arguments",
    "args",
    "input",
    "parameters",
    "requestor",
];

/// Reads one call. A missing id is left empty.
pub(super) fn call(reader: &mut Reader<'_>, at: &str, value: Value<'_>) -> Option<Call> {
    let Some(fields) = value.object() else {
        return reader.expected(at, "an object", Some(value));
    };
    let function = fields.get("function");
    let inner = function.and_then(Value::object).or_else(|| fields.get("custom")?.object());
    let of =
        if at.ends_with(".function_call") { "messages[].function_call" } else { "messages[].tool_calls[]" };
    for fields in [Some(&fields), inner.as_ref()].into_iter().flatten() {
        reader.note_unknown(of, at, fields, KNOWN);
    }
    let named = match (&inner, function) {
        (Some(inner), _) => (format!("{at}.function.name"), inner.get("name")),
        (None, Some(function)) if function.kind() == Kind::String => {
            (format!("{at}.function"), Some(function))
        }
        _ => (format!("{at}.name"), fields.get("name")),
    };
    let tool = match named.1 {
        Some(tool) if tool.kind() == Kind::String && tool.bytes().len() > 2 => reader.text(&named.0, tool),
        other => reader.expected(&named.0, "a non-empty string", other),
    };
    let names = ["arguments", "args", "input", "parameters"];
    let arguments = inner.as_ref().and_then(|inner| inner.any(&names)).or_else(|| fields.any(&names));
    let arguments = match arguments {
        // No field of any name has arguments.
        None => Some("{}".to_owned()),
        Some(text) if text.kind() == Kind::String => {
            let text = reader.text(&format!("{at}.arguments"), text);
            reader.note_surrogate_in_json(
                &format!("{at}.arguments"),
                text.as_deref().unwrap_or_default().as_bytes(),
            );
            text
        }
        Some(other) => {
            reader.note_surrogate_in_json(&format!("{at}.arguments"), other.bytes());
            Some(other.as_written().into_owned())
        }
    };
    reader.note_surrogate(&format!("{at}.id"), fields.get("id"));
    let id = fields.get("id").and_then(name).unwrap_or_default();
    Some(Call { id, name: tool?, arguments: arguments? })
}
