//! Decoding of records with apache-avro.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use agentgov_connect::SchemaRegistry;
use agentgov_schemas::wire::{Schema, SchemaId};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;

use crate::AuditError;

/// Maximum length of a text or bytes, in bytes. It exceeds the maximum size of a record in any topic.
const MAX_FIELD_BYTES: usize = 64 << 20;

/// Decoder with a cache of writers' schemas.
pub struct Decoder {
    registry: SchemaRegistry,
    known: HashMap<u32, Option<apache_avro::Schema>>,
}

/// Decoded record.
pub struct Record(Vec<(String, Value)>);

/// Fields of a record, or of a nested record.
#[derive(Clone, Copy)]
pub struct Fields<'a>(&'a [(String, Value)]);

impl Decoder {
    pub fn new(registry: SchemaRegistry) -> Self {
        Self { registry, known: HashMap::new() }
    }

    /// Decodes a value in the wire format. Returns `None` if the value does not decode, or its schema exceeds the limits.
    ///
    /// # Errors
    /// If the schema registry does not answer, so that it is unknown whether the value decodes.
    pub fn decode(&mut self, value: &[u8]) -> Result<Option<Record>, AuditError> {
        let [0, a, b, c, d, datum @ ..] = value else { return Ok(None) };
        let id = u32::from_be_bytes([*a, *b, *c, *d]);
        if !self.known.contains_key(&id) {
            let schema = match self.registry.schema(SchemaId(id)) {
                Ok(schema) => parse(schema.text()),
                Err(error) if error.is_about_the_id() => None,
                Err(error) => return Err(error.into()),
            };
            self.known.insert(id, schema);
        }
        Ok(self.known.get(&id).and_then(Option::as_ref).and_then(|schema| decode(schema, datum)))
    }
}

/// Parses a schema. Returns `None` for an invalid one, and for one that exceeds the limits of [`agentgov_schemas::bounds`].
pub fn parse(schema: &str) -> Option<apache_avro::Schema> {
    // A limit of the whole process. apache-avro allocates the claimed length before it reads a text.
    apache_avro::util::max_allocation_bytes(MAX_FIELD_BYTES);
    Schema::parse(schema).ok()?;
    apache_avro::Schema::parse_str(schema).ok()
}

/// Decodes a datum. Returns `None` if it is not exactly one record of the schema.
pub fn decode(schema: &apache_avro::Schema, datum: &[u8]) -> Option<Record> {
    let reader = GenericDatumReader::builder(schema).build().ok()?;
    let mut datum = Datum { rest: datum, is_short: false };
    match reader.read_value(&mut datum) {
        Ok(Value::Record(fields)) if datum.rest.is_empty() && !datum.is_short => Some(Record(fields)),
        _ => None,
    }
}

/// Reader of a datum that records reads past its end, since apache-avro decodes a truncated text or union as null.
struct Datum<'a> {
    rest: &'a [u8],
    is_short: bool,
}

impl Read for Datum<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.rest.read(buffer)?;
        self.is_short |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

impl Record {
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.0)
    }
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        Some(if let Value::Union(_, inner) = value { inner } else { value })
    }

    /// Returns a text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        if let Value::String(text) = self.get(name)? { Some(text) } else { None }
    }

    /// Returns the bytes of a text, of bytes, of a boolean or of a number.
    pub fn plain(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        match self.get(name)? {
            Value::String(text) => Some(Cow::Borrowed(text.as_bytes())),
            Value::Bytes(bytes) | Value::Fixed(_, bytes) => Some(Cow::Borrowed(bytes)),
            Value::Boolean(is) => Some(Cow::Borrowed(if *is { b"1" } else { b"0" })),
            _ => self.number(name).map(|number| Cow::Owned(number.to_be_bytes().to_vec())),
        }
    }

    /// Returns a number of any width.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Long(n) | Value::TimestampMillis(n) | Value::TimestampMicros(n) => Some(*n),
            Value::Int(n) => Some(i64::from(*n)),
            _ => None,
        }
    }

    /// Returns a nested record.
    pub fn record(&self, name: &str) -> Option<Self> {
        if let Value::Record(fields) = self.get(name)? { Some(Self(fields)) } else { None }
    }

    /// Returns the records of an array.
    pub fn records(self, name: &str) -> impl Iterator<Item = Self> {
        let items = if let Some(Value::Array(items)) = self.get(name) { items.as_slice() } else { &[] };
        items.iter().filter_map(|item| if let Value::Record(f) = item { Some(Self(f)) } else { None })
    }

    /// Returns true if a nullable field has a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| *value != Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::subject;

    use super::*;

    /// Otherwise an audit with a wrong address would compare nothing and report a complete log.
    #[test]
    fn response_of_another_server_than_a_schema_registry_ends_the_audit() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
                .unwrap();
        });
        let registry = SchemaRegistry::new(&agentgov_connect::SchemaRegistryEndpoint::at(url)).unwrap();
        let refused = Decoder::new(registry).decode(&[0, 0, 0, 0, 7, 1]).map(|record| record.is_some());
        server.join().unwrap();
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("the API of a schema registry"), "{message}");
    }

    #[test]
    fn truncated_datum_does_not_decode() {
        let schema = subject::ACTION_EVENT.schema().unwrap();
        let schema = parse(schema.text()).unwrap();
        let event = crate::events::testing::Event::default();
        let datum = event.encode();
        assert!(decode(&schema, &datum).is_some());
        for cut in 0..datum.len() {
            assert!(decode(&schema, &datum[..cut]).is_none(), "cut at {cut} of {}", datum.len());
        }
        assert!(decode(&schema, &[datum.as_slice(), b"\0"].concat()).is_none());
    }

    /// The stages use another decoder, so the same limits are tested here.
    #[test]
    fn schema_with_unbounded_work_is_rejected() {
        let record = |field: &str| {
            format!(r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{field}}}]}}"#)
        };
        for (field, is_taken) in [
            (r#"{"type":"array","items":"long"}"#, true),
            (r#"{"type":"array","items":"null"}"#, false),
            (r#"{"type":"array","items":{"type":"array","items":"null"}}"#, false),
            (r#"["null","R"]"#, false),
            (r#"{"type":"fixed","name":"F","size":1073741824}"#, false),
            (r#"{"type":"bytes","logicalType":"big-decimal"}"#, false),
        ] {
            let schema = parse(&record(field));
            assert_eq!(schema.is_some(), is_taken, "{field}");
            // A block of 2^40 items, and a text of as many bytes.
            let claim = [128, 128, 128, 128, 128, 64];
            assert!(schema.is_none_or(|schema| decode(&schema, &claim).is_none()), "{field}");
        }
    }
}
