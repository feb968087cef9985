//! Tests of docs/bad-input.md. In every case the record is a row with identical bytes, and a good event after it in the
//! same partition gets its verdict.

use std::process::Command;

use agentgov_connect::SchemaRegistry;
use agentgov_schemas::event::{ActionEvent, Source};
use agentgov_schemas::governance::{AgentEntry, AgentState};
use agentgov_schemas::wire::{Encoder, Schema, SchemaId};
use agentgov_schemas::{Digest, Micros, SessionKey, catalogue, subject};
use agentgov_sdk::{self as sdk, RecordError};
use rdkafka::error::RDKafkaErrorCode;
use serde_json::{Value, json};

use crate::actions::{At, Writer, answer, call, event, payload};
use crate::headers::{self, Header};
use crate::stack::{AGENT, ENVIRONMENT, Stack, agentgov, describe, root, stack};

const TENANT: &str = "bad-input";
const PROFILE: &[u8] = br#"{"membership": "gold", "payment_methods": {}}"#;

/// Test case with its own session.
struct Case {
    stack: &'static Stack,
    writer: Writer<ActionEvent<'static>>,
    session: &'static str,
}

impl Case {
    fn new(session: &'static str) -> Self {
        let stack = stack();
        Self { stack, writer: Writer::<ActionEvent<'static>>::new(stack), session }
    }

    /// Returns the first event of the session, as a template.
    fn event(&self) -> ActionEvent<'static> {
        event(catalogue::SESSION_STARTED, TENANT, self.session)
    }

    fn key(&self) -> Vec<u8> {
        SessionKey { tenant_id: TENANT, session_id: self.session }.to_bytes()
    }

    /// Waits for the row of the action at `at` and returns the columns `what`.
    fn row(&self, at: At, what: &str) -> Vec<String> {
        self.one_row("actions", "partition", "offset", at, what)
    }

    /// Waits for the only verdict on the action at `at` and returns the columns `what`.
    fn verdict(&self, at: At, what: &str) -> Vec<String> {
        self.one_row("verdicts", "origin_partition", "origin_offset", at, what)
    }

    fn one_row(&self, table: &str, partition: &str, offset: &str, at: At, what: &str) -> Vec<String> {
        let At { partition: p, offset: o } = at;
        let sql = format!("SELECT {what} FROM {table} WHERE {partition} = {p} AND {offset} = {o}");
        let mut found = Vec::new();
        self.stack.eventually(&format!("a row of {table} for {at:?}"), || {
            found = self.stack.rows(&sql);
            !found.is_empty()
        });
        assert_eq!(found.len(), 1, "{sql}");
        found.remove(0)
    }

    fn count(&self, table: &str, at: At) -> i64 {
        let At { partition, offset } = at;
        let origin = format!("origin_partition = {partition} AND origin_offset = {offset}");
        self.stack.number(&format!("SELECT count() FROM {table} WHERE {origin}"))
    }

