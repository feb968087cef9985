//! Compilation of CEL expressions.
//!
//! The compiler rejects unknown variables ([`VariableNames`]), unknown members and functions that are not listed, and limits length
//! and nesting. `evaluate` evaluates compiled expressions.

use std::collections::BTreeSet;

use agentgov_schemas::yaml::one_of;
use cel::ExecutionError;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::common::value::CowVal;
use regex::Regex;

use crate::evaluate::Evaluation;
use crate::functions::{self, CALLABLE, EQUIVALENT, NAMESPACES, TYPES};
use crate::json::OWN_ERROR;
use crate::scope::{self, Scope};

/// Maximum length of an expression in bytes.
pub const MAX_LENGTH: usize = 4096;
/// Maximum nesting of brackets and conditionals: the parser of the cel crate needs up to 200 KB of stack for each level. It also
/// recurses along chains of members and operators up to [`MAX_LENGTH`], so every thread that compiles has the stack size of
/// `agentgov_schemas::bounds`.
const MAX_NESTING: usize = 8;
/// Maximum depth of the syntax tree, since evaluation is recursive. A chain of operators is as deep as it is long.
const MAX_DEPTH: usize = 40;

/// Functions that convert a text and err if it has another form.
const CONVERSIONS: [&str; 7] = ["bool", "double", "duration", "int", "time", "timestamp", "uint"];

/// Names of the variables that an expression may use.
pub type VariableNames = &'static [&'static str];

/// Compiled expression.
#[derive(Debug)]
pub struct Expression(IdedExpr);

/// Reason why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A key, a field or a fact is missing. This is not an error.
    Missing,
    /// The expression reads the arguments of the call, and they are unreadable.
    UnreadableArguments,
    /// Any other error. The message never quotes a payload.
    Error(String),
}

impl Expression {
    /// Compiles `source`, which may use the variables `names` and facts of `kinds`, or of any kind if that is `None`.
    ///
    /// # Errors
    /// Messages for all mistakes.
    pub fn compile(
        source: &str,
        names: VariableNames,
        kinds: Option<&BTreeSet<String>>,
    ) -> Result<Self, Vec<String>> {
        if source.len() > MAX_LENGTH {
            return Err(vec![format!("expected at most {MAX_LENGTH} bytes of CEL, found {}", source.len())]);
        }
        let nesting = nesting(source);
        if nesting > MAX_NESTING {
            return Err(vec![format!(
                "expected brackets and conditionals nested at most {MAX_NESTING} deep, found {nesting}"
            )]);
        }
        let env = functions::env().map_err(|e| vec![e.to_string()])?;
        let tree = env.parser().parse(source).map_err(|e| {
            e.errors
                .iter()
                .map(|e| format!("not CEL, at line {}, column {}: {}", e.pos.0, e.pos.1, e.msg))
                .collect::<Vec<_>>()
        })?;
        let mut checker = NameChecker { names, kinds, bound: Vec::new(), problems: Vec::new() };
        checker.check_node(&tree, 0);
        checker.problems.sort();
        checker.problems.dedup();
        if checker.problems.is_empty() { Ok(Self(tree)) } else { Err(checker.problems) }
    }

    /// Evaluates the expression and passes its value to `then`.
    pub(crate) fn evaluate<T>(
        &self,
        scope: &Scope<'_>,
        then: impl FnOnce(CowVal<'_, '_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        scope.refill();
        let env = functions::env().map_err(|e| Failure::Error(e.to_string()))?;
        then(Evaluation { scope, env }.eval(&self.0, None)?)
    }
}

impl Failure {
    /// Returns the failure that an operator with two failed operands reports: an error outweighs a missing value.
    pub(crate) fn more_severe(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Missing, _) | (Self::UnreadableArguments, Self::Error(_)) => other,
            _ => self,
        }
    }
}

/// Returns an upper bound for the nesting of brackets and conditionals. It counts brackets in texts too.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for c in source.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest + source.replace(".?", "").replace("[?", "").matches('?').count()
}

/// Converts an error of the cel crate. Its own messages may quote values, so only types and functions are named.
pub(crate) fn failure_from_cel(error: &ExecutionError) -> Failure {
    Failure::Error(match error {
        ExecutionError::NoSuchKey(_) => return Failure::Missing,
        ExecutionError::NoSuchOverload(e) => e.to_string(),
        ExecutionError::FunctionError { function, message } if CALLABLE.contains(&function.as_str()) => {
            // The messages of the standard functions quote their arguments.
            match function.as_str() {
                "time" | "count" => format!("{function}: {message}"),
                _ => format!("{function}: not possible with this value"),
            }
        }
        ExecutionError::FunctionError { function, message } if function == OWN_ERROR => message.clone(),
        ExecutionError::FunctionError { .. } => "a function: not possible with this value".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "division by zero".to_owned()
        }
        ExecutionError::Overflow(operator, ..) => format!("overflow in `{operator}`"),
        ExecutionError::UnsupportedBinaryOperator(operator, ..) => {
            format!("`{operator}` is not possible with values of these types")
        }
        ExecutionError::UnexpectedType { want, .. } => format!("expected a value of type {want}"),
        _ => "not possible with values of these types".to_owned(),
    })
}

