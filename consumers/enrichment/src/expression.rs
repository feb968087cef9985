//! CEL: compiled, checked and bounded.
//!
//! An expression sees only the names of its place ([`Names`]) and calls only listed functions. `evaluate` runs it.

use std::collections::BTreeSet;

use agentgov_schemas::yaml::one_of;
use cel::ExecutionError;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr};
use cel::common::value::CowVal;

use crate::evaluate::Run;
use crate::functions::{self, CALLABLE, EQUIVALENT, NAMESPACES, TYPES};
use crate::json::OWN;
use crate::scope::{self, Scope};

/// Longest expression, in bytes.
pub const MAX_LENGTH: usize = 4096;
/// Deepest nesting of brackets and conditionals: cel's parser needs up to 200 KB of stack for each. It recurses along chains of
/// members and operators too, up to [`MAX_LENGTH`]: every thread that compiles has the stack of `agentgov_schemas::bounds`.
const MAX_NESTING: usize = 8;
/// Deepest tree: a chain of operators is as deep as it is long, and evaluating it needs stack as well.
const MAX_DEPTH: usize = 40;

/// The variables that an expression may use.
pub type Names = &'static [&'static str];

/// A compiled expression.
#[derive(Debug)]
pub struct Expression(IdedExpr);

/// Why an expression gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something that it looks at is not known: a key, a field or a fact that is not there. No error.
    Absent,
    /// It looks at the call's arguments, and nothing of them can be read.
    Arguments,
    /// Anything else. The message never quotes a payload.
    Error(String),
}

impl Expression {
    /// Compiles `source`, which may use `names` and facts of these `kinds`; `None`: of any.
    ///
    /// # Errors
    /// Every mistake that was found, in words.
    pub fn compile(
        source: &str,
        names: Names,
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
        let mut check = Check { names, kinds, bound: Vec::new(), problems: Vec::new() };
        check.node(&tree, 0);
        check.problems.sort();
        check.problems.dedup();
        if check.problems.is_empty() { Ok(Self(tree)) } else { Err(check.problems) }
    }

    /// Evaluates it, and hands its value to `then`.
    pub(crate) fn evaluate<T>(
        &self,
        scope: &Scope<'_>,
        then: impl FnOnce(CowVal<'_, '_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        scope.refill();
        let env = functions::env().map_err(|e| Failure::Error(e.to_string()))?;
        then(Run { scope, env }.node(&self.0, None)?)
    }
}

impl Failure {
    /// The one that counts, if an operator had to do with both: an error is none of not knowing.
    pub(crate) fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Absent, _) | (Self::Arguments, Self::Error(_)) => other,
            _ => self,
        }
    }
}

/// At least as deep as the brackets and conditionals are: those in texts count as well.
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

/// What an error of cel means. Names types and functions; cel's own texts may quote values.
pub(crate) fn failure(error: &ExecutionError) -> Failure {
    Failure::Error(match error {
        ExecutionError::NoSuchKey(_) => return Failure::Absent,
        ExecutionError::NoSuchOverload(e) => e.to_string(),
        ExecutionError::FunctionError { function, message } if CALLABLE.contains(&function.as_str()) => {
            // cel's own functions quote their arguments.
            match function.as_str() {
                "time" | "count" => format!("{function}: {message}"),
                _ => format!("{function}: not possible with this value"),
            }
        }
        ExecutionError::FunctionError { function, message } if function == OWN => message.clone(),
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

struct Check<'k> {
    names: Names,
    kinds: Option<&'k BTreeSet<String>>,
    bound: Vec<String>,
    problems: Vec<String>,
}

impl Check<'_> {
    /// Checks names and functions.
    fn node(&mut self, node: &IdedExpr, depth: usize) {
        if depth > MAX_DEPTH {
            self.problems.push(format!("expected an expression nested at most {MAX_DEPTH} deep"));
            return;
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Ident(name) => self.check_name(name),
            Expr::Select(select) => {
                self.check_member(&select.operand.expr, &select.field);
                self.node(&select.operand, depth);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.node(element, depth)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.node(&entry.key, depth);
                        self.node(&entry.value, depth);
                    }
                }
            }
            Expr::Call(call) => self.call(call, depth),
            Expr::Comprehension(fold) => {
                self.node(&fold.iter_range, depth);
                self.node(&fold.accu_init, depth);
                let outer = self.bound.len();
                self.bound.extend([fold.iter_var.clone(), fold.accu_var.clone()]);
                self.node(&fold.loop_cond, depth);
                self.node(&fold.loop_step, depth);
                self.node(&fold.result, depth);
                self.bound.truncate(outer);
            }
            Expr::Struct(found) => self.problems.push(format!("unknown type `{}`", found.type_name)),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn call(&mut self, call: &CallExpr, depth: usize) {
        call.args.iter().for_each(|arg| self.node(arg, depth));
        let namespaced = is_namespaced(call);
        if let Some(target) = call.target.as_deref().filter(|_| !namespaced) {
            self.node(target, depth);
        }
        self.check_function(&call.func_name, namespaced);
    }

    fn check_name(&mut self, name: &str) {
        let known = self.names.contains(&name)
            || TYPES.contains(&name)
            || self.bound.iter().any(|bound| bound == name);
        if !known && !name.starts_with('@') {
            self.problems.push(format!("unknown name `{name}`; expected {}", one_of(self.names)));
        }
    }

    /// `facts`, `session` and `event` have known members: a typing error there would be absent for ever.
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
            self.problems
                .push(format!("unknown function `{name}`; docs/policies.md lists those that there are"));
        }
    }
}

/// True of `sets.equivalent(…)`: its target is a namespace, not a value.
pub(crate) fn is_namespaced(call: &CallExpr) -> bool {
    matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if NAMESPACES.contains(&name.as_str()))
}
