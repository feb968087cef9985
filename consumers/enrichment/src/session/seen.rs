//! Sequence numbers that a session has seen from each source, each with the digest of its event. A repeat is recognised by both,
//! so that an event with a reused number is still judged (ADR 0015).

use std::collections::BTreeSet;

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::state::{Numbers, SourceSequence};
use agentgov_schemas::verdict::RecordFinding;

use super::digest::{Digest, content_digest};

/// Maximum number of sequence numbers that a session keeps, over all sources.
const MAX_NUMBERS: usize = 65_536;
/// Maximum number of sources that a session keeps sequence numbers of.
const MAX_SOURCES: usize = 64;
/// Sequence numbers in a block, which is one entry of the changelog.
const BLOCK: usize = 16;
/// Maximum number of blocks of a session.
const MAX_BLOCKS: usize = MAX_NUMBERS / BLOCK;
/// Bytes of a sequence number and its digest.
const ENTRY: usize = 24;

/// Sequence number (big-endian) and digest of its event, in the format of the changelog.
type Entry = [u8; ENTRY];

/// Result of checking the sequence number of an event before the event is applied.
#[derive(Clone, Debug)]
pub struct SequenceCheck {
    /// Highest sequence number seen from the source, if the event is a repeat. A repeat must not be applied.
    pub highest_if_repeat: Option<i64>,
    /// Faults of the sequence number.
    pub findings: Vec<RecordFinding>,
    digest: Digest,
    /// Index of the source; `None` for a new one.
    index: Option<usize>,
    /// False if a limit is reached: the number is not kept.
    has_room: bool,
}

/// Entry of the changelog that no version of this code writes: the changelog is damaged or belongs to another stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// The header of a session claims more numbers of a source than a session keeps, or its numbers are cut.
    #[error(
        "expected at most {} blocks and {BLOCK} numbers of {ENTRY} bytes each in a session's header, found {blocks} blocks and {bytes} bytes",
        MAX_BLOCKS - 1
    )]
    Source {
        /// Number of blocks in entries of their own.
        blocks: i32,
        /// Bytes of the numbers in the header.
        bytes: usize,
    },
    /// The index of a block of numbers is out of range.
    #[error("expected a block of numbers from 0 to {}, found block {block}", MAX_BLOCKS - 1)]
    BlockIndex {
        /// Index of the block.
        block: i32,
    },
    /// A block of numbers does not have the length of a block.
    #[error("expected {BLOCK} numbers of {ENTRY} bytes each, found {bytes} bytes")]
    BlockLength {
        /// Bytes of the numbers.
        bytes: usize,
    },
}

/// Checks the index of a block against the maximum number of blocks.
fn block_index(block: i32) -> Result<usize, InvalidEntry> {
    let index = usize::try_from(block).ok().filter(|index| *index < MAX_BLOCKS);
    index.ok_or(InvalidEntry::BlockIndex { block })
}

/// Block of sequence numbers: id of its source, and index.
pub(super) type BlockRef = (String, i32);

/// Sequence numbers by source, in the order in which the sources were first seen.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenSequences(Vec<SeenSource>);

#[derive(Clone, Debug)]
struct SeenSource {
    id: String,
    highest: i64,
    /// Highest number seen by a version that did not keep numbers: whether a number up to this one was seen is unknown.
    unknown_through: Option<i64>,
    /// Numbers in order of arrival. The header holds the last 1 to 16, blocks hold the others.
    numbers: Vec<Entry>,
    lookup: SequenceLookup,
}

/// Lookup structure for the numbers of a source.
#[derive(Clone, Debug)]
enum SequenceLookup {
    /// Numbers arrived in ascending order (the usual case): binary search.
    Ascending,
    /// Numbers arrived in another order: a sorted copy of all of them.
    Set(BTreeSet<Entry>),
    /// Restored; determined at the first lookup.
    Unknown,
}

/// Result of a lookup.
enum Lookup {
    Absent,
    SameEvent,
    OtherEvent,
}

impl SeenSequences {
    pub(super) fn check(&mut self, event: &ActionEvent<'_>) -> SequenceCheck {
        let (digest, sequence) = (content_digest(event), event.source.sequence);
        let mut findings = Vec::new();
        if sequence < 0 {
            findings.push(RecordFinding::NegativeSequence);
        }
        let index = self.0.iter().position(|source| source.id == event.source.id);
        let mut highest_if_repeat = None;
        if let Some(source) = index.and_then(|index| self.0.get_mut(index))
            && sequence <= source.highest
        {
            match source.find(sequence, digest) {
                Lookup::SameEvent => highest_if_repeat = Some(source.highest),
                Lookup::OtherEvent => findings.push(RecordFinding::SequenceReused),
                Lookup::Absent if source.unknown_through.is_some_and(|through| sequence <= through) => {
                    findings.push(RecordFinding::SequenceUnknown);
                }
                Lookup::Absent if sequence < source.highest => findings.push(RecordFinding::OutOfOrder),
                Lookup::Absent => {}
            }
        }
        let kept: usize = self.0.iter().map(|source| source.numbers.len()).sum();
        let has_room = kept < MAX_NUMBERS && (index.is_some() || self.0.len() < MAX_SOURCES);
        if !has_room && highest_if_repeat.is_none() {
            findings.push(RecordFinding::SequenceLimit);
        }
        SequenceCheck { highest_if_repeat, findings, digest, index, has_room }
    }

