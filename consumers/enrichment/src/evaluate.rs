//! Evaluates a parsed expression to a value, *not known*, or an error.
//!
//! cel parses expressions and supplies values and functions. Its interpreter has one kind of failure, `orValue` and `||`
//! accept an error in place of a missing value, and integers compare with doubles as doubles. This evaluator differs:
//!
//! - a missing key, field or fact (not known) and an error stay distinct to the end;
//! - `a || b` is true if either side is, whatever the other side is; if neither side decides and one erred, the whole erred.
//!   `&&`, `all` and `exists` likewise;
//! - `.?` and `[?]` replace missing values, not errors;
//! - numbers compare by their decimals ([`crate::number`]); comparing values of different types is an error, since a tool may
//!   convert one to the other. Null differs from every other value;
//! - each visited element, each copied one, and the bytes of texts are charged to a budget;
//! - an object of a payload in the place of a list is an error: its keys are no elements. `in` looks for an element.

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

use crate::expression::{Failure, failure, is_namespaced};
use crate::functions::{EQUIVALENT, steps_on_text};
use crate::json::{Object, error, is_of_payload};
use crate::number::Number;
use crate::scope::Scope;
use crate::session::FactsOfKind;

type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, Failure>;

/// The evaluation of one expression.
#[derive(Clone, Copy)]
pub(crate) struct Run<'s, 'a> {
    pub(crate) scope: &'s Scope<'a>,
    pub(crate) env: &'static Arc<Env>,
}

/// A variable of a macro, and those around it.
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

/// The variable of what a tool answered.
const RESULT: &str = "result";

const fn truth<'b, 'v>(truth: bool) -> CowVal<'b, 'v> {
    CowVal::Borrowed(if truth { &TRUE } else { &FALSE })
}

fn erred(message: impl ToString) -> Failure {
    Failure::Error(message.to_string())
}

fn of_cel(error: ExecutionError) -> Failure {
    failure(&error)
}

