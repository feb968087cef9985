//! Tests of the statements of docs/QUERIES.md, with the document's values and with values of the sample runs.

use std::collections::BTreeMap;

use agentgov_policy::RULES_VERSION;
use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, Agent, Decision, Evaluation, Source};
use agentgov_sdk::{self as sdk, Content, Recorder, ToolCall, ToolResult};
use serde_json::Value;

use crate::actions::{Writer, answer, call, event, payload};
use crate::bundles::Folder;
use crate::checks;
use crate::decide::{Pdp, TOKEN, question};
use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, root, stack};

const TENANT: &str = "questions";

/// Question of the document: heading, statement, and initial values.
struct Question {
    heading: String,
    sql: String,
    values: BTreeMap<String, String>,
}

fn questions() -> Vec<Question> {
    let text = std::fs::read_to_string(root().join("docs/QUERIES.md")).unwrap();
    let sections = text.split("\n## ").skip(1);
    let questions: Vec<_> = sections
        .map(|section| {
            let heading = section.lines().next().unwrap().to_owned();
            let (_, sql) =
                section.split_once("```sql\n").unwrap_or_else(|| panic!("{heading}: no statement"));
            let (sql, rest) = sql.split_once("```").unwrap();
            assert!(!rest.contains("```sql"), "{heading}: one statement a question");
            let values = section.lines().find_map(|line| line.strip_prefix("**Try with** ")).unwrap();
            // `name=value` in backticks.
            let values = values.split('`').skip(1).step_by(2).map(|value| value.split_once('=').unwrap());
            let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Question { heading, sql: sql.to_owned(), values }
        })
        .collect();
    assert_eq!(questions.len(), text.matches("```sql").count());
    questions
}

/// Returns the statement of this number, which takes no values.
pub fn statement(number: &str) -> String {
    let of = |question: &Question| question.heading.starts_with(&format!("{number}."));
    questions().into_iter().find(of).unwrap().sql
}

#[test]
fn every_query_runs_and_the_samples_have_results() {
    let stack = stack();
    // Data: runs of a registered and of an unregistered agent, an undecodable record, and a bundle whose policies never
    // apply.
    let import = |agent| {
        let file = "examples/airline/runs.jsonl";
        let import = ["--json", "import", "chat-completions", file, "--tenant", TENANT, "--agent", agent];
        let summary = stack.run(&[&import[..], &["--environment", ENVIRONMENT]].concat());
        // One more for the event that closes the source.
        serde_json::from_str::<Value>(&summary).unwrap()["events"].as_i64().unwrap() + 1
    };
    let events = import(AGENT) + import("stranger");
    Writer::<ActionEvent<'static>>::new(stack).write(b"questions/unreadable", Some(b"no event"));
    stack.run(&["policy", "push", Folder::new("idle", "idle").name()]);
    checks::assert_complete(stack, TENANT, events);
    for there in ["bundles WHERE name = 'idle'", "rejects WHERE key = 'questions/unreadable'"] {
        stack.eventually(there, || stack.number(&format!("SELECT count() FROM {there}")) > 0);
    }
    let one = |what: &str, of: &str| {
        stack.rows(&format!("SELECT {what} FROM {of} AND tenant_id = '{TENANT}' LIMIT 1")).remove(0).remove(0)
    };
    let ours = BTreeMap::from([
        ("tenant", TENANT.to_owned()),
        ("environment", "idle".to_owned()),
        ("days", "1".to_owned()),
        ("seconds", "0".to_owned()),
        ("session", one("session_label", "actions WHERE type = 'tool.invoked'")),
        (
            "reservation",
            one(
                "JSONExtractString(arguments, 'reservation_id')",
                "actions WHERE JSONHas(arguments, 'reservation_id')",
            ),
        ),
        ("event", one("event_id", "verdicts WHERE decision = 'allow'")),
    ]);
    // A verdict and its basis are committed together, and inserted by writers of their own.
    stack.eventually("the basis of a verdict", || {
        let bases = answer_of("16", &[("tenant", TENANT), ("event", &ours["event"])]);
        bases.iter().any(|row| row["agrees"] == 1)
    });
    for Question { heading, sql, values } in questions() {
        let given: Vec<(&str, &str)> =
            values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        stack.sql_with(&sql, &given);
        let parameters: Vec<(&str, &str)> =
            values.keys().map(|name| (name.as_str(), ours[name.as_str()].as_str())).collect();
        let answer = stack.sql_with(&format!("{sql}FORMAT JSONEachRow"), &parameters);
        let rows: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let is_about_decisions = ["13", "15", "17", "18"].contains(&heading.split('.').next().unwrap());
        assert!(!rows.is_empty() || is_about_decisions, "{heading}\n{parameters:?}");
        // 64-bit offsets and counts may be strings.
        let zero = |value: &Value| value == "0" || value == 0;
        for row in &rows {
            match heading.split('.').next().unwrap() {
                "3" => assert!(row["arguments"].as_str().unwrap().contains(&ours["reservation"]), "{row}"),
                "5" => assert!([AGENT, "stranger"].contains(&row["agent_id"].as_str().unwrap()), "{row}"),
                "8" => assert!(zero(&row["missing"]) && zero(&row["doubled"]), "{row}"),
                "9" => assert!(zero(&row["missing"]) && zero(&row["sent_twice"]), "{row}"),
                "11" => assert_eq!(row["bundle_name"], "airline", "{row}"),
                "12" => assert_eq!(
                    (&row["agent_id"], &row["registered_as"]),
                    (&"stranger".into(), &"not registered".into())
                ),
                "16" => assert!(
                    row["agrees"] == 1 && row["rules_version"] == RULES_VERSION && !zero(&row["max_facts"]),
                    "{row}"
                ),
                _ => {}
            }
        }
    }
}

