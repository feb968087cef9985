//! An error is never an allow: no change of a result that makes a call denied leaves that call allowed by what was known before.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_enrichment::{Change, Session};
use agentgov_policy::{Bundle, BundleFiles, BundleTable, generated_schema};
use agentgov_schemas::event::{ToolCall, ToolResult};
use agentgov_schemas::verdict::Decision;
use support::{Replay, Told, kernel, payload, service_agent};

const VALUES: [&str; 3] = [
    "facts.order[input.id].locked",
    "facts.order[?input.id].?locked.orValue(false)",
    "input.id in facts.order && facts.order[input.id].locked",
];

const POLICIES: [&str; 3] = [
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) when { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) unless { context has v && !context.v };",
    "@id(\"g\") permit (principal, action, resource) unless { context has v && context.v };",
];

/// In what the facts of an order are stated: by any tool, or by one.
const STATES: [&str; 3] = [
    "default: { effect: read, states: [{ fact: order, key: result.id }] }\ntools:",
    "default: { effect: read }\ntools:\n  get: { effect: read, states: [{ fact: order, key: result.?id, when: has(result.locked) }] }",
    "default: { effect: read }\ntools:\n  get: { effect: read, states: [{ fact: order, key: input.id }] }",
];

fn bundle(states: &str, value: &str, policies: &str) -> Arc<Bundle> {
    let tools = format!(
        "{states}\n  pay:\n    effect: write\n    derived: {{ v: {{ type: Bool, value: '{value}' }} }}\n"
    );
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), b"name: b\nversion: '1'\nenvironments: [demo]\n".to_vec()),
        ("tools.yaml".to_owned(), tools.into()),
        ("rules.cedar".to_owned(), policies.into()),
    ]);
    let schema = generated_schema(&BundleFiles(files.clone())).unwrap();
    files.insert("schema.cedarschema".to_owned(), schema.into());
    Arc::new(Bundle::compile(&BundleFiles(files)).unwrap_or_else(|problems| panic!("{problems:?}")))
}

/// The session as the changelog brings it back.
fn restored(session: &Session) -> Session {
    let mut restored = Session::new();
    for entry in session.all_gone() {
        match entry {
            Change::FactGone { kind, key } => restored.restore_fact(&session.fact(&kind, &key).unwrap()),
            Change::CallGone { call_id } => restored.restore_call(&session.call(&call_id).unwrap()),
            Change::NumbersGone { source, block } => {
                restored.restore_numbers(&session.numbers(&source, block).unwrap()).unwrap();
            }
            _ => {}
        }
    }
    restored.restore_header(&session.header());
    restored
}

