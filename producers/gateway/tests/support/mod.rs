//! A decision point that allows everything, and a log that keeps the types of its events.
#![allow(dead_code, reason = "no test uses all of it")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentgov_authzen_client::{AskError, CallQuestion, Decision, PermittedTool};
use agentgov_gateway::session::{Decider, Identity, Journal};
use agentgov_schemas::definition::ToolDefinition;
use agentgov_sdk::{Event, Receipt, RecordError};
use serde_json::json;

pub struct AllowAll;

impl Decider for AllowAll {
    fn decide(&self, _: &CallQuestion<'_>, _: Duration) -> Result<Decision, AskError> {
        let context =
            json!({ "outcome": "allow", "reason": "granted", "evaluation_id": "e", "recorded": true });
        Ok(Decision::parse(&json!({ "decision": true, "context": context }).to_string()).unwrap())
    }

    fn permitted_tools(&self, _: &CallQuestion<'_>) -> Result<Vec<PermittedTool>, AskError> {
        let tool = |name: &str| {
            let listed = json!({ "name": name, "description": "Does \u{1b}[2Jthings.", "inputSchema": { "type": "object" } });
            let definition = ToolDefinition::parse(&listed.to_string()).unwrap();
            PermittedTool { name: format!("files/{name}"), definition: Some(definition.digest.to_string()) }
        };
        Ok(["read_file", "two_pages"].map(tool).into())
    }
}

#[derive(Clone, Default)]
pub struct Types(pub Arc<Mutex<Vec<String>>>);

impl Journal for Types {
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        let mut types = self.0.lock().unwrap();
        types.push(event.r#type.to_owned());
        Ok(Receipt { sequence: types.len() as i64, event_id: uuid::Uuid::nil() })
    }

    fn check(&self, _: &Event<'_>) -> Result<(), RecordError> {
        Ok(())
    }

    fn source_id(&self) -> &'static str {
        "source"
    }
}

pub fn identity() -> Identity {
    Identity {
        tenant_id: "acme".into(),
        environment: "test".into(),
        agent_id: "bot".into(),
        session_id: "s".into(),
    }
}

/// Returns the MCP server of the tests.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server.py")
}
