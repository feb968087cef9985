//! `tests/*.yaml` as it is written.

use agentgov_schemas::governance::AgentState;
use agentgov_schemas::yaml::{FromNode, Node, Problems, Value};
use agentgov_schemas::{mapping, words};
use serde_saphyr::Spanned;

/// The file.
pub(super) struct TestFile {
    /// When every session of the file begins, in RFC 3339. Default: 2024-01-01T00:00:00Z.
    pub(super) start: Option<Spanned<String>>,
    /// Who acts.
    pub(super) agent: AgentEntry,
    /// A place for YAML anchors. Nobody reads it.
    #[expect(dead_code, reason = "its anchors are read where they are used")]
    pub(super) shared: Option<Anything>,
    pub(super) tests: Vec<Spanned<TestEntry>>,
}
mapping!(TestFile, "a file of tests", { start, agent, shared, tests });

/// The acting agent.
pub(super) struct AgentEntry {
    pub(super) roles: Vec<String>,
    pub(super) state: RegistryState,
}
mapping!(AgentEntry, "an agent", { roles, state });

/// What the registry says of the acting agent. Default: active.
#[derive(Clone, Copy)]
pub(super) enum RegistryState {
    Active,
    Suspended,
    Retired,
    /// It is in no registry at all.
    Unregistered,
}
words!(RegistryState {
    "active" => Active, "suspended" => Suspended, "retired" => Retired, "unregistered" => Unregistered,
}, absent: Active);

impl RegistryState {
    /// Its state, if the agent is registered.
    pub(super) const fn registered(self) -> Option<AgentState> {
        match self {
            Self::Active => Some(AgentState::Active),
            Self::Suspended => Some(AgentState::Suspended),
            Self::Retired => Some(AgentState::Retired),
            Self::Unregistered => None,
        }
    }
}

/// A test: one session.
pub(super) struct TestEntry {
    pub(super) name: String,
    /// Who acts here, in place of the file's.
    pub(super) agent: Option<AgentEntry>,
    pub(super) steps: Vec<Spanned<Step>>,
}
mapping!(TestEntry, "a test", { name, agent, steps });

/// A call, with its result if that comes at once; or a result of its own; or the end.
pub(super) struct Step {
    /// The tool that is called.
    pub(super) call: Option<Spanned<String>>,
    /// The call's id. Default: one of its own.
    pub(super) id: Option<String>,
    /// True for a call that is tried once more, under the same id.
    pub(super) retry: Option<bool>,
    /// Its arguments.
    pub(super) input: Option<Anything>,
    /// Its arguments as they stand, for those that are no JSON.
    pub(super) arguments: Option<String>,
    /// The assistant message that makes the call. Default: no text, one call.
    pub(super) message: Option<MessageEntry>,
    /// What the tool answers: a text as it stands, anything else as JSON.
    pub(super) result: Option<Anything>,
    /// Without `call`: the id of the call that `result` answers.
    pub(super) of: Option<String>,
    /// Whether the producer says that the call failed.
    pub(super) is_error: Option<bool>,
    /// The violations, all of them. Default: none.
    pub(super) expect: Option<Spanned<Vec<Spanned<String>>>>,
    /// The decision. Default: allow without violations, deny with any.
    pub(super) decision: Option<Spanned<String>>,
    /// The errors that the verdict names, each `code subject`. Default: none.
    pub(super) errors: Option<Vec<String>>,
    /// True: the session ends.
    pub(super) end: Option<bool>,
}
mapping!(Step, "a step", {
    call, id, retry, input, arguments, message, result, of, is_error, expect, decision, errors, end
});

/// What an assistant message is.
pub(super) struct MessageEntry {
    pub(super) has_text: Option<bool>,
    pub(super) tool_calls: Option<i32>,
}
mapping!(MessageEntry, "a message", { has_text, tool_calls });

/// Any YAML value.
pub(super) struct Anything(pub(super) Node);

impl FromNode for Anything {
    fn from_node(node: &Node, _: &mut Problems) -> Option<Self> {
        Some(Self(node.clone()))
    }
}

impl Anything {
    /// As a tool would say it: a text as it stands, anything else as JSON.
    pub(super) fn answer(&self) -> String {
        match &self.0.value {
            Value::Text(text) => text.clone(),
            value => json(value),
        }
    }

    /// As JSON.
    pub(super) fn json(&self) -> String {
        json(&self.0.value)
    }
}

fn json(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => number(*value),
        Value::Text(text) => quoted(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| json(&item.value)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Mapping(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, node)| format!("{}:{}", quoted(&key.value), json(&node.value)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

/// As Python writes it where JSON has no word for it.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "1e400" } else { "-1e400" }.to_owned()
    } else {
        serde_json::Value::from(value).to_string()
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
