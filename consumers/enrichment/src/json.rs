//! Payloads as CEL values: converted once, shared afterwards.
//!
//! cel's own maps are hash maps: their order changes from run to run, and a copy is deep. A JSON object is an
//! [`Object`] here, in the order of its keys and shared, so that the same events give the same verdict and a
//! comprehension over a list of objects copies pointers.

mod read;

use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelInt, CelNull, CelString, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};

use crate::number::MAX_DIGITS;

/// Most values in one payload. Beyond, a payload is not looked into: what an expression costs depends on it.
pub const MAX_VALUES: usize = 50_000;
/// Deepest nesting of lists and objects that is read.
const MAX_DEPTH: usize = 127;

/// A payload that can be read, at least in parts.
#[derive(Clone, Debug)]
pub struct Json(Box<dyn Val>);

/// A payload that cannot be read. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON in UTF-8.
    #[error("expected JSON in UTF-8, found something else at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// More than [`MAX_VALUES`].
    #[error("expected at most {MAX_VALUES} values, found more")]
    TooLarge,
    /// It is one value that cannot be read.
    #[error("expected a value that can be read, found {0}")]
    UnreadableValue(UnreadableValue),
}

/// A value within a payload that parsers read differently, or that no type holds. Reading it is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableValue {
    /// `NaN`: no limit is above or below it.
    #[error("NaN, which is no number")]
    NotANumber,
    /// Some parsers take the first value of such a key, others the last.
    #[error("a key that stands twice in one object")]
    Repeated,
    /// Deeper than any reader follows.
    #[error("lists and objects nested more than {MAX_DEPTH} deep")]
    Deep,
    /// More digits than are compared.
    #[error("a number of more than {MAX_DIGITS} digits")]
    Long,
    /// `null` in place of arguments: a tool may take it for none, or refuse it.
    #[error("null")]
    Null,
    /// A result that is a text, which holds JSON once more.
    #[error("JSON within a text")]
    Encoded,
    /// Of no year that policies know.
    #[error("a time outside of the years 1 to 9999")]
    Time,
}

impl Json {
    /// Parses a payload, and marks the values in it that cannot be read.
    ///
    /// # Errors
    /// Nothing of it can be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        read::read(bytes)?.map(Self).map_err(PayloadError::UnreadableValue)
    }

    /// Parses the arguments of a call.
    ///
    /// # Errors
    /// Nothing of them can be read, or they are not there.
    pub(crate) fn arguments(bytes: &[u8]) -> Result<Self, PayloadError> {
        let json = Self::parse(bytes)?;
        let is_null = json.0.downcast_ref::<CelNull>().is_some();
        if is_null { Err(PayloadError::UnreadableValue(UnreadableValue::Null)) } else { Ok(json) }
    }

    /// Parses the result of a call. JSON within a text cannot be read: some tools encode twice, and a reader may decode twice.
    ///
    /// # Errors
    /// Nothing of it can be read.
    pub(crate) fn result(bytes: &[u8]) -> Result<Self, PayloadError> {
        let json = Self::parse(bytes)?;
        if is_encoded(json.as_val()) {
            Err(PayloadError::UnreadableValue(UnreadableValue::Encoded))
        } else {
            Ok(json)
        }
    }

    /// The value, for an expression.
    pub(crate) fn as_val(&self) -> &(dyn Val + 'static) {
        self.0.as_ref()
    }
}

/// Returns an element of a list as a result of its own, unless it is a value that states nothing: a text, a number, `true`, `null`.
pub(crate) fn element_as_result<'a>(
    element: &'a (dyn Val + 'static),
) -> Option<Result<&'a (dyn Val + 'static), PayloadError>> {
    if is_of_payload(element) {
        Some(Ok(element))
    } else {
        is_encoded(element).then_some(Err(PayloadError::UnreadableValue(UnreadableValue::Encoded)))
    }
}

/// Returns true of a text that holds JSON once more.
fn is_encoded(value: &dyn Val) -> bool {
    value.downcast_ref::<CelString<'_>>().is_some_and(|text| is_meant_as_json(text.inner().as_bytes()))
}

/// Returns true if a text that is no JSON may hold an object all the same: it begins as an object, as a list of objects, lists or
/// texts, as a comment or as a code fence, or an object stands in it. Only ASCII counts, without blanks and control characters:
/// marks in front and UTF-16 hide nothing. `[1] see above` is plain text.
pub(crate) fn is_meant_as_json(bytes: &[u8]) -> bool {
    let text: Vec<u8> = bytes.iter().copied().filter(u8::is_ascii_graphic).collect();
    let wrapped = text.iter().take_while(|byte| matches!(byte, b'(' | b'"' | b'\'')).count();
    let begins = match text.get(wrapped..).unwrap_or_default() {
        [b'{', ..] | [b'[', b'{' | b'[' | b'"' | b'\'' | b'\\', ..] | [b'/', b'/' | b'*', ..] => true,
        rest => rest.starts_with(b"```") || rest.starts_with(b"~~~"),
    };
    begins || text.windows(2).any(|pair| matches!(pair, [b'{', b'"' | b'\'' | b'\\']))
}

