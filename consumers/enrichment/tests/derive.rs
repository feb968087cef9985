//! Derived values and facts of a tools.yaml: values of expressions, their errors and their limits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentgov_enrichment::{CallContext, Scalar, Session, Tools};
use agentgov_schemas::event::{ActionEvent, Agent, Source, ToolCall, ToolResult};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::{ErrorCode, Origin};
use agentgov_schemas::{Micros, Millis, SessionKey, catalogue};
use agentgov_test_support::payload;

fn event<'a>(kind: &'a str, tool: Option<ToolCall<'a>>, result: Option<ToolResult<'a>>) -> ActionEvent<'a> {
    ActionEvent {
        environment: "test",
        // 2024-05-15T15:00:00Z
        occurred_at: Micros(1_715_785_200_000_000),
        tool,
        result,
        ..ActionEvent::new(
            "e",
            kind,
            SessionKey { tenant_id: "acme", session_id: "s" },
            Source { id: "p", sequence: 0 },
            Agent::new("bot"),
        )
    }
}

fn apply(session: &mut Session, event: &ActionEvent<'_>, tools: &Tools) {
    let limits =
        SessionLimits { ttl: HumanDuration(Duration::from_hours(1)), max_facts: 100, max_bytes: 1 << 20 };
    let origin = Origin { topic: "t", partition: 0, offset: session.events(), logged_at: Millis(0) };
    let check = session.check_sequence(event);
    let applied = session.apply(event, &check, &origin, Some(tools), &limits);
    assert_eq!(applied.findings, []);
}

/// Derives one value in a session that has the fact `order` with key `A1`.
fn derive(value_type: &str, cel: &str, arguments: &str) -> CallContext {
    let quoted = serde_json::to_string(cel).unwrap();
    let yaml = format!(
        "default:\n  effect: read\n  states:\n    - {{ fact: order, key: result.id }}\n  derived:\n    v: {{ type: '{value_type}', value: {quoted} }}\n"
    );
    let tools = Tools::compile("tools.yaml", &yaml, &[]).unwrap_or_else(|p| panic!("{cel}: {p:?}"));
    let mut session = Session::new();
    apply(&mut session, &event(catalogue::SESSION_STARTED, None, None), &tools);
    let order = br#"{"id":"A1","lines":[{"sku":"x","n":2},{"sku":"y","n":100.0}],"open":true,"when":"2024-05-14T15:00:00"}"#;
    let result = ToolResult { call_id: "none", name: None, is_error: None, content: payload(order) };
    apply(&mut session, &event(catalogue::TOOL_RESPONSE_RECEIVED, None, Some(result)), &tools);
    let call = ToolCall::new("any", "c", payload(arguments.as_bytes()));
    tools.derive(&session, &event(catalogue::TOOL_INVOKED, Some(call), None))
}

