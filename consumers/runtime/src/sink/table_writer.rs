//! Writer of one table: the partitions of this process, and the open blocks with their rows.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use agentgov_service::backoff::Backoff;
use agentgov_service::{ShutdownSignal, StageError, failpoint};

use super::marker::Claims;
use super::native::Block;
use super::plan::{BlockPlan, BlockSlot, Month};
use super::position::ResumePoint;
use super::second_reader::{Ranges, SecondRead, SecondReadOutcome, SecondReader};
use super::skip_log::SkipLog;
use super::{EncodeOutcome, Record, Route, RowEncoder, Store, TopicPartition, WriteError, protocol};

/// Size from which the buffered rows are inserted at once.
pub(super) const MAX_ROWS: usize = 50_000;
pub(super) const MAX_BYTES: usize = 32 << 20;
/// Minimum interval between inserts of a table, which limits the number of its parts. Each part is two dozen files that
/// are created, synced, merged and deleted, whatever it holds (ADR 0030 has the cost). A row also waits at most this
/// long for others while more records arrive.
const MIN_INSERT_INTERVAL: Duration = Duration::from_secs(1);
/// Rows between two checks of the size in bytes.
const ROWS_BETWEEN_SIZE_CHECKS: usize = 64;

/// Partition of this process.
#[derive(Debug)]
pub(super) struct OwnedPartition {
    pub(super) at: TopicPartition,
    /// Claim under which its rows are inserted; 0: none.
    pub(super) claim: u64,
    /// Offset after the last buffered record. The next row counts skipped offsets from here.
    pub(super) next: i64,
    /// Offset before which the table has all records.
    pub(super) durable: i64,
    /// Offset before which retention has deleted the records.
    readable: i64,
    /// End of the offsets from `next` on that hold no record, as the store has recorded.
    empty_to: i64,
}

impl OwnedPartition {
    pub(super) const fn new(at: TopicPartition) -> Self {
        Self { at, claim: 0, next: 0, durable: 0, readable: 0, empty_to: 0 }
    }

    /// Sets the claim and the resume position.
    pub(super) fn set_claim(&mut self, claim: u64, ResumePoint { next, fetch, empty_to }: ResumePoint) {
        (self.claim, self.next, self.durable) = (claim, next, next);
        (self.readable, self.empty_to) = (fetch, empty_to);
    }

    /// Returns the offset at which fetching resumes.
    pub(super) fn fetch_position(&self) -> i64 {
        self.next.max(self.readable)
    }

    /// Returns the offset from which no proof of empty offsets is recorded. `None` without a claim, or with buffered
    /// rows.
    fn unproven_from(&self) -> Option<i64> {
        (self.claim != 0 && self.next == self.durable).then(|| self.fetch_position().max(self.empty_to))
    }

    /// Returns true if a record at this offset contradicts a recorded proof.
    pub(super) fn is_proven_empty(&self, offset: i64) -> bool {
        (self.next..self.empty_to).contains(&offset)
    }
}

#[derive(Debug)]
struct OpenBlock {
    block: Block,
    /// Offset after the last record in the block, by partition.
    ends: BTreeMap<i32, i64>,
}

/// Outcome of pushing a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// The record is buffered.
    Buffered,
    /// The record is buffered, and the rows are to be inserted now.
    Full,
    /// The record fits into no open block: insert, then push it again.
    InsertFirst,
    /// The partition is not, or no longer, owned and claimed by this process.
    NotOwned,
    /// Shutdown was requested.
    Stopped,
}

/// State of the consumer for a writer's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchState {
    /// The partitions are not assigned to it.
    Unassigned,
    /// The partitions are assigned, but their records are ignored until the invalidated writer has established them
    /// again.
    Paused,
    /// It fetches from the writer's positions.
    Active,
}

