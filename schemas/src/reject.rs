//! Records that a stage could not process: subject `reject`.
//!
//! The types borrow from the bytes that they are decoded from. A test holds their serde defaults to the schema's.

use serde::{Deserialize, Serialize};

use crate::verdict::Origin;
use crate::{Digest, OpenEnum, vocabulary};

/// Dead-letter entry: a record that a stage could not process, with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject<'a> {
    /// Stage that rejected the record.
    pub stage: &'a str,
    /// Reason. Each has a page in docs/errors.
    #[serde(borrow)]
    pub reason: OpenEnum<'a, RejectReason>,
    /// Expected and actual content, for people.
    pub detail: &'a str,
    /// Position of the rejected record.
    #[serde(borrow)]
    pub origin: Origin<'a>,
    /// Key of the record, unchanged.
    #[serde(with = "serde_bytes")]
    pub key: &'a [u8],
    /// Size of the record's value in bytes.
    pub size: i64,
    /// SHA-256 of the record's value.
    pub sha256: Digest,
    /// First 4 KiB of the record's value.
    #[serde(with = "serde_bytes")]
    pub head: &'a [u8],
}

vocabulary! {
    /// Reason of a [`Reject`], and decode error of a row in the log.
    RejectReason {
        /// The value is empty, or a tombstone.
        EmptyValue = "empty_value",
        /// The value does not begin with the magic byte of the wire format.
        WrongMagicByte = "wrong_magic_byte",
        /// The value ends within its header.
        TruncatedHeader = "truncated_header",
        /// The schema registry does not have the schema id.
        UnknownSchemaId = "unknown_schema_id",
        /// The datum does not fit its schema.
        UndecodableDatum = "undecodable_datum",
        /// Bytes are left after the datum.
        TrailingBytes = "trailing_bytes",
        /// The tenant id is empty or has a slash.
        InvalidTenantId = "invalid_tenant_id",
        /// The session has no id.
        EmptySessionId = "empty_session_id",
        /// The source has no id.
        EmptySourceId = "empty_source_id",
        /// The event has no id.
        EmptyEventId = "empty_event_id",
        /// A name is longer than [`MAX_ID_BYTES`](crate::bounds::MAX_ID_BYTES).
        IdTooLong = "id_too_long",
        /// The record has no timestamp.
        NoTimestamp = "no_timestamp",
        /// The stage's output exceeds the maximum size of its topic.
        OutputRefused = "output_refused",
        /// An invariant of the stage does not hold: a bug in agentgov.
        Internal = "internal",
        /// An operator accepted that retention deleted the records.
        GapAccepted = "gap_accepted",
    }
}
