//! State of a session and its changelog: facts, calls, counters, limits and expiry.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

use std::time::Duration;

use agentgov_enrichment::{Change, Session, Tools};
use agentgov_schemas::event::{ActionEvent, Agent, Source, ToolCall, ToolResult};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::{Micros, Millis, SessionKey, catalogue};
use agentgov_test_support::payload;
use proptest::prelude::*;
use serde_json::Value;

const TOOLS: &str = "
default:
  effect: read
  states: [{ fact: order, key: result.id, when: '!has(result.error)' }]
tools:
  who:
    effect: read
    states: [{ fact: person, key: input.name }]
";

fn tools() -> Tools {
    Tools::compile("tools.yaml", TOOLS, &[]).unwrap()
}

fn limits(max_facts: u32, max_bytes: u64) -> SessionLimits {
    SessionLimits { ttl: HumanDuration(Duration::from_hours(1)), max_facts, max_bytes }
}

/// A session with its tools and the offset of the next event.
struct SessionFixture {
    session: Session,
    tools: Tools,
    limits: SessionLimits,
    offset: i64,
}

impl SessionFixture {
    fn new(limits: SessionLimits) -> Self {
        Self { session: Session::new(), tools: tools(), limits, offset: 0 }
    }

    fn event(
        &mut self,
        kind: &str,
        tool: Option<ToolCall<'_>>,
        result: Option<ToolResult<'_>>,
    ) -> Vec<Change> {
        let event = ActionEvent {
            environment: "test",
            occurred_at: Micros(self.offset * 10),
            tool,
            result,
            ..ActionEvent::new(
                "e",
                kind,
                SessionKey { tenant_id: "acme", session_id: "s" },
                Source { id: "p", sequence: self.offset },
                Agent::new("bot"),
            )
        };
        let origin = Origin { topic: "t", partition: 0, offset: self.offset, logged_at: Millis(self.offset) };
        self.offset += 1;
        let check = self.session.check_sequence(&event);
        self.session.apply(&event, &check, &origin, Some(&self.tools), &self.limits).changes
    }

    fn call(&mut self, tool: &str, call_id: &str, arguments: &str) -> Vec<Change> {
        let call = ToolCall::new(tool, call_id, payload(arguments.as_bytes()));
        self.event(catalogue::TOOL_INVOKED, Some(call), None)
    }

    fn result(&mut self, call_id: &str, content: &str) -> Vec<Change> {
        let result = ToolResult { call_id, name: None, is_error: None, content: payload(content.as_bytes()) };
        self.event(catalogue::TOOL_RESPONSE_RECEIVED, None, Some(result))
    }
}

fn fact(kind: &str, key: &str) -> Change {
    Change::Fact { kind: kind.to_owned(), key: key.to_owned() }
}

fn call(call_id: &str) -> Change {
    Change::Call { call_id: call_id.to_owned() }
}

