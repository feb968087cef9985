//! Partial evaluation of a policy for a tool: comparisons of the resource with tools are decided when the bundle is compiled, once
//! for each tool that the policy names, and once for all others. Cedar evaluates the residual.
//!
//! `[Tool::"a", Tool::"b"].contains(resource) && context.n > 1` has the residual `context.n > 1` for `a` and `b`, and none for
//! other tools. Only what is decided is removed from an expression: the rest is evaluated in the same order, errs as before, and
//! has the same value.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Clause, EntityUID, Expr, Literal, UnaryOp, Var};

use crate::rewrite::map_operands;

/// Most tools that a policy may name: partial evaluation for each of them costs the square of their number.
const MAX_TOOLS: usize = 64;

/// Returns the tools that the clauses of a policy compare the resource with. `None` if there are too many: then the policy is
/// evaluated as it is.
pub(crate) fn named_tools(clauses: &[Clause]) -> Option<BTreeSet<String>> {
    let named = clauses.iter().map(|clause| {
        body(clause).reduce(
            &|expr| {
                let tools = compared_entities(expr)?.into_iter().filter_map(tool);
                Some(tools.map(str::to_owned).collect::<BTreeSet<String>>())
            },
            &|left, right| left.into_iter().chain(right).collect(),
            BTreeSet::new(),
        )
    });
    let named: BTreeSet<String> = named.flatten().collect();
    (named.len() <= MAX_TOOLS).then_some(named)
}

/// Returns the clauses that are left for a `tool`; `None` stands for every tool that the policy does not name. Returns `None` if
/// the policy can neither apply to the tool nor err.
pub(crate) fn residual(clauses: &[Clause], tool: Option<&str>) -> Option<Vec<Clause>> {
    let mut left = Vec::new();
    for clause in clauses {
        let (clause, applies_if) = match clause {
            Clause::When(body) => (Clause::When(evaluate(body, tool)), true),
            Clause::Unless(body) => (Clause::Unless(evaluate(body, tool)), false),
        };
        match truth(body(&clause)) {
            Some(truth) if truth == applies_if => continue,
            // The clauses before it could err.
            Some(_) if left.is_empty() => return None,
            _ => left.push(clause),
        }
    }
    Some(left)
}

pub(crate) fn body(clause: &Clause) -> &Arc<Expr> {
    match clause {
        Clause::When(body) | Clause::Unless(body) => body,
    }
}

/// Decides what can be decided of an expression.
fn evaluate(expr: &Arc<Expr>, tool: Option<&str>) -> Arc<Expr> {
    if let Some(entities) = compared_entities(expr) {
        let is_one = tool.is_some_and(|name| entities.into_iter().any(|uid| self::tool(uid) == Some(name)));
        let is_negated = matches!(**expr, Expr::BinaryOp { op: BinaryOp::NotEq, .. });
        return literal(is_one != is_negated);
    }
    let evaluated = map_operands(expr, &mut |operand| evaluate(operand, tool));
    simplify(&evaluated).unwrap_or(evaluated)
}

