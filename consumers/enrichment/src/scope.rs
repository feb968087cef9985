//! What an expression sees.

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
    self, Json, Keys, OWN_MAP, Object, Origin, PayloadError, UnreadableValue, no_such_key, text_key,
};
use crate::session::{Facts, FactsOfKind, Session};

/// The members of `session`.
pub(crate) const SESSION_MEMBERS: &[&str] = &["events", "started_at", "tool_calls"];
/// The members of `event`.
pub(crate) const EVENT_MEMBERS: &[&str] = &["agent_id", "environment", "tenant_id", "time", "type"];

/// Longest key of a fact, in bytes: verdicts repeat keys.
pub(crate) const MAX_KEY: usize = 512;

/// The variables of one evaluation, each made once an expression asks for it.
pub(crate) struct Scope<'a> {
    input: Input<'a>,
    result: Option<ResultValue<'a>>,
    /// The result is an element of one: all elements share one budget.
    is_element: bool,
    facts: KnownFacts<'a>,
    session: (&'a Session, OnceLock<Object<'a>>),
    event: (&'a ActionEvent<'a>, OnceLock<Object<'a>>),
    pub(crate) budget: Budget,
}

/// A result, or why it cannot be read.
pub(crate) type ResultValue<'a> = Result<&'a (dyn Val + 'static), PayloadError>;

/// The arguments of a call.
pub(crate) enum Input<'a> {
    /// Of no call that is known.
    Absent,
    /// Of a call that is kept.
    Kept(&'a [u8], OnceLock<Result<Json, PayloadError>>),
    /// Read already.
    Read(Result<Json, PayloadError>),
}

impl<'a> Input<'a> {
    /// Those of a call that is kept.
    pub(crate) const fn of(arguments: &'a [u8]) -> Self {
        Self::Kept(arguments, OnceLock::new())
    }

    fn get(&self) -> Result<&Json, Failure> {
        let read = match self {
            Self::Absent => return Err(Failure::Absent),
            Self::Kept(arguments, read) => read.get_or_init(|| Json::arguments(arguments)),
            Self::Read(read) => read,
        };
        read.as_ref().map_err(|_| Failure::Arguments)
    }
}

impl<'a> Scope<'a> {
    /// For `event` in `session`. `kinds` are those that the bundle's tools state: one of which nothing is known is empty.
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
            facts: KnownFacts { facts: session.facts(), kinds },
            session: (session, OnceLock::new()),
            event: (event, OnceLock::new()),
            budget: Budget::new(),
        }
    }

    /// A variable. `None` if there is none of that name.
    pub(crate) fn get(&self, variable: &str) -> Option<Result<&dyn Val, Failure>> {
        Some(match variable {
            "input" => self.input.get().map(|json| json.as_val() as &dyn Val),
            "result" => match self.result {
                Some(Ok(value)) => Ok(value),
                Some(Err(e)) => Err(Failure::Error(format!("the result: {e}"))),
                None => Err(Failure::Absent),
            },
            "facts" => Ok(&self.facts),
            "session" => Ok(self.session.1.get_or_init(|| session_object(self.session.0))),
            "event" => Ok(self.event.1.get_or_init(|| event_object(self.event.0))),
            _ => return None,
        })
    }

    /// Sets the result.
    pub(crate) const fn enter_result(&mut self, result: ResultValue<'a>) {
        self.result = Some(result);
        self.is_element = false;
    }

    /// Replaces the result, which is a list, by one of its elements. The elements of a list have the budget of one expression.
    pub(crate) fn enter_element(&mut self, element: ResultValue<'a>) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.is_element, true) {
            self.budget.refill();
        }
        self.result = Some(element);
        self.budget.charge(1)
    }

    /// Fills the budget for an expression.
    pub(crate) fn refill(&self) {
        if !self.is_element {
            self.budget.refill();
        }
    }

    /// True if the session may have forgotten something.
    pub(crate) const fn forgets(&self) -> bool {
        self.session.0.forgets()
    }
}

fn session_object<'a>(session: &Session) -> Object<'a> {
    let int = |value: i64| Box::new(CelInt::from(value)) as Box<dyn Val + 'a>;
    let mut entries = vec![
        ("events".to_owned(), Ok(int(session.events()))),
        ("tool_calls".to_owned(), Ok(int(session.tool_calls().into()))),
    ];
    entries.extend(session.started_at().map(|time| ("started_at".to_owned(), timestamp(time))));
    Object::read(entries, Origin::Own)
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
        Origin::Own,
    )
}

/// A producer's clock is unchecked: a time outside of CEL's years cannot be read.
fn timestamp<'a>(time: Micros) -> Result<Box<dyn Val + 'a>, UnreadableValue> {
    let time = DateTime::from_timestamp_micros(time.0).and_then(|time| in_range(time.fixed_offset()));
    Ok(Box::new(CelTimestamp::from(time.ok_or(UnreadableValue::Time)?)))
}

/// `facts`: by kind.
#[derive(Clone, Copy, Debug)]
struct KnownFacts<'a> {
    facts: &'a Facts,
    kinds: &'a BTreeSet<String>,
}

static NOTHING: FactsOfKind = FactsOfKind::empty();

impl Val for KnownFacts<'_> {
    fn get_type(&self) -> &Type {
        &OWN_MAP
    }

    fn cel_type() -> &'static Type {
        &OWN_MAP
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

impl Indexer for KnownFacts<'_> {
    fn get<'b, 'v>(&'b self, kind: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let kind = text_key(kind)?;
        match self.facts.get(kind) {
            Some(found) => Ok(CowVal::Borrowed(found)),
            None if self.kinds.contains(kind) => Ok(CowVal::Borrowed(&NOTHING)),
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
        &OWN_MAP
    }

    fn cel_type() -> &'static Type {
        &OWN_MAP
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
    /// A fact. `forgets`: the session may have dropped some, so that one that is not there is not unknown.
    pub(crate) fn find(&self, key: &dyn Val, forgets: bool) -> Result<&(dyn Val + 'static), ExecutionError> {
        let key = text_key(key)?;
        let doubt = |offset: i64| {
            json::error(format!(
                "not known for certain: the result at offset {offset} may say something else, and could not be read"
            ))
        };
        let Some(fact) = self.get_fact(key) else {
            return Err(match self.doubted_at() {
                Some(offset) => doubt(offset),
                None if forgets => {
                    json::error("not known any more: the session has ended, or has reached its limit")
                }
                // No result can have stated it.
                None if !is_key(key) => {
                    json::error("expected the key of a fact, found one that no fact can have")
                }
                None => no_such_key(),
            });
        };
        match self.doubted_at() {
            Some(offset) if offset > fact.offset() => Err(doubt(offset)),
            _ => fact.json().map(Json::as_val).map_err(|_| doubt(fact.offset())),
        }
    }

    /// Returns true if a fact has that key, readable or not.
    pub(crate) fn has(&self, key: &dyn Val, forgets: bool) -> Result<bool, ExecutionError> {
        if text_key(key).is_ok_and(|key| self.get_fact(key).is_some()) {
            return Ok(true);
        }
        match self.find(key, forgets) {
            Ok(_) => Ok(true),
            Err(ExecutionError::NoSuchKey(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// True if there may be others than those that are known.
    pub(crate) fn is_uncertain(&self, forgets: bool) -> bool {
        forgets || self.doubted_at().is_some()
    }
}

/// Returns true if a fact can have this key. U+FFFD replaces lone surrogates: distinct keys would become one.
pub(crate) fn is_key(key: &str) -> bool {
    key.len() <= MAX_KEY && !key.contains(char::REPLACEMENT_CHARACTER)
}
