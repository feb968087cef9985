//! What is read back from the changelog is what was known: a stage that was stopped anywhere goes on as if it had not been.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test says what it expects by failing loudly"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use agentgov_evaluator::{Evaluator, Sessions};
use agentgov_policy::{Bundle, BundleFiles};
use agentgov_processor::{Outputs, Processor as _, Reject, RestoreValue, TableRecord};
use agentgov_schemas::alert::Alert;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::{ActionEvent, Agent, Message, Payload, Source, ToolCall, ToolResult};
use agentgov_schemas::governance::{self, AgentEntry, AgentState, BundleFile};
use agentgov_schemas::key::partition_of;
use agentgov_schemas::state::SessionState;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::verdict::{Decision, Origin, RecordFinding, Verdict};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{
    Digest, Micros, Millis, NotReadyReason, Record, RecordEncoder, SessionKey, catalogue,
};
use proptest::prelude::*;

const ID: SchemaId = SchemaId(1);

/// A record of the changelog, or a verdict: key, and value in the wire format.
type Said = (Vec<u8>, Option<Vec<u8>>);

struct Bench {
    topology: Topology,
    evaluator: Evaluator,
    outputs: Outputs,
}

impl Bench {
    /// An evaluator that has folded the airline's agent and bundle.
    fn new() -> Self {
        Self::started_with(&[airline()])
    }

    /// An evaluator at whose start these bundles were pushed.
    fn started_with(bundles: &[BundleFiles]) -> Self {
        Self::in_topology(Topology::embedded().unwrap().clone(), bundles)
    }

    /// An evaluator of which the changelog's entries and the verdicts may have so many bytes.
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
        let mut bench = Self { topology, evaluator, outputs };
        let agent = AgentEntry {
            tenant_id: "acme",
            agent_id: "a",
            name: "a",
            owner: "o",
            roles: vec!["airline-agent"],
            state: AgentState::Active.into(),
            description: "",
            pushed_by: "",
        };
        bench.fold(&agent, 0);
        for (offset, bundle) in bundles.iter().enumerate() {
            bench.push_bundle(bundle, offset as i64);
        }
        bench.evaluator.tables_loaded();
        bench
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

    /// A record that is no bundle.
    fn push_garbage(&mut self, offset: i64) {
        let (topic, _) = self.topology.topic_of(subject::BUNDLE).unwrap();
        let record = TableRecord { topic, offset, logged_at: Millis(5), value: Err("no bundle") };
        self.evaluator.update_table(&self.topology, &record);
    }

