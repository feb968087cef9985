//! Whether the data of a writer's schema are bounded by their own bytes.
//!
//! Anyone who may register a schema may write one under which a few bytes claim any amount of work: an array of items that
//! take no bytes, a type that contains itself, types that contain each other twice, a fixed of a gigabyte.

use std::collections::HashMap;

use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, Name, Schema, UuidSchema};

/// Types within a type, each counted where it is used. The largest schema of ours has less than 200.
const MAX_NODES: usize = 10_000;
/// Types within types. Each costs the decoder a stack frame.
const MAX_DEPTH: usize = 64;
/// Bytes of a fixed, which the decoder allocates before it reads.
const MAX_FIXED: usize = 1 << 20;

/// What a type costs its decoder.
#[derive(Clone, Copy)]
struct Cost {
    nodes: usize,
    depth: usize,
    /// A value may take no bytes at all.
    is_empty: bool,
}

/// True if a datum of the schema takes no more steps, memory and stack than its bytes allow.
pub fn is_bounded(schema: &Schema) -> bool {
    cost(schema, None, &mut HashMap::new()).is_some()
}

fn cost(schema: &Schema, namespace: Option<&str>, named: &mut HashMap<Name, Option<Cost>>) -> Option<Cost> {
    let leaf = |is_empty| Cost { nodes: 1, depth: 1, is_empty };
    let fixed = |size: usize| (size <= MAX_FIXED).then(|| leaf(size == 0));
    let cost = match schema {
        Schema::Null => leaf(true),
        Schema::Fixed(inner) | Schema::Duration(inner) => {
            let cost = fixed(inner.size);
            let name = inner.name.fully_qualified_name(namespace).into_owned();
            named.insert(name, cost);
            cost?
        }
        Schema::Enum(inner) => {
            named.insert(inner.name.fully_qualified_name(namespace).into_owned(), Some(leaf(false)));
            leaf(false)
        }
        Schema::Uuid(UuidSchema::Fixed(inner))
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(inner), .. }) => {
            let name = inner.name.fully_qualified_name(namespace).into_owned();
            named.insert(name, fixed(inner.size));
            fixed(inner.size)?
        }
        // Its decoder allocates what a length within the value claims.
        Schema::BigDecimal => return None,
        Schema::Array(inner) => {
            let items = cost_of([&*inner.items], namespace, named)?;
            if items.is_empty {
                return None;
            }
            Cost { is_empty: false, ..items }
        }
        Schema::Map(inner) => Cost { is_empty: false, ..cost_of([&*inner.types], namespace, named)? },
        Schema::Union(inner) => Cost { is_empty: false, ..cost_of(inner.variants(), namespace, named)? },
        Schema::Record(inner) => {
            let name = inner.name.fully_qualified_name(namespace).into_owned();
            // Without a cost until it is known: a type that contains itself has none.
            named.insert(name.clone(), None);
            let fields = inner.fields.iter().map(|field| &field.schema);
            let cost = cost_of(fields, name.namespace(), named)?;
            named.insert(name, Some(cost));
            cost
        }
        Schema::Ref { name } => (*named.get(&*name.fully_qualified_name(namespace))?)?,
        _ => leaf(false),
    };
    (cost.nodes <= MAX_NODES && cost.depth <= MAX_DEPTH).then_some(cost)
}

/// The cost of a type that has these within it.
fn cost_of<'s>(
    inner: impl IntoIterator<Item = &'s Schema>,
    namespace: Option<&str>,
    named: &mut HashMap<Name, Option<Cost>>,
) -> Option<Cost> {
    let mut whole = Cost { nodes: 1, depth: 0, is_empty: true };
    for schema in inner {
        let part = cost(schema, namespace, named)?;
        whole.nodes = whole.nodes.saturating_add(part.nodes);
        whole.depth = whole.depth.max(part.depth);
        whole.is_empty &= part.is_empty;
    }
    whole.depth = whole.depth.saturating_add(1);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::subject::SUBJECTS;

    use super::*;

    fn bounded(schema: &str) -> bool {
        is_bounded(&Schema::parse_str(schema).unwrap_or_else(|e| panic!("{schema}: {e}")))
    }

    #[test]
    fn every_schema_of_ours_is_bounded() {
        for subject in SUBJECTS {
            assert!(bounded(subject.schema().unwrap().text()), "{}", subject.name);
        }
    }

    #[test]
    fn a_schema_under_which_bytes_claim_work_is_not() {
        let record = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        let field = |name: &str, schema: &str| format!(r#"{{"name":"{name}","type":{schema}}}"#);
        let array = |items: &str| format!(r#"{{"type":"array","items":{items}}}"#);
        // Each contains the one before twice.
        let doubled = |last: usize, leaf: &str| {
            let twice = |n: usize| {
                let inner = [field("a", &format!("\"T{}\"", n - 1)), field("b", &format!("\"T{}\"", n - 1))];
                format!(r#"{{"type":"record","name":"T{n}","fields":[{}]}}"#, inner.join(","))
            };
            let first = format!(r#"{{"type":"record","name":"T0","fields":[{}]}}"#, field("a", leaf));
            let types: Vec<String> = std::iter::once(first)
                .chain((1..=last).map(twice))
                .enumerate()
                .map(|(n, t)| field(&format!("f{n}"), &t))
                .collect();
            record(&types.join(","))
        };
        let fixed = |size: &str| format!(r#"{{"type":"fixed","name":"F","size":{size}}}"#);
        let empty = r#"{"type":"record","name":"E","fields":[]}"#;
        let linked = record(&field("next", r#"["null","R"]"#));
        let chained = |links: usize| {
            let link = |n: usize| {
                let inner = if n == 0 { "\"long\"".to_owned() } else { format!("\"C{}\"", n - 1) };
                let link = format!(r#"{{"type":"record","name":"C{n}","fields":[{}]}}"#, field("a", &inner));
                field(&format!("f{n}"), &link)
            };
            record(&(0..links).map(link).collect::<Vec<_>>().join(","))
        };
        for (schema, expected, what) in [
            (record(&field("a", &array("\"long\""))), true, "an array of numbers"),
            (record(&field("a", &array("\"null\""))), false, "an array of nulls"),
            (record(&field("a", &array(empty))), false, "an array of records without fields"),
            (record(&field("a", &array(&fixed("0")))), false, "an array of fixed of no bytes"),
            (record(&field("a", &array(&array("\"null\"")))), false, "an array of arrays of nulls"),
            (
                record(&field("a", r#"{"type":"map","values":"null"}"#)),
                true,
                "a map of nulls: a key takes a byte",
            ),
            (record(&field("a", &fixed("32"))), true, "a digest"),
            (record(&field("a", &fixed("1073741824"))), false, "a fixed of a gigabyte"),
            (linked, false, "a type that contains itself"),
            (doubled(4, "\"long\""), true, "types within types"),
            (doubled(40, "\"null\""), false, "types that contain each other twice"),
            (chained(20), true, "a chain of types"),
            (chained(200), false, "a long chain of types"),
            (record(&field("a", r#"{"type":"bytes","logicalType":"big-decimal"}"#)), false, "a big decimal"),
        ] {
            assert_eq!(bounded(&schema), expected, "{what}");
        }
    }
}