/// Simplifies an operator on truth values of which one is decided.
fn simplify(expr: &Expr) -> Option<Arc<Expr>> {
    match expr {
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            Some(Arc::clone(if truth(cond)? { then_expr } else { else_expr }))
        }
        Expr::UnaryOp { op: UnaryOp::Not, expr } => truth(expr).map(|truth| literal(!truth)),
        Expr::BinaryOp { op: op @ (BinaryOp::Or | BinaryOp::And), left, right } => {
            // The value that decides alone. A side that stands on the right of it is not evaluated.
            let decisive = *op == BinaryOp::Or;
            match (truth(left), truth(right)) {
                (Some(left), _) if left == decisive => Some(literal(decisive)),
                // Another type errs as an operand, and must err here.
                (Some(_), _) if is_truth(right) => Some(Arc::clone(right)),
                (_, Some(right)) if right != decisive && is_truth(left) => Some(Arc::clone(left)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns the literals that an expression compares the resource with, if that is all it does.
fn compared_entities(expr: &Expr) -> Option<Vec<&EntityUID>> {
    let is_resource = |expr: &Expr| matches!(expr, Expr::Var(Var::Resource));
    let Expr::BinaryOp { op, left, right } = expr else { return None };
    match op {
        BinaryOp::Eq | BinaryOp::NotEq if is_resource(left) => entity(right).map(|uid| vec![uid]),
        BinaryOp::Eq | BinaryOp::NotEq if is_resource(right) => entity(left).map(|uid| vec![uid]),
        BinaryOp::Contains if is_resource(right) => match &**left {
            Expr::Set(elements) => elements.iter().map(|element| entity(element)).collect(),
            _ => None,
        },
        _ => None,
    }
}

fn entity(expr: &Expr) -> Option<&EntityUID> {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => Some(uid),
        _ => None,
    }
}

/// The tool of an entity, unless it is of another type.
fn tool(uid: &EntityUID) -> Option<&str> {
    let kind = &uid.ty.0;
    (kind.namespace.is_empty() && kind.id.as_str() == "Tool").then_some(uid.eid.as_str())
}

fn literal(truth: bool) -> Arc<Expr> {
    Arc::new(Expr::Literal(Literal::Bool(truth)))
}

fn truth(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Literal(Literal::Bool(truth)) => Some(*truth),
        _ => None,
    }
}

/// Returns true if an expression has a truth value, whenever it has a value.
fn is_truth(expr: &Expr) -> bool {
    use BinaryOp::{And, Contains, Eq, Greater, GreaterEq, In, Less, LessEq, NotEq, Or};
    match expr {
        Expr::BinaryOp { op, .. } => {
            matches!(op, Eq | NotEq | Less | LessEq | Greater | GreaterEq | And | Or | In | Contains)
        }
        Expr::UnaryOp { op, .. } => *op == UnaryOp::Not,
        Expr::HasAttr { .. } | Expr::Like { .. } | Expr::Is { .. } => true,
        _ => truth(expr).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::tests::clauses;

    fn policy(conditions: &str) -> Vec<Clause> {
        clauses(&format!("forbid (principal, action, resource) {conditions};"))
    }

    /// That nothing else changes is held by `nothing_that_matters_is_left_out` of the index.
    #[test]
    fn comparison_with_the_tool_is_decided() {
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
            // An error stays one.
            (
                "when { context.n > 1 && resource == Tool::\"a\" }",
                Some(left),
                Some("when { context.n > 1 && false }"),
            ),
            ("when { resource == Tool::\"a\" && context.b }", Some("when { true && context.b }"), None),
            // A tool of a namespace, and an entity of another type, is no tool.
            ("when { resource == A::Tool::\"a\" || context.n > 1 }", Some(left), Some(left)),
            ("when { resource == Agent::\"a\" || context.n > 1 }", Some(left), Some(left)),
            ("when { context.n > 1 }", Some(left), Some(left)),
        ] {
            let whole = policy(conditions);
            assert!(
                named_tools(&whole).unwrap().iter().all(|name| name == "a" || name == "b"),
                "{conditions}"
            );
            for (tool, expected) in [(Some("a"), of_a), (None, of_others), (Some("c"), of_others)] {
                assert_eq!(residual(&whole, tool), expected.map(policy), "{conditions} of {tool:?}");
            }
        }
    }

    #[test]
    fn policy_that_names_many_tools_is_evaluated_as_it_is() {
        let tools = |count| {
            let names: Vec<String> = (0..count).map(|i| format!("Tool::\"{i}\"")).collect();
            policy(&format!("when {{ [{}].contains(resource) }}", names.join(", ")))
        };
        assert_eq!(named_tools(&tools(MAX_TOOLS)).map(|names| names.len()), Some(MAX_TOOLS));
        assert_eq!(named_tools(&tools(MAX_TOOLS + 1)), None);
    }
}