/// Buffers the rows of one table and inserts them.
#[derive(Debug)]
pub(super) struct TableWriter {
    pub(super) route: Route,
    pub(super) partitions: BTreeMap<i32, OwnedPartition>,
    pub(super) fetch_state: FetchState,
    /// Time of the next claim; `None` while the claims hold, as far as is known.
    pub(super) claim_at: Option<Instant>,
    /// Number of failed inserts in a row.
    pub(super) consecutive_failures: u32,
    /// For an unconfirmed insert: the offset after its last record, by partition.
    pub(super) unconfirmed_ends: BTreeMap<i32, i64>,
    backoff: Backoff,
    plan: BlockPlan,
    open_blocks: Vec<OpenBlock>,
    rows: usize,
    full: bool,
    oldest: Option<Instant>,
    inserted: Option<Instant>,
    /// Offsets that the consumer skipped before buffered rows. No row after one is inserted before [`Self::confirmed`]
    /// contains the range.
    skips: Ranges,
    /// Skipped offsets before the rows of the unconfirmed insert.
    unconfirmed_skips: Ranges,
    /// Skipped offsets before durable rows, neither counted nor logged yet.
    durable_skips: Ranges,
    /// Skipped ranges in which a second reader found no record either.
    confirmed: BTreeMap<i32, HashSet<Range<i64>>>,
    /// Read of a second reader in progress.
    second_read: Option<SecondRead>,
    /// Reason why skipped offsets are not confirmed by a second reader.
    pub(super) skip_problem: Option<String>,
    pub(super) skip_log: SkipLog,
}

impl TableWriter {
    pub(super) fn new(route: Route) -> Self {
        Self {
            route,
            partitions: BTreeMap::new(),
            fetch_state: FetchState::Unassigned,
            claim_at: None,
            consecutive_failures: 0,
            unconfirmed_ends: BTreeMap::new(),
            backoff: Backoff::default(),
            plan: BlockPlan::default(),
            open_blocks: Vec::new(),
            rows: 0,
            full: false,
            oldest: None,
            inserted: None,
            skips: Ranges::new(),
            unconfirmed_skips: Ranges::new(),
            durable_skips: Ranges::new(),
            confirmed: BTreeMap::new(),
            second_read: None,
            skip_problem: None,
            skip_log: SkipLog::default(),
        }
    }

    /// Replaces the partitions with those of its topic among `all`. Drops the buffered rows; the next owner reads them
    /// again.
    pub(super) fn assign(&mut self, all: &[TopicPartition]) {
        self.drop_rows();
        self.unconfirmed_ends.clear();
        self.unconfirmed_skips.clear();
        self.confirmed.clear();
        self.second_read = None;
        self.skip_problem = None;
        let owned = all.iter().filter(|at| *at.topic == *self.route.topic).cloned();
        self.partitions = owned.map(|at| (at.partition, OwnedPartition::new(at))).collect();
        self.fetch_state = FetchState::Unassigned;
        self.claim_at = (!self.partitions.is_empty()).then(Instant::now);
    }

    /// Handles an insert or claim with an unknown outcome: drops the buffered rows and schedules a new claim.
    pub(super) fn invalidate(&mut self) {
        self.drop_rows();
        if self.fetch_state == FetchState::Active {
            self.fetch_state = FetchState::Paused;
        }
        self.claim_at = Some(Instant::now() + self.backoff.pause());
    }

    /// Marks the claims as valid.
    pub(super) fn mark_claimed(&mut self) {
        self.claim_at = None;
        if self.consecutive_failures == 0 {
            self.backoff.reset();
        }
    }

    /// Returns the positions of partitions with a valid claim and no buffered rows, from which a reader may prove that
    /// no record follows.
    pub(super) fn quiet_positions(&self) -> BTreeMap<i32, i64> {
        let partitions = self.partitions.iter().filter(|_| self.claim_at.is_none());
        partitions.filter_map(|(partition, owned)| Some((*partition, owned.unproven_from()?))).collect()
    }

    /// Returns the proof that `offsets` hold no record as a row: the partition's name, its claim, and the offsets from
    /// the next row's on. `None` if the partition has moved since.
    pub(super) fn empty_tail_row(
        &self,
        partition: i32,
        offsets: &Range<i64>,
    ) -> Option<(String, u64, Range<i64>)> {
        let owned = self.partitions.get(&partition).filter(|_| self.claim_at.is_none())?;
        let is_here = owned.unproven_from() == Some(offsets.start);
        is_here.then(|| (owned.at.name().to_owned(), owned.claim, owned.next..offsets.end))
    }

    /// Marks the proof as stored.
    pub(super) fn mark_empty(&mut self, partition: i32, empty_to: i64) {
        if let Some(owned) = self.partitions.get_mut(&partition) {
            owned.empty_to = empty_to;
        }
    }

    /// Returns the skipped ranges before buffered rows that can still be read and that no second reader has confirmed.
    pub(super) fn unconfirmed_skips_of_gathered(&self) -> Ranges {
        let unproven = self.skips.iter().map(|(partition, ranges)| {
            let confirmed = self.confirmed.get(partition);
            let readable = self.partitions.get(partition).map_or(0, |owned| owned.readable);
            let there = ranges.iter().map(|range| range.start.max(readable)..range.end);
            let proven = |range: &Range<i64>| confirmed.is_some_and(|confirmed| confirmed.contains(range));
            (*partition, there.filter(|range| !range.is_empty() && !proven(range)).collect::<Vec<_>>())
        });
        unproven.filter(|(_, ranges)| !ranges.is_empty()).collect()
    }

