//! The numbers that a session saw of each of its sources, with what stood under each: so a repeat is recognised, and a number
//! hides nothing (ADR 0015).

use std::collections::BTreeSet;

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::state::{Numbers, SourceSequence};
use agentgov_schemas::verdict::RecordFinding;

use super::digest::{self, Digest};

/// Most numbers that a session keeps, of all its sources.
const MAX_NUMBERS: usize = 65_536;
/// Most sources of which a session keeps numbers.
const MAX_SOURCES: usize = 64;
/// Numbers of an entry of the changelog.
const BLOCK: usize = 16;
/// Most entries that hold the numbers of one session.
const MAX_BLOCKS: usize = MAX_NUMBERS / BLOCK;
/// Bytes of a number and its digest.
const ENTRY: usize = 24;

/// A number, big-endian, and the digest of what stood under it: as the changelog has it.
type Entry = [u8; ENTRY];

/// What a session makes of an event's number, before it takes the event in.
#[derive(Clone, Debug)]
pub struct SequenceCheck {
    /// The highest sequence of its source that was seen before, if the event is a repeat: then nothing of it counts.
    pub highest_if_repeat: Option<i64>,
    /// What is wrong with its number.
    pub findings: Vec<RecordFinding>,
    digest: Digest,
    /// Where the source is.
    place: Option<usize>,
    /// False if there is no room for the number.
    keep: bool,
}

/// An entry of the changelog that no version of this code writes: the changelog is damaged, or belongs to another stage.
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

/// Returns the index of a block of numbers, which a session may have.
fn block_index(block: i32) -> Result<usize, InvalidEntry> {
    let index = usize::try_from(block).ok().filter(|index| *index < MAX_BLOCKS);
    index.ok_or(InvalidEntry::BlockIndex { block })
}

/// Numbers of a source that the changelog must be told of: of which source, and which sixteen.
pub(super) type FullBlock = (String, i32);

/// What was seen of every source, in the order in which they were first seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Vec<Source>);

#[derive(Clone, Debug)]
struct Source {
    id: String,
    highest: i64,
    /// Of numbers up to this one a version of before kept nothing.
    unknown_through: Option<i64>,
    /// In the order in which they came. The last 1 to 16 stand in the header, those before in entries of 16.
    numbers: Vec<Entry>,
    order: Order,
}

/// How a number is found.
#[derive(Clone, Debug)]
enum Order {
    /// Each number is above the one before: almost always.
    Rising,
    /// They are not: all of them once more.
    Any(BTreeSet<Entry>),
    /// Restored, and not looked at yet.
    Unindexed,
}

/// What stands under a number.
enum Found {
    Nothing,
    Same,
    Other,
}

impl Seen {
    pub(super) fn check(&mut self, event: &ActionEvent<'_>) -> SequenceCheck {
        let (digest, sequence) = (digest::of(event), event.source.sequence);
        let mut findings = Vec::new();
        if sequence < 0 {
            findings.push(RecordFinding::NegativeSequence);
        }
        let place = self.0.iter().position(|source| source.id == event.source.id);
        let mut highest_if_repeat = None;
        if let Some(source) = place.and_then(|place| self.0.get_mut(place))
            && sequence <= source.highest
        {
            match source.find(sequence, digest) {
                Found::Same => highest_if_repeat = Some(source.highest),
                Found::Other => findings.push(RecordFinding::SequenceReused),
                Found::Nothing if source.unknown_through.is_some_and(|through| sequence <= through) => {
                    findings.push(RecordFinding::SequenceUnknown);
                }
                Found::Nothing if sequence < source.highest => findings.push(RecordFinding::OutOfOrder),
                Found::Nothing => {}
            }
        }
        let kept: usize = self.0.iter().map(|source| source.numbers.len()).sum();
        let keep = kept < MAX_NUMBERS && (place.is_some() || self.0.len() < MAX_SOURCES);
        if !keep && highest_if_repeat.is_none() {
            findings.push(RecordFinding::SequenceLimit);
        }
        SequenceCheck { highest_if_repeat, findings, digest, place, keep }
    }

