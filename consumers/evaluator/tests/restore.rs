//! The evaluator through its public interface: the state restored from the changelog equals the state before the stop, and
//! rejected events change nothing.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by a panic"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use agentgov_enrichment::Session;
use agentgov_evaluator::{Action, Evaluator, Replica, Sessions};
use agentgov_policy::{ApprovalClaim, Bundle, BundleFiles};
use agentgov_processor::{Outputs, Processor as _, Reject, RestoreValue, TableRecord};
use agentgov_schemas::alert::Alert;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::{self, ActionEvent, Agent, Message, Payload, Source, ToolCall, ToolResult};
use agentgov_schemas::governance::{self, AgentEntry, AgentState, BundleFile};
use agentgov_schemas::key::partition_of;
use agentgov_schemas::state::SessionState;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::verdict::{Decision, Origin, RecordFinding, Verdict};
use agentgov_schemas::wire::{self, Schema, SchemaId};
use agentgov_schemas::{
    Digest, Micros, Millis, NotReadyReason, Record, RecordEncoder, SessionKey, catalogue,
};
use proptest::prelude::*;

const ID: SchemaId = SchemaId(1);

/// Key, and value in the wire format, of a changelog entry or a verdict.
type Emitted = (Vec<u8>, Option<Vec<u8>>);

struct Fixture {
    topology: Topology,
    evaluator: Evaluator,
    outputs: Outputs,
}

impl Fixture {
    /// Creates an evaluator that has applied the airline example's agent and bundle.
    fn new() -> Self {
        Self::started_with(&[airline()])
    }

    /// Creates an evaluator whose topic has these bundles at its start.
    fn started_with(bundles: &[BundleFiles]) -> Self {
        Self::in_topology(Topology::embedded().unwrap().clone(), bundles)
    }

    /// Creates an evaluator whose topics take changelog entries of at most `entry` bytes and verdicts of at most `verdict`.
    fn bounded(entry: i32, verdict: i32) -> Self {
        let mut topology = Topology::embedded().unwrap().clone();
        for (subject, bytes) in [(subject::SESSION_STATE, entry), (subject::VERDICT, verdict)] {
            let topic = topology.topic_of(subject).unwrap().0.to_owned();
            topology.topics.get_mut(&topic).unwrap().value.max_message_bytes.value = bytes;
        }
        Self::in_topology(topology, &[airline()])
    }

    fn in_topology(topology: Topology, bundles: &[BundleFiles]) -> Self {
        let stage = topology.stage("evaluator").unwrap();
        let evaluator = Evaluator::new(&topology, stage).unwrap();
        let outputs = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(ID)).unwrap();
        let mut fixture = Self { topology, evaluator, outputs };
        let agent = AgentEntry {
            name: "a",
            owner: "o",
            roles: vec!["airline-agent"],
            ..AgentEntry::new("acme", "a", AgentState::Active)
        };
        fixture.fold(&agent, 0);
        for (offset, bundle) in bundles.iter().enumerate() {
            fixture.push_bundle(bundle, offset as i64);
        }
        fixture.evaluator.tables_loaded();
        fixture
    }

    fn push_bundle(&mut self, files: &BundleFiles, offset: i64) {
        let compiled = Bundle::compile(files);
        let ids: Vec<String> =
            compiled.iter().flat_map(|b| b.policies().map(|p| p.id.clone()).collect::<Vec<_>>()).collect();
        let record = governance::Bundle {
            name: "airline",
            version: "1",
            digest: files.digest(),
            environments: vec!["demo", "production"],
            files: files.0.iter().map(|(path, content)| BundleFile { path, content }).collect(),
            pushed_by: "tests",
            policies: ids.iter().map(String::as_str).collect(),
        };
        self.fold(&record, offset);
    }

    fn fold<R: Record>(&mut self, record: &R, offset: i64) {
        let schema = R::SUBJECT.schema().unwrap();
        let bytes = RecordEncoder::<R::Static>::new(ID).unwrap().encode(record).unwrap();
        let (id, datum) = wire::split(&bytes).unwrap();
        let (topic, _) = self.topology.topic_of(R::SUBJECT).unwrap();
        let value = Ok(RestoreValue::new(id, schema, datum));
        let record = TableRecord { topic, offset, logged_at: Millis(5), value };
        self.evaluator.update_table(&self.topology, &record);
    }

    /// Pushes a record that cannot be read as a bundle.
    fn push_unreadable(&mut self, offset: i64) {
        let (topic, _) = self.topology.topic_of(subject::BUNDLE).unwrap();
        let record = TableRecord { topic, offset, logged_at: Millis(5), value: Err("no bundle") };
        self.evaluator.update_table(&self.topology, &record);
    }

    /// Returns the offsets of the bundles that the last step alerted.
    fn alerts(&self) -> Vec<i64> {
        let (topic, _) = self.topology.topic_of(subject::ALERT).unwrap();
        let alerts = self.outputs.iter().filter(|record| record.topic == topic);
        let schema = subject::ALERT.schema().unwrap();
        let offset = |value: &[u8]| {
            let (id, datum) = wire::split(value).unwrap();
            let alert: Alert<'_> = schema.decode(id, datum).unwrap();
            assert_eq!((alert.agent_id, alert.origin.logged_at), ("tests", Millis(5)));
            alert.origin.offset
        };
        alerts.map(|record| offset(record.value.unwrap())).collect()
    }

    fn is_ready(&self) -> bool {
        let mut ready = true;
        self.evaluator.readiness(&mut |reason, explanation| {
            ready &= reason != NotReadyReason::Bundle || explanation.is_none();
        });
        ready
    }

    /// Steps one event as a batch of its own. Returns the emitted verdicts and changelog entries.
    fn step(
        &mut self,
        sessions: &mut Sessions,
        event: &ActionEvent<'_>,
        offset: i64,
    ) -> (Vec<Emitted>, Vec<Emitted>) {
        self.step_in_batch(sessions, event, offset, true)
    }

    /// Steps one event. `last` ends its batch. Returns the emitted verdicts and changelog entries.
    fn step_in_batch(
        &mut self,
        sessions: &mut Sessions,
        event: &ActionEvent<'_>,
        offset: i64,
        last: bool,
    ) -> (Vec<Emitted>, Vec<Emitted>) {
        self.outputs.clear();
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(1000 + offset) };
        self.evaluator.step(sessions, &origin, event, &mut self.outputs).unwrap();
        if last {
            self.evaluator.finish(sessions, offset + 1, &mut self.outputs).unwrap();
        }
        self.emitted()
    }

    fn emitted(&self) -> (Vec<Emitted>, Vec<Emitted>) {
        let on = |subject: Subject| -> Vec<Emitted> {
            let (topic, _) = self.topology.topic_of(subject).unwrap();
            let records = self.outputs.iter().filter(|record| record.topic == topic);
            records.map(|record| (record.key.to_vec(), record.value.map(<[u8]>::to_vec))).collect()
        };
        (on(subject::VERDICT), on(subject::SESSION_STATE))
    }

    /// Restores the sessions from a compacted changelog: the last record of each key.
    fn restore(&self, changelog: &[Emitted]) -> Sessions {
        let mut sessions = self.evaluator.partition(0);
        let last: BTreeMap<&[u8], usize> =
            changelog.iter().enumerate().map(|(i, (key, _))| (key.as_slice(), i)).collect();
        let schema = subject::SESSION_STATE.schema().unwrap();
        for (i, (key, value)) in changelog.iter().enumerate() {
            if last[key.as_slice()] != i {
                continue;
            }
            let value = value.as_deref().map(|bytes| {
                let (id, datum) = wire::split(bytes).unwrap();
                RestoreValue::new(id, schema, datum)
            });
            self.evaluator.restore(&mut sessions, key, value).unwrap();
        }
        sessions
    }
}

