//! Records that a stage could not process: subject `reject`.
//!
//! The types borrow from the bytes they are decoded from. Their serde defaults equal the schema's defaults: tested.

use serde::{Deserialize, Serialize};

use crate::verdict::Origin;
use crate::{Digest, OpenEnum, vocabulary};

/// A record that a stage could not process, kept with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject<'a> {
    /// The stage that rejected it.
    pub stage: &'a str,
    /// Why: each has a page in docs/errors.
    #[serde(borrow)]
    pub reason: OpenEnum<'a, RejectReason>,
    /// What was expected and what was found.
    pub detail: &'a str,
    /// The rejected record.
    #[serde(borrow)]
    pub origin: Origin<'a>,
    /// Its key, as it came.
    #[serde(with = "serde_bytes")]
    pub key: &'a [u8],
    /// Size of its value in bytes.
    pub size: i64,
    /// SHA-256 of its value.
    pub sha256: Digest,
    /// The first 4 KiB of its value.
    #[serde(with = "serde_bytes")]
    pub head: &'a [u8],
}

vocabulary! {
    /// Reason of a [`Reject`], and of a record of the log that does not decode.
    RejectReason {
        /// The value is empty, or a tombstone.
        EmptyValue = "empty_value",
        /// The value does not begin with the magic byte of the wire format.
        WrongMagicByte = "wrong_magic_byte",
        /// The value ends within its header.
        TruncatedHeader = "truncated_header",
        /// The registry does not have the schema id.
        UnknownSchemaId = "unknown_schema_id",
        /// The datum does not fit its schema.
        UndecodableDatum = "undecodable_datum",
        /// The datum is longer than its schema says.
        TrailingBytes = "trailing_bytes",
        /// The tenant id is empty or has a slash.
        InvalidTenantId = "invalid_tenant_id",
        /// The session has no id.
        EmptySessionId = "empty_session_id",
        /// The source has no id.
        EmptySourceId = "empty_source_id",
        /// The event has no id.
        EmptyEventId = "empty_event_id",
        /// A name is longer than names may be.
        IdTooLong = "id_too_long",
        /// A record without a timestamp.
        NoTimestamp = "no_timestamp",
        /// The stage's output is larger than its topic takes.
        OutputRefused = "output_refused",
        /// Something that no record can bring about: a mistake of ours.
        Internal = "internal",
        /// An operator accepted that retention deleted the records.
        GapAccepted = "gap_accepted",
    }
}