impl<'s> Run<'s, '_> {
    /// Depth was bounded while compiling.
    pub(crate) fn node<'b>(self, node: &'b IdedExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's>
    where
        's: 'b,
    {
        match &node.expr {
            Expr::Literal(literal) => Ok(literal.to_val()),
            Expr::Ident(name) => self.name(name, frame),
            Expr::Select(select) => self.select(select, frame),
            Expr::Call(call) => self.call(call, frame),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                for (i, element) in list.elements.iter().enumerate() {
                    let item = self.node(element, frame)?;
                    if list.optional_indices.contains(&i) {
                        items.extend(self.present(item)?);
                    } else {
                        items.push(self.keep(item)?);
                    }
                }
                Ok(CowVal::owned(CelList::from(items)))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return Err(erred("a map literal")) };
                    let key = self.node(&entry.key, frame)?;
                    self.scope.budget.charge_copy(key.as_ref())?;
                    let key = key.downcast_ref::<CelString<'_>>();
                    let key =
                        key.ok_or_else(|| erred("{}: expected keys that are texts"))?.inner().to_owned();
                    let value = self.node(&entry.value, frame)?;
                    let value = if entry.optional { self.present(value)? } else { Some(self.keep(value)?) };
                    if entries.iter().any(|(known, _)| *known == key) {
                        return Err(erred("a map literal has the same key twice"));
                    }
                    entries.extend(value.map(|value| (key, value)));
                }
                Ok(CowVal::owned(Object::new(entries)))
            }
            Expr::Comprehension(fold) => self.fold(fold, frame),
            Expr::Struct(_) | Expr::Unspecified => Err(erred("an expression of another kind")),
        }
    }

    fn name<'b>(self, name: &str, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
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
        let found = TYPES.iter().find(|known| known.name() == name);
        found.map(|known| CowVal::Borrowed(known as &dyn Val)).ok_or_else(|| erred("an unknown name"))
    }

    fn select<'b>(self, select: &'b SelectExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
        let of = self.node(&select.operand, frame)?;
        let field = CelString::from(select.field.as_str());
        if matches!(&select.operand.expr, Expr::Ident(name) if name == RESULT) && !is_map(of.as_ref()) {
            if !says_nothing(of.as_ref()) {
                let found = type_of(of.as_ref());
                return Err(erred(format!("expected a map as the result, found {found}")));
            }
            return if select.test { Ok(truth(false)) } else { Err(Failure::Absent) };
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

    /// `has(of.field)`. True of a value that cannot be read, too.
    fn has(self, of: &dyn Val, field: &dyn Val) -> Result<bool, Failure> {
        if let Some(kind) = of.downcast_ref::<FactsOfKind>() {
            return kind.has(field, self.scope.forgets()).map_err(of_cel);
        }
        if let Some(container) = of.as_container().filter(|_| is_map(of)) {
            return container.contains(field).map_err(of_cel);
        }
        match self.index(CowVal::Borrowed(of), field, false) {
            Ok(_) => Ok(true),
            Err(Failure::Absent) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// The value itself, copied if it is borrowed.
    fn keep<'v>(self, value: CowVal<'_, 'v>) -> Result<Box<dyn Val + 'v>, Failure> {
        if let CowVal::Borrowed(value) = value {
            self.scope.budget.charge_copy(value)?;
        } else {
            self.scope.budget.charge(1)?;
        }
        Ok(value.into_owned())
    }

    fn own<'b, 'v>(self, value: CowVal<'_, 'v>) -> Outcome<'b, 'v> {
        self.keep(value).map(CowVal::Owned)
    }

    /// The value, unless it is an optional without one.
    fn present<'v>(self, value: CowVal<'_, 'v>) -> Result<Option<Box<dyn Val + 'v>>, Failure> {
        match self.unwrapped(value)? {
            Unwrapped::Plain(value) | Unwrapped::Some(value) => self.keep(value).map(Some),
            Unwrapped::None => Ok(None),
        }
    }

    fn unwrapped<'b, 'v>(self, value: CowVal<'b, 'v>) -> Result<Unwrapped<'b, 'v>, Failure> {
        if value.is_owned() && optional(&value).is_some() {
            self.scope.budget.charge_copy(value.as_ref())?;
        }
        Ok(unwrapped(value))
    }

    /// Charges what goes through the bytes of texts.
    fn read<'c>(self, values: impl IntoIterator<Item = &'c (dyn Val + 'c)>) -> Result<(), Failure> {
        let bytes = values.into_iter().filter_map(|value| value.downcast_ref::<CelString<'_>>());
        self.scope.budget.charge_bytes(bytes.map(|text| text.inner().len()).sum())
    }

    /// `of.key`, `of[key]`; with `soft` those with a question mark. Of an optional, what is within.
    fn index<'b, 'v>(self, of: CowVal<'b, 'v>, key: &dyn Val, soft: bool) -> Outcome<'b, 'v> {
        self.read([key])?;
        let (of, soft) = match self.unwrapped(of)? {
            Unwrapped::Plain(of) => (of, soft),
            Unwrapped::Some(of) => (of, true),
            Unwrapped::None => return Ok(CowVal::owned(CelOptional::none())),
        };
        // Null has nothing, and neither has a list beyond its end.
        let nothing = of.downcast_ref::<CelNull>().is_some()
            || of.downcast_ref::<CelList<'_>>().is_some_and(|list| {
                Number::of(key)
                    .and_then(Number::whole)
                    .is_some_and(|at| usize::try_from(at).map_or(true, |at| at >= list.len()))
            });
        if soft && nothing {
            return Ok(CowVal::owned(CelOptional::none()));
        }
        let found = match of {
            CowVal::Borrowed(of) => match of.downcast_ref::<FactsOfKind>() {
                Some(kind) => {
                    kind.find(key, self.scope.forgets()).map(|fact| CowVal::Borrowed(fact as &dyn Val))
                }
                None => of.as_indexer().ok_or_else(|| no_fields(of))?.get(key),
            },
            CowVal::Owned(of) => {
                let indexer = of.as_indexer().ok_or_else(|| no_fields(of.as_ref()))?;
                match indexer.get(key) {
                    Ok(value) => Ok(self.own(value)?),
                    Err(e) => Err(e),
                }
            }
        };
        match found {
            Ok(value) if soft => Ok(CowVal::owned(CelOptional::of(self.keep(value)?))),
            Ok(value) => Ok(value),
            Err(ExecutionError::NoSuchKey(_)) if soft => Ok(CowVal::owned(CelOptional::none())),
            Err(ExecutionError::UnexpectedType { .. }) => Err(erred("expected an index of another type")),
            Err(e) => Err(failure(&e)),
        }
    }

    fn call<'b>(self, call: &'b CallExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
        let arg = |i: usize| {
            let arg = call.args.get(i).ok_or_else(|| erred("too few arguments"))?;
            self.node(arg, frame)
        };
        let name = call.func_name.as_str();
        if let Some(target) = call.target.as_deref() {
            return if is_namespaced(call) {
                self.equivalent(arg(0)?.as_ref(), arg(1)?.as_ref()).map(truth)
            } else {
                self.member(name, self.node(target, frame)?, &call.args, frame)
            };
        }
        match name {
            operators::CONDITIONAL => arg(if as_truth(&arg(0)?)? { 1 } else { 2 }),
            operators::LOGICAL_OR => either(true, arg(0), || arg(1)).map(truth),
            operators::LOGICAL_AND => either(false, arg(0), || arg(1)).map(truth),
            operators::LOGICAL_NOT => as_truth(&arg(0)?).map(|holds| truth(!holds)),
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
                self.within(value.as_ref(), arg(1)?.as_ref()).map(truth)
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
                negator.negate().map(CowVal::Owned).map_err(of_cel)
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
                    call.args.iter().map(|arg| self.node(arg, frame)).collect::<Result<Vec<_>, _>>()?;
                if let Some((text, rest)) = args.split_first() {
                    self.work(name, text.as_ref(), rest, call.args.get(1))?;
                }
                self.function(name, args)
            }
        }
    }

    fn function<'b, 'v>(self, name: &str, args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
        if let Some(kind) = args.first().and_then(|value| value.downcast_ref::<FactsOfKind>())
            && kind.is_uncertain(self.scope.forgets())
            && name != "type"
        {
            return Err(uncertain());
        }
        if name == "size"
            && let Some(value) = args.first()
        {
            no_object(value.as_ref())?;
            self.read([value.as_ref()])?;
        }
        let Some(function) = self.env.find_overload(name, &args) else {
            return Err(no_overload(name, &args.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
        };
        function(args).map_err(of_cel)
    }

    /// Charges a function on a text.
    fn work(
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
        self.scope.budget.charge(steps_on_text(name, text.inner(), args, literal)?)
    }

    /// `target.name(args)`.
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
                ("value", []) => inner.ok_or(Failure::Absent),
                ("orValue", [other]) => inner.map_or_else(|| self.node(other, frame), Ok),
                ("or", [_]) if inner.is_some() => Ok(target),
                ("or", [other]) => self.node(other, frame),
                _ => Err(no_overload(name, &[target.as_ref()])),
            };
        }
        let first = args.first();
        let args = args.iter().map(|arg| self.node(arg, frame)).collect::<Result<Vec<_>, _>>()?;
        if name == "size" && args.is_empty() {
            return self.function(name, vec![target]);
        }
        // cel copies what it finds no function for.
        if args.iter().chain([&target]).any(|value| is_composite(value.as_ref())) {
            return Err(no_overload(name, &[target.as_ref()]));
        }
        self.work(name, target.as_ref(), &args, first)?;
        Member { target, args }.call(name, self.env)
    }

    fn fold<'b>(self, fold: &'b ComprehensionExpr, frame: Option<&'b Frame<'b, 's>>) -> Outcome<'b, 's> {
        let init = self.node(&fold.accu_init, frame)?;
        if matches!(&fold.iter_range.expr, Expr::List(list) if list.elements.is_empty()) {
            // cel.bind
            let bound = Frame { name: &fold.accu_var, value: init.as_ref(), outer: frame };
            return self.node(&fold.result, Some(&bound)).and_then(|value| self.own(value));
        }
        let range = self.node(&fold.iter_range, frame)?;
        no_object(range.as_ref())?;
        let items = range
            .as_iterable()
            .ok_or_else(|| erred(format!("expected a list or a map, found {}", type_of(range.as_ref()))))?;
        let sizer = range
            .as_sizer()
            .ok_or_else(|| erred("expected a list or a map, found a value without a size"))?;
        self.scope.budget.charge(length(sizer))?;
        // A fact that is not there may be what decides.
        let incomplete =
            range.downcast_ref::<FactsOfKind>().is_some_and(|kind| kind.is_uncertain(self.scope.forgets()));
        let mut failed = incomplete.then(uncertain);
        match Step::of(fold) {
            Step::Logical(decides, holds) => {
                let mut items = items.iter();
                while let Some(item) = items.next() {
                    let inner = Frame { name: &fold.iter_var, value: item, outer: frame };
                    match self.node(holds, Some(&inner)).and_then(|holds| as_truth(&holds)) {
                        Ok(holds) if holds == decides => return Ok(truth(decides)),
                        Ok(_) => {}
                        Err(e) if self.scope.budget.is_spent() => return Err(e),
                        Err(e) => failed = Some(failed.map_or(e.clone(), |failed| failed.or(e))),
                    }
                }
                failed.map_or(Ok(truth(!decides)), Err)
            }
            Step::Append(only, element) => {
                if let Some(failed) = failed {
                    return Err(failed);
                }
                let mut list = Vec::new();
                let mut items = items.iter();
                while let Some(item) = items.next() {
                    let inner = Frame { name: &fold.iter_var, value: item, outer: frame };
                    let chosen = only.map_or(Ok(true), |only| as_truth(&self.node(only, Some(&inner))?))?;
                    if chosen {
                        list.push(self.keep(self.node(element, Some(&inner))?)?);
                    }
                }
                Ok(CowVal::owned(CelList::from(list)))
            }
            Step::Other => {
                if let Some(failed) = failed {
                    return Err(failed);
                }
                let mut accu = init.into_owned();
                let mut items = items.iter();
                while let Some(item) = items.next() {
                    let next = {
                        let outer = Frame { name: &fold.accu_var, value: accu.as_ref(), outer: frame };
                        let inner = Frame { name: &fold.iter_var, value: item, outer: Some(&outer) };
                        self.keep(self.node(&fold.loop_step, Some(&inner))?)?
                    };
                    accu = next;
                }
                let bound = Frame { name: &fold.accu_var, value: accu.as_ref(), outer: frame };
                self.node(&fold.result, Some(&bound)).and_then(|value| self.own(value))
            }
        }
    }

    /// `value in container`.
    fn within(self, value: &dyn Val, container: &dyn Val) -> Result<bool, Failure> {
        if let Some(kind) = container.downcast_ref::<FactsOfKind>() {
            return kind.has(value, self.scope.forgets()).map_err(of_cel);
        }
        if let Some(list) = container.downcast_ref::<CelList<'_>>() {
            self.scope.budget.charge(list.len())?;
            return any(list.iter().map(|item| self.equal(value, item.as_ref())));
        }
        if is_of_payload(container) {
            return Err(erred(
                "`in`: expected a list, found an object; `object[?key].hasValue()` looks up a key",
            ));
        }
        self.read([value])?;
        let container = container.as_container().ok_or_else(|| no_overload("in", &[value, container]))?;
        container.contains(value).map_err(of_cel)
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
        match (Number::of(a), Number::of(b)) {
            (Some(x), Some(y)) => return x.compare(y).map(Ordering::is_eq).ok_or_else(not_a_number),
            (None, None) => {}
            _ => return Err(different(a, b)),
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
            return Err(different(a, b));
        }
        Ok(a.equals(b))
    }

    fn compare(self, a: &dyn Val, b: &dyn Val) -> Result<Ordering, Failure> {
        if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
            return a.compare(b).ok_or_else(not_a_number);
        }
        // cel copies what it cannot compare.
        if a.get_type().kind() != b.get_type().kind() || is_composite(a) {
            return Err(different(a, b));
        }
        self.read([a])?;
        let compared = a.as_comparer().and_then(|comparer| comparer.compare(b).ok());
        compared.ok_or_else(|| different(a, b))
    }

    fn arithmetic<'b, 'v>(
        self,
        name: &str,
        left: &(dyn Val + 'v),
        right: &(dyn Val + 'v),
    ) -> Outcome<'b, 'v> {
        // cel copies what it cannot add, and adds the keys of an object to a list.
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
        value.map(CowVal::Owned).map_err(of_cel)
    }

    fn same_entries(self, a: &dyn Val, b: &dyn Val) -> Result<bool, Failure> {
        let forgets = self.scope.forgets();
        let uncertain_kind =
            |map: &dyn Val| map.downcast_ref::<FactsOfKind>().is_some_and(|kind| kind.is_uncertain(forgets));
        if uncertain_kind(a) || uncertain_kind(b) {
            return Err(uncertain());
        }
        let (Some(keys), Some(size), Some(other)) = (a.as_iterable(), a.as_sizer(), b.as_sizer()) else {
            return Err(different(a, b));
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

/// The body of a macro's loop.
enum Step<'b> {
    /// `exists`, `all`: which outcome of the condition decides, and the condition.
    Logical(bool, &'b IdedExpr),
    /// `map`, `filter`: which elements, and what is put in the list.
    Append(Option<&'b IdedExpr>, &'b IdedExpr),
    Other,
}

impl<'b> Step<'b> {
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

/// A call of one of cel's functions on a value.
struct Member<'b, 'v> {
    target: CowVal<'b, 'v>,
    args: Vec<CowVal<'b, 'v>>,
}

const TARGET: &str = "@target";
const ARGS: [&str; 4] = ["@0", "@1", "@2", "@3"];

impl VariableResolver for Member<'_, '_> {
    fn resolve<'r>(&'r self, variable: &str) -> Option<CowVal<'r, 'r>> {
        let value = if variable == TARGET {
            &self.target
        } else {
            self.args.get(ARGS.iter().position(|arg| *arg == variable)?)?
        };
        Some(CowVal::Borrowed(value.as_ref() as &(dyn Val + 'r)))
    }
}

impl Member<'_, '_> {
    /// cel finds such functions for its own interpreter only: it gets the call alone.
    fn call<'b, 'v>(&self, name: &str, env: &Arc<Env>) -> Outcome<'b, 'v> {
        let ident = |name: &str| IdedExpr { id: 0, expr: Expr::Ident(name.to_owned()) };
        let args = ARGS.iter().take(self.args.len()).map(|name| ident(name)).collect();
        let call = CallExpr { func_name: name.to_owned(), target: Some(Box::new(ident(TARGET))), args };
        let call = IdedExpr { id: 0, expr: Expr::Call(call) };
        let mut context = Context::with_env(Arc::clone(env));
        context.set_variable_resolver(self);
        let value = Value::resolve_val(&call, &context).map_err(|e| failure(&e))?;
        copied(value.as_ref()).map(CowVal::Owned).ok_or_else(|| no_overload(name, &[self.target.as_ref()]))
    }
}

/// A value that such a function gives, without what it borrows.
fn copied<'v>(value: &dyn Val) -> Option<Box<dyn Val + 'v>> {
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
    let items: Option<Vec<Box<dyn Val + 'v>>> = list.iter().map(|item| copied(item.as_ref())).collect();
    Some(Box::new(CelList::from(items?)))
}

enum Unwrapped<'b, 'v> {
    Plain(CowVal<'b, 'v>),
    Some(CowVal<'b, 'v>),
    None,
}

fn unwrapped<'b, 'v>(value: CowVal<'b, 'v>) -> Unwrapped<'b, 'v> {
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

/// The content of a value that is an optional.
fn optional<'c, 'v>(value: &'c CowVal<'_, 'v>) -> Option<Option<&'c (dyn Val + 'v)>> {
    value.downcast_ref::<CelOptional<'v>>().map(CelOptional::option)
}

fn length(sizer: &dyn Sizer) -> usize {
    usize::try_from(sizer.size().into_inner()).unwrap_or(usize::MAX)
}

fn is_map(value: &dyn Val) -> bool {
    value.get_type().kind() == TypeKind::Map
}

/// A value of other values.
fn is_composite(value: &dyn Val) -> bool {
    matches!(value.get_type().kind(), TypeKind::Map | TypeKind::List)
}

/// Returns true of a result that has no fields, without an error: tools report failures as texts, and nothing found as `null` or
/// an empty list. A number or `true` is an answer, but not the one that is expected; a list may hold it.
fn says_nothing(result: &dyn Val) -> bool {
    result.downcast_ref::<CelString<'_>>().is_some()
        || result.downcast_ref::<CelNull>().is_some()
        || result.downcast_ref::<CelList<'_>>().is_some_and(|list| list.is_empty())
}

/// An object of a payload where a list is expected: its keys would be taken for the elements, its values for nothing.
fn no_object(value: &dyn Val) -> Result<(), Failure> {
    if is_of_payload(value) { Err(erred("expected a list, found an object")) } else { Ok(()) }
}

fn as_truth(value: &CowVal<'_, '_>) -> Result<bool, Failure> {
    let found = value.downcast_ref::<CelBool>().map(|truth| *truth.inner());
    found.ok_or_else(|| erred(format!("expected true or false, found {}", type_of(value.as_ref()))))
}

/// `||` (`decides` is true) and `&&` (false): a side that equals `decides` is the outcome, whatever the other side is.
fn either<'b, 'v: 'b>(
    decides: bool,
    left: Outcome<'b, 'v>,
    right: impl FnOnce() -> Outcome<'b, 'v>,
) -> Result<bool, Failure> {
    let left = left.and_then(|left| as_truth(&left));
    if left == Ok(decides) {
        return Ok(decides);
    }
    match (left, right().and_then(|right| as_truth(&right))) {
        (_, Ok(right)) if right == decides => Ok(decides),
        (Ok(_), Ok(_)) => Ok(!decides),
        (Err(left), Err(right)) => Err(left.or(right)),
        (Err(e), Ok(_)) | (Ok(_), Err(e)) => Err(e),
    }
}

fn any(each: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    decided(true, each)
}

fn every(each: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    decided(false, each)
}

/// `decides` if one is; an error if none is and one erred.
fn decided(decides: bool, each: impl Iterator<Item = Result<bool, Failure>>) -> Result<bool, Failure> {
    let mut failed: Option<Failure> = None;
    for one in each {
        match one {
            Ok(one) if one == decides => return Ok(decides),
            Ok(_) => {}
            Err(e) => failed = Some(failed.map_or(e.clone(), |failed| failed.or(e))),
        }
    }
    failed.map_or(Ok(!decides), Err)
}

fn type_of(value: &dyn Val) -> &str {
    value.get_type().name()
}

fn no_overload(name: &str, args: &[&dyn Val]) -> Failure {
    let types = args.iter().map(|arg| type_of(*arg).to_owned()).collect();
    failure(&ExecutionError::no_such_overload(name, types))
}

fn no_fields(value: &dyn Val) -> Failure {
    erred(format!("expected a map or a list, found {}", type_of(value)))
}

fn different(a: &dyn Val, b: &dyn Val) -> Failure {
    erred(format!("expected two values of one type, found {} and {}", type_of(a), type_of(b)))
}

fn not_a_number() -> Failure {
    erred("expected two numbers, found one that is none (NaN)")
}

fn uncertain() -> Failure {
    failure(&error("not all facts of this kind are known"))
}
