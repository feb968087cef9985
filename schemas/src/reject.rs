//! Records that a stage could not process: subject `reject`.
//!
//! The types borrow from the bytes they are decoded from. Their serde defaults equal the schema's defaults: tested.

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::verdict::Origin;

/// A record that a stage could not process, kept with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject<'a> {
    /// The stage that rejected it.
    pub stage: &'a str,
    /// A name of docs/errors, e.g. unknown_schema_id.
    pub reason: &'a str,
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
