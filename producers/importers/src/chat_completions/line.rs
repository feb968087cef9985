//! One line, checked: every problem of it, or the run.

use serde_json::{Map, Value};

use crate::problem::found;

/// A recorded run.
#[derive(Debug)]
pub(crate) struct Run {
    /// task_id/trial.
    pub(crate) label: String,
    pub(crate) user_id: Option<String>,
    pub(crate) messages: Vec<Message>,
}

/// A message, and its name within the session.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) said: Said,
}

#[derive(Debug)]
pub(crate) enum Said {
    User { text: Option<String> },
    System { text: Option<String> },
    Assistant { text: Option<String>, calls: Vec<Call> },
    Tool { call_id: String, name: Option<String>, text: Option<String> },
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// Reads a line; all that is wrong with it at once.
pub(crate) fn read(line: &[u8]) -> Result<Run, Vec<String>> {
    let text = std::str::from_utf8(line)
        .map_err(|e| vec![format!("expected UTF-8, found another byte at column {}", e.valid_up_to() + 1)])?;
    let value: Value =
        serde_json::from_str(text).map_err(|e| vec![format!("expected JSON, found {}", syntax(&e))])?;
    let Value::Object(fields) = &value else {
        return Err(vec![format!("expected an object with the run's fields, found {}", found(Some(&value)))]);
    };
    let mut reader = Reader { problems: Vec::new() };
    let run = reader.run(fields);
    if reader.problems.is_empty() { Ok(run) } else { Err(reader.problems) }
}

/// serde_json's message without its line number, which is always 1.
fn syntax(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    format!("a mistake at column {}: {message}", error.column())
}

/// Collects problems on the way; what it returns beside a problem stands for nothing.
struct Reader {
    problems: Vec<String>,
}

impl Reader {
    fn run(&mut self, fields: &Map<String, Value>) -> Run {
        let task_id = self.name("task_id", fields.get("task_id"));
        let trial = self.name("trial", fields.get("trial"));
        let user_id = match fields.get("user_id") {
            None | Some(Value::Null) => None,
            some => Some(self.name("user_id", some)),
        };
        let messages = match fields.get("messages") {
            Some(Value::Array(messages)) => messages
                .iter()
                .enumerate()
                .filter_map(|(index, message)| self.message(index, message))
                .collect(),
            other => {
                self.problem("messages", "an array", other);
                Vec::new()
            }
        };
        Run { label: format!("{task_id}/{trial}"), user_id, messages }
    }

    fn message(&mut self, index: usize, message: &Value) -> Option<Message> {
        let at = format!("messages[{index}]");
        let Value::Object(fields) = message else {
            return self.expected(&at, "an object", Some(message));
        };
        let text = self.text(&format!("{at}.content"), fields.get("content"));
        let said = match fields.get("role").and_then(Value::as_str) {
            Some("user") => Said::User { text },
            Some("system") => Said::System { text },
            Some("assistant") => Said::Assistant { text, calls: self.calls(&at, fields) },
            Some("tool") => Said::Tool {
                call_id: self.string(&format!("{at}.tool_call_id"), fields.get("tool_call_id"))?,
                name: match fields.get("name") {
                    None | Some(Value::Null) => None,
                    name => Some(self.string(&format!("{at}.name"), name)?),
                },
                text,
            },
            _ => {
                return self.expected(
                    &format!("{at}.role"),
                    "user, assistant, tool or system",
                    fields.get("role"),
                );
            }
        };
        Some(Message { id: format!("m{index}"), said })
    }

    fn calls(&mut self, at: &str, fields: &Map<String, Value>) -> Vec<Call> {
        if let Some(call) = fields.get("function_call").filter(|call| !call.is_null()) {
            self.problem(&format!("{at}.function_call"), "calls in tool_calls", Some(call));
        }
        match fields.get("tool_calls") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(calls)) => {
                let call = |(index, call)| self.call(&format!("{at}.tool_calls[{index}]"), call);
                calls.iter().enumerate().filter_map(call).collect()
            }
            other => {
                self.problem(&format!("{at}.tool_calls"), "an array or null", other);
                Vec::new()
            }
        }
    }

    fn call(&mut self, at: &str, call: &Value) -> Option<Call> {
        let function = call.get("function");
        let of_function = |name| function.and_then(|function| function.get(name));
        let id = self.string(&format!("{at}.id"), call.get("id"));
        let name = self.string(&format!("{at}.function.name"), of_function("name"));
        let arguments = match of_function("arguments") {
            Some(Value::String(arguments)) => Some(arguments.clone()),
            other => self.expected(&format!("{at}.function.arguments"), "a string", other),
        };
        Some(Call { id: id?, name: name?, arguments: arguments? })
    }

    /// A text: a string, null, or an array of parts with type text.
    fn text(&mut self, at: &str, value: Option<&Value>) -> Option<String> {
        let expected = "a string, null, or an array of parts of type text";
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(parts)) => {
                let mut whole = String::new();
                for (index, part) in parts.iter().enumerate() {
                    let is_text = part.get("type").and_then(Value::as_str) == Some("text");
                    match part.get("text").and_then(Value::as_str) {
                        Some(text) if is_text => whole.push_str(text),
                        _ => {
                            self.problem(&format!("{at}[{index}]"), "a part of type text", Some(part));
                        }
                    }
                }
                Some(whole)
            }
            other => self.expected(at, expected, other),
        }
    }

    /// A non-empty string.
    fn string(&mut self, at: &str, value: Option<&Value>) -> Option<String> {
        match value {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            other => self.expected(at, "a non-empty string", other),
        }
    }

    /// A name: a non-empty string, or an integer.
    fn name(&mut self, at: &str, value: Option<&Value>) -> String {
        match value {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
            other => {
                self.expected::<String>(at, "a non-empty string or an integer", other).unwrap_or_default()
            }
        }
    }

    fn expected<T>(&mut self, at: &str, expected: &str, value: Option<&Value>) -> Option<T> {
        self.problem(at, expected, value);
        None
    }

    fn problem(&mut self, at: &str, expected: &str, value: Option<&Value>) {
        self.problems.push(format!("{at}: expected {expected}, found {}", found(value)));
    }
}
