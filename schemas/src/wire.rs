//! The Confluent wire format: magic byte 0, schema id as 4 bytes big-endian, Avro datum.
//!
//! Source: Confluent's documentation of the Schema Registry, "Wire format". A [`Fingerprint`] identifies a schema; an id does
//! so only within one schema registry.

use std::error::Error as _;
use std::io::BufRead as _;

use serde::{Deserialize, Serialize};
use serde_avro_fast::ser::SerializerConfig;

use crate::bounds::MAX_AVRO_SCHEMA_BYTES;
use crate::clocks::{ConvertingDeserializer, TimestampConversions};
use crate::reject::RejectReason;
use crate::{Digest, datum_error, writers};

/// Id that a schema registry assigned to a schema. It has no meaning outside that schema registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaId(pub u32);

/// SHA-256 of a schema's Parsing Canonical Form (Avro specification). It identifies a schema in any schema registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub Digest);

/// Length, in bytes, of the header before a datum.
pub const HEADER_LEN: usize = 5;
const MAGIC: u8 = 0;

/// Error for a value that is not in the wire format. Each variant has a reject reason: [`WireError::reason`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The value is a tombstone, or empty.
    #[error("expected magic byte 0, a schema id and an Avro datum, found an empty value")]
    Empty,
    /// The first byte is not 0.
    #[error("expected magic byte 0, found {0}: not written in the Confluent wire format")]
    WrongMagic(u8),
    /// The value is shorter than the header.
    #[error("expected at least 5 bytes of header, found {0}")]
    TruncatedHeader(usize),
    /// The datum does not fit its schema.
    #[error("schema id {id}: the datum does not decode: {message}")]
    Datum {
        /// Schema id in the value's header.
        id: u32,
        /// Message of the decoder.
        message: String,
    },
    /// Bytes are left after the datum.
    #[error("schema id {id}: {extra} bytes are left after the datum")]
    TrailingBytes {
        /// Schema id in the value's header.
        id: u32,
        /// Number of bytes after the datum.
        extra: usize,
    },
}

impl WireError {
    /// Returns the reject reason.
    pub const fn reason(&self) -> RejectReason {
        match self {
            Self::Empty => RejectReason::EmptyValue,
            Self::WrongMagic(_) => RejectReason::WrongMagicByte,
            Self::TruncatedHeader(_) => RejectReason::TruncatedHeader,
            Self::Datum { .. } => RejectReason::UndecodableDatum,
            Self::TrailingBytes { .. } => RejectReason::TrailingBytes,
        }
    }
}

/// Splits a record's value into the id of its writer's schema and its datum.
pub fn split(value: &[u8]) -> Result<(SchemaId, &[u8]), WireError> {
    match value {
        [] => Err(WireError::Empty),
        [MAGIC, a, b, c, d, datum @ ..] => Ok((SchemaId(u32::from_be_bytes([*a, *b, *c, *d])), datum)),
        [MAGIC, ..] => Err(WireError::TruncatedHeader(value.len())),
        [magic, ..] => Err(WireError::WrongMagic(*magic)),
    }
}

/// Parsed schema of a writer.
pub struct Schema {
    fast: serde_avro_fast::Schema,
    fingerprint: Fingerprint,
    text: String,
    /// Conversions of the timestamps that the writer has in another unit than this build.
    conversions: TimestampConversions,
}

/// Error for a text that is not an Avro schema.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not an Avro schema: {0}")]
pub struct SchemaError(String);

impl SchemaError {
    pub(crate) const fn new(message: String) -> Self {
        Self(message)
    }

    pub(crate) fn unknown_subject(name: &str) -> Self {
        Self(format!("this build has no subject `{name}`"))
    }
}

impl Schema {
    /// Parses the JSON of an `*.avsc`.
    ///
    /// # Errors
    /// If `text` is not an Avro schema, or exceeds a limit of [`crate::bounds`], so that a short datum could require unbounded work.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        if text.len() > MAX_AVRO_SCHEMA_BYTES {
            let found = text.len();
            return Err(SchemaError(format!(
                "expected at most {MAX_AVRO_SCHEMA_BYTES} bytes, found {found}"
            )));
        }
        let parsed = apache_avro::Schema::parse_str(text).map_err(|e| {
            let place = e.source().map(|source| format!(": {source}")).unwrap_or_default();
            SchemaError(format!("{e}{place}"))
        })?;
        writers::check(&parsed)?;
        let canonical = parsed.canonical_form();
        let fast = text.parse::<serde_avro_fast::Schema>().map_err(|e| SchemaError(e.to_string()))?;
        Ok(Self {
            fast,
            fingerprint: Fingerprint(Digest::of(canonical.as_bytes())),
            text: text.to_owned(),
            conversions: TimestampConversions::from_schema(&parsed),
        })
    }

    /// Returns the fingerprint.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Returns the JSON that the schema was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Decodes a datum that was written with this schema; `T` borrows from it. A field that the writer did not know takes
    /// serde's default, which equals the default of the reader's schema. A field that `T` does not know is skipped. A timestamp
    /// is converted from the unit of the writer's logical type.
    pub fn decode<'a, T: Deserialize<'a>>(&self, id: SchemaId, datum: &'a [u8]) -> Result<T, WireError> {
        let mut state = serde_avro_fast::de::DeserializerState::from_slice(datum, &self.fast);
        let decoded = if self.conversions.is_empty() {
            T::deserialize(state.deserializer())
        } else {
            T::deserialize(ConvertingDeserializer {
                inner: state.deserializer(),
                conversions: &self.conversions,
            })
        };
        let value = decoded
            .map_err(|e| WireError::Datum { id: id.0, message: datum_error::describe(&e.to_string()) })?;
        match state.into_reader().fill_buf() {
            Ok([]) => Ok(value),
            Ok(rest) => Err(WireError::TrailingBytes { id: id.0, extra: rest.len() }),
            Err(e) => Err(WireError::Datum { id: id.0, message: e.to_string() }),
        }
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Encoder for values of one schema with its id. It reuses its buffers; each thread has an encoder of its own.
pub struct Encoder<'s> {
    id: SchemaId,
    config: SerializerConfig<'s>,
}

/// Error for a value that does not fit its schema: a bug in agentgov, since tests hold the types to the schemas.
#[derive(Debug, thiserror::Error)]
#[error("the value does not fit its schema: {0}")]
pub struct EncodeError(String);

impl<'s> Encoder<'s> {
    /// Creates an encoder for values of `schema`, registered as `id`.
    pub fn new(id: SchemaId, schema: &'s Schema) -> Self {
        Self { id, config: SerializerConfig::new(&schema.fast) }
    }

    /// Appends header and datum of `value` to `out`. An error leaves `out` unchanged.
    pub fn encode_into<T: Serialize>(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.push(MAGIC);
        out.extend_from_slice(&self.id.0.to_be_bytes());
        match serde_avro_fast::to_datum(value, &mut *out, &mut self.config) {
            Ok(_) => Ok(()),
            Err(e) => {
                out.truncate(start);
                Err(EncodeError(e.to_string()))
            }
        }
    }

    /// Returns header and datum of `value`.
    pub fn encode<T: Serialize>(&mut self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::with_capacity(256);
        self.encode_into(value, &mut out)?;
        Ok(out)
    }
}
