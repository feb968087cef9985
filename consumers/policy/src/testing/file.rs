//! Syntax of `tests/*.yaml`.

use agentgov_schemas::governance::AgentState;
use agentgov_schemas::yaml::{FromNode, Node, Problems, Value};
use agentgov_schemas::{mapping, words};
use serde_saphyr::Spanned;

/// Parsed file of tests.
pub(super) struct TestFile {
    /// Start time of each session in RFC 3339. Default: 2024-01-01T00:00:00Z.
    pub(super) start: Option<Spanned<String>>,
    /// Acting agent.
    pub(super) agent: AgentEntry,
    /// Place for YAML anchors. Not read.
    #[expect(dead_code, reason = "only its anchors are used")]
    pub(super) shared: Option<YamlValue>,
    pub(super) tests: Vec<Spanned<TestEntry>>,
}
mapping!(TestFile, "a file of tests", { start, agent, shared, tests });

/// Acting agent.
pub(super) struct AgentEntry {
    pub(super) roles: Vec<String>,
    pub(super) state: RegistryState,
}
mapping!(AgentEntry, "an agent", { roles, state });

/// State of the acting agent in the registry. Default: active.
#[derive(Clone, Copy)]
pub(super) enum RegistryState {
    Active,
    Suspended,
    Retired,
    /// The agent is not registered.
    Unregistered,
}
words!(RegistryState {
    "active" => Active, "suspended" => Suspended, "retired" => Retired, "unregistered" => Unregistered,
}, absent: Active);

impl RegistryState {
    /// Returns the state of a registered agent.
    pub(super) const fn registered(self) -> Option<AgentState> {
        match self {
            Self::Active => Some(AgentState::Active),
            Self::Suspended => Some(AgentState::Suspended),
            Self::Retired => Some(AgentState::Retired),
            Self::Unregistered => None,
        }
    }
}

/// Test of one session.
pub(super) struct TestEntry {
    pub(super) name: String,
    /// Acting agent, instead of the one of the file.
    pub(super) agent: Option<AgentEntry>,
    pub(super) steps: Vec<Spanned<Step>>,
}
mapping!(TestEntry, "a test", { name, agent, steps });

/// Step of a test: a call with an optional result, a separate result, or the end of the session.
pub(super) struct Step {
    /// Called tool.
    pub(super) call: Option<Spanned<String>>,
    /// Id of the call. Default: a unique id.
    pub(super) id: Option<String>,
    /// True for a retry of the call with the same id.
    pub(super) retry: Option<bool>,
    /// Arguments as YAML.
    pub(super) input: Option<YamlValue>,
    /// Arguments as raw text, for arguments that are not JSON.
    pub(super) arguments: Option<String>,
    /// Assistant message that makes the call. Default: no text, one call.
    pub(super) message: Option<MessageEntry>,
    /// Result of the tool: a text is used as it is, any other value as JSON.
    pub(super) result: Option<YamlValue>,
    /// Without `call`: id of the call that `result` answers.
    pub(super) of: Option<String>,
    /// Value of `is_error` in the result.
    pub(super) is_error: Option<bool>,
    /// All expected violations. Default: none.
    pub(super) expect: Option<Spanned<Vec<Spanned<String>>>>,
    /// Expected decision. Default: allow without violations, else deny.
    pub(super) decision: Option<Spanned<String>>,
    /// Expected errors of the verdict, each as `code subject`. Default: none.
    pub(super) errors: Option<Vec<String>>,
    /// True ends the session.
    pub(super) end: Option<bool>,
}
mapping!(Step, "a step", {
    call, id, retry, input, arguments, message, result, of, is_error, expect, decision, errors, end
});

/// Properties of an assistant message.
pub(super) struct MessageEntry {
    pub(super) has_text: Option<bool>,
    pub(super) tool_calls: Option<i32>,
}
mapping!(MessageEntry, "a message", { has_text, tool_calls });

/// YAML value of any type.
pub(super) struct YamlValue(pub(super) Node);

impl FromNode for YamlValue {
    fn from_node(node: &Node, _: &mut Problems) -> Option<Self> {
        Some(Self(node.clone()))
    }
}

impl YamlValue {
    /// Returns the payload of a result: a text as it is, any other value as JSON.
    pub(super) fn to_payload(&self) -> String {
        match &self.0.value {
            Value::Text(text) => text.clone(),
            value => json(value),
        }
    }

    /// Returns the value as JSON.
    pub(super) fn to_json(&self) -> String {
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

/// Formats a number. NaN and infinities have no JSON notation and are written as Python writes and reads them.
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
