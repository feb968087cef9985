//! Encoding of a segment: a header with the source of the events, then records, each with its checksums.
//!
//! ```text
//! segment = "AGSPOOL" version:u8 length:u32 crc(json):u32 crc(preceding bytes):u32  json  record*
//! record  = key_len:u32 value_len:u32 sequence:i64 kind:u8 crc(key value):u32 crc(preceding bytes of the record):u32  key  value
//! ```
//!
//! Numbers are little-endian; checksums are CRC-32 (IEEE). The fixed-size head of a record has a checksum of its own, so
//! that the reader uses no length that was not written. A record is torn, which means cut off during its write, if its head
//! is incomplete, or if the bytes end before the length in its verified head. Only the last record can be torn. Every other
//! mismatch is damage.

use serde::{Deserialize, Serialize};

/// First bytes of a segment: the format and its version.
const MAGIC: [u8; 8] = *b"AGSPOOL\x01";
/// Bytes of a segment before its JSON.
const SEGMENT_HEAD_BYTES: usize = 20;
/// Bytes of a record before its key.
pub(super) const RECORD_HEAD_BYTES: usize = 25;

/// Header of a segment: the source of its events and their topic. A later process publishes them from this alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentHeader {
    pub(crate) source_id: String,
    pub(crate) tenant_id: String,
    pub(crate) environment: String,
    pub(crate) topic: String,
    pub(crate) schema_id: u32,
    /// Sequence number of the first record.
    pub(crate) first: i64,
}

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Event,
    /// The closing event of the source.
    Closing,
}

/// A record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpoolRecord<'a> {
    pub(crate) sequence: i64,
    pub(crate) kind: RecordKind,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A segment that cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentError {
    /// The last record, which begins at this offset, was cut off during its write.
    Torn { offset: usize },
    /// The bytes at this offset differ from the written ones.
    Damaged { offset: usize, expected: &'static str },
}

impl SegmentHeader {
    /// Encodes the header: the first bytes of a segment.
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

/// Replaces the content of `buffer` by the encoded record.
pub(crate) fn encode_record(record: &SpoolRecord<'_>, buffer: &mut Vec<u8>) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(record.key);
    crc.update(record.value);
    buffer.clear();
    buffer.extend_from_slice(&length(record.key).to_le_bytes());
    buffer.extend_from_slice(&length(record.value).to_le_bytes());
    buffer.extend_from_slice(&record.sequence.to_le_bytes());
    buffer.push(u8::from(record.kind == RecordKind::Closing));
    buffer.extend_from_slice(&crc.finalize().to_le_bytes());
    let head = crc32fast::hash(buffer);
    buffer.extend_from_slice(&head.to_le_bytes());
    buffer.extend_from_slice(record.key);
    buffer.extend_from_slice(record.value);
}

/// Returns the encoded length of a record with this key and value.
pub(crate) const fn encoded_len(key: &[u8], value: &[u8]) -> usize {
    RECORD_HEAD_BYTES + key.len() + value.len()
}

/// Reader of a segment.
#[derive(Debug)]
pub(crate) struct SegmentReader<'a> {
    pub(crate) header: SegmentHeader,
    bytes: &'a [u8],
    offset: usize,
    next: i64,
}

impl<'a> SegmentReader<'a> {
    /// Reads the header of any bytes. Allocates nothing for a length in them.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, SegmentError> {
        let damaged = |expected| SegmentError::Damaged { offset: 0, expected };
        let torn = SegmentError::Torn { offset: 0 };
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(torn);
        }
        let there = bytes.len().min(MAGIC.len());
        if bytes.get(..there) != MAGIC.get(..there) {
            return Err(damaged("a segment of a spool, version 1"));
        }
        let mut head = ByteReader(bytes);
        let (Some(_), Some(length), Some(crc), Some(head_crc)) =
            (head.take(MAGIC.len()), head.u32(), head.u32(), head.u32())
        else {
            return Err(torn);
        };
        if bytes.get(..SEGMENT_HEAD_BYTES - 4).map(crc32fast::hash) != Some(head_crc) {
            return Err(damaged("the checksum of the segment's head"));
        }
        let Some(json) = head.take(length as usize) else { return Err(torn) };
        if crc32fast::hash(json) != crc {
            return Err(damaged("the checksum of the segment's header"));
        }
        let header: SegmentHeader =
            serde_json::from_slice(json).map_err(|_| damaged("a header of version 1"))?;
        if header.first < 0 {
            return Err(damaged("a first sequence of 0 or more"));
        }
        Ok(Self { next: header.first, offset: SEGMENT_HEAD_BYTES + json.len(), header, bytes })
    }

    /// Returns the next record, or `None` at the end.
    pub(crate) fn next_record(&mut self) -> Result<Option<SpoolRecord<'a>>, SegmentError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let damaged = |expected| Err(SegmentError::Damaged { offset: self.offset, expected });
        let torn = Err(SegmentError::Torn { offset: self.offset });
        // A power loss may leave a file that was extended and not written. No head is all zeros, since its checksum is not 0.
        if rest.iter().all(|byte| *byte == 0) {
            return torn;
        }
        let mut fields = ByteReader(rest);
        let (Some(key_len), Some(value_len), Some(sequence), Some(kind), Some(crc), Some(head_crc)) =
            (fields.u32(), fields.u32(), fields.i64(), fields.u8(), fields.u32(), fields.u32())
        else {
            return torn;
        };
        if rest.get(..RECORD_HEAD_BYTES - 4).map(crc32fast::hash) != Some(head_crc) {
            return damaged("the checksum of a record's head");
        }
        let kind = match kind {
            0 => RecordKind::Event,
            1 => RecordKind::Closing,
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
        self.offset += encoded_len(key, value);
        self.next = sequence.saturating_add(1);
        Ok(Some(SpoolRecord { sequence, kind, key, value }))
    }

    /// Returns the sequence number after the last record that was read.
    pub(crate) const fn end(&self) -> i64 {
        self.next
    }
}

/// Reads fields from the front of a slice.
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
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

/// Returns a length in its encoded form. Keys and values are smaller than 4 GiB, since the topic's limit is an i32.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