    /// Takes in the number of an event, which `look` was for. Returns the entry that is full by now, if one is.
    pub(super) fn keep(&mut self, event: &ActionEvent<'_>, check: &SequenceCheck) -> Option<FullBlock> {
        let sequence = event.source.sequence;
        let source = match check.place.and_then(|place| self.0.get_mut(place)) {
            Some(source) => source,
            None if check.keep => {
                self.0.push(Source::new(event.source.id, sequence));
                self.0.last_mut()?
            }
            None => return None,
        };
        source.highest = source.highest.max(sequence);
        if !check.keep {
            return None;
        }
        source.push(entry(sequence, check.digest));
        let before = source.numbers.len() - 1;
        (before > 0 && before.is_multiple_of(BLOCK)).then(|| (source.id.clone(), source.blocks() - 1))
    }

    /// What the header says.
    pub(super) fn said(&self) -> Vec<SourceSequence<'_>> {
        self.0.iter().map(Source::said).collect()
    }

    /// The header takes no more bytes for it in Avro.
    pub(super) fn most_bytes(&self) -> usize {
        // A number takes ten bytes at most, in itself and as the length of a text.
        self.0.iter().map(|source| source.id.len() + BLOCK * ENTRY + 60).sum()
    }

    /// Sixteen numbers of a source, as the changelog must say them.
    pub(super) fn block(&self, id: &str, block: i32) -> Option<Numbers<'_>> {
        let source = self.0.iter().find(|source| source.id == id)?;
        let from = usize::try_from(block).ok()?.checked_mul(BLOCK)?;
        let numbers = source.numbers.get(from..from + BLOCK)?;
        Some(Numbers { source: &source.id, block, numbers: numbers.as_flattened() })
    }

    /// Every entry that the changelog has beside the header.
    pub(super) fn blocks(&self) -> impl Iterator<Item = FullBlock> + '_ {
        self.0.iter().flat_map(|source| (0..source.blocks()).map(|block| (source.id.clone(), block)))
    }

    /// Nothing more is expected to come.
    pub(super) fn shrink(&mut self) {
        for source in &mut self.0 {
            source.numbers.shrink_to_fit();
        }
    }

    /// Takes over what a header says. Its entries may have come before.
    /// Fails if it cannot be one of ours.
    pub(super) fn restore(&mut self, said: &[SourceSequence<'_>]) -> Result<(), InvalidEntry> {
        let mut before = std::mem::take(&mut self.0);
        for said in said {
            let mut source = match before.iter().position(|source| source.id == said.id) {
                Some(place) => before.swap_remove(place),
                None => Source::new(said.id, said.sequence),
            };
            source.restore(said)?;
            self.0.push(source);
        }
        self.0.extend(before);
        Ok(())
    }

    /// Takes over an entry. Its header may come later. False if it cannot be one of ours.
    pub(super) fn restore_block(&mut self, said: &Numbers<'_>) -> Result<(), InvalidEntry> {
        let (numbers, rest) = said.numbers.as_chunks::<ENTRY>();
        let block = block_index(said.block)?;
        if numbers.len() != BLOCK || !rest.is_empty() {
            return Err(InvalidEntry::BlockLength { bytes: said.numbers.len() });
        }
        let place = self.0.iter().position(|source| source.id == said.source).unwrap_or_else(|| {
            self.0.push(Source::new(said.source, i64::MIN));
            self.0.len() - 1
        });
        let Some(source) = self.0.get_mut(place) else { return Ok(()) };
        let (from, to) = (block * BLOCK, (block + 1) * BLOCK);
        if source.numbers.len() < to {
            source.numbers.resize(to, [0; ENTRY]);
        }
        if let Some(there) = source.numbers.get_mut(from..to) {
            there.copy_from_slice(numbers);
        }
        source.order = Order::Unindexed;
        Ok(())
    }

    /// Takes over the tombstone of an entry: the session was buried. Fails if it cannot be one of ours.
    pub(super) fn restore_block_tombstone(&mut self, id: &str, block: i32) -> Result<(), InvalidEntry> {
        let from = block_index(block)?;
        if let Some(source) = self.0.iter_mut().find(|source| source.id == id) {
            source.numbers.truncate(from * BLOCK);
            source.order = Order::Unindexed;
        }
        Ok(())
    }
}