struct NameChecker<'k> {
    names: VariableNames,
    kinds: Option<&'k BTreeSet<String>>,
    bound: Vec<String>,
    problems: Vec<String>,
}

impl NameChecker<'_> {
    /// Checks names, members and functions of a node.
    fn check_node(&mut self, node: &IdedExpr, depth: usize) {
        if depth > MAX_DEPTH {
            self.problems.push(format!("expected an expression nested at most {MAX_DEPTH} deep"));
            return;
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Ident(name) => self.check_name(name),
            Expr::Select(select) => {
                self.check_member(&select.operand.expr, &select.field);
                self.check_node(&select.operand, depth);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.check_node(element, depth)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.check_node(&entry.key, depth);
                        self.check_node(&entry.value, depth);
                    }
                }
            }
            Expr::Call(call) => self.check_call(call, depth),
            Expr::Comprehension(fold) => {
                self.check_node(&fold.iter_range, depth);
                self.check_node(&fold.accu_init, depth);
                let outer = self.bound.len();
                self.bound.extend([fold.iter_var.clone(), fold.accu_var.clone()]);
                self.check_node(&fold.loop_cond, depth);
                self.check_node(&fold.loop_step, depth);
                self.check_node(&fold.result, depth);
                self.bound.truncate(outer);
            }
            Expr::Struct(found) => self.problems.push(format!("unknown type `{}`", found.type_name)),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn check_call(&mut self, call: &CallExpr, depth: usize) {
        call.args.iter().for_each(|arg| self.check_node(arg, depth));
        let namespaced = is_namespaced(call);
        if let Some(target) = call.target.as_deref().filter(|_| !namespaced) {
            self.check_node(target, depth);
        }
        self.check_function(&call.func_name, namespaced);
        if call.func_name == "matches" {
            self.check_pattern(call.args.last());
        }
        if CONVERSIONS.contains(&call.func_name.as_str()) {
            self.check_conversion(&call.func_name, &call.args);
        }
    }

    /// Checks the conversion of a literal text: otherwise each evaluation would err.
    fn check_conversion(&mut self, name: &str, args: &[IdedExpr]) {
        let [IdedExpr { expr: Expr::Literal(literal @ LiteralValue::String(text)), .. }] = args else {
            return;
        };
        let args = vec![literal.to_val()];
        let function = functions::env().ok().and_then(|env| env.find_overload(name, &args));
        if function.is_some_and(|function| function(args).is_err()) {
            self.problems.push(format!(
                "{name}: expected a text that it can convert, found `{}`; docs/policies.md lists the functions",
                text.inner()
            ));
        }
    }

    /// Checks a pattern that is a literal: otherwise each evaluation would err.
    fn check_pattern(&mut self, pattern: Option<&IdedExpr>) {
        if let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern.map(|pattern| &pattern.expr)
            && let Err(error) = Regex::new(pattern.inner())
        {
            let pattern = pattern.inner();
            self.problems.push(match error {
                regex::Error::CompiledTooBig(limit) => format!(
                    "matches: expected a regular expression of at most {limit} bytes when compiled, found `{pattern}`; repeat less"
                ),
                // The text quotes the pattern over several lines. The last one has the reason.
                error => {
                    let text = error.to_string();
                    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    format!("matches: expected a regular expression, found `{pattern}`: {reason}")
                }
            });
        }
    }

    fn check_name(&mut self, name: &str) {
        let known = self.names.contains(&name)
            || TYPES.contains(&name)
            || self.bound.iter().any(|bound| bound == name);
        if !known && !name.starts_with('@') {
            self.problems.push(format!("unknown name `{name}`; expected {}", one_of(self.names)));
        }
    }

    /// Checks the members of `facts`, `session` and `event`, where a typing error would always be a missing value.
    fn check_member(&mut self, operand: &Expr, member: &str) {
        let Expr::Ident(name) = operand else { return };
        if self.bound.contains(name) {
            return;
        }
        let members: Vec<&str> = match name.as_str() {
            "facts" => match self.kinds {
                Some(kinds) => kinds.iter().map(String::as_str).collect(),
                None => return,
            },
            "session" => scope::SESSION_MEMBERS.to_vec(),
            "event" => scope::EVENT_MEMBERS.to_vec(),
            _ => return,
        };
        if !members.contains(&member) {
            self.problems.push(format!("unknown `{name}.{member}`; expected {}", one_of(&members)));
        }
    }

    fn check_function(&mut self, name: &str, namespaced: bool) {
        let operator = name.starts_with(['_', '@', '!', '-']);
        let known =
            if namespaced { name == EQUIVALENT } else { CALLABLE.contains(&name) && name != EQUIVALENT };
        if !operator && !known {
            self.problems.push(format!("unknown function `{name}`; docs/policies.md lists the functions"));
        }
    }
}

/// Returns true for `sets.equivalent(…)`, whose target is a namespace, not a value.
pub(crate) fn is_namespaced(call: &CallExpr) -> bool {
    matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if NAMESPACES.contains(&name.as_str()))
}
