//! Check of a writer's schema: the work, memory and stack to decode a datum must be bounded by its length.
//!
//! A client that may register schemas can register one with which a few bytes require unbounded work: an array whose items
//! take no bytes, a type that contains itself, types that contain each other twice, a fixed of a gigabyte.

use std::collections::HashMap;

use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, Name, Schema, UuidSchema};

use crate::bounds::{MAX_AVRO_DEPTH, MAX_AVRO_FIXED_BYTES, MAX_AVRO_TYPES};
use crate::wire::SchemaError;

/// Cost of a type for its decoder.
#[derive(Clone, Copy)]
struct Cost {
    types: usize,
    depth: usize,
    /// True if a value may take no bytes.
    is_empty: bool,
}

/// Checks the types of a parsed schema.
///
/// # Errors
/// If a type exceeds a limit: expected and actual value, and the type.
pub(crate) fn check(schema: &Schema) -> Result<(), SchemaError> {
    // serde_json's limit on the nesting of JSON bounds this recursion.
    TypeCosts::default().cost(schema, None).map(drop).map_err(SchemaError::new)
}

/// Costs of the named types visited so far; `None` for a type that is still being visited.
#[derive(Default)]
struct TypeCosts(HashMap<Name, Option<Cost>>);

impl TypeCosts {
    fn cost(&mut self, schema: &Schema, namespace: Option<&str>) -> Result<Cost, String> {
        let leaf = |is_empty| Cost { types: 1, depth: 1, is_empty };
        match schema {
            Schema::Null => Ok(leaf(true)),
            Schema::Fixed(inner)
            | Schema::Duration(inner)
            | Schema::Uuid(UuidSchema::Fixed(inner))
            | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(inner), .. }) => {
                if inner.size > MAX_AVRO_FIXED_BYTES {
                    let (name, size) = (&inner.name, inner.size);
                    return Err(format!(
                        "expected fixed `{name}` of at most {MAX_AVRO_FIXED_BYTES} bytes, found {size}"
                    ));
                }
                self.add(&inner.name, namespace, Some(leaf(inner.size == 0)));
                Ok(leaf(inner.size == 0))
            }
            Schema::Enum(inner) => {
                self.add(&inner.name, namespace, Some(leaf(false)));
                Ok(leaf(false))
            }
            Schema::Array(inner) => {
                let items = self.combined_cost([&*inner.items], namespace)?;
                if items.is_empty {
                    return Err("expected arrays of items that take at least one byte, found one of items \
                         that take none: its datum could claim any number of them"
                        .to_owned());
                }
                Ok(items)
            }
            Schema::Map(inner) => {
                Ok(Cost { is_empty: false, ..self.combined_cost([&*inner.types], namespace)? })
            }
            Schema::Union(inner) => {
                Ok(Cost { is_empty: false, ..self.combined_cost(inner.variants(), namespace)? })
            }
            Schema::Record(inner) => {
                let own = self.add(&inner.name, namespace, None);
                let fields = inner.fields.iter().map(|field| &field.schema);
                let cost = self
                    .combined_cost(fields, own.namespace())
                    .map_err(|why| if why.contains('`') { why } else { format!("record `{own}`: {why}") })?;
                self.0.insert(own, Some(cost));
                Ok(cost)
            }
            Schema::Ref { name } => match self.0.get(&*name.fully_qualified_name(namespace)) {
                Some(Some(cost)) => Ok(*cost),
                Some(None) => {
                    Err(format!("expected types that do not contain themselves, found that `{name}` does"))
                }
                None => Err(format!("expected a type that was defined before, found `{name}`")),
            },
            // The decoder allocates as many bytes as a length within the value claims.
            Schema::BigDecimal => {
                Err("expected a logical type with a bounded size, found big-decimal".to_owned())
            }
            _ => Ok(leaf(false)),
        }
    }

    fn add(&mut self, name: &Name, namespace: Option<&str>, cost: Option<Cost>) -> Name {
        let name = name.fully_qualified_name(namespace).into_owned();
        self.0.insert(name.clone(), cost);
        name
    }

    /// Returns the cost of a type that contains these types.
    fn combined_cost<'s>(
        &mut self,
        inner: impl IntoIterator<Item = &'s Schema>,
        namespace: Option<&str>,
    ) -> Result<Cost, String> {
        let mut whole = Cost { types: 1, depth: 0, is_empty: true };
        for schema in inner {
            let part = self.cost(schema, namespace)?;
            whole.types = whole.types.saturating_add(part.types);
            whole.depth = whole.depth.max(part.depth);
            whole.is_empty &= part.is_empty;
        }
        whole.depth = whole.depth.saturating_add(1);
        if whole.depth > MAX_AVRO_DEPTH {
            return Err(format!("expected types nested at most {MAX_AVRO_DEPTH} deep, found more"));
        }
        if whole.types > MAX_AVRO_TYPES {
            return Err(format!(
                "expected at most {MAX_AVRO_TYPES} types, each counted where it is used, found more"
            ));
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use crate::subject::SUBJECTS;
    use crate::wire::{Schema, SchemaId};

    fn record(name: &str, fields: &[&str]) -> String {
        let field = |(i, schema): (usize, &&str)| format!(r#"{{"name":"f{i}","type":{schema}}}"#);
        let fields: Vec<String> = fields.iter().enumerate().map(field).collect();
        format!(r#"{{"type":"record","name":"{name}","fields":[{}]}}"#, fields.join(","))
    }

    /// Returns a schema of records, each of which contains the previous one `times` times, without nested JSON.
    fn each_within_the_next(records: usize, times: usize, leaf: &str) -> String {
        let of = |i: usize| match i {
            0 => record("R0", &[leaf]),
            _ => record(&format!("R{i}"), &vec![format!("\"R{}\"", i - 1).as_str(); times]),
        };
        let all: Vec<String> = (0..records).map(of).collect();
        record("Outer", &all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn array(items: &str) -> String {
        format!(r#"{{"type":"array","items":{items}}}"#)
    }

    #[test]
    fn schema_with_unbounded_work_is_rejected() {
        let fixed = |size: &str| format!(r#"{{"type":"fixed","name":"F","size":{size}}}"#);
        let big = r#"{"type":"bytes","logicalType":"big-decimal"}"#;
        for (schema, expected) in [
            (array("\"long\""), None),
            (array("\"null\""), Some("arrays of items that take at least one byte")),
            (array(&record("E", &[])), Some("arrays of items that take at least one byte")),
            (array(&record("E", &["\"null\""])), Some("arrays of items that take at least one byte")),
            (array(&fixed("0")), Some("arrays of items that take at least one byte")),
            (r#"{"type":"map","values":"null"}"#.to_owned(), None),
            (array(r#"["null"]"#), None),
            (fixed("1048576"), None),
            (fixed("1048577"), Some("expected fixed `F` of at most 1048576 bytes, found 1048577")),
            (record("R", &[r#"["null","R"]"#]), Some("that `R` does")),
            (record("R", &[&array("\"R\"")]), Some("that `R` does")),
            (big.to_owned(), Some("big-decimal")),
            (each_within_the_next(10, 2, "\"null\""), None),
            (each_within_the_next(40, 2, "\"null\""), Some("expected at most 10000 types")),
            (each_within_the_next(62, 1, "\"int\""), None),
            (each_within_the_next(63, 1, "\"int\""), Some("nested at most 64 deep")),
            (each_within_the_next(1_000, 1, "\"int\""), Some("nested at most 64 deep")),
            (each_within_the_next(10_000, 1, "\"int\""), Some("at most 262144 bytes")),
        ] {
            match (Schema::parse(&schema), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, _) => panic!("{:.300}: {found:?}", schema),
            }
        }
    }

    #[test]
    fn deeply_nested_schema_does_not_overflow_the_stack() {
        for levels in [41, 128, 10_000] {
            for (open, close) in [
                (r#"{"type":"array","items":"#, "}"),
                (r#"{"type":"map","values":"#, "}"),
                (r#"{"type":"#, "}"),
                (r#"{"type":"record","name":"R","fields":[{"name":"f","type":"#, "}]}"),
                ("[", "]"),
                (r#"["null",{"type":"record","name":"R","fields":[{"name":"f","type":"#, "}]}]"),
            ] {
                let schema = open.repeat(levels) + "\"int\"" + &close.repeat(levels);
                if let Ok(schema) = Schema::parse(&schema) {
                    assert!(levels == 41, "{open}");
                    let _ = schema.decode::<serde::de::IgnoredAny>(SchemaId(1), &[2; 100]);
                }
                assert!(Schema::parse(&open.repeat(levels)).is_err());
            }
        }
    }

    #[test]
    fn schemas_of_this_build_are_far_below_the_limits() {
        for subject in SUBJECTS {
            for text in subject.versions {
                assert!(text.len() < crate::bounds::MAX_AVRO_SCHEMA_BYTES / 8, "{}", subject.name);
                assert!(Schema::parse(text).is_ok(), "{}", subject.name);
            }
        }
    }
}
