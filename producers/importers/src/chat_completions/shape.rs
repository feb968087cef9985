//! Finds the runs in a document.
//!
//! A run is an object with its messages under one of the names of [`MESSAGES`], or an array of messages. A document
//! is a run, an array of runs, or an object that has one array of runs among its fields, as tau2's results have `simulations`.

use crate::json::{Kind, Object, Value};
use crate::problem::{cut, found};

/// Names of the messages: chat completions, tau-bench, and others.
pub(super) const MESSAGES: &[&str] = &["messages", "traj", "conversation", "trajectory"];
/// Maximum number of field names in a message.
const MAX_NAMES: usize = 12;

/// A run, with its path in the document.
#[derive(Debug)]
pub(crate) struct RunAt<'b> {
    pub(crate) path: String,
    pub(crate) value: Value<'b>,
}

/// Returns the runs of a document. An item that is no run gives an error message.
pub(crate) fn runs<'b>(document: Value<'b>) -> Vec<Result<RunAt<'b>, (Value<'b>, String)>> {
    if is_run(document) {
        return vec![Ok(RunAt { path: String::new(), value: document })];
    }
    let listed = |prefix: &str, list: Value<'b>| {
        let item = |(index, value): (usize, Value<'b>)| {
            let path = format!("{prefix}[{index}]");
            if is_run(value) {
                Ok(RunAt { path: if value.kind() == Kind::Object { path + "." } else { path }, value })
            } else {
                Err((value, format!("{path}: {}", no_run(value))))
            }
        };
        list.items().enumerate().map(item).collect()
    };
    if let Some(first) =
        document.items().next().filter(|item| matches!(item.kind(), Kind::Object | Kind::Array))
    {
        if document.items().any(is_run) {
            return listed("", document);
        }
        let count = document.items().count();
        return vec![Err((document, format!("none of {count} items is a run: [0]: {}", no_run(first))))];
    }
    let fields = document.object().unwrap_or_default();
    let mut lists = fields.fields().filter(|(_, value)| is_list_of_runs(*value));
    match (lists.next(), lists.next()) {
        (Some((name, list)), None) => listed(&cut(name), list),
        (Some((one, _)), Some((two, _))) => {
            let (one, two) = (cut(one), cut(two));
            vec![Err((document, format!("expected one array of runs, found two: {one} and {two}")))]
        }
        _ => vec![Err((document, no_run(document)))],
    }
}

/// Returns true if a value has the shape of a run.
pub(crate) fn is_run(value: Value<'_>) -> bool {
    match value.kind() {
        Kind::Object => {
            value.object().is_some_and(|fields| MESSAGES.iter().any(|name| fields.get(name).is_some()))
        }
        Kind::Array => value.items().next().and_then(Value::object).is_some_and(|first| is_message(&first)),
        _ => false,
    }
}

fn is_message(fields: &Object<'_>) -> bool {
    fields.get("role").is_some() && MESSAGES.iter().all(|name| fields.get(name).is_none())
}

fn is_list_of_runs(value: Value<'_>) -> bool {
    value.kind() == Kind::Array && value.items().next().is_some_and(is_run)
}

fn no_run(value: Value<'_>) -> String {
    let Some(fields) = value.object() else {
        return format!(
            "expected an object with messages, or an array of messages, found {}",
            found(Some(value))
        );
    };
    let mut names: Vec<String> =
        fields.fields().map(|(name, _)| cut(name).into_owned()).take(MAX_NAMES + 1).collect();
    if names.len() > MAX_NAMES {
        names.pop();
        names.push("…".to_owned());
    }
    let names =
        if names.is_empty() { "no fields".to_owned() } else { format!("the fields {}", names.join(", ")) };
    let expected = MESSAGES.join(", ");
    let hint = hint(value);
    format!("expected an object with messages (as {expected}), found {names}{}", hint.unwrap_or_default())
}

/// Returns a hint for a document in which a request's messages or a model's reply stand deeper: logs of requests with their
/// responses, responses alone, and the output files of batches.
fn hint(value: Value<'_>) -> Option<String> {
    let messages = path_to(value, MAX_DEPTH, &|fields| {
        MESSAGES.iter().find(|name| fields.get(name).is_some()).map(|name| format!(".{name}"))
    });
    let reply = path_to(value, MAX_DEPTH, &reply);
    Some(match (messages, reply) {
        (Some((parent, messages)), Some((of, reply))) => format!(
            "; {shown}{messages} looks like messages and {of_shown}{reply} like the reply to them: write both out as one run, e.g. \
             jq -c '{{messages: ({parent}{messages} + [{of}{reply}])}}'",
            shown = parent.trim_start_matches('.'),
            of_shown = of.trim_start_matches('.'),
        ),
        (Some((parent, messages)), None) => format!(
            "; {}{messages} looks like messages: if each is a whole run, write them out, e.g. jq -c {parent}",
            parent.trim_start_matches('.')
        ),
        (None, Some((of, reply))) => format!(
            "; {path} looks like a model's reply without the messages before it: put it behind the messages of its request (of a \
             batch: the line of the input file with the same custom_id); if the replies alone are the runs, write them out, e.g. \
             jq -c '{{messages: [.{path}]}}'",
            path = format!("{of}{reply}").trim_start_matches('.'),
        ),
        (None, None) => return None,
    })
}

/// Maximum depth of objects in which [`hint`] searches.
const MAX_DEPTH: u32 = 3;

/// Returns the path of the reply in a response, from the response on: of chat completions, or of Anthropic's messages.
fn reply(fields: &Object<'_>) -> Option<String> {
    if let Some(choice) = fields.get("choices").and_then(|choices| choices.items().next()) {
        choice.object()?.get("message")?.object()?;
        return Some(".choices[0].message".to_owned());
    }
    let is_assistant = fields.get("role").and_then(Value::text).as_deref() == Some("assistant");
    (is_assistant && fields.get("content").is_some()).then(String::new)
}

/// Searches an object, and the objects in its fields, for the first that `found` accepts. Returns its path as jq writes it, and
/// the result of `found`. Enters only fields whose names need no quotes in jq.
fn path_to(
    value: Value<'_>,
    depth: u32,
    found: &dyn Fn(&Object<'_>) -> Option<String>,
) -> Option<(String, String)> {
    let fields = value.object()?;
    if let Some(found) = found(&fields) {
        return Some((String::new(), found));
    }
    let is_plain = |name: &str| {
        name.len() <= MAX_PLAIN_NAME
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit())
    };
    let depth = depth.checked_sub(1)?;
    fields.fields().filter(|(name, _)| is_plain(name) && !name.is_empty()).find_map(|(name, value)| {
        let (path, found) = path_to(value, depth, found)?;
        Some((format!(".{name}{path}"), found))
    })
}

/// Maximum length of a field's name in a hint.
const MAX_PLAIN_NAME: usize = 40;
