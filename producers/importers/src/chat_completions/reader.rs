//! Reads a run, and collects its problems and notes.

use std::collections::HashSet;
use std::fmt::Display;

use super::calls::tool_calls;
use super::content::{Content, content};
use super::ids;
use super::run::{Answer, Call, Message, MessageBody, Run};
use super::shape::{MESSAGES, RunAt};
use crate::json::{Kind, Object, Value, has_lone_surrogate};
use crate::problem::{Notes, cut, found};

/// Maximum number of problems of one run, since further ones are mostly of the same kind.
const MAX_PROBLEMS: usize = 20;
/// Fields of a message that are read, or have no content for an event.
const KNOWN: &[&str] = &[
    "role",
    "content",
    "name",
    "tool_name",
    "tool_calls",
    "tool_call_id",
    "tool_use_id",
    "function_call",
    "refusal",
    "audio",
    "id",
    "type",
    "object",
    "model",
    "created",
    "created_at",
    "timestamp",
    "index",
    "turn_idx",
    "turn_id",
    "weight",
    "status",
    "stop_reason",
    "finish_reason",
    "usage",
    "cost",
    "raw_data",
    "requestor",
    "error",
    "is_error",
    "isError",
    "tool_call",
    "generation_time_seconds",
];

/// Fields beside the messages that are read, or have no content for an event.
const KNOWN_OF_A_RUN: &[&str] =
    &["user_id", "task_id", "trial", "id", "object", "model", "created", "created_at", "timestamp", "usage"];

/// Reader of one run. It collects problems and continues; if there is one, the returned values are not used.
pub(super) struct Reader<'n> {
    pub(super) problems: Vec<String>,
    notes: &'n mut Notes,
    /// Location of the run for people.
    place: String,
    /// See [`Run::is_new`].
    pub(super) is_new: bool,
}

/// Reads a run. `label` is the field with its label.
pub(super) fn read(
    run: &RunAt<'_>,
    label: Option<&str>,
    place: String,
    notes: &mut Notes,
) -> Result<Run, Vec<String>> {
    let mut reader = Reader { problems: Vec::new(), notes, place, is_new: false };
    let run = reader.run(run, label);
    if reader.problems.is_empty() { Ok(run) } else { Err(reader.problems) }
}