#[test]
fn result_belongs_to_the_latest_call_of_its_id() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    fixture.call("who", "x", r#"{"name":"ada"}"#);
    fixture.call("who", "x", r#"{"name":"bob"}"#);
    assert_eq!(
        fixture.result("x", r#"{"id":"A1"}"#),
        [call("x"), fact("order", "A1"), fact("person", "bob"), Change::Header]
    );
    // The call is already answered: only facts change.
    assert_eq!(fixture.result("x", "{}"), [fact("person", "bob"), Change::Header]);
    assert_eq!(
        fixture.session.fact("person", "bob").unwrap().value,
        b"{}",
        "the last result replaces the fact as a whole"
    );
    assert_eq!(fixture.session.fact("person", "ada"), None);
    assert_eq!(fixture.session.call("x").unwrap().call_index, 1);
}

#[test]
fn errors_and_failures_carry_no_fact() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    fixture.call("who", "x", r#"{"name":"ada"}"#);
    let mut result =
        ToolResult { call_id: "x", name: None, is_error: Some(true), content: payload(br#"{"id":"A1"}"#) };
    assert_eq!(
        fixture.event(catalogue::TOOL_RESPONSE_RECEIVED, None, Some(result)),
        [call("x"), Change::Header]
    );
    result.is_error = None;
    assert_eq!(fixture.event(catalogue::TOOL_FAILED, None, Some(result)), [Change::Header]);
    for content in ["", "no json", r#"{"id":"A1","error":1}"#, "[]", "null", r#""A1""#, r#"{"id":null}"#] {
        fixture.result("elsewhere", content);
    }
    assert_eq!(fixture.session.header().facts, 1, "only the call is stored");
}

/// Each of these results may change a stored fact.
#[test]
fn unexpected_key_type_or_event_type_makes_facts_uncertain() {
    let mark = || fact("order", "\u{fffd}");
    for content in [
        r#"{"id":7}"#,
        r#"{"id":["A1"]}"#,
        r#"{"id":true}"#,
        r#"[{"id":"A1"}]"#,
        r#""{\"id\":\"A1\"}""#,
        "7",
        "true",
    ] {
        let mut fixture = SessionFixture::new(limits(100, 10_000));
        assert_eq!(fixture.result("", content), [mark(), Change::Header], "{content}");
    }
    for kind in ["tool.Response_received", "tool.response.received", "", catalogue::USER_INPUT] {
        let mut fixture = SessionFixture::new(limits(100, 10_000));
        let result =
            ToolResult { call_id: "", name: None, is_error: None, content: payload(br#"{"id":"A1"}"#) };
        assert_eq!(fixture.event(kind, None, Some(result)), [mark(), Change::Header], "{kind}");
        let result = ToolResult { is_error: Some(true), ..result };
        assert_eq!(fixture.event(kind, None, Some(result)), [Change::Header], "{kind}");
        let result = ToolResult { is_error: None, content: payload(b"no json"), ..result };
        assert_eq!(fixture.event(kind, None, Some(result)), [Change::Header], "{kind}");
    }
}

#[test]
fn retried_call_keeps_its_index() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    fixture.call("a", "1", "{}");
    fixture.call("b", "2", "{}");
    let again = ToolCall::new("a", "1", payload(b"[]"));
    fixture.event(catalogue::TOOL_RETRIED, Some(again), None);
    assert_eq!(fixture.session.tool_calls(), 2);
    assert_eq!(fixture.session.call("1").unwrap().call_index, 0);
    assert_eq!(fixture.session.call("1").unwrap().arguments, b"[]");
    let unknown = ToolCall::new("a", "9", payload(b"{}"));
    fixture.event(catalogue::TOOL_RETRIED, Some(unknown), None);
    assert_eq!(fixture.session.call("9").unwrap().call_index, 2);
    fixture.event(catalogue::TOOL_INVOKED, None, None);
    assert_eq!(fixture.session.tool_calls(), 4, "a call without a tool counts");
}

#[test]
fn session_at_its_limits_stores_nothing_new_and_removes_outdated_entries() {
    let mut fixture = SessionFixture::new(limits(2, 10_000));
    fixture.result("", r#"{"id":"A1"}"#);
    fixture.result("", r#"{"id":"A2"}"#);
    assert!(!fixture.session.limited());
    assert_eq!(fixture.result("", r#"{"id":"A3"}"#), [Change::Header]);
    assert!(fixture.session.limited());
    assert_eq!(
        fixture.result("", r#"{"id":"A1","n":1}"#),
        [fact("order", "A1"), Change::Header],
        "replacing a fact needs no room"
    );

    let mut fixture = SessionFixture::new(limits(100, 40));
    fixture.result("", r#"{"id":"A1"}"#);
    let gone = Change::FactRemoved { kind: "order".to_owned(), key: "A1".to_owned() };
    assert_eq!(
        fixture.result("", r#"{"id":"A1","text":"much longer than there is room for"}"#),
        [gone, Change::Header]
    );
    assert_eq!((fixture.session.header().facts, fixture.session.header().bytes), (0, 0));
    fixture.call("a", "1", "{}");
    let gone = Change::CallRemoved { call_id: "1".to_owned() };
    let long = r#"{"text":"much longer than there is room for"}"#;
    assert_eq!(
        fixture.call("a", "1", long),
        [gone, Change::Header],
        "a result must not be attributed to the older call"
    );
}

#[test]
fn session_end_drops_facts_and_calls_and_keeps_numbers() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    fixture.call("a", "1", "{}");
    fixture.result("1", r#"{"id":"A1"}"#);
    let changes = fixture.event(catalogue::SESSION_ENDED, None, None);
    let fact_gone = Change::FactRemoved { kind: "order".to_owned(), key: "A1".to_owned() };
    assert_eq!(changes, [fact_gone, Change::CallRemoved { call_id: "1".to_owned() }, Change::Header]);
    let header = fixture.session.header();
    assert!(header.ended);
    assert_eq!((header.facts, header.bytes, header.events, header.sources[0].sequence), (0, 0, 3, 2));
}

#[test]
fn started_at_is_set_by_session_started_or_the_first_event() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    assert_eq!(fixture.session.started_at(), None);
    fixture.offset = 5;
    fixture.event(catalogue::USER_INPUT, None, None);
    fixture.event(catalogue::USER_INPUT, None, None);
    assert_eq!(fixture.session.started_at(), Some(Micros(50)));
    fixture.event(catalogue::SESSION_STARTED, None, None);
    assert_eq!(fixture.session.started_at(), Some(Micros(70)));
}

#[test]
fn session_expires_by_the_brokers_clock() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    let ttl = Duration::from_millis(100);
    assert!(!fixture.session.is_expired(Millis(i64::MAX), ttl), "a session without events does not expire");
    fixture.event(catalogue::USER_INPUT, None, None);
    for (now, expired) in [(0, false), (100, false), (101, true), (i64::MAX, true), (-5, false)] {
        assert_eq!(fixture.session.is_expired(Millis(now), ttl), expired, "{now}");
    }
}

#[test]
fn append_time_that_decreases_does_not_expire_a_session_earlier() {
    let mut fixture = SessionFixture::new(limits(100, 10_000));
    fixture.offset = 50;
    fixture.event(catalogue::USER_INPUT, None, None);
    fixture.offset = 20;
    fixture.event(catalogue::USER_INPUT, None, None);
    assert_eq!(fixture.session.header().last_logged_at, Millis(50));
    let ttl = Duration::from_millis(100);
    assert!(!fixture.session.is_expired(Millis(150), ttl) && fixture.session.is_expired(Millis(151), ttl));
}

proptest! {
    /// A session restored from its changelog equals the original after any sequence of events.
    #[test]
    fn restored_session_equals_the_original(
        steps in prop::collection::vec((0..8_u8, 0..4_u8, 0..4_u8), 0..60),
        max_facts in 1..6_u32,
        max_bytes in 20..200_u64,
    ) {
        let mut fixture = SessionFixture::new(limits(max_facts, max_bytes));
        let mut restored = Session::new();
        for (what, id, key) in steps {
            let end = if id == 3 { "" } else { "}" };
            let (id, content) = (id.to_string(), format!(r#"{{"id":"{key}","name":"{key}"{end}"#));
            let changes = match what {
                0 | 1 => fixture.call("who", &id, &content),
                2 | 3 => fixture.result(&id, &content),
                4 => fixture.event(catalogue::USER_INPUT, None, None),
                5 => fixture.result(&id, &Value::from(content).to_string()),
                6 => {
                    let content = payload(content.as_bytes());
                    let result = ToolResult { call_id: &id, name: None, is_error: None, content };
                    fixture.event("tool.response", None, Some(result))
                }
                _ if key == 0 => fixture.event(catalogue::SESSION_ENDED, None, None),
                _ => fixture.event(catalogue::SESSION_STARTED, None, None),
            };
            for change in &changes {
                match change {
                    Change::Header => restored.restore_header(&fixture.session.header()).unwrap(),
                    Change::Fact { kind, key } => restored.restore_fact(&fixture.session.fact(kind, key).unwrap()),
                    Change::Call { call_id } => restored.restore_call(&fixture.session.call(call_id).unwrap()),
                    Change::FactRemoved { kind, key } => restored.restore_fact_tombstone(kind, key),
                    Change::CallRemoved { call_id } => restored.restore_call_tombstone(call_id),
                    Change::Numbers { source, block } => {
                        restored.restore_numbers(&fixture.session.numbers(source, *block).unwrap()).unwrap();
                    }
                    Change::NumbersRemoved { source, block } => {
                        restored.restore_numbers_tombstone(source, *block).unwrap();
                    }
                    // No call of this test carries a token.
                    Change::Token { .. }
                    | Change::TokenRemoved { .. }
                    | Change::Approval { .. }
                    | Change::ApprovalRemoved { .. } => unreachable!("{change:?}"),
                }
            }
            prop_assert_eq!(restored.header(), fixture.session.header());
            prop_assert_eq!(restored.tombstones(), fixture.session.tombstones());
            let header = fixture.session.header();
            prop_assert!(u32::try_from(header.facts).unwrap() <= max_facts);
            prop_assert!(u64::try_from(header.bytes).unwrap() <= max_bytes);
        }
    }
}
