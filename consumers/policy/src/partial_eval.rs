//! Partial evaluation of a policy for a tool. The bundle compiler decides comparisons of the resource with tools, once for each tool
//! that the policy names and once for all other tools. Cedar evaluates the residual policy.
//!
//! `[Tool::"a", Tool::"b"].contains(resource) && context.n > 1` has the residual `context.n > 1` for `a` and `b`, and no residual
//! for other tools. Only decided parts are removed from an expression. The remaining parts are evaluated in the same order, fail as
//! before, and have the same value.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Clause, EntityUID, Expr, Literal, UnaryOp, Var};

use crate::rewrite::map_operands;

/// Maximum number of tools in one policy. The cost of partial evaluation is quadratic in it.
const MAX_TOOLS: usize = 64;

/// Returns the tools that the clauses of a policy compare the resource with, or `None` if there are more than [`MAX_TOOLS`]. Such
/// a policy is not partially evaluated.
pub(crate) fn named_tools(clauses: &[Clause]) -> Option<BTreeSet<String>> {
    let named = clauses.iter().map(|clause| {
        body(clause).reduce(
            &|expr| {
                let tools = compared_entities(expr)?.into_iter().filter_map(tool_name);
                Some(tools.map(str::to_owned).collect::<BTreeSet<String>>())
            },
            &|left, right| left.into_iter().chain(right).collect(),
            BTreeSet::new(),
        )
    });
    let named: BTreeSet<String> = named.flatten().collect();
    (named.len() <= MAX_TOOLS).then_some(named)
}

/// Returns the residual clauses for a `tool`, where `None` is any tool that the policy does not name. Returns `None` if the policy
/// can neither apply to the tool nor fail for it.
pub(crate) fn residual(clauses: &[Clause], tool: Option<&str>) -> Option<Vec<Clause>> {
    let mut left = Vec::new();
    for clause in clauses {
        let (clause, applies_if) = match clause {
            Clause::When(body) => (Clause::When(evaluate(body, tool)), true),
            Clause::Unless(body) => (Clause::Unless(evaluate(body, tool)), false),
        };
        match as_bool(body(&clause)) {
            Some(truth) if truth == applies_if => continue,
            // The clauses before it may fail.
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

/// Evaluates the decidable parts of an expression.
fn evaluate(expr: &Arc<Expr>, tool: Option<&str>) -> Arc<Expr> {
    if let Some(entities) = compared_entities(expr) {
        let is_one =
            tool.is_some_and(|name| entities.into_iter().any(|uid| self::tool_name(uid) == Some(name)));
        let is_negated = matches!(**expr, Expr::BinaryOp { op: BinaryOp::NotEq, .. });
        return literal(is_one != is_negated);
    }
    let evaluated = map_operands(expr, &mut |operand| evaluate(operand, tool));
    simplify(&evaluated).unwrap_or(evaluated)
}

/// Simplifies a boolean operator with a decided operand.
fn simplify(expr: &Expr) -> Option<Arc<Expr>> {
    match expr {
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            Some(Arc::clone(if as_bool(cond)? { then_expr } else { else_expr }))
        }
        Expr::UnaryOp { op: UnaryOp::Not, expr } => as_bool(expr).map(|truth| literal(!truth)),
        Expr::BinaryOp { op: op @ (BinaryOp::Or | BinaryOp::And), left, right } => {
            // The operand value that decides the operator. The right operand is then not evaluated.
            let decisive = *op == BinaryOp::Or;
            match (as_bool(left), as_bool(right)) {
                (Some(left), _) if left == decisive => Some(literal(decisive)),
                // An operand of another type fails, and must still fail here.
                (Some(_), _) if is_boolean(right) => Some(Arc::clone(right)),
                (_, Some(right)) if right != decisive && is_boolean(left) => Some(Arc::clone(left)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns the entity literals that an expression compares the resource with, or `None` for any other expression.
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

/// Returns the name of a tool entity, or `None` for an entity of another type.
fn tool_name(uid: &EntityUID) -> Option<&str> {
    let kind = &uid.ty.0;
    (kind.namespace.is_empty() && kind.id.as_str() == "Tool").then_some(uid.eid.as_str())
}

fn literal(truth: bool) -> Arc<Expr> {
    Arc::new(Expr::Literal(Literal::Bool(truth)))
}

fn as_bool(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Literal(Literal::Bool(truth)) => Some(*truth),
        _ => None,
    }
}

/// Returns true if the value of an expression, if it has one, is a boolean.
fn is_boolean(expr: &Expr) -> bool {
    use BinaryOp::{And, Contains, Eq, Greater, GreaterEq, In, Less, LessEq, NotEq, Or};
    match expr {
        Expr::BinaryOp { op, .. } => {
            matches!(op, Eq | NotEq | Less | LessEq | Greater | GreaterEq | And | Or | In | Contains)
        }
        Expr::UnaryOp { op, .. } => *op == UnaryOp::Not,
        Expr::HasAttr { .. } | Expr::Like { .. } | Expr::Is { .. } => true,
        _ => as_bool(expr).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::tests::clauses;

    fn policy(conditions: &str) -> Vec<Clause> {
        clauses(&format!("forbid (principal, action, resource) {conditions};"))
    }

    /// `index_decides_as_plain_cedar` in index.rs checks that nothing else changes.
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
            // An error must stay an error.
            (
                "when { context.n > 1 && resource == Tool::\"a\" }",
                Some(left),
                Some("when { context.n > 1 && false }"),
            ),
            ("when { resource == Tool::\"a\" && context.b }", Some("when { true && context.b }"), None),
            // An entity of a namespaced or another type is not a tool.
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
    fn policy_that_names_too_many_tools_is_not_evaluated_partially() {
        let tools = |count| {
            let names: Vec<String> = (0..count).map(|i| format!("Tool::\"{i}\"")).collect();
            policy(&format!("when {{ [{}].contains(resource) }}", names.join(", ")))
        };
        assert_eq!(named_tools(&tools(MAX_TOOLS)).map(|names| names.len()), Some(MAX_TOOLS));
        assert_eq!(named_tools(&tools(MAX_TOOLS + 1)), None);
    }
}
