//! What is read of a line, and what is said of a bad one.

use std::path::Path;

use agentgov_schemas::{Micros, catalogue};
use proptest::prelude::*;

use super::*;

/// A small run, invented: a system prompt, text beside calls, a call id used twice, broken arguments, a result that
/// nobody asked for, parts, blank text.
const RUN: &str = concat!(
    r#"{"task_id":7,"trial":"b","user_id":"ada_1","reward":0.5,"messages":["#,
    r#"{"role":"system","content":"be kind"},"#,
    r#"{"role":"user","content":[{"type":"text","text":"book "},{"type":"text","text":"it"}]},"#,
    r#"{"role":"assistant","content":"one moment","tool_calls":["#,
    r#"{"id":"c","type":"function","function":{"name":"find","arguments":"{\"a\" :  1.0}"}},"#,
    r#"{"id":"c","type":"function","function":{"name":"book","arguments":"{oops"}}]},"#,
    r#"{"role":"tool","tool_call_id":"c","name":"find","content":"[1]"},"#,
    r#"{"role":"tool","tool_call_id":"never","content":null},"#,
    r#"{"role":"assistant","content":" \n","tool_calls":null},"#,
    r#"{"role":"assistant","content":"done é"}]}"#
);

fn options() -> ImportOptions {
    ImportOptions {
        tenant_id: "acme".into(),
        environment: "test".into(),
        agent_id: "agent".into(),
        agent_version: None,
        start_time: Some(Micros(1_000_000)),
        now: Micros(5),
    }
}

fn problems(text: &[u8]) -> Vec<String> {
    parse("runs.jsonl", text, options()).unwrap_err().iter().map(ToString::to_string).collect()
}

/// One event in one line.
fn told(event: &agentgov_sdk::Event<'_>) -> String {
    let text = |content: agentgov_sdk::Content<'_>| {
        format!("{:?} ({})", String::from_utf8_lossy(content.data), content.media_type)
    };
    let mut line = format!("{}s {}", event.occurred_at.unwrap().0 / 1_000_000, event.r#type);
    if let Some(message) = event.message {
        let content = message.content.map_or("-".into(), text);
        line += &format!(
            " {} {} text={} calls={} {content}",
            message.id, message.role, message.has_text, message.tool_calls
        );
    }
    if let Some(tool) = event.tool {
        line += &format!(" {}#{} {}", tool.name, tool.call_id, text(tool.arguments));
    }
    if let Some(result) = event.result {
        line +=
            &format!(" {:?}#{} {:?} {}", result.name, result.call_id, result.is_error, text(result.content));
    }
    line
}

