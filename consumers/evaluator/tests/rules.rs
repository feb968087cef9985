//! The rules by which verdicts are made, as their verdicts on fixed events. A change of any of them is a new
//! [`RULES_VERSION`]: an evaluation basis names the version, and a verdict of another version cannot be recomputed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agentgov_evaluator::Evaluator;
use agentgov_policy::{Bundle, BundleFiles, RULES_VERSION, generated_schema};
use agentgov_processor::{Outputs, Processor as _, RestoreValue, TableRecord};
use agentgov_schemas::event::{ActionEvent, Agent, Message, Payload, Source, ToolCall, ToolResult};
use agentgov_schemas::governance::{
    self, AgentEntry, AgentState, BundleFile, ToolEffect, ToolEntry, ToolState,
};
use agentgov_schemas::key::partition_of;
use agentgov_schemas::topology::{HumanDuration, MissingRole, SessionLimits, Topology};
use agentgov_schemas::verdict::{Origin, Verdict};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{
    Digest, Micros, Millis, OpenEnum, Record, RecordEncoder, SessionKey, catalogue, subject,
};
use serde_json::json;

const ID: SchemaId = SchemaId(1);
/// If this is `1`, the test writes the verdicts of a version that has no file yet.
const RECORD: &str = "AGENTGOV_RECORD_RULES";
/// 2024-05-15T15:00:00Z, in microseconds.
const START: i64 = 1_715_785_200_000_000;
const TTL: Duration = Duration::from_hours(1);

const TOOLS: &str = r#"
default:
  effect: external
  states:
    - { fact: thing, when: type(result) == map && !has(result.error), key: result.id }
tools:
  look: { effect: read }
  raised: { effect: read }
  count:
    effect: read
    derived:
      sum: { type: Long, value: input.a + input.b }
      larger: { type: Bool, value: input.a > input.b }
      equal: { type: Bool, value: input.a == input.b }
      letters: { type: Long, value: size(input.text) }
      word: { type: String, value: "input.text.trim().lowerAscii().split(' ')[0]" }
      matched: { type: Bool, value: "input.text.matches('^[A-Z][a-z]+ .*$')" }
      hour: { type: Long, value: time(input.when).getHours() }
      late: { type: Bool, value: event.time > time(input.when) }
  change:
    effect: write
    refers: { thing: input.id }
    derived:
      n: { type: Long, value: input.n }
      names: { type: Set<String>, value: input.names }
      known: { type: Bool, value: input.id in facts.thing }
      color: { type: String, value: "facts.thing[input.id].color" }
      all_red: { type: Bool, value: "facts.thing.all(id, facts.thing[id].color == 'red')" }
      none_of: { type: Bool, value: "!input.names.exists(name, name in facts.thing)" }
      optional: { type: String, value: "input.?note.orValue('none')" }
      calls: { type: Long, value: session.tool_calls }
"#;

const POLICIES: &str = r#"
@id("all") permit (principal in Role::"clerk", action, resource);
@id("reads") permit (principal in Role::"reader", action, resource in Effect::"read");
@id("quiet") permit (principal in Role::"guest", action, resource) unless { context has n && context.n > 3 };
@id("deny") @severity("high") forbid (principal, action, resource == Tool::"change") when { context has n && context.n > 5 };
@id("ask") @severity("low") @effect("ask") forbid (principal, action, resource in Effect::"write") when { context has n && context.n > 2 };
@id("observe") @severity("medium") @mode("observe") forbid (principal, action, resource) when { context has names && context.names.contains("x") };
@id("unknown") @severity("critical") forbid (principal, action, resource == Tool::"change") when { context has known && !context.known };
@id("color") @severity("high") forbid (principal, action, resource) when { context has color && context.color == "blue" };
@id("overflow") @severity("high") forbid (principal, action, resource) when { context has sum && context.sum + 9223372036854775807 > 0 };
@id("ignored") @severity("high") @on_error("ignore") forbid (principal, action, resource) when { context has hour && context.hour * 9223372036854775807 > 5 };
@id("first") @severity("low") forbid (principal, action == Action::"tool.retried", resource) when { context.session.tool_calls == 0 };
@id("texts") @severity("low") @mode("observe") forbid (principal, action, resource) when { context has message && context.message.tool_calls > 1 };
@id("time") @severity("low") @mode("observe") forbid (principal, action, resource) when { context has time && context.time < datetime("2024-05-15T15:00:05Z") };
"#;

