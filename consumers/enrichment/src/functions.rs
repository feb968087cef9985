//! The functions that expressions may call, beside the operators and macros of CEL.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue};
use cel::common::types::{
    CelBool, CelList, CelMap, CelString, CelTimestamp, DYN_TYPE, LIST_TYPE, MAP_TYPE, STRING_TYPE, Type,
};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{DeclarationError, Env, ExecutionError, extensions};
use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime};

use crate::json::Object;

/// Names that an expression may call. What is not here does not compile, so that a typing error is found at the door.
pub(crate) const CALLABLE: &[&str] = &[
    // CEL
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
    // cel-go's extension for strings
    "lowerAscii",
    "upperAscii",
    "trim",
    "split",
    "substring",
    "indexOf",
    "lastIndexOf",
    "charAt",
    // ours
    "time",
    "count",
    EQUIVALENT,
];

/// `sets.equivalent(a, b)`, as in cel-go: both have the same elements, in any order and number.
pub(crate) const EQUIVALENT: &str = "equivalent";

/// Namespaces of functions.
pub(crate) const NAMESPACES: &[&str] = &["sets"];

/// Names of types, for `type(x) == map`.
pub(crate) const TYPES: &[&str] =
    &["bool", "int", "uint", "double", "string", "list", "map", "null_type", "google.protobuf.Timestamp"];

/// Steps that one expression may take: elements visited by comprehensions, `in` and set comparisons.
pub(crate) const MAX_STEPS: u64 = 200_000;

/// The variable that carries the budget. Nobody can write it in CEL.
pub(crate) const BUDGET: &str = "@budget";
/// Charges the elements of a value that is gone through, and hands it back.
pub(crate) const EACH: &str = "@each";
/// Charges the elements of a list that is searched, and hands it back. A map is not searched.
pub(crate) const WITHIN: &str = "@within";
/// Turns a map literal into an object.
pub(crate) const OBJECT: &str = "@object";

/// The environment that every expression is compiled and evaluated in.
pub(crate) fn env() -> Result<Arc<Env>, DeclarationError> {
    static ENV: LazyLock<Result<Arc<Env>, DeclarationError>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings)?;
        env.add_macro(Macro::receiver("bind", 3, bind))?;
        env.add_overload("time", "string_to_time", vec![STRING_TYPE], time)?;
        env.add_overload("count", "count_list", vec![LIST_TYPE], count)?;
        env.add_overload("sets.equivalent", "lists", vec![LIST_TYPE, LIST_TYPE, DYN_TYPE], equivalent)?;
        env.add_overload(EACH, "each", vec![DYN_TYPE, DYN_TYPE], each)?;
        env.add_overload(WITHIN, "within", vec![DYN_TYPE, DYN_TYPE], within)?;
        env.add_overload(OBJECT, "object", vec![MAP_TYPE], object)?;
        Ok(Arc::new(env))
    });
    ENV.clone()
}

/// `cel.bind(name, value, expression)`, as in cel-go: names a value that an expression needs more than once.
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

/// `time(text)`: a time, read as UTC where it names no zone. CEL's own `timestamp` refuses such a text.
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

/// CEL's times are those of the years 1 to 9999.
pub(crate) fn in_range(time: DateTime<FixedOffset>) -> Option<DateTime<FixedOffset>> {
    (1..=9999).contains(&time.naive_utc().year()).then_some(time)
}

/// `count(list)`: how many elements. Unlike `size` it takes nothing else, so that a text is not counted by its letters.
fn count<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let list = args.first().and_then(|list| list.as_sizer()).ok_or_else(|| wrong("count"))?;
    Ok(CowVal::owned(list.size()))
}

fn equivalent<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [a, b, budget] = args.as_slice() else { return Err(wrong("sets.equivalent")) };
    let (Some(a), Some(b)) = (a.downcast_ref::<CelList<'_>>(), b.downcast_ref::<CelList<'_>>()) else {
        return Err(wrong("sets.equivalent"));
    };
    charge(budget.as_ref(), a.len().saturating_mul(b.len()))?;
    let within = |inner: &CelList<'_>, outer: &CelList<'_>| {
        inner.iter().all(|x| outer.iter().any(|y| x.equals(y.as_ref())))
    };
    Ok(CowVal::owned(CelBool::from(within(a, b) && within(b, a))))
}

fn each<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let Ok([range, budget]) = <[CowVal<'b, 'v>; 2]>::try_from(args) else { return Err(wrong(EACH)) };
    if let Some(sizer) = range.as_sizer() {
        charge(budget.as_ref(), usize::try_from(sizer.size().into_inner()).unwrap_or(usize::MAX))?;
    }
    Ok(range)
}

fn within<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let Ok([container, budget]) = <[CowVal<'b, 'v>; 2]>::try_from(args) else { return Err(wrong(WITHIN)) };
    if let Some(list) = container.downcast_ref::<CelList<'_>>() {
        charge(budget.as_ref(), list.len())?;
    }
    Ok(container)
}

fn object<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let Some(map) = args.first().and_then(|map| map.downcast_ref::<CelMap<'v>>()) else {
        return Err(wrong("{}"));
    };
    let mut entries: Vec<(String, Box<dyn Val + 'v>)> = Vec::with_capacity(map.inner().len());
    for (key, value) in map.inner() {
        let Some(key) = key.inner().downcast_ref::<CelString<'_>>() else {
            return Err(ExecutionError::function_error("{}", "expected keys that are strings"));
        };
        entries.push((key.inner().to_owned(), value.clone()));
    }
    Ok(CowVal::owned(Object::new(entries)))
}

/// The arguments have not the types that the overload was declared with.
fn wrong(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "wrong types of arguments")
}

/// The steps that one expression has left.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

static BUDGET_TYPE: Type = Type::new_unspecified_type(BUDGET);

impl Budget {
    /// A full one.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(MAX_STEPS))
    }

    /// Fills it up for the next expression.
    pub(crate) fn refill(&self) {
        self.0.store(MAX_STEPS, Ordering::Relaxed);
    }
}

fn charge(budget: &dyn Val, steps: usize) -> Result<(), ExecutionError> {
    let budget = budget.downcast_ref::<Budget>().ok_or_else(|| wrong(BUDGET))?;
    let steps = u64::try_from(steps).unwrap_or(u64::MAX);
    budget
        .0
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(steps))
        .map(drop)
        .map_err(|_| {
            ExecutionError::function_error("expression", format!("takes more than {MAX_STEPS} steps"))
        })
}

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &BUDGET_TYPE
    }

    fn cel_type() -> &'static Type {
        &BUDGET_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(Self(AtomicU64::new(self.0.load(Ordering::Relaxed))))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}
