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
    let within = fields.fields().find_map(|(name, value)| {
        let inner = value.object()?;
        let messages = MESSAGES.iter().find(|messages| inner.get(messages).is_some())?;
        let name = cut(name);
        Some(format!("; {name}.{messages} looks like messages: if each is a whole run, write them out, e.g. jq -c .{name}"))
    });
    format!("expected an object with messages (as {expected}), found {names}{}", within.unwrap_or_default())
}
