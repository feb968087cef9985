//! Changes results that make a later call denied; the call must not become allowed by an older result or by a missing fact.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use agentgov_policy::BundleTable;
use agentgov_schemas::catalogue;
use agentgov_schemas::verdict::Decision;
use serde_json::{Value, json};

use crate::arguments::AIRLINE;
use crate::change::{Change, changed, changes, count};
use crate::fixture::{ANY_ORDER, Denied, Exchange, POLICIES, bundle};

/// Expressions that are true after the result [`ORDER`].
const VALUES: [&str; 12] = [
    "facts.order[input.id].locked",
    "facts.order[?input.id].?locked.orValue(false)",
    "input.id in facts.order && facts.order[input.id].locked",
    "facts.order.exists(id, facts.order[id].locked)",
    "'admin' in facts.order[input.id].roles",
    "'admin' in facts.order[?input.id].?roles.orValue([])",
    "facts.order[input.id].roles.exists(role, role == 'admin')",
    "count(facts.order[input.id].roles) == 2",
    "facts.order[input.id].amount > 100",
    "facts.order[input.id].nested.?amount.orValue(0) > 100",
    "facts.order[input.id].blocked[?input.id].hasValue()",
    "has(facts.order[input.id].blocked.bot)",
];

/// Fact rules for orders, for any tool or for one tool.
const STATES: [&str; 5] = [
    ANY_ORDER,
    "default: { effect: read }\ntools:\n  get: { effect: read, states: [{ fact: order, key: result.?id, when: has(result.locked) }] }",
    "default: { effect: read }\ntools:\n  get: { effect: read, states: [{ fact: order, key: input.id }] }",
    "default: { effect: read, states: [{ fact: order, key: result.id, when: type(result) == map }] }\ntools:",
    "default: { effect: read }\ntools:\n  get: { effect: read, states: [{ fact: order, key: input.id, when: 'type(result) == map && !has(result.error)' }] }",
];

/// One policy of each kind; all of them deny a call whose value is true.
const PLAIN: [&str; 3] = [POLICIES[0], POLICIES[3], POLICIES[4]];

static ORDER: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "id": "7", "locked": true, "roles": ["guest", "admin"], "amount": 5000, "nested": { "amount": 5000 },
        "blocked": { "7": {}, "bot": 1 },
    })
});

fn denied(states: &str, value: &str, policies: &str) -> Denied {
    Denied {
        rule: format!("{states} {value} {policies}"),
        bundles: BundleTable::with_bundle(bundle(states, value, policies)),
        before: vec![],
        tool: "pay",
        arguments: json!({ "id": "7" }),
    }
}

/// Returns a call for order 7 with this result.
fn answer(content: impl Into<Vec<u8>>) -> Exchange {
    Exchange::new("get", json!({ "id": "7" }), content)
}

/// Returns an order that does not make the call denied.
fn harmless() -> Exchange {
    let order = json!({
        "id": "7", "locked": false, "roles": ["guest"], "amount": 5, "nested": { "amount": 5 }, "blocked": { "8": {} },
    });
    answer(order.to_string())
}