/// An event of a case, beside what is equal in all of them.
#[derive(Clone, Copy)]
struct Case {
    session: &'static str,
    agent: &'static str,
    environment: &'static str,
    kind: &'static str,
    /// Tool and arguments.
    call: Option<(&'static str, &'static str)>,
    result: Option<&'static str>,
    /// Definition of the tool that the call states.
    definition: Option<&'static str>,
    call_id: &'static str,
    tool_calls: i32,
    /// Difference of the sequence number to that of the case before.
    jump: i64,
    /// Milliseconds since the case before.
    later: i64,
}

const CASE: Case = Case {
    session: "s",
    agent: "clerk",
    environment: "demo",
    kind: catalogue::TOOL_INVOKED,
    call: None,
    result: None,
    definition: None,
    call_id: "c",
    tool_calls: 1,
    jump: 1,
    later: 1_000,
};

const fn call(tool: &'static str, arguments: &'static str) -> Case {
    Case { call: Some((tool, arguments)), ..CASE }
}

const fn result(content: &'static str) -> Case {
    Case { kind: catalogue::TOOL_RESPONSE_RECEIVED, result: Some(content), ..CASE }
}

const CASES: &[Case] = &[
    Case { kind: catalogue::SESSION_STARTED, ..CASE },
    call("look", "{}"),
    call("change", r#"{"id":"a","n":1}"#),
    call("look", r#"{"id":"a"}"#),
    result(r#"{"id":"a","color":"red"}"#),
    call("change", r#"{"id":"a","n":1,"names":["x","y"]}"#),
    call("change", r#"{"id":"a","n":3,"names":["a"],"note":"because"}"#),
    call("change", r#"{"id":"a","n":6}"#),
    call("change", r#"{"id":"a","n":"6"}"#),
    call("change", r#"{"id":"a","n":1.5}"#),
    call("change", r#"{"id":"a","n":1,"n":7}"#),
    call("change", "{"),
    call("change", ""),
    call("change", "null"),
    call("change", r#"{"id":null,"names":{"a":1}}"#),
    call("unlisted", r#"{"id":"b"}"#),
    result(r#"{"id":"b","color":"blue"}"#),
    call("change", r#"{"id":"b","n":0}"#),
    call("unlisted", r#"{"id":"b"}"#),
    result("{\"id\":"),
    call("change", r#"{"id":"a","n":0}"#),
    result(r#"[{"id":"d"}]"#),
    call("change", r#"{"id":"d","n":0}"#),
    result("an error in words"),
    call("count", r#"{"a":1,"b":2,"text":"Hello World ","when":"2024-05-15T15:00:01"}"#),
    call("count", r#"{"a":100,"b":100.0,"text":"é","when":"2024-05-15T15:00:00Z"}"#),
    call("count", r#"{"a":9007199254740993,"b":9007199254740992.0,"text":"","when":"never"}"#),
    call("count", r#"{"a":9223372036854775807,"b":1,"text":"x","when":"2024-02-30T00:00:00"}"#),
    call("count", r#"{"a":1e400,"b":1e308,"text":"\ud83d","when":7}"#),
    call("count", r#"{"a":"5000","b":5000,"text":["a"]}"#),
    Case { kind: catalogue::TOOL_RETRIED, ..call("look", "{}") },
    Case { kind: "tool.invokd", ..call("look", "{}") },
    Case { kind: catalogue::USER_INPUT, ..call("look", "{}") },
    Case { kind: catalogue::TOOL_INVOKED, ..CASE },
    Case { tool_calls: 2, ..call("look", "{}") },
    // A number that was used, the same event again, and another event of this number.
    Case { jump: 0, ..call("look", "{}") },
    Case { jump: 0, ..call("look", "{}") },
    Case { jump: 0, ..call("look", r#"{"other":true}"#) },
    Case { jump: -20, ..call("look", "{}") },
    Case { jump: 40, ..call("look", "{}") },
    Case { agent: "guest", ..call("change", r#"{"n":1}"#) },
    Case { agent: "guest", ..call("change", r#"{"n":4}"#) },
    Case { agent: "guest", ..call("change", r#"{"n":"x"}"#) },
    Case { agent: "nobody", ..call("look", "{}") },
    Case { agent: "suspended", ..call("change", r#"{"n":6}"#) },
    Case { agent: "retired", ..call("look", "{}") },
    Case { environment: "elsewhere", ..call("look", "{}") },
    Case { session: "new", ..call("look", "{}") },
    Case { session: "new", kind: catalogue::TOOL_RETRIED, ..call("look", "{}") },
    Case { session: "retried", kind: catalogue::TOOL_RETRIED, ..call("look", "{}") },
    Case { session: "", ..call("look", "{}") },
    // More facts and calls than the limits of a session.
    Case { call_id: "d", ..call("look", "{}") },
    Case { call_id: "d", ..result(r#"{"id":"e","color":"red"}"#) },
    Case { call_id: "f", ..call("look", "{}") },
    Case { call_id: "f", ..result(r#"{"id":"g","color":"red"}"#) },
    Case { call_id: "h", ..call("look", "{}") },
    Case { call_id: "h", ..result(r#"{"id":"i","color":"red"}"#) },
    call("change", r#"{"id":"i","n":0}"#),
    call("change", r#"{"id":"missing","n":0}"#),
    Case { kind: catalogue::SESSION_ENDED, ..CASE },
    call("change", r#"{"id":"a","n":0}"#),
    // At the time to live a session goes on, above it it is a new one.
    Case { later: 3_600_000, ..call("look", "{}") },
    Case { later: 3_600_001, ..call("change", r#"{"id":"a","n":0}"#) },
    // What the registry has about tools counts over the bundle and the policies.
    call("files/read", "{}"),
    Case { definition: Some("accepted"), ..call("files/read", "{}") },
    Case { definition: Some("changed"), ..call("files/read", "{}") },
    Case { definition: Some("new"), ..call("files/new", "{}") },
    call("files/new", "{}"),
    Case { agent: "reader", definition: Some("accepted"), ..call("files/read", "{}") },
    Case { agent: "reader", ..call("raised", "{}") },
    call("raised", "{}"),
    call("paused", "{}"),
    Case { definition: Some("new"), ..call("away/paused", "{}") },
    call("away/other", "{}"),
    Case { agent: "suspended", definition: Some("changed"), ..call("files/read", "{}") },
    Case { environment: "elsewhere", ..call("paused", "{}") },
    Case { environment: "elsewhere", definition: Some("new"), ..call("look", "{}") },
    call("shrugged", "{}"),
    Case { agent: "staged", ..call("look", "{}") },
];

struct Judge {
    topology: Topology,
    evaluator: Evaluator,
    outputs: Outputs,
}

impl Judge {
    fn new() -> Self {
        let mut topology = Topology::embedded().unwrap();
        let limits = SessionLimits { ttl: HumanDuration(TTL), max_facts: 6, max_bytes: 4096 };
        topology.stages.get_mut("evaluator").unwrap().value.session.as_mut().unwrap().value = limits;
        let stage = topology.stage("evaluator").unwrap();
        let evaluator = Evaluator::new(&topology, stage).unwrap();
        let outputs = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(ID)).unwrap();
        let mut judge = Self { topology, evaluator, outputs };
        for (offset, (id, role, state)) in (0..).zip([
            ("clerk", "clerk", AgentState::Active),
            ("guest", "guest", AgentState::Active),
            ("suspended", "clerk", AgentState::Suspended),
            ("retired", "clerk", AgentState::Retired),
            ("reader", "reader", AgentState::Active),
            ("staged", "clerk", AgentState::Active),
        ]) {
            let environments = if id == "staged" { vec!["staging"] } else { vec![] };
            let entry = AgentEntry {
                name: id,
                owner: "us",
                roles: vec![role],
                environments,
                ..AgentEntry::new("t", id, state)
            };
            judge.fold(&entry, offset);
        }
        let tool = |name| ToolEntry::new("t", name);
        let (read, raised) = (ToolEffect::Read.into(), ToolEffect::Destructive.into());
        let suspended = || ToolState::Suspended.into();
        let definition_digest = Some(Digest::of(b"accepted"));
        for (offset, entry) in (0..).zip([
            ToolEntry { server: "files", effect: read, definition_digest, ..tool("files/read") },
            ToolEntry { effect: raised, ..tool("raised") },
            ToolEntry { state: suspended(), ..tool("paused") },
            ToolEntry { server: "away", state: suspended(), ..tool("away/paused") },
            ToolEntry { server: "away", state: suspended(), ..tool("") },
            ToolEntry { effect: OpenEnum::from_name("shrug"), ..tool("shrugged") },
        ]) {
            judge.fold(&entry, offset);
        }
        let files = files();
        let compiled = Bundle::compile(&files).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let ids: Vec<String> = compiled.policies().map(|policy| policy.id.clone()).collect();
        let record = governance::Bundle {
            name: "rules",
            version: "1",
            digest: files.digest(),
            environments: vec!["demo"],
            files: files.0.iter().map(|(path, content)| BundleFile { path, content }).collect(),
            pushed_by: "tests",
            policies: ids.iter().map(String::as_str).collect(),
        };
        judge.fold(&record, 0);
        judge.evaluator.tables_loaded();
        judge
    }

    fn fold<R: Record>(&mut self, record: &R, offset: i64) {
        let bytes = RecordEncoder::<R::Static>::new(ID).unwrap().encode(record).unwrap();
        let (id, datum) = wire::split(&bytes).unwrap();
        let value = Ok(RestoreValue::new(id, R::SUBJECT.schema().unwrap(), datum));
        let (topic, _) = self.topology.topic_of(R::SUBJECT).unwrap();
        let record = TableRecord { topic, offset, logged_at: Millis(5), value };
        self.evaluator.update_table(&self.topology, &record);
    }

    /// Returns a line for each case: its verdict, its reject, or nothing.
    fn lines(&mut self) -> Vec<String> {
        // The partition of session `s`. Records of others are misplaced.
        let key = SessionKey { tenant_id: "t", session_id: CASE.session }.to_bytes();
        let partition = partition_of(&key, 12).unwrap();
        let mut sessions = self.evaluator.partition(partition);
        let (mut sequence, mut logged_at) = (-1, 0);
        (0..)
            .zip(CASES)
            .map(|(offset, case)| {
                sequence += case.jump;
                logged_at += case.later;
                let origin = Origin { topic: "actions", partition, offset, logged_at: Millis(logged_at) };
                let event = event(case, sequence, offset);
                self.outputs.clear();
                let line = match self.evaluator.step(&mut sessions, &origin, &event, &mut self.outputs) {
                    Ok(()) => self.verdict(),
                    Err(reject) => json!({ "reject": reject.reason.as_str(), "detail": reject.detail }),
                };
                format!("{offset} {line}")
            })
            .collect()
    }

    /// Returns the verdict in the outputs, without the fields that only repeat the event or the tables.
    fn verdict(&self) -> serde_json::Value {
        let (topic, _) = self.topology.topic_of(subject::VERDICT).unwrap();
        let Some(record) = self.outputs.iter().find(|record| record.topic == topic) else {
            return serde_json::Value::Null;
        };
        let (id, datum) = wire::split(record.value.unwrap()).unwrap();
        let verdict: Verdict<'_> = subject::VERDICT.schema().unwrap().decode(id, datum).unwrap();
        let violations = verdict.violations.iter().map(|violation| {
            let words = [violation.severity.as_str(), violation.mode.as_str(), violation.effect.as_str()];
            format!("{} {}", violation.policy, words.join(" "))
        });
        let errors = verdict
            .errors
            .iter()
            .map(|error| format!("{} {}: {}", error.code.as_str(), error.subject, error.message));
        json!({
            "decision": verdict.decision.as_str(),
            "reason": verdict.reason.as_str(),
            "call_index": verdict.call_index,
            "determining": verdict.determining_policies,
            "violations": violations.collect::<Vec<_>>(),
            "known": verdict.known,
            "errors": errors.collect::<Vec<_>>(),
            "duplicate_of": verdict.duplicate_of.map(|duplicate| duplicate.last_sequence),
            "state_limit": verdict.state_limit,
            "findings": verdict.findings.iter().map(|finding| finding.as_str()).collect::<Vec<_>>(),
        })
    }
}

fn files() -> BundleFiles {
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), b"name: rules\nversion: '1'\nenvironments: [demo]\n".to_vec()),
        ("tools.yaml".to_owned(), TOOLS.into()),
        ("rules.cedar".to_owned(), POLICIES.into()),
    ]);
    let schema =
        generated_schema(&BundleFiles(files.clone())).unwrap_or_else(|problems| panic!("{problems:#?}"));
    files.insert("schema.cedarschema".to_owned(), schema.into());
    BundleFiles(files)
}

fn event<'a>(case: &Case, sequence: i64, second: i64) -> ActionEvent<'a> {
    let payload = |text: &'static str| {
        let (data, sha256) = (text.as_bytes(), Digest::of(text.as_bytes()));
        Payload { data, sha256, media_type: "application/json", redacted: false }
    };
    let Case { call_id, tool_calls, .. } = *case;
    ActionEvent {
        environment: case.environment,
        // A repeat has the time of the event that it repeats.
        occurred_at: Micros(START + if case.jump == 0 { 0 } else { second * 1_000_000 }),
        message: Some(Message { id: "m", role: "assistant", has_text: true, tool_calls, content: None }),
        tool: case.call.map(|(tool, arguments)| ToolCall {
            definition: case.definition.map(|definition| Digest::of(definition.as_bytes())),
            ..ToolCall::new(tool, call_id, payload(arguments))
        }),
        result: case.result.map(|content| ToolResult {
            call_id,
            name: None,
            is_error: None,
            content: payload(content),
        }),
        ..ActionEvent::new(
            "e",
            case.kind,
            SessionKey { tenant_id: "t", session_id: case.session },
            Source { id: "source", sequence },
            Agent::new(case.agent),
        )
    }
}

/// A change of a line is a change of the rules: raise `RULES_VERSION` in consumers/policy/src/kernel.rs, and record the
/// verdicts of the new version with `AGENTGOV_RECORD_RULES=1 cargo test -p agentgov-evaluator --test rules`. The file of
/// a released version never changes.
#[test]
fn verdicts_of_a_rules_version_never_change() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/rules/{RULES_VERSION}.txt"));
    let found = Judge::new().lines();
    if std::env::var(RECORD).is_ok_and(|value| value == "1") && !file.exists() {
        std::fs::write(&file, found.join("\n") + "\n").unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("expected the verdicts of rules version {RULES_VERSION} in {}: {error}; record them with {RECORD}=1", file.display())
    });
    let expected: Vec<&str> = expected.lines().collect();
    assert_eq!(found.len(), expected.len(), "cases are only added together with a new version");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "the rules have changed: they need a new RULES_VERSION");
    }
}