    pub(super) fn contains(&self, source_id: &str, sequence: i64) -> bool {
        let Some(source) = self.0.iter().find(|source| source.id == source_id) else { return false };
        let is_kept = || source.numbers.iter().rev().any(|kept| number(kept) == sequence);
        let is_full = || self.0.iter().map(|source| source.numbers.len()).sum::<usize>() >= MAX_NUMBERS;
        sequence <= source.highest && (is_kept() || is_full())
    }

    /// Records the number of a checked event. Returns the block that the number fills, if it fills one.
    pub(super) fn record(&mut self, event: &ActionEvent<'_>, check: &SequenceCheck) -> Option<BlockRef> {
        let sequence = event.source.sequence;
        let source = match check.index.and_then(|index| self.0.get_mut(index)) {
            Some(source) => source,
            None if check.has_room => {
                self.0.push(SeenSource::new(event.source.id, sequence));
                self.0.last_mut()?
            }
            None => return None,
        };
        source.highest = source.highest.max(sequence);
        if !check.has_room {
            return None;
        }
        source.push(entry(sequence, check.digest));
        let before = source.numbers.len() - 1;
        (before > 0 && before.is_multiple_of(BLOCK)).then(|| (source.id.clone(), source.blocks() - 1))
    }

    /// Returns the sources for the header.
    pub(super) fn header_entries(&self) -> Vec<SourceSequence<'_>> {
        self.0.iter().map(SeenSource::header_entry).collect()
    }

    /// Returns an upper bound for the bytes of the sources in the Avro header.
    pub(super) fn max_header_bytes(&self) -> usize {
        // An Avro long takes at most ten bytes, and so does the length of a string.
        self.0.iter().map(|source| source.id.len() + BLOCK * ENTRY + 60).sum()
    }

    /// Returns the estimated memory of all sources, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.iter().map(SeenSource::memory_bytes).sum()
    }

    /// Returns a block of a source for the changelog.
    pub(super) fn block(&self, id: &str, block: i32) -> Option<Numbers<'_>> {
        let source = self.0.iter().find(|source| source.id == id)?;
        let from = usize::try_from(block).ok()?.checked_mul(BLOCK)?;
        let numbers = source.numbers.get(from..from + BLOCK)?;
        Some(Numbers { source: &source.id, block, numbers: numbers.as_flattened() })
    }

    /// Returns every block that the changelog holds.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockRef> + '_ {
        self.0.iter().flat_map(|source| (0..source.blocks()).map(|block| (source.id.clone(), block)))
    }

    /// Releases unused memory, since no more events are expected.
    pub(super) fn shrink_to_fit(&mut self) {
        for source in &mut self.0 {
            source.numbers.shrink_to_fit();
        }
    }

    /// Restores the sources of a header. Their blocks may have been restored before.
    pub(super) fn restore_header(&mut self, saved: &[SourceSequence<'_>]) -> Result<(), InvalidEntry> {
        let mut before = std::mem::take(&mut self.0);
        for saved in saved {
            let mut source = match before.iter().position(|source| source.id == saved.id) {
                Some(index) => before.swap_remove(index),
                None => SeenSource::new(saved.id, saved.sequence),
            };
            source.restore(saved)?;
            self.0.push(source);
        }
        self.0.extend(before);
        Ok(())
    }

    /// Restores a block. Its header may be restored later.
    pub(super) fn restore_block(&mut self, saved: &Numbers<'_>) -> Result<(), InvalidEntry> {
        let (numbers, rest) = saved.numbers.as_chunks::<ENTRY>();
        let block = block_index(saved.block)?;
        if numbers.len() != BLOCK || !rest.is_empty() {
            return Err(InvalidEntry::BlockLength { bytes: saved.numbers.len() });
        }
        let index = self.0.iter().position(|source| source.id == saved.source).unwrap_or_else(|| {
            self.0.push(SeenSource::new(saved.source, i64::MIN));
            self.0.len() - 1
        });
        let Some(source) = self.0.get_mut(index) else { return Ok(()) };
        let (from, to) = (block * BLOCK, (block + 1) * BLOCK);
        if source.numbers.len() < to {
            source.numbers.resize(to, [0; ENTRY]);
        }
        if let Some(target) = source.numbers.get_mut(from..to) {
            target.copy_from_slice(numbers);
        }
        source.lookup = SequenceLookup::Unknown;
        Ok(())
    }

    /// Restores the tombstone of a block: the session was removed.
    pub(super) fn restore_block_tombstone(&mut self, id: &str, block: i32) -> Result<(), InvalidEntry> {
        let from = block_index(block)?;
        if let Some(source) = self.0.iter_mut().find(|source| source.id == id) {
            source.numbers.truncate(from * BLOCK);
            source.lookup = SequenceLookup::Unknown;
        }
        Ok(())
    }
}

