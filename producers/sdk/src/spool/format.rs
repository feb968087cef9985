//! The bytes of a segment: a header that says whose events they are, then records, each with checksums of its own.
//!
//! ```text
//! segment = "AGSPOOL" version:u8 length:u32 crc(json):u32 crc(what is before):u32  json  record*
//! record  = key_len:u32 value_len:u32 sequence:i64 kind:u8 crc(key value):u32 crc(what is before):u32  key  value
//! ```
//!
//! Numbers are little-endian; checksums are CRC-32 (IEEE). A head has a checksum of its own, so that a length is never
//! believed that was not written: a record is torn only if it is shorter than its proven head says, or its head is not whole.
//! Everything else that does not fit is damage. What is torn was cut off while it was written, so nothing follows it.

use serde::{Deserialize, Serialize};

/// What a segment begins with: the format and its version.
const MAGIC: [u8; 8] = *b"AGSPOOL\x01";
/// Bytes of a segment before its JSON.
const SEGMENT_HEAD: usize = 20;
/// Bytes of a record before its key.
pub(super) const RECORD_HEAD: usize = 25;

/// Whose events a segment holds, and where they go: all that a later process needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) source_id: String,
    pub(crate) tenant_id: String,
    pub(crate) environment: String,
    pub(crate) topic: String,
    pub(crate) schema_id: u32,
    /// Sequence of the first record.
    pub(crate) first: i64,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Event,
    /// The source's own end.
    Closing,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) sequence: i64,
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// Where and how a segment ends before its bytes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The last write was cut off here.
    Torn { offset: usize },
    /// What stands here was not written so.
    Damaged { offset: usize, expected: &'static str },
}

impl Header {
    /// The bytes that a segment begins with.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let json = serde_json::to_vec(self)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&length(&json).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }
}

/// Replaces `frame` by the bytes of a record.
pub(crate) fn frame(record: &Record<'_>, frame: &mut Vec<u8>) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(record.key);
    crc.update(record.value);
    frame.clear();
    frame.extend_from_slice(&length(record.key).to_le_bytes());
    frame.extend_from_slice(&length(record.value).to_le_bytes());
    frame.extend_from_slice(&record.sequence.to_le_bytes());
    frame.push(u8::from(record.kind == Kind::Closing));
    frame.extend_from_slice(&crc.finalize().to_le_bytes());
    let head = crc32fast::hash(frame);
    frame.extend_from_slice(&head.to_le_bytes());
    frame.extend_from_slice(record.key);
    frame.extend_from_slice(record.value);
}

/// Bytes of a record with such a key and value.
pub(crate) const fn frame_len(key: &[u8], value: &[u8]) -> usize {
    RECORD_HEAD + key.len() + value.len()
}

/// A segment that is being read.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) header: Header,
    bytes: &'a [u8],
    offset: usize,
    next: i64,
}

impl<'a> Segment<'a> {
    /// Reads the header. Any bytes will do; nothing is allocated for a length that they claim.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, Broken> {
        let damaged = |expected| Broken::Damaged { offset: 0, expected };
        let torn = Broken::Torn { offset: 0 };
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(torn);
        }
        let there = bytes.len().min(MAGIC.len());
        if bytes.get(..there) != MAGIC.get(..there) {
            return Err(damaged("a segment of a spool, version 1"));
        }
        let mut head = Fields(bytes);
        let (Some(_), Some(length), Some(crc), Some(head_crc)) =
            (head.take(MAGIC.len()), head.u32(), head.u32(), head.u32())
        else {
            return Err(torn);
        };
        if bytes.get(..SEGMENT_HEAD - 4).map(crc32fast::hash) != Some(head_crc) {
            return Err(damaged("the checksum of the segment's head"));
        }
        let Some(json) = head.take(length as usize) else { return Err(torn) };
        if crc32fast::hash(json) != crc {
            return Err(damaged("the checksum of the segment's header"));
        }
        let header: Header = serde_json::from_slice(json).map_err(|_| damaged("a header of version 1"))?;
        if header.first < 0 {
            return Err(damaged("a first sequence of 0 or more"));
        }
        Ok(Self { next: header.first, offset: SEGMENT_HEAD + json.len(), header, bytes })
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'a>>, Broken> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let damaged = |expected| Err(Broken::Damaged { offset: self.offset, expected });
        let torn = Err(Broken::Torn { offset: self.offset });
        // A file that was made longer, but not written, before the power went. No head is all zeros: its checksum is not.
        if rest.iter().all(|byte| *byte == 0) {
            return torn;
        }
        let mut fields = Fields(rest);
        let (Some(key_len), Some(value_len), Some(sequence), Some(kind), Some(crc), Some(head_crc)) =
            (fields.u32(), fields.u32(), fields.i64(), fields.u8(), fields.u32(), fields.u32())
        else {
            return torn;
        };
        if rest.get(..RECORD_HEAD - 4).map(crc32fast::hash) != Some(head_crc) {
            return damaged("the checksum of a record's head");
        }
        let kind = match kind {
            0 => Kind::Event,
            1 => Kind::Closing,
            _ => return damaged("an event or a closing event"),
        };
        if sequence != self.next {
            return damaged("the next sequence");
        }
        let (Some(key), Some(value)) = (fields.take(key_len as usize), fields.take(value_len as usize))
        else {
            return torn;
        };
        let mut found = crc32fast::Hasher::new();
        found.update(key);
        found.update(value);
        if found.finalize() != crc {
            return damaged("the checksum of a record");
        }
        self.offset += frame_len(key, value);
        self.next = sequence.saturating_add(1);
        Ok(Some(Record { sequence, kind, key, value }))
    }

    /// Sequence after the last record that was read.
    pub(crate) const fn end(&self) -> i64 {
        self.next
    }
}

/// Bytes that are taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}

/// A length as it is written. Keys and values are far smaller: the topic's limit is an i32.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
