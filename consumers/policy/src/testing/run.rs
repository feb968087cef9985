//! Runs the tests of a bundle with the kernel that the evaluator uses.

use std::collections::BTreeSet;
use std::sync::Arc;

use agentgov_enrichment::{AgentTable, Session, ToolTable};
use agentgov_schemas::event::{ActionEvent, Agent, Message, Payload, Source, ToolCall, ToolResult};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::{Decision, Origin};
use agentgov_schemas::yaml::{self, Location, Problem};
use agentgov_schemas::{Digest, Micros, Millis, SessionKey, catalogue, governance};
use chrono::DateTime;
use serde_saphyr::Spanned;

use super::file::{AgentEntry, Step, TestEntry, TestFile};
use super::{Case, Report};
use agentgov_token::KeySet;

use crate::bundle::Bundle;
use crate::draft::TESTS_FOLDER;
use crate::files::BundleFiles;
use crate::judgement::Judgement;
use crate::kernel::Kernel;
use crate::policy::PolicyKind;
use crate::request_cache::RequestCache;
use crate::table::BundleTable;

const TENANT: &str = "tests";
const AGENT: &str = "agent";
/// 2024-01-01T00:00:00Z.
const DEFAULT_START: Micros = Micros(1_704_067_200_000_000);

/// Tests of a bundle run without registered tools: its own effects count.
static NO_TOOLS: ToolTable = ToolTable::new();

/// Message for a step without any of these keys.
pub(super) const EXPECTED_STEP: &str = "expected a step with `call`, `result` or `end: true`";

/// Runs the tests in `files`, from which `bundle` was compiled.
pub fn run(bundle: &Arc<Bundle>, files: &BundleFiles) -> Report {
    let mut report = Report::default();
    let mut violated = BTreeSet::new();
    let bundles = BundleTable::with_bundle(Arc::clone(bundle));
    for (path, content) in files.matching(TESTS_FOLDER, ".yaml") {
        match read(path, content) {
            Ok((file, start)) => {
                for test in &file.tests {
                    let agents = registry(test.value.agent.as_ref().unwrap_or(&file.agent));
                    let requests = RequestCache::default();
                    let mut runner = Runner::new(bundle, (&bundles, &agents, &requests), path, start);
                    runner.test(&test.value);
                    violated.append(&mut runner.violated);
                    report.cases.push(Case {
                        file: path.to_owned(),
                        line: test.referenced.line(),
                        name: test.value.name.clone(),
                        failures: runner.failures,
                    });
                }
            }
            Err(problems) => report.problems.extend(problems),
        }
    }
    let rules =
        bundle.policies().filter(|policy| policy.kind != PolicyKind::Grant).map(|policy| policy.id.clone());
    report.never_violated = rules.filter(|id| !violated.contains(id)).collect();
    report
}

fn read(path: &str, content: &[u8]) -> Result<(TestFile, Micros), Vec<Problem>> {
    let text = BundleFiles::text(content).map_err(|_| {
        vec![Problem { file: path.to_owned(), line: 1, column: 1, message: "expected UTF-8".to_owned() }]
    })?;
    let file: TestFile = yaml::parse(path, &text)?;
    let Some(start) = &file.start else { return Ok((file, DEFAULT_START)) };
    match parse_time(&start.value) {
        Ok(start) => Ok((file, start)),
        Err(message) => Err(vec![at(path, start.referenced, message)]),
    }
}

/// Parses a time in RFC 3339. The error is a message.
pub(super) fn parse_time(text: &str) -> Result<Micros, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| Micros(time.timestamp_micros()))
        .map_err(|_| format!("expected a time such as 2024-05-15T15:00:00Z, found `{text}`"))
}

fn at(path: &str, location: Location, message: String) -> Problem {
    Problem { file: path.to_owned(), line: location.line().max(1), column: location.column().max(1), message }
}

fn registry(agent: &AgentEntry) -> AgentTable {
    let mut agents = AgentTable::default();
    if let Some(state) = agent.state.registered() {
        let entry = governance::AgentEntry {
            name: AGENT,
            owner: "tests",
            roles: agent.roles.iter().map(String::as_str).collect(),
            ..governance::AgentEntry::new(TENANT, AGENT, state)
        };
        agents.fold(&entry, 0);
    }
    agents
}

/// Runner of one test, which is one session.
struct Runner<'a> {
    kernel: Kernel<'a>,
    environment: &'a str,
    path: &'a str,
    start: Micros,
    session: Session,
    sequence: i64,
    violated: BTreeSet<String>,
    failures: Vec<Problem>,
}

/// Content of an event besides its envelope.
#[derive(Default)]
struct EventContent<'t> {
    message: Option<Message<'t>>,
    tool: Option<ToolCall<'t>>,
    result: Option<ToolResult<'t>>,
}