/// Returns the bundle of the airline example.
fn airline() -> BundleFiles {
    fn read(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                read(&entry.path(), &format!("{name}/"), files);
            } else {
                files.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/airline/bundle"), "", &mut files);
    BundleFiles(files)
}

/// A generated event.
#[derive(Clone, Copy, Debug)]
struct EventSpec {
    session: u8,
    kind: u8,
    call: u8,
    source: u8,
    /// Difference of its sequence number to the previous one, mostly 1.
    jump: i64,
    /// True if it ends its batch.
    last: bool,
}

const RESERVATION: &str = r#"{"reservation_id":"R1","user_id":"u1","cabin":"basic_economy","insurance":"no",
    "created_at":"2024-05-01T00:00:00","flights":[],"passengers":[{}],"total_baggages":2}"#;

fn payload(text: &str) -> Payload<'_> {
    Payload {
        data: text.as_bytes(),
        sha256: Digest::of(text.as_bytes()),
        media_type: "application/json",
        redacted: false,
    }
}

fn answer() -> ToolResult<'static> {
    ToolResult { call_id: "", name: None, is_error: None, content: payload(RESERVATION) }
}

fn event(spec: EventSpec, sequence: i64) -> ActionEvent<'static> {
    const SESSIONS: [&str; 3] = ["s0", "s1", "s2"];
    const CALLS: [&str; 2] = ["c0", "c1"];
    let call_id = CALLS[usize::from(spec.call) % 2];
    let mut event = ActionEvent {
        environment: "demo",
        occurred_at: Micros(1_715_785_200_000_000 + sequence),
        ..ActionEvent::new(
            "e",
            catalogue::USER_INPUT,
            SessionKey { tenant_id: "acme", session_id: SESSIONS[usize::from(spec.session) % 3] },
            Source { id: ["src", "other"][usize::from(spec.source) % 2], sequence },
            Agent::new("a"),
        )
    };
    let tool = |name, arguments| Some(ToolCall::new(name, call_id, payload(arguments)));
    match spec.kind % 7 {
        0 => event.r#type = catalogue::SESSION_STARTED,
        1 => {
            event.r#type = catalogue::TOOL_INVOKED;
            event.tool = tool("get_reservation_details", r#"{"reservation_id":"R1"}"#);
        }
        2 => {
            event.r#type = catalogue::TOOL_INVOKED;
            event.tool = tool("cancel_reservation", r#"{"reservation_id":"R1"}"#);
            event.message =
                Some(Message { id: "m", role: "assistant", has_text: true, tool_calls: 1, content: None });
        }
        3 => {
            event.r#type = catalogue::TOOL_RESPONSE_RECEIVED;
            event.result = Some(ToolResult { call_id, ..answer() });
        }
        4 => event.r#type = catalogue::SESSION_ENDED,
        5 => {
            event.r#type = "tool.invokd";
            event.tool = tool("cancel_reservation", r#"{"reservation_id":"R1"}"#);
        }
        _ => {}
    }
    event
}

fn specs() -> impl Strategy<Value = Vec<EventSpec>> {
    // One session with more sequence numbers than its header holds, and two short sessions.
    let session = prop_oneof![4 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    let jump = prop_oneof![8 => Just(1_i64), 1 => Just(0), 2 => -20..20_i64];
    let one = (session, 0..7u8, 0..2u8, prop::bool::weighted(0.1).prop_map(u8::from), jump, any::<bool>());
    let spec =
        |(session, kind, call, source, jump, last)| EventSpec { session, kind, call, source, jump, last };
    prop::collection::vec(one.prop_map(spec), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replica_decides_as_the_evaluator_judges(specs in specs(), lag in 0..6usize) {
        FIXTURE.with_borrow_mut(|fixture| check_replica(fixture, &specs, lag))?;
    }

    #[test]
    fn stage_restored_anywhere_continues_as_if_never_stopped(specs in specs(), cut in 0..80usize) {
        FIXTURE.with_borrow_mut(|fixture| check_restored(fixture, &specs, cut))?;
    }
}

/// Compares each verdict with the decision of a replica that reads the changelog `lag` batches behind, and has read every
/// action before.
fn check_replica(fixture: &mut Fixture, specs: &[EventSpec], lag: usize) -> Result<(), TestCaseError> {
    let mut sessions = fixture.evaluator.partition(0);
    let mut replica = Replica::new("actions", 0);
    let mut batches: VecDeque<Vec<Emitted>> = VecDeque::from([Vec::new()]);
    let schema = Arc::new(Schema::parse(subject::ACTION_EVENT.latest()).unwrap());
    let state = subject::SESSION_STATE.schema().unwrap();
    let mut sequence = -1;
    for (offset, spec) in (0..).zip(specs) {
        sequence += spec.jump;
        let event = event(*spec, sequence);
        let kernel = fixture.evaluator.kernel();
        let session = replica.session(&kernel, event.tenant_id, event.session_id).unwrap();
        let known = session.header();
        let decided = kernel.decide(&session, &event, ApprovalClaim::Ignored).unwrap();
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(1000 + offset) };
        let outcome = |v: &Verdict<'_>| {
            let violations: Vec<_> =
                v.violations.iter().map(|violation| violation.policy.to_owned()).collect();
            (v.decision.to_string(), v.reason.to_string(), v.known_digest, violations)
        };
        let decided = outcome(&decided.verdict(&event, &origin));
        let empty = Session::new();
        let actual = sessions.get(event.tenant_id, event.session_id).unwrap_or(&empty).header();
        prop_assert_eq!(&known, &actual);
        for number in [sequence - 1, sequence, sequence + 1] {
            let has_seen = session.has_seen(event.source.id, number);
            let may_have_seen =
                replica.may_have_seen(event.tenant_id, event.session_id, event.source.id, number);
            prop_assert!(may_have_seen || !has_seen, "number {}", number);
        }

        let (verdicts, entries) = fixture.step_in_batch(&mut sessions, &event, offset, spec.last);
        for (_, value) in verdicts {
            let value = value.unwrap();
            let (id, datum) = wire::split(&value).unwrap();
            let verdict: Verdict<'_> = subject::VERDICT.schema().unwrap().decode(id, datum).unwrap();
            if verdict.decision != Decision::Duplicate {
                prop_assert_eq!(&outcome(&verdict), &decided);
            }
        }
        let encoded = RecordEncoder::<ActionEvent<'static>>::new(ID).unwrap().encode(&event).unwrap();
        let (schema_id, datum) = wire::split(&encoded).unwrap();
        let logged_at = origin.logged_at;
        replica.push(&Action { offset, logged_at, schema_id, schema: &schema, datum }).unwrap();
        prop_assert_eq!(replica.through().next_offset, offset + 1);
        batches.back_mut().unwrap().extend(entries);
        if spec.last {
            batches.push_back(Vec::new());
        }
        while batches.len() > lag + 1 {
            for (key, value) in batches.pop_front().unwrap() {
                let value = value.as_deref().map(|bytes| {
                    let (id, datum) = wire::split(bytes).unwrap();
                    RestoreValue::new(id, state, datum)
                });
                replica.apply_entry(&key, value).unwrap();
            }
            if lag == 0 && spec.last {
                prop_assert_eq!((replica.progress(), replica.ahead_bytes()), (offset + 1, 0));
            }
        }
    }
    Ok(())
}

thread_local! {
    // Shared, since compiling a bundle takes longer than a case.
    static FIXTURE: RefCell<Fixture> = RefCell::new(Fixture::new());
}

fn check_restored(fixture: &mut Fixture, specs: &[EventSpec], cut: usize) -> Result<(), TestCaseError> {
    let mut uninterrupted = fixture.evaluator.partition(0);
    let mut restored = fixture.evaluator.partition(0);
    let mut changelog = Vec::new();
    let mut sequence = -1;
    // A restored stage continues at the start of a batch.
    let cut = (cut..specs.len()).find(|at| *at == 0 || specs[*at - 1].last);
    for (offset, spec) in specs.iter().enumerate() {
        sequence += spec.jump;
        let event = event(*spec, sequence);
        let offset = i64::try_from(offset).unwrap();
        let expected = fixture.step_in_batch(&mut uninterrupted, &event, offset, spec.last);
        if cut == Some(usize::try_from(offset).unwrap()) {
            restored = fixture.restore(&changelog);
        }
        let found = fixture.step_in_batch(&mut restored, &event, offset, spec.last);
        prop_assert_eq!(&found, &expected, "at offset {}", offset);
        changelog.extend(expected.1);
    }
    Ok(())
}

#[test]
fn judged_event_has_one_verdict_and_its_repeat_is_a_duplicate() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let cancel = EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true };
    let schema = subject::VERDICT.schema().unwrap();
    let mut decisions = Vec::new();
    for (offset, (spec, sequence)) in
        [(EventSpec { kind: 0, ..cancel }, 0), (cancel, 1), (cancel, 1), (EventSpec { kind: 3, ..cancel }, 2)]
            .iter()
            .enumerate()
    {
        let (verdicts, _) =
            fixture.step(&mut sessions, &event(*spec, *sequence), i64::try_from(offset).unwrap());
        for (key, value) in verdicts {
            assert_eq!(key, b"acme/s0");
            let value = value.unwrap();
            let (id, datum) = wire::split(&value).unwrap();
            let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
            let violated: Vec<_> = verdict.violations.iter().map(|v| v.policy.to_owned()).collect();
            decisions.push((verdict.origin.offset, verdict.decision.known().unwrap(), violated));
        }
    }
    let both = vec!["look-before-you-write".to_owned(), "one-thing-at-a-time".to_owned()];
    assert_eq!(decisions, [(1, Decision::Deny, both), (2, Decision::Duplicate, vec![])]);
}