    /// Returns true if the buffered rows may be inserted: a second reader finds no record in the skipped offsets. If
    /// its result does not arrive soon, the rows are dropped and read again after it.
    pub(super) fn confirm_skips(&mut self, second: &SecondReader, stop: &ShutdownSignal) -> bool {
        let unproven = self.unconfirmed_skips_of_gathered();
        if unproven.is_empty() {
            return true;
        }
        match second.read(&self.route.topic, unproven) {
            Ok(reading) => {
                let answer = reading.wait(stop);
                self.second_read = Some(reading);
                match answer {
                    Some(answer) => self.apply_second_read(answer),
                    None => {
                        self.skip_problem = Some(format!(
                            "{}: the consumer skipped offsets; a second reader is still reading them",
                            self.route.topic
                        ));
                        self.invalidate();
                    }
                }
            }
            Err(error) => self.apply_second_read(SecondReadOutcome::NoAnswer(error.to_string())),
        }
        self.claim_at.is_none()
    }

    /// Returns true while a second read is in progress; the writer waits for it.
    pub(super) fn is_second_read_pending(&mut self) -> bool {
        if let Some(answer) = self.second_read.as_ref().and_then(SecondRead::answer) {
            self.apply_second_read(answer);
        }
        self.second_read.is_some()
    }

    fn apply_second_read(&mut self, answer: SecondReadOutcome) {
        let ranges = self.second_read.take().map(|reading| reading.ranges.clone()).unwrap_or_default();
        let why = match answer {
            SecondReadOutcome::Empty => {
                for (partition, ranges) in ranges {
                    self.confirmed.entry(partition).or_default().extend(ranges);
                }
                self.skip_problem = None;
                return;
            }
            SecondReadOutcome::FoundRecord(at, offset) => format!(
                "{at}: the group's consumer skipped the record at offset {offset}, which a second reader found; reading again"
            ),
            SecondReadOutcome::Mismatch(why) => format!("{why}; reading again"),
            SecondReadOutcome::NoAnswer(why) => format!(
                "{why}; a second reader must confirm the skipped offsets before the rows are inserted"
            ),
        };
        self.skip_problem = Some(why);
        // Repeated failures lengthen the backoff.
        self.consecutive_failures += 1;
        self.invalidate();
    }

    /// Buffers a record.
    pub(super) fn push<E: RowEncoder>(
        &mut self,
        encoder: &mut E,
        record: &Record<'_>,
    ) -> Result<PushOutcome, StageError> {
        let ready = self.claim_at.is_none();
        let Some(owned) = self
            .partitions
            .get_mut(&record.at.partition)
            .filter(|owned| ready && record.offset >= owned.next)
        else {
            return Ok(PushOutcome::NotOwned);
        };
        // The difference is not negative, as checked above.
        let skipped = if self.route.gapless { record.offset.abs_diff(owned.next) } else { 0 };
        let BlockSlot::Block(at) = self.plan.slot_for(record.at.partition, Month::of(record.logged_at))
        else {
            return Ok(PushOutcome::InsertFirst);
        };
        if at == self.open_blocks.len() {
            self.open_blocks
                .push(OpenBlock { block: encoder.block(&self.route.topic)?, ends: BTreeMap::new() });
        }
        let Some(open) = self.open_blocks.get_mut(at) else {
            return Err(StageError::Internal(format!(
                "{}: expected block number {at} to be open, found fewer",
                owned.at
            )));
        };
        if encoder.push(&mut open.block, &Record { skipped, ..*record }, owned.claim)?
            == EncodeOutcome::Stopped
        {
            return Ok(PushOutcome::Stopped);
        }
        if skipped > 0 {
            self.skips.entry(record.at.partition).or_default().push(owned.next..record.offset);
        }
        owned.next = record.offset + 1;
        open.ends.insert(record.at.partition, owned.next);
        self.rows += 1;
        self.oldest.get_or_insert_with(Instant::now);
        let large = self.rows.is_multiple_of(ROWS_BETWEEN_SIZE_CHECKS)
            && self.open_blocks.iter().map(|open| open.block.bytes()).sum::<usize>() >= MAX_BYTES;
        self.full = large || self.rows >= MAX_ROWS;
        Ok(if self.full { PushOutcome::Full } else { PushOutcome::Buffered })
    }

