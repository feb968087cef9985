//! What an expression sees.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use agentgov_schemas::Micros;
use agentgov_schemas::event::ActionEvent;
use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelInt, CelString, CelTimestamp, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use chrono::DateTime;

use crate::functions::{BUDGET, Budget, in_range};
use crate::json::{Json, Keys, Object, no_such_key};
use crate::session::{Facts, Kind, Session};

/// The members of `session`.
pub(crate) const SESSION_MEMBERS: &[&str] = &["events", "started_at", "tool_calls"];
/// The members of `event`.
pub(crate) const EVENT_MEMBERS: &[&str] = &["agent_id", "environment", "tenant_id", "time", "type"];

/// The variables of one evaluation, each made once an expression asks for it.
pub(crate) struct Scope<'a> {
    input: Input<'a>,
    result: Option<&'a Json>,
    facts: KnownFacts<'a>,
    session: (&'a Session, OnceLock<Object<'a>>),
    event: (&'a ActionEvent<'a>, OnceLock<Object<'a>>),
    pub(crate) budget: Budget,
}

/// The arguments of a call.
pub(crate) struct Input<'a> {
    arguments: &'a [u8],
    parsed: OnceLock<Option<Json>>,
}

impl<'a> Input<'a> {
    /// Those of a call that is kept. What is no JSON is absent.
    pub(crate) const fn of(arguments: &'a [u8]) -> Self {
        Self { arguments, parsed: OnceLock::new() }
    }

    /// Parsed already; `None`: absent.
    pub(crate) fn parsed(input: Option<Json>) -> Self {
        Self { arguments: &[], parsed: OnceLock::from(input) }
    }

    fn get(&self) -> Option<&Json> {
        self.parsed.get_or_init(|| Json::parse(self.arguments).ok()).as_ref()
    }
}

impl<'a> Scope<'a> {
    /// For `event` in `session`. `kinds` are those that the bundle's tools state: one of which nothing is known is empty.
    pub(crate) const fn new(
        input: Input<'a>,
        result: Option<&'a Json>,
        session: &'a Session,
        kinds: &'a BTreeSet<String>,
        event: &'a ActionEvent<'a>,
    ) -> Self {
        Self {
            input,
            result,
            facts: KnownFacts { facts: session.facts(), kinds },
            session: (session, OnceLock::new()),
            event: (event, OnceLock::new()),
            budget: Budget::new(),
        }
    }
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let value: &(dyn Val + 'b) = match variable {
            "input" => self.input.get()?.as_val(),
            "result" => self.result?.as_val(),
            "facts" => &self.facts,
            "session" => self.session.1.get_or_init(|| session_object(self.session.0)),
            "event" => self.event.1.get_or_init(|| event_object(self.event.0)),
            BUDGET => &self.budget,
            _ => return None,
        };
        Some(CowVal::Borrowed(value))
    }
}

fn session_object<'a>(session: &Session) -> Object<'a> {
    let int = |value: i64| Box::new(CelInt::from(value)) as Box<dyn Val>;
    let mut entries = vec![
        ("events".to_owned(), int(session.events())),
        ("tool_calls".to_owned(), int(session.tool_calls().into())),
    ];
    if let Some(time) = session.started_at().and_then(timestamp) {
        entries.push(("started_at".to_owned(), time));
    }
    Object::new(entries)
}

fn event_object<'a>(event: &ActionEvent<'a>) -> Object<'a> {
    let text = |text: &'a str| Box::new(CelString::from(text)) as Box<dyn Val + 'a>;
    let mut entries = vec![
        ("type".to_owned(), text(event.r#type)),
        ("environment".to_owned(), text(event.environment)),
        ("tenant_id".to_owned(), text(event.tenant_id)),
        ("agent_id".to_owned(), text(event.agent.id)),
    ];
    if let Some(time) = timestamp(event.occurred_at) {
        entries.push(("time".to_owned(), time));
    }
    Object::new(entries)
}

/// A producer's clock says anything: a time that CEL has no word for is absent.
fn timestamp(time: Micros) -> Option<Box<dyn Val>> {
    let time = in_range(DateTime::from_timestamp_micros(time.0)?.fixed_offset())?;
    Some(Box::new(CelTimestamp::from(time)))
}

/// `facts`: by kind.
#[derive(Clone, Copy, Debug)]
struct KnownFacts<'a> {
    facts: &'a Facts,
    kinds: &'a BTreeSet<String>,
}

static NOTHING: Kind = Kind::empty();

impl Val for KnownFacts<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
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
        let kind = kind.downcast_ref::<CelString<'_>>().ok_or_else(no_such_key)?.inner();
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

impl Val for Kind {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
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

impl Container for Kind {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.find(key).is_some())
    }
}

impl Indexer for Kind {
    /// A fact with a key that is no string cannot have been stated: it is not known.
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.find(key).map(CowVal::Borrowed).ok_or_else(no_such_key)
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Iterable for Kind {
    fn iter<'b, 'v>(&'b self) -> Box<dyn CelIterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Keys(self.keys()))
    }
}

impl Sizer for Kind {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.len()).unwrap_or(i64::MAX))
    }
}

impl Kind {
    fn find(&self, key: &dyn Val) -> Option<&(dyn Val + 'static)> {
        let key = key.downcast_ref::<CelString<'_>>()?.inner();
        self.get_fact(key).map(|fact| fact.json().as_val())
    }
}