    /// Checks that the record at `at` and every offset before it are rows, and that the row has these bytes. Returns its
    /// decode_error.
    fn assert_kept(&self, at: At, value: Option<&[u8]>) -> String {
        let row = self.row(at, "value IS NULL, lower(hex(value)), lower(hex(record_sha256)), decode_error");
        assert_eq!(row[0], if value.is_none() { "1" } else { "0" }, "a tombstone is no empty value");
        let bytes = value.unwrap_or_default();
        if value.is_some() {
            assert_eq!(row[1], bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        assert_eq!(row[2], Digest::of(bytes).to_string());
        let up_to = format!("partition = {} AND offset <= {}", at.partition, at.offset);
        let rows = self.stack.number(&format!("SELECT count() FROM actions WHERE {up_to}"));
        assert_eq!(rows, at.offset + 1, "every offset is a row");
        row[3].clone()
    }

    /// Checks that the evaluator rejected the record at `at` once, with this reason and these bytes, and that it has no
    /// verdict.
    fn assert_rejected(&self, at: At, value: &[u8], reason: &str) {
        let hex: String = value.iter().take(4096).map(|byte| format!("{byte:02x}")).collect();
        let what = format!(
            "stage, reason, detail, rejected_size, lower(hex(rejected_sha256)), rejected_head = unhex('{hex}')"
        );
        let row = self.one_row("rejects", "origin_partition", "origin_offset", at, &what);
        assert_eq!((row[0].as_str(), row[1].as_str()), ("evaluator", reason));
        assert!(!row[2].is_empty());
        assert_eq!(row[3..], [value.len().to_string(), Digest::of(value).to_string(), "1".to_owned()]);
        assert_eq!(self.count("verdicts", at), 0);
    }

    /// Returns the session as `session show` prints it.
    fn show_session(&self, options: &[&str]) -> String {
        let show = ["session", "show", self.session, "--tenant", TENANT];
        self.stack.run(&[&show[..], options].concat())
    }

    /// Checks that a good event after all others in the same partition is logged and judged.
    fn assert_good_event_is_judged(&mut self) {
        let source = Source { id: "good", sequence: 0 };
        let good = call(&self.event(), 0, "think", "good", b"{}");
        let at = self.writer.write_event(&ActionEvent { source, ..good.clone() });
        let verdict = self.verdict(at, "decision, reason");
        assert_eq!(verdict, ["allow", "granted"]);
        assert_eq!(self.count("rejects", at), 0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a value that no reader can decode.
fn assert_undecodable(session: &'static str, reason: &str, value: impl FnOnce(&mut Case) -> Option<Vec<u8>>) {
    let mut case = Case::new(session);
    let value = value(&mut case);
    let at = case.writer.write(&case.key(), value.as_deref());
    case.assert_good_event_is_judged();
    let decode_error = case.assert_kept(at, value.as_deref());
    assert!(decode_error.starts_with(&format!("{reason}: ")), "{decode_error}");
    case.assert_rejected(at, value.as_deref().unwrap_or_default(), reason);
    let row = case.row(at, "key, tenant_id, type");
    assert_eq!(
        row,
        [String::from_utf8(case.key()).unwrap(), String::new(), String::new()],
        "only the key is known"
    );
}

#[test]
fn wrong_magic_byte() {
    assert_undecodable("magic", "wrong_magic_byte", |_| Some(br#"{"type": "tool.invoked"}"#.to_vec()));
}

#[test]
fn truncated_header() {
    assert_undecodable("header", "truncated_header", |_| Some(vec![0, 0, 0]));
}

#[test]
fn unknown_schema_id() {
    assert_undecodable("schema", "unknown_schema_id", |case| {
        let event = case.event();
        let mut value = case.writer.encode(&event);
        value[1..5].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
        Some(value)
    });
}

/// Record types that contain each other twice, forty levels deep: an empty datum would claim 2^40 records.
#[test]
fn schema_with_unbounded_data() {
    assert_undecodable("no-bound", "unknown_schema_id", |case| {
        let record = |n: usize| {
            let inner = if n == 0 { "\"null\"".to_owned() } else { format!("\"R{}\"", n - 1) };
            format!(
                r#"{{"type":"record","name":"R{n}","fields":[{{"name":"a","type":{inner}}},{{"name":"b","type":{inner}}}]}}"#
            )
        };
        let fields: Vec<String> =
            (0..40).map(|n| format!(r#"{{"name":"f{n}","type":{}}}"#, record(n))).collect();
        let schema = format!(r#"{{"type":"record","name":"NoBound","fields":[{}]}}"#, fields.join(","));
        let registry = SchemaRegistry::new(&case.stack.endpoints.schema_registry).unwrap();
        let id = registry.register("bad-input-no-bound", &schema).unwrap();
        Some([&[0][..], &id.0.to_be_bytes()].concat())
    });
}

#[test]
fn schema_of_another_topic() {
    assert_undecodable("other-schema", "undecodable_datum", |case| {
        let id = Writer::<AgentEntry<'static>>::new(case.stack).encode(&AgentEntry {
            name: AGENT,
            owner: "tests",
            roles: vec![],
            ..AgentEntry::new(TENANT, AGENT, AgentState::Active)
        });
        Some(id)
    });
}

#[test]
fn truncated_avro() {
    assert_undecodable("truncated", "undecodable_datum", |case| {
        let event = case.event();
        let mut value = case.writer.encode(&event);
        value.truncate(value.len() / 2);
        Some(value)
    });
}

#[test]
fn bytes_after_the_event() {
    assert_undecodable("trailing", "trailing_bytes", |case| {
        let event = case.event();
        let mut value = case.writer.encode(&event);
        value.extend_from_slice(b"more");
        Some(value)
    });
}

#[test]
fn empty_value() {
    assert_undecodable("empty", "empty_value", |_| Some(Vec::new()));
}

#[test]
fn tombstone() {
    assert_undecodable("tombstone", "empty_value", |_| None);
}

#[test]
fn larger_than_the_topic_takes() {
    let mut case = Case::new("too-large");
    let limit = case.stack.topology.topic_of(subject::ACTION_EVENT).unwrap().1.max_message_bytes.value;
    let value = vec![0; usize::try_from(limit).unwrap() + 1];
    let refused = case.writer.try_write(Some(&case.key()), Some(&value)).unwrap_err();
    assert_eq!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::MessageSizeTooLarge), "{refused}");
    case.assert_good_event_is_judged();
}

#[test]
fn larger_than_the_sdk_takes() {
    let mut case = Case::new("too-large-for-the-sdk");
    let recorder = case.stack.recorder(TENANT, ENVIRONMENT);
    let agent = agentgov_schemas::event::Agent { id: AGENT, name: None, version: None };
    let record = |arguments: &[u8]| {
        let arguments = sdk::Content { data: arguments, media_type: "application/json" };
        let tool = sdk::ToolCall::new("think", "c", arguments);
        recorder.record(&sdk::Event {
            tool: Some(tool),
            ..sdk::Event::new(catalogue::TOOL_INVOKED, case.session, agent)
        })
    };
    let mut arguments = vec![b' '; 2 << 20];
    let Err(RecordError::TooLarge { found, limit, .. }) = record(&arguments) else { panic!("it was taken") };
    assert_eq!(recorder.stats().accepted, 0, "it took no number");
    // The largest event is accepted, delivered, logged and judged.
    arguments.truncate(arguments.len() - (found - limit));
    arguments[..2].copy_from_slice(b"{}");
    assert_eq!(record(&arguments).unwrap().sequence, 0);
    recorder.close(crate::stack::DEADLINE).unwrap();
    let verdict = format!(
        "SELECT decision FROM verdicts WHERE tenant_id = '{TENANT}' AND session_id = '{}'",
        case.session
    );
    case.stack.eventually("a verdict on the largest event", || case.stack.rows(&verdict) == [["allow"]]);
    let kept = format!(
        "SELECT count() FROM actions WHERE session_id = '{}' AND length(arguments) = {} AND SHA256(arguments) = arguments_sha256",
        case.session,
        arguments.len()
    );
    // Tables are filled independently of each other.
    case.stack.eventually("the row of the largest event", || case.stack.number(&kept) == 1);
    case.assert_good_event_is_judged();
}

#[test]
fn arguments_that_are_not_json() {
    let mut case = Case::new("no-json");
    let arguments = b"{\"reservation_id\": \"QX1\"";
    let event = call(&case.event(), 0, "cancel_reservation", "c1", arguments);
    let value = case.writer.encode(&event);
    let at = case.writer.write_event(&event);
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    assert_eq!(case.row(at, "arguments"), [String::from_utf8(arguments.to_vec()).unwrap()]);
    let verdict = case.verdict(
        at,
        "has(errors.code, 'arguments_not_json'), decision, has(violations.policy, 'look-before-you-write')",
    );
    assert_eq!(verdict, ["1", "deny", "1"], "what cannot be read names nothing that is known");
}

#[test]
fn payload_that_is_not_text() {
    let mut case = Case::new("no-text");
    let arguments = b"{\"thought\": \"\xff\xfe\"}";
    let event = call(&case.event(), 0, "think", "c1", arguments);
    let answer = answer(&case.event(), 1, "c1", b"\x00\xff\x80");
    let value = case.writer.encode(&event);
    let (at, answered_at) = (case.writer.write_event(&event), case.writer.write_event(&answer));
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    let row = case.row(at, "lower(hex(arguments)), lower(hex(arguments_sha256))");
    assert_eq!(row, [hex(arguments), Digest::of(arguments).to_string()]);
    assert_eq!(case.row(answered_at, "lower(hex(result))"), ["00ff80"]);
    assert_eq!(case.verdict(at, "errors.code"), ["['arguments_not_json']"]);
    // Readers accept whatever the log accepts.
    let shown_session = case.show_session(&[]);
    for line in [r#"  think({"thought": "\xff\xfe"})  call c1"#, r"  → \u{0}\xff\x80  call c1"] {
        assert!(shown_session.lines().any(|found| found == line), "{line} is missing in\n{shown_session}");
    }
    let entries: serde_json::Value = serde_json::from_str(&case.show_session(&["--json"])).unwrap();
    assert_eq!(entries["entries"][1]["event"]["result"], r"\u{0}\xff\x80");
}

/// Records cannot move the cursor of a terminal, forge a line of a report, or hide text.
#[test]
fn text_with_terminal_escapes() {
    let mut case = Case::new("terminal");
    let forged = "think\n  verdict allow (granted) by airline 1\u{1b}[8m";
    let mut hostile =
        call(&case.event(), 0, forged, "c1", b"{\"thought\": \"\x1b[2K\r\xc2\x9b1A\xe2\x80\xae\"}");
    hostile.session_label = Some("\u{1b}]0;owned\u{7}");
    let at = case.writer.write_event(&hostile);
    let empty = case.writer.write_event(&call(&case.event(), 1, "think", "c2", b""));
    case.assert_good_event_is_judged();
    assert_eq!(
        case.row(at, "lower(hex(tool_name))")[0],
        hex(forged.as_bytes()),
        "the log keeps it as it came"
    );
    let shown_session = case.show_session(&[]);
    let verdicts = shown_session.lines().filter(|line| line.starts_with("  verdict ")).count();
    assert_eq!(verdicts, 3, "one for each call\n{shown_session}");
    for text in [
        r"session \u{1b}]0;owned\u{7}",
        r"think\u{a}  verdict allow (granted) by airline 1\u{1b}[8m(",
        r#"{"thought": "\u{1b}[2K \u{9b}1A\u{202e}"}"#,
        // The tool is printed even without arguments.
        "\n  think()  call c2\n",
    ] {
        assert!(shown_session.contains(text), "{text} is missing in\n{shown_session}");
    }
    assert!(case.row(empty, "arguments")[0].is_empty());
    for printed in [shown_session, case.show_session(&["--json"])] {
        let raw = printed.chars().find(|c| *c != '\n' && agentgov_schemas::escape::is_escaped(*c));
        assert_eq!(raw, None, "{printed:?}");
    }
}

#[test]
fn tool_call_id_used_twice() {
    let mut case = Case::new("twice");
    let first = case.event();
    let calls = [
        call(&first, 0, "get_user_details", "c1", br#"{"user_id": "ada"}"#),
        call(&first, 1, "get_user_details", "c1", br#"{"user_id": "bob"}"#),
        // The result belongs to the later of the two calls.
        answer(&first, 2, "c1", PROFILE),
        call(&first, 3, "send_certificate", "c2", br#"{"user_id": "ada", "amount": 50}"#),
        call(&first, 4, "send_certificate", "c3", br#"{"user_id": "bob", "amount": 50}"#),
    ];
    let at = calls.map(|event| case.writer.write_event(&event));
    case.assert_good_event_is_judged();
    let unseen = "call_index, has(violations.policy, 'look-before-you-write')";
    let expected = [(0, ["0", "0"]), (1, ["1", "0"]), (3, ["2", "1"]), (4, ["3", "0"])];
    for (number, verdict) in expected {
        assert_eq!(case.verdict(at[number], unseen), verdict, "event {number}");
    }
}

#[test]
fn result_without_a_call() {
    let mut case = Case::new("no-call");
    let event = answer(&case.event(), 0, "never-called", PROFILE);
    let after = call(&case.event(), 1, "send_certificate", "c1", br#"{"user_id": "ada", "amount": 50}"#);
    let value = case.writer.encode(&event);
    let (at, after) = (case.writer.write_event(&event), case.writer.write_event(&after));
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    assert_eq!(case.row(at, "call_id, result")[0], "never-called");
    assert_eq!((case.count("verdicts", at), case.count("rejects", at)), (0, 0));
    let verdict = case.verdict(after, "call_index, has(violations.policy, 'look-before-you-write')");
    assert_eq!(verdict, ["0", "1"], "expected no finding about a customer");
}

#[test]
fn wrong_clocks() {
    let mut case = Case::new("clocks");
    // First microsecond of 1900, last microsecond of 2200, and values outside of any calendar.
    let clocks = [
        (-2_208_988_800_000_000, Some(1900)),
        (7_289_654_399_999_999, Some(2200)),
        (i64::MIN, None),
        (i64::MAX, None),
    ];
    for (sequence, (micros, year)) in (0..).zip(clocks) {
        let arguments = format!("{{\"at\": {micros}}}");
        let event = ActionEvent {
            occurred_at: Micros(micros),
            ..call(&case.event(), sequence, "think", "c", arguments.as_bytes())
        };
        let value = case.writer.encode(&event);
        let at = case.writer.write_event(&event);
        let verdict = case.verdict(at, "decision, occurred_at_micros");
        assert_eq!(verdict, ["allow".to_owned(), micros.to_string()]);
        assert_eq!(case.assert_kept(at, Some(&value)), "");
        let row = case
            .row(at, "occurred_at_micros, toYear(occurred_at), abs(dateDiff('day', logged_at, now())) <= 1");
        assert_eq!((row[0].as_str(), row[2].as_str()), (micros.to_string().as_str(), "1"));
        if let Some(year) = year {
            assert_eq!(row[1], year.to_string());
        }
    }
    case.assert_good_event_is_judged();
}

#[test]
fn invalid_tenant_id() {
    let mut case = Case::new("tenant");
    let event = ActionEvent { tenant_id: "bad/input", ..call(&case.event(), 0, "think", "c1", b"{}") };
    let value = case.writer.encode(&event);
    let at = case.writer.write_event(&event);
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    assert_eq!(case.row(at, "tenant_id"), ["bad/input"]);
    case.assert_rejected(at, &value, "invalid_tenant_id");
}

#[test]
fn id_too_large_to_be_a_key() {
    let mut case = Case::new("large-id");
    // Each takes six bytes in a key of the changelog.
    let call_id = "\u{1}".repeat(400_000);
    let event = call(&case.event(), 0, "think", &call_id, b"{}");
    let value = case.writer.encode(&event);
    let at = case.writer.write_event(&event);
    let after = case.writer.write_event(&call(&case.event(), 1, "think", "c2", b"{}"));
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    case.assert_rejected(at, &value, "id_too_long");
    assert_eq!(
        case.verdict(after, "decision, call_index"),
        ["allow", "0"],
        "of what is rejected nothing is left"
    );
}

#[test]
fn unknown_event_type() {
    let mut case = Case::new("type");
    let event = ActionEvent { r#type: "made.up", ..case.event() };
    let value = case.writer.encode(&event);
    let at = case.writer.write_event(&event);
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    assert_eq!(case.row(at, "type"), ["made.up"]);
    assert_eq!((case.count("verdicts", at), case.count("rejects", at)), (0, 0));
}

/// Returns the verdict on the action at `at`, and whether it has this finding. These tests write to partition 0, so that
/// most records are misplaced, too.
fn verdict_and_finding(case: &Case, at: At, finding: &str) -> Vec<String> {
    let found =
        format!("decision, has(findings, '{finding}'), length(arrayFilter(f -> f != 'misplaced', findings))");
    case.verdict(at, &found)
}

#[test]
fn call_of_an_unknown_type() {
    let mut case = Case::new("misspelt");
    let cancel = call(&case.event(), 0, "cancel_reservation", "c1", br#"{"reservation_id": "QX1"}"#);
    let at = case.writer.write_event(&ActionEvent { r#type: "tool.invokd", ..cancel.clone() });
    case.assert_good_event_is_judged();
    assert_eq!(verdict_and_finding(&case, at, "unknown_type"), ["deny", "1", "1"]);
    assert_eq!(case.verdict(at, "type, call_index"), ["tool.invokd", "0"]);
    assert_eq!(case.row(at, "type"), ["tool.invokd"]);
    let shown_session = case.stack.run(&["session", "show", case.session, "--tenant", TENANT]);
    assert!(shown_session.contains("\n    finding unknown_type\n"), "{shown_session}");
}

#[test]
fn call_in_another_event() {
    let mut case = Case::new("in-another");
    let cancel = call(&case.event(), 0, "cancel_reservation", "c1", br#"{"reservation_id": "QX1"}"#);
    let at = case.writer.write_event(&ActionEvent { r#type: catalogue::USER_INPUT, ..cancel.clone() });
    let closed = ActionEvent { source: Source { id: "closed", sequence: 0 }, ..cancel.clone() };
    let closed = case.writer.write_event(&ActionEvent { r#type: catalogue::SOURCE_CLOSED, ..closed.clone() });
    case.assert_good_event_is_judged();
    for at in [at, closed] {
        assert_eq!(verdict_and_finding(&case, at, "unexpected_call"), ["deny", "1", "1"]);
    }
}

#[test]
fn empty_id() {
    let mut case = Case::new("nameless");
    let good = call(&case.event(), 0, "think", "c1", b"{}");
    let nameless = [
        ("empty_session_id", ActionEvent { session_id: "", ..good.clone() }),
        ("empty_source_id", ActionEvent { source: Source { id: "", sequence: 0 }, ..good.clone() }),
        ("empty_event_id", ActionEvent { event_id: "", ..good.clone() }),
    ];
    let written = nameless.map(|(reason, event)| {
        let value = case.writer.encode(&event);
        (reason, case.writer.write(&case.key(), Some(&value)), value)
    });
    case.assert_good_event_is_judged();
    for (reason, at, value) in written {
        assert_eq!(case.assert_kept(at, Some(&value)), "");
        case.assert_rejected(at, &value, reason);
    }
}

#[test]
fn number_below_the_last() {
    let mut case = Case::new("high-first");
    let first = ActionEvent { source: Source { sequence: i64::MAX, ..case.event().source }, ..case.event() };
    case.writer.write_event(&first);
    let at = [0, 1].map(|sequence| {
        case.writer.write_event(&call(&case.event(), sequence, "cancel_reservation", "c1", b"{}"))
    });
    case.assert_good_event_is_judged();
    for at in at {
        assert_eq!(verdict_and_finding(&case, at, "out_of_order"), ["deny", "1", "1"]);
    }
}

#[test]
fn number_used_twice() {
    let mut case = Case::new("reused");
    let first = call(&case.event(), 0, "think", "c1", b"{}");
    let mut second = call(&case.event(), 0, "think", "c1", br#"{"thought": 1}"#);
    // Claims the first sequence number.
    second.tool.as_mut().unwrap().arguments.sha256 = payload(b"{}").sha256;
    let at = [first, second].map(|event| case.writer.write_event(&event));
    case.assert_good_event_is_judged();
    assert_eq!(verdict_and_finding(&case, at[0], "sequence_reused"), ["allow", "0", "0"]);
    assert_eq!(verdict_and_finding(&case, at[1], "sequence_reused"), ["allow", "1", "1"]);
    assert_eq!(case.verdict(at[1], "call_index, duplicate_of_sequence IS NULL"), ["1", "1"]);
}

#[test]
fn event_sent_again() {
    let mut case = Case::new("again");
    let event = call(&case.event(), 0, "think", "c1", b"{}");
    let again = ActionEvent { occurred_at: Micros(7), ..event.clone() };
    let at = [event.clone(), event, again].map(|event| case.writer.write_event(&event));
    case.assert_good_event_is_judged();
    for at in [at[1], at[2]] {
        assert_eq!(verdict_and_finding(&case, at, ""), ["duplicate", "0", "0"]);
    }
}

#[test]
fn negative_number() {
    let mut case = Case::new("negative");
    let at = case.writer.write_event(&call(&case.event(), -1, "think", "c1", b"{}"));
    case.assert_good_event_is_judged();
    assert_eq!(verdict_and_finding(&case, at, "negative_sequence"), ["allow", "1", "1"]);
}

#[test]
fn record_in_another_partition() {
    let mut case = Case::new("partitions");
    let partitions = case.stack.topology.topic_of(subject::ACTION_EVENT).unwrap().1.partitions.value;
    let sessions: Vec<String> = (0..64).map(|i| format!("partitions-{i}")).collect();
    let home = |session_id: &&String| {
        let key = SessionKey { tenant_id: TENANT, session_id }.to_bytes();
        agentgov_schemas::key::partition_of(&key, partitions) == Some(0)
    };
    let at_home = sessions.iter().find(home).unwrap();
    let elsewhere = sessions.iter().find(|session| !home(session)).unwrap();
    for (session_id, misplaced) in [(at_home, "[]"), (elsewhere, "['misplaced']")] {
        let event = ActionEvent { session_id, ..call(&case.event(), 0, "think", "c1", b"{}") };
        let at = case.writer.write_event(&event);
        assert_eq!(case.verdict(at, "decision, findings"), ["allow", misplaced]);
    }
    case.assert_good_event_is_judged();
}

#[test]
fn record_without_a_key() {
    let mut case = Case::new("keyless");
    let event = call(&case.event(), 0, "think", "c1", b"{}");
    let value = case.writer.encode(&event);
    let at = case.writer.try_write(None, Some(&value)).unwrap();
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    assert_eq!(case.row(at, "key IS NULL, session_id"), ["1", case.session]);
    assert_eq!(case.verdict(at, "decision"), ["allow"], "the event says whose it is");
}

#[test]
fn digest_of_another_payload() {
    let mut case = Case::new("digest");
    let mut event = call(&case.event(), 0, "think", "c1", b"{}");
    let claimed = payload(b"something else").sha256;
    event.tool.as_mut().unwrap().arguments.sha256 = claimed;
    let value = case.writer.encode(&event);
    let at = case.writer.write_event(&event);
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    let row = case.row(at, "lower(hex(arguments_sha256)), SHA256(arguments) = arguments_sha256");
    assert_eq!(row, [claimed.to_string(), "0".to_owned()], "as it was claimed, so that the lie can be found");
    assert_eq!(case.verdict(at, "decision"), ["allow"]);
}

#[test]
fn header_with_a_non_text_name() {
    let mut case = Case::new("headers");
    let value = case.writer.encode(&call(&case.event(), 0, "think", "c1", b"{}"));
    let odd: [Header<'_>; 5] = [
        (b"\xff\xfe\x80", Some(b"\x00\xff")),
        (b"", None),
        (b"trace", Some(b"")),
        (b"cut\0here", Some(b"whole\0here")),
        (b"trace", Some(b"again")),
    ];
    let many: Vec<Header<'_>> = vec![(b"", None); 100_001];
    for headers in [&odd[..], &many] {
        headers::write(case.stack, &case.key(), &value, headers);
    }
    case.assert_good_event_is_judged();
    let rows = || {
        let name = "arrayStringConcat(arrayMap(n -> lower(hex(n)), headers.name), ' ')";
        let value =
            "arrayStringConcat(arrayMap(v -> if(v IS NULL, 'none', lower(hex(v))), headers.value), ' ')";
        let ours =
            format!("key = '{TENANT}/{}' AND source_sequence = 0 AND source_id != 'good'", case.session);
        let what = format!("partition, offset, {name}, {value}, length(headers.name)");
        case.stack.rows(&format!("SELECT {what} FROM actions WHERE {ours} ORDER BY offset"))
    };
    case.stack.eventually("both records are rows", || rows().len() == 2);
    let rows = rows();
    assert_eq!(
        rows[0][2..],
        ["fffe80  7472616365 637574 7472616365", "00ff none  77686f6c650068657265 616761696e", "5"]
    );
    assert_eq!(rows[1][4], "0", "more headers than librdkafka reads");
    for row in rows {
        let at = At { partition: row[0].parse().unwrap(), offset: row[1].parse().unwrap() };
        assert_eq!(case.assert_kept(at, Some(&value)), "");
    }
}

/// Runs with the stack size of the command's threads: the maximum depth compiles, and a greater depth is a problem with its
/// position.
#[test]
fn bundle_nested_too_deep() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
    write("bundle.yaml", "name: deep\nversion: \"1\"\nenvironments: [nowhere]\n");
    write("tools.yaml", "default: { effect: external }\n");
    for (operands, code, place) in
        [(250, 0, "ok: bundle deep 1"), (300, 78, "p.cedar:2:"), (100_000, 78, "p.cedar:2:")]
    {
        let operands = vec!["context.environment == \"x\""; operands].join(" || ");
        write(
            "p.cedar",
            &format!("@id(\"p\") permit (principal, action, resource) when {{\n{operands} }};\n"),
        );
        let output = Command::new(agentgov())
            .args(["policy", "check", "--write", folder.path().to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", describe(&output));
        assert!(describe(&output).contains(place), "{}", describe(&output));
    }
}

/// Registers a schema under a new subject, as another client would, and returns its id.
fn register_schema(stack: &Stack, subject: &str, schema: &Value, references: &[(&str, &str)]) -> SchemaId {
    let references =
        references.iter().map(|(name, subject)| json!({"name": name, "subject": subject, "version": 1}));
    let body = json!({"schema": schema.to_string(), "references": references.collect::<Vec<_>>()});
    let url = format!("{}/subjects/{subject}/versions", stack.endpoints.schema_registry.url);
    let answer = reqwest::blocking::Client::new().post(url).json(&body).send().unwrap();
    let answer: Value = serde_json::from_str(&answer.text().unwrap()).unwrap();
    SchemaId(u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap())
}

/// Returns the schema of actions and the index of a field.
fn actions_schema(field: &str) -> (Value, usize) {
    let schema: Value = serde_json::from_str(subject::ACTION_EVENT.latest()).unwrap();
    let at = schema["fields"].as_array().unwrap().iter().position(|f| f["name"] == field).unwrap();
    (schema, at)
}

#[test]
fn clock_in_another_unit() {
    let mut case = Case::new("unit");
    let micros = 1_764_490_210_123_456;
    let clocks = [
        ("timestamp-millis", micros / 1_000, micros / 1_000 * 1_000),
        ("timestamp-nanos", micros * 1_000, micros),
    ];
    for (sequence, (logical, claim, expected)) in (0..).zip(clocks) {
        let (mut schema, at) = actions_schema("occurred_at");
        schema["fields"][at]["type"] = json!({"type": "long", "logicalType": logical});
        let id = register_schema(case.stack, &format!("strangers.{logical}"), &schema, &[]);
        let schema = Schema::parse(&schema.to_string()).unwrap();
        let arguments = format!("{{\"at\": {sequence}}}");
        let event = call(&case.event(), sequence, "think", "c1", arguments.as_bytes());
        let event = ActionEvent { occurred_at: Micros(claim), ..event.clone() };
        let value = Encoder::new(id, &schema).encode(&event).unwrap();
        let at = case.writer.write(&case.key(), Some(&value));
        assert_eq!(case.verdict(at, "occurred_at_micros"), [expected.to_string()], "{logical}");
        assert_eq!(case.assert_kept(at, Some(&value)), "");
        assert_eq!(
            case.row(at, "occurred_at_micros, toYear(occurred_at)"),
            [expected.to_string(), "2025".to_owned()]
        );
    }
    case.assert_good_event_is_judged();
}

#[test]
fn schema_with_references() {
    let mut case = Case::new("references");
    let (mut schema, at) = actions_schema("source");
    let mut source = schema["fields"][at]["type"].take();
    source["namespace"] = schema["namespace"].clone();
    let name = format!("{}.{}", schema["namespace"].as_str().unwrap(), source["name"].as_str().unwrap());
    schema["fields"][at]["type"] = json!(name);
    register_schema(case.stack, "strangers.source", &source, &[]);
    let id = register_schema(case.stack, "strangers.event", &schema, &[(&name, "strangers.source")]);
    let event = call(&case.event(), 0, "think", "c1", b"{}");
    let mut value = case.writer.encode(&event);
    value[1..5].copy_from_slice(&id.0.to_be_bytes());
    let at = case.writer.write(&case.key(), Some(&value));
    case.assert_good_event_is_judged();
    assert_eq!(case.assert_kept(at, Some(&value)), "");
    assert_eq!(case.verdict(at, "decision"), ["allow"]);
    let row = case.row(at, "schema_id, lower(hex(schema_fingerprint)), source_id");
    let fingerprint = subject::ACTION_EVENT.schema().unwrap().fingerprint().0.to_string();
    assert_eq!(
        row,
        [id.0.to_string(), fingerprint, event.source.id.to_owned()],
        "the same types in one text"
    );
    let text = case.stack.sql(&format!("SELECT text FROM schemas WHERE schema_id = {} LIMIT 1", id.0));
    assert!(text.contains("sequence"), "the log can be read without the registry: {text}");
}

/// Every row of the table names its test, and every test of this file has a row. tests/docs.rs checks rows that link their
/// test.
#[test]
fn table_lists_these_tests() {
    let table = std::fs::read_to_string(root().join("docs/bad-input.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with('|'));
    let last = rows.map(|row| row.trim_end_matches('|').rsplit('|').next().unwrap().trim());
    let last = last.filter(|cell| cell.starts_with(['`', '[']));
    let (linked, mut named): (Vec<&str>, Vec<&str>) = last.partition(|test| test.starts_with('['));
    // Tests of other files are links.
    for link in linked {
        let (name, file) = link.trim_end_matches(')').split_once("](").unwrap();
        let source = std::fs::read_to_string(root().join("docs").join(file)).unwrap();
        assert!(source.contains(&format!("fn {}(", name.trim_matches(['[', '`']))), "{link}");
    }
    let source = include_str!("bad_input.rs");
    let tests = source.split("\n#[test]\nfn ").skip(1).map(|test| test.split('(').next().unwrap());
    let mut tests: Vec<String> =
        tests.filter(|name| *name != "table_lists_these_tests").map(|name| format!("`{name}`")).collect();
    named.sort_unstable();
    tests.sort_unstable();
    assert_eq!(named, tests);
}