/// A value of an object.
type Entry<'a> = (CelString<'a>, Result<Box<dyn Val + 'a>, UnreadableValue>);

/// A map with string keys, in their order, shared. Of CEL type `map`.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a>(Arc<[Entry<'a>]>, Origin);

/// The origin of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Arguments, a result, or the fact that it is.
    Payload,
    /// The expression, or the event.
    Own,
}

/// The types of objects by their origin. Both are `map`; their addresses distinguish them.
static OF_PAYLOAD: Type = MAP_TYPE;
/// The type of every other map.
pub(crate) static OWN_MAP: Type = MAP_TYPE;

/// Returns true of an object within arguments or a result.
pub(crate) fn is_of_payload(value: &dyn Val) -> bool {
    std::ptr::eq(value.get_type(), &raw const OF_PAYLOAD)
}

impl<'a> Object<'a> {
    /// Creates an object of entries with distinct keys.
    pub(crate) fn new(entries: impl IntoIterator<Item = (String, Box<dyn Val + 'a>)>) -> Self {
        Self::read(entries.into_iter().map(|(key, value)| (key, Ok(value))), Origin::Own)
    }

    /// Creates an object. The value of a repeated key cannot be read.
    pub(crate) fn read(
        entries: impl IntoIterator<Item = (String, Result<Box<dyn Val + 'a>, UnreadableValue>)>,
        origin: Origin,
    ) -> Self {
        let mut entries: Vec<Entry<'a>> =
            entries.into_iter().map(|(key, value)| (CelString::from(key), value)).collect();
        entries.sort_by(|(a, _), (b, _)| a.inner().cmp(b.inner()));
        entries.dedup_by(|later, earlier| {
            let same = later.0.inner() == earlier.0.inner();
            if same {
                earlier.1 = Err(UnreadableValue::Repeated);
            }
            same
        });
        Self(entries.into(), origin)
    }

    fn find(&self, key: &dyn Val) -> Result<&(dyn Val + 'a), ExecutionError> {
        let key = text_key(key)?;
        let at = self.0.binary_search_by(|(found, _)| found.inner().cmp(key)).ok();
        let (_, value) = at.and_then(|at| self.0.get(at)).ok_or_else(no_such_key)?;
        value.as_deref().map_err(|why| unread(*why))
    }
}

/// The key of a map: a text. Null names nothing; any other may be a text to the tool, so that it is not known what it names.
pub(crate) fn text_key<'k>(key: &'k (dyn Val + '_)) -> Result<&'k str, ExecutionError> {
    if let Some(text) = key.downcast_ref::<CelString<'_>>() {
        return Ok(text.inner());
    }
    if key.downcast_ref::<CelNull>().is_some() {
        return Err(no_such_key());
    }
    Err(error(format!("expected a text as the key of a map, found {}", key.get_type().name())))
}

/// An error in our own words, which quote no payload.
pub(crate) fn error(message: impl ToString) -> ExecutionError {
    ExecutionError::function_error(OWN, message)
}

/// The name of no function: errors of our own.
pub(crate) const OWN: &str = "@";

fn unread(why: UnreadableValue) -> ExecutionError {
    error(format!("expected a value that can be read, found {why}"))
}

impl Val for Object<'_> {
    fn get_type(&self) -> &Type {
        match self.1 {
            Origin::Payload => &OF_PAYLOAD,
            Origin::Own => &OWN_MAP,
        }
    }

    fn cel_type() -> &'static Type {
        &OWN_MAP
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

impl Container for Object<'_> {
    /// Includes keys whose values cannot be read.
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        match text_key(key) {
            Ok(key) => Ok(self.0.binary_search_by(|(found, _)| found.inner().cmp(key)).is_ok()),
            Err(ExecutionError::NoSuchKey(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Indexer for Object<'_> {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.find(key).map(CowVal::Borrowed)
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Iterable for Object<'_> {
    fn iter<'b, 'v>(&'b self) -> Box<dyn CelIterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Keys(self.0.iter().map(|(key, _)| key)))
    }
}

impl Sizer for Object<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.0.len()).unwrap_or(i64::MAX))
    }
}

/// The keys of a map, as CEL iterates over them.
pub(crate) struct Keys<I>(pub(crate) I);

impl<'b, 'v, 'a: 'v + 'b, I: Iterator<Item = &'b CelString<'a>>> CelIterator<'b, 'v> for Keys<I> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next().map(|key| key as &(dyn Val + 'v))
    }
}

/// Nothing is there. The key is not named: it may come from a payload.
pub(crate) fn no_such_key() -> ExecutionError {
    ExecutionError::no_such_key("")
}
