//! Conversion of the examples in `avro/*/N.examples.json` to Avro values of their schema. A field with a default is optional,
//! a null is the null branch, a fixed is hex, bytes are a text or `{"hex": "…"}`.

use std::path::Path;

use agentgov_schemas::subject::Subject;
use apache_avro::Schema;
use apache_avro::schema::{NamesRef, ResolvedSchema};
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value as Json;

/// Description and content of each example.
pub type Examples = Vec<(String, Json)>;

/// Returns the examples of `version` (from 1) of `subject`.
pub fn examples(subject: Subject, version: usize) -> Examples {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("avro")
        .join(subject.name)
        .join(format!("{version}.examples.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let examples: Vec<Json> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    examples
        .into_iter()
        .map(|example| (example["what"].as_str().unwrap().to_owned(), example["value"].clone()))
        .collect()
}

/// Encodes `example` with `schema`. Fields that the schema does not know are omitted.
pub fn datum(schema: &Schema, example: &Json) -> Vec<u8> {
    GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value(schema, example)).unwrap()
}

fn value(schema: &Schema, example: &Json) -> Value {
    let resolved = ResolvedSchema::try_from(schema).unwrap();
    Names(resolved.get_names()).value(schema, example, "")
}

struct Names<'s>(&'s NamesRef<'s>);

impl Names<'_> {
    fn value(&self, schema: &Schema, example: &Json, at: &str) -> Value {
        let long = || example.as_i64().unwrap_or_else(|| panic!("{at}: expected a long, found {example}"));
        match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(example.as_bool().unwrap_or_else(|| panic!("{at}: {example}"))),
            Schema::Int => Value::Int(i32::try_from(long()).unwrap_or_else(|e| panic!("{at}: {e}"))),
            Schema::Long => Value::Long(long()),
            Schema::TimestampMillis => Value::TimestampMillis(long()),
            Schema::TimestampMicros => Value::TimestampMicros(long()),
            Schema::String => {
                Value::String(example.as_str().unwrap_or_else(|| panic!("{at}: {example}")).into())
            }
            Schema::Bytes => Value::Bytes(match &example["hex"] {
                Json::String(digits) => hex::decode(digits).unwrap_or_else(|e| panic!("{at}: {e}")),
                _ => example.as_str().unwrap_or_else(|| panic!("{at}: {example}")).into(),
            }),
            Schema::Fixed(fixed) => {
                let bytes =
                    hex::decode(example.as_str().unwrap_or_else(|| panic!("{at}: {example}"))).unwrap();
                Value::Fixed(fixed.size, bytes)
            }
            Schema::Array(array) => {
                let items =
                    example.as_array().unwrap_or_else(|| panic!("{at}: expected an array, found {example}"));
                Value::Array(items.iter().map(|item| self.value(&array.items, item, at)).collect())
            }
            Schema::Union(union) => {
                let [Schema::Null, some] = union.variants() else {
                    panic!("{at}: only [null, …] is written")
                };
                match example {
                    Json::Null => Value::Union(0, Box::new(Value::Null)),
                    example => Value::Union(1, Box::new(self.value(some, example, at))),
                }
            }
            Schema::Record(record) => {
                let field = |field: &apache_avro::schema::RecordField| {
                    let at = format!("{at}.{}", field.name);
                    let example = example.get(&field.name).or(field.default.as_ref());
                    let example = example.unwrap_or_else(|| panic!("{at}: missing, and without a default"));
                    (field.name.clone(), self.value(&field.schema, example, &at))
                };
                Value::Record(record.fields.iter().map(field).collect())
            }
            Schema::Ref { name } => self.value(self.0[name], example, at),
            other => panic!("{at}: no example is written for {other:?}"),
        }
    }
}
