//! What a policy says of the tool is decided once for each tool that it names, and once for all others; Cedar is asked the rest.
//!
//! `[Tool::"a", Tool::"b"].contains(resource) && context.n > 1` is asked as `context.n > 1` of `a` and `b`, and of other tools
//! not at all. Of an expression only what has been decided goes: what is left is evaluated in the same order, errs as it
//! did, and has the same value.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// A policy that names more tools than that is asked as it is: to decide it for each costs their number squared.
const MOST_TOOLS: usize = 64;

/// The tools that a policy, in Cedar's JSON format, compares the resource with. `None` if there are too many: then nothing is
/// to be decided.
pub(crate) fn named(policy: &Value) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    collect(policy, &mut names);
    (names.len() <= MOST_TOOLS).then_some(names)
}

fn collect(json: &Value, names: &mut BTreeSet<String>) {
    match json {
        Value::Object(fields) => {
            for literal in compared(fields).into_iter().flatten() {
                names.extend(tool_of(literal).map(str::to_owned));
            }
            fields.values().for_each(|inner| collect(inner, names));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, names)),
        _ => {}
    }
}

/// The policy as it is to be asked of a `tool`; `None` are all that it does not name. Gives `None` if it cannot apply to it, nor err.
pub(crate) fn decide(policy: &Value, tool: Option<&str>) -> Option<Value> {
    let mut policy = policy.clone();
    let Some(Value::Array(conditions)) = policy.get_mut("conditions") else { return Some(policy) };
    let mut left = Vec::new();
    for mut condition in std::mem::take(conditions) {
        let applies_if = condition.get("kind").and_then(Value::as_str) != Some("unless");
        if let Some(body) = condition.get_mut("body") {
            fold(body, tool);
            match truth(body) {
                Some(truth) if truth == applies_if => continue,
                // What stands before it could err.
                Some(_) if left.is_empty() => return None,
                _ => {}
            }
        }
        left.push(condition);
    }
    *conditions = left;
    Some(policy)
}

/// Decides what can be decided of an expression.
fn fold(json: &mut Value, tool: Option<&str>) {
    let fields = match json {
        Value::Object(fields) => fields,
        Value::Array(items) => return items.iter_mut().for_each(|item| fold(item, tool)),
        _ => return,
    };
    if let Some(literals) = compared(fields) {
        let is_one =
            tool.is_some_and(|tool| literals.into_iter().any(|literal| tool_of(literal) == Some(tool)));
        *json = literal(is_one != fields.contains_key("!="));
        return;
    }
    fields.values_mut().for_each(|inner| fold(inner, tool));
    if let Some(simpler) = simpler(fields) {
        *json = simpler;
    }
}

/// What stands for an operator of truth values, one of which is decided.
fn simpler(fields: &Map<String, Value>) -> Option<Value> {
    if let Some(branches) = operator(fields, "if-then-else") {
        let branch = if truth(branches.get("if")?)? { "then" } else { "else" };
        return branches.get(branch).cloned();
    }
    if let Some(argument) = operator(fields, "!") {
        return Some(literal(!truth(argument.get("arg")?)?));
    }
    // What decides it alone: the other side is not evaluated, if it stands on the right.
    let (sides, decides) = match (operator(fields, "||"), operator(fields, "&&")) {
        (Some(sides), _) => (sides, true),
        (_, Some(sides)) => (sides, false),
        _ => return None,
    };
    let (left, right) = (sides.get("left")?, sides.get("right")?);
    match (truth(left), truth(right)) {
        (Some(left), _) if left == decides => Some(literal(decides)),
        // Another value would err there, and must here.
        (Some(_), _) if is_truth(right) => Some(right.clone()),
        (_, Some(right)) if right != decides && is_truth(left) => Some(left.clone()),
        _ => None,
    }
}

/// The literals that the resource is compared with, if that is what an expression does.
fn compared(fields: &Map<String, Value>) -> Option<Vec<&Value>> {
    let is_resource = |json: &Value| json == &json!({ "Var": "resource" });
    if let Some(sides) = operator(fields, "==").or_else(|| operator(fields, "!=")) {
        let (left, right) = (sides.get("left")?, sides.get("right")?);
        let other = if is_resource(left) { right } else { Some(left).filter(|_| is_resource(right))? };
        return entity(other).map(|_| vec![other]);
    }
    let lookup =
        operator(fields, "contains").filter(|lookup| lookup.get("right").is_some_and(is_resource))?;
    let elements = lookup.get("left")?.get("Set")?.as_array()?;
    elements.iter().all(|element| entity(element).is_some()).then(|| elements.iter().collect())
}

