//! Evaluates an expression to a value, a missing value, or an error.
//!
//! The cel crate provides the parser, values and functions. Its interpreter does not distinguish a missing value from an error (so
//! `orValue` and `||` hide errors), and it compares integers with doubles as doubles. This evaluator differs:
//!
//! - a missing key, field or fact is distinct from an error;
//! - `a || b` is true if either side is true, even if the other side fails. If no side is true and one is an error, the result is
//!   an error. `&&`, `all` and `exists` work accordingly;
//! - `.?` and `[?]` replace missing values, not errors;
//! - numbers compare by their decimal values ([`crate::number`]); comparing values of different types is an error, since a tool may
//!   convert one to the other. Null differs from every other value;
//! - visited elements, copied elements and bytes of texts are charged to a budget;
//! - an object of a payload in place of a list is an error, since its keys are not elements.

use std::cmp::Ordering;
use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, SelectExpr, operators};
use cel::common::traits::Sizer;
use cel::common::types::{
    CelBool, CelDouble, CelDuration, CelInt, CelList, CelNull, CelOptional, CelString, CelTimestamp, CelType,
    CelUInt, Kind as TypeKind,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Value};

use crate::expression::{Failure, failure_from_cel, is_namespaced};
use crate::functions::{EQUIVALENT, text_function_steps};
use crate::json::{Object, error, is_of_payload};
use crate::number::Number;
use crate::scope::Scope;
use crate::session::FactsOfKind;

type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, Failure>;

/// Evaluation of one expression.
#[derive(Clone, Copy)]
pub(crate) struct Evaluation<'s, 'a> {
    pub(crate) scope: &'s Scope<'a>,
    pub(crate) env: &'static Arc<Env>,
}

/// Variable of a macro, linked to those of the enclosing macros.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'b, 'v> {
    name: &'b str,
    value: &'b (dyn Val + 'v),
    outer: Option<&'b Frame<'b, 'v>>,
}

static TRUE: CelBool = CelBool::TRUE;
static FALSE: CelBool = CelBool::FALSE;
static TYPES: [CelType; 9] = [
    CelType::new_static("bool"),
    CelType::new_static("int"),
    CelType::new_static("uint"),
    CelType::new_static("double"),
    CelType::new_static("string"),
    CelType::new_static("list"),
    CelType::new_static("map"),
    CelType::new_static("null_type"),
    CelType::new_static("type"),
];

/// Name of the variable with the result of a tool.
const RESULT: &str = "result";

/// Returns the value that stands for a type.
fn type_value(name: &str) -> Option<&'static dyn Val> {
    TYPES.iter().find(|known| known.name() == name).map(|known| known as &dyn Val)
}

const fn truth<'b, 'v>(truth: bool) -> CowVal<'b, 'v> {
    CowVal::Borrowed(if truth { &TRUE } else { &FALSE })
}

fn fail(message: impl ToString) -> Failure {
    Failure::Error(message.to_string())
}

fn from_cel(error: ExecutionError) -> Failure {
    failure_from_cel(&error)
}