impl<'a> Runner<'a> {
    fn new(
        bundle: &'a Bundle,
        (bundles, agents, requests): (&'a BundleTable, &'a AgentTable, &'a RequestCache),
        path: &'a str,
        start: Micros,
    ) -> Self {
        let ttl = HumanDuration(std::time::Duration::MAX);
        let limits = SessionLimits { ttl, max_facts: u32::MAX, max_bytes: u64::MAX };
        Self {
            kernel: Kernel {
                agents,
                tools: &NO_TOOLS,
                bundles,
                // Tests of a bundle have no approvals.
                keys: const { &KeySet::new() },
                limits,
                agents_topic: "agents",
                tools_topic: "tools",
                bundles_topic: "bundles",
                requests,
            },
            environment: bundle.environments().first().map_or("", String::as_str),
            path,
            start,
            session: Session::new(),
            sequence: 0,
            violated: BTreeSet::new(),
            failures: Vec::new(),
        }
    }

    fn test(&mut self, test: &TestEntry) {
        self.step(catalogue::SESSION_STARTED, EventContent::default());
        for step in &test.steps {
            let default_id = format!("call-{}", self.sequence);
            match (&step.value.call, &step.value.result, step.value.end) {
                (Some(call), ..) => {
                    self.call(&step.value, call, step.value.id.as_ref().unwrap_or(&default_id))
                }
                (None, Some(_), _) => {
                    self.result(&step.value, None, step.value.of.as_deref().unwrap_or_default())
                }
                (None, None, Some(true)) => {
                    drop(self.step(catalogue::SESSION_ENDED, EventContent::default()))
                }
                (None, None, _) => {
                    self.failures.push(at(self.path, step.referenced, EXPECTED_STEP.to_owned()));
                }
            }
        }
    }

    /// Steps the next event of the session, one second after the event before it.
    fn step(&mut self, kind: &str, content: EventContent<'_>) -> Option<Judgement<'a>> {
        let event = ActionEvent {
            environment: self.environment,
            occurred_at: Micros(self.start.0.saturating_add(self.sequence.saturating_mul(1_000_000))),
            message: content.message,
            tool: content.tool,
            result: content.result,
            ..ActionEvent::new(
                "",
                kind,
                SessionKey { tenant_id: TENANT, session_id: "session" },
                Source { id: "tests", sequence: self.sequence },
                Agent::new(AGENT),
            )
        };
        let origin = Origin {
            topic: "actions",
            partition: 0,
            offset: self.sequence,
            logged_at: Millis(self.sequence),
        };
        self.sequence += 1;
        match self.kernel.step(&mut self.session, &event, &origin) {
            Ok(step) => step.verdict,
            Err(error) => {
                let file = self.path.to_owned();
                self.failures.push(Problem { file, line: 1, column: 1, message: error.to_string() });
                None
            }
        }
    }

    fn call(&mut self, step: &Step, tool: &Spanned<String>, call_id: &str) {
        let arguments = match (&step.arguments, &step.input) {
            (Some(text), _) => text.clone(),
            (None, Some(input)) => input.to_json(),
            (None, None) => "{}".to_owned(),
        };
        let message = Message {
            id: "message",
            role: "assistant",
            has_text: step.message.as_ref().and_then(|message| message.has_text).unwrap_or(false),
            tool_calls: step.message.as_ref().and_then(|message| message.tool_calls).unwrap_or(1),
            content: None,
        };
        let called = ToolCall::new(&tool.value, call_id, payload(arguments.as_bytes()));
        let kind = if step.retry == Some(true) { catalogue::TOOL_RETRIED } else { catalogue::TOOL_INVOKED };
        let verdict =
            self.step(kind, EventContent { message: Some(message), tool: Some(called), result: None });
        if let Some(verdict) = verdict {
            self.compare(step, tool, &verdict);
        }
        self.result(step, Some(&tool.value), call_id);
    }

    fn result(&mut self, step: &Step, name: Option<&str>, call_id: &str) {
        let Some(result) = &step.result else { return };
        let payload_text = result.to_payload();
        let result =
            ToolResult { call_id, name, is_error: step.is_error, content: payload(payload_text.as_bytes()) };
        self.step(
            catalogue::TOOL_RESPONSE_RECEIVED,
            EventContent { result: Some(result), ..EventContent::default() },
        );
    }

    fn compare(&mut self, step: &Step, tool: &Spanned<String>, verdict: &Judgement<'_>) {
        let found: BTreeSet<&str> = verdict.violations.iter().map(|policy| policy.id.as_str()).collect();
        self.violated.extend(found.iter().map(|id| (*id).to_owned()));
        let entries = step.expect.as_ref().map(|expect| expect.value.as_slice()).unwrap_or_default();
        let expected: BTreeSet<&str> = entries.iter().map(|id| id.value.as_str()).collect();
        let place = step.expect.as_ref().map_or(tool.referenced, |expect| expect.referenced);
        let mut compare_field = |place: Location, what: &str, expected: String, found: String| {
            if expected != found {
                let message = format!("{}: expected {what} {expected}, found {found}", tool.value);
                self.failures.push(at(self.path, place, message));
            }
        };
        compare_field(place, "violations", list(&expected), list(&found));
        let default = if expected.is_empty() { Decision::Allow } else { Decision::Deny }.as_str();
        let decision = step.decision.as_ref().map_or(default, |decision| decision.value.as_str());
        let place = step.decision.as_ref().map_or(place, |decision| decision.referenced);
        compare_field(place, "decision", decision.to_owned(), verdict.decision.as_str().to_owned());
        let errors: BTreeSet<String> =
            verdict.errors.iter().map(|e| format!("{} {}", e.code, e.subject)).collect();
        let expected: BTreeSet<&str> = step.errors.iter().flatten().map(String::as_str).collect();
        compare_field(
            tool.referenced,
            "errors",
            list(&expected),
            list(&errors.iter().map(String::as_str).collect()),
        );
    }
}

fn list(items: &BTreeSet<&str>) -> String {
    if items.is_empty() { "none".to_owned() } else { items.iter().copied().collect::<Vec<_>>().join(", ") }
}

fn payload(data: &[u8]) -> Payload<'_> {
    Payload { data, sha256: Digest::of(data), media_type: "application/json", redacted: false }
}