/// Results in place of `{"id":"7","locked":true}`.
fn texts() -> Vec<Vec<u8>> {
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

/// Returns true for the change of a whole result into a field of another object, which is another valid result.
fn is_another_result(change: Change, at: usize) -> bool {
    matches!(change, Change::Object) && at == 0
}

/// Applies every change at every place of the result, alone and after a harmless result.
#[test]
fn changed_value_of_a_result_never_turns_a_deny_into_an_allow() {
    for (i, value) in VALUES.iter().enumerate() {
        // Each value with every other fact rule.
        for (k, states) in STATES.iter().enumerate().filter(|(k, _)| (i + k) % 2 == 0) {
            let denied = denied(states, value, PLAIN[(i + k) % PLAIN.len()]);
            let decide = |before: &[Exchange]| denied.decide_after(before).0;
            assert_eq!(decide(&[harmless()]), Decision::Allow, "{}", denied.rule);
            assert_eq!(decide(&[harmless(), answer(ORDER.to_string())]), Decision::Deny, "{}", denied.rule);
            for change in changes() {
                let places = if matches!(change, Change::Large) { 1 } else { count(&ORDER) };
                let mut seen = BTreeSet::from([ORDER.to_string()]);
                for at in (0..places).filter(|at| !is_another_result(change, *at)) {
                    let text = changed(&ORDER, change, &mut Some(at));
                    if !seen.insert(text.clone()) {
                        continue;
                    }
                    for before in [vec![answer(text.as_str())], vec![harmless(), answer(text.as_str())]] {
                        assert_ne!(
                            decide(&before),
                            Decision::Allow,
                            "{}: {change:?} {text:.400}",
                            denied.rule
                        );
                    }
                }
            }
        }
    }
}

/// Applies the changes to the results that make the airline's calls denied.
#[test]
fn changed_value_of_an_airline_result_never_turns_a_deny_into_an_allow() {
    for denied in AIRLINE.iter() {
        for (i, exchange) in denied.before.iter().enumerate() {
            let result: Value = serde_json::from_slice(exchange.content.as_deref().unwrap()).unwrap();
            for change in changes() {
                let places = if matches!(change, Change::Large) { 1 } else { count(&result) };
                let mut seen = BTreeSet::from([result.to_string()]);
                for at in (0..places).filter(|at| !is_another_result(change, *at)) {
                    let text = changed(&result, change, &mut Some(at));
                    if !seen.insert(text.clone()) {
                        continue;
                    }
                    let mut before = denied.before.clone();
                    before[i].content = Some(text.clone().into());
                    let (found, errors) = denied.decide_after(&before);
                    let arguments = &denied.arguments;
                    assert_ne!(
                        found,
                        Decision::Allow,
                        "{} {arguments}: {change:?} {text:.400} {errors:?}",
                        denied.tool
                    );
                }
            }
        }
    }
}

/// Uses texts that contain an order in another text, list or encoding.
#[test]
fn changed_result_never_turns_a_deny_into_an_allow() {
    let states = STATES.iter().flat_map(|states| VALUES[..3].iter().map(move |value| (states, value)));
    let all: Vec<Denied> = states
        .flat_map(|(states, value)| PLAIN.iter().map(move |policies| denied(states, value, policies)))
        .collect();
    for denied in &all {
        let decide = |content: &str| denied.decide_after(&[harmless(), answer(content)]).0;
        assert_eq!(decide(r#"{"id":"7","locked":true}"#), Decision::Deny, "{}", denied.rule);
        // A result without an order changes nothing.
        for content in ["Error: no such order", "", "[1] see above", "Order {7} is (not) [locked]"] {
            assert_eq!(decide(content), Decision::Allow, "{content}");
        }
    }
    for (at, content) in texts().iter().enumerate() {
        // Each text with bundles of each fact rule.
        for denied in all.iter().skip(at % 9).step_by(9) {
            let (found, _) = denied.decide_after(&[harmless(), answer(content.as_slice())]);
            let shown = String::from_utf8_lossy(content);
            assert_ne!(found, Decision::Allow, "{} {}", denied.rule, shown.escape_debug());
        }
    }
}

/// A number or a boolean is an answer of an unexpected type, unless the condition `type(result) == map` excludes it.
#[test]
fn scalar_result_makes_facts_uncertain_unless_the_rule_excludes_it() {
    for (states, doubts) in STATES.iter().zip([true, true, true, false, false]) {
        let denied = denied(states, VALUES[0], POLICIES[0]);
        for content in ["7", "-1.5", "1e400", "true", "false"] {
            let (found, errors) = denied.decide_after(&[harmless(), answer(content)]);
            let expected = if doubts { Decision::Indeterminate } else { Decision::Allow };
            assert_eq!(found, expected, "{states} {content} {errors:?}");
        }
    }
}

/// Lists without an order are certain, since many tools return lists.
#[test]
fn list_without_a_fact_keeps_facts_certain_if_the_rule_excludes_lists() {
    let denied = denied(STATES[3], VALUES[0], POLICIES[0]);
    let large = format!("[{}{{}}]", "{\"flight\":\"ZQ1\"},".repeat(20_000));
    for content in
        ["[]", "[7,\"7\",null]", r#"[{"name":"7"}]"#, r#"[[{"name":"7"}],[]]"#, r#"[{"id":null}]"#, &large]
    {
        let (found, errors) = denied.decide_after(&[harmless(), answer(content)]);
        assert_eq!(found, Decision::Allow, "{content:.100} {errors:?}");
    }
}

#[test]
fn result_in_another_event_type_or_the_end_never_turns_a_deny_into_an_allow() {
    let denied = denied(STATES[0], VALUES[0], POLICIES[0]);
    let decide = |kind: &'static str, content: Option<&str>| {
        let event = Exchange { kind, content: content.map(Into::into), ..harmless() };
        denied.decide_after(&[harmless(), event]).0
    };
    let locked = Some(r#"{"id":"7","locked":true}"#);
    for kind in [
        "tool.Response_received",
        "tool.response.received",
        "tool.response_received ",
        "",
        catalogue::USER_INPUT,
        catalogue::TOOL_INVOKED,
    ] {
        assert_ne!(decide(kind, locked), Decision::Allow, "{kind}");
    }
    assert_eq!(decide(catalogue::TOOL_FAILED, locked), Decision::Allow);
    assert_eq!(decide(catalogue::USER_INPUT, None), Decision::Allow);
    assert_ne!(decide(catalogue::SESSION_ENDED, None), Decision::Allow);
}
