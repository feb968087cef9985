//! The changelogs of the evaluator and the alerter: subjects `session-state` and `alert-state`.
//!
//! The types borrow from the bytes they are decoded from. Their serde defaults equal the schema's defaults: tested.

use serde::{Deserialize, Serialize};

use crate::verdict::Origin;
use crate::{Micros, Millis};

/// What of a source was seen in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSequence<'a> {
    /// The source.
    pub id: &'a str,
    /// Its highest sequence seen.
    pub sequence: i64,
    /// Its last numbers, 16 at most, in the order in which they came: of each 24 bytes, the number (big-endian, two's
    /// complement) and 16 bytes of the event's digest (ADR 0015).
    #[serde(with = "serde_bytes", default)]
    pub recent: &'a [u8],
    /// How many entries of 16 numbers each hold those that came before.
    #[serde(default)]
    pub blocks: i32,
    /// The highest sequence seen by a version that kept no numbers: of those up to this one it is not known which were sent.
    #[serde(default)]
    pub unknown_through: Option<i64>,
}

/// Sixteen numbers of a source that stand in the header no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers<'a> {
    /// The source.
    pub source: &'a str,
    /// Which sixteen, from 0.
    pub block: i32,
    /// As in the header: 24 bytes each.
    #[serde(with = "serde_bytes")]
    pub numbers: &'a [u8],
}

/// What is known of a session besides its facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHeader<'a> {
    /// occurred_at of its session.started, or of its first event.
    pub started_at: Micros,
    /// logged_at of its last applied record.
    pub last_logged_at: Millis,
    /// Offset of its last applied record in its partition.
    pub applied_through: i64,
    /// How many events were applied, duplicates not counted.
    pub events: i64,
    /// How many tool calls were applied.
    pub tool_calls: i32,
    /// For recognising duplicates.
    #[serde(borrow)]
    pub sources: Vec<SourceSequence<'a>>,
    /// How many facts and calls are kept.
    pub facts: i32,
    /// How many bytes of facts and calls are kept.
    pub bytes: i64,
    /// True after session.ended.
    pub ended: bool,
    /// True once something was not kept because of the limit.
    pub limited: bool,
}

/// Something that an earlier event of the session said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact<'a> {
    /// The kind, from the bundle's tools.yaml.
    pub kind: &'a str,
    /// The key within the kind.
    pub key: &'a str,
    /// JSON, as it was said.
    #[serde(with = "serde_bytes")]
    pub value: &'a [u8],
    /// Offset of the event that said it.
    pub offset: i64,
}

/// The latest tool call of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call<'a> {
    /// Its id.
    pub call_id: &'a str,
    /// Its tool.
    pub tool: &'a str,
    /// Its index in the session.
    pub call_index: i32,
    /// Its arguments, as they came.
    #[serde(with = "serde_bytes")]
    pub arguments: &'a [u8],
    /// Offset of its event.
    pub offset: i64,
    /// True once a result came.
    pub answered: bool,
}

/// How far the changelog's partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The input offset after the last applied record. Equals the committed offset, or the changelog is not complete.
    pub next_offset: i64,
    /// Refused bundles before this offset of governance.bundles have been announced as alerts. Only partition 0 announces.
    #[serde(default)]
    pub bundles_announced: i64,
}

/// One entry of the evaluator's changelog: a session's header, one of its facts, one of its calls, numbers of one of
/// its sources, or how far a partition was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState<'a> {
    /// The tenant; empty on progress.
    pub tenant_id: &'a str,
    /// The session; empty on progress.
    pub session_id: &'a str,
    /// The header.
    #[serde(borrow, default)]
    pub header: Option<SessionHeader<'a>>,
    /// A fact.
    #[serde(borrow, default)]
    pub fact: Option<Fact<'a>>,
    /// A call.
    #[serde(borrow, default)]
    pub call: Option<Call<'a>>,
    /// Progress of the partition.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Numbers of a source.
    #[serde(borrow, default)]
    pub numbers: Option<Numbers<'a>>,
}

impl<'a> SessionState<'a> {
    /// An entry that holds nothing yet.
    pub const fn new(tenant_id: &'a str, session_id: &'a str) -> Self {
        Self { tenant_id, session_id, header: None, fact: None, call: None, progress: None, numbers: None }
    }
}

/// An open alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertWindow<'a> {
    /// The violated policy.
    pub policy: &'a str,
    /// The alert.
    pub alert_id: &'a str,
    /// Its last revision.
    pub revision: i32,
    /// logged_at of its first action.
    pub opened_at: Millis,
    /// Its first action.
    #[serde(borrow)]
    pub first_origin: Origin<'a>,
}

/// One entry of the alerter's changelog: an open alert, or how far a partition was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertState<'a> {
    /// The tenant; empty on progress.
    pub tenant_id: &'a str,
    /// The session; empty on progress.
    pub session_id: &'a str,
    /// The window.
    #[serde(borrow, default)]
    pub window: Option<AlertWindow<'a>>,
    /// Progress of the partition.
    #[serde(default)]
    pub progress: Option<AlertProgress>,
}

/// How far the alerter's changelog partition stands. Avro: `Progress` of `alert-state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertProgress {
    /// The input offset after the last applied record. Equals the committed offset, or the changelog is not complete.
    pub next_offset: i64,
}