/// Steps one event. Returns decision and findings of each verdict.
fn decisions_and_findings(
    fixture: &mut Fixture,
    sessions: &mut Sessions,
    event: &ActionEvent<'_>,
    offset: i64,
) -> Vec<(Decision, Vec<RecordFinding>)> {
    let schema = subject::VERDICT.schema().unwrap();
    let (verdicts, _) = fixture.step(sessions, event, offset);
    let decisions = verdicts.iter().map(|(_, value)| {
        let (id, datum) = wire::split(value.as_deref().unwrap()).unwrap();
        let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
        (
            verdict.decision.known().unwrap(),
            verdict.findings.iter().map(|finding| finding.known().unwrap()).collect(),
        )
    });
    decisions.collect()
}

/// Otherwise policies would count their own decisions.
#[test]
fn decisions_and_approvals_change_no_session_and_begin_none() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let about = |r#type, sequence| {
        let spec = EventSpec { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true };
        ActionEvent { r#type, ..event(spec, sequence) }
    };
    let kinds = [catalogue::DECISION_MADE, catalogue::APPROVAL_ASKED, catalogue::APPROVAL_DECIDED];
    for (offset, r#type) in (0..).zip(kinds) {
        let (verdicts, entries) = fixture.step(&mut sessions, &about(r#type, 0), offset);
        assert_eq!((verdicts.len(), entries.len(), sessions.len()), (0, 1, 0), "only progress is written");
    }
    fixture.step(&mut sessions, &about(catalogue::USER_INPUT, 0), 3);
    let before = format!("{:?}", sessions.get("acme", "s0"));
    for (offset, r#type) in (4..).zip(kinds) {
        fixture.step(&mut sessions, &about(r#type, offset), offset);
        assert_eq!(format!("{:?}", sessions.get("acme", "s0")), before);
    }
    // A tool call is a call, whatever its event is named.
    let tool = Some(ToolCall::new("cancel_reservation", "c", payload("{}")));
    let call = ActionEvent { tool, ..about(catalogue::DECISION_MADE, 8) };
    assert_eq!(fixture.step(&mut sessions, &call, 8).0.len(), 1);
}

#[test]
fn replica_forgets_a_session_that_expired_by_the_partitions_time() {
    let fixture = Fixture::new();
    let kernel = fixture.evaluator.kernel();
    let ttl = i64::try_from(kernel.limits.ttl.0.as_millis()).unwrap();
    let schema = Arc::new(Schema::parse(subject::ACTION_EVENT.latest()).unwrap());
    let mut replica = Replica::new("actions", 0);
    let push = |replica: &mut Replica, session, offset, logged_at| {
        let spec = EventSpec { session, kind: 6, call: 0, source: 0, jump: 1, last: true };
        let encoded =
            RecordEncoder::<ActionEvent<'static>>::new(ID).unwrap().encode(&event(spec, offset)).unwrap();
        let (schema_id, datum) = wire::split(&encoded).unwrap();
        let logged_at = Millis(logged_at);
        replica.push(&Action { offset, logged_at, schema_id, schema: &schema, datum }).unwrap();
    };
    let events = |replica: &Replica| replica.session(&kernel, "acme", "s0").unwrap().events();
    push(&mut replica, 0, 0, 0);
    push(&mut replica, 1, 1, ttl);
    assert_eq!(events(&replica), 1);
    push(&mut replica, 1, 2, ttl + 1);
    assert_eq!(events(&replica), 0, "another session's record is later than its ttl");
    push(&mut replica, 0, 3, ttl + 2);
    assert_eq!(events(&replica), 1, "begun again");
    assert!(
        replica.contains("acme", "s0") && !replica.contains("acme", "s2") && !replica.contains("b", "s0")
    );
    assert!(replica.ahead_bytes() > 0);
}

#[test]
fn replica_applies_each_record_ahead_once_for_any_number_of_questions() {
    let fixture = Fixture::new();
    let kernel = fixture.evaluator.kernel();
    let schema = Arc::new(Schema::parse(subject::ACTION_EVENT.latest()).unwrap());
    let mut replica = Replica::new("actions", 0);
    let push = |replica: &mut Replica, offset| {
        let spec = EventSpec { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true };
        let encoded =
            RecordEncoder::<ActionEvent<'static>>::new(ID).unwrap().encode(&event(spec, offset)).unwrap();
        let (schema_id, datum) = wire::split(&encoded).unwrap();
        let action = Action { offset, logged_at: Millis(offset), schema_id, schema: &schema, datum };
        replica.push(&action).unwrap();
    };
    for offset in 0..100 {
        push(&mut replica, offset);
    }
    let ask = |replica: &Replica| replica.session(&kernel, "acme", "s0").unwrap().events();
    for _ in 0..10 {
        assert_eq!(ask(&replica), 100);
    }
    assert_eq!(replica.applied_ahead(), 100);
    push(&mut replica, 100);
    assert_eq!((ask(&replica), ask(&replica)), (101, 101));
    assert_eq!(replica.applied_ahead(), 101);
}

/// Otherwise facts of a removed session would decide about a new one of the same name.
#[test]
fn replica_drops_entries_without_a_header_as_the_evaluator_does() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let look = EventSpec { session: 0, kind: 1, call: 0, source: 0, jump: 1, last: true };
    let mut changelog = fixture.step(&mut sessions, &event(look, 0), 0).1;
    changelog.extend(fixture.step(&mut sessions, &event(EventSpec { kind: 3, ..look }, 1), 1).1);
    let mut replica = Replica::new("actions", 0);
    let schema = subject::SESSION_STATE.schema().unwrap();
    let mut left_over = 0;
    for (key, value) in &changelog {
        let (id, datum) = wire::split(value.as_deref().unwrap()).unwrap();
        let state: SessionState<'_> = schema.decode(id, datum).unwrap();
        if state.header.is_none() {
            left_over += usize::from(state.fact.is_some());
            replica.apply_entry(key, Some(RestoreValue::new(id, schema, datum))).unwrap();
        }
    }
    assert!(left_over > 0, "the result has facts");
    let kernel = fixture.evaluator.kernel();
    let facts = |replica: &Replica| {
        let session = replica.session(&kernel, "acme", "s0").unwrap();
        (session.events(), session.header().facts)
    };
    assert_eq!(facts(&replica), (0, 0));
    assert!(!replica.contains("acme", "s0"));
    let encoded = RecordEncoder::<ActionEvent<'static>>::new(ID)
        .unwrap()
        .encode(&event(EventSpec { kind: 6, ..look }, 7))
        .unwrap();
    let (schema_id, datum) = wire::split(&encoded).unwrap();
    let action_schema = Arc::new(Schema::parse(subject::ACTION_EVENT.latest()).unwrap());
    let action = Action { offset: 2, logged_at: Millis(1002), schema_id, schema: &action_schema, datum };
    replica.push(&action).unwrap();
    assert_eq!(facts(&replica), (1, 0), "begun by the record ahead");
    let may_have_seen = |source, number| replica.may_have_seen("acme", "s0", source, number);
    assert!(may_have_seen("src", 7) && !may_have_seen("src", 8) && !may_have_seen("other", 7));
}

/// A call in the event that ends its session was rejected for want of its entry, so it escaped the policies.
#[test]
fn call_in_an_event_that_ends_its_session_is_judged() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let spec = EventSpec { session: 0, kind: 4, call: 0, source: 0, jump: 1, last: true };
    for (sequence, call_id) in [(0, "c0"), (1, ""), (2, "c0")] {
        let tool = Some(ToolCall::new("cancel_reservation", call_id, payload(r#"{"reservation_id":"R1"}"#)));
        let ended = ActionEvent { tool, ..event(spec, sequence) };
        let (verdicts, _) = fixture.step(&mut sessions, &ended, sequence);
        let value = verdicts[0].1.as_deref().unwrap();
        let (id, datum) = wire::split(value).unwrap();
        let verdict: Verdict<'_> = subject::VERDICT.schema().unwrap().decode(id, datum).unwrap();
        assert_eq!(verdict.decision, Decision::Deny);
        assert!(verdict.findings.iter().any(|finding| *finding == RecordFinding::UnexpectedCall));
    }
}

#[test]
fn record_in_the_wrong_partition_is_judged_with_finding_misplaced() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let cancel = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let home = |session_id| partition_of(format!("acme/{session_id}").as_bytes(), 12) == Some(0);
    let names: Vec<String> = (0..40).map(|i| format!("s{i}")).collect();
    assert!(names.iter().any(&home) && !names.iter().all(&home));
    for (offset, name) in (0..).zip(&names) {
        let event = ActionEvent { session_id: name, ..cancel.clone() };
        let expected = if home(name) { vec![] } else { vec![RecordFinding::Misplaced] };
        assert_eq!(
            decisions_and_findings(&mut fixture, &mut sessions, &event, offset),
            [(Decision::Deny, expected.clone())],
            "{name}"
        );
        let again = decisions_and_findings(&mut fixture, &mut sessions, &event, offset + 100);
        assert_eq!(again, [(Decision::Duplicate, expected)], "{name}");
    }
}

#[test]
fn call_in_a_closing_event_is_judged() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let cancel = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let closed = ActionEvent { r#type: catalogue::SOURCE_CLOSED, ..cancel.clone() };
    let found = decisions_and_findings(&mut fixture, &mut sessions, &closed, 0);
    let [(decision, findings)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((*decision, *findings.last().unwrap()), (Decision::Deny, RecordFinding::UnexpectedCall));
    let without = ActionEvent { tool: None, source: Source { id: "src", sequence: 1 }, ..closed.clone() };
    let (verdicts, changelog) = fixture.step(&mut sessions, &without, 1);
    assert_eq!(
        (verdicts.len(), changelog.len()),
        (0, 1),
        "without a call it belongs to no session: only the progress entry"
    );
}

#[test]
fn event_with_an_empty_id_is_rejected_and_changes_nothing() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let good = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let nameless = [
        ("empty_session_id", ActionEvent { session_id: "", ..good.clone() }),
        ("empty_source_id", ActionEvent { source: Source { id: "", sequence: 0 }, ..good.clone() }),
        ("empty_event_id", ActionEvent { event_id: "", ..good.clone() }),
        (
            "empty_session_id",
            ActionEvent { session_id: "", r#type: catalogue::SOURCE_CLOSED, tool: None, ..good.clone() },
        ),
    ];
    for (reason, event) in nameless {
        fixture.outputs.clear();
        let origin = Origin { topic: "actions", partition: 0, offset: 0, logged_at: Millis(1000) };
        let reject =
            fixture.evaluator.step(&mut sessions, &origin, &event, &mut fixture.outputs).unwrap_err();
        assert_eq!((reject.reason.as_str(), reject.undo), (reason, false));
        assert!(reject.detail.contains("expected a name, found an empty string"), "{}", reject.detail);
    }
    let (verdicts, changelog) = fixture.step(&mut sessions, &good, 1);
    let header = changelog.iter().filter(|(key, _)| key.ends_with(b"\"header\"]")).count();
    assert_eq!((verdicts.len(), header), (1, 1), "the session starts with this event");
}

/// Entries of sequence numbers outlive `session.ended` and are deleted when the session expires.
#[test]
fn sequence_entries_are_deleted_with_their_session() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let input = EventSpec { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true };
    let mut changelog = Vec::new();
    for sequence in 0..40 {
        let kind = if sequence == 39 { 4 } else { input.kind };
        let (_, entries) =
            fixture.step(&mut sessions, &event(EventSpec { kind, ..input }, sequence), sequence);
        changelog.extend(entries);
    }
    let numbers = |changelog: &[Emitted], tombstone: bool| {
        let numbers = changelog.iter().filter(|(key, value)| {
            value.is_none() == tombstone && String::from_utf8_lossy(key).contains("\"numbers\"")
        });
        numbers.count()
    };
    assert_eq!((numbers(&changelog, false), numbers(&changelog, true)), (2, 0), "they outlive session.ended");
    // The restored state has all sequence numbers.
    let mut sessions = fixture.restore(&changelog);
    for sequence in 0..39 {
        let (_, entries) = fixture.step(&mut sessions, &event(input, sequence), 40 + sequence);
        assert_eq!(entries.len(), 1, "{sequence}: a repeat writes only the progress entry");
    }
    let late = Origin { topic: "actions", partition: 0, offset: 99, logged_at: Millis(i64::MAX) };
    fixture.outputs.clear();
    fixture
        .evaluator
        .step(&mut sessions, &late, &event(EventSpec { session: 1, ..input }, 0), &mut fixture.outputs)
        .unwrap();
    let (_, deleted) = fixture.emitted();
    assert_eq!(numbers(&deleted, true), 2);
    changelog.extend(deleted);
    let mut restored = fixture.restore(&changelog);
    let (_, entries) = fixture.step(&mut restored, &event(input, 0), 100);
    assert_eq!(entries.len(), 2, "a new session: its header and the progress entry");
}

/// A later version may have written entries of other kinds. An older one that starts after it reads their tombstones, too.
#[test]
fn tombstone_of_an_unknown_kind_of_entry_is_skipped() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let input = event(EventSpec { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true }, 0);
    let (_, mut changelog) = fixture.step(&mut sessions, &input, 0);
    let key = serde_json::to_vec(&[input.tenant_id, input.session_id, "approval", "1"]).unwrap();
    changelog.push((key.clone(), None));
    let restored = fixture.restore(&changelog);
    let header = |sessions: &Sessions| {
        let session = sessions.get(input.tenant_id, input.session_id).unwrap();
        format!("{:?}", session.header())
    };
    assert_eq!(header(&restored), header(&sessions));
    let mut replica = Replica::new("actions", 0);
    replica.apply_entry(&key, None).unwrap();
    assert!(replica.apply_entry(br#"["a","b"]"#, None).is_err(), "no key of a session");
}

/// Append times of a partition can decrease by the difference of two brokers' clocks.
#[test]
fn restored_session_whose_append_times_decrease_expires_when_the_original_does() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let input = EventSpec { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true };
    let mut changelog = Vec::new();
    let limits = fixture.topology.stage("evaluator").unwrap().session.as_ref().unwrap();
    let ttl = i64::try_from(limits.value.ttl.0.as_millis()).unwrap();
    let step = |fixture: &mut Fixture, sessions: &mut Sessions, spec, sequence, logged_at| {
        let origin =
            Origin { topic: "actions", partition: 0, offset: sequence, logged_at: Millis(logged_at) };
        fixture.outputs.clear();
        let event = event(spec, sequence);
        fixture.evaluator.step(sessions, &origin, &event, &mut fixture.outputs).unwrap();
        fixture.evaluator.finish(sessions, sequence + 1, &mut fixture.outputs).unwrap();
        fixture.emitted().1
    };
    for (sequence, logged_at) in [(0, 5_000), (1, 2_000)] {
        changelog.extend(step(&mut fixture, &mut sessions, input, sequence, logged_at));
    }
    let mut restored = fixture.restore(&changelog);
    // Another session's event, after the lower time is expired and before the higher one is.
    let other = EventSpec { session: 1, ..input };
    for (sequence, now) in [(2, ttl + 4_000), (3, ttl + 5_001)] {
        let found = step(&mut fixture, &mut restored, other, sequence, now);
        assert_eq!(found, step(&mut fixture, &mut sessions, other, sequence, now), "{now}");
        assert_eq!(found.iter().any(|(_, value)| value.is_none()), now > ttl + 5_000, "{now}");
    }
}

#[test]
fn bundle_that_does_not_load_is_alerted_once_and_the_last_good_one_judges() {
    let mut fixture = Fixture::new();
    fixture.push_bundle(&broken(), 1);
    assert!(!fixture.is_ready());

    let (mut first, other) = (fixture.evaluator.partition(0), fixture.evaluator.partition(1));
    assert!(
        fixture.evaluator.has_pending_side_output(&first)
            && !fixture.evaluator.has_pending_side_output(&other)
    );
    let cancel = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let (verdicts, changelog) = fixture.step(&mut first, &cancel, 0);
    assert_eq!((verdicts.len(), fixture.alerts()), (1, vec![1]));
    fixture.step(&mut first, &cancel, 1);
    assert!(fixture.alerts().is_empty(), "alerted before");
    let restored = fixture.restore(&changelog);
    assert!(!fixture.evaluator.has_pending_side_output(&restored), "also after a restart");
}

fn broken() -> BundleFiles {
    let mut broken = airline();
    broken.0.insert("broken.cedar".into(), b"forbid (".to_vec());
    broken
}

#[test]
fn start_activates_the_newest_bundle_that_loads_and_alerts_newer_ones() {
    let cancel = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    for (pushed, refused) in [
        (vec![airline()], vec![]),
        (vec![airline(), broken()], vec![1]),
        (vec![airline(), broken(), airline()], vec![]),
        (vec![broken(), airline(), broken(), broken()], vec![2, 3]),
    ] {
        let mut fixture = Fixture::started_with(&pushed);
        assert_eq!(fixture.is_ready(), refused.is_empty());
        let mut sessions = fixture.evaluator.partition(0);
        assert_eq!(fixture.evaluator.has_pending_side_output(&sessions), !refused.is_empty());
        let (verdicts, changelog) = fixture.step(&mut sessions, &cancel, 0);
        assert_eq!(fixture.alerts(), refused);
        let schema = subject::VERDICT.schema().unwrap();
        let (id, datum) = wire::split(verdicts[0].1.as_deref().unwrap()).unwrap();
        let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
        assert_eq!(verdict.bundle.map(|bundle| bundle.digest), Some(airline().digest()));

        // The next start repeats no alert; a bundle pushed later is alerted.
        let mut again = Fixture::started_with(&pushed);
        let mut sessions = again.restore(&changelog);
        assert!(!again.evaluator.has_pending_side_output(&sessions));
        again.push_bundle(&broken(), 9);
        assert!(again.evaluator.has_pending_side_output(&sessions) && !again.is_ready());
        again.step(&mut sessions, &ActionEvent { event_id: "e-again", ..cancel.clone() }, 1);
        assert_eq!(again.alerts(), [9]);
    }
}

/// Unreadable records are found while the topic is read, bundles that do not load only afterwards.
#[test]
fn bundle_alerts_follow_the_order_of_offsets() {
    let mut fixture = Fixture::started_with(&[airline()]);
    fixture.push_unreadable(1);
    assert!(fixture.evaluator.has_pending_side_output(&fixture.evaluator.partition(0)));
    let topology = Topology::embedded().unwrap();
    let evaluator = Evaluator::new(&topology, topology.stage("evaluator").unwrap()).unwrap();
    let mut fixture = Fixture { evaluator, ..fixture };
    fixture.push_bundle(&broken(), 3);
    fixture.push_unreadable(4);
    fixture.evaluator.tables_loaded();
    let mut sessions = fixture.evaluator.partition(0);
    sessions.bundles_announced = 4;
    assert!(fixture.evaluator.has_pending_side_output(&sessions), "of offset 4");
    sessions.bundles_announced = 5;
    assert!(!fixture.evaluator.has_pending_side_output(&sessions));
}

/// Only a changelog entry of an earlier version can have ids of this length; in events they are rejected.
#[test]
fn event_whose_header_is_too_large_is_rejected() {
    let mut fixture = Fixture::new();
    let small = event(EventSpec { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true }, 0);
    let mut fresh = fixture.evaluator.partition(0);
    let (_, changelog) = fixture.step(&mut fresh, &small, 0);
    assert_eq!(changelog.len(), 2, "a header and the progress entry");

    let schema = subject::SESSION_STATE.schema().unwrap();
    let (key, value) = &changelog[0];
    let (id, datum) = wire::split(value.as_deref().unwrap()).unwrap();
    let mut entry: SessionState<'_> = schema.decode(id, datum).unwrap();
    let long = "x".repeat(3 << 20);
    entry.header.as_mut().unwrap().sources[0].id = &long;
    let large = RecordEncoder::<SessionState<'static>>::new(ID).unwrap().encode(&entry).unwrap();
    let mut sessions = fixture.restore(&[(key.clone(), Some(large))]);
    let origin = Origin { topic: "actions", partition: 0, offset: 1, logged_at: Millis(1000) };
    let reject = fixture.evaluator.step(&mut sessions, &origin, &small, &mut fixture.outputs).unwrap_err();
    assert_eq!(
        (reject.reason.as_str(), reject.undo),
        ("output_refused", false),
        "the session was copied before the step"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The step is rejected for a large entry, for a large verdict, or not at all; some events expire other sessions.
    #[test]
    fn rejected_step_leaves_no_trace(
        specs in specs(),
        late in prop::collection::vec(prop::bool::weighted(0.1), 80),
        bounds in prop_oneof![Just((640, 1 << 20)), Just((850, 1 << 20)), Just((2 << 20, 1100)), Just((2 << 20, 1250))],
    ) {
        BOUNDED_FIXTURES.with_borrow_mut(|fixtures| {
            let fixture = fixtures.entry(bounds).or_insert_with(|| Fixture::bounded(bounds.0, bounds.1));
            check_rejected(fixture, &specs, &late)
        })?;
    }
}

thread_local! {
    static BOUNDED_FIXTURES: RefCell<BTreeMap<(i32, i32), Fixture>> = RefCell::default();
}

fn check_rejected(fixture: &mut Fixture, specs: &[EventSpec], late: &[bool]) -> Result<(), TestCaseError> {
    let (mut tried, mut expected) = (fixture.evaluator.partition(0), fixture.evaluator.partition(0));
    let (mut changelog, mut sequence, mut logged_at) = (Vec::new(), -1, 0);
    for (offset, (spec, late)) in specs.iter().zip(late).enumerate() {
        sequence += spec.jump;
        logged_at += if *late { 5 * 24 * 3_600_000 } else { 1 };
        let (event, offset) = (event(*spec, sequence), i64::try_from(offset).unwrap());
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(logged_at) };
        let mut step = |sessions: &mut Sessions| {
            fixture.outputs.clear();
            fixture.evaluator.step(sessions, &origin, &event, &mut fixture.outputs)?;
            fixture.evaluator.finish(sessions, offset + 1, &mut fixture.outputs).unwrap();
            let (verdicts, mut changelog) = fixture.emitted();
            // The order of sessions that expire together is not defined.
            changelog.sort();
            Ok::<_, Reject>((verdicts, changelog))
        };
        match step(&mut tried) {
            Ok(found) => {
                prop_assert_eq!(&found, &step(&mut expected).unwrap(), "at offset {}", offset);
                changelog.extend(found.1);
            }
            Err(reject) => {
                prop_assert_eq!(reject.reason.as_str(), "output_refused");
                if reject.undo {
                    tried = fixture.restore(&changelog);
                }
            }
        }
    }
    Ok(())
}

/// Only the first rejected step without a copy of its session costs a restore.
#[test]
fn thousand_rejected_verdicts_cost_one_restore() {
    let mut fixture = Fixture::bounded(2 << 20, 2000);
    let mut sessions = fixture.evaluator.partition(0);
    let call = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let (_, changelog) = fixture.step(&mut sessions, &call, 0);
    let tool = ToolCall { name: &"x".repeat(MAX_ID_BYTES), ..call.tool.unwrap() };
    let mut restores = 0;
    for offset in 1..=1000 {
        let refused =
            ActionEvent { tool: Some(tool), source: Source { id: "src", sequence: offset }, ..call.clone() };
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(1000) };
        let reject =
            fixture.evaluator.step(&mut sessions, &origin, &refused, &mut fixture.outputs).unwrap_err();
        assert_eq!(reject.reason.as_str(), "output_refused");
        fixture.outputs.clear();
        if reject.undo {
            restores += 1;
            sessions = fixture.restore(&changelog);
        }
    }
    assert_eq!(restores, 1);
    let next = ActionEvent { source: Source { id: "src", sequence: 1 }, ..call.clone() };
    let (_, changelog) = fixture.step(&mut sessions, &next, 1001);
    assert!(
        changelog.iter().any(|(key, _)| key.ends_with(b"\"header\"]")),
        "sequence number 1 is still unused"
    );
}

/// Each id with the largest length that is accepted, and with one byte more.
#[test]
fn id_above_its_limit_is_rejected_and_changes_nothing() {
    let mut fixture = Fixture::new();
    let call = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let (tool, result) = (call.tool.unwrap(), answer());
    let answered = ActionEvent { r#type: catalogue::TOOL_RESPONSE_RECEIVED, tool: None, ..call.clone() };
    type With<'a> = &'a dyn Fn(&'a str) -> ActionEvent<'a>;
    let fields: [(&str, With<'_>); 11] = [
        ("event_id", &|event_id| ActionEvent { event_id, ..call.clone() }),
        ("type", &|r#type| ActionEvent { r#type, ..call.clone() }),
        ("environment", &|environment| ActionEvent { environment, ..call.clone() }),
        ("session_id", &|session_id| ActionEvent { session_id, ..call.clone() }),
        ("source.id", &|id| ActionEvent { source: Source { id, sequence: 0 }, ..call.clone() }),
        ("agent.id", &|id| ActionEvent { agent: Agent { id, ..call.agent }, ..call.clone() }),
        ("tool.name", &|name| ActionEvent { tool: Some(ToolCall { name, ..tool }), ..call.clone() }),
        ("tool.call_id", &|call_id| ActionEvent { tool: Some(ToolCall { call_id, ..tool }), ..call.clone() }),
        ("result.call_id", &|call_id| ActionEvent {
            result: Some(ToolResult { call_id, ..result }),
            ..answered.clone()
        }),
        ("session_id", &|session_id| ActionEvent {
            session_id,
            r#type: catalogue::SOURCE_CLOSED,
            tool: None,
            ..call.clone()
        }),
        ("approval.tool", &|tool| ActionEvent {
            r#type: catalogue::APPROVAL_ASKED,
            tool: None,
            approval: Some(event::Approval {
                tool: Some(tool),
                ..event::Approval::new("0192f0c1-7a3b-7c4d-9e5f-000000000001")
            }),
            ..call.clone()
        }),
    ];
    // Each character takes six bytes in a key of the changelog.
    let (longest, longer) = ("\u{1}".repeat(MAX_ID_BYTES), "\u{1}".repeat(400_000));
    let one_more = "\u{1}".repeat(MAX_ID_BYTES + 1);
    for (field, with) in fields {
        let mut sessions = fixture.evaluator.partition(0);
        for name in [&one_more, &longer] {
            fixture.outputs.clear();
            let origin = Origin { topic: "actions", partition: 0, offset: 0, logged_at: Millis(1000) };
            let reject = fixture
                .evaluator
                .step(&mut sessions, &origin, &with(name), &mut fixture.outputs)
                .unwrap_err();
            assert_eq!((reject.reason.as_str(), reject.undo), ("id_too_long", false), "{field}");
            assert_eq!(reject.detail, format!("{field}: expected at most 4096 bytes, found {}", name.len()));
            assert_eq!((sessions.tenants().count(), fixture.outputs.iter().count()), (0, 0), "{field}");
        }
        // `Fixture::step` fails if the event is rejected.
        fixture.step(&mut sessions, &with(&longest), 1);
    }
}

/// A session with the maximum number of sources and every id at its limit: entries and verdicts fit their topics. A label is
/// no part of a key and has no limit; a verdict has its first 4 KiB.
#[test]
fn ids_at_their_limit_fit_every_record() {
    let mut fixture = Fixture::new();
    let mut sessions = fixture.evaluator.partition(0);
    let name = "\u{1}".repeat(MAX_ID_BYTES);
    let label = "ü".repeat(200_000) + "x";
    let call = event(EventSpec { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let call = ActionEvent {
        event_id: &name,
        r#type: &name,
        environment: &name,
        session_id: &name,
        session_label: Some(&label),
        agent: Agent { id: &name, ..call.agent },
        tool: Some(ToolCall { name: &name, call_id: &name, ..call.tool.unwrap() }),
        ..call.clone()
    };
    let schema = subject::VERDICT.schema().unwrap();
    for offset in 0..64 {
        let id = format!("{offset:02}") + &name[2..];
        let event = ActionEvent { source: Source { id: &id, sequence: 0 }, ..call.clone() };
        let (verdicts, _) = fixture.step(&mut sessions, &event, offset);
        let (id, datum) = wire::split(verdicts[0].1.as_deref().unwrap()).unwrap();
        let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
        assert_eq!(verdict.session_label, label.get(..MAX_ID_BYTES), "the first 4 KiB");
    }
}
