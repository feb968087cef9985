//! Timestamps that another version of a schema writes in another unit. Avro lets a reader take any `long` for any other, and
//! FULL_TRANSITIVE lets such a version pass, so the writer's logical type says what a number means: a `timestamp-millis` that is
//! read as microseconds is a day of January 1970.
//!
//! A field without a logical type has the reader's unit. A value beyond what 64 bits hold in the reader's unit becomes the
//! nearest that they do: a claim that no calendar has stays one.

use std::collections::BTreeMap;
use std::fmt;

use apache_avro::schema::Schema;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Fields that the types of this crate have in microseconds; all others are in milliseconds.
const IN_MICROS: [&str; 2] = ["occurred_at", "started_at"];

/// From what was written to what is read.
type Convert = fn(i64) -> i64;

/// The top-level fields of a record that its writer has in another unit than the reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clocks(BTreeMap<String, Convert>);

impl Clocks {
    /// Of a writer's schema.
    pub(crate) fn of(schema: &Schema) -> Self {
        let Schema::Record(record) = schema else { return Self::default() };
        let fields = record.fields.iter();
        Self(
            fields
                .filter_map(|field| Some((field.name.clone(), conversion(&field.name, &field.schema)?)))
                .collect(),
        )
    }

    /// True of all that this build writes.
    pub(crate) fn are_ours(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a field is converted; `None`: it is in the reader's unit.
fn conversion(name: &str, schema: &Schema) -> Option<Convert> {
    let convert: Convert = match (schema, IN_MICROS.contains(&name)) {
        (Schema::Union(union), _) => {
            return union.variants().iter().find_map(|schema| conversion(name, schema));
        }
        (Schema::Date, true) => |days| days.saturating_mul(86_400_000_000),
        (Schema::TimestampMillis | Schema::LocalTimestampMillis, true) => {
            |millis| millis.saturating_mul(1_000)
        }
        (Schema::TimestampNanos | Schema::LocalTimestampNanos, true) => |nanos| nanos.div_euclid(1_000),
        (Schema::Date, false) => |days| days.saturating_mul(86_400_000),
        (Schema::TimestampMicros | Schema::LocalTimestampMicros, false) => |micros| micros.div_euclid(1_000),
        (Schema::TimestampNanos | Schema::LocalTimestampNanos, false) => |nanos| nanos.div_euclid(1_000_000),
        _ => return None,
    };
    Some(convert)
}

/// Deserializes a record with its timestamps converted.
pub(crate) struct Converting<'c, D> {
    pub(crate) inner: D,
    pub(crate) clocks: &'c Clocks,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Converting<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Record { visitor, clocks: self.clocks })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Visits a record. A datum that is none is not converted.
struct Record<'c, V> {
    visitor: V,
    clocks: &'c Clocks,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Record<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields { fields, clocks: self.clocks, convert: None })
    }
}

struct Fields<'c, A> {
    fields: A,
    clocks: &'c Clocks,
    /// Of the field whose value comes next.
    convert: Option<Convert>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.convert = None;
        self.fields.next_key_seed(Named { inner: seed, clocks: self.clocks, convert: &mut self.convert })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.convert {
            None => self.fields.next_value_seed(seed),
            Some(convert) => self.fields.next_value_seed(Converted { inner: seed, convert }),
        }
    }
}

/// Looks at a field's name on its way to who asked for it: as a seed, a deserializer and a visitor.
struct Named<'n, T> {
    inner: T,
    clocks: &'n Clocks,
    convert: &'n mut Option<Convert>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Named<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<T::Value, D::Error> {
        let Named { inner, clocks, convert } = self;
        inner.deserialize(Named { inner: name, clocks, convert })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Named<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Named { inner, clocks, convert } = self;
        inner.deserialize_identifier(Named { inner: visitor, clocks, convert })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Named<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        *self.convert = self.clocks.0.get(name).copied();
        self.inner.visit_str(name)
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<V::Value, E> {
        *self.convert = self.clocks.0.get(name).copied();
        self.inner.visit_borrowed_str(name)
    }
}

/// Converts a number on its way to who asked for it: as a seed, a deserializer and a visitor. Whatever else stands there is left to
/// the reader, who refuses it.
struct Converted<T> {
    inner: T,
    convert: Convert,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Converted<T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, number: D) -> Result<T::Value, D::Error> {
        let Self { inner, convert } = self;
        inner.deserialize(Converted { inner: number, convert })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Converted<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Converted { inner: visitor, convert: self.convert })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Converted<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_i32<E: Error>(self, number: i32) -> Result<V::Value, E> {
        self.visit_i64(i64::from(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<V::Value, E> {
        self.inner.visit_i64((self.convert)(number))
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::SUBJECTS;

    #[test]
    fn what_this_build_writes_is_read_as_it_is() {
        for version in SUBJECTS.iter().flat_map(|subject| subject.versions) {
            let clocks = Clocks::of(&Schema::parse_str(version).unwrap());
            assert!(clocks.are_ours(), "{clocks:?} in {version}");
        }
    }

    #[test]
    fn milliseconds_are_converted_too() {
        let text = r#"{"type": "record", "name": "R", "fields": [
            {"name": "opened_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "logged_at", "type": {"type": "long", "logicalType": "local-timestamp-nanos"}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}},
            {"name": "sequence", "type": "long"}]}"#;
        let clocks = Clocks::of(&Schema::parse_str(text).unwrap()).0;
        let convert = |name: &str, value| clocks[name](value);
        assert_eq!((convert("opened_at", -1), convert("logged_at", 2_999_999)), (-1, 2));
        assert_eq!((convert("day", 1), clocks.len()), (86_400_000, 3));
    }
}
