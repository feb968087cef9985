//! Changes the arguments of denied calls; none may become allowed.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use agentgov_policy::BundleTable;
use agentgov_schemas::verdict::Decision;
use serde_json::json;

use crate::change::{Change, WHOLE, changed, changes, count, whole};
use crate::fixture::{ANY_ORDER, Denied, Exchange, POLICIES, bundle};
use crate::support::airline;

/// Calls that the airline's bundle denies.
pub static AIRLINE: LazyLock<Vec<Denied>> = LazyLock::new(|| {
    let bundle = airline();
    let customer = Exchange::new(
        "get_user_details",
        json!({ "user_id": "ines_blum_1" }),
        json!({ "membership": "regular", "payment_methods": {
            "certificate_1": { "source": "certificate" }, "certificate_2": { "source": "certificate" },
            "credit_card_1": { "source": "credit_card" },
        } })
        .to_string(),
    );
    let flights = json!([{ "flight_number": "ZQ10", "date": "2024-06-01" }]);
    let reservation = Exchange::new(
        "get_reservation_details",
        json!({ "reservation_id": "7" }),
        json!({
            "reservation_id": "7", "user_id": "ines_blum_1", "cabin": "basic_economy", "insurance": "no",
            "created_at": "2024-05-01T00:00:00", "total_baggages": 2, "flights": flights, "passengers": [{}, {}],
        })
        .to_string(),
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
        bundles: BundleTable::with_bundle(Arc::clone(&bundle)),
        before: vec![customer.clone(), reservation.clone()],
        tool,
        arguments,
    })
    .collect()
});

/// Expressions that are true for the arguments of [`PLAIN`].
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

static PLAIN: LazyLock<Vec<Denied>> = LazyLock::new(|| {
    let arguments = json!({
        "amount": 5000, "number": 9_007_199_254_740_993_i64, "role": "admin", "roles": ["guest", "admin"], "id": "7",
        "ids": ["8", "7"], "nested": { "deep": { "amount": 5000 } },
    });
    let order = |id: &str, locked: bool| {
        Exchange::new("get", json!({}), json!({ "id": id, "locked": locked }).to_string())
    };
    let bundles = VALUES.iter().flat_map(|value| POLICIES.iter().map(move |policies| (value, policies)));
    bundles
        .map(|(value, policies)| Denied {
            rule: format!("{value} {policies}"),
            bundles: BundleTable::with_bundle(bundle(ANY_ORDER, value, policies)),
            before: vec![order("7", true), order("8", false)],
            tool: "pay",
            arguments: arguments.clone(),
        })
        .collect()
});

fn check(denied: &Denied, arguments: &[u8], change: &dyn std::fmt::Debug) {
    let (decision, errors) = denied.decide(arguments);
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
        let (decision, errors) = denied.decide(denied.arguments.to_string().as_bytes());
        assert_eq!((decision, errors), (Decision::Deny, vec![]), "{} {}", denied.tool, denied.arguments);
    }
    for (i, denied) in PLAIN.iter().enumerate() {
        let (decision, errors) = denied.decide(denied.arguments.to_string().as_bytes());
        assert!(
            matches!(decision, Decision::Deny | Decision::Ask) && errors.is_empty(),
            "{i} {decision:?} {errors:?}"
        );
    }
}

/// Applies every change at every place, with one bundle for each value and for each policy. A policy sees that a value erred, not
/// why, so not every pair is needed.
#[test]
fn changed_arguments_never_turn_a_deny_into_an_allow() {
    let plain = PLAIN.iter().enumerate().filter(|(i, _)| {
        let (value, policy) = (i / POLICIES.len(), i % POLICIES.len());
        policy == value % POLICIES.len() || value == 0
    });
    for denied in AIRLINE.iter().chain(plain.map(|(_, denied)| denied)) {
        for change in changes() {
            // The place of too many values does not matter.
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
