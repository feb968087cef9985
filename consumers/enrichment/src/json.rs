//! Payloads as CEL values. A payload is converted once and then shared.
//!
//! The maps of the cel crate are hash maps: their order changes from run to run, and their clones are deep. This module represents
//! a JSON object as an [`Object`]: sorted by key, so that evaluation is deterministic, and shared, so that a clone copies a pointer.

mod read;

use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelInt, CelNull, CelString, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};

use crate::number::MAX_DIGITS;

/// Maximum number of values in a payload. A larger payload is not parsed, since the cost of an expression depends on it.
pub const MAX_VALUES: usize = 50_000;
/// Maximum nesting of lists and objects that is parsed.
const MAX_DEPTH: usize = 127;

/// Parsed payload. Some of its values may be unreadable.
#[derive(Clone, Debug)]
pub struct Json(Box<dyn Val>);

/// Reason why a payload is unreadable. Never quotes the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The payload is not JSON in UTF-8.
    #[error("expected JSON in UTF-8, found something else at line {line}, column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The payload has more than [`MAX_VALUES`] values.
    #[error("expected at most {MAX_VALUES} values, found more")]
    TooLarge,
    /// The payload is a single unreadable value.
    #[error("expected a readable value, found {0}")]
    Unreadable(UnreadableValue),
}

/// Reason why a value in a payload is unreadable: parsers disagree about it, or no type holds it. Accessing it is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableValue {
    /// `NaN`, which compares with no limit.
    #[error("NaN, which is no number")]
    NotANumber,
    /// The object has the key twice. Some parsers take the first value, others the last.
    #[error("an object with a repeated key")]
    RepeatedKey,
    /// The nesting exceeds the limit of the parser.
    #[error("lists and objects nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// The number has more digits than this build compares.
    #[error("a number of more than {MAX_DIGITS} digits")]
    TooManyDigits,
    /// `null` in place of arguments: some tools treat it as empty arguments, others refuse it.
    #[error("null")]
    Null,
    /// The result is a text that contains JSON again.
    #[error("JSON within a text")]
    EncodedJson,
    /// The time is outside of the years that CEL supports.
    #[error("a time outside of the years 1 to 9999")]
    TimeOutOfRange,
}

impl Json {
    /// Parses a payload. Marks unreadable values in place.
    ///
    /// # Errors
    /// If no part of the payload is readable.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        read::read(bytes)?.map(Self).map_err(PayloadError::Unreadable)
    }

    /// Parses the arguments of a call.
    ///
    /// # Errors
    /// If no part of the arguments is readable, or if they are `null`.
    pub(crate) fn arguments(bytes: &[u8]) -> Result<Self, PayloadError> {
        let json = Self::parse(bytes)?;
        let is_null = json.0.downcast_ref::<CelNull>().is_some();
        if is_null { Err(PayloadError::Unreadable(UnreadableValue::Null)) } else { Ok(json) }
    }

    /// Parses the result of a call. A text that contains JSON is unreadable: some tools encode twice, and a reader may decode twice.
    ///
    /// # Errors
    /// If no part of the payload is readable.
    pub(crate) fn result(bytes: &[u8]) -> Result<Self, PayloadError> {
        let json = Self::parse(bytes)?;
        if is_encoded(json.as_val()) {
            Err(PayloadError::Unreadable(UnreadableValue::EncodedJson))
        } else {
            Ok(json)
        }
    }

    /// Returns the value for expressions.
    pub(crate) fn as_val(&self) -> &(dyn Val + 'static) {
        self.0.as_ref()
    }
}

/// Returns an element of a list as if it were the result. Returns `None` for an element that carries no fact: a text, a number,
/// a boolean or null.
pub(crate) fn element_as_result<'a>(
    element: &'a (dyn Val + 'static),
) -> Option<Result<&'a (dyn Val + 'static), PayloadError>> {
    if is_of_payload(element) {
        Some(Ok(element))
    } else {
        is_encoded(element).then_some(Err(PayloadError::Unreadable(UnreadableValue::EncodedJson)))
    }
}

/// Returns true for a text that contains JSON.
fn is_encoded(value: &dyn Val) -> bool {
    value.downcast_ref::<CelString<'_>>().is_some_and(|text| may_contain_json(text.inner().as_bytes()))
}

