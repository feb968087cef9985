//! Recorded runs as events, and the airline's bundle: what the tests of this folder share.
#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentgov_enrichment::{AgentTable, Session};
use agentgov_policy::{Bundle, BundleFiles, BundleTable, Judgement, Kernel};
use agentgov_schemas::event::{ActionEvent, Agent, Message, Source, ToolCall, ToolResult};
use agentgov_schemas::governance::{AgentEntry, AgentState};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::{Micros, Millis, SessionKey};
pub use agentgov_test_support::payload;
use serde_json::Value;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of a bundle's folder.
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

/// The files of the airline's bundle.
pub fn airline_files() -> BundleFiles {
    read_bundle(&root().join("examples/airline/bundle"))
}

/// The airline's bundle.
pub fn airline() -> Arc<Bundle> {
    match Bundle::compile(&airline_files()) {
        Ok(bundle) => Arc::new(bundle),
        Err(problems) => panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>()),
    }
}

/// What no test reaches.
pub fn no_limits() -> SessionLimits {
    SessionLimits { ttl: HumanDuration(Duration::from_hours(1)), max_facts: 10_000, max_bytes: 16 << 20 }
}

/// The agent of the airline's registry.
pub fn service_agent() -> AgentTable {
    let mut agents = AgentTable::default();
    let entry = AgentEntry {
        tenant_id: "airline",
        agent_id: "airline-service",
        name: "Service agent",
        owner: "customer-care",
        roles: vec!["airline-agent"],
        state: AgentState::Active.into(),
        description: "",
        pushed_by: "",
    };
    agents.fold(&entry, 0);
    agents
}

/// 2024-05-15T15:00:00Z, in microseconds.
pub const START: i64 = 1_715_785_200_000_000;

/// A session that is fed event by event.
pub struct Replay<'k> {
    kernel: Kernel<'k>,
    pub session: Session,
    sequence: i64,
}

/// An event's parts that differ from event to event.
#[derive(Clone, Copy, Default)]
pub struct Told<'a> {
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

    /// The next event of the session.
    pub fn tell(&mut self, told: Told<'_>) -> Option<Judgement<'k>> {
        let (kernel, session) = (self.kernel, &mut self.session);
        let verdict = with_event(told, self.sequence, |event, origin| {
            kernel.step(session, event, origin).unwrap().verdict
        });
        self.sequence += 1;
        verdict
    }
}

/// The event that its source sends as number `sequence`, and where it stands.
pub fn with_event<T>(
    told: Told<'_>,
    sequence: i64,
    then: impl FnOnce(&ActionEvent<'_>, &Origin<'_>) -> T,
) -> T {
    let event = ActionEvent {
        environment: "demo",
        occurred_at: Micros(START + told.second * 1_000_000),
        message: told.message,
        tool: told.tool,
        result: told.result,
        ..ActionEvent::new(
            "e",
            told.kind,
            SessionKey { tenant_id: "airline", session_id: "s" },
            Source { id: "test", sequence },
            Agent::new("airline-service"),
        )
    };
    then(&event, &Origin { topic: "actions", partition: 0, offset: sequence, logged_at: Millis(sequence) })
}

/// A violation, or an error, of a recorded run: the call's index, its tool, and what it is.
pub type Finding = (i32, String, String);

/// Replays a recorded run as the importer tells it. Gives its violations in order, and the errors that verdicts name.
pub fn replay_run(kernel: Kernel<'_>, run: &Value) -> (Vec<Finding>, Vec<Finding>) {
    let mut replay = Replay::new(kernel);
    let (mut violations, mut errors) = (Vec::new(), Vec::new());
    replay.tell(Told { kind: "session.started", ..Told::default() });
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
                    let told = Told {
                        kind: "tool.invoked",
                        message: Some(about),
                        tool: Some(tool),
                        second,
                        ..Told::default()
                    };
                    let verdict = replay.tell(told).unwrap();
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
                replay.tell(Told {
                    kind: "tool.response_received",
                    result: Some(result),
                    second,
                    ..Told::default()
                });
            }
            _ => drop(replay.tell(Told { kind: "user.input", second, ..Told::default() })),
        }
    }
    replay.tell(Told { kind: "session.ended", ..Told::default() });
    (violations, errors)
}

/// A kernel with one bundle and the airline's agent.
pub fn kernel<'k>(agents: &'k AgentTable, bundles: &'k BundleTable) -> Kernel<'k> {
    Kernel {
        agents,
        bundles,
        limits: no_limits(),
        agents_topic: "agents",
        bundles_topic: "bundles",
        // One a kernel; tests are short.
        requests: Box::leak(Box::default()),
    }
}
