//! Functions that expressions may call in addition to the operators and macros of CEL, and the budget of an evaluation.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue};
use cel::common::types::{CelList, CelOptional, CelString, CelTimestamp, LIST_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{DeclarationError, Env, ExecutionError, extensions};
use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime};

use crate::expression::Failure;
use crate::session::FactsOfKind;

/// Names of callable functions. A call of another name does not compile, so that a typing error is found when the bundle is
/// checked.
pub(crate) const CALLABLE: &[&str] = &[
    // Standard functions of CEL.
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "duration",
    "timestamp",
    "type",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "orValue",
    "or",
    "hasValue",
    "value",
    // String extension of cel-go.
    "lowerAscii",
    "upperAscii",
    "trim",
    "split",
    "substring",
    "indexOf",
    "lastIndexOf",
    "charAt",
    // Functions of this module.
    "time",
    "count",
    EQUIVALENT,
];

/// `sets.equivalent(a, b)`, as in cel-go: both lists have the same elements, regardless of order and repetition.
pub(crate) const EQUIVALENT: &str = "equivalent";

/// Namespaces of functions.
pub(crate) const NAMESPACES: &[&str] = &["sets"];

/// Names of types, for `type(x) == map`.
pub(crate) const TYPES: &[&str] =
    &["bool", "int", "uint", "double", "string", "list", "map", "null_type", "google.protobuf.Timestamp"];

/// Budget of one evaluation, in steps. A step is an element visited by a comprehension, by `in` or by a comparison, a copied
/// element, or [`BYTES_PER_STEP`] bytes of text that are copied, compared or searched. It limits allocations to 64 MiB.
const MAX_STEPS: usize = 200_000;
/// Bytes of text that cost one step.
const BYTES_PER_STEP: usize = 64;

/// Maximum length in bytes of a `matches` pattern that is not a literal in the expression.
const MAX_PATTERN_BYTES: usize = 256;

/// Returns the CEL environment of all expressions.
pub(crate) fn env() -> Result<&'static Arc<Env>, DeclarationError> {
    static ENV: LazyLock<Result<Arc<Env>, DeclarationError>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings)?;
        env.add_macro(Macro::receiver("bind", 3, bind))?;
        env.add_overload("time", "string_to_time", vec![STRING_TYPE], time)?;
        env.add_overload("count", "count_list", vec![LIST_TYPE], count)?;
        Ok(Arc::new(env))
    });
    ENV.as_ref().map_err(Clone::clone)
}

/// Macro `cel.bind(name, value, expression)`, as in cel-go: binds a value to a name.
fn bind(
    helper: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Result<Option<IdedExpr>, ParseError> {
    if !matches!(target.as_ref().map(|t| &t.expr), Some(Expr::Ident(name)) if name == "cel") {
        return Ok(None);
    }
    let Ok([name, value, result]) = <[IdedExpr; 3]>::try_from(std::mem::take(args)) else { return Ok(None) };
    let Expr::Ident(name) = name.expr else {
        return Err(helper.new_error(name.id, "cel.bind: expected a name as its first argument"));
    };
    let fold = ComprehensionExpr {
        iter_range: helper.next_expr(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "@unused".to_owned(),
        iter_var2: None,
        loop_cond: helper.next_expr(Expr::Literal(LiteralValue::Boolean(false.into()))),
        loop_step: helper.next_expr(Expr::Ident(name.clone())),
        accu_var: name,
        accu_init: value,
        result,
    };
    Ok(Some(helper.next_expr(Expr::Comprehension(Box::new(fold)))))
}

/// Function `time(text)`: parses a time; without a zone it is UTC. CEL's `timestamp` requires a zone.
fn time<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = args.first().and_then(|text| text.downcast_ref::<CelString<'_>>());
    let time = text.and_then(|text| parse_time(text.inner())).ok_or_else(|| {
        ExecutionError::function_error(
            "time",
            "expected a time such as 2024-05-15T15:00:00 or 2024-05-15T15:00:00Z",
        )
    })?;
    Ok(CowVal::owned(CelTimestamp::from(time)))
}

fn parse_time(text: &str) -> Option<DateTime<FixedOffset>> {
    let zoned = DateTime::parse_from_rfc3339(text).ok();
    let naive = || NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok();
    let spaced = || NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    zoned.or_else(|| Some(naive().or_else(spaced).or_else(date)?.and_utc().fixed_offset())).and_then(in_range)
}

/// Returns the time if CEL supports its year: 1 to 9999.
pub(crate) fn in_range(time: DateTime<FixedOffset>) -> Option<DateTime<FixedOffset>> {
    (1..=9999).contains(&time.naive_utc().year()).then_some(time)
}

/// Function `count(list)`: number of elements. Unlike `size` it does not accept a text, whose characters it would count.
fn count<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let list = args.first().and_then(|list| list.as_sizer()).ok_or_else(|| wrong_arguments("count"))?;
    Ok(CowVal::owned(list.size()))
}

/// Creates the error for arguments of other types than the overload declares.
fn wrong_arguments(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "wrong types of arguments")
}