/// Returns true if a text that is not JSON may contain an object: it begins like an object, a list of objects, lists or texts, a
/// comment or a code fence, or it contains the beginning of an object. Only printable ASCII counts, so that byte order marks,
/// blanks, control characters and UTF-16 hide nothing. `[1] see above` counts as plain text.
pub(crate) fn may_contain_json(bytes: &[u8]) -> bool {
    let text: Vec<u8> = bytes.iter().copied().filter(u8::is_ascii_graphic).collect();
    let wrapped = text.iter().take_while(|byte| matches!(byte, b'(' | b'"' | b'\'')).count();
    let begins = match text.get(wrapped..).unwrap_or_default() {
        [b'{', ..] | [b'[', b'{' | b'[' | b'"' | b'\'' | b'\\', ..] | [b'/', b'/' | b'*', ..] => true,
        rest => rest.starts_with(b"```") || rest.starts_with(b"~~~"),
    };
    begins || text.windows(2).any(|pair| matches!(pair, [b'{', b'"' | b'\'' | b'\\']))
}

/// Key and value of an object.
type Entry<'a> = (CelString<'a>, Result<Box<dyn Val + 'a>, UnreadableValue>);

/// Shared map with string keys, sorted by key. Its CEL type is `map`.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a>(Arc<[Entry<'a>]>, Origin);

/// Origin of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Arguments, or a result, whether or not it is a fact.
    Payload,
    /// An expression, or a field of the event.
    Internal,
}

/// Type of objects in payloads. Equal to [`INTERNAL_MAP`]; only its address distinguishes it.
static PAYLOAD_MAP: Type = MAP_TYPE;
/// Type of all other maps.
pub(crate) static INTERNAL_MAP: Type = MAP_TYPE;

/// Returns true for an object in arguments or a result.
pub(crate) fn is_of_payload(value: &dyn Val) -> bool {
    std::ptr::eq(value.get_type(), &raw const PAYLOAD_MAP)
}

impl<'a> Object<'a> {
    /// Creates an object from entries with distinct keys.
    pub(crate) fn new(entries: impl IntoIterator<Item = (String, Box<dyn Val + 'a>)>) -> Self {
        Self::read(entries.into_iter().map(|(key, value)| (key, Ok(value))), Origin::Internal)
    }

    /// Creates an object from entries. The value of a repeated key is unreadable.
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
                earlier.1 = Err(UnreadableValue::RepeatedKey);
            }
            same
        });
        Self(entries.into(), origin)
    }

    fn find(&self, key: &dyn Val) -> Result<&(dyn Val + 'a), ExecutionError> {
        let key = text_key(key)?;
        let at = self.0.binary_search_by(|(found, _)| found.inner().cmp(key)).ok();
        let (_, value) = at.and_then(|at| self.0.get(at)).ok_or_else(no_such_key)?;
        value.as_deref().map_err(|why| unreadable(*why))
    }
}

/// Returns the text of a map key. No map has a null key. Keys of other types are an error, since a tool may convert them to text.
pub(crate) fn text_key<'k>(key: &'k (dyn Val + '_)) -> Result<&'k str, ExecutionError> {
    if let Some(text) = key.downcast_ref::<CelString<'_>>() {
        return Ok(text.inner());
    }
    if key.downcast_ref::<CelNull>().is_some() {
        return Err(no_such_key());
    }
    Err(error(format!("expected a text as the key of a map, found {}", key.get_type().name())))
}

/// Creates an error whose message quotes no payload.
pub(crate) fn error(message: impl ToString) -> ExecutionError {
    ExecutionError::function_error(OWN_ERROR, message)
}

/// Function name that marks errors of this crate. No function has it.
pub(crate) const OWN_ERROR: &str = "@";

fn unreadable(why: UnreadableValue) -> ExecutionError {
    error(format!("expected a readable value, found {why}"))
}

impl Val for Object<'_> {
    fn get_type(&self) -> &Type {
        match self.1 {
            Origin::Payload => &PAYLOAD_MAP,
            Origin::Internal => &INTERNAL_MAP,
        }
    }

    fn cel_type() -> &'static Type {
        &INTERNAL_MAP
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
    /// Returns true also for a key whose value is unreadable.
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

/// Iterator over the keys of a map.
pub(crate) struct Keys<I>(pub(crate) I);

impl<'b, 'v, 'a: 'v + 'b, I: Iterator<Item = &'b CelString<'a>>> CelIterator<'b, 'v> for Keys<I> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next().map(|key| key as &(dyn Val + 'v))
    }
}

/// Creates the error for a missing key. The error does not name the key, which may come from a payload.
pub(crate) fn no_such_key() -> ExecutionError {
    ExecutionError::no_such_key("")
}