    /// Returns the time that the buffered rows should still wait, if there are any. `idle`: no more records are
    /// available at the moment.
    pub(super) fn time_until_insert(&self, idle: bool) -> Option<Duration> {
        let oldest = self.oldest?;
        let since = if idle { self.inserted } else { Some(oldest) };
        let waiting = since.filter(|_| !self.full);
        Some(waiting.map_or(Duration::ZERO, |since| MIN_INSERT_INTERVAL.saturating_sub(since.elapsed())))
    }

    /// Inserts the buffered rows block by block and returns their number. After an error the caller invalidates the
    /// writer.
    pub(super) fn insert<E: RowEncoder>(
        &mut self,
        encoder: &mut E,
        store: &Store,
    ) -> Result<usize, WriteError> {
        self.consecutive_failures += 1;
        encoder.before_insert(store)?;
        for open in self.open_blocks.iter_mut().filter(|open| open.block.rows() > 0) {
            let partitions = open.ends.keys().filter_map(|partition| self.partitions.get(partition));
            let claims: Claims = partitions.map(|owned| (owned.at.name().to_owned(), owned.claim)).collect();
            failpoint::edge("sink::inserting");
            protocol::insert(store, &self.route.table, &claims, &open.block)?;
            failpoint::edge("sink::inserted");
            for (partition, end) in &open.ends {
                if let Some(owned) = self.partitions.get_mut(partition) {
                    owned.durable = *end;
                }
            }
            move_ranges_before(&mut self.skips, &open.ends, &mut self.durable_skips);
        }
        let rows = self.rows;
        self.drop_rows();
        // Keeps later ranges: the second reader may have read ahead of the buffered rows.
        for (partition, confirmed) in &mut self.confirmed {
            let durable = self.partitions.get(partition).map_or(i64::MAX, |owned| owned.durable);
            confirmed.retain(|range| range.end >= durable);
        }
        self.skip_problem = None;
        self.inserted = Some(Instant::now());
        self.consecutive_failures = 0;
        self.backoff.reset();
        Ok(rows)
    }

    /// Returns the skipped ranges before durable rows, each range once.
    pub(super) fn take_durable_skips(&mut self) -> Ranges {
        std::mem::take(&mut self.durable_skips)
    }

    /// Marks the block that was sent last, and is not known to be durable, as unconfirmed.
    pub(super) fn note_unconfirmed(&mut self) {
        let durable = |open: &&OpenBlock| {
            open.ends
                .iter()
                .all(|(partition, end)| self.partitions.get(partition).is_some_and(|s| s.durable >= *end))
        };
        let unconfirmed_ends =
            self.open_blocks.iter().find(|open| !durable(open)).map(|open| open.ends.clone());
        // Every block is durable: nothing is unconfirmed.
        self.unconfirmed_ends = unconfirmed_ends.unwrap_or_default();
        self.unconfirmed_skips.clear();
        move_ranges_before(&mut self.skips, &self.unconfirmed_ends, &mut self.unconfirmed_skips);
    }

    /// Returns what the tail read found of an unconfirmed insert, if there was one: true for all of its rows, false for
    /// none.
    pub(super) fn take_insert_resolution(&mut self) -> Option<bool> {
        let unconfirmed_ends = std::mem::take(&mut self.unconfirmed_ends);
        let there = |(partition, end): (&i32, &i64)| {
            self.partitions.get(partition).is_some_and(|s| s.durable >= *end)
        };
        let resolved = (!unconfirmed_ends.is_empty()).then(|| unconfirmed_ends.iter().any(there));
        let over = std::mem::take(&mut self.unconfirmed_skips);
        if resolved == Some(true) {
            for (partition, ranges) in over {
                self.durable_skips.entry(partition).or_default().extend(ranges);
            }
        }
        resolved
    }

    fn drop_rows(&mut self) {
        self.plan.clear();
        self.skips.clear();
        self.rows = 0;
        self.full = false;
        self.oldest = None;
        for open in &mut self.open_blocks {
            open.block.clear();
            open.ends.clear();
        }
    }
}

/// Moves the ranges that are followed by a record before the end of their partition's rows.
fn move_ranges_before(from: &mut Ranges, ends: &BTreeMap<i32, i64>, to: &mut Ranges) {
    for (partition, end) in ends {
        let Some(ranges) = from.get_mut(partition) else { continue };
        let before = ranges.extract_if(.., |range| range.end < *end);
        to.entry(*partition).or_default().extend(before);
    }
}
