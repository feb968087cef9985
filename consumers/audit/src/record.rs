//! A record as the audit sees it: its place, its digest, and the fields it compares, decoded with apache-avro.

use std::collections::HashMap;

use agentgov_connect::SchemaRegistry;
use agentgov_schemas::wire::SchemaId;
use apache_avro::types::Value;

/// Writers' schemas by id.
pub struct Decoder {
    registry: SchemaRegistry,
    known: HashMap<u32, Option<apache_avro::Schema>>,
}

/// A decoded record.
pub struct Fields(Vec<(String, Value)>);

impl Decoder {
    pub fn new(registry: SchemaRegistry) -> Self {
        Self { registry, known: HashMap::new() }
    }

    /// The fields of a value in the wire format; `None` if it is none.
    pub fn decode(&mut self, value: &[u8]) -> Option<Fields> {
        let [0, a, b, c, d, datum @ ..] = value else { return None };
        let id = u32::from_be_bytes([*a, *b, *c, *d]);
        let registry = &self.registry;
        let schema = self.known.entry(id).or_insert_with(|| {
            let schema = registry.schema(SchemaId(id)).ok()?;
            apache_avro::Schema::parse_str(schema.text()).ok()
        });
        let reader =
            apache_avro::reader::datum::GenericDatumReader::builder(schema.as_ref()?).build().ok()?;
        let mut rest = datum;
        match reader.read_value(&mut rest) {
            Ok(Value::Record(fields)) if rest.is_empty() => Some(Fields(fields)),
            _ => None,
        }
    }
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        Some(if let Value::Union(_, inner) = value { inner } else { value })
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        if let Value::String(text) = self.get(name)? { Some(text) } else { None }
    }

    /// A number, whatever its width.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Long(n) | Value::TimestampMillis(n) | Value::TimestampMicros(n) => Some(*n),
            Value::Int(n) => Some(i64::from(*n)),
            _ => None,
        }
    }

    /// A record within the record.
    pub fn record(&self, name: &str) -> Option<Self> {
        if let Value::Record(fields) = self.get(name)? { Some(Self(fields.clone())) } else { None }
    }

    /// The records of an array.
    pub fn records(&self, name: &str) -> Vec<Self> {
        let Some(Value::Array(items)) = self.get(name) else { return Vec::new() };
        let fields =
            items.iter().filter_map(|item| if let Value::Record(f) = item { Some(f.clone()) } else { None });
        fields.map(Self).collect()
    }

    /// True if a nullable field says something.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| *value != Value::Null)
    }
}