/// Remaining steps of an evaluation.
#[derive(Debug)]
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// Creates a full budget.
    pub(crate) const fn new() -> Self {
        Self(Cell::new(MAX_STEPS))
    }

    /// Refills the budget for the next expression.
    pub(crate) fn refill(&self) {
        self.0.set(MAX_STEPS);
    }

    /// Charges a number of steps. Fails if fewer are left.
    pub(crate) fn charge(&self, steps: usize) -> Result<(), Failure> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or_default());
        left.map(drop).ok_or_else(|| Failure::Error(format!("expression: takes more than {MAX_STEPS} steps")))
    }

    /// Charges the steps for reading a number of bytes.
    pub(crate) fn charge_bytes(&self, bytes: usize) -> Result<(), Failure> {
        self.charge(bytes / BYTES_PER_STEP)
    }

    /// Charges the steps for copying a value.
    pub(crate) fn charge_copy(&self, value: &dyn Val) -> Result<(), Failure> {
        self.charge(copy_steps(value))
    }

    /// Returns true if no steps are left.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

/// Returns the steps for copying a value: one for each element, plus those for bytes of texts. Objects are shared, not copied.
fn copy_steps(value: &dyn Val) -> usize {
    let parts = if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        text.inner().len() / BYTES_PER_STEP
    } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        list.iter().map(|item| copy_steps(item.as_ref())).sum()
    } else if let Some(optional) = value.downcast_ref::<CelOptional<'_>>() {
        optional.option().map_or(0, copy_steps)
    } else if let Some(kind) = value.downcast_ref::<FactsOfKind>() {
        kind.len()
    } else {
        0
    };
    parts + 1
}

/// Returns the steps of a text function in addition to those for reading its arguments once.
pub(crate) fn text_function_steps(
    name: &str,
    text: &str,
    args: &[CowVal<'_, '_>],
    literal: bool,
) -> Result<usize, Failure> {
    let arg = args.first().and_then(|arg| arg.downcast_ref::<CelString<'_>>()).map_or("", |arg| arg.inner());
    Ok(match name {
        // The cel crate creates each part twice.
        "split" if arg.is_empty() => text.len().saturating_mul(2),
        "split" => (text.matches(arg).count() + 1).saturating_mul(2),
        // The search compares at each position.
        "indexOf" | "lastIndexOf" => text.len().saturating_mul(arg.len()) / BYTES_PER_STEP,
        // The pattern is compiled for each text; character classes cost most. A literal is inspected; for any other pattern the
        // worst case of its length is charged.
        "matches" if literal => {
            let compile = 20 + arg.len().saturating_mul(4) + arg.matches('\\').count().saturating_mul(250);
            compile + (text.len() / BYTES_PER_STEP).saturating_mul(arg.len() / 16)
        }
        "matches" if arg.len() > MAX_PATTERN_BYTES || arg.contains('{') => {
            return Err(Failure::Error(format!(
                "matches: expected a pattern of at most {MAX_PATTERN_BYTES} bytes without counted repetition, since it is not a literal"
            )));
        }
        "matches" => arg.len().saturating_mul(200 + text.len() / 8),
        _ => 0,
    })
}
