//! Fixtures of these tests: the airline's bundle, and recorded runs as events.
#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentgov_enrichment::{AgentTable, Session, ToolTable};
use agentgov_policy::{Bundle, BundleFiles, BundleTable, Judgement, Kernel, KeySet};
use agentgov_schemas::event::{ActionEvent, Agent, Message, Source, ToolCall, ToolResult};
use agentgov_schemas::governance::{AgentEntry, AgentState};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::{Micros, Millis, SessionKey};
pub use agentgov_test_support::payload;
use serde_json::Value;

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Reads the files of a bundle's folder.
pub fn read_bundle(folder: &Path) -> BundleFiles {
    fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{path}/"), files);
            } else {
                files.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(folder, "", &mut files);
    BundleFiles(files)
}

/// Reads the files of the airline's bundle.
pub fn airline_files() -> BundleFiles {
    read_bundle(&root().join("examples/airline/bundle"))
}

/// Compiles the airline's bundle.
pub fn airline() -> Arc<Bundle> {
    match Bundle::compile(&airline_files()) {
        Ok(bundle) => Arc::new(bundle),
        Err(problems) => panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>()),
    }
}

static NO_TOOLS: ToolTable = ToolTable::new();

/// Limits that no test reaches.
pub fn no_limits() -> SessionLimits {
    SessionLimits { ttl: HumanDuration(Duration::from_hours(1)), max_facts: 10_000, max_bytes: 16 << 20 }
}

/// Returns a table with the agent of the airline.
pub fn service_agent() -> AgentTable {
    let mut agents = AgentTable::default();
    let entry = AgentEntry {
        name: "Service agent",
        owner: "customer-care",
        roles: vec!["airline-agent"],
        ..AgentEntry::new("airline", "airline-service", AgentState::Active)
    };
    agents.fold(&entry, 0);
    agents
}

/// 2024-05-15T15:00:00Z, in microseconds.
pub const START: i64 = 1_715_785_200_000_000;

/// Session to which a test applies events.
pub struct Replay<'k> {
    kernel: Kernel<'k>,
    pub session: Session,
    sequence: i64,
}

/// Content of an event besides its envelope.
#[derive(Clone, Copy, Default)]
pub struct EventContent<'a> {
    pub kind: &'a str,
    pub message: Option<Message<'a>>,
    pub tool: Option<ToolCall<'a>>,
    pub result: Option<ToolResult<'a>>,
    pub second: i64,
}

impl<'k> Replay<'k> {
    pub fn new(kernel: Kernel<'k>) -> Self {
        Self { kernel, session: Session::new(), sequence: 0 }
    }

    /// Steps the next event of the session.
    pub fn apply(&mut self, content: EventContent<'_>) -> Option<Judgement<'k>> {
        let (kernel, session) = (self.kernel, &mut self.session);
        let verdict = with_event(content, self.sequence, |event, origin| {
            kernel.step(session, event, origin).unwrap().verdict
        });
        self.sequence += 1;
        verdict
    }
}

/// Creates the event with number `sequence` and its origin, and passes both to `then`.
pub fn with_event<T>(
    content: EventContent<'_>,
    sequence: i64,
    then: impl FnOnce(&ActionEvent<'_>, &Origin<'_>) -> T,
) -> T {
    let event = ActionEvent {
        environment: "demo",
        occurred_at: Micros(START + content.second * 1_000_000),
        message: content.message,
        tool: content.tool,
        result: content.result,
        ..ActionEvent::new(
            "e",
            content.kind,
            SessionKey { tenant_id: "airline", session_id: "s" },
            Source { id: "test", sequence },
            Agent::new("airline-service"),
        )
    };
    then(&event, &Origin { topic: "actions", partition: 0, offset: sequence, logged_at: Millis(sequence) })
}

/// Violation or error in a recorded run: index and tool of the call, and id of the violation or code of the error.
pub type Finding = (i32, String, String);

/// Replays a recorded run as the importer publishes it. Returns its violations and the errors of its verdicts, in order.
pub fn replay_run(kernel: Kernel<'_>, run: &Value) -> (Vec<Finding>, Vec<Finding>) {
    let mut replay = Replay::new(kernel);
    let (mut violations, mut errors) = (Vec::new(), Vec::new());
    replay.apply(EventContent { kind: "session.started", ..EventContent::default() });
    let messages = run["messages"].as_array().unwrap();
    for (i, message) in messages.iter().enumerate() {
        let text = message["content"].as_str().unwrap_or_default();
        let second = i64::try_from(i).unwrap();
        match message["role"].as_str().unwrap() {
            "assistant" => {
                let has_text = !text.trim().is_empty();
                let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
                let about = Message {
                    id: "m",
                    role: "assistant",
                    has_text,
                    tool_calls: i32::try_from(calls.len()).unwrap(),
                    content: None,
                };
                for call in &calls {
                    let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                    let name = call["function"]["name"].as_str().unwrap();
                    let tool =
                        ToolCall::new(name, call["id"].as_str().unwrap(), payload(arguments.as_bytes()));
                    let content = EventContent {
                        kind: "tool.invoked",
                        message: Some(about),
                        tool: Some(tool),
                        second,
                        ..EventContent::default()
                    };
                    let verdict = replay.apply(content).unwrap();
                    let index = verdict.call_index.unwrap();
                    violations
                        .extend(verdict.violations.iter().map(|p| (index, name.to_owned(), p.id.clone())));
                    errors.extend(
                        verdict
                            .errors
                            .iter()
                            .map(|e| (index, name.to_owned(), format!("{} {}", e.code, e.subject))),
                    );
                }
            }
            "tool" => {
                let result = ToolResult {
                    call_id: message["tool_call_id"].as_str().unwrap(),
                    name: message["name"].as_str(),
                    is_error: None,
                    content: payload(text.as_bytes()),
                };
                replay.apply(EventContent {
                    kind: "tool.response_received",
                    result: Some(result),
                    second,
                    ..EventContent::default()
                });
            }
            _ => drop(replay.apply(EventContent { kind: "user.input", second, ..EventContent::default() })),
        }
    }
    replay.apply(EventContent { kind: "session.ended", ..EventContent::default() });
    (violations, errors)
}

/// Creates a kernel with the given tables.
pub fn kernel<'k>(agents: &'k AgentTable, bundles: &'k BundleTable) -> Kernel<'k> {
    Kernel {
        agents,
        tools: &NO_TOOLS,
        bundles,
        keys: const { &KeySet::new() },
        limits: no_limits(),
        agents_topic: "agents",
        tools_topic: "tools",
        bundles_topic: "bundles",
        // Leaked once per kernel, which is acceptable in a test.
        requests: Box::leak(Box::default()),
    }
}
