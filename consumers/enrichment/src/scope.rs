//! Variables of an expression.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use agentgov_schemas::Micros;
use agentgov_schemas::event::ActionEvent;
use cel::ExecutionError;
use cel::common::traits::{Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelInt, CelString, CelTimestamp, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use chrono::DateTime;

use crate::expression::Failure;
use crate::functions::{Budget, in_range};
use crate::json::{
    self, INTERNAL_MAP, Json, Keys, Object, Origin, PayloadError, UnreadableValue, no_such_key, text_key,
};
use crate::session::{Facts, FactsOfKind, Session};

/// Members of `session`.
pub(crate) const SESSION_MEMBERS: &[&str] = &["events", "started_at", "tool_calls"];
/// Members of `event`.
pub(crate) const EVENT_MEMBERS: &[&str] = &["agent_id", "environment", "tenant_id", "time", "type"];

/// Maximum length of a fact's key in bytes, since verdicts contain keys.
pub(crate) const MAX_KEY: usize = 512;

/// Variables of an evaluation. Each is built when an expression first reads it.
pub(crate) struct Scope<'a> {
    input: Input<'a>,
    result: Option<ResultValue<'a>>,
    /// True while `result` is an element of the result. All elements share one budget.
    is_element: bool,
    facts: FactsByKind<'a>,
    session: (&'a Session, OnceLock<Object<'a>>),
    event: (&'a ActionEvent<'a>, OnceLock<Object<'a>>),
    pub(crate) budget: Budget,
}

/// A result, or the reason why it is unreadable.
pub(crate) type ResultValue<'a> = Result<&'a (dyn Val + 'static), PayloadError>;

/// Arguments of a call.
pub(crate) enum Input<'a> {
    /// The call is unknown.
    Missing,
    /// Arguments of a stored call, parsed at the first access.
    Stored(&'a [u8], OnceLock<Result<Json, PayloadError>>),
    /// Parsed arguments.
    Parsed(Result<Json, PayloadError>),
}

impl<'a> Input<'a> {
    /// Creates the arguments of a stored call.
    pub(crate) const fn stored(arguments: &'a [u8]) -> Self {
        Self::Stored(arguments, OnceLock::new())
    }

    fn get(&self) -> Result<&Json, Failure> {
        let read = match self {
            Self::Missing => return Err(Failure::Missing),
            Self::Stored(arguments, read) => read.get_or_init(|| Json::arguments(arguments)),
            Self::Parsed(read) => read,
        };
        read.as_ref().map_err(|_| Failure::UnreadableArguments)
    }
}

impl<'a> Scope<'a> {
    /// Creates the variables for `event` in `session`. `kinds` are the kinds of facts that the bundle declares; a declared kind
    /// without facts is an empty map.
    pub(crate) const fn new(
        input: Input<'a>,
        result: Option<ResultValue<'a>>,
        session: &'a Session,
        kinds: &'a BTreeSet<String>,
        event: &'a ActionEvent<'a>,
    ) -> Self {
        Self {
            input,
            result,
            is_element: false,
            facts: FactsByKind { facts: session.facts(), kinds },
            session: (session, OnceLock::new()),
            event: (event, OnceLock::new()),
            budget: Budget::new(),
        }
    }

    /// Returns the value of a variable, or `None` if no variable has that name.
    pub(crate) fn get(&self, variable: &str) -> Option<Result<&dyn Val, Failure>> {
        Some(match variable {
            "input" => self.input.get().map(|json| json.as_val() as &dyn Val),
            "result" => match self.result {
                Some(Ok(value)) => Ok(value),
                Some(Err(e)) => Err(Failure::Error(format!("the result: {e}"))),
                None => Err(Failure::Missing),
            },
            "facts" => Ok(&self.facts),
            "session" => Ok(self.session.1.get_or_init(|| session_object(self.session.0))),
            "event" => Ok(self.event.1.get_or_init(|| event_object(self.event.0))),
            _ => return None,
        })
    }

    /// Sets `result`.
    pub(crate) const fn enter_result(&mut self, result: ResultValue<'a>) {
        self.result = Some(result);
        self.is_element = false;
    }

    /// Sets `result` to an element of the result, which is a list. All elements share the budget of one expression.
    pub(crate) fn enter_element(&mut self, element: ResultValue<'a>) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.is_element, true) {
            self.budget.refill();
        }
        self.result = Some(element);
        self.budget.charge(1)
    }

    /// Refills the budget for the next expression, except between elements of a result.
    pub(crate) fn refill(&self) {
        if !self.is_element {
            self.budget.refill();
        }
    }

    /// Returns true if the session may have dropped facts or calls.
    pub(crate) const fn is_incomplete(&self) -> bool {
        self.session.0.is_incomplete()
    }
}

fn session_object<'a>(session: &Session) -> Object<'a> {
    let int = |value: i64| Box::new(CelInt::from(value)) as Box<dyn Val + 'a>;
    let mut entries = vec![
        ("events".to_owned(), Ok(int(session.events()))),
        ("tool_calls".to_owned(), Ok(int(session.tool_calls().into()))),
    ];
    entries.extend(session.started_at().map(|time| ("started_at".to_owned(), timestamp(time))));
    Object::read(entries, Origin::Internal)
}

fn event_object<'a>(event: &ActionEvent<'a>) -> Object<'a> {
    let text = |text: &'a str| Ok(Box::new(CelString::from(text)) as Box<dyn Val + 'a>);
    Object::read(
        [
            ("type".to_owned(), text(event.r#type)),
            ("environment".to_owned(), text(event.environment)),
            ("tenant_id".to_owned(), text(event.tenant_id)),
            ("agent_id".to_owned(), text(event.agent.id)),
            ("time".to_owned(), timestamp(event.occurred_at)),
        ],
        Origin::Internal,
    )
}

/// Converts a time. A time outside of CEL's years is unreadable: the clock of a producer is not checked.
fn timestamp<'a>(time: Micros) -> Result<Box<dyn Val + 'a>, UnreadableValue> {
    let time = DateTime::from_timestamp_micros(time.0).and_then(|time| in_range(time.fixed_offset()));
    Ok(Box::new(CelTimestamp::from(time.ok_or(UnreadableValue::TimeOutOfRange)?)))
}

/// Variable `facts`: facts by kind.
#[derive(Clone, Copy, Debug)]
struct FactsByKind<'a> {
    facts: &'a Facts,
    kinds: &'a BTreeSet<String>,
}