/// A call about an order that was not locked, after one more event about it.
fn decided(bundles: &BundleTable, kind: &str, content: Option<&[u8]>) -> Decision {
    let agents = service_agent();
    let mut replay = Replay::new(kernel(&agents, bundles));
    let mut answered = |kind: &str, content: &[u8]| {
        let tool = ToolCall { name: "get", call_id: "get", arguments: payload(br#"{"id":"7"}"#) };
        replay.tell(Told { kind: "tool.invoked", tool: Some(tool), ..Told::default() });
        let content = payload(content);
        let result = ToolResult { call_id: "get", name: None, is_error: None, content };
        replay.tell(Told { kind, result: Some(result), ..Told::default() });
    };
    answered("tool.response_received", br#"{"id":"7","locked":false}"#);
    match content {
        Some(content) => answered(kind, content),
        None => drop(replay.tell(Told { kind, ..Told::default() })),
    }
    let mut again = Replay::new(kernel(&agents, bundles));
    again.session = restored(&replay.session);
    let tool = ToolCall { name: "pay", call_id: "pay", arguments: payload(br#"{"id":"7"}"#) };
    let told = Told { kind: "tool.invoked", tool: Some(tool), ..Told::default() };
    let [found, again] = [replay, again].map(|mut replay| replay.tell(told).unwrap().decision);
    assert_eq!(found, again, "after a restart");
    found
}

/// What a result may be in place of `{"id":"7","locked":true}`.
fn changed() -> Vec<Vec<u8>> {
    const RIGHT: &str = r#"{"id":"7","locked":true}"#;
    let quoted = serde_json::to_string(RIGHT).unwrap();
    let twice = serde_json::to_string(&quoted).unwrap();
    let mut texts: Vec<String> = [
        r#"{"id":7,"locked":true}"#,
        r#"{"id":7.0,"locked":true}"#,
        r#"{"id":true,"locked":true}"#,
        r#"{"id":["7"],"locked":true}"#,
        r#"{"id":{"value":"7"},"locked":true}"#,
        r#"{"id":"7","id":"8","locked":true}"#,
        r#"{"id":"8","id":"7","locked":true}"#,
        r#"{"id":"7\ud83d","locked":true}"#,
        r#"{"id":NaN,"locked":true}"#,
        r#"{"id":"7","locked":"true"}"#,
        r#"{"id":"7","locked":1}"#,
        r#"{"id":"7","locked":[true]}"#,
        r#"{"id":"7","locked":true,"locked":false}"#,
        r#"{"id":"7","locked":false,"locked":true}"#,
        r#"{"id":"7","locked":true,"more":[NaN]}"#,
        "{'id': '7', 'locked': True}",
        "{id: \"7\", locked: true}",
    ]
    .map(str::to_owned)
    .into();
    texts.extend((1..RIGHT.len()).map(|at| RIGHT[..at].to_owned()));
    texts.extend((1..quoted.len() - 1).filter(|at| *at > 1).map(|at| quoted[..at].to_owned()));
    for front in [
        "",
        "\u{feff}",
        "\u{feff}\u{feff}",
        "\u{a0}",
        "\u{2003}",
        "\u{200b}",
        "\u{1}",
        "\0",
        "\u{c}",
        "\t\r\n ",
        "// c\n",
        "/* c */",
        "# c\n",
        "(",
        "'",
        "\"",
        "7 ",
        "x",
        "[7]",
        "Result: ",
        "data: ",
        ")]}',\n",
        "```json\n",
        "```\n",
        "~~~\n",
        "Found it:\n\n```json\n",
    ] {
        for back in ["", "x", "\n```", RIGHT] {
            texts.extend([format!("{front}{RIGHT}{back}"), format!("{front}[{RIGHT}]{back}")]);
            texts.push(format!("{front}[\"a\",{RIGHT}{back}]"));
            if matches!(back, "" | "x") {
                texts.extend([format!("{front}{quoted}{back}"), format!("{front}[{quoted}]{back}")]);
                texts.push(format!("{front}{twice}{back}"));
            }
        }
    }
    let mut all: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    for mark in ["", "\u{feff}"] {
        let text = format!("{mark}{RIGHT}");
        all.push(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
        all.push(text.encode_utf16().flat_map(u16::to_be_bytes).collect());
        all.push(text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect());
    }
    all.push([RIGHT.as_bytes(), b"\xff"].concat());
    all.push([b"\xff", RIGHT.as_bytes()].concat());
    all
}

#[test]
fn changed_result_never_turns_a_deny_into_an_allow() {
    let tables: Vec<BundleTable> = STATES
        .iter()
        .flat_map(|states| VALUES.iter().map(move |value| (states, value)))
        .flat_map(|(states, value)| POLICIES.iter().map(move |policies| bundle(states, value, policies)))
        .map(BundleTable::of)
        .collect();
    let received = "tool.response_received";
    for table in &tables {
        assert_eq!(decided(table, received, Some(br#"{"id":"7","locked":true}"#)), Decision::Deny);
        // What says nothing of the order changes nothing.
        for content in ["Error: no such order", "", "[1] see above", "Order {7} is (not) [locked]"] {
            assert_eq!(decided(table, received, Some(content.as_bytes())), Decision::Allow, "{content}");
        }
    }
    for (at, content) in changed().iter().enumerate() {
        // Each with a bundle of each way to state a fact.
        for table in tables.iter().skip(at % 9).step_by(9) {
            let found = decided(table, received, Some(content));
            assert_ne!(found, Decision::Allow, "{}", String::from_utf8_lossy(content).escape_debug());
        }
    }
}

#[test]
fn result_in_an_event_of_another_type_and_the_end_never_turn_a_deny_into_an_allow() {
    let table = BundleTable::of(bundle(STATES[0], VALUES[0], POLICIES[0]));
    for kind in [
        "tool.Response_received",
        "tool.response.received",
        "tool.response_received ",
        "",
        "user.input",
        "tool.invoked",
    ] {
        let found = decided(&table, kind, Some(br#"{"id":"7","locked":true}"#));
        assert_ne!(found, Decision::Allow, "{kind}");
    }
    assert_eq!(decided(&table, "tool.failed", Some(br#"{"id":"7","locked":true}"#)), Decision::Allow);
    assert_eq!(decided(&table, "user.input", None), Decision::Allow);
    assert_ne!(decided(&table, "session.ended", None), Decision::Allow);
}
