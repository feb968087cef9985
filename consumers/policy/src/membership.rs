//! `[a, b].contains(x)` asked as `x == a || x == b`: Cedar builds a set that is written out anew at each question, and that
//! costs more than all comparisons with its elements.
//!
//! Nothing else changes: equality between any two values has an answer in both, `x` errs as it did, and it has no effects.

use serde_json::{Value, json};

/// Above this the chain is the dearer one, and deep besides.
const MOST_ELEMENTS: usize = 32;
/// Parts of a value, in Cedar's JSON format, that stands once for each element of the set. Where values contain lookups
/// themselves, each level would take 32 times as much.
const MOST_PARTS: usize = 64;

/// Rewrites sets of literals in which one value is looked up, in Cedar's JSON format for policies. True if there was one.
pub(crate) fn compare(json: &mut Value) -> bool {
    let inner = match json {
        Value::Object(fields) => fields.values_mut().map(compare).filter(|rewritten| *rewritten).count(),
        Value::Array(items) => items.iter_mut().map(compare).filter(|rewritten| *rewritten).count(),
        _ => return false,
    };
    let Some(chain) = chain(json) else { return inner > 0 };
    *json = chain;
    true
}

/// What stands for an expression, if it is a set of literals in which something is looked up.
fn chain(json: &Value) -> Option<Value> {
    let fields = json.as_object().filter(|fields| fields.len() == 1)?;
    let looked_up = fields.get("contains")?.as_object().filter(|sides| sides.len() == 2)?;
    let (set, value) = (looked_up.get("left")?, looked_up.get("right")?);
    let elements = set.as_object().filter(|set| set.len() == 1)?.get("Set")?.as_array()?;
    if elements.len() > MOST_ELEMENTS || !elements.iter().all(is_literal) || parts(value) > MOST_PARTS {
        return None;
    }
    // Without elements `value` would not be evaluated, and could not err.
    let equal = |element: &Value| json!({ "==": { "left": value, "right": element } });
    elements.iter().map(equal).reduce(|left, right| json!({ "||": { "left": left, "right": right } }))
}

fn parts(json: &Value) -> usize {
    1 + match json {
        Value::Object(fields) => fields.values().map(parts).sum(),
        Value::Array(items) => items.iter().map(parts).sum::<usize>(),
        _ => 0,
    }
}

/// A truth value, a number, a text or an entity: what neither costs anything nor errs. An extension's value is a call of a function.
fn is_literal(json: &Value) -> bool {
    let value = json.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.get("Value"));
    match value {
        Some(Value::Object(fields)) => fields.len() == 1 && fields.contains_key("__entity"),
        Some(value) => !value.is_array() && !value.is_null(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use cedar_policy::{Authorizer, Context, Entities, EntityUid, Policy, PolicyId, Request};
    use proptest::prelude::*;

    use super::*;

    const ELEMENTS: &[&str] = &["1", "2", "\"a\"", "\"b\"", "true", "User::\"a\"", "Tool::\"b\""];
    /// What may err, be of any type, and is or is not among the elements.
    const VALUES: &[&str] = &[
        "context.n",
        "context.s",
        "context.missing",
        "context",
        "principal",
        "resource",
        "[1]",
        "1 + context.n",
        "1 + context.s",
        "context has n",
        "if context.n == 1 then 2 else \"b\"",
        "decimal(\"1.0\")",
    ];
    const AROUND: &[&str] =
        &["_", "!_", "_ && context.n == 1", "context.n == 1 || !_", "if _ then context.x else true"];

    fn policy(elements: &[&str], value: &str, around: &str) -> Policy {
        let condition = around.replace('_', &format!("[{}].contains({value})", elements.join(", ")));
        let text = format!("@why(\"so\") forbid (principal, action, resource) when {{ {condition} }};");
        Policy::parse(Some(PolicyId::new("p")), text).unwrap()
    }

    fn rewritten(policy: &Policy) -> Option<Policy> {
        let mut json = policy.to_json().unwrap();
        compare(&mut json).then(|| Policy::from_json(Some(policy.id().clone()), json).unwrap())
    }

    fn answer(policy: &Policy) -> (bool, Vec<String>) {
        let uid = |text| EntityUid::from_str(text).unwrap();
        let context = Context::from_json_value(json!({ "n": 1, "s": "a" }), None).unwrap();
        let request =
            Request::new(uid("User::\"a\""), uid("Action::\"x\""), uid("Tool::\"b\""), context, None);
        let set = cedar_policy::PolicySet::from_policies([policy.clone()]).unwrap();
        let response = Authorizer::new().is_authorized(&request.unwrap(), &set, &Entities::empty());
        let errors = response.diagnostics().errors().map(ToString::to_string).collect();
        (response.diagnostics().reason().count() == 1, errors)
    }

    proptest! {
        #[test]
        fn the_answer_is_the_same(
            elements in prop::collection::vec(prop::sample::select(ELEMENTS), 1..6),
            value in prop::sample::select(VALUES),
            around in prop::sample::select(AROUND),
        ) {
            let asked = policy(&elements, value, around);
            let compared = rewritten(&asked).expect("it has a set of literals");
            prop_assert!(!compared.to_json().unwrap().to_string().contains("contains"));
            prop_assert_eq!(answer(&asked), answer(&compared));
            prop_assert_eq!(asked.id(), compared.id());
            prop_assert_eq!(asked.annotation("why"), compared.annotation("why"));
        }
    }

    /// Lookups within lookups, six deep: were each value written once for each element, a billion parts.
    #[test]
    fn a_policy_stays_about_as_large_as_it_was() {
        let elements: Vec<String> = (0..MOST_ELEMENTS).map(|i| i.to_string()).collect();
        let lookup = format!("[{}].contains(", elements.join(", "));
        let nested = format!("{}context.n{}", lookup.repeat(6), ")".repeat(6));
        let text = format!("forbid (principal, action, resource) when {{ {nested} }};");
        let mut json = Policy::parse(None, text).unwrap().to_json().unwrap();
        let before = parts(&json);
        assert!(compare(&mut json));
        assert!(parts(&json) < before + MOST_ELEMENTS * MOST_PARTS, "{before} {}", parts(&json));
    }

    #[test]
    fn what_is_no_lookup_in_literals_stays() {
        for (elements, value) in [
            (&[][..], "context.missing"),
            (&["context.n", "1"][..], "1"),
            (&["decimal(\"1.0\")"][..], "decimal(\"1.0\")"),
            (&["[1]"][..], "[1]"),
            (&["1"; MOST_ELEMENTS + 1][..], "1"),
        ] {
            assert!(rewritten(&policy(elements, value, "_")).is_none(), "{elements:?}");
        }
        let all = "forbid (principal, action, resource) when { [1, 2].containsAll([context.n]) };";
        assert!(rewritten(&Policy::parse(None, all).unwrap()).is_none());
    }
}