static EMPTY_KIND: FactsOfKind = FactsOfKind::empty();

impl Val for FactsByKind<'_> {
    fn get_type(&self) -> &Type {
        &INTERNAL_MAP
    }

    fn cel_type() -> &'static Type {
        &INTERNAL_MAP
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Indexer for FactsByKind<'_> {
    fn get<'b, 'v>(&'b self, kind: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let kind = text_key(kind)?;
        match self.facts.get(kind) {
            Some(found) => Ok(CowVal::Borrowed(found)),
            None if self.kinds.contains(kind) => Ok(CowVal::Borrowed(&EMPTY_KIND)),
            None => Err(no_such_key()),
        }
    }

    fn steal<'v>(self: Box<Self>, kind: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(kind).map(CowVal::into_owned)
    }
}

impl Val for FactsOfKind {
    fn get_type(&self) -> &Type {
        &INTERNAL_MAP
    }

    fn cel_type() -> &'static Type {
        &INTERNAL_MAP
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl StaticVal for FactsOfKind {}

impl Indexer for FactsOfKind {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.find(key, false).map(CowVal::Borrowed)
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Iterable for FactsOfKind {
    fn iter<'b, 'v>(&'b self) -> Box<dyn CelIterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Keys(self.keys()))
    }
}

impl Sizer for FactsOfKind {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.len()).unwrap_or(i64::MAX))
    }
}

impl FactsOfKind {
    /// Returns the fact with that key. With `is_incomplete` (the session may have dropped facts) a missing fact is an error, not a
    /// missing value.
    pub(crate) fn find(
        &self,
        key: &dyn Val,
        is_incomplete: bool,
    ) -> Result<&(dyn Val + 'static), ExecutionError> {
        let key = text_key(key)?;
        let uncertain = |offset: i64| {
            json::error(format!(
                "the fact is uncertain: the result at offset {offset} is unreadable and may have changed it"
            ))
        };
        let Some(fact) = self.get_fact(key) else {
            return Err(match self.last_unreadable_at() {
                Some(offset) => uncertain(offset),
                None if is_incomplete => json::error(
                    "the fact may have been dropped: the session has ended or has reached its limit",
                ),
                // No result can carry a fact with this key.
                None if !is_key(key) => json::error(
                    "expected a possible key of a fact, found a text that is too long or has U+FFFD",
                ),
                None => no_such_key(),
            });
        };
        match self.last_unreadable_at() {
            Some(offset) if offset > fact.offset() => Err(uncertain(offset)),
            _ => fact.json().map(Json::as_val).map_err(|_| uncertain(fact.offset())),
        }
    }

    /// Returns true if a fact with that key exists, even if it is unreadable or uncertain: no result withdraws a fact.
    pub(crate) fn has(&self, key: &dyn Val, is_incomplete: bool) -> Result<bool, ExecutionError> {
        if text_key(key).is_ok_and(|key| self.get_fact(key).is_some()) {
            return Ok(true);
        }
        match self.find(key, is_incomplete) {
            Ok(_) => Ok(true),
            Err(ExecutionError::NoSuchKey(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Returns true if facts of this kind may be missing or outdated.
    pub(crate) fn is_uncertain(&self, is_incomplete: bool) -> bool {
        is_incomplete || self.last_unreadable_at().is_some()
    }
}

/// Returns true if a fact can have this key. A key with U+FFFD is excluded: it replaces lone surrogates, so that different keys
/// would become equal.
pub(crate) fn is_key(key: &str) -> bool {
    key.len() <= MAX_KEY && !key.contains(char::REPLACEMENT_CHARACTER)
}
