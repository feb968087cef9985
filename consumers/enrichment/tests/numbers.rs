//! Sequence numbers of a session's sources: repeats, faulty numbers, and their entries in the changelog.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentgov_enrichment::{Change, InvalidEntry, Session};
use agentgov_schemas::event::{
    ActionEvent, Actor, Agent, Message, Payload, Source, ToolCall, ToolResult, Trace,
};
use agentgov_schemas::state::{SessionHeader, SourceSequence};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::{Origin, RecordFinding};
use agentgov_schemas::{Digest, Micros, Millis, SessionKey, catalogue};
use agentgov_test_support::payload;
use proptest::prelude::*;

const MAX_NUMBERS: i64 = 65_536;

/// Creates an event with every field that policies can see.
fn event(id: &'static str, sequence: i64) -> ActionEvent<'static> {
    ActionEvent {
        environment: "test",
        occurred_at: Micros(1),
        actor: Some(Actor { id: "ada", r#type: "human" }),
        message: Some(Message {
            id: "m",
            role: "assistant",
            has_text: true,
            tool_calls: 1,
            content: Some(payload(b"text")),
        }),
        tool: Some(ToolCall::new("t", "c", payload(b"{}"))),
        result: Some(ToolResult { call_id: "c", name: None, is_error: None, content: payload(b"[]") }),
        ..ActionEvent::new(
            "e",
            catalogue::TOOL_RETRIED,
            SessionKey { tenant_id: "acme", session_id: "s" },
            Source { id, sequence },
            Agent::new("bot"),
        )
    }
}

/// Creates an event with the required fields only.
fn bare(id: &'static str, sequence: i64) -> ActionEvent<'static> {
    ActionEvent {
        r#type: catalogue::USER_INPUT,
        actor: None,
        message: None,
        tool: None,
        result: None,
        ..event(id, sequence)
    }
}

/// Applies an event. Returns `None` for a repeat, else the findings about its number and the changed entries.
fn step(session: &mut Session, event: &ActionEvent<'_>) -> Option<(Vec<RecordFinding>, Vec<Change>)> {
    let limits =
        SessionLimits { ttl: HumanDuration(Duration::from_hours(1)), max_facts: 100, max_bytes: 1 << 20 };
    let origin = Origin { topic: "t", partition: 0, offset: session.events(), logged_at: Millis(0) };
    let check = session.check_sequence(event);
    if check.highest_if_repeat.is_some() {
        return None;
    }
    let changes = session.apply(event, &check, &origin, None, &limits).changes;
    Some((check.findings, changes))
}

fn findings(session: &mut Session, event: &ActionEvent<'_>) -> Option<Vec<RecordFinding>> {
    step(session, event).map(|(findings, _)| findings)
}

#[test]
fn event_that_differs_in_a_field_of_policies_is_no_repeat() {
    let first = event("p", 7);
    let (tool, result, message) = (first.tool.unwrap(), first.result.unwrap(), first.message.unwrap());
    let actor = first.actor.unwrap();
    let others = [
        ActionEvent { event_id: "f", ..first.clone() },
        ActionEvent { r#type: catalogue::TOOL_INVOKED, ..first.clone() },
        ActionEvent { environment: "production", ..first.clone() },
        ActionEvent { agent: Agent { id: "other", ..first.agent }, ..first.clone() },
        ActionEvent { actor: None, ..first.clone() },
        ActionEvent { actor: Some(Actor { id: "bob", ..actor }), ..first.clone() },
        ActionEvent { actor: Some(Actor { r#type: "service", ..actor }), ..first.clone() },
        ActionEvent { message: None, ..first.clone() },
        ActionEvent { message: Some(Message { id: "n", ..message }), ..first.clone() },
        ActionEvent { message: Some(Message { role: "user", ..message }), ..first.clone() },
        ActionEvent { message: Some(Message { has_text: false, ..message }), ..first.clone() },
        ActionEvent { message: Some(Message { tool_calls: 2, ..message }), ..first.clone() },
        ActionEvent { message: Some(Message { content: None, ..message }), ..first.clone() },
        ActionEvent {
            message: Some(Message { content: Some(payload(b"more")), ..message }),
            ..first.clone()
        },
        ActionEvent { tool: None, ..first.clone() },
        ActionEvent { tool: Some(ToolCall { name: "u", ..tool }), ..first.clone() },
        ActionEvent { tool: Some(ToolCall { call_id: "d", ..tool }), ..first.clone() },
        ActionEvent { tool: Some(ToolCall { arguments: payload(b"[]"), ..tool }), ..first.clone() },
        ActionEvent { tool: Some(ToolCall { definition: Some(Digest::of(b"1")), ..tool }), ..first.clone() },
        ActionEvent { tool: Some(ToolCall { definition: Some(Digest::of(b"2")), ..tool }), ..first.clone() },
        ActionEvent { result: None, ..first.clone() },
        ActionEvent { result: Some(ToolResult { call_id: "d", ..result }), ..first.clone() },
        ActionEvent { result: Some(ToolResult { name: Some(""), ..result }), ..first.clone() },
        ActionEvent { result: Some(ToolResult { is_error: Some(false), ..result }), ..first.clone() },
        ActionEvent { result: Some(ToolResult { is_error: Some(true), ..result }), ..first.clone() },
        ActionEvent { result: Some(ToolResult { content: payload(b"{}"), ..result }), ..first.clone() },
        // The same bytes with another boundary between fields.
        ActionEvent { tool: Some(ToolCall { name: "tc", call_id: "", ..tool }), ..first.clone() },
        // Other bytes under the same claimed digest.
        ActionEvent {
            tool: Some(ToolCall { arguments: Payload { data: b"{ }", ..tool.arguments }, ..tool }),
            ..first.clone()
        },
    ];
    let mut session = Session::new();
    assert_eq!(findings(&mut session, &first), Some(vec![]));
    for (at, other) in others.iter().enumerate() {
        assert_eq!(findings(&mut session, other), Some(vec![RecordFinding::SequenceReused]), "{at}");
    }
    // Each event is a repeat now, including the first.
    for event in others.iter().chain([&first]) {
        assert_eq!(findings(&mut session, event), None);
    }
}

#[test]
fn event_that_differs_in_other_fields_is_a_repeat() {
    let first = event("p", 7);
    let tool = first.tool.unwrap();
    let claims = Payload { sha256: Digest::of(b"lie"), media_type: "", redacted: true, ..tool.arguments };
    let mut session = Session::new();
    assert_eq!(findings(&mut session, &first), Some(vec![]));
    for again in [
        first.clone(),
        ActionEvent { occurred_at: Micros(2), ..first.clone() },
        ActionEvent { session_label: Some("7/0"), ..first.clone() },
        ActionEvent { trace: Some(Trace { trace_id: "0", span_id: "0" }), ..first.clone() },
        ActionEvent { tool: Some(ToolCall { arguments: claims, ..tool }), ..first.clone() },
    ] {
        assert_eq!(findings(&mut session, &again), None);
    }
    assert_eq!(session.check_sequence(&first).highest_if_repeat, Some(7));
    assert_eq!(session.events(), 1);
}

#[test]
fn event_with_any_new_number_is_applied() {
    let mut session = Session::new();
    let steps: [(&str, i64, Option<Vec<RecordFinding>>); 11] = [
        ("p", i64::MAX, Some(vec![])),
        ("p", 0, Some(vec![RecordFinding::OutOfOrder])),
        ("p", 1, Some(vec![RecordFinding::OutOfOrder])),
        ("p", 1, None),
        ("q", 1, Some(vec![])),
        ("q", 5, Some(vec![])),
        ("q", 3, Some(vec![RecordFinding::OutOfOrder])),
        ("q", -1, Some(vec![RecordFinding::NegativeSequence, RecordFinding::OutOfOrder])),
        ("q", -1, None),
        ("r", i64::MIN, Some(vec![RecordFinding::NegativeSequence])),
        ("p", i64::MAX, None),
    ];
    for (id, sequence, expected) in steps {
        assert_eq!(findings(&mut session, &bare(id, sequence)), expected, "{id} {sequence}");
    }
}

#[test]
fn event_beyond_the_limits_is_applied_with_a_finding() {
    let mut session = Session::new();
    for sequence in 0..MAX_NUMBERS {
        assert_eq!(findings(&mut session, &bare("p", sequence)), Some(vec![]));
    }
    let limit = || Some(vec![RecordFinding::SequenceLimit]);
    for _ in 0..2 {
        assert_eq!(findings(&mut session, &bare("p", MAX_NUMBERS)), limit());
    }
    assert_eq!(findings(&mut session, &bare("q", 0)), limit());
    assert_eq!(findings(&mut session, &bare("p", 17)), None, "stored numbers are still recognised");
    let other = ActionEvent { event_id: "f", ..bare("p", 17) };
    let both = vec![RecordFinding::SequenceReused, RecordFinding::SequenceLimit];
    assert_eq!(findings(&mut session, &other), Some(both));
    assert_eq!(session.header().sources.len(), 1);

    let ids: Vec<String> = (0..65).map(|i| format!("p{i}")).collect();
    let mut session = Session::new();
    for (at, id) in ids.iter().enumerate() {
        let event = ActionEvent { source: Source { id, sequence: 0 }, ..bare("", 0) };
        assert_eq!(findings(&mut session, &event), Some(vec![RecordFinding::SequenceLimit; at / 64]), "{id}");
        assert_eq!(findings(&mut session, &event), if at < 64 { None } else { limit() }, "{id}");
    }
}

/// Restores a header of a version that did not keep numbers.
#[test]
fn number_seen_by_an_older_version_is_applied_with_a_finding() {
    let mut session = Session::new();
    let sources =
        vec![SourceSequence { id: "p", sequence: 9, recent: b"", blocks: 0, unknown_through: None }];
    let header = SessionHeader { events: 10, sources, ..Session::new().header() };
    session.restore_header(&header).unwrap();
    let unknown = || Some(vec![RecordFinding::SequenceUnknown]);
    let steps =
        [(9, unknown()), (9, None), (10, Some(vec![])), (4, unknown()), (4, None), (12, Some(vec![]))];
    for (sequence, expected) in steps {
        assert_eq!(findings(&mut session, &bare("p", sequence)), expected, "{sequence}");
        // The outcome does not depend on restarts.
        let mut again = Session::new();
        again.restore_header(&session.header()).unwrap();
        assert_eq!(again.header(), session.header());
        session = again;
    }
    assert_eq!(findings(&mut session, &bare("p", 11)), Some(vec![RecordFinding::OutOfOrder]));
    assert_eq!(findings(&mut session, &bare("p", 0)), unknown());
}

/// A source of an older version has no numbers in a full session. A restart must restore exactly that.
#[test]
fn full_session_of_an_older_version_is_the_same_after_a_restart() {
    let mut session = Session::new();
    let sources =
        vec![SourceSequence { id: "old", sequence: 4, recent: b"", blocks: 0, unknown_through: None }];
    session.restore_header(&SessionHeader { events: 5, sources, ..Session::new().header() }).unwrap();
    for sequence in 0..MAX_NUMBERS {
        findings(&mut session, &bare("new", sequence));
    }
    let limit = RecordFinding::SequenceLimit;
    assert_eq!(findings(&mut session, &bare("old", 100)), Some(vec![limit]));
    let mut restored = Session::new();
    restored.restore_header(&session.header()).unwrap();
    for change in session.tombstones() {
        if let Change::NumbersRemoved { source, block } = change {
            restored.restore_numbers(&session.numbers(&source, block).unwrap()).unwrap();
        }
    }
    assert_eq!(restored.header(), session.header());
    for session in [&mut session, &mut restored] {
        let expected = Some(vec![RecordFinding::OutOfOrder, limit]);
        assert_eq!(findings(session, &bare("old", 50)), expected);
        let expected = Some(vec![RecordFinding::SequenceUnknown, limit]);
        assert_eq!(findings(session, &bare("old", 4)), expected);
    }
}

#[test]
fn restore_of_an_invalid_block_is_an_error() {
    let mut session = Session::new();
    let numbers = [0; 24 * 16];
    for (block, numbers) in
        [(-1, &numbers[..]), (4096, &numbers), (0, &numbers[1..]), (0, &numbers[24..]), (0, b"")]
    {
        let numbers = agentgov_schemas::state::Numbers { source: "p", block, numbers };
        assert!(session.restore_numbers(&numbers).is_err());
    }
    assert!(session.header().sources.is_empty());
}

/// Blocks of the changelog, by source and index.
type Changelog = BTreeMap<(String, i32), Vec<u8>>;

fn write_blocks(changelog: &mut Changelog, session: &Session, changes: &[Change]) {
    for change in changes {
        if let Change::Numbers { source, block } = change {
            let numbers = session.numbers(source, *block).unwrap().numbers.to_vec();
            assert_eq!(changelog.insert((source.clone(), *block), numbers), None, "written once");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compares a session, restored from its changelog at random points and in any order of entries, with a set.
    #[test]
    fn check_agrees_with_a_set_of_all_events(
        steps in prop::collection::vec((0..2_usize, prop_oneof![Just(1_i64), -20..20_i64], 0..3_usize, any::<bool>()), 0..150),
        entries_first in any::<bool>(),
    ) {
        let (mut session, mut changelog) = (Session::new(), Changelog::new());
        let mut seen: [BTreeSet<(i64, usize)>; 2] = Default::default();
        let mut last = [0, 0];
        for (at, jump, content, restart) in steps {
            last[at] += jump;
            let sequence = last[at];
            let event = ActionEvent { event_id: ["a", "b", "c"][content], ..bare(["p", "q"][at], sequence) };
            let highest = seen[at].last().map(|(number, _)| *number);
            let expected = if seen[at].contains(&(sequence, content)) {
                None
            } else {
                let negative = (sequence < 0).then_some(RecordFinding::NegativeSequence);
                let order = if seen[at].iter().any(|(number, _)| *number == sequence) {
                    Some(RecordFinding::SequenceReused)
                } else {
                    highest.filter(|highest| sequence < *highest).map(|_| RecordFinding::OutOfOrder)
                };
                Some(negative.into_iter().chain(order).collect::<Vec<_>>())
            };
            let found = step(&mut session, &event);
            prop_assert_eq!(found.as_ref().map(|(findings, _)| findings), expected.as_ref(), "{} {}", at, sequence);
            write_blocks(&mut changelog, &session, &found.map(|(_, changes)| changes).unwrap_or_default());
            seen[at].insert((sequence, content));
            if restart {
                let mut restored = Session::new();
                if !entries_first {
                    restored.restore_header(&session.header()).unwrap();
                }
                for ((source, block), numbers) in &changelog {
                    let numbers = agentgov_schemas::state::Numbers { source, block: *block, numbers };
                    restored.restore_numbers(&numbers).unwrap();
                }
                restored.restore_header(&session.header()).unwrap();
                prop_assert_eq!(restored.header(), session.header());
                let gone = restored.tombstones();
                prop_assert_eq!(&gone, &session.tombstones());
                prop_assert_eq!(gone.len(), changelog.len(), "each block has a tombstone");
                session = restored;
            }
        }
    }
}

/// Restoring such a header with defaults would lose numbers, and a repeat would count as a new event.
#[test]
fn restore_of_an_invalid_header_or_tombstone_is_an_error() {
    let source = SourceSequence { id: "p", sequence: 9, recent: b"", blocks: 0, unknown_through: None };
    let many = [0; 17 * 24];
    for wrong in [
        SourceSequence { blocks: -1, ..source },
        SourceSequence { blocks: 4096, ..source },
        SourceSequence { recent: &[0; 23], ..source },
        SourceSequence { recent: &many, ..source },
    ] {
        let header = SessionHeader { sources: vec![wrong], ..Session::new().header() };
        let error = Session::new().restore_header(&header).unwrap_err();
        assert!(matches!(error, InvalidEntry::Source { .. }), "{error}");
    }
    assert!(Session::new().restore_numbers_tombstone("p", -1).is_err());
    assert!(Session::new().restore_numbers_tombstone("p", 4096).is_err());
    assert!(Session::new().restore_numbers_tombstone("p", 4095).is_ok());
}
