//! Columns of every table of the log: the raw record, its topic-partition and its offset.

use agentgov_runtime::sink::Record;
use agentgov_runtime::sink::native::{
    Bytes, Int32, Int64, List, LoggedAt, Nullable, Sha256, Text, UInt32, UInt64,
};
use agentgov_schemas::Digest;

use super::NO_DIGEST;
use crate::encoder::record_digest;

/// Raw record, with the result of its decoding.
pub(crate) struct Raw<'a> {
    record: &'a Record<'a>,
    sha256: Digest,
    claim: u64,
    /// Schema id of its value; 0 without one, or if the schema registry does not know it.
    pub(crate) schema_id: u32,
    /// Fingerprint of that schema; zeros without one.
    pub(crate) schema_fingerprint: Digest,
    /// Decoding error as `reason: detail`; empty if the record decodes.
    pub(crate) decode_error: String,
}

impl<'a> Raw<'a> {
    pub(crate) fn new(record: &'a Record<'a>, claim: u64) -> Self {
        let sha256 = record_digest(record);
        Self {
            record,
            sha256,
            claim,
            schema_id: 0,
            schema_fingerprint: NO_DIGEST,
            decode_error: String::new(),
        }
    }
}

columns! {
    /// Columns of the raw record.
    raw: Raw<'a> {
        "topic_partition": Text = raw.record.at.name(),
        "topic": Text = &raw.record.at.topic,
        "partition": Int32 = raw.record.at.partition,
        "offset": Int64 = raw.record.offset,
        "logged_at": LoggedAt = raw.record.logged_at,
        "key": Nullable<Bytes> = raw.record.key,
        "headers.name": List<Bytes> = &mut raw.record.headers.map(|(name, _)| name),
        "headers.value": List<Nullable<Bytes>> = &mut raw.record.headers.map(|(_, value)| value),
        "value": Nullable<Bytes> = raw.record.value,
        "record_sha256": Sha256 = raw.sha256,
        "schema_id": UInt32 = raw.schema_id,
        "schema_fingerprint": Sha256 = raw.schema_fingerprint,
        "decode_error": Text = &raw.decode_error,
        "claim": UInt64 = raw.claim,
    }
}