    /// What the last step announced, by the offset of its bundle.
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
        self.evaluator
            .readiness(&mut |reason, why| ready &= reason != NotReadyReason::Bundle || why.is_none());
        ready
    }

    /// Steps one event, a batch of its own, and says what came of it: verdicts and changelog.
    fn step(
        &mut self,
        sessions: &mut Sessions,
        event: &ActionEvent<'_>,
        offset: i64,
    ) -> (Vec<Said>, Vec<Said>) {
        self.step_in_batch(sessions, event, offset, true)
    }

    /// The same, of which the batch may have more.
    fn step_in_batch(
        &mut self,
        sessions: &mut Sessions,
        event: &ActionEvent<'_>,
        offset: i64,
        last: bool,
    ) -> (Vec<Said>, Vec<Said>) {
        self.outputs.clear();
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(1000 + offset) };
        self.evaluator.step(sessions, &origin, event, &mut self.outputs).unwrap();
        if last {
            self.evaluator.finish(sessions, offset + 1, &mut self.outputs).unwrap();
        }
        self.said()
    }

    fn said(&self) -> (Vec<Said>, Vec<Said>) {
        let on = |subject: Subject| -> Vec<Said> {
            let (topic, _) = self.topology.topic_of(subject).unwrap();
            let records = self.outputs.iter().filter(|record| record.topic == topic);
            records.map(|record| (record.key.to_vec(), record.value.map(<[u8]>::to_vec))).collect()
        };
        (on(subject::VERDICT), on(subject::SESSION_STATE))
    }

    /// Reads a changelog back, compacted: of each key the last record.
    fn restore(&self, changelog: &[Said]) -> Sessions {
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

/// The example's bundle, from its folder.
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

/// What may happen in a session, by a number of a strategy.
#[derive(Clone, Copy, Debug)]
struct Happening {
    session: u8,
    kind: u8,
    call: u8,
    source: u8,
    /// How far its number is from the one before: mostly 1.
    jump: i64,
    /// It is the last one of its batch.
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

fn event(happening: Happening, sequence: i64) -> ActionEvent<'static> {
    const SESSIONS: [&str; 3] = ["s0", "s1", "s2"];
    const CALLS: [&str; 2] = ["c0", "c1"];
    let call_id = CALLS[usize::from(happening.call) % 2];
    let mut event = ActionEvent {
        environment: "demo",
        occurred_at: Micros(1_715_785_200_000_000 + sequence),
        ..ActionEvent::new(
            "e",
            catalogue::USER_INPUT,
            SessionKey { tenant_id: "acme", session_id: SESSIONS[usize::from(happening.session) % 3] },
            Source { id: ["src", "other"][usize::from(happening.source) % 2], sequence },
            Agent::new("a"),
        )
    };
    let tool = |name, arguments| Some(ToolCall { name, call_id, arguments: payload(arguments) });
    match happening.kind % 7 {
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

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    // One session in which numbers go beyond what its header holds, and two short ones.
    let session = prop_oneof![4 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    let jump = prop_oneof![8 => Just(1_i64), 1 => Just(0), 2 => -20..20_i64];
    let one = (session, 0..7u8, 0..2u8, prop::bool::weighted(0.1).prop_map(u8::from), jump, any::<bool>());
    let happening =
        |(session, kind, call, source, jump, last)| Happening { session, kind, call, source, jump, last };
    prop::collection::vec(one.prop_map(happening), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stage_stopped_anywhere_goes_on_as_if_it_had_not_been(happenings in happenings(), cut in 0..80usize) {
        BENCH.with_borrow_mut(|bench| goes_on(bench, &happenings, cut))?;
    }
}

thread_local! {
    // To compile a bundle takes longer than a case.
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fn goes_on(bench: &mut Bench, happenings: &[Happening], cut: usize) -> Result<(), TestCaseError> {
    let mut through = bench.evaluator.partition(0);
    let mut stopped = bench.evaluator.partition(0);
    let mut changelog = Vec::new();
    let mut sequence = -1;
    // A stage goes on at the start of a batch.
    let cut = (cut..happenings.len()).find(|at| *at == 0 || happenings[*at - 1].last);
    for (offset, happening) in happenings.iter().enumerate() {
        sequence += happening.jump;
        let event = event(*happening, sequence);
        let offset = i64::try_from(offset).unwrap();
        let expected = bench.step_in_batch(&mut through, &event, offset, happening.last);
        if cut == Some(usize::try_from(offset).unwrap()) {
            stopped = bench.restore(&changelog);
        }
        let found = bench.step_in_batch(&mut stopped, &event, offset, happening.last);
        prop_assert_eq!(&found, &expected, "at offset {}", offset);
        changelog.extend(expected.1);
    }
    Ok(())
}

#[test]
fn each_judged_event_has_one_verdict_and_a_repeated_one_is_a_duplicate() {
    let mut bench = Bench::new();
    let mut sessions = bench.evaluator.partition(0);
    let cancel = Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true };
    let schema = subject::VERDICT.schema().unwrap();
    let mut decisions = Vec::new();
    for (offset, (happening, sequence)) in
        [(Happening { kind: 0, ..cancel }, 0), (cancel, 1), (cancel, 1), (Happening { kind: 3, ..cancel }, 2)]
            .iter()
            .enumerate()
    {
        let (verdicts, _) =
            bench.step(&mut sessions, &event(*happening, *sequence), i64::try_from(offset).unwrap());
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

/// What verdicts say of an event: decision and findings of each.
fn judged(
    bench: &mut Bench,
    sessions: &mut Sessions,
    event: &ActionEvent<'_>,
    offset: i64,
) -> Vec<(Decision, Vec<RecordFinding>)> {
    let schema = subject::VERDICT.schema().unwrap();
    let (verdicts, _) = bench.step(sessions, event, offset);
    let said = verdicts.iter().map(|(_, value)| {
        let (id, datum) = wire::split(value.as_deref().unwrap()).unwrap();
        let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
        (
            verdict.decision.known().unwrap(),
            verdict.findings.iter().map(|finding| finding.known().unwrap()).collect(),
        )
    });
    said.collect()
}

#[test]
fn a_record_in_a_partition_of_another_key_is_judged_and_says_so() {
    let mut bench = Bench::new();
    let mut sessions = bench.evaluator.partition(0);
    let cancel = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let home = |session_id| partition_of(format!("acme/{session_id}").as_bytes(), 12) == Some(0);
    let names: Vec<String> = (0..40).map(|i| format!("s{i}")).collect();
    assert!(names.iter().any(&home) && !names.iter().all(&home));
    for (offset, name) in (0..).zip(&names) {
        let event = ActionEvent { session_id: name, ..cancel };
        let expected = if home(name) { vec![] } else { vec![RecordFinding::Misplaced] };
        assert_eq!(
            judged(&mut bench, &mut sessions, &event, offset),
            [(Decision::Deny, expected.clone())],
            "{name}"
        );
        let again = judged(&mut bench, &mut sessions, &event, offset + 100);
        assert_eq!(again, [(Decision::Duplicate, expected)], "{name}");
    }
}

#[test]
fn a_call_in_the_last_word_of_a_source_is_judged() {
    let mut bench = Bench::new();
    let mut sessions = bench.evaluator.partition(0);
    let cancel = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let closed = ActionEvent { r#type: catalogue::SOURCE_CLOSED, ..cancel };
    let found = judged(&mut bench, &mut sessions, &closed, 0);
    let [(decision, findings)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((*decision, *findings.last().unwrap()), (Decision::Deny, RecordFinding::UnexpectedCall));
    let without = ActionEvent { tool: None, source: Source { id: "src", sequence: 1 }, ..closed };
    let (verdicts, changelog) = bench.step(&mut sessions, &without, 1);
    assert_eq!((verdicts.len(), changelog.len()), (0, 1), "else it belongs to no session: only the progress");
}

#[test]
fn what_has_no_name_is_rejected_and_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let mut sessions = bench.evaluator.partition(0);
    let good = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let nameless = [
        ("empty_session_id", ActionEvent { session_id: "", ..good }),
        ("empty_source_id", ActionEvent { source: Source { id: "", sequence: 0 }, ..good }),
        ("empty_event_id", ActionEvent { event_id: "", ..good }),
        (
            "empty_session_id",
            ActionEvent { session_id: "", r#type: catalogue::SOURCE_CLOSED, tool: None, ..good },
        ),
    ];
    for (reason, event) in nameless {
        bench.outputs.clear();
        let origin = Origin { topic: "actions", partition: 0, offset: 0, logged_at: Millis(1000) };
        let reject = bench.evaluator.step(&mut sessions, &origin, &event, &mut bench.outputs).unwrap_err();
        assert_eq!((reject.reason.as_str(), reject.undo), (reason, false));
        assert!(reject.detail.contains("expected a name, found an empty text"), "{}", reject.detail);
    }
    let (verdicts, changelog) = bench.step(&mut sessions, &good, 1);
    let header = changelog.iter().filter(|(key, _)| key.ends_with(b"\"header\"]")).count();
    assert_eq!((verdicts.len(), header), (1, 1), "the session begins here");
}

/// Entries of numbers end with their session, and only with that.
#[test]
fn numbers_are_buried_with_their_session() {
    let mut bench = Bench::new();
    let mut sessions = bench.evaluator.partition(0);
    let says = Happening { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true };
    let mut changelog = Vec::new();
    for sequence in 0..40 {
        let kind = if sequence == 39 { 4 } else { says.kind };
        let (_, entries) = bench.step(&mut sessions, &event(Happening { kind, ..says }, sequence), sequence);
        changelog.extend(entries);
    }
    let numbers = |changelog: &[Said], tombstone: bool| {
        let numbers = changelog.iter().filter(|(key, value)| {
            value.is_none() == tombstone && String::from_utf8_lossy(key).contains("\"numbers\"")
        });
        numbers.count()
    };
    assert_eq!((numbers(&changelog, false), numbers(&changelog, true)), (2, 0), "also after its end");
    // Whoever goes on knows them all.
    let mut sessions = bench.restore(&changelog);
    for sequence in 0..39 {
        let (_, entries) = bench.step(&mut sessions, &event(says, sequence), 40 + sequence);
        assert_eq!(entries.len(), 1, "{sequence}: a repeat, so only the progress");
    }
    let late = Origin { topic: "actions", partition: 0, offset: 99, logged_at: Millis(i64::MAX) };
    bench.outputs.clear();
    bench
        .evaluator
        .step(&mut sessions, &late, &event(Happening { session: 1, ..says }, 0), &mut bench.outputs)
        .unwrap();
    let (_, buried) = bench.said();
    assert_eq!(numbers(&buried, true), 2);
    changelog.extend(buried);
    let mut restored = bench.restore(&changelog);
    let (_, entries) = bench.step(&mut restored, &event(says, 0), 100);
    assert_eq!(entries.len(), 2, "nothing is left: header and progress of a new session");
}

#[test]
fn a_bundle_that_does_not_load_is_announced_once_and_the_last_good_one_judges() {
    let mut bench = Bench::new();
    bench.push_bundle(&broken(), 1);
    assert!(!bench.is_ready());

    let (mut first, other) = (bench.evaluator.partition(0), bench.evaluator.partition(1));
    assert!(
        bench.evaluator.has_pending_side_output(&first) && !bench.evaluator.has_pending_side_output(&other)
    );
    let cancel = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let (verdicts, changelog) = bench.step(&mut first, &cancel, 0);
    assert_eq!((verdicts.len(), bench.alerts()), (1, vec![1]));
    bench.step(&mut first, &cancel, 1);
    assert!(bench.alerts().is_empty(), "announced already");
    let restored = bench.restore(&changelog);
    assert!(!bench.evaluator.has_pending_side_output(&restored), "also after a restart");
}

fn broken() -> BundleFiles {
    let mut broken = airline();
    broken.0.insert("broken.cedar".into(), b"forbid (".to_vec());
    broken
}

#[test]
fn a_start_takes_the_newest_bundle_that_loads_and_announces_what_nobody_corrected() {
    let cancel = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    for (pushed, refused) in [
        (vec![airline()], vec![]),
        (vec![airline(), broken()], vec![1]),
        (vec![airline(), broken(), airline()], vec![]),
        (vec![broken(), airline(), broken(), broken()], vec![2, 3]),
    ] {
        let mut bench = Bench::started_with(&pushed);
        assert_eq!(bench.is_ready(), refused.is_empty());
        let mut sessions = bench.evaluator.partition(0);
        assert_eq!(bench.evaluator.has_pending_side_output(&sessions), !refused.is_empty());
        let (verdicts, changelog) = bench.step(&mut sessions, &cancel, 0);
        assert_eq!(bench.alerts(), refused);
        let schema = subject::VERDICT.schema().unwrap();
        let (id, datum) = wire::split(verdicts[0].1.as_deref().unwrap()).unwrap();
        let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
        assert_eq!(verdict.bundle.map(|bundle| bundle.digest), Some(airline().digest()));

        // The next start announces nothing again, and what comes then is new.
        let mut again = Bench::started_with(&pushed);
        let mut sessions = again.restore(&changelog);
        assert!(!again.evaluator.has_pending_side_output(&sessions));
        again.push_bundle(&broken(), 9);
        assert!(again.evaluator.has_pending_side_output(&sessions) && !again.is_ready());
        again.step(&mut sessions, &ActionEvent { event_id: "e-again", ..cancel }, 1);
        assert_eq!(again.alerts(), [9]);
    }
}

/// What is no bundle at all is known at once, what does not load when the start is over: the order is the topic's.
#[test]
fn announcements_are_in_the_order_of_the_topic() {
    let mut bench = Bench::started_with(&[airline()]);
    bench.push_garbage(1);
    assert!(bench.evaluator.has_pending_side_output(&bench.evaluator.partition(0)));
    let topology = Topology::embedded().unwrap();
    let evaluator = Evaluator::new(&topology, topology.stage("evaluator").unwrap()).unwrap();
    let mut bench = Bench { evaluator, ..bench };
    bench.push_bundle(&broken(), 3);
    bench.push_garbage(4);
    bench.evaluator.tables_loaded();
    let mut sessions = bench.evaluator.partition(0);
    sessions.bundles_announced = 4;
    assert!(bench.evaluator.has_pending_side_output(&sessions), "of offset 4");
    sessions.bundles_announced = 5;
    assert!(!bench.evaluator.has_pending_side_output(&sessions));
}

/// Only an entry of an earlier version has such ids: they are rejected before anything changes.
#[test]
fn a_header_that_is_too_large_is_refused_with_its_event() {
    let mut bench = Bench::new();
    let small = event(Happening { session: 0, kind: 6, call: 0, source: 0, jump: 1, last: true }, 0);
    let mut fresh = bench.evaluator.partition(0);
    let (_, changelog) = bench.step(&mut fresh, &small, 0);
    assert_eq!(changelog.len(), 2, "a header and the progress");

    let schema = subject::SESSION_STATE.schema().unwrap();
    let (key, value) = &changelog[0];
    let (id, datum) = wire::split(value.as_deref().unwrap()).unwrap();
    let mut entry: SessionState<'_> = schema.decode(id, datum).unwrap();
    let long = "x".repeat(3 << 20);
    entry.header.as_mut().unwrap().sources[0].id = &long;
    let large = RecordEncoder::<SessionState<'static>>::new(ID).unwrap().encode(&entry).unwrap();
    let mut sessions = bench.restore(&[(key.clone(), Some(large))]);
    let origin = Origin { topic: "actions", partition: 0, offset: 1, logged_at: Millis(1000) };
    let reject = bench.evaluator.step(&mut sessions, &origin, &small, &mut bench.outputs).unwrap_err();
    assert_eq!(
        (reject.reason.as_str(), reject.undo),
        ("output_refused", false),
        "it was copied before the step"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Refused because of an entry, of a verdict, or of neither; also where its time lets sessions expire.
    #[test]
    fn a_refused_step_leaves_no_trace(
        happenings in happenings(),
        late in prop::collection::vec(prop::bool::weighted(0.1), 80),
        bounds in prop_oneof![Just((640, 1 << 20)), Just((850, 1 << 20)), Just((2 << 20, 1100)), Just((2 << 20, 1250))],
    ) {
        BOUNDED.with_borrow_mut(|benches| {
            let bench = benches.entry(bounds).or_insert_with(|| Bench::bounded(bounds.0, bounds.1));
            leaves_no_trace(bench, &happenings, &late)
        })?;
    }
}

thread_local! {
    static BOUNDED: RefCell<BTreeMap<(i32, i32), Bench>> = RefCell::default();
}

fn leaves_no_trace(bench: &mut Bench, happenings: &[Happening], late: &[bool]) -> Result<(), TestCaseError> {
    let (mut stepped, mut spared) = (bench.evaluator.partition(0), bench.evaluator.partition(0));
    let (mut changelog, mut sequence, mut logged_at) = (Vec::new(), -1, 0);
    for (offset, (happening, late)) in happenings.iter().zip(late).enumerate() {
        sequence += happening.jump;
        logged_at += if *late { 5 * 24 * 3_600_000 } else { 1 };
        let (event, offset) = (event(*happening, sequence), i64::try_from(offset).unwrap());
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(logged_at) };
        let mut step = |sessions: &mut Sessions| {
            bench.outputs.clear();
            bench.evaluator.step(sessions, &origin, &event, &mut bench.outputs)?;
            bench.evaluator.finish(sessions, offset + 1, &mut bench.outputs).unwrap();
            let (verdicts, mut changelog) = bench.said();
            // Sessions that expire together do so in any order.
            changelog.sort();
            Ok::<_, Reject>((verdicts, changelog))
        };
        match step(&mut stepped) {
            Ok(found) => {
                prop_assert_eq!(&found, &step(&mut spared).unwrap(), "at offset {}", offset);
                changelog.extend(found.1);
            }
            Err(reject) => {
                prop_assert_eq!(reject.reason.as_str(), "output_refused");
                if reject.undo {
                    stepped = bench.restore(&changelog);
                }
            }
        }
    }
    Ok(())
}

/// The first one that nothing announced costs a restore, and none after it.
#[test]
fn a_thousand_refused_verdicts_cost_one_restore() {
    let mut bench = Bench::bounded(2 << 20, 2000);
    let mut sessions = bench.evaluator.partition(0);
    let call = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let (_, changelog) = bench.step(&mut sessions, &call, 0);
    let tool = ToolCall { name: &"x".repeat(MAX_ID_BYTES), ..call.tool.unwrap() };
    let mut restores = 0;
    for offset in 1..=1000 {
        let refused =
            ActionEvent { tool: Some(tool), source: Source { id: "src", sequence: offset }, ..call };
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(1000) };
        let reject = bench.evaluator.step(&mut sessions, &origin, &refused, &mut bench.outputs).unwrap_err();
        assert_eq!(reject.reason.as_str(), "output_refused");
        bench.outputs.clear();
        if reject.undo {
            restores += 1;
            sessions = bench.restore(&changelog);
        }
    }
    assert_eq!(restores, 1);
    let next = ActionEvent { source: Source { id: "src", sequence: 1 }, ..call };
    let (_, changelog) = bench.step(&mut sessions, &next, 1001);
    assert!(changelog.iter().any(|(key, _)| key.ends_with(b"\"header\"]")), "number 1 is free still");
}

/// With a name that has as many bytes as one may have, and with one that has one byte more.
#[test]
fn what_is_too_long_for_a_key_or_to_be_repeated_is_rejected_and_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let call = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let (tool, result) = (call.tool.unwrap(), answer());
    let answered = ActionEvent { r#type: catalogue::TOOL_RESPONSE_RECEIVED, tool: None, ..call };
    type With<'a> = &'a dyn Fn(&'a str) -> ActionEvent<'a>;
    let fields: [(&str, With<'_>); 10] = [
        ("event_id", &|event_id| ActionEvent { event_id, ..call }),
        ("type", &|r#type| ActionEvent { r#type, ..call }),
        ("environment", &|environment| ActionEvent { environment, ..call }),
        ("session_id", &|session_id| ActionEvent { session_id, ..call }),
        ("source.id", &|id| ActionEvent { source: Source { id, sequence: 0 }, ..call }),
        ("agent.id", &|id| ActionEvent { agent: Agent { id, ..call.agent }, ..call }),
        ("tool.name", &|name| ActionEvent { tool: Some(ToolCall { name, ..tool }), ..call }),
        ("tool.call_id", &|call_id| ActionEvent { tool: Some(ToolCall { call_id, ..tool }), ..call }),
        ("result.call_id", &|call_id| ActionEvent {
            result: Some(ToolResult { call_id, ..result }),
            ..answered
        }),
        ("session_id", &|session_id| ActionEvent {
            session_id,
            r#type: catalogue::SOURCE_CLOSED,
            tool: None,
            ..call
        }),
    ];
    // Six bytes each, as they stand in a key of the changelog.
    let (longest, longer) = ("\u{1}".repeat(MAX_ID_BYTES), "\u{1}".repeat(400_000));
    let one_more = "\u{1}".repeat(MAX_ID_BYTES + 1);
    for (field, with) in fields {
        let mut sessions = bench.evaluator.partition(0);
        for name in [&one_more, &longer] {
            bench.outputs.clear();
            let origin = Origin { topic: "actions", partition: 0, offset: 0, logged_at: Millis(1000) };
            let reject =
                bench.evaluator.step(&mut sessions, &origin, &with(name), &mut bench.outputs).unwrap_err();
            assert_eq!((reject.reason.as_str(), reject.undo), ("id_too_long", false), "{field}");
            assert_eq!(reject.detail, format!("{field}: expected at most 4096 bytes, found {}", name.len()));
            assert_eq!((sessions.tenants().count(), bench.outputs.iter().count()), (0, 0), "{field}");
        }
        // Which `step` takes.
        bench.step(&mut sessions, &with(&longest), 1);
    }
}

/// As many sources as a session knows, each with the longest id, and the longest of all other names: what is kept and what is
/// emitted fits. A label, which no key has, may be of any length: a verdict has its beginning.
#[test]
fn the_longest_names_leave_room_for_the_rest() {
    let mut bench = Bench::new();
    let mut sessions = bench.evaluator.partition(0);
    let name = "\u{1}".repeat(MAX_ID_BYTES);
    let label = "ü".repeat(200_000) + "x";
    let call = event(Happening { session: 0, kind: 2, call: 0, source: 0, jump: 1, last: true }, 0);
    let call = ActionEvent {
        event_id: &name,
        r#type: &name,
        environment: &name,
        session_id: &name,
        session_label: Some(&label),
        agent: Agent { id: &name, ..call.agent },
        tool: Some(ToolCall { name: &name, call_id: &name, ..call.tool.unwrap() }),
        ..call
    };
    let schema = subject::VERDICT.schema().unwrap();
    for offset in 0..64 {
        let id = format!("{offset:02}") + &name[2..];
        let event = ActionEvent { source: Source { id: &id, sequence: 0 }, ..call };
        let (verdicts, _) = bench.step(&mut sessions, &event, offset);
        let (id, datum) = wire::split(verdicts[0].1.as_deref().unwrap()).unwrap();
        let verdict: Verdict<'_> = schema.decode(id, datum).unwrap();
        assert_eq!(verdict.session_label, label.get(..MAX_ID_BYTES), "4 KiB of it");
    }
}
