//! Denied calls that follow other calls with results.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_enrichment::{AgentTable, Change, Session};
use agentgov_policy::{Bundle, BundleFiles, BundleTable, generated_schema};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ToolCall, ToolResult};
use agentgov_schemas::verdict::Decision;
use serde_json::Value;

use crate::support::{EventContent, Replay, kernel, payload, service_agent};

/// Policies that deny, or ask about, a call whose value `v` is true.
pub const POLICIES: &[&str] = &[
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) when { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") @effect(\"ask\") forbid (principal, action, resource) when { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) when { if context has v then context.v else false };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) unless { context has v && !context.v };",
    "@id(\"g\") permit (principal, action, resource) unless { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource) when { if context has v then !context.v else true };",
    "@id(\"g\") permit (principal, action, resource) when { context has v && !context.v };
     @id(\"h\") permit (principal, action, resource) when { !(context has v) };",
];

/// Default entry of most bundles: any result with an id is an order.
pub const ANY_ORDER: &str = "default: { effect: read, states: [{ fact: order, key: result.id }] }\ntools:";

/// Compiles a bundle whose tool `pay` derives `v`. `states` are the lines of tools.yaml before that tool.
pub fn bundle(states: &str, value: &str, policies: &str) -> Arc<Bundle> {
    let value = serde_json::to_string(value).unwrap();
    let tools = format!(
        "{states}\n  pay:\n    effect: write\n    derived: {{ v: {{ type: Bool, value: {value} }} }}\n"
    );
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), b"name: b\nversion: '1'\nenvironments: [demo]\n".to_vec()),
        ("tools.yaml".to_owned(), tools.into()),
        ("rules.cedar".to_owned(), policies.into()),
    ]);
    let schema = generated_schema(&BundleFiles(files.clone())).unwrap();
    files.insert("schema.cedarschema".to_owned(), schema.into());
    Arc::new(Bundle::compile(&BundleFiles(files)).unwrap_or_else(|problems| panic!("{problems:?}")))
}

/// Call of another tool, and the event that follows it.
#[derive(Clone)]
pub struct Exchange {
    pub tool: &'static str,
    pub arguments: Value,
    pub kind: &'static str,
    /// Content of the result; `None` for an event without one.
    pub content: Option<Vec<u8>>,
}

impl Exchange {
    /// Creates a call with its result.
    pub fn new(tool: &'static str, arguments: Value, content: impl Into<Vec<u8>>) -> Self {
        Self { tool, arguments, kind: catalogue::TOOL_RESPONSE_RECEIVED, content: Some(content.into()) }
    }
}

/// A call that is denied after these exchanges.
pub struct Denied {
    /// The bundle, in words.
    pub rule: String,
    pub bundles: BundleTable,
    pub before: Vec<Exchange>,
    pub tool: &'static str,
    pub arguments: Value,
}

impl Denied {
    /// Returns the decision about the call with these arguments, and the verdict's errors.
    pub fn decide(&self, arguments: &[u8]) -> (Decision, Vec<String>) {
        let agents = service_agent();
        self.judge(&mut self.replay(&agents, &self.before), arguments)
    }

    /// Returns the decision about the unchanged call after other exchanges. Checks that a restart does not change it.
    pub fn decide_after(&self, before: &[Exchange]) -> (Decision, Vec<String>) {
        let (agents, arguments) = (service_agent(), self.arguments.to_string());
        let mut replay = self.replay(&agents, before);
        let restored = restored(&replay.session);
        let found = self.judge(&mut replay, arguments.as_bytes());
        replay.session = restored;
        assert_eq!(
            found.0,
            self.judge(&mut replay, arguments.as_bytes()).0,
            "after a restart: {}",
            self.rule
        );
        found
    }

    fn replay<'d>(&'d self, agents: &'d AgentTable, before: &[Exchange]) -> Replay<'d> {
        let mut replay = Replay::new(kernel(agents, &self.bundles));
        replay.apply(EventContent { kind: catalogue::SESSION_STARTED, ..EventContent::default() });
        for Exchange { tool, arguments, kind, content } in before {
            let arguments = arguments.to_string();
            let call = ToolCall::new(tool, "before", payload(arguments.as_bytes()));
            replay.apply(EventContent {
                kind: catalogue::TOOL_INVOKED,
                tool: Some(call),
                ..EventContent::default()
            });
            let result = content.as_deref().map(|content| ToolResult {
                call_id: "before",
                name: None,
                is_error: None,
                content: payload(content),
            });
            replay.apply(EventContent { kind, result, ..EventContent::default() });
        }
        replay
    }

    fn judge(&self, replay: &mut Replay<'_>, arguments: &[u8]) -> (Decision, Vec<String>) {
        let call = ToolCall::new(self.tool, "call", payload(arguments));
        let content =
            EventContent { kind: catalogue::TOOL_INVOKED, tool: Some(call), ..EventContent::default() };
        let judged = replay.apply(content).unwrap();
        let errors = judged.errors.iter().map(|e| format!("{} {}: {}", e.code, e.subject, e.message));
        (judged.decision, errors.collect())
    }
}

/// Restores a session from its changelog.
fn restored(session: &Session) -> Session {
    let mut restored = Session::new();
    for entry in session.tombstones() {
        match entry {
            Change::FactRemoved { kind, key } => restored.restore_fact(&session.fact(&kind, &key).unwrap()),
            Change::CallRemoved { call_id } => restored.restore_call(&session.call(&call_id).unwrap()),
            Change::NumbersRemoved { source, block } => {
                restored.restore_numbers(&session.numbers(&source, block).unwrap()).unwrap();
            }
            _ => {}
        }
    }
    restored.restore_header(&session.header()).unwrap();
    restored
}
