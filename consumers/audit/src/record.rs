//! A record as the audit sees it: the fields it compares, decoded with apache-avro.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use agentgov_connect::SchemaRegistry;
use agentgov_schemas::wire::{Schema, SchemaId};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;

use crate::AuditError;

/// Longest text or bytes of a value: above what a topic may take.
const LONGEST: usize = 64 << 20;

/// Writers' schemas by id.
pub struct Decoder {
    registry: SchemaRegistry,
    known: HashMap<u32, Option<apache_avro::Schema>>,
}

/// A decoded record.
pub struct Record(Vec<(String, Value)>);

/// The fields of a record, or of a record within it.
#[derive(Clone, Copy)]
pub struct Fields<'a>(&'a [(String, Value)]);

impl Decoder {
    pub fn new(registry: SchemaRegistry) -> Self {
        Self { registry, known: HashMap::new() }
    }

    /// The fields of a value in the wire format; `None` if it is none, or its schema is none that a datum bounds.
    ///
    /// # Errors
    /// The registry does not answer: whether the value decodes is not known.
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

/// A schema whose data take no more work than they have bytes; `None` of another ([`agentgov_schemas::bounds`]).
pub fn parse(schema: &str) -> Option<apache_avro::Schema> {
    // Of the whole process. A length that is claimed is allocated before the text is read.
    apache_avro::util::max_allocation_bytes(LONGEST);
    Schema::parse(schema).ok()?;
    apache_avro::Schema::parse_str(schema).ok()
}

/// The fields of a datum; `None` if it is not exactly one record of the schema.
pub fn decode(schema: &apache_avro::Schema, datum: &[u8]) -> Option<Record> {
    let reader = GenericDatumReader::builder(schema).build().ok()?;
    let mut datum = Datum { rest: datum, is_short: false };
    match reader.read_value(&mut datum) {
        Ok(Value::Record(fields)) if datum.rest.is_empty() && !datum.is_short => Some(Record(fields)),
        _ => None,
    }
}

/// A datum that remembers whether more was read than it has: apache-avro takes a text or a union that is cut off for null.
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

    /// A text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        if let Value::String(text) = self.get(name)? { Some(text) } else { None }
    }

    /// The bytes of a text, of bytes, of a boolean or of a number.
    pub fn plain(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        match self.get(name)? {
            Value::String(text) => Some(Cow::Borrowed(text.as_bytes())),
            Value::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
            Value::Boolean(is) => Some(Cow::Borrowed(if *is { b"1" } else { b"0" })),
            _ => self.number(name).map(|number| Cow::Owned(number.to_be_bytes().to_vec())),
        }
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
        if let Value::Record(fields) = self.get(name)? { Some(Self(fields)) } else { None }
    }

    /// The records of an array.
    pub fn records(&self, name: &str) -> impl Iterator<Item = Self> {
        let items = if let Some(Value::Array(items)) = self.get(name) { items.as_slice() } else { &[] };
        items.iter().filter_map(|item| if let Value::Record(f) = item { Some(Self(f)) } else { None })
    }

    /// True if a nullable field has a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| *value != Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::subject;

    use super::*;

    /// Else an audit with a wrong address would compare nothing, and call the log whole.
    #[test]
    fn an_address_where_no_registry_answers_ends_the_audit() {
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
    fn a_datum_that_is_cut_off_anywhere_is_no_record() {
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

    /// The decoder is another than the stages', so what must hold of them must hold of it.
    #[test]
    fn a_datum_claims_no_work() {
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
