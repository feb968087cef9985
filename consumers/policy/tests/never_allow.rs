//! An error is never an allow: no change of the arguments of a denied call makes it allowed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use agentgov_policy::{Bundle, BundleFiles, BundleTable, generated_schema};
use agentgov_schemas::event::{ToolCall, ToolResult};
use agentgov_schemas::verdict::Decision;
use serde_json::{Value, json};
use support::{Replay, Told, airline, kernel, payload, service_agent};

/// A call that is denied, after other calls with their results.
struct Denied {
    /// What the bundle says.
    rule: String,
    bundle: Arc<Bundle>,
    before: Vec<(&'static str, Value, Value)>,
    tool: &'static str,
    arguments: Value,
}

impl Denied {
    fn decided(&self, arguments: &[u8]) -> (Decision, Vec<String>) {
        let (agents, bundles) = (service_agent(), BundleTable::of(Arc::clone(&self.bundle)));
        let mut replay = Replay::new(kernel(&agents, &bundles));
        replay.tell(Told { kind: "session.started", ..Told::default() });
        for (tool, arguments, result) in &self.before {
            let (arguments, result) = (arguments.to_string(), result.to_string());
            let call = ToolCall { name: tool, call_id: "before", arguments: payload(arguments.as_bytes()) };
            replay.tell(Told { kind: "tool.invoked", tool: Some(call), ..Told::default() });
            let content = payload(result.as_bytes());
            let result = ToolResult { call_id: "before", name: None, is_error: None, content };
            replay.tell(Told { kind: "tool.response_received", result: Some(result), ..Told::default() });
        }
        let call = ToolCall { name: self.tool, call_id: "call", arguments: payload(arguments) };
        let judged = replay.tell(Told { kind: "tool.invoked", tool: Some(call), ..Told::default() }).unwrap();
        (
            judged.decision,
            judged.errors.iter().map(|e| format!("{} {}: {}", e.code, e.subject, e.message)).collect(),
        )
    }
}

static AIRLINE: LazyLock<Vec<Denied>> = LazyLock::new(|| {
    let bundle = airline();
    let customer = (
        "get_user_details",
        json!({ "user_id": "ines_blum_1" }),
        json!({ "membership": "regular", "payment_methods": {
            "certificate_1": { "source": "certificate" }, "certificate_2": { "source": "certificate" },
            "credit_card_1": { "source": "credit_card" },
        } }),
    );
    let flights = json!([{ "flight_number": "ZQ10", "date": "2024-06-01" }]);
    let reservation = (
        "get_reservation_details",
        json!({ "reservation_id": "7" }),
        json!({
            "reservation_id": "7", "user_id": "ines_blum_1", "cabin": "basic_economy", "insurance": "no",
            "created_at": "2024-05-01T00:00:00", "total_baggages": 2, "flights": flights, "passengers": [{}, {}],
        }),
    );
    [
        ("book_reservation", json!({ "user_id": "ines_blum_1", "passengers": [1, 2, 3, 4, 5, 6], "payment_methods": [] })),
        ("book_reservation", json!({ "user_id": "ines_blum_1", "passengers": [], "payment_methods": [{ "payment_id": "gift_card_9" }] })),
        ("book_reservation", json!({
            "user_id": "ines_blum_1", "passengers": [],
            "payment_methods": [{ "payment_id": "certificate_1" }, { "payment_id": "certificate_2" }],
        })),
        ("book_reservation", json!({ "user_id": "tom_rau_2", "passengers": [], "payment_methods": [] })),
        ("update_reservation_flights", json!({
            "reservation_id": "7", "flights": [{ "flight_number": "ZQ12", "date": "2024-06-01" }], "payment_id": "credit_card_1",
        })),
        ("update_reservation_flights", json!({ "reservation_id": "7", "flights": flights, "payment_id": "certificate_1" })),
        ("update_reservation_flights", json!({ "reservation_id": "7", "flights": flights, "payment_id": "gift_card_9" })),
        ("update_reservation_baggages", json!({ "reservation_id": "7", "total_baggages": 1, "payment_id": "credit_card_1" })),
        ("update_reservation_passengers", json!({ "reservation_id": "7", "passengers": [{}, {}, {}] })),
        ("cancel_reservation", json!({ "reservation_id": "7" })),
        ("cancel_reservation", json!({ "reservation_id": "8" })),
        ("send_certificate", json!({ "user_id": "ines_blum_1", "amount": 100 })),
    ]
    .into_iter()
    .map(|(tool, arguments)| Denied {
        rule: "airline".to_owned(),
        bundle: Arc::clone(&bundle),
        before: vec![customer.clone(), reservation.clone()],
        tool,
        arguments,
    })
    .collect()
});

/// Each value is true of `ARGUMENTS`.
const VALUES: &[&str] = &[
    "input.amount > 100",
    "100 < input.amount",
    "!(input.amount <= 100)",
    "input.?amount.orValue(0) > 100",
    "has(input.amount) && input.amount > 100",
    "input.nothing == 1 || input.amount > 100",
    "input.amount > 100 || input.nothing == 1",
    "type(input.amount) == list || input.amount > 100",
    "input.number == 9007199254740993",
    "input.number in [1, 9007199254740993]",
    "input.role in ['admin', 'root']",
    "input.role == 'admin'",
    "input.roles.exists(role, role == 'admin')",
    "!input.roles.all(role, role == 'guest')",
    "'admin' in input.roles",
    "count(input.roles) == 2",
    "facts.order[input.id].locked",
    "facts.order[?input.id].?locked.orValue(false)",
    "input.ids.exists(id, facts.order[id].locked)",
    "input.nested.deep.amount > 100",
    "input.nested.?deep.?amount.orValue(0) > 100",
    "{'7': true}[?input.id].orValue(false)",
    "input.id.startsWith('7')",
    "sets.equivalent(input.roles, ['admin', 'guest'])",
];

/// Each denies, or asks about, a call whose value is true.
const POLICIES: &[&str] = &[
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) when { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") @effect(\"ask\") forbid (principal, action, resource) when { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) when { if context has v then context.v else false };",
    "@id(\"g\") permit (principal, action, resource);
     @id(\"r\") @severity(\"high\") forbid (principal, action, resource) unless { context has v && !context.v };",
    "@id(\"g\") permit (principal, action, resource) unless { context has v && context.v };",
    "@id(\"g\") permit (principal, action, resource) when { if context has v then !context.v else true };",
    "@id(\"g\") permit (principal, action, resource) when { context has v && !context.v };
     @id(\"h\") permit (principal, action, resource) when { !(context has v) };",
];

static PLAIN: LazyLock<Vec<Denied>> = LazyLock::new(|| {
    let arguments = json!({
        "amount": 5000, "number": 9_007_199_254_740_993_i64, "role": "admin", "roles": ["guest", "admin"], "id": "7",
        "ids": ["8", "7"], "nested": { "deep": { "amount": 5000 } },
    });
    let order = |id: &str, locked: bool| ("get", json!({}), json!({ "id": id, "locked": locked }));
    let bundles = VALUES.iter().flat_map(|value| POLICIES.iter().map(move |policies| (value, policies)));
    bundles
        .map(|(value, policies)| Denied {
            rule: format!("{value} {policies}"),
            bundle: plain(value, policies),
            before: vec![order("7", true), order("8", false)],
            tool: "pay",
            arguments: arguments.clone(),
        })
        .collect()
});

fn plain(value: &str, policies: &str) -> Arc<Bundle> {
    let quoted = serde_json::to_string(value).unwrap();
    let tools = format!(
        "default:\n  effect: read\n  states: [{{ fact: order, key: result.id }}]\ntools:\n  pay:\n    effect: write\n    derived: {{ v: {{ type: Bool, value: {quoted} }} }}\n"
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

/// A change of one value of the arguments.
#[derive(Clone, Copy, Debug)]
enum Change {
    Quote,
    Unquote,
    List,
    Object,
    Respelt(&'static str),
    NotANumber,
    /// The keys of an object once more, with this value; in front or behind.
    Twice(&'static str, bool),
    /// One more field.
    Beside(&'static str),
    Deep,
    Large,
}

/// Every change.
fn changes() -> Vec<Change> {
    use Change::{Beside, Deep, Large, List, NotANumber, Object, Quote, Respelt, Twice, Unquote};
    let mut changes = vec![Quote, Unquote, List, Object, NotANumber, Deep, Large];
    changes.extend([".0", "e0", "0e-1", ".0e+0", "0000E-4"].map(Respelt));
    for front in [false, true] {
        changes.extend(["null", "0", "\"\"", "[]", "{}", "false", "\"8\""].map(|other| Twice(other, front)));
    }
    changes.extend(["NaN", "-Infinity", "1e400", "\"\\ud83d\"", "\"\\udc00\\ud800\"", "[NaN]"].map(Beside));
    changes
}

/// Ways to change the whole text.
const WHOLE: usize = 16;

/// Changes the whole text.
fn whole(text: &str, what: usize, at: usize) -> Vec<u8> {
    let text = match what {
        0 => text.get(..at % text.len()).unwrap_or_default().to_owned(),
        1 => format!("{text}}}"),
        2 => format!("{text} {text}"),
        3 => format!("\u{feff}{text}"),
        4 => text.replace('"', "'"),
        5 => text.replace('}', ",}"),
        6 => format!("/* */{text}"),
        7 => Value::from(text).to_string(),
        8 => format!("[{text}]"),
        9 => String::new(),
        10 => "null".to_owned(),
        11 => format!("{text}\0"),
        12 => text.replace(':', ""),
        13 => return [text.as_bytes(), b"\xff"].concat(),
        14 => {
            return text
                .replace(":\"", ":\"\u{1}")
                .bytes()
                .map(|byte| if byte == 1 { 0xed } else { byte })
                .collect();
        }
        15 => return text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        _ => text.to_owned(),
    };
    text.into_bytes()
}

/// The value as JSON, with a change to the value of number `at`.
fn changed(value: &Value, change: Change, at: &mut Option<usize>) -> String {
    let here = *at == Some(0);
    *at = at.and_then(|at| at.checked_sub(1));
    let mut text = match value {
        Value::Object(entries) => {
            let mut fields: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), changed(value, change, at)))
                .collect();
            match change {
                _ if !here => {}
                Change::Twice(other, front) => {
                    let again = entries.keys().map(|key| format!("{}:{other}", Value::from(key.as_str())));
                    if front { fields.splice(0..0, again).for_each(drop) } else { fields.extend(again) }
                }
                Change::Beside(other) => fields.push(format!("\"beside\":{other}")),
                Change::Deep => fields.push(format!("\"beside\":{}{}", "[".repeat(130), "]".repeat(130))),
                Change::Large => fields.push(format!("\"beside\":[{}0]", "0,".repeat(50_000))),
                _ => {}
            }
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| changed(item, change, at)).collect::<Vec<_>>().join(","))
        }
        _ => value.to_string(),
    };
    if here {
        match change {
            Change::Quote if !value.is_string() => text = Value::from(text).to_string(),
            Change::Unquote if value.as_str().is_some_and(|text| text.parse::<i64>().is_ok()) => {
                text = text.trim_matches('"').to_owned();
            }
            // A list of one list is a list as well.
            Change::List if !value.is_array() => text = format!("[{text}]"),
            // Fields that stand elsewhere are other fields: that is another call.
            Change::Object if !value.is_object() => text = format!("{{\"value\":{text}}}"),
            Change::Respelt(tail) if value.is_number() => text.push_str(tail),
            Change::NotANumber if value.is_number() => text = "NaN".to_owned(),
            _ => {}
        }
    }
    text
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

fn check(denied: &Denied, arguments: &[u8], change: &dyn std::fmt::Debug) {
    let (decision, errors) = denied.decided(arguments);
    let shown = String::from_utf8_lossy(arguments);
    assert_ne!(
        decision,
        Decision::Allow,
        "{} {}: {change:?} {shown:.400} {errors:?}",
        denied.tool,
        denied.rule
    );
}

#[test]
fn unchanged_calls_are_denied() {
    for denied in AIRLINE.iter() {
        let (decision, errors) = denied.decided(denied.arguments.to_string().as_bytes());
        assert_eq!((decision, errors), (Decision::Deny, vec![]), "{} {}", denied.tool, denied.arguments);
    }
    for (i, denied) in PLAIN.iter().enumerate() {
        let (decision, errors) = denied.decided(denied.arguments.to_string().as_bytes());
        assert!(
            matches!(decision, Decision::Deny | Decision::Ask) && errors.is_empty(),
            "{i} {decision:?} {errors:?}"
        );
    }
}

/// Every change at every place. One bundle of each value, and of each policy: a policy sees of a value that it erred, not why.
#[test]
fn changed_arguments_never_turn_a_deny_into_an_allow() {
    let plain = PLAIN.iter().enumerate().filter(|(i, _)| {
        let (value, policy) = (i / POLICIES.len(), i % POLICIES.len());
        policy == value % POLICIES.len() || value == 0
    });
    for denied in AIRLINE.iter().chain(plain.map(|(_, denied)| denied)) {
        for change in changes() {
            // Too many values are too many anywhere.
            let places = if matches!(change, Change::Large) { 1 } else { count(&denied.arguments) };
            let mut seen = BTreeSet::from([denied.arguments.to_string()]);
            for at in 0..places {
                let text = changed(&denied.arguments, change, &mut Some(at));
                if !seen.contains(&text) {
                    check(denied, text.as_bytes(), &change);
                    seen.insert(text);
                }
            }
        }
    }
}

#[test]
fn broken_arguments_never_turn_a_deny_into_an_allow() {
    let plain = PLAIN.iter().step_by(POLICIES.len() + 1);
    for denied in AIRLINE.iter().chain(plain) {
        let text = denied.arguments.to_string();
        for what in 0..WHOLE {
            let places = if what == 0 { text.len() } else { 1 };
            for at in (0..places).step_by(3) {
                check(denied, &whole(&text, what, at), &what);
            }
        }
    }
}