fn operator<'j>(fields: &'j Map<String, Value>, name: &str) -> Option<&'j Value> {
    fields.get(name).filter(|_| fields.len() == 1)
}

/// Type and id of a literal entity.
fn entity(json: &Value) -> Option<(&str, &str)> {
    let entity = json.get("Value")?.get("__entity")?;
    Some((entity.get("type")?.as_str()?, entity.get("id")?.as_str()?))
}

/// The tool that a literal names: it is one of another type otherwise.
fn tool_of(literal: &Value) -> Option<&str> {
    entity(literal).filter(|(kind, _)| *kind == "Tool").map(|(_, id)| id)
}

fn literal(truth: bool) -> Value {
    json!({ "Value": truth })
}

fn truth(json: &Value) -> Option<bool> {
    operator(json.as_object()?, "Value")?.as_bool()
}

/// True if an expression has a truth value, whenever it has any.
fn is_truth(json: &Value) -> bool {
    const OPERATORS: [&str; 13] =
        ["==", "!=", "<", "<=", ">", ">=", "&&", "||", "!", "has", "like", "in", "contains"];
    truth(json).is_some()
        || json
            .as_object()
            .is_some_and(|fields| OPERATORS.iter().any(|name| operator(fields, name).is_some()))
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn policy(conditions: &str) -> Value {
        Policy::parse(None, format!("forbid (principal, action, resource) {conditions};"))
            .unwrap()
            .to_json()
            .unwrap()
    }

    /// That nothing else changes is held by `nothing_that_matters_is_left_out` of the index.
    #[test]
    fn what_is_said_of_the_tool_is_decided() {
        let left = "when { context.n > 1 }";
        for (conditions, of_a, of_others) in [
            ("when { resource == Tool::\"a\" }", Some(""), None),
            ("when { resource != Tool::\"a\" }", None, Some("")),
            ("when { Tool::\"a\" == resource && context.n > 1 }", Some(left), None),
            ("when { resource != Tool::\"a\" || context.n > 1 }", Some(left), Some("")),
            (
                "when { [Tool::\"b\", Tool::\"a\"].contains(resource) } when { context.n > 1 }",
                Some(left),
                None,
            ),
            (
                "when { context.n > 1 } unless { ![Tool::\"a\"].contains(resource) }",
                Some(left),
                Some("when { context.n > 1 } unless { true }"),
            ),
            (
                "unless { [Tool::\"a\", Agent::\"x\"].contains(resource) } when { context.n > 1 }",
                None,
                Some(left),
            ),
            ("when { if resource == Tool::\"a\" then context.n > 1 else false }", Some(left), None),
            // What would err must err.
            (
                "when { context.n > 1 && resource == Tool::\"a\" }",
                Some(left),
                Some("when { context.n > 1 && false }"),
            ),
            ("when { resource == Tool::\"a\" && context.b }", Some("when { true && context.b }"), None),
            // Of the tool nothing is said here.
            ("when { resource == Agent::\"a\" || context.n > 1 }", Some(left), Some(left)),
            ("when { context.n > 1 }", Some(left), Some(left)),
        ] {
            let json = policy(conditions);
            assert!(named(&json).unwrap().iter().all(|name| name == "a" || name == "b"), "{conditions}");
            for (tool, expected) in [(Some("a"), of_a), (None, of_others), (Some("c"), of_others)] {
                let expected = expected.map(|conditions| policy(conditions)["conditions"].clone());
                let decided = decide(&json, tool).map(|json| json["conditions"].clone());
                assert_eq!(decided, expected, "{conditions} of {tool:?}");
            }
        }
    }

    #[test]
    fn who_names_many_tools_is_asked_as_they_are() {
        let tools = |count| {
            let names: Vec<String> = (0..count).map(|i| format!("Tool::\"{i}\"")).collect();
            policy(&format!("when {{ [{}].contains(resource) }}", names.join(", ")))
        };
        assert_eq!(named(&tools(MOST_TOOLS)).map(|names| names.len()), Some(MOST_TOOLS));
        assert_eq!(named(&tools(MOST_TOOLS + 1)), None);
    }
}