/// Returns a whole number, which is a text in JSON if it may exceed 53 bits.
fn number(value: &Value) -> i128 {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|e| panic!("{value}: {e}"))
}

/// Returns the answer to a question about a tenant whose records the test wrote.
pub fn answer_of(number: &str, values: &[(&str, &str)]) -> Vec<Value> {
    let heading = format!("{number}. ");
    let sql = questions().into_iter().find(|question| question.heading.starts_with(&heading)).unwrap().sql;
    let answer = stack().sql_with(&format!("{sql}FORMAT JSONEachRow"), values);
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn rows_and_verdicts(tenant: &str, rows: i64, verdicts: i64) {
    let count = |table| stack().number(&format!("SELECT count() FROM {table} WHERE tenant_id = '{tenant}'"));
    stack().eventually("every row and verdict", || (count("actions"), count("verdicts")) == (rows, verdicts));
}

#[test]
fn name_is_found_in_any_json_encoding_of_arguments() {
    const TENANT: &str = "named";
    const PROFILE: &[u8] = br#"{"membership": "gold", "payment_methods": {}}"#;
    let first = event(catalogue::SESSION_STARTED, TENANT, "named");
    let events = [
        call(&first, 0, "get_user_details", "c0", br#"{"user_id": "ada"}"#),
        answer(&first, 1, "c0", PROFILE),
        // Its verdict names the fact.
        call(&first, 2, "send_certificate", "c2", br#"{"user_id": "\u0061da", "amount": 50}"#),
        call(&first, 3, "think", "c3", br#"{"id": 12345, "other": 123456}"#),
        call(&first, 4, "think", "c4", br#"{"deep": [{"id": "\u00c5\/B"}]}"#),
        call(&first, 5, "think", "c5", r#"{"id": "Å/B"}"#.as_bytes()),
        call(&first, 6, "think", "c6", br#"{"id": "KLMN", "#),
        call(&first, 7, "think", "c7", b"{\"id\": \"KLMN\", \"bytes\": \"\xff\"}"),
        call(&first, 8, "think", "c8", br#"{"id": "KLMNO"}"#),
    ];
    let mut writer = Writer::<ActionEvent<'static>>::new(stack());
    for event in &events {
        writer.write_event(event);
    }
    rows_and_verdicts(TENANT, 9, 8);
    let calls = |name: &str| -> Vec<(String, bool)> {
        let rows = answer_of("3", &[("tenant", TENANT), ("reservation", name)]);
        let fact = |row: &Value| row["found_in"].to_string().contains("fact ");
        rows.iter().map(|row| (row["arguments"].as_str().unwrap().to_owned(), fact(row))).collect()
    };
    for (name, found) in [("12345", 1), ("123", 0), ("Å/B", 2), ("KLMN", 2), ("KLMNO", 1), ("amount", 1)] {
        assert_eq!(calls(name).len(), found, "{name}: {:?}", calls(name));
    }
    let ada = calls("ada");
    assert_eq!((ada.len(), ada.iter().filter(|(_, fact)| *fact).count()), (2, 1), "{ada:?}");
}

#[test]
fn results_of_calls_with_a_shared_id_are_marked_as_ambiguous() {
    // The agent is not registered there, so each call is denied.
    const TENANT: &str = "shared-id";
    let first = event(catalogue::SESSION_STARTED, TENANT, "shared");
    let arguments = br#"{"thought": "hm"}"#;
    let events = [
        call(&first, 0, "think", "one", arguments),
        call(&first, 1, "think", "one", arguments),
        answer(&first, 2, "one", b"first"),
        answer(&first, 3, "one", b"second"),
        call(&first, 4, "think", "one", arguments),
        answer(&first, 5, "one", b"third"),
        call(&first, 6, "think", "unanswered", arguments),
    ];
    let mut writer = Writer::<ActionEvent<'static>>::new(stack());
    for event in &events {
        writer.write_event(event);
    }
    rows_and_verdicts(TENANT, 7, 4);
    let rows = answer_of("6", &[("tenant", TENANT), ("days", "1")]);
    let found: Vec<_> = rows
        .iter()
        .map(|row| (number(&row["call_index"]), row["result"].as_str().unwrap(), number(&row["open_calls"])))
        .collect();
    let expected = [(0, "first", 2), (0, "second", 2), (1, "first", 2), (1, "second", 2), (2, "third", 1)];
    assert_eq!(found, expected);
}

#[test]
fn result_without_a_tool_name_has_that_of_its_call() {
    const TENANT: &str = "unnamed-results";
    let first = event(catalogue::SESSION_STARTED, TENANT, "unnamed");
    let events = [
        call(&first, 0, "think", "one", br#"{"n": 1}"#),
        call(&first, 1, "search", "two", b"{}"),
        answer(&first, 2, "two", b"found"),
        answer(&first, 3, "one", b"thought"),
        answer(&first, 4, "none", b"lost"),
    ];
    let mut writer = Writer::<ActionEvent<'static>>::new(stack());
    for event in &events {
        writer.write_event(event);
    }
    rows_and_verdicts(TENANT, 5, 2);
    let rows = answer_of("2", &[("tenant", TENANT), ("session", first.session_id)]);
    let text = |row: &Value, column: &str| row[column].as_str().unwrap().to_owned();
    let found: Vec<_> =
        rows.iter().map(|row| ["tool_name", "call_id", "said"].map(|column| text(row, column))).collect();
    let expected = [
        ["think", "one", r#"{"n": 1}"#],
        ["search", "two", "{}"],
        ["search", "two", "found"],
        ["think", "one", "thought"],
        ["", "none", "lost"],
    ];
    assert_eq!(found, expected.map(|row| row.map(str::to_owned)));
}

#[test]
fn calls_of_any_type_count_and_decisions_do_not() {
    const TENANT: &str = "counted";
    const ASKED_ABOUT: &str = "only-asked-about";
    let first = event(catalogue::SESSION_STARTED, TENANT, "counted");
    let decision = Decision { by: "pdp", decision: "deny", reason: None, evaluation: None };
    let events = [
        first.clone(),
        call(&first, 1, "think", "c1", br#"{"id": "once"}"#),
        ActionEvent { r#type: "tool.invokd", ..call(&first, 2, "think", "c2", b"{}") },
        // The largest number of 64 bits.
        call(&first, i64::MAX, "think", "c3", b"{}"),
        ActionEvent {
            r#type: catalogue::DECISION_MADE,
            agent: Agent::new(ASKED_ABOUT),
            source: Source { id: "a-pdp", sequence: 0 },
            decision: Some(decision),
            ..first.clone()
        },
        ActionEvent {
            r#type: catalogue::APPROVAL_ASKED,
            source: Source { id: "a-pdp", sequence: 1 },
            ..first.clone()
        },
    ];
    let mut writer = Writer::<ActionEvent<'static>>::new(stack());
    for event in &events {
        writer.write_event(event);
    }
    // An event that is sent again is a row, and counts once.
    writer.write_event(&events[1]);
    rows_and_verdicts(TENANT, 7, 4);
    let values = [("tenant", TENANT), ("days", "1")];
    let busy = answer_of("5", &values);
    let counts: Vec<_> = busy
        .iter()
        .map(|row| (&row["agent_id"], number(&row["events"]), number(&row["tool_calls"])))
        .collect();
    assert_eq!(counts, [(&AGENT.into(), 4, 3)]);
    let listed = answer_of("3", &[("tenant", TENANT), ("reservation", "once")]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let sources = answer_of("9", &values[..1]);
    let missing: Vec<_> =
        sources.iter().map(|row| (row["source_id"].as_str().unwrap(), number(&row["missing"]))).collect();
    assert_eq!(missing, [("counted", (1 << 63) - 4), ("a-pdp", 0)]);
    let unregistered = answer_of("12", &values);
    assert_eq!(unregistered.iter().map(|row| &row["agent_id"]).collect::<Vec<_>>(), [AGENT]);
}

/// Calls of a session, recorded after the decision point was asked.
struct DecidedSession<'a> {
    pdp: &'a Pdp,
    recorder: &'a Recorder,
    session: String,
}

impl DecidedSession<'_> {
    /// Asks about a call. Returns its token.
    fn ask(&self, tool: &str, allowed: bool) -> String {
        let (status, answer) = self.pdp.ask(&question(&self.session, "c1", tool, "{}", None), TOKEN);
        assert_eq!((status, &answer["decision"]), (200, &allowed.into()), "{answer}");
        answer["context"]["token"].as_str().unwrap().to_owned()
    }

    fn call(&self, tool: &str, token: Option<&str>) {
        let arguments = Content { data: b"{}", media_type: "application/json" };
        let tool = ToolCall { decision_token: token, ..ToolCall::new(tool, "c1", arguments) };
        self.record(&sdk::Event { tool: Some(tool), ..self.event(catalogue::TOOL_INVOKED) });
    }

    fn answer(&self) {
        let content = Content { data: b"null", media_type: "application/json" };
        let result = ToolResult { call_id: "c1", name: None, is_error: None, content };
        self.record(&sdk::Event { result: Some(result), ..self.event(catalogue::TOOL_RESPONSE_RECEIVED) });
    }

    fn event<'e>(&'e self, r#type: &'e str) -> sdk::Event<'e> {
        sdk::Event::new(r#type, &self.session, Agent::new(AGENT))
    }

    fn record(&self, event: &sdk::Event<'_>) {
        self.recorder.record(event).unwrap();
    }
}

#[test]
fn prevented_unasked_and_unknown_calls_are_found() {
    const TENANT: &str = "controlled";
    let stack = stack();
    stack.register(&[TENANT]);
    let pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    let recorder = stack.recorder(TENANT, ENVIRONMENT);
    let session =
        |session: &str| DecidedSession { pdp: &pdp, recorder: &recorder, session: session.to_owned() };
    pdp.wait_until_key_is_known(stack, TENANT, &recorder);

    let prevented = session("prevented");
    let denied = prevented.ask("no_such_tool", false);
    prevented.call("no_such_tool", Some(&denied));
    // Allowed, and not recorded.
    session("unrecorded").ask("think", true);
    let answered = session("answered");
    answered.call("no_such_tool", Some(&answered.ask("no_such_tool", false)));
    answered.answer();
    session("undecided").call("think", None);
    let reused = session("reused");
    let token = reused.ask("think", true);
    reused.call("think", Some(&token));
    reused.call("think", Some(&token));
    recorder.close(DEADLINE).unwrap();

    // Any producer can write decisions: three without the state of the session, one with the id of the prevented call.
    let first = event(catalogue::DECISION_MADE, TENANT, "unknown");
    let decision = |sequence, decision: &'static str, id: &'static str, tool: &'static str| {
        let evaluation = Evaluation {
            id,
            caller: None,
            tool,
            call_id: None,
            arguments: payload(b"{}"),
            determining_policies: Vec::new(),
            violations: Vec::new(),
            bundle: None,
            tables: Vec::new(),
            known_digest: None,
            known: None,
            errors: Vec::new(),
            through: None,
            unavailable: Some("stale"),
            key_id: None,
            expires_at: None,
            definition: None,
            approval: None,
        };
        let evaluation = Some(Box::new(evaluation));
        let decision = Decision { by: "pdp", decision, reason: Some("unavailable"), evaluation };
        let source = Source { sequence, ..first.source };
        ActionEvent { decision: Some(decision), source, ..first.clone() }
    };
    let mut writer = Writer::<ActionEvent<'static>>::new(stack);
    writer.write_event(&decision(0, "deny", "d-denied", "think"));
    writer.write_event(&decision(1, "allow", "d-allowed", "think"));
    let denied_id: &'static str = decision_id(&denied).leak();
    let mut forged = decision(2, "deny", denied_id, "no_such_tool");
    forged.session_id = "prevented";
    let made = forged.decision.as_mut().unwrap();
    (made.by, made.reason) = ("the boss", Some("forged"));
    writer.write_event(&forged);

    let values = [("tenant", TENANT), ("days", "1")];
    let rows = |number: &str, columns: &[&str]| -> Vec<Vec<Value>> {
        let rows = answer_of(number, &values).into_iter();
        let of = |row: Value| columns.iter().map(|column| row[*column].clone()).collect();
        let mut rows: Vec<Vec<Value>> = rows.map(of).collect();
        rows.sort_by_key(|row| format!("{row:?}"));
        rows
    };
    let count = |sql: &str| stack.number(&format!("SELECT count() FROM {sql} AND tenant_id = '{TENANT}'"));
    stack.eventually("every verdict, decision and alert is logged", || {
        count("verdicts WHERE NOT startsWith(session_id, 'probe-')") == 5
            && count("alerts WHERE policy = 'agentgov:refused'") == 1
            && count("actions WHERE decision_id LIKE 'd-%'") == 2
            && count("actions WHERE type = 'decision.made' AND session_id = 'prevented'") == 2
            && count("actions WHERE type = 'decision.made' AND session_id = 'unrecorded'") == 1
    });
    let found = rows("13", &["session_id", "tool_name", "decided", "reason", "decided_by", "rules"]);
    assert_eq!(
        found,
        [[
            "prevented".into(),
            "no_such_tool".into(),
            "deny".into(),
            "no_grant".into(),
            "pdp".into(),
            Value::Array(Vec::new())
        ]]
    );
    let not_asked = answer_of("14", &values);
    let not_asked = not_asked.iter().filter(|row| row["finding"] != "forged").map(|row| {
        (
            row["finding"].as_str().unwrap(),
            row["tool_name"].as_str().unwrap(),
            number(&row["calls"]),
            number(&row["allowed"]),
        )
    });
    let mut not_asked: Vec<_> = not_asked.collect();
    not_asked.sort_unstable();
    assert_eq!(not_asked, [("reused", "think", 1, 1), ("undecided", "think", 1, 1)]);
    let found = rows("15", &["session_id", "tool_name", "unavailable", "decision_id", "judged", "verified"]);
    let mut claimed = ["unknown", "think", "stale", "d-allowed", ""].map(Value::from).to_vec();
    claimed.push(0.into());
    assert_eq!(found, [claimed]);
    let unrecorded = answer_of("18", &[("tenant", TENANT), ("days", "1"), ("seconds", "0")]);
    let mut unrecorded: Vec<_> = unrecorded.iter().map(|row| row["session_id"].as_str().unwrap()).collect();
    unrecorded.sort_unstable();
    assert_eq!(unrecorded, ["unknown", "unrecorded"]);

    // The token prevails over the forged event, whichever landed first.
    let story = stack.run(&["session", "show", "prevented", "--tenant", TENANT]);
    let decided = "decided deny (no_grant) by pdp with ";
    assert!(
        story.contains(decided) && !story.contains("decided deny (no_grant) by pdp with airline 1 claimed"),
        "{story}"
    );
    let claimed = "decision deny (forged) on no_such_tool by the boss claimed, not verified";
    assert!(story.contains(claimed), "{story}");
    assert!(story.contains("1 other events of this id state something else"), "{story}");
    assert!(
        !story.lines().any(|line| line.contains("decision deny (no_grant)") && line.contains("claimed")),
        "{story}"
    );
}

/// Returns the id of the decision that a token is about.
fn decision_id(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let id = stack().rows(&format!("SELECT JSONExtractString(base64URLDecode('{claims}'), 'jti')"));
    id[0][0].clone()
}