impl<'s> Evaluation<'s, '_> {
    /// Evaluates a node. The recursion is bounded by the depth that the compiler accepts.
    pub(crate) fn eval<'b>(self, node: &'b IdedExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's>
    where
        's: 'b,
    {
        match &node.expr {
            Expr::Literal(literal) => Ok(literal.to_val()),
            Expr::Ident(name) => self.resolve(name, frame),
            Expr::Select(select) => self.select(select, frame),
            Expr::Call(call) => self.call(call, frame),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                for (i, element) in list.elements.iter().enumerate() {
                    let item = self.eval(element, frame)?;
                    if list.optional_indices.contains(&i) {
                        items.extend(self.present(item)?);
                    } else {
                        items.push(self.into_owned(item)?);
                    }
                }
                Ok(CowVal::owned(CelList::from(items)))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(fail("expected a map literal with keys and values"));
                    };
                    let key = self.eval(&entry.key, frame)?;
                    self.scope.budget.charge_copy(key.as_ref())?;
                    let key = key.downcast_ref::<CelString<'_>>();
                    let key = key.ok_or_else(|| fail("{}: expected keys that are texts"))?.inner().to_owned();
                    let value = self.eval(&entry.value, frame)?;
                    let value =
                        if entry.optional { self.present(value)? } else { Some(self.into_owned(value)?) };
                    if entries.iter().any(|(known, _)| *known == key) {
                        return Err(fail("expected distinct keys in a map literal, found one twice"));
                    }
                    entries.extend(value.map(|value| (key, value)));
                }
                Ok(CowVal::owned(Object::new(entries)))
            }
            Expr::Comprehension(fold) => self.comprehension(fold, frame),
            Expr::Struct(_) | Expr::Unspecified => {
                Err(fail("expected an expression, found another construct"))
            }
        }
    }

    fn resolve<'b>(self, name: &str, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
        let mut next = frame;
        while let Some(frame) = next {
            if frame.name == name {
                return Ok(CowVal::Borrowed(frame.value));
            }
            next = frame.outer;
        }
        if let Some(found) = self.scope.get(name) {
            return found.map(|value| CowVal::Borrowed(value as &(dyn Val + 's)));
        }
        type_value(name)
            .map(CowVal::Borrowed)
            .ok_or_else(|| fail("expected a known variable, found another name"))
    }

    fn select<'b>(self, select: &'b SelectExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
        let of = self.eval(&select.operand, frame)?;
        let field = CelString::from(select.field.as_str());
        if matches!(&select.operand.expr, Expr::Ident(name) if name == RESULT) && !is_map(of.as_ref()) {
            if !is_empty_result(of.as_ref()) {
                let found = type_of(of.as_ref());
                return Err(fail(format!("expected a map as the result, found {found}")));
            }
            return if select.test { Ok(truth(false)) } else { Err(Failure::Missing) };
        }
        if select.test {
            return Ok(truth(match optional(&of) {
                Some(None) => false,
                Some(Some(inner)) => self.has(inner, &field)?,
                None => self.has(of.as_ref(), &field)?,
            }));
        }
        self.index(of, &field, false)
    }

    /// Evaluates `has(of.field)`. Returns true also for an unreadable value.
    fn has(self, of: &dyn Val, field: &dyn Val) -> Result<bool, Failure> {
        if let Some(kind) = of.downcast_ref::<FactsOfKind>() {
            return kind.has(field, self.scope.is_incomplete()).map_err(from_cel);
        }
        if let Some(container) = of.as_container().filter(|_| is_map(of)) {
            return container.contains(field).map_err(from_cel);
        }
        match self.index(CowVal::Borrowed(of), field, false) {
            Ok(_) => Ok(true),
            Err(Failure::Missing) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Returns the owned value; copies a borrowed one and charges for that.
    fn into_owned<'v>(self, value: CowVal<'_, 'v>) -> Result<Box<dyn Val + 'v>, Failure> {
        if let CowVal::Borrowed(value) = value {
            self.scope.budget.charge_copy(value)?;
        } else {
            self.scope.budget.charge(1)?;
        }
        Ok(value.into_owned())
    }

    fn owned<'b, 'v>(self, value: CowVal<'_, 'v>) -> Outcome<'b, 'v> {
        self.into_owned(value).map(CowVal::Owned)
    }

    /// Returns the owned value, or `None` for an empty optional.
    fn present<'v>(self, value: CowVal<'_, 'v>) -> Result<Option<Box<dyn Val + 'v>>, Failure> {
        match self.unwrap_optional(value)? {
            Unwrapped::Plain(value) | Unwrapped::Some(value) => self.into_owned(value).map(Some),
            Unwrapped::None => Ok(None),
        }
    }

    fn unwrap_optional<'b, 'v>(self, value: CowVal<'b, 'v>) -> Result<Unwrapped<'b, 'v>, Failure> {
        if value.is_owned() && optional(&value).is_some() {
            self.scope.budget.charge_copy(value.as_ref())?;
        }
        Ok(unwrap_optional(value))
    }

    /// Charges for reading the bytes of those values that are texts.
    fn charge_texts<'c>(self, values: impl IntoIterator<Item = &'c (dyn Val + 'c)>) -> Result<(), Failure> {
        let bytes = values.into_iter().filter_map(|value| value.downcast_ref::<CelString<'_>>());
        self.scope.budget.charge_bytes(bytes.map(|text| text.inner().len()).sum())
    }

    /// Evaluates `of.key` and `of[key]`; with `is_optional`, `of.?key` and `of[?key]`. Unwraps `of` if it is an optional.
    fn index<'b, 'v>(self, of: CowVal<'b, 'v>, key: &dyn Val, is_optional: bool) -> Outcome<'b, 'v> {
        self.charge_texts([key])?;
        let (of, is_optional) = match self.unwrap_optional(of)? {
            Unwrapped::Plain(of) => (of, is_optional),
            Unwrapped::Some(of) => (of, true),
            Unwrapped::None => return Ok(CowVal::owned(CelOptional::none())),
        };
        // Null has no members, and a list has none beyond its end.
        let nothing = of.downcast_ref::<CelNull>().is_some()
            || of.downcast_ref::<CelList<'_>>().is_some_and(|list| {
                Number::from_val(key)
                    .and_then(Number::to_i64)
                    .is_some_and(|at| usize::try_from(at).map_or(true, |at| at >= list.len()))
            });
        if is_optional && nothing {
            return Ok(CowVal::owned(CelOptional::none()));
        }
        let found = match of {
            CowVal::Borrowed(of) => match of.downcast_ref::<FactsOfKind>() {
                Some(kind) => {
                    kind.find(key, self.scope.is_incomplete()).map(|fact| CowVal::Borrowed(fact as &dyn Val))
                }
                None => of.as_indexer().ok_or_else(|| no_fields(of))?.get(key),
            },
            CowVal::Owned(of) => {
                let indexer = of.as_indexer().ok_or_else(|| no_fields(of.as_ref()))?;
                match indexer.get(key) {
                    Ok(value) => Ok(self.owned(value)?),
                    Err(e) => Err(e),
                }
            }
        };
        match found {
            Ok(value) if is_optional => Ok(CowVal::owned(CelOptional::of(self.into_owned(value)?))),
            Ok(value) => Ok(value),
            Err(ExecutionError::NoSuchKey(_)) if is_optional => Ok(CowVal::owned(CelOptional::none())),
            Err(ExecutionError::UnexpectedType { .. }) => Err(fail("expected an index of another type")),
            Err(e) => Err(failure_from_cel(&e)),
        }
    }

    fn call<'b>(self, call: &'b CallExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
        let arg = |i: usize| {
            let arg = call.args.get(i).ok_or_else(|| fail("too few arguments"))?;
            self.eval(arg, frame)
        };
        let name = call.func_name.as_str();
        if let Some(target) = call.target.as_deref() {
            return if is_namespaced(call) {
                self.equivalent(arg(0)?.as_ref(), arg(1)?.as_ref()).map(truth)
            } else {
                self.member(name, self.eval(target, frame)?, &call.args, frame)
            };
        }
        match name {
            operators::CONDITIONAL => arg(if as_bool(&arg(0)?)? { 1 } else { 2 }),
            operators::LOGICAL_OR => logical_operator(true, arg(0), || arg(1)).map(truth),
            operators::LOGICAL_AND => logical_operator(false, arg(0), || arg(1)).map(truth),
            operators::LOGICAL_NOT => as_bool(&arg(0)?).map(|holds| truth(!holds)),
            operators::EQUALS => self.equal(arg(0)?.as_ref(), arg(1)?.as_ref()).map(truth),
            operators::NOT_EQUALS => {
                self.equal(arg(0)?.as_ref(), arg(1)?.as_ref()).map(|equal| truth(!equal))
            }
            operators::LESS => {
                self.compare(arg(0)?.as_ref(), arg(1)?.as_ref()).map(|order| truth(order.is_lt()))
            }
            operators::LESS_EQUALS => {
                self.compare(arg(0)?.as_ref(), arg(1)?.as_ref()).map(|order| truth(order.is_le()))
            }
            operators::GREATER => {
                self.compare(arg(0)?.as_ref(), arg(1)?.as_ref()).map(|order| truth(order.is_gt()))
            }
            operators::GREATER_EQUALS => {
                self.compare(arg(0)?.as_ref(), arg(1)?.as_ref()).map(|order| truth(order.is_ge()))
            }
            operators::IN => {
                let value = arg(0)?;
                self.contains(value.as_ref(), arg(1)?.as_ref()).map(truth)
            }
            operators::INDEX => {
                let of = arg(0)?;
                self.index(of, arg(1)?.as_ref(), false)
            }
            operators::OPT_INDEX | operators::OPT_SELECT => {
                let of = arg(0)?;
                self.index(of, arg(1)?.as_ref(), true)
            }
            operators::NEGATE => {
                let value = arg(0)?;
                let negator = value.as_negator().ok_or_else(|| no_overload(name, &[value.as_ref()]))?;
                negator.negate().map(CowVal::Owned).map_err(from_cel)
            }
            operators::ADD
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO => {
                let left = arg(0)?;
                self.arithmetic(name, left.as_ref(), arg(1)?.as_ref())
            }
            _ => {
                let args =
                    call.args.iter().map(|arg| self.eval(arg, frame)).collect::<Result<Vec<_>, _>>()?;
                if let Some((text, rest)) = args.split_first() {
                    self.charge_text_function(name, text.as_ref(), rest, call.args.get(1))?;
                }
                self.function(name, args)
            }
        }
    }

    fn function<'b, 'v>(self, name: &str, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
        if let Some(kind) = args.first().and_then(|value| value.downcast_ref::<FactsOfKind>())
            && kind.is_uncertain(self.scope.is_incomplete())
            && name != "type"
        {
            return Err(uncertain());
        }
        // The cel crate's `type` finds itself among all functions and copies the name.
        if name == "type"
            && let [value] = args.as_slice()
            && let Some(found) = type_value(type_of(value.as_ref()))
        {
            return Ok(CowVal::Borrowed(found));
        }
        if name == "size"
            && let Some(value) = args.first()
        {
            reject_payload_object(value.as_ref())?;
            self.charge_texts([value.as_ref()])?;
        }
        let Some(function) = self.env.find_overload(name, &args) else {
            return Err(no_overload(name, &args.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
        };
        function(args).map_err(from_cel)
    }

    /// Charges for a call of a text function.
    fn charge_text_function(
        self,
        name: &str,
        text: &dyn Val,
        args: &[CowVal<'_, '_>],
        first: Option<&IdedExpr>,
    ) -> Result<(), Failure> {
        let bytes =
            |value: &dyn Val| value.downcast_ref::<CelString<'_>>().map_or(0, |text| text.inner().len());
        let all = args.iter().fold(bytes(text), |sum, arg| sum + bytes(arg.as_ref()));
        self.scope.budget.charge_bytes(all)?;
        let Some(text) = text.downcast_ref::<CelString<'_>>() else { return Ok(()) };
        let literal = first.is_some_and(|arg| matches!(arg.expr, Expr::Literal(_)));
        self.scope.budget.charge(text_function_steps(name, text.inner(), args, literal)?)
    }

    /// Evaluates `target.name(args)`.
    fn member<'b>(
        self,
        name: &'b str,
        target: CowVal<'b, 's>,
        args: &'b [IdedExpr],
        frame: Option<&'b Frame<'b, 's>>,
    ) -> Outcome<'b, 's> {
        if let Some(inner) = optional(&target) {
            self.scope.budget.charge_copy(target.as_ref())?;
            let inner = inner.map(|inner| CowVal::Owned(inner.clone_as_boxed()));
            return match (name, args) {
                ("hasValue", []) => Ok(truth(inner.is_some())),
                ("value", []) => inner.ok_or(Failure::Missing),
                ("orValue", [other]) => inner.map_or_else(|| self.eval(other, frame), Ok),
                ("or", [_]) if inner.is_some() => Ok(target),
                ("or", [other]) => self.eval(other, frame),
                _ => Err(no_overload(name, &[target.as_ref()])),
            };
        }
        let first = args.first();
        let args = args.iter().map(|arg| self.eval(arg, frame)).collect::<Result<Vec<_>, _>>()?;
        if name == "size" && args.is_empty() {
            return self.function(name, vec![target]);
        }
        // The cel crate clones values for which it finds no function, so composite ones are rejected first.
        if args.iter().chain([&target]).any(|value| is_composite(value.as_ref())) {
            return Err(no_overload(name, &[target.as_ref()]));
        }
        self.charge_text_function(name, target.as_ref(), &args, first)?;
        MemberCall { target, args }.call(name, self.env)
    }

    fn comprehension<'b>(
        self,
        fold: &'b ComprehensionExpr,
        frame: Option<&'b Frame<'b, 's>>,
    ) -> Outcome<'b, 's> {
        let init = self.eval(&fold.accu_init, frame)?;
        if matches!(&fold.iter_range.expr, Expr::List(list) if list.elements.is_empty()) {
            // `cel.bind` expands to a comprehension over an empty list.
            let bound = Frame { name: &fold.accu_var, value: init.as_ref(), outer: frame };
            return self.eval(&fold.result, Some(&bound)).and_then(|value| self.owned(value));
        }
        let range = self.eval(&fold.iter_range, frame)?;
        reject_payload_object(range.as_ref())?;
        let items = range
            .as_iterable()
            .ok_or_else(|| fail(format!("expected a list or a map, found {}", type_of(range.as_ref()))))?;
        let sizer =
            range.as_sizer().ok_or_else(|| fail("expected a list or a map, found a value without a size"))?;
        self.scope.budget.charge(length(sizer))?;
        // A dropped or outdated fact could decide.
        let incomplete = range
            .downcast_ref::<FactsOfKind>()
            .is_some_and(|kind| kind.is_uncertain(self.scope.is_incomplete()));
        let mut failed = incomplete.then(uncertain);
        match LoopBody::of(fold) {
            LoopBody::Logical(decides, holds) => {
                let mut items = items.iter();
                while let Some(item) = items.next() {
                    let inner = Frame { name: &fold.iter_var, value: item, outer: frame };
                    match self.eval(holds, Some(&inner)).and_then(|holds| as_bool(&holds)) {
                        Ok(holds) if holds == decides => return Ok(truth(decides)),
                        Ok(_) => {}
                        Err(e) if self.scope.budget.is_spent() => return Err(e),
                        Err(e) => failed = Some(failed.map_or(e.clone(), |failed| failed.more_severe(e))),
                    }
                }
                failed.map_or(Ok(truth(!decides)), Err)
            }
            LoopBody::Append(only, element) => {
                if let Some(failed) = failed {
                    return Err(failed);
                }
                let mut list = Vec::new();
                let mut items = items.iter();
                while let Some(item) = items.next() {
                    let inner = Frame { name: &fold.iter_var, value: item, outer: frame };
                    let chosen = only.map_or(Ok(true), |only| as_bool(&self.eval(only, Some(&inner))?))?;
                    if chosen {
                        list.push(self.into_owned(self.eval(element, Some(&inner))?)?);
                    }
                }
                Ok(CowVal::owned(CelList::from(list)))
            }
            LoopBody::Other => {
                if let Some(failed) = failed {
                    return Err(failed);
                }
                let mut accu = init.into_owned();
                let mut items = items.iter();
                while let Some(item) = items.next() {
                    let next = {
                        let outer = Frame { name: &fold.accu_var, value: accu.as_ref(), outer: frame };
                        let inner = Frame { name: &fold.iter_var, value: item, outer: Some(&outer) };
                        self.into_owned(self.eval(&fold.loop_step, Some(&inner))?)?
                    };
                    accu = next;
                }
                let bound = Frame { name: &fold.accu_var, value: accu.as_ref(), outer: frame };
                self.eval(&fold.result, Some(&bound)).and_then(|value| self.owned(value))
            }
        }
    }

    /// Evaluates `value in container`.
    fn contains(self, value: &dyn Val, container: &dyn Val) -> Result<bool, Failure> {
        if let Some(kind) = container.downcast_ref::<FactsOfKind>() {
            return kind.has(value, self.scope.is_incomplete()).map_err(from_cel);
        }
        if let Some(list) = container.downcast_ref::<CelList<'_>>() {
            self.scope.budget.charge(list.len())?;
            return any(list.iter().map(|item| self.equal(value, item.as_ref())));
        }
        if is_of_payload(container) {
            return Err(fail(
                "`in`: expected a list, found an object; `object[?key].hasValue()` looks up a key",
            ));
        }
        self.charge_texts([value])?;
        let container = container.as_container().ok_or_else(|| no_overload("in", &[value, container]))?;
        container.contains(value).map_err(from_cel)
    }

    fn equivalent(self, a: &dyn Val, b: &dyn Val) -> Result<bool, Failure> {
        let (Some(a), Some(b)) = (a.downcast_ref::<CelList<'_>>(), b.downcast_ref::<CelList<'_>>()) else {
            return Err(no_overload(EQUIVALENT, &[a, b]));
        };
        self.scope.budget.charge(a.len().saturating_mul(b.len()))?;
        let within = |inner: &CelList<'_>, outer: &CelList<'_>| {
            every(inner.iter().map(|x| any(outer.iter().map(|y| self.equal(x.as_ref(), y.as_ref())))))
        };
        every([within(a, b), within(b, a)].into_iter())
    }

    fn equal(self, a: &dyn Val, b: &dyn Val) -> Result<bool, Failure> {
        let null = |value: &dyn Val| value.downcast_ref::<CelNull>().is_some();
        if null(a) || null(b) {
            return Ok(null(a) && null(b));
        }
        if let (Some(a), Some(b)) = (a.downcast_ref::<CelString<'_>>(), b.downcast_ref::<CelString<'_>>()) {
            if a.inner().len() != b.inner().len() {
                return Ok(false);
            }
            self.scope.budget.charge_bytes(a.inner().len())?;
            return Ok(a.inner() == b.inner());
        }
        if let (Some(a), Some(b)) = (a.downcast_ref::<CelType>(), b.downcast_ref::<CelType>()) {
            return Ok(a.name() == b.name());
        }
        match (Number::from_val(a), Number::from_val(b)) {
            (Some(x), Some(y)) => return x.compare(y).map(Ordering::is_eq).ok_or_else(not_a_number),
            (None, None) => {}
            _ => return Err(type_mismatch(a, b)),
        }
        if let (Some(a), Some(b)) = (a.downcast_ref::<CelList<'_>>(), b.downcast_ref::<CelList<'_>>()) {
            if a.len() != b.len() {
                return Ok(false);
            }
            self.scope.budget.charge(a.len())?;
            return every(a.iter().zip(b.iter()).map(|(a, b)| self.equal(a.as_ref(), b.as_ref())));
        }
        if is_map(a) && is_map(b) {
            return self.same_entries(a, b);
        }
        if a.get_type() != b.get_type() {
            return Err(type_mismatch(a, b));
        }
        Ok(a.equals(b))
    }

    fn compare(self, a: &dyn Val, b: &dyn Val) -> Result<Ordering, Failure> {
        if let (Some(a), Some(b)) = (Number::from_val(a), Number::from_val(b)) {
            return a.compare(b).ok_or_else(not_a_number);
        }
        // The cel crate clones values that it cannot compare.
        if a.get_type().kind() != b.get_type().kind() || is_composite(a) {
            return Err(type_mismatch(a, b));
        }
        self.charge_texts([a])?;
        let compared = a.as_comparer().and_then(|comparer| comparer.compare(b).ok());
        compared.ok_or_else(|| type_mismatch(a, b))
    }

    fn arithmetic<'b, 'v>(
        self,
        name: &str,
        left: &(dyn Val + 'v),
        right: &(dyn Val + 'v),
    ) -> Outcome<'b, 'v> {
        // The cel crate clones values that it cannot add, and adds the keys of an object to a list.
        let kinds = (left.get_type().kind(), right.get_type().kind());
        let large = |value| is_composite(value) || value.get_type().kind() == TypeKind::String;
        if large(left) || large(right) {
            if name != operators::ADD
                || !matches!(kinds, (TypeKind::String, TypeKind::String) | (TypeKind::List, TypeKind::List))
            {
                return Err(no_overload(name, &[left, right]));
            }
            self.scope.budget.charge_copy(left)?;
            self.scope.budget.charge_copy(right)?;
        }
        let value = match name {
            operators::ADD => left.as_adder().map(|left| left.add(right).map(CowVal::into_owned)),
            operators::SUBSTRACT => left.as_subtractor().map(|left| left.sub(right).map(CowVal::into_owned)),
            operators::MULTIPLY => left.as_multiplier().map(|left| left.mul(right).map(CowVal::into_owned)),
            operators::DIVIDE => left.as_divider().map(|left| left.div(right).map(CowVal::into_owned)),
            _ => left.as_modder().map(|left| left.modulo(right).map(CowVal::into_owned)),
        };
        let value = value.ok_or_else(|| no_overload(name, &[left, right]))?;
        value.map(CowVal::Owned).map_err(from_cel)
    }

    fn same_entries(self, a: &dyn Val, b: &dyn Val) -> Result<bool, Failure> {
        let is_incomplete = self.scope.is_incomplete();
        let uncertain_kind = |map: &dyn Val| {
            map.downcast_ref::<FactsOfKind>().is_some_and(|kind| kind.is_uncertain(is_incomplete))
        };
        if uncertain_kind(a) || uncertain_kind(b) {
            return Err(uncertain());
        }
        let (Some(keys), Some(size), Some(other)) = (a.as_iterable(), a.as_sizer(), b.as_sizer()) else {
            return Err(type_mismatch(a, b));
        };
        if length(size) != length(other) {
            return Ok(false);
        }
        self.scope.budget.charge(length(size))?;
        let mut keys = keys.iter();
        let mut failed = None;
        while let Some(key) = keys.next() {
            if !self.has(b, key)? {
                return Ok(false);
            }
            let of = |map| self.index(CowVal::Borrowed(map), key, false);
            let same = of(a).and_then(|x| of(b).and_then(|y| self.equal(x.as_ref(), y.as_ref())));
            match same {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

/// Loop body of a macro.
enum LoopBody<'b> {
    /// `exists` and `all`: the value of the condition that decides, and the condition.
    Logical(bool, &'b IdedExpr),
    /// `map` and `filter`: the condition for an element, and the expression that is appended.
    Append(Option<&'b IdedExpr>, &'b IdedExpr),
    Other,
}

impl<'b> LoopBody<'b> {
    fn of(fold: &'b ComprehensionExpr) -> Self {
        let is_accu = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if *name == fold.accu_var);
        let appended = |node: &'b IdedExpr| match &node.expr {
            Expr::Call(CallExpr { func_name, args, .. }) if func_name == operators::ADD => {
                match args.as_slice() {
                    [accu, IdedExpr { expr: Expr::List(list), .. }] if is_accu(accu) => {
                        match list.elements.as_slice() {
                            [element] if list.optional_indices.is_empty() => Some(element),
                            _ => None,
                        }
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if !is_accu(&fold.result) {
            return Self::Other;
        }
        if let Some(element) = appended(&fold.loop_step) {
            return Self::Append(None, element);
        }
        let Expr::Call(call) = &fold.loop_step.expr else { return Self::Other };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_OR, [accu, holds]) if is_accu(accu) => Self::Logical(true, holds),
            (operators::LOGICAL_AND, [accu, holds]) if is_accu(accu) => Self::Logical(false, holds),
            (operators::CONDITIONAL, [only, then, accu]) if is_accu(accu) => {
                appended(then).map_or(Self::Other, |element| Self::Append(Some(only), element))
            }
            _ => Self::Other,
        }
    }
}

/// Call of a member function of the cel crate.
struct MemberCall<'b, 'v> {
    target: CowVal<'b, 'v>,
    args: Vec<CowVal<'b, 'v>>,
}

const TARGET: &str = "@target";
const ARGS: [&str; 4] = ["@0", "@1", "@2", "@3"];

impl VariableResolver for MemberCall<'_, '_> {
    fn resolve<'r>(&'r self, variable: &str) -> Option<CowVal<'r, 'r>> {
        let value = if variable == TARGET {
            &self.target
        } else {
            self.args.get(ARGS.iter().position(|arg| *arg == variable)?)?
        };
        Some(CowVal::Borrowed(value.as_ref() as &(dyn Val + 'r)))
    }
}

impl MemberCall<'_, '_> {
    /// Evaluates the call in the interpreter of the cel crate, which is the only way to reach these functions. Target and
    /// arguments are passed as variables.
    fn call<'b, 'v>(&self, name: &str, env: &Arc<Env>) -> Outcome<'b, 'v> {
        let ident = |name: &str| IdedExpr { id: 0, expr: Expr::Ident(name.to_owned()) };
        let args = ARGS.iter().take(self.args.len()).map(|name| ident(name)).collect();
        let call = CallExpr { func_name: name.to_owned(), target: Some(Box::new(ident(TARGET))), args };
        let call = IdedExpr { id: 0, expr: Expr::Call(call) };
        let mut context = Context::with_env(Arc::clone(env));
        context.set_variable_resolver(self);
        let value = Value::resolve_val(&call, &context).map_err(|e| failure_from_cel(&e))?;
        to_static(value.as_ref()).map(CowVal::Owned).ok_or_else(|| no_overload(name, &[self.target.as_ref()]))
    }
}

/// Copies the return value of a member function, so that it borrows nothing. Returns `None` for other types.
fn to_static<'v>(value: &dyn Val) -> Option<Box<dyn Val + 'v>> {
    macro_rules! copy {
        ($($kind:ty),*) => {
            $(if let Some(value) = value.downcast_ref::<$kind>() {
                return Some(Box::new(value.clone()));
            })*
        };
    }
    copy!(CelBool, CelInt, CelUInt, CelDouble, CelTimestamp, CelDuration, CelNull);
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return Some(Box::new(CelString::from(text.inner().to_owned())));
    }
    let list = value.downcast_ref::<CelList<'_>>()?;
    let items: Option<Vec<Box<dyn Val + 'v>>> = list.iter().map(|item| to_static(item.as_ref())).collect();
    Some(Box::new(CelList::from(items?)))
}

enum Unwrapped<'b, 'v> {
    Plain(CowVal<'b, 'v>),
    Some(CowVal<'b, 'v>),
    None,
}

fn unwrap_optional<'b, 'v>(value: CowVal<'b, 'v>) -> Unwrapped<'b, 'v> {
    match &value {
        CowVal::Borrowed(of) => match of.downcast_ref::<CelOptional<'_>>().map(CelOptional::option) {
            Some(Some(inner)) => return Unwrapped::Some(CowVal::Borrowed(inner)),
            Some(None) => return Unwrapped::None,
            None => {}
        },
        CowVal::Owned(of) => match of.downcast_ref::<CelOptional<'_>>().map(CelOptional::option) {
            Some(Some(inner)) => return Unwrapped::Some(CowVal::Owned(inner.clone_as_boxed())),
            Some(None) => return Unwrapped::None,
            None => {}
        },
    }
    Unwrapped::Plain(value)
}

/// Returns the content of an optional; `None` if the value is not an optional.
fn optional<'c, 'v>(value: &'c CowVal<'_, 'v>) -> Option<Option<&'c (dyn Val + 'v)>> {
    value.downcast_ref::<CelOptional<'v>>().map(CelOptional::option)
}

fn length(sizer: &dyn Sizer) -> usize {
    usize::try_from(sizer.size().into_inner()).unwrap_or(usize::MAX)
}

fn is_map(value: &dyn Val) -> bool {
    value.get_type().kind() == TypeKind::Map
}

/// Returns true for a map or a list.
fn is_composite(value: &dyn Val) -> bool {
    matches!(value.get_type().kind(), TypeKind::Map | TypeKind::List)
}

/// Returns true for a result without fields that is not an error: tools report failures as texts, and an empty outcome as `null` or
/// an empty list. A number or a boolean is an unexpected answer, and a list may contain the expected one.
fn is_empty_result(result: &dyn Val) -> bool {
    result.downcast_ref::<CelString<'_>>().is_some()
        || result.downcast_ref::<CelNull>().is_some()
        || result.downcast_ref::<CelList<'_>>().is_some_and(|list| list.is_empty())
}

/// Rejects an object of a payload in place of a list: CEL would iterate over its keys and ignore its values.
fn reject_payload_object(value: &dyn Val) -> Result<(), Failure> {
    if is_of_payload(value) { Err(fail("expected a list, found an object")) } else { Ok(()) }
}

fn as_bool(value: &CowVal<'_, '_>) -> Result<bool, Failure> {
    let found = value.downcast_ref::<CelBool>().map(|truth| *truth.inner());
    found.ok_or_else(|| fail(format!("expected true or false, found {}", type_of(value.as_ref()))))
}

/// Evaluates `||` (`decides` is true) or `&&` (`decides` is false). A side that equals `decides` is the result, even if the other
/// side fails.
fn logical_operator<'b, 'v: 'b>(
    decides: bool,
    left: Outcome<'b, 'v>,
    right: impl FnOnce() -> Outcome<'b, 'v>,
) -> Result<bool, Failure> {
    let left = left.and_then(|left| as_bool(&left));
    if left == Ok(decides) {
        return Ok(decides);
    }
    match (left, right().and_then(|right| as_bool(&right))) {
        (_, Ok(right)) if right == decides => Ok(decides),
        (Ok(_), Ok(_)) => Ok(!decides),
        (Err(left), Err(right)) => Err(left.more_severe(right)),
        (Err(e), Ok(_)) | (Ok(_), Err(e)) => Err(e),
    }
}

fn any(each: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    decide(true, each)
}

fn every(each: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    decide(false, each)
}

/// Returns `decides` if an item equals it, else a failure if an item failed.
fn decide(decides: bool, each: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    let mut failed: Option<Failure> = None;
    for one in each {
        match one {
            Ok(one) if one == decides => return Ok(decides),
            Ok(_) => {}
            Err(e) => failed = Some(failed.map_or(e.clone(), |failed| failed.more_severe(e))),
        }
    }
    failed.map_or(Ok(!decides), Err)
}

fn type_of(value: &dyn Val) -> &str {
    value.get_type().name()
}

fn no_overload(name: &str, args: &[&dyn Val]) -> Failure {
    let types = args.iter().map(|arg| type_of(*arg).to_owned()).collect();
    failure_from_cel(&ExecutionError::no_such_overload(name, types))
}

fn no_fields(value: &dyn Val) -> Failure {
    fail(format!("expected a map or a list, found {}", type_of(value)))
}

fn type_mismatch(a: &dyn Val, b: &dyn Val) -> Failure {
    fail(format!("expected two values of one type, found {} and {}", type_of(a), type_of(b)))
}

fn not_a_number() -> Failure {
    fail("expected two numbers, found NaN")
}

fn uncertain() -> Failure {
    failure_from_cel(&error("facts of this kind may be missing or outdated"))
}