impl Source {
    fn new(id: &str, highest: i64) -> Self {
        Self { id: id.to_owned(), highest, unknown_through: None, numbers: Vec::new(), order: Order::Rising }
    }

    /// How many entries hold what the header does not.
    #[expect(
        clippy::expect_used,
        reason = "a session keeps at most MAX_NUMBERS numbers, restored ones included"
    )]
    fn blocks(&self) -> i32 {
        i32::try_from(self.numbers.len().saturating_sub(1) / BLOCK).expect("at most MAX_BLOCKS")
    }

    fn said(&self) -> SourceSequence<'_> {
        // Of no numbers there are none.
        let recent = self.numbers.chunks(BLOCK).next_back().unwrap_or_default();
        SourceSequence {
            id: &self.id,
            sequence: self.highest,
            recent: recent.as_flattened(),
            blocks: self.blocks(),
            unknown_through: self.unknown_through,
        }
    }

    fn restore(&mut self, said: &SourceSequence<'_>) -> Result<(), InvalidEntry> {
        let (recent, rest) = said.recent.as_chunks::<ENTRY>();
        let blocks = usize::try_from(said.blocks).ok().filter(|blocks| *blocks < MAX_BLOCKS);
        let Some(blocks) = blocks.filter(|_| recent.len() <= BLOCK && rest.is_empty()) else {
            return Err(InvalidEntry::Source { blocks: said.blocks, bytes: said.recent.len() });
        };
        self.highest = said.sequence;
        // A version that kept no numbers said neither them nor this. Of ours, a source without numbers was known to such a
        // version: there was no room for the numbers that came since.
        self.unknown_through = said.unknown_through.or_else(|| recent.is_empty().then_some(said.sequence));
        self.numbers.resize(blocks * BLOCK, [0; ENTRY]);
        self.numbers.extend_from_slice(recent);
        self.order = Order::Unindexed;
        Ok(())
    }

    fn find(&mut self, sequence: i64, digest: Digest) -> Found {
        if matches!(self.order, Order::Unindexed) {
            let rising = self.numbers.is_sorted_by(|before, after| number(before) < number(after));
            self.order =
                if rising { Order::Rising } else { Order::Any(self.numbers.iter().copied().collect()) };
        }
        match &self.order {
            Order::Any(all) => {
                if all.contains(&entry(sequence, digest)) {
                    return Found::Same;
                }
                match all.range(entry(sequence, [0; 16])..=entry(sequence, [u8::MAX; 16])).next() {
                    Some(_) => Found::Other,
                    None => Found::Nothing,
                }
            }
            Order::Rising | Order::Unindexed => {
                let at = self.numbers.binary_search_by_key(&sequence, number);
                match at.ok().and_then(|at| self.numbers.get(at)) {
                    Some(found) if *found == entry(sequence, digest) => Found::Same,
                    Some(_) => Found::Other,
                    None => Found::Nothing,
                }
            }
        }
    }

    fn push(&mut self, new: Entry) {
        match &mut self.order {
            Order::Any(all) => drop(all.insert(new)),
            Order::Rising if self.numbers.last().is_some_and(|last| number(last) >= number(&new)) => {
                let all = self.numbers.iter().copied().chain([new]);
                self.order = Order::Any(all.collect());
            }
            Order::Rising | Order::Unindexed => {}
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
