//! Conversion of timestamps that a writer's schema has in another unit than the Rust types.
//!
//! Avro reads any `long` as any other `long`, and FULL_TRANSITIVE compatibility accepts a schema that changes the unit of a
//! timestamp. Without a conversion, a `timestamp-millis` that is read as microseconds is a day in January 1970. The logical
//! type of the writer's schema determines the unit.
//!
//! A field without a logical type has the reader's unit. A value that does not fit into 64 bits in the reader's unit becomes
//! the nearest value that fits.

use std::collections::BTreeMap;
use std::fmt;

use apache_avro::schema::Schema;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Timestamp fields that the types of this crate have in microseconds. All others are in milliseconds.
const MICROSECOND_FIELDS: [&str; 2] = ["occurred_at", "started_at"];

/// Conversion of a value from the writer's unit to the reader's.
type Convert = fn(i64) -> i64;

/// Conversions for the top-level fields of a record that the writer has in another unit than the reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimestampConversions(BTreeMap<String, Convert>);

impl TimestampConversions {
    /// Returns the conversions for a writer's schema.
    pub(crate) fn from_schema(schema: &Schema) -> Self {
        let Schema::Record(record) = schema else { return Self::default() };
        let fields = record.fields.iter();
        Self(
            fields
                .filter_map(|field| Some((field.name.clone(), conversion(&field.name, &field.schema)?)))
                .collect(),
        )
    }

    /// Returns true if no field needs a conversion, as in every schema of this build.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the conversion of a field; `None` if the field has the reader's unit.
fn conversion(name: &str, schema: &Schema) -> Option<Convert> {
    let convert: Convert = match (schema, MICROSECOND_FIELDS.contains(&name)) {
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

/// Deserializer of a record that converts its timestamps.
pub(crate) struct ConvertingDeserializer<'c, D> {
    pub(crate) inner: D,
    pub(crate) conversions: &'c TimestampConversions,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ConvertingDeserializer<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(RecordVisitor { visitor, conversions: self.conversions })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Visitor of a record. A datum that is not a record is not converted.
struct RecordVisitor<'c, V> {
    visitor: V,
    conversions: &'c TimestampConversions,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for RecordVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(ConvertingFields { fields, conversions: self.conversions, convert: None })
    }
}

struct ConvertingFields<'c, A> {
    fields: A,
    conversions: &'c TimestampConversions,
    /// Conversion of the field whose value comes next.
    convert: Option<Convert>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ConvertingFields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.convert = None;
        self.fields.next_key_seed(FieldName {
            inner: seed,
            conversions: self.conversions,
            convert: &mut self.convert,
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.convert {
            None => self.fields.next_value_seed(seed),
            Some(convert) => self.fields.next_value_seed(ConvertedValue { inner: seed, convert }),
        }
    }
}

/// Wrapper that selects the conversion by the field's name and passes the name on. It wraps a seed, a deserializer and a
/// visitor.
struct FieldName<'n, T> {
    inner: T,
    conversions: &'n TimestampConversions,
    convert: &'n mut Option<Convert>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for FieldName<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<T::Value, D::Error> {
        let FieldName { inner, conversions, convert } = self;
        inner.deserialize(FieldName { inner: name, conversions, convert })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for FieldName<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let FieldName { inner, conversions, convert } = self;
        inner.deserialize_identifier(FieldName { inner: visitor, conversions, convert })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for FieldName<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        *self.convert = self.conversions.0.get(name).copied();
        self.inner.visit_str(name)
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<V::Value, E> {
        *self.convert = self.conversions.0.get(name).copied();
        self.inner.visit_borrowed_str(name)
    }
}

/// Wrapper that converts a number and passes it on. It wraps a seed, a deserializer and a visitor. Other values pass unchanged,
/// and the reader rejects them.
struct ConvertedValue<T> {
    inner: T,
    convert: Convert,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for ConvertedValue<T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, number: D) -> Result<T::Value, D::Error> {
        let Self { inner, convert } = self;
        inner.deserialize(ConvertedValue { inner: number, convert })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ConvertedValue<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(ConvertedValue { inner: visitor, convert: self.convert })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ConvertedValue<V> {
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
    fn schemas_of_this_build_need_no_conversion() {
        for version in SUBJECTS.iter().flat_map(|subject| subject.versions) {
            let conversions = TimestampConversions::from_schema(&Schema::parse_str(version).unwrap());
            assert!(conversions.is_empty(), "{conversions:?} in {version}");
        }
    }

    #[test]
    fn other_units_are_converted_to_milliseconds() {
        let text = r#"{"type": "record", "name": "R", "fields": [
            {"name": "opened_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "logged_at", "type": {"type": "long", "logicalType": "local-timestamp-nanos"}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}},
            {"name": "sequence", "type": "long"}]}"#;
        let conversions = TimestampConversions::from_schema(&Schema::parse_str(text).unwrap()).0;
        let convert = |name: &str, value| conversions[name](value);
        assert_eq!((convert("opened_at", -1), convert("logged_at", 2_999_999)), (-1, 2));
        assert_eq!((convert("day", 1), conversions.len()), (86_400_000, 3));
    }
}
