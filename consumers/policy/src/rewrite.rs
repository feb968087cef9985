//! Rewrites of expressions that preserve their values and errors.

use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Expr};

/// Maximum number of elements of a set that is expanded. A longer chain of comparisons is slower than the set, and deep.
const MAX_ELEMENTS: usize = 32;
/// Maximum size of an operand that is repeated for each element. Nested lookups would otherwise grow by a factor of 32 at each
/// level.
const MAX_OPERAND_NODES: usize = 16;

/// Rewrites `[a, b].contains(x)` to `x == a || x == b`: Cedar builds a set literal at each evaluation, which is slower than
/// comparing with all of its elements.
///
/// Equality is defined for any two values in both forms, and `x` fails as before.
pub(crate) fn expand_contains(expr: &Arc<Expr>) -> Arc<Expr> {
    let expanded = map_operands(expr, &mut expand_contains);
    comparisons(&expanded).unwrap_or(expanded)
}

/// Returns the comparisons that replace a lookup in a set of literals, or `None` for any other expression.
fn comparisons(expr: &Expr) -> Option<Arc<Expr>> {
    let Expr::BinaryOp { op: BinaryOp::Contains, left: set, right: value } = expr else { return None };
    let Expr::Set(elements) = &**set else { return None };
    let are_literals = elements.iter().all(|element| matches!(**element, Expr::Literal(_)));
    if elements.len() > MAX_ELEMENTS || !are_literals || nodes(value) > MAX_OPERAND_NODES {
        return None;
    }
    let binary = |op, left, right| Arc::new(Expr::BinaryOp { op, left, right });
    // With an empty set, `value` would not be evaluated and could not fail; `reduce` returns `None` then.
    let equal = |element: &Arc<Expr>| binary(BinaryOp::Eq, Arc::clone(value), Arc::clone(element));
    elements.iter().map(equal).reduce(|left, right| binary(BinaryOp::Or, left, right))
}

fn nodes(expr: &Arc<Expr>) -> usize {
    let mut count = 1;
    map_operands(expr, &mut |operand| {
        count += nodes(operand);
        Arc::clone(operand)
    });
    count
}

/// Replaces each operand of an expression by the result of `map`. Returns the same expression if no operand changes.
pub(crate) fn map_operands(expr: &Arc<Expr>, map: &mut dyn FnMut(&Arc<Expr>) -> Arc<Expr>) -> Arc<Expr> {
    let mut is_changed = false;
    let mut mapped = |operand: &Arc<Expr>| {
        let mapped = map(operand);
        is_changed |= !Arc::ptr_eq(operand, &mapped);
        mapped
    };
    let new = match &**expr {
        Expr::UnaryOp { op, expr } => Expr::UnaryOp { op: *op, expr: mapped(expr) },
        Expr::BinaryOp { op, left, right } => {
            Expr::BinaryOp { op: *op, left: mapped(left), right: mapped(right) }
        }
        Expr::GetAttr { expr, attr } => Expr::GetAttr { expr: mapped(expr), attr: attr.clone() },
        Expr::HasAttr { expr, attrs } => Expr::HasAttr { expr: mapped(expr), attrs: attrs.clone() },
        Expr::Like { expr, pattern } => Expr::Like { expr: mapped(expr), pattern: pattern.clone() },
        Expr::Is { expr, entity_type, in_expr } => Expr::Is {
            expr: mapped(expr),
            entity_type: entity_type.clone(),
            in_expr: in_expr.as_ref().map(&mut mapped),
        },
        Expr::IfThenElse { cond, then_expr, else_expr } => Expr::IfThenElse {
            cond: mapped(cond),
            then_expr: mapped(then_expr),
            else_expr: mapped(else_expr),
        },
        Expr::Set(elements) => Expr::Set(elements.iter().map(&mut mapped).collect()),
        Expr::Record(fields) => {
            Expr::Record(fields.iter().map(|(name, field)| (name.clone(), mapped(field))).collect())
        }
        // Expressions without operands and of kinds that this version does not know stay unchanged.
        _ => return Arc::clone(expr),
    };
    if is_changed { Arc::new(new) } else { Arc::clone(expr) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::str::FromStr as _;

    use cedar_policy::pst::{self, Clause};
    use cedar_policy::{Authorizer, Context, Entities, EntityUid, Policy, PolicyId, Request};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::partial_eval::body;

    /// Returns the clauses of a policy.
    pub(crate) fn clauses(text: &str) -> Vec<Clause> {
        static_policy(&Policy::parse(None, text).unwrap()).body().clauses().clone()
    }

    fn static_policy(policy: &Policy) -> pst::StaticPolicy {
        match policy.to_pst().unwrap() {
            pst::Policy::Static(policy) => policy,
            pst::Policy::Linked(_) => panic!("no template is linked here"),
        }
    }

    const ELEMENTS: &[&str] = &["1", "2", "\"a\"", "\"b\"", "true", "User::\"a\"", "Tool::\"b\""];
    /// Operands that fail, have any type, and are or are not elements of the set.
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

    /// Expands the lookups of a policy. Returns `None` if it has none.
    fn expanded(policy: &Policy) -> Option<Policy> {
        let before = static_policy(policy).body().clone();
        let clauses: Vec<Clause> =
            before.clauses().iter().map(|c| Clause::When(expand_contains(body(c)))).collect();
        let is_changed = clauses != *before.clauses();
        let after = pst::StaticPolicy::try_from(before.try_with_clauses(clauses).unwrap()).unwrap();
        is_changed.then(|| Policy::from_pst(after.into()).unwrap())
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
        fn expanded_policy_has_the_same_outcome(
            elements in prop::collection::vec(prop::sample::select(ELEMENTS), 1..6),
            value in prop::sample::select(VALUES),
            around in prop::sample::select(AROUND),
        ) {
            let asked = policy(&elements, value, around);
            let compared = expanded(&asked).expect("it has a set of literals");
            prop_assert!(!compared.to_json().unwrap().to_string().contains("contains"));
            prop_assert_eq!(answer(&asked), answer(&compared));
            prop_assert_eq!(asked.id(), compared.id());
            prop_assert_eq!(asked.annotation("why"), compared.annotation("why"));
        }
    }

    /// Six nested lookups. Repeating each operand for each element would give a billion nodes.
    #[test]
    fn expansion_of_nested_lookups_is_bounded() {
        let elements: Vec<String> = (0..MAX_ELEMENTS).map(|i| i.to_string()).collect();
        let lookup = format!("[{}].contains(", elements.join(", "));
        let nested = format!("{}context.n{}", lookup.repeat(6), ")".repeat(6));
        let clauses = clauses(&format!("forbid (principal, action, resource) when {{ {nested} }};"));
        let before = body(&clauses[0]);
        let after = expand_contains(before);
        assert_ne!(*before, after);
        assert!(nodes(&after) < nodes(before) + 4 * MAX_ELEMENTS * MAX_OPERAND_NODES, "{}", nodes(&after));
    }

    #[test]
    fn other_expressions_are_not_expanded() {
        for (elements, value) in [
            (&[][..], "context.missing"),
            (&["context.n", "1"][..], "1"),
            (&["decimal(\"1.0\")"][..], "decimal(\"1.0\")"),
            (&["[1]"][..], "[1]"),
            (&["1"; MAX_ELEMENTS + 1][..], "1"),
        ] {
            assert!(expanded(&policy(elements, value, "_")).is_none(), "{elements:?}");
        }
        let all = "forbid (principal, action, resource) when { [1, 2].containsAll([context.n]) };";
        assert!(expanded(&Policy::parse(None, all).unwrap()).is_none());
    }
}
