//! Payloads as CEL values: converted once, shared afterwards.
//!
//! cel's own maps are hash maps: their order changes from run to run, and a copy is deep. A JSON object is an
//! [`Object`] here, in the order of its keys and shared, so that the same events give the same verdict and a
//! comprehension over a list of objects copies pointers.

use std::fmt;
use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Most values in one payload. Beyond, a payload is not looked into: what an expression costs depends on it.
pub const MAX_VALUES: usize = 50_000;

/// A payload that was understood.
#[derive(Clone, Debug)]
pub struct Json(Box<dyn Val>);

/// A payload that was not understood. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// Not JSON, in UTF-8, nested less than 128 deep.
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
}

impl Json {
    /// Parses a payload. Of a key that stands twice, the last counts.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotJson> {
        let mut left = MAX_VALUES;
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let parsed = Seed(&mut left).deserialize(&mut deserializer).and_then(|value| {
            deserializer.end()?;
            Ok(value)
        });
        match parsed {
            Ok(value) => Ok(Self(value)),
            Err(_) if left == 0 => Err(NotJson::TooLarge),
            Err(e) => Err(NotJson::Syntax { line: e.line(), column: e.column() }),
        }
    }

    /// The value, for an expression.
    pub(crate) fn as_val(&self) -> &(dyn Val + 'static) {
        self.0.as_ref()
    }
}

struct Seed<'n>(&'n mut usize);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Box<dyn Val>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0.checked_sub(1) {
            Some(left) if left > 0 => *self.0 = left,
            _ => {
                *self.0 = 0;
                return Err(de::Error::custom("too many values"));
            }
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Box<dyn Val>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Box::new(CelInt::from(value)),
            Err(_) => Box::new(CelUInt::from(value)),
        })
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items: Vec<Box<dyn Val>> = Vec::new();
        while let Some(item) = seq.next_element_seed(Seed(self.0))? {
            items.push(item);
        }
        Ok(Box::new(CelList::from(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((key, map.next_value_seed(Seed(self.0))?));
        }
        Ok(Box::new(Object::new(entries)))
    }
}

/// A map with string keys, in their order, shared. Of CEL type `map`.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a>(Arc<[(CelString<'a>, Box<dyn Val + 'a>)]>);

impl<'a> Object<'a> {
    /// Of these entries; of a key that stands twice, the last counts.
    pub(crate) fn new(entries: impl IntoIterator<Item = (String, Box<dyn Val + 'a>)>) -> Self {
        let mut entries: Vec<(CelString<'a>, Box<dyn Val + 'a>)> =
            entries.into_iter().map(|(key, value)| (CelString::from(key), value)).collect();
        entries.sort_by(|(a, _), (b, _)| a.inner().cmp(b.inner()));
        entries.dedup_by(|later, earlier| {
            let same = later.0.inner() == earlier.0.inner();
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        Self(entries.into())
    }

    fn find(&self, key: &dyn Val) -> Option<&(dyn Val + 'a)> {
        let key = key.downcast_ref::<CelString<'_>>()?.inner();
        let at = self.0.binary_search_by(|(found, _)| found.inner().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value.as_ref())
    }
}

impl Val for Object<'_> {
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

    /// Map literals are turned into objects as well (see `expression`), so that it does not matter which side is which.
    fn equals(&self, other: &dyn Val) -> bool {
        let (Some(size), Some(index)) = (other.as_sizer(), other.as_indexer()) else { return false };
        *other.get_type() == MAP_TYPE
            && size.size() == self.size()
            && self
                .0
                .iter()
                .all(|(key, value)| index.get(key).is_ok_and(|found| value.equals(found.as_ref())))
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl Container for Object<'_> {
    /// A JSON object has only string keys: it holds nothing else, and to ask is no error.
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.find(key).is_some())
    }
}

impl Indexer for Object<'_> {
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
