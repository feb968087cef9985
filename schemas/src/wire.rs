//! The Confluent wire format: magic byte 0, schema id as 4 bytes big-endian, Avro datum.
//!
//! Source: Confluent's documentation of the Schema Registry, "Wire format". Schemas are known by their fingerprint,
//! not by their id: see [`Fingerprint`].

use std::error::Error as _;
use std::io::BufRead as _;

use serde::{Deserialize, Serialize};
use serde_avro_fast::ser::SerializerConfig;

use crate::bounds::MAX_AVRO_SCHEMA_BYTES;
use crate::clocks::{Clocks, Converting};
use crate::reject::RejectReason;
use crate::{Digest, writers};

/// An id that a registry gave to a schema. Means nothing outside that registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaId(pub u32);

/// SHA-256 of a schema's Parsing Canonical Form (Avro specification): the identity of a schema, whoever registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub Digest);

/// Bytes in front of every datum.
pub const HEADER_LEN: usize = 5;
const MAGIC: u8 = 0;

/// A value that is not in the wire format. The names of the variants are reject reasons: [`WireError::reason`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A tombstone, or an empty value.
    #[error("expected magic byte 0, a schema id and an Avro datum, found an empty value")]
    Empty,
    /// The first byte is not 0.
    #[error("expected magic byte 0, found {0}: not written in the Confluent wire format")]
    WrongMagic(u8),
    /// Shorter than its header.
    #[error("expected at least 5 bytes of header, found {0}")]
    TruncatedHeader(usize),
    /// The datum does not fit its schema.
    #[error("schema id {id}: the datum does not decode: {message}")]
    Datum {
        /// The schema that the value names.
        id: u32,
        /// What the decoder said.
        message: String,
    },
    /// The datum is longer than its schema says.
    #[error("schema id {id}: {extra} bytes are left after the datum")]
    TrailingBytes {
        /// The schema that the value names.
        id: u32,
        /// How many.
        extra: usize,
    },
}

impl WireError {
    /// The reject reason.
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

/// A parsed writer's schema.
pub struct Schema {
    fast: serde_avro_fast::Schema,
    fingerprint: Fingerprint,
    text: String,
    /// Timestamps that its writer has in another unit than this build.
    clocks: Clocks,
}

/// A text that is no Avro schema.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not an Avro schema: {0}")]
pub struct SchemaError(String);

impl SchemaError {
    pub(crate) fn unknown_subject(name: &str) -> Self {
        Self(format!("`{name}` is none of the subjects of this build"))
    }
}

impl Schema {
    /// Parses the JSON of an `*.avsc`.
    ///
    /// # Errors
    /// It is none, or one of which a short datum could claim any amount of work: [`crate::bounds`].
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
        writers::check(&parsed).map_err(SchemaError)?;
        let canonical = parsed.canonical_form();
        let fast = text.parse::<serde_avro_fast::Schema>().map_err(|e| SchemaError(e.to_string()))?;
        Ok(Self {
            fast,
            fingerprint: Fingerprint(Digest::of(canonical.as_bytes())),
            text: text.to_owned(),
            clocks: Clocks::of(&parsed),
        })
    }

    /// Its identity.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The JSON that it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Decodes a datum that this schema wrote; `T` borrows from it. Fields that the writer did not know take serde's
    /// default, which equals the reader schema's (tested); fields that `T` does not know are skipped. A timestamp in another unit is
    /// converted: the writer's logical type counts.
    pub fn decode<'a, T: Deserialize<'a>>(&self, id: SchemaId, datum: &'a [u8]) -> Result<T, WireError> {
        let mut state = serde_avro_fast::de::DeserializerState::from_slice(datum, &self.fast);
        let decoded = if self.clocks.are_ours() {
            T::deserialize(state.deserializer())
        } else {
            T::deserialize(Converting { inner: state.deserializer(), clocks: &self.clocks })
        };
        let value = decoded.map_err(|e| WireError::Datum { id: id.0, message: e.to_string() })?;
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

/// Writes values of one schema, under the id that a registry gave it. Reuses its buffers: one encoder a thread.
pub struct Encoder<'s> {
    id: SchemaId,
    config: SerializerConfig<'s>,
}

/// A value that does not fit its schema: a mistake of ours, since the types are tested against the schemas.
#[derive(Debug, thiserror::Error)]
#[error("the value does not fit its schema: {0}")]
pub struct EncodeError(String);

impl<'s> Encoder<'s> {
    /// For values of `schema`, registered as `id`.
    pub fn new(id: SchemaId, schema: &'s Schema) -> Self {
        Self { id, config: SerializerConfig::new(&schema.fast) }
    }

    /// Appends header and datum of `value` to `out`. On an error `out` is as it was.
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

    /// Header and datum of `value`.
    pub fn encode<T: Serialize>(&mut self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::with_capacity(256);
        self.encode_into(value, &mut out)?;
        Ok(out)
    }
}