impl Reader<'_> {
    fn run(&mut self, run: &RunAt<'_>, label: Option<&str>) -> Run {
        let path = &run.path;
        let none = || Object::default();
        let fields = run.value.object().unwrap_or_else(none);
        for name in ["user_id", "task_id", "trial"] {
            self.note_surrogate(&format!("{path}{name}"), fields.get(name));
        }
        let user_id = match fields.some("user_id") {
            Some(user_id) => match name(user_id) {
                None if user_id.text().is_some_and(|text| text.is_empty()) => None,
                None => self.expected(&format!("{path}user_id"), "a string or a number", Some(user_id)),
                some => some,
            },
            None => None,
        };
        let (at, messages) = match MESSAGES.iter().find_map(|name| Some((*name, fields.get(name)?))) {
            Some((name, messages)) => (format!("{path}{name}"), messages),
            None => (path.clone(), run.value),
        };
        if messages.kind() != Kind::Array {
            self.problem(&at, "an array", Some(messages));
        }
        for name in MESSAGES {
            if fields.fields().filter(|(field, _)| field == name).count() > 1 {
                self.note(
                    &format!("{name} stands there more than once, so the last is imported"),
                    path.trim_end_matches('.'),
                );
            }
        }
        for (name, value) in fields.fields() {
            let is_read =
                MESSAGES.contains(&name) || label.is_some_and(|label| label.split('.').next() == Some(name));
            if !is_read && !KNOWN_OF_A_RUN.contains(&name) && !is_empty(value) {
                self.note(&format!("field {} beside the messages is not imported", cut(name)), "");
            }
        }
        let mut read = Run { label: self.label(&fields, label), user_id, ..Run::default() };
        for (index, message) in messages.items().enumerate() {
            self.message(&format!("{at}[{index}]"), index, message, &mut read.messages);
            read.length = index + 1;
        }
        ids::derive(&mut read.messages);
        Run { is_new: self.is_new, ..read }
    }

    /// Returns the label: the given field, or else task_id/trial as far as they exist.
    fn label(&mut self, fields: &Object<'_>, field: Option<&str>) -> Option<String> {
        if let Some(field) = field {
            let found = fields.get(field).or_else(|| {
                let mut names = field.split('.');
                let first = fields.get(names.next()?)?;
                names.try_fold(first, |value, name| value.object()?.get(name))
            });
            let label = found.and_then(name);
            if label.is_none() {
                self.note(&format!("no text or number in field {field}, so the line is the label"), "");
            }
            return label;
        }
        let [task_id, trial] = ["task_id", "trial"].map(|field| fields.get(field).and_then(name));
        match (task_id, trial) {
            (Some(task_id), Some(trial)) => Some(format!("{task_id}/{trial}")),
            (Some(task_id), None) => Some(task_id),
            (None, _) => None,
        }
    }

    fn message(&mut self, at: &str, index: usize, message: Value<'_>, messages: &mut Vec<Message>) {
        let Some(fields) = message.object() else {
            return self.problem(at, "an object", Some(message));
        };
        let mut push = |body| messages.push(Message { index, id: format!("m{index}"), body });
        let role = fields.get("role").and_then(Value::text);
        let is_tool = matches!(role.as_deref(), Some("tool" | "function"));
        let Content { text, calls, answers } =
            content(self, &format!("{at}.content"), fields.get("content"), is_tool);
        let is_assistant = role.as_deref() == Some("assistant");
        if !is_assistant && !calls.is_empty() {
            self.note("call of a tool that is not in an assistant's message, not imported", at);
        }
        if !answers.is_empty() {
            answers.into_iter().for_each(|answer| push(MessageBody::Tool(answer)));
            // A message with results and without a text has no event for a text.
            if text.is_none() && calls.is_empty() {
                return;
            }
        }
        match role.as_deref() {
            Some("user") => push(MessageBody::User { text }),
            Some("system") => push(MessageBody::System { role: "system", text }),
            Some("developer") => push(MessageBody::System { role: "developer", text }),
            Some("assistant") => {
                let beside = self.beside(at, &fields);
                let listed = tool_calls(self, at, &fields);
                push(MessageBody::Assistant { text, beside, calls: each_once(listed, calls) });
            }
            Some("tool" | "function") => {
                for name in ["tool_call_id", "tool_use_id", "id", "name", "tool_name"] {
                    self.note_surrogate(&format!("{at}.{name}"), fields.get(name));
                }
                push(MessageBody::Tool(self.answer(&fields, text)));
            }
            _ => self.problem(
                &format!("{at}.role"),
                "user, assistant, system, developer, tool or function",
                fields.get("role"),
            ),
        }
        self.note_unread(at, &fields, is_assistant);
    }

    /// Reads further text that the person saw or heard.
    fn beside(&mut self, at: &str, fields: &Object<'_>) -> Vec<String> {
        let mut beside = Vec::new();
        if let Some(refusal) = fields.some("refusal") {
            beside.extend(content(self, &format!("{at}.refusal"), Some(refusal), false).text);
        }
        if let Some(audio) = fields.some("audio") {
            let text = super::media::audio(self, &format!("{at}.audio"), audio);
            beside.extend(text);
        }
        beside.retain(|text| !text.trim().is_empty());
        self.is_new |= !beside.is_empty();
        beside
    }

    fn answer(&mut self, fields: &Object<'_>, text: Option<String>) -> Answer {
        let tool = fields.any(&["tool_name"]).and_then(Value::text);
        let error = fields.any(&["error", "is_error", "isError"]);
        let error_text = error.and_then(Value::text).filter(|error| !error.is_empty());
        let is_error = match error.map(Value::kind) {
            Some(Kind::Bool) => error.map(|error| error.bytes() == b"true"),
            Some(Kind::String) => error_text.is_some().then_some(true),
            _ => None,
        };
        self.is_new |= is_error.is_some();
        let nothing = text.as_deref().unwrap_or_default().is_empty();
        let text = if nothing && error_text.is_some() { error_text.map(Into::into) } else { text };
        let id = |name: &str| fields.get(name).and_then(self::name);
        // The answer to a call of tau2's simulated user: it belongs to no call of the agent.
        let of_user = fields.get("requestor").and_then(Value::text).as_deref() == Some("user");
        let call_id =
            id("tool_call_id").or_else(|| id("tool_use_id")).or_else(|| id("id").filter(|_| of_user));
        Answer {
            call_id: call_id.unwrap_or_default(),
            of_user,
            perhaps_call_id: id("id"),
            name: fields.name("name").map(Into::into),
            tool: tool.map(Into::into),
            text,
            is_error,
        }
    }

    /// Notes fields with content that is not imported.
    fn note_unread(&mut self, at: &str, fields: &Object<'_>, is_assistant: bool) {
        let of_assistant = ["tool_calls", "function_call", "refusal", "audio"];
        for (name, value) in fields.fields() {
            let unread = !KNOWN.contains(&name) || (!is_assistant && of_assistant.contains(&name));
            if unread && !is_empty(value) {
                self.note(&format!("messages[].{} is not imported", cut(name)), at);
            }
        }
        for (place, (name, _)) in fields.fields().enumerate() {
            if KNOWN.contains(&name) && fields.fields().skip(place + 1).any(|(other, _)| other == name) {
                self.note(
                    &format!("messages[].{name} stands there more than once, so the last is imported"),
                    at,
                );
            }
        }
    }

    /// Notes fields of a part of a message that are not in `known`. `of` is the path of such parts.
    pub(super) fn note_unknown(&mut self, of: &str, at: &str, fields: &Object<'_>, known: &[&str]) {
        for (name, value) in fields.fields() {
            if !known.contains(&name) && !is_empty(value) {
                self.note(&format!("{of}.{} is not imported", cut(name)), at);
            }
        }
    }

    /// Reads a text. Notes a lone surrogate, which becomes U+FFFD.
    pub(super) fn text(&mut self, at: &str, value: Value<'_>) -> Option<String> {
        let (text, lone) = value.text_and_surrogates()?;
        if lone {
            self.note("lone surrogate, imported as U+FFFD", at);
        }
        Some(text.into_owned())
    }

    /// Notes a lone surrogate in a name or an id, which becomes U+FFFD.
    pub(super) fn note_surrogate(&mut self, at: &str, value: Option<Value<'_>>) {
        if value.is_some_and(|value| value.kind() == Kind::String && value.has_lone_surrogate()) {
            self.note("lone surrogate, imported as U+FFFD", at);
        }
    }

    /// Notes a lone surrogate in JSON whose bytes are imported.
    pub(super) fn note_surrogate_in_json(&mut self, at: &str, json: &[u8]) {
        if has_lone_surrogate(json) {
            self.note("lone surrogate in JSON, imported as it is written; policies read U+FFFD", at);
        }
    }

    pub(super) fn note(&mut self, kind: &str, at: &str) {
        let place = &self.place;
        let at = at.strip_prefix('.').unwrap_or(at);
        self.notes.note(kind, || if at.is_empty() { place.clone() } else { format!("{place}, {at}") });
    }

    pub(super) fn expected<T>(&mut self, at: &str, expected: &str, value: Option<Value<'_>>) -> Option<T> {
        self.problem(at, expected, value);
        None
    }

    pub(super) fn problem(&mut self, at: &str, expected: impl Display, value: Option<Value<'_>>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(format!("{at}: expected {expected}, found {}", found(value)));
        }
    }
}

/// Returns true for null, an empty text, an empty array and an empty object: nothing is lost without them.
fn is_empty(value: Value<'_>) -> bool {
    match value.kind() {
        Kind::Null => true,
        Kind::String => value.bytes() == b"\"\"",
        Kind::Array => value.items().next().is_none(),
        Kind::Object => value.object().is_none_or(|object| object.fields().next().is_none()),
        Kind::Number | Kind::Bool => false,
    }
}

/// Joins the calls of a message's field and of its content, without duplicates: some files have each call in both.
fn each_once(listed: Vec<Call>, parts: Vec<Call>) -> Vec<Call> {
    let known: HashSet<String> =
        listed.iter().map(|call| call.id.clone()).filter(|id| !id.is_empty()).collect();
    listed.into_iter().chain(parts.into_iter().filter(|call| !known.contains(&call.id))).collect()
}

/// Returns the text of a name: a non-empty string, a number as written in the file, or a boolean.
pub(super) fn name(value: Value<'_>) -> Option<String> {
    match value.kind() {
        Kind::String => value.text().filter(|text| !text.is_empty()).map(Into::into),
        Kind::Number | Kind::Bool => Some(value.as_written().into_owned()),
        Kind::Null | Kind::Array | Kind::Object => None,
    }
}