impl SeenSource {
    fn new(id: &str, highest: i64) -> Self {
        Self {
            id: id.to_owned(),
            highest,
            unknown_through: None,
            numbers: Vec::new(),
            lookup: SequenceLookup::Ascending,
        }
    }

    fn memory_bytes(&self) -> usize {
        let lookup = match &self.lookup {
            // Nodes of a B-tree are at least half full.
            SequenceLookup::Set(all) => all.len() * ENTRY * 2,
            SequenceLookup::Ascending | SequenceLookup::Unknown => 0,
        };
        size_of::<Self>() + self.id.len() + self.numbers.capacity() * ENTRY + lookup
    }

    /// Returns the number of blocks.
    #[expect(
        clippy::expect_used,
        reason = "a session keeps at most MAX_NUMBERS numbers, including restored ones"
    )]
    fn blocks(&self) -> i32 {
        i32::try_from(self.numbers.len().saturating_sub(1) / BLOCK).expect("at most MAX_BLOCKS")
    }

    fn header_entry(&self) -> SourceSequence<'_> {
        // `chunks` of an empty slice has no chunk.
        let recent = self.numbers.chunks(BLOCK).next_back().unwrap_or_default();
        SourceSequence {
            id: &self.id,
            sequence: self.highest,
            recent: recent.as_flattened(),
            blocks: self.blocks(),
            unknown_through: self.unknown_through,
        }
    }

    fn restore(&mut self, saved: &SourceSequence<'_>) -> Result<(), InvalidEntry> {
        let (recent, rest) = saved.recent.as_chunks::<ENTRY>();
        let blocks = usize::try_from(saved.blocks).ok().filter(|blocks| *blocks < MAX_BLOCKS);
        let Some(blocks) = blocks.filter(|_| recent.len() <= BLOCK && rest.is_empty()) else {
            return Err(InvalidEntry::Source { blocks: saved.blocks, bytes: saved.recent.len() });
        };
        self.highest = saved.sequence;
        // A version that kept no numbers wrote neither `recent` nor `unknown_through`. This version writes a source without
        // numbers only if an older version knew the source and the limit has been reached since.
        self.unknown_through = saved.unknown_through.or_else(|| recent.is_empty().then_some(saved.sequence));
        self.numbers.resize(blocks * BLOCK, [0; ENTRY]);
        self.numbers.extend_from_slice(recent);
        self.lookup = SequenceLookup::Unknown;
        Ok(())
    }

    fn find(&mut self, sequence: i64, digest: Digest) -> Lookup {
        if matches!(self.lookup, SequenceLookup::Unknown) {
            let ascending = self.numbers.is_sorted_by(|before, after| number(before) < number(after));
            self.lookup = if ascending {
                SequenceLookup::Ascending
            } else {
                SequenceLookup::Set(self.numbers.iter().copied().collect())
            };
        }
        match &self.lookup {
            SequenceLookup::Set(all) => {
                if all.contains(&entry(sequence, digest)) {
                    return Lookup::SameEvent;
                }
                match all.range(entry(sequence, [0; 16])..=entry(sequence, [u8::MAX; 16])).next() {
                    Some(_) => Lookup::OtherEvent,
                    None => Lookup::Absent,
                }
            }
            SequenceLookup::Ascending | SequenceLookup::Unknown => {
                let at = self.numbers.binary_search_by_key(&sequence, number);
                match at.ok().and_then(|at| self.numbers.get(at)) {
                    Some(found) if *found == entry(sequence, digest) => Lookup::SameEvent,
                    Some(_) => Lookup::OtherEvent,
                    None => Lookup::Absent,
                }
            }
        }
    }

    fn push(&mut self, new: Entry) {
        match &mut self.lookup {
            SequenceLookup::Set(all) => drop(all.insert(new)),
            SequenceLookup::Ascending
                if self.numbers.last().is_some_and(|last| number(last) >= number(&new)) =>
            {
                let all = self.numbers.iter().copied().chain([new]);
                self.lookup = SequenceLookup::Set(all.collect());
            }
            SequenceLookup::Ascending | SequenceLookup::Unknown => {}
        }
        self.numbers.push(new);
    }
}

fn entry(sequence: i64, digest: Digest) -> Entry {
    let mut entry = [0; ENTRY];
    let (number, content) = entry.split_at_mut(8);
    number.copy_from_slice(&sequence.to_be_bytes());
    content.copy_from_slice(&digest);
    entry
}

fn number(entry: &Entry) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *entry;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}
