//! Tests of the events of a line, and of the messages about an invalid one.

use agentgov_schemas::{Digest, Micros, catalogue};
use proptest::prelude::*;

use super::*;
use crate::ImportedSession;

mod dialects;

/// Small invented run: a system prompt, text beside calls, a call id used twice, broken arguments, a result without a
/// call, parts, blank text.
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
        label: None,
        skip_bad: false,
    }
}

fn problems(text: &[u8]) -> Vec<String> {
    match parse("runs.jsonl", text, options()) {
        Err(ImportError::Problems(problems)) => problems.lines(),
        other => panic!("{other:?}"),
    }
}

fn sessions<'i>(import: &'i Import<'_>) -> Vec<ImportedSession<'i>> {
    import.sessions().map(Result::unwrap).collect()
}

/// Returns the events of a file's only run, one line each with type and content. Omits the first and the last event.
fn story(file: &str) -> Vec<String> {
    let import = parse("f", file.as_bytes(), options()).unwrap();
    let sessions = sessions(&import);
    let [session] = sessions.as_slice() else { panic!("{} sessions", sessions.len()) };
    let events = session.events();
    let lines = events.iter().map(|event| {
        let text = |content: agentgov_sdk::Content<'_>| String::from_utf8_lossy(content.data).into_owned();
        let content = event.message.and_then(|message| message.content).map(text);
        let called =
            event.tool.map(|tool| format!("{}#{} {}", tool.name, tool.call_id, text(tool.arguments)));
        let answered = event.result.map(|result| {
            let is_error = if result.is_error == Some(true) { " failed" } else { "" };
            format!(
                "{}#{}{is_error} {}",
                result.name.unwrap_or_default(),
                result.call_id,
                text(result.content)
            )
        });
        let content = content.or(called).or(answered).unwrap_or_default();
        format!("{} {content}", event.r#type)
    });
    lines.filter(|line| !line.starts_with("session.")).collect()
}

fn notes(file: &str) -> Vec<String> {
    parse("f", file.as_bytes(), options()).unwrap().notes().lines()
}

/// Renders an event in one line.
fn event_line(event: &agentgov_sdk::Event<'_>) -> String {
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
fn run_becomes_events() {
    let import = parse("runs.jsonl", RUN.as_bytes(), options()).unwrap();
    assert_eq!(import.summary(), Summary { sessions: 1, events: 10, tool_calls: 2 });
    let session = &sessions(&import)[0];
    assert_eq!(session.label(), "7/b");
    let events = session.events();
    let lines: Vec<String> = events.iter().map(event_line).collect();
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
fn ids_depend_on_file_and_options_only() {
    let file = format!("{RUN}\n\n{RUN}\r\n");
    let ids = |options: ImportOptions| {
        let import = parse("any name", file.as_bytes(), options).unwrap();
        let mut ids = vec![import.source_id()];
        for session in sessions(&import) {
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
fn missing_start_time_is_the_current_time() {
    let import = parse("f", RUN.as_bytes(), ImportOptions { start_time: None, ..options() }).unwrap();
    assert_eq!(sessions(&import)[0].events()[0].occurred_at, Some(Micros(5)));
}

#[test]
fn each_mistake_is_reported() {
    let with = |message: &str| format!(r#"{{"task_id":1,"trial":0,"messages":[{message}]}}"#);
    let call = |call: &str| with(&format!(r#"{{"role":"assistant","tool_calls":[{call}]}}"#));
    let user = |content: &str| with(&format!(r#"{{"role":"user","content":{content}}}"#));
    let text = "a string, null, or an array of parts";
    let roles = "user, assistant, system, developer, tool or function";
    let run = "expected an object with messages (as messages, traj, conversation, trajectory)";
    for (line, expected) in [
        (
            "{".to_owned(),
            "expected the end of the value that begins here, found the end of the file: is it cut off?"
                .to_owned(),
        ),
        (
            r#"{"a":1,}"#.into(),
            "expected JSON, found `}`, where a key in double quotes is due, at column 8".into(),
        ),
        (
            "[]".into(),
            "expected an object with messages, or an array of messages, found an array of 0".into(),
        ),
        (
            "[3]".into(),
            "expected an object with messages, or an array of messages, found an array of 1".into(),
        ),
        ("3".into(), r#"expected runs as JSON, found text that begins with "3""#.into()),
        ("{}".into(), format!("{run}, found no fields")),
        (r#"{"task_id":1,"b":{}}"#.into(), format!("{run}, found the fields task_id, b")),
        (
            r#"{"request":{"messages":[]}}"#.into(),
            format!(
                "{run}, found the fields request; request.messages looks like messages: if each is a whole run, write them out, e.g. jq -c .request"
            ),
        ),
        (
            r#"{"request":{"messages":[]},"response":{"choices":[{"message":{"role":"assistant"}}]}}"#.into(),
            format!(
                "{run}, found the fields request, response; request.messages looks like messages and response.choices[0].message like \
                 the reply to them: write both out as one run, e.g. jq -c '{{messages: (.request.messages + \
                 [.response.choices[0].message])}}'"
            ),
        ),
        (
            r#"{"input":{"messages":[]},"output":{"role":"assistant","content":[]}}"#.into(),
            format!(
                "{run}, found the fields input, output; input.messages looks like messages and output like the reply to them: write \
                 both out as one run, e.g. jq -c '{{messages: (.input.messages + [.output])}}'"
            ),
        ),
        (
            r#"{"custom_id":"r-1","response":{"body":{"choices":[{"message":{"role":"assistant"}}]}}}"#
                .into(),
            format!(
                "{run}, found the fields custom_id, response; response.body.choices[0].message looks like a model's reply without the \
                 messages before it: put it behind the messages of its request (of a batch: the line of the input file with the same \
                 custom_id); if the replies alone are the runs, write them out, e.g. jq -c '{{messages: \
                 [.response.body.choices[0].message]}}'"
            ),
        ),
        (
            r#"{"custom_id":"r-1","body":{"messages":[]}}"#.into(),
            format!(
                "{run}, found the fields custom_id, body; body.messages looks like messages: if each is a whole run, write them out, \
                 e.g. jq -c .body"
            ),
        ),
        (
            r#"{"a":[{"messages":[]}],"b":[{"messages":[]}]}"#.into(),
            "expected one array of runs, found two: a and b".into(),
        ),
        (
            r#"[{"messages":[]},5]"#.into(),
            "[1]: expected an object with messages, or an array of messages, found 5".into(),
        ),
        (r#"{"messages":{}}"#.into(), "messages: expected an array, found an object".into()),
        (
            r#"{"user_id":[],"messages":[]}"#.into(),
            "user_id: expected a string or a number, found an array of 0".into(),
        ),
        (with("7"), "messages[0]: expected an object, found 7".into()),
        (with("{}"), format!("messages[0].role: expected {roles}, found nothing")),
        (with(r#"{"role":"robot"}"#), format!(r#"messages[0].role: expected {roles}, found "robot""#)),
        (
            format!(r#"{{"runs":[{{"messages":[]}},{}]}}"#, with("{}")),
            format!("runs[1].messages[0].role: expected {roles}, found nothing"),
        ),
        (user("5"), format!("messages[0].content: expected {text}, found 5")),
        (user(r#"{"a":1}"#), format!("messages[0].content: expected {text}, found an object")),
        (user("[5]"), "messages[0].content[0]: expected a part: an object or a string, found 5".into()),
        (
            with(r#"{"role":"assistant","tool_calls":{}}"#),
            "messages[0].tool_calls: expected an array or null, found an object".into(),
        ),
        (
            with(r#"{"role":"assistant","function_call":{"arguments":"{}"}}"#),
            "messages[0].function_call.name: expected a non-empty string, found nothing".into(),
        ),
        (
            call(r#"{"id":"c","function":{"name":"","arguments":""}}"#),
            r#"messages[0].tool_calls[0].function.name: expected a non-empty string, found """#.into(),
        ),
        (call("5"), "messages[0].tool_calls[0]: expected an object, found 5".into()),
        (
            call(r#"{"name":null}"#),
            "messages[0].tool_calls[0].name: expected a non-empty string, found null".into(),
        ),
    ] {
        assert_eq!(problems(line.as_bytes()), [format!("runs.jsonl:1: {expected}")], "{line}");
    }
}

#[test]
fn bad_lines_are_all_reported() {
    let mut file = format!("{RUN}\n\n{{}}\n").into_bytes();
    file.extend(b"{\"task_id\":\"\xff\"}\n");
    file.extend(RUN.as_bytes());
    let found = problems(&file);
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("runs.jsonl:3: expected an object with messages"), "{found:?}");
    assert_eq!(found[1], "runs.jsonl:4: expected UTF-8, found byte 0xff at column 13");
    for empty in ["", "\n \n", "\u{feff}"] {
        assert_eq!(
            problems(empty.as_bytes()),
            ["runs.jsonl:1: expected a recorded run a line, found an empty file"]
        );
    }
}

#[test]
fn at_most_twenty_problems_are_shown_and_the_rest_counted() {
    let found = problems("{\"a\":1}\n".repeat(500).as_bytes());
    assert_eq!((found.len(), found[20].as_str()), (21, "and 480 more"));
    assert!(found[19].starts_with("runs.jsonl:20: "));
}

#[test]
fn file_of_another_format_is_one_problem() {
    let utf16: Vec<u8> = format!("{RUN}\n{RUN}\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, expected) in [
        (utf16, "UTF-16"),
        (b"PK\x03\x04\n\n\n".to_vec(), "zip"),
        (b"<html>\n<body>\n".to_vec(), "HTML"),
        (b"dear diary\ntoday\n".to_vec(), "dear diary"),
        (b"{\n \"a\": [\n  1\n ]\n}\n".to_vec(), "the fields a"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "gzip that is damaged"),
    ] {
        let found = problems(&bytes);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{found:?}, not {expected}");
    }
}

#[test]
fn skip_bad_imports_the_good_runs() {
    let good = r#"{"task_id":"a","messages":[{"role":"user","content":"x"}]}"#;
    let file = format!("{good}\nnonsense\n[{good},{{}},{good}]\n{{\"cut\n{good}");
    fn read(file: &str, skip_bad: bool) -> Result<Import<'_>, ImportError> {
        parse("f", file.as_bytes(), ImportOptions { skip_bad, ..options() })
    }
    assert!(read(&file, false).is_err());
    let import = read(&file, true).unwrap();
    let left_out: Vec<_> = import.left_out().iter().map(ToString::to_string).collect();
    assert_eq!(left_out, ["2", "3.2", "4"]);
    assert_eq!((import.problems().count(), import.summary().sessions), (3, 4));
    let places: Vec<_> = sessions(&import).iter().map(|session| session.place().to_string()).collect();
    assert_eq!(places, ["1", "3", "3.3", "5"]);

    // No run is left out, so the import equals one without the option.
    let (with, without) = (read(good, true).unwrap(), read(good, false).unwrap());
    assert_eq!(with.source_id(), without.source_id());
    assert!(read("{}\n{}", true).is_err(), "nothing is left to import");
}

/// Files that the first version could import keep the ids of that version.
#[test]
fn ids_of_the_first_version_are_kept() {
    let import = parse("f", RUN.as_bytes(), options()).unwrap();
    assert_eq!(import.source_id(), "import-e484e8fd-8c03-86fa-a5ca-7eb3a68aac15");
    let session = &sessions(&import)[0];
    assert_eq!(session.session_id(), "11f22d36-eeba-8664-9232-e097bab5d508");
    let ids: Vec<_> = session.events().iter().map(|event| event.event_id.unwrap().to_string()).collect();
    assert_eq!(
        (ids[0].as_str(), ids[9].as_str()),
        ("b3b410cd-ea28-8e4a-9a4b-65785eaca84a", "895a6b38-c8b8-8b59-9a6b-8daf0c656a06")
    );
}

/// A file with content that the first version dropped gets other ids. With the same ids its new events would count as
/// repeats of the events of that version.
#[test]
fn content_the_first_version_dropped_changes_the_ids() {
    let with = |field: &str| {
        format!(r#"{{"task_id":1,"trial":0,"messages":[{{"role":"assistant","content":"x"{field}}}]}}"#)
    };
    let reading = |file: &str| parse("f", file.as_bytes(), options()).unwrap().reading();
    assert_eq!(reading(&with("")), FIRST_READING);
    assert_eq!(reading(&with(r#","refusal":"no""#)), READING);
    assert_eq!(reading(&with(r#","refusal":null,"audio":null"#)), FIRST_READING);
    let answer = |field: &str| format!(r#"[{{"role":"tool","tool_call_id":"c","content":"x"{field}}}]"#);
    assert_eq!(reading(&answer(r#","error":true"#)), READING);
    assert_eq!(reading(&answer(r#","error":null"#)), FIRST_READING);
}

#[test]
fn refusal_and_audio_are_output_to_the_person() {
    let file = r#"{"messages":[
        {"role":"assistant","content":null,"refusal":"I cannot."},
        {"role":"assistant","content":"Look.","refusal":"But no."},
        {"role":"assistant","content":null,"audio":{"id":"a","data":"UklG","transcript":"Your money comes."}},
        {"role":"assistant","content":[{"type":"refusal","refusal":"Never."}]},
        {"role":"assistant","content":null,"audio":{"id":"a","data":"UklG"}},
        {"role":"assistant","content":null,"refusal":"","audio":{"id":"earlier"}}]}"#;
    let placeholder = format!("[audio, 3 bytes, sha256:{}]", Digest::of(b"RIF"));
    let expected = ["I cannot.", "Look.", "But no.", "Your money comes.", "Never.", placeholder.as_str()];
    assert_eq!(story(file), expected.map(|text| format!("output.displayed {text}")));
    let import = parse("f", file.as_bytes(), options()).unwrap();
    let session = &sessions(&import)[0];
    assert!(session.events().iter().filter_map(|event| event.message).all(|message| message.has_text));
}

#[test]
fn fields_not_imported_are_counted() {
    let file = r#"{"messages":[
        {"role":"assistant","content":"a","reasoning_content":"hm","annotations":[],"logprobs":null,"weight":1},
        {"role":"assistant","content":[{"type":"thinking","thinking":"hm"},{"type":"sound","x":1}],"reasoning_content":"hm"},
        {"role":"user","content":"cut \ud83d","content":"cut \udc00","tool_calls":[{"name":"t"}]}]}"#;
    assert_eq!(
        notes(file),
        [
            "lone surrogate, imported as U+FFFD: once, at line 1, messages[2].content",
            "messages[].content stands there more than once, so the last is imported: once, at line 1, messages[2]",
            "messages[].content[] of type sound is imported as its digest: once, at line 1, messages[1].content[1]",
            "messages[].content[] of type thinking or reasoning is not imported: once, at line 1, messages[1].content[0]",
            "messages[].reasoning_content is not imported: 2 times, first at line 1, messages[0]",
            "messages[].tool_calls is not imported: once, at line 1, messages[2]",
        ]
    );
    assert_eq!(notes(RUN), ["field reward beside the messages is not imported: once, at line 1"]);
    let file = r#"{"foo":1,"messages":[{"role":"user","content":[{"type":"text","text":"a","lang":"de"}],"unk":3,"flag":false},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","function":{"name":"t","arguments":"{}","strict":true},"note":"x"}]}],
        "bar":[],"user_id":"u","metadata":{"a":1}}"#;
    assert_eq!(
        notes(file),
        [
            "field foo beside the messages is not imported: once, at line 1",
            "field metadata beside the messages is not imported: once, at line 1",
            "messages[].content[].lang is not imported: once, at line 1, messages[0].content[0]",
            "messages[].flag is not imported: once, at line 1, messages[0]",
            "messages[].tool_calls[].note is not imported: once, at line 1, messages[1].tool_calls[0]",
            "messages[].tool_calls[].strict is not imported: once, at line 1, messages[1].tool_calls[0]",
            "messages[].unk is not imported: once, at line 1, messages[0]",
        ]
    );
    // The label is read.
    let labelled = |label: &str| {
        let options = ImportOptions { label: Some(label.into()), ..options() };
        parse("f", br#"{"meta":{"id":"x"},"messages":[]}"#, options).unwrap().notes().lines()
    };
    assert!(labelled("meta.id").is_empty());
}

#[test]
fn lone_surrogates_are_noted_wherever_they_are() {
    let call = |id: &str, name: &str, arguments: &str| {
        format!(r#"{{"id":{id},"function":{{"name":{name},"arguments":{arguments}}}}}"#)
    };
    let lone = r#""\ud83d""#;
    let calls = [
        call(lone, lone, r#"{"a":"\ud83d"}"#),
        call(r#""c""#, r#""t""#, r#""{\"a\":\"\\udc00\"}""#),
        call(r#""d""#, r#""t""#, r#"{"a":"\ud83d\ude00"}"#),
    ];
    let file = format!(
        r#"{{"user_id":{lone},"messages":[
        {{"role":"assistant","tool_calls":[{}]}},
        {{"role":"tool","tool_call_id":{lone},"content":{{"a":{lone}}}}},
        {{"role":"user","content":{lone}}}]}}"#,
        calls.join(",")
    );
    assert_eq!(
        notes(&file),
        [
            "lone surrogate in JSON, imported as it is written; policies read U+FFFD: 3 times, first at line 1, messages[0].tool_calls[0].arguments",
            "lone surrogate, imported as U+FFFD: 5 times, first at line 1, user_id",
        ]
    );
}

#[test]
fn repeated_list_of_messages_is_noted() {
    let file = r#"[{"messages":[{"role":"user","content":"first"}],"messages":[{"role":"user","content":"last"}]},
        {"traj":[{"role":"user","content":"a"}],"traj":[{"role":"user","content":"b"}]}]"#;
    assert_eq!(
        notes(file),
        [
            "messages stands there more than once, so the last is imported: once, at line 1",
            "traj stands there more than once, so the last is imported: once, at line 2",
        ]
    );
    let file =
        r#"{"messages":[{"role":"user","content":"first"}],"messages":[{"role":"user","content":"last"}]}"#;
    assert_eq!(story(file), ["user.input last"]);
}

/// A name in the file may have any length; a message that quotes it is bounded.
#[test]
fn long_names_are_truncated_in_messages() {
    let long = "é".repeat(100_000);
    let listed = format!(r#"{{"{long}":[[{{"role":"x"}}]]}}"#);
    let run = format!(r#"[{{"role":"user","content":[{{"type":"{long}"}}],"{long}":"x"}}]"#);
    let cut = "é".repeat(40) + "…";
    assert_eq!(
        notes(&run),
        [
            format!(
                "messages[].content[] of type {cut} is imported as its digest: once, at line 1, [0].content[0]"
            ),
            format!("messages[].{cut} is not imported: once, at line 1, [0]"),
        ]
    );
    let two = format!(r#"{{"{long}":[[{{"role":"x"}}]],"{long}b":[[{{"role":"x"}}]]}}"#);
    let within = format!(r#"{{"{long}":{{"messages":[]}}}}"#);
    for file in [listed, two, within] {
        let found = problems(file.as_bytes());
        assert!(
            found.iter().all(|problem| problem.contains(&cut) && problem.len() < 1000),
            "{}",
            found[0].len()
        );
    }
}

#[test]
fn optional_fields_may_be_missing() {
    let run = r#"{"task_id":"t","trial":1,"user_id":null,"messages":[],"more":{}}"#;
    let import = parse("f", run.as_bytes(), options()).unwrap();
    assert_eq!(import.summary(), Summary { sessions: 1, events: 2, tool_calls: 0 });
    assert_eq!(sessions(&import)[0].events()[0].actor, None);
}

#[test]
fn recorded_runs_are_imported() {
    let Some(runs) = agentgov_test_support::shared("airline-agent-runs/runs.jsonl") else { return };
    let bytes = std::fs::read(runs).unwrap();
    let import = parse("runs.jsonl", &bytes, options()).unwrap();
    let summary = import.summary();
    assert_eq!((summary.sessions, summary.tool_calls), (100, 621));
    let events: usize = sessions(&import).iter().map(|session| session.events().len()).sum();
    assert_eq!(events as u64, summary.events);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        let _ = parse("f", &bytes, options());
    }

    /// A good file with a few bytes changed: an import or problems with their lines, never a panic.
    #[test]
    fn damaged_file_is_an_import_or_problems_with_lines(changes in prop::collection::vec((0..RUN.len(), any::<u8>()), 1..6)) {
        let mut bytes = RUN.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        match parse("f", &bytes, options()) {
            Ok(import) => prop_assert!(import.sessions().count() as u64 == import.summary().sessions),
            Err(ImportError::Problems(problems)) => {
                prop_assert!(!problems.is_empty() && problems.iter().all(|problem| problem.line > 0));
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
