//! CEL: compiled, checked and bounded.
//!
//! An expression sees only the names of its place ([`Names`]) and calls only listed functions. While compiling, three
//! things are rewritten: what a comprehension or `in` goes through is charged to a budget of steps, and a map literal
//! becomes an ordered object (see [`crate::json`]).

use std::collections::BTreeSet;

use agentgov_schemas::yaml::one_of;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::value::CowVal;
use cel::{Context, ExecutionError, Value};

use crate::functions::{self, BUDGET, CALLABLE, EACH, EQUIVALENT, NAMESPACES, OBJECT, TYPES, WITHIN};
use crate::scope::{self, Scope};

/// Longest expression, in bytes.
pub const MAX_LENGTH: usize = 4096;
/// Deepest nesting of brackets and conditionals: cel's parser needs up to 200 KB of stack for each, and threads have 2 MiB.
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
    /// Something that it looks at is not known. No error: what is not known is absent.
    Absent,
    /// Anything else. The message never quotes a payload.
    Error(String),
}

impl Expression {
    /// Compiles `source`, which may use `names` and facts of these `kinds`.
    ///
    /// # Errors
    /// Every mistake that was found, in words.
    pub fn compile(source: &str, names: Names, kinds: &BTreeSet<String>) -> Result<Self, Vec<String>> {
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
        let tree = check.rewrite(tree, 0);
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
        scope.budget.refill();
        let env = functions::env().map_err(|e| Failure::Error(e.to_string()))?;
        let mut context = Context::with_env(env);
        context.set_variable_resolver(scope);
        let value = Value::resolve_val(&self.0, &context).map_err(|e| failure(&e))?;
        then(value)
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
fn failure(error: &ExecutionError) -> Failure {
    Failure::Error(match error {
        // The names of variables are checked while compiling: one that is undeclared now is one without a value.
        ExecutionError::NoSuchKey(_) | ExecutionError::UndeclaredReference(_) => return Failure::Absent,
        ExecutionError::NoSuchOverload(e) => e.to_string(),
        ExecutionError::FunctionError { function, message } if CALLABLE.contains(&function.as_str()) => {
            // cel's own functions quote their arguments.
            match function.as_str() {
                "time" | "count" | EQUIVALENT => format!("{function}: {message}"),
                _ => format!("{function}: not possible with this value"),
            }
        }
        ExecutionError::FunctionError { function, message }
            if function == "expression" || function == "{}" =>
        {
            format!("{function}: {message}")
        }
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
        ExecutionError::DuplicateKey(_) => "a map literal has the same key twice".to_owned(),
        _ => "not possible with values of these types".to_owned(),
    })
}

struct Check<'k> {
    names: Names,
    kinds: &'k BTreeSet<String>,
    bound: Vec<String>,
    problems: Vec<String>,
}

impl Check<'_> {
    /// Checks names and functions, and puts the budget in.
    fn rewrite(&mut self, node: IdedExpr, depth: usize) -> IdedExpr {
        if depth > MAX_DEPTH {
            self.problems.push(format!("expected an expression nested at most {MAX_DEPTH} deep"));
            return node;
        }
        let depth = depth + 1;
        let id = node.id;
        let expr = match node.expr {
            Expr::Ident(name) => {
                self.check_name(&name);
                Expr::Ident(name)
            }
            Expr::Select(mut select) => {
                self.check_member(&select.operand.expr, &select.field);
                select.operand = Box::new(self.rewrite(*select.operand, depth));
                Expr::Select(select)
            }
            Expr::List(mut list) => {
                list.elements = list.elements.into_iter().map(|e| self.rewrite(e, depth)).collect();
                Expr::List(list)
            }
            Expr::Map(mut map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        entry.key = self.rewrite(std::mem::take(&mut entry.key), depth);
                        entry.value = self.rewrite(std::mem::take(&mut entry.value), depth);
                    }
                }
                call(OBJECT, vec![IdedExpr { id, expr: Expr::Map(map) }])
            }
            Expr::Call(found) => self.rewrite_call(found, depth),
            Expr::Comprehension(mut fold) => {
                fold.iter_range = charged(EACH, self.rewrite(fold.iter_range, depth));
                fold.accu_init = self.rewrite(fold.accu_init, depth);
                let outer = self.bound.len();
                self.bound.extend([fold.iter_var.clone(), fold.accu_var.clone()]);
                fold.loop_cond = self.rewrite(fold.loop_cond, depth);
                fold.loop_step = self.rewrite(fold.loop_step, depth);
                fold.result = self.rewrite(fold.result, depth);
                self.bound.truncate(outer);
                Expr::Comprehension(fold)
            }
            Expr::Struct(found) => {
                self.problems.push(format!("unknown type `{}`", found.type_name));
                Expr::Struct(found)
            }
            same @ (Expr::Literal(_) | Expr::Unspecified) => same,
        };
        IdedExpr { id, expr }
    }

    fn rewrite_call(&mut self, found: CallExpr, depth: usize) -> Expr {
        let CallExpr { func_name, target, args } = found;
        let mut args: Vec<IdedExpr> = args.into_iter().map(|arg| self.rewrite(arg, depth)).collect();
        let namespaced = matches!(target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if NAMESPACES.contains(&name.as_str()));
        let target = match target {
            Some(target) if !namespaced => Some(Box::new(self.rewrite(*target, depth))),
            same => same,
        };
        self.check_function(&func_name, namespaced);
        if func_name == operators::IN
            && let Some(container) = args.pop()
        {
            args.push(charged(WITHIN, container));
        }
        if namespaced && func_name == EQUIVALENT {
            args.push(IdedExpr { id: 0, expr: Expr::Ident(BUDGET.to_owned()) });
        }
        Expr::Call(CallExpr { func_name, target, args })
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
            "facts" => self.kinds.iter().map(String::as_str).collect(),
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

fn call(name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args })
}

/// `function(value, @budget)`.
fn charged(function: &str, value: IdedExpr) -> IdedExpr {
    let id = value.id;
    // What is written out is as long as it is.
    if matches!(&value.expr, Expr::List(list) if list.elements.is_empty())
        || matches!(&value.expr, Expr::Literal(LiteralValue::Null))
    {
        return value;
    }
    IdedExpr { id, expr: call(function, vec![value, IdedExpr { id, expr: Expr::Ident(BUDGET.to_owned()) }]) }
}