#[test]
fn a_run_becomes_events() {
    let import = parse("runs.jsonl", RUN.as_bytes(), options()).unwrap();
    assert_eq!(import.summary(), Summary { sessions: 1, events: 10, tool_calls: 2 });
    let session = import.sessions().next().unwrap();
    assert_eq!(session.label(), "7/b");
    let events = session.events();
    let lines: Vec<String> = events.iter().map(told).collect();
    assert_eq!(
        lines,
        [
            "1s session.started",
            r#"1s llm.input_sent m0 system text=true calls=0 "be kind" (text/plain; charset=utf-8)"#,
            r#"2s user.input m1 user text=true calls=0 "book it" (text/plain; charset=utf-8)"#,
            r#"3s output.displayed m2 assistant text=true calls=2 "one moment" (text/plain; charset=utf-8)"#,
            r#"3s tool.invoked m2 assistant text=true calls=2 - find#c "{\"a\" :  1.0}" (application/json)"#,
            r#"3s tool.invoked m2 assistant text=true calls=2 - book#c "{oops" (application/json)"#,
            r#"4s tool.response_received Some("find")#c None "[1]" (application/json)"#,
            r#"5s tool.response_received None#never None "" (text/plain; charset=utf-8)"#,
            r#"7s output.displayed m6 assistant text=true calls=0 "done é" (text/plain; charset=utf-8)"#,
            "8s session.ended",
        ]
    );
    for event in &events {
        assert_eq!(event.session_id, session.session_id());
        assert_eq!(event.session_label, Some("7/b"));
        assert_eq!(event.agent.id, "agent");
        let actor = event.actor.unwrap();
        assert_eq!((actor.id, actor.r#type), ("ada_1", "human"));
        assert!(catalogue::CATALOGUE.iter().any(|known| known.name == event.r#type));
    }
}

#[test]
fn ids_follow_from_file_and_options() {
    let file = format!("{RUN}\n\n{RUN}\r\n");
    let ids = |options: ImportOptions| {
        let import = parse("any name", file.as_bytes(), options).unwrap();
        let mut ids = vec![import.source_id()];
        for session in import.sessions() {
            ids.push(session.session_id().to_owned());
            ids.extend(session.events().iter().map(|event| event.event_id.unwrap().to_string()));
        }
        ids
    };
    let first = ids(options());
    assert_eq!(first.len(), 1 + 2 + 20);
    assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), first.len(), "all differ");
    assert!(first[1..].iter().all(|id| id.as_bytes()[14] == b'8'), "UUIDs of version 8");
    assert_eq!(
        ids(ImportOptions { now: Micros(99), ..options() }),
        first,
        "the clock of a second run is no part"
    );
    for other in [
        ImportOptions { tenant_id: "acme2".into(), ..options() },
        ImportOptions { environment: "prod".into(), ..options() },
        ImportOptions { agent_id: "agent2".into(), ..options() },
        ImportOptions { agent_version: Some("1".into()), ..options() },
        ImportOptions { start_time: None, ..options() },
        ImportOptions { start_time: Some(Micros(2)), ..options() },
    ] {
        assert!(ids(other.clone()).iter().all(|id| !first.contains(id)), "{other:?}");
    }
}

#[test]
fn without_a_start_time_the_clock_is_now() {
    let import = parse("f", RUN.as_bytes(), ImportOptions { start_time: None, ..options() }).unwrap();
    assert_eq!(import.sessions().next().unwrap().events()[0].occurred_at, Some(Micros(5)));
}

#[test]
fn every_mistake_is_named() {
    let with = |message: &str| format!(r#"{{"task_id":1,"trial":0,"messages":[{message}]}}"#);
    let call = |call: &str| with(&format!(r#"{{"role":"assistant","tool_calls":[{call}]}}"#));
    let user = |content: &str| with(&format!(r#"{{"role":"user","content":{content}}}"#));
    let name = "a non-empty string or an integer";
    let text = "a string, null, or an array of parts of type text";
    for (line, expected) in [
        (
            "{".to_owned(),
            "expected JSON, found a mistake at column 1: EOF while parsing an object".to_owned(),
        ),
        ("[]".into(), "expected an object with the run's fields, found an array of 0".into()),
        ("3".into(), "expected an object with the run's fields, found 3".into()),
        (r#"{"trial":0,"messages":[]}"#.into(), format!("task_id: expected {name}, found nothing")),
        (r#"{"task_id":1.5,"trial":0,"messages":[]}"#.into(), format!("task_id: expected {name}, found 1.5")),
        (r#"{"task_id":1,"trial":null,"messages":[]}"#.into(), format!("trial: expected {name}, found null")),
        (r#"{"task_id":1,"trial":0}"#.into(), "messages: expected an array, found nothing".into()),
        (
            r#"{"task_id":1,"trial":0,"messages":{}}"#.into(),
            "messages: expected an array, found an object".into(),
        ),
        (
            r#"{"task_id":1,"trial":0,"user_id":[],"messages":[]}"#.into(),
            format!("user_id: expected {name}, found an array of 0"),
        ),
        (with("7"), "messages[0]: expected an object, found 7".into()),
        (with("{}"), "messages[0].role: expected user, assistant, tool or system, found nothing".into()),
        (
            with(r#"{"role":"robot"}"#),
            r#"messages[0].role: expected user, assistant, tool or system, found "robot""#.into(),
        ),
        (user("5"), format!("messages[0].content: expected {text}, found 5")),
        (user(r#"["a"]"#), r#"messages[0].content[0]: expected a part of type text, found "a""#.into()),
        (
            user(r#"[{"type":"image_url","text":"x"}]"#),
            "messages[0].content[0]: expected a part of type text, found an object".into(),
        ),
        (
            with(r#"{"role":"tool"}"#),
            "messages[0].tool_call_id: expected a non-empty string, found nothing".into(),
        ),
        (
            with(r#"{"role":"tool","tool_call_id":"c","name":3}"#),
            "messages[0].name: expected a non-empty string, found 3".into(),
        ),
        (
            with(r#"{"role":"assistant","tool_calls":{}}"#),
            "messages[0].tool_calls: expected an array or null, found an object".into(),
        ),
        (
            with(r#"{"role":"assistant","function_call":{"name":"f"}}"#),
            "messages[0].function_call: expected calls in tool_calls, found an object".into(),
        ),
        (
            call(r#"{"function":{"name":"f","arguments":""}}"#),
            "messages[0].tool_calls[0].id: expected a non-empty string, found nothing".into(),
        ),
        (
            call(r#"{"id":"c","function":{"arguments":""}}"#),
            "messages[0].tool_calls[0].function.name: expected a non-empty string, found nothing".into(),
        ),
        (
            call(r#"{"id":"c","function":{"name":"f","arguments":{"a":1}}}"#),
            "messages[0].tool_calls[0].function.arguments: expected a string, found an object".into(),
        ),
    ] {
        assert_eq!(problems(line.as_bytes()), [format!("runs.jsonl:1: {expected}")], "{line}");
    }
}

#[test]
fn all_bad_lines_are_named_at_once() {
    let mut file = format!("{RUN}\n\n{{}}\n").into_bytes();
    file.extend(b"{\"task_id\":\"\xff\"}\n");
    file.extend(RUN.as_bytes());
    let found = problems(&file);
    assert_eq!(
        found,
        [
            "runs.jsonl:3: task_id: expected a non-empty string or an integer, found nothing",
            "runs.jsonl:3: trial: expected a non-empty string or an integer, found nothing",
            "runs.jsonl:3: messages: expected an array, found nothing",
            "runs.jsonl:4: expected UTF-8, found another byte at column 13",
        ]
    );
    for empty in ["", "\n \n"] {
        assert_eq!(
            problems(empty.as_bytes()),
            ["runs.jsonl:1: expected a recorded run a line, found an empty file"]
        );
    }
}

#[test]
fn what_may_be_missing() {
    let run = r#"{"task_id":"t","trial":1,"user_id":null,"messages":[],"more":{}}"#;
    let import = parse("f", run.as_bytes(), options()).unwrap();
    assert_eq!(import.summary(), Summary { sessions: 1, events: 2, tool_calls: 0 });
    assert_eq!(import.sessions().next().unwrap().events()[0].actor, None);
}

#[test]
fn the_recorded_runs() {
    let runs =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/airline-agent-runs/runs.jsonl");
    let Ok(bytes) = std::fs::read(runs) else { return };
    let import = parse("runs.jsonl", &bytes, options()).unwrap();
    let summary = import.summary();
    assert_eq!((summary.sessions, summary.tool_calls), (100, 621));
    let events: usize = import.sessions().map(|session| session.events().len()).sum();
    assert_eq!(events as u64, summary.events);
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        let _ = parse("f", &bytes, options());
    }

    /// A good file with a few bytes changed: an import or problems with their lines, never a panic.
    #[test]
    fn any_damage(changes in prop::collection::vec((0..RUN.len(), any::<u8>()), 1..6)) {
        let mut bytes = RUN.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        match parse("f", &bytes, options()) {
            Ok(import) => prop_assert!(import.sessions().count() as u64 == import.summary().sessions),
            Err(problems) => prop_assert!(problems.iter().all(|problem| problem.line > 0)),
        }
    }
}