#[test]
fn expressions_derive_values_of_each_type() {
    let text = |text: &str| Scalar::Text(text.to_owned());
    for (value_type, cel, expected) in [
        ("Bool", "input.id in facts.order", Scalar::Bool(true)),
        ("Bool", "'B2' in facts.order", Scalar::Bool(false)),
        ("Bool", "null in facts.order", Scalar::Bool(false)),
        ("Long", "count(facts.order[input.id].lines)", Scalar::Long(2)),
        ("Long", "facts.order.size()", Scalar::Long(1)),
        // A double with an integer value is a Long, and numbers compare independent of their types.
        ("Long", "facts.order['A1'].lines[1].n", Scalar::Long(100)),
        (
            "Bool",
            "facts.order['A1'].lines[1].n == 100 && 100 == facts.order['A1'].lines[1].n",
            Scalar::Bool(true),
        ),
        ("Bool", "facts.order['A1'].lines[1].n > 99 && 3 > 2.5", Scalar::Bool(true)),
        ("Set<String>", "facts.order['A1'].lines.map(l, l.sku)", Scalar::Set([text("x"), text("y")].into())),
        ("Set<Long>", "[3, 1, 3]", Scalar::Set([Scalar::Long(1), Scalar::Long(3)].into())),
        // Sets and objects compare with a literal on either side.
        (
            "Bool",
            "sets.equivalent(facts.order['A1'].lines.map(l, l.sku), ['y', 'x', 'x'])",
            Scalar::Bool(true),
        ),
        (
            "Bool",
            "sets.equivalent(['x'], ['x', 'y']) || sets.equivalent(['x', 'y'], ['x'])",
            Scalar::Bool(false),
        ),
        ("Bool", "{'sku': 'x', 'n': 2} == facts.order['A1'].lines[0]", Scalar::Bool(true)),
        ("Bool", "facts.order['A1'].lines[0] == {'n': 2, 'sku': 'x'}", Scalar::Bool(true)),
        (
            "Bool",
            "[{'sku': 'x', 'n': 2.0}] == facts.order['A1'].lines.filter(l, l.n == 2)",
            Scalar::Bool(true),
        ),
        ("Bool", "facts.order['A1'].lines[0] == {'n': 2}", Scalar::Bool(false)),
        // Keys are iterated in sorted order.
        ("Bool", "{'b': 1, 'a': 2, 'c': 3}.map(k, k) == ['a', 'b', 'c']", Scalar::Bool(true)),
        (
            "Bool",
            "facts.order.map(k, k) == ['A1'] && facts.order['A1'][?'open'].hasValue()",
            Scalar::Bool(true),
        ),
        // Times, at exactly one day.
        ("Bool", "session.started_at - time(facts.order['A1'].when) > duration('24h')", Scalar::Bool(false)),
        ("Bool", "session.started_at - time(facts.order['A1'].when) >= duration('24h')", Scalar::Bool(true)),
        (
            "Bool",
            "time('2024-05-15') < event.time && event.time == timestamp('2024-05-15T15:00:00Z')",
            Scalar::Bool(true),
        ),
        ("Bool", "time('2024-05-15T17:00:00+02:00') == time('2024-05-15 15:00:00.000')", Scalar::Bool(true)),
        ("String", "cel.bind(o, facts.order['A1'], o.lines[0].sku + o.id)", text("xA1")),
        ("String", "facts.order['A1'].?note.orValue('none')", text("none")),
        (
            "Bool",
            "type(facts.order['A1']) == map && type(input.id) == string && type(input) != list",
            Scalar::Bool(true),
        ),
        ("Long", "session.events + session.tool_calls", Scalar::Long(2)),
    ] {
        let known = derive(value_type, cel, r#"{"id":"A1"}"#);
        assert_eq!(known.findings, [], "{cel}");
        assert_eq!(known.derived.get("v"), Some(&expected), "{cel}");
    }
}

#[test]
fn missing_value_is_absent_and_no_error() {
    for cel in [
        "input.nothing == 1",
        "facts.order['B2'].open",
        "facts.order[input.id].open",
        "facts.order[null].open",
        "facts.order['A1'].lines[0].?colour.orValue(input.colour) == 'red'",
        "null in facts.order && facts.order['A1'].lines[0].colour == 'red' || input.nothing",
        "facts.order['A1'].lines.exists(l, l.colour == 'red')",
        "input.a.b.c == 1",
    ] {
        assert_eq!(derive("Bool", cel, r#"{"a":{}}"#), CallContext::default(), "{cel}");
    }
    // A missing value does not matter if another operand decides.
    let known = derive("Bool", "facts.order['A1'].lines.exists(l, l.n == 100 || l.colour == 'red')", "{}");
    assert_eq!(known.derived.get("v"), Some(&Scalar::Bool(true)));
}

#[test]
fn errors_are_named_and_never_quote_a_payload() {
    let secret = r#"{"id":"S3CRET","list":["S3CRET"],"map":{"S3CRET":"S3CRET"},"n":1}"#;
    for (value_type, cel, code) in [
        ("Bool", "input.id < 3", "derived_error"),
        ("Bool", "3 < input.id", "derived_error"),
        ("Bool", "input.list < input.map", "derived_error"),
        ("Bool", "input.list[5] == 1", "derived_error"),
        ("Bool", "input.list[input.id] == 1", "derived_error"),
        ("Bool", "input.id.x", "derived_error"),
        ("Long", "count(input.id)", "derived_error"),
        ("Long", "count(input.map)", "derived_error"),
        ("Long", "int(input.id)", "derived_error"),
        ("Bool", "time(input.id) == event.time", "derived_error"),
        ("Bool", "timestamp(input.id) == event.time", "derived_error"),
        ("Bool", "duration(input.id) == duration('1s')", "derived_error"),
        ("Bool", "input.id.matches('(' + input.id)", "derived_error"),
        ("Bool", "input.id.matches(input.map)", "derived_error"),
        ("Bool", "input.id && true", "derived_error"),
        ("Bool", "!input.id", "derived_error"),
        ("Long", "-input.id", "derived_error"),
        ("Long", "input.id + 1", "derived_error"),
        ("Long", "input.n / 0", "derived_error"),
        ("Long", "9223372036854775807 + input.n", "derived_error"),
        ("Bool", "input.id.all(x, true)", "derived_error"),
        ("Bool", "input.id ? true : false", "derived_error"),
        ("Bool", "facts.order[7].open", "derived_error"),
        ("Bool", "input.n in facts.order", "derived_error"),
        ("Bool", "input.n in input.map", "derived_error"),
        ("Bool", "facts.order['A1'].exists(k, k == 'id')", "derived_error"),
        ("Bool", "facts.order['A1'].size() > 1", "derived_error"),
        ("Bool", "input.map[input.n] == 'x'", "derived_error"),
        // Values of different types: a tool may convert one to the other.
        ("Bool", "input.id == 1", "derived_error"),
        ("Bool", "input.id in [1, 2]", "derived_error"),
        ("Bool", "input.list != input.map", "derived_error"),
        // An error outweighs a missing value, in any order, and no default replaces it.
        ("Bool", "input.nothing > 1 || input.id > 1", "derived_error"),
        ("Bool", "input.id > 1 || input.nothing > 1", "derived_error"),
        ("Bool", "input.id < 3 && input.nothing", "derived_error"),
        ("Bool", "[input.map, input.id].exists(x, x.nothing == 1)", "derived_error"),
        ("Bool", "[input.id, input.map].all(x, x.nothing == 1)", "derived_error"),
        ("Long", "input.id.?n.orValue(0)", "derived_error"),
        ("Long", "input.?id.n.orValue(0)", "derived_error"),
        ("Bool", "has(input.id.n)", "derived_error"),
        ("Long", "input.list[?'n'].orValue(0)", "derived_error"),
        ("Bool", "{input.n: 1} == {}", "derived_error"),
        ("Bool", "{input.id: 1, input.id: 2} == {}", "derived_error"),
        ("Bool", "input.id", "derived_type"),
        ("String", "input.list", "derived_type"),
        ("Set<Long>", "input.list", "derived_type"),
        ("Long", "1.5", "derived_type"),
        ("Long", "18446744073709551615u", "derived_type"),
    ] {
        let known = derive(value_type, cel, secret);
        assert_eq!(known.derived, BTreeMap::new(), "{cel}");
        assert_eq!(known.erred, ["v".to_owned()].into(), "{cel}");
        assert_eq!(known.findings.len(), 1, "{cel}: {known:?}");
        assert_eq!(
            (known.findings[0].code.as_str(), known.findings[0].subject.as_str()),
            (code, "v"),
            "{cel}"
        );
        assert!(!known.findings[0].message.contains("S3CRET"), "{cel}: {}", known.findings[0].message);
    }
}

#[test]
fn arguments_that_are_unreadable_or_too_large_err() {
    let many = format!("[{}1]", "1,".repeat(60_000));
    let deep = "[".repeat(100_000);
    for (arguments, code) in [
        ("", "arguments_not_json"),
        ("{\"a\":", "arguments_not_json"),
        ("{} x", "arguments_not_json"),
        ("[1, NaN]", "arguments_not_json"),
        ("null", "arguments_not_json"),
        ("{'a': 1}", "arguments_not_json"),
        ("{\"a\": 1,}", "arguments_not_json"),
        ("{\"a\": 007}", "arguments_not_json"),
        (deep.as_str(), "arguments_not_json"),
        (many.as_str(), "arguments_too_large"),
    ] {
        let known = derive("Bool", "input == 1", arguments);
        assert_eq!(known.derived, BTreeMap::new());
        assert_eq!(known.erred, ["v".to_owned()].into(), "{arguments:.20}");
        // Expressions that do not depend on them are unaffected.
        assert_eq!(derive("Bool", "facts.order.size() == 1 || input == 1", arguments).erred, [].into());
        assert_eq!(known.findings[0].code.as_str(), code, "{}", known.findings[0].message);
        assert_eq!(known.findings.len(), 1);
    }
}

/// Accessing an unreadable part of the arguments is an error; the rest is parsed as tools parse it.
#[test]
fn unreadable_part_errs_and_the_rest_is_parsed() {
    let deep = format!("{{\"a\":5,\"x\":{}{}}}", "[".repeat(130), "]".repeat(130));
    let long = format!("{{\"a\":5,\"x\":{}}}", "9".repeat(1_001));
    let (yes, no) = (Some(true), Some(false));
    for (arguments, cel, expected) in [
        (r#"{"a":1e400}"#, "input.a > 100 && input.a > 1e308 && input.a != 100", yes),
        (r#"{"a":-1e400}"#, "input.a < 100 && -input.a > 100", yes),
        (r#"{"a":Infinity}"#, "input.a > 100", yes),
        (r#"{"a":-Infinity}"#, "input.a < -100", yes),
        (r#"{"a":100000000000000000000000000000}"#, "input.a > 9223372036854775807", yes),
        (r#"{"a":100.00000000000000000001}"#, "input.a > 100", yes),
        (r#"{"a":9007199254740992.0}"#, "input.a == 9007199254740993", no),
        (r#"{"a":9007199254740993.0}"#, "input.a == 9007199254740993 && input.a in [9007199254740993]", yes),
        (r#"{"a":9007199254740993}"#, "input.a > 9007199254740992.0", yes),
        (r#"{"a":0.1}"#, "input.a == 0.1 && input.a + 0.2 == 0.30000000000000004", yes),
        (r#"{"a":1e400}"#, "type(input.a) == double", yes),
        (r#"{"a":1e400}"#, "input.a + 1.0 > 2.0", None),
        // Lone surrogates.
        (r#"{"a":5,"x":"\ud83d"}"#, "input.a == 5 && input.x == '\u{fffd}'", yes),
        (r#"{"a":5,"x":"\ud83d\ud83d\ude00\ude00"}"#, "input.x == '\u{fffd}😀\u{fffd}'", yes),
        (r#"{"id":"A\ud83d"}"#, "input.id in facts.order", None),
        (r#"{"id":"A\ud83d"}"#, "facts.order[input.id].open", None),
        // Two keys that become equal.
        (r#"{"\ud800":5,"\ud801":6,"a":1}"#, "input['\u{fffd}'] == 5", None),
        // Neighbours of an unreadable value.
        (r#"{"a":5,"x":NaN}"#, "input.a == 5 && has(input.x)", yes),
        (r#"{"a":5,"x":NaN}"#, "input.x > 1", None),
        (r#"{"a":5,"x":NaN}"#, "input.x > 1 || input.a == 5", yes),
        (r#"{"a":5,"x":[1,NaN]}"#, "count(input.x) == 2", None),
        (r#"{"a":5,"x":{"y":NaN}}"#, "input.x == {'y': 1}", None),
        (r#"{"a":5,"x":{"y":NaN}}"#, "input.x == {'y': 1, 'z': 1}", no),
        (r#"{"a":5,"x":NaN}"#, "input.?x.orValue(0) == 0", None),
        (r#"{"a":5,"x":NaN}"#, "input[?'x'].hasValue()", None),
        (r#"{"a":5,"a":500}"#, "input.a == 5", None),
        (r#"{"a":5,"a":500}"#, "has(input.a)", yes),
        (r#"{"a":5,"a":5}"#, "input.a == 5", None),
        (deep.as_str(), "input.a == 5", yes),
        (deep.as_str(), "input.x == []", None),
        (long.as_str(), "input.a == 5", yes),
        (long.as_str(), "input.x > 5", None),
        ("\u{feff}{\"a\":5}", "input.a == 5", yes),
        ("{\"a\":5,\"x\":\"two\nlines\"}", "input.x == 'two\\nlines'", yes),
        // Arguments that are not an object.
        (r#""{\"a\":5}""#, "input.a == 5", None),
        (r#""{\"a\":5}""#, "input.?a.orValue(0) == 5", None),
        (r#"[{"a":5}]"#, "input.a == 5", None),
        (r#"[{"a":5}]"#, "has(input.a)", None),
    ] {
        let known = derive("Bool", cel, arguments);
        let found = known.derived.get("v").map(|v| *v == Scalar::Bool(true));
        assert_eq!(found, expected, "{arguments:.60} {cel}: {:?}", known.findings);
        assert_eq!(known.erred.contains("v"), expected.is_none(), "{arguments:.60} {cel}");
    }
}

/// A session at its limit may have dropped the call that a result answers, so that facts of its tool may be outdated.
#[test]
fn result_of_a_dropped_call_makes_facts_uncertain() {
    let yaml = "
default: { effect: read }
tools:
  who: { effect: read, states: [{ fact: person, key: input.name }] }
  pay: { effect: write, derived: { v: { type: String, value: \"facts.person[input.name].role\" } } }
";
    let tools = Tools::compile("tools.yaml", yaml, &[]).unwrap();
    for (max_facts, role) in [(10, Some("guest")), (2, None)] {
        let limits =
            SessionLimits { ttl: HumanDuration(Duration::from_hours(1)), max_facts, max_bytes: 1 << 20 };
        let mut session = Session::new();
        let mut offset = 0;
        for (call_id, role) in [("a", "admin"), ("b", "guest")] {
            let arguments = br#"{"name":"ada"}"#;
            let call = ToolCall::new("who", call_id, payload(arguments));
            let content = format!(r#"{{"role":"{role}"}}"#);
            let result =
                ToolResult { call_id, name: None, is_error: None, content: payload(content.as_bytes()) };
            for event in [
                event(catalogue::TOOL_INVOKED, Some(call), None),
                event(catalogue::TOOL_RESPONSE_RECEIVED, None, Some(result)),
            ] {
                let origin = Origin { topic: "t", partition: 0, offset, logged_at: Millis(0) };
                let check = session.check_sequence(&event);
                session.apply(&event, &check, &origin, Some(&tools), &limits);
                offset += 1;
            }
        }
        let call = ToolCall::new("pay", "c", payload(br#"{"name":"ada"}"#));
        let known = tools.derive(&session, &event(catalogue::TOOL_INVOKED, Some(call), None));
        assert_eq!(known.derived.get("v"), role.map(|role| Scalar::Text(role.to_owned())).as_ref());
        assert_eq!(known.erred.contains("v"), role.is_none(), "{:?}", known.findings);
    }
}

#[test]
fn expression_beyond_its_budget_of_steps_errs() {
    let list = format!("{{\"l\":[{}1]}}", "1,".repeat(999));
    for cel in [
        "input.l.all(a, input.l.all(b, a == b))",
        "input.l.all(a, a in input.l)",
        "sets.equivalent(input.l, input.l) && sets.equivalent(input.l, input.l)",
        "input.l.all(a, input.l == input.l)",
    ] {
        let known = derive("Bool", cel, &list);
        assert!(known.findings[0].message.contains("takes more than"), "{cel}: {known:?}");
    }
    assert_eq!(derive("Bool", "input.l.all(a, a == 1)", &list).findings, []);
}

/// Arguments slightly below 1 MiB, the maximum size of a record.
fn texts() -> String {
    let text = "a".repeat(400_000);
    let items = vec!["\"q\""; 45_000].join(",");
    format!("{{\"text\":\"{text}\",\"same\":\"{text}\",\"items\":[{items}]}}")
}

#[test]
fn budget_counts_bytes_of_texts() {
    let arguments = texts();
    let began = Instant::now();
    for cel in [
        "input.items.map(i, input.text + i).exists(x, x == 'admin/root')",
        "input.items.map(i, i + input.text).exists(x, x == 'admin/root')",
        "input.items.map(i, input.text).exists(x, x == 'admin/root')",
        "input.items.map(i, [input.text]).exists(x, x == ['admin/root'])",
        "input.items.map(i, {'a': input.text}).exists(x, x.a == 'admin/root')",
        "input.items.map(i, {input.text: 1}).exists(x, x == {})",
        "input.items.map(i, input.items).exists(x, x == ['admin/root'])",
        "input.items.map(i, input.items + input.items).exists(x, x == ['admin/root'])",
        "input.items.exists(i, [input.items] == [[i]])",
        "input.items.exists(i, input.?text.orValue('') == i)",
        "input.items.exists(i, !input[?'text'].hasValue())",
        "input.items.exists(i, cel.bind(x, input.text, x) == i)",
        "input.items.exists(i, input.text != input.same + '')",
        "!input.items.all(i, input.text == input.same)",
        "input.items.exists(i, input.text < input.same)",
        "input.items.exists(i, input.text in {'a': 1})",
        "input.items.exists(i, has(input[input.text].x))",
        "input.items.exists(i, input.text.contains(i))",
        "input.items.exists(i, input.text.startsWith(input.same + i))",
        "input.items.exists(i, input.text.matches(i))",
        "input.items.exists(i, input.text.matches('b$'))",
        "input.items.exists(i, i.matches('^\\\\w+@\\\\w+$'))",
        "input.items.exists(i, input.text.split('')[0] == i)",
        "input.items.exists(i, input.text.split(',')[0] == i)",
        "input.items.exists(i, input.text.lowerAscii() == i)",
        "input.items.exists(i, input.text.trim() == i)",
        "input.items.exists(i, input.text.substring(1) == i)",
        "input.items.exists(i, input.text.charAt(1) == i)",
        "input.items.exists(i, input.text.indexOf(i) > 0)",
        "input.text.indexOf(input.same.substring(0, 1000) + 'b') > 0",
        "input.items.exists(i, size(input.text) == 1)",
        "input.items.exists(i, input.text.size() == 1)",
        "input.items.exists(i, string(input.text) == i)",
    ] {
        let known = derive("Bool", cel, &arguments);
        let message = known.findings.first().map(|finding| finding.message.as_str());
        assert!(message.is_some_and(|message| message.contains("takes more than")), "{cel}: {known:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // Using each text once stays within the budget.
    for cel in [
        "input.text.contains('b') || input.text.startsWith('a') && input.text.indexOf('ab') < 0",
        "input.text + input.same != input.text && input.text == input.same && input.text.lowerAscii() == input.text",
        "input.text.matches('^a+$') && input.items.all(i, i == 'q') && 'q' in input.items",
        "input.items.exists(i, i.startsWith('q') && i + 'x' == 'qx')",
    ] {
        assert_eq!(derive("Bool", cel, &arguments).findings, [], "{cel}");
    }
}

#[test]
fn pattern_from_a_payload_is_bounded() {
    let pattern = |pattern: &str| format!("{{\"p\":\"{pattern}\",\"t\":\"{}\"}}", "a".repeat(1_000));
    for too_much in ["a{1000}".to_owned(), "a".repeat(257)] {
        let known = derive("Bool", "input.t.matches(input.p)", &pattern(&too_much));
        assert!(known.findings[0].message.starts_with("matches: expected a pattern"), "{known:?}");
    }
    assert_eq!(derive("Bool", "input.t.matches(input.p)", &pattern("^a+$")).findings, []);
    assert_eq!(derive("Bool", "input.t.matches('^a{1000}$')", &pattern("")).findings, []);
}

#[test]
fn object_in_place_of_a_list_is_an_error() {
    for cel in [
        "'open' in facts.order['A1']",
        "'open' in facts.order[?'A1'].orValue({})",
        "facts.order['A1'].exists(k, k == 'open')",
        "input.l.exists(x, x == 'admin')",
        "!input.l.all(x, x == 'guest')",
        "input.l.exists_one(x, x == 'admin')",
        "input.l.map(x, x) == ['admin']",
        "count(input.l.filter(x, x == 'admin')) > 0",
        "count(input.l) == 2",
        "size(input.l) == 2",
        "input.l.size() == 2",
        "'admin' in input.l",
        "cel.bind(l, input.l, 'admin' in l)",
        "[input.l].exists(l, 'admin' in l)",
        "'admin' in input.?l.orValue([])",
        "['a'] + input.l == ['a', 'admin']",
        "sets.equivalent(input.l, ['guest', 'admin'])",
        "input.exists(x, x == 'admin')",
        // A list in place of an object.
        "facts.order['A1'].lines[?input.l[?'0'].orValue('x')].hasValue()",
    ] {
        for object in ["{}", r#"{"value":["guest","admin"]}"#, r#"{"0":"guest","1":"admin"}"#] {
            let known = derive("Bool", cel, &format!("{{\"l\":{object}}}"));
            assert!(known.erred.contains("v"), "{cel} {object}: {known:?}");
        }
    }
    // A map literal in an expression has keys.
    assert_eq!(
        derive("Bool", "{'a': 1}.exists(k, k == input.l) && input.l in {'a': 1}", r#"{"l":"a"}"#).findings,
        []
    );
}

#[test]
fn derived_value_that_is_too_long_errs() {
    let long = format!("{{\"t\":\"{}\"}}", "x".repeat(9_000));
    let known = derive("String", "input.t", &long);
    assert_eq!(known.findings[0].code, ErrorCode::DerivedType);
    assert!(known.findings[0].message.starts_with("expected at most"));
}

#[test]
fn mistakes_of_a_file_are_reported_in_one_run_with_their_lines() {
    let yaml = "\
default:
  effect: reed
tools:
  get:
    effect: read
    states:
      - { fact: order, key: resul.id }
      - { fact: 'bad kind', key: result.id, when: 'size(' }
    refers:
      ordre: input.id
  put:
    effect: write
    derived:
      a: { type: Bool, value: 'facts.ordre.size() > 1 && inputs.x && sesion == 1' }
      b: { type: Int, value: input.x }
      message: { type: Bool, value: 'input.x' }
  del:
    effect: write
    derived:
      a: { type: Long, value: 'lenght(input.x) + session.call + count2(1)' }
";
    let problems = Tools::compile("tools.yaml", yaml, &["message"]).unwrap_err();
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        ":2:",
        "found `reed`",
        ":15:",
        "found `Int`",
        ":7:",
        "unknown name `resul`",
        ":8:",
        "found `bad kind`",
        ":8:",
        "not CEL",
        ":10:",
        "unknown kind of fact `ordre`",
        ":14:",
        "unknown `facts.ordre`",
        ":14:",
        "unknown name `inputs`",
        ":14:",
        "unknown name `sesion`",
        ":16:",
        "`message` is reserved for an attribute of the context",
        ":14:",
        "declared as Bool here and as Long in line 20",
        ":20:",
        "unknown function `count2`",
        ":20:",
        "unknown function `lenght`",
        ":20:",
        "unknown `session.call`",
    ];
    let all = found.join("\n");
    for pair in expected.chunks(2) {
        assert!(found.iter().any(|p| p.contains(pair[0]) && p.contains(pair[1])), "{pair:?}\n{all}");
    }
}

#[test]
fn kind_that_a_mistake_may_hide_is_not_reported_as_unknown() {
    let yaml = "\
default: { effect: read, refers: { order: input.id, ordre: input.id } }
tools:
  get:
    states:
      - { fact: [order], key: result.id }
";
    let draft = Tools::draft("tools.yaml", yaml, &[]);
    let problems = draft.tools.unwrap_err();
    let lines: Vec<u64> = problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [4, 5], "{problems:#?}");
    assert!(draft.names.contains("get") && !draft.declarations_complete);
}

#[test]
fn pattern_that_is_no_regular_expression_is_a_problem_with_its_place() {
    let compile = |cel: &str| {
        let yaml = format!("default:\n  effect: read\n  derived:\n    v: {{ type: Bool, value: '{cel}' }}\n");
        let problems = Tools::compile("tools.yaml", &yaml, &[]).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (cel, expected) in [
        ("input.id.matches(\"[a-z]+\")", None),
        // Known only when it is evaluated.
        ("input.id.matches(input.pattern)", None),
        ("input.id.matches(\"[a\")", Some("found `[a`: unclosed character class")),
        ("matches(input.id, \"(a\")", Some("found `(a`: unclosed group")),
        ("input.list.exists(x, x.matches(\"a{2\"))", Some("found `a{2`: unclosed counted repetition")),
        (
            "input.id.matches(\"(?=a)\")",
            Some("look-around, including look-ahead and look-behind, is not supported"),
        ),
        (
            "input.id.matches(\"(a{999}){999}\")",
            Some("of at most 10485760 bytes when compiled, found `(a{999}){999}`"),
        ),
    ] {
        match (compile(cel).as_slice(), expected) {
            ([], None) => {}
            ([problem], Some(expected)) => {
                assert!(problem.starts_with("tools.yaml:4:") && problem.contains(expected), "{problem}");
                assert!(problem.contains("matches: expected a regular expression"), "{problem}");
            }
            (found, expected) => panic!("{cel}: {expected:?}, {found:?}"),
        }
    }
}

#[test]
fn literal_that_a_function_cannot_convert_is_a_problem_with_its_place() {
    let compile = |cel: &str| {
        let yaml = format!("default:\n  effect: read\n  derived:\n    v: {{ type: Bool, value: '{cel}' }}\n");
        let problems = Tools::compile("tools.yaml", &yaml, &[]).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (function, valid, invalid) in [
        ("bool", "true", "perhaps"),
        ("double", "1.5", "one"),
        ("duration", "90m", "90"),
        ("int", "-7", "7.5"),
        ("time", "2024-05-15 15:00:00", "15:00"),
        ("timestamp", "2024-05-15T15:00:00Z", "2024-05-15T15:00:00"),
        ("uint", "7", "-7"),
    ] {
        let with = |text: &str| format!("input.a || {function}(\"{text}\") == input.b");
        assert!(compile(&with(valid)).is_empty(), "{function}");
        let problem = compile(&with(invalid)).concat();
        let expected = format!("{function}: expected a text that it can convert, found `{invalid}`;");
        assert!(problem.starts_with("tools.yaml:4:") && problem.contains(&expected), "{problem}");
        assert!(
            compile(&format!("{function}(input.a) == input.b")).is_empty(),
            "known only when it is evaluated"
        );
    }
}

#[test]
fn expression_that_is_too_long_or_too_deep_is_rejected() {
    let nested = format!("{}1{}", "(1 + ".repeat(100), ")".repeat(100));
    let long = format!("[{}1]", "1, ".repeat(2_000));
    let conditional = format!("{}1", "true ? 1 : ".repeat(100));
    let chain = format!("1{}", " + 1".repeat(100));
    for cel in [nested, long, conditional, chain] {
        let yaml = format!("default:\n  effect: read\n  derived:\n    v: {{ type: Long, value: '{cel}' }}\n");
        let problems = Tools::compile("tools.yaml", &yaml, &[]).unwrap_err();
        assert!(problems[0].message.contains("at most"), "{problems:?}");
    }
}

#[test]
fn expression_at_the_bounds_fits_a_small_stack() {
    let nested = format!("{}1{}", "(1 + ".repeat(8), ")".repeat(8));
    let chain = format!("1{}", " + 1".repeat(36));
    for (cel, expected) in [(nested, 9), (chain, 37)] {
        // A test thread has 2 MiB of stack, like a thread of a stage.
        assert_eq!(derive("Long", &cel, "{}").derived.get("v"), Some(&Scalar::Long(expected)), "{cel}");
    }
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let known = derive("Bool", "input == input && [input].map(x, x) == [input]", &deep);
    assert_eq!(known.derived.get("v"), Some(&Scalar::Bool(true)), "{known:?}");
}
