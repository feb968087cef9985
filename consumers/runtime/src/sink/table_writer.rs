//! What is gathered for one table: its partitions of this process, and the open blocks of their records.

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

/// What is gathered goes out at this size, however little time has passed.
pub(super) const MAX_ROWS: usize = 50_000;
pub(super) const MAX_BYTES: usize = 32 << 20;
/// Inserts of a table keep this distance, so that its parts stay few: each is two dozen files, to be made, synced, merged and
/// deleted, whatever it holds (ADR 0030 has what that costs). So long a row waits for others while more are coming, too.
const MIN_INSERT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the size in bytes is looked at.
const ROWS_BETWEEN_SIZE_CHECKS: usize = 64;

/// One partition of this process.
#[derive(Debug)]
pub(super) struct OwnedPartition {
    pub(super) at: TopicPartition,
    /// The claim under which its rows are inserted.
    pub(super) claim: u64,
    /// The offset behind the last record that is gathered: the next row counts from here.
    pub(super) next: i64,
    /// The table has all records before this offset.
    pub(super) durable: i64,
    /// Retention has deleted what stood before this offset.
    readable: i64,
    /// No record stands from `next` up to this offset, as the store has on record.
    empty_to: i64,
}

impl OwnedPartition {
    pub(super) const fn new(at: TopicPartition) -> Self {
        Self { at, claim: 0, next: 0, durable: 0, readable: 0, empty_to: 0 }
    }

    /// The claim holds.
    pub(super) fn set_claim(&mut self, claim: u64, ResumePoint { next, fetch, empty_to }: ResumePoint) {
        (self.claim, self.next, self.durable) = (claim, next, next);
        (self.readable, self.empty_to) = (fetch, empty_to);
    }

    /// Where fetching goes on.
    pub(super) fn fetch_position(&self) -> i64 {
        self.next.max(self.readable)
    }

    /// Where the part begins of which it is not on record whether a record stands there. `None`: nothing is known, or rows are gathered.
    fn unproven_from(&self) -> Option<i64> {
        (self.claim != 0 && self.next == self.durable).then(|| self.fetch_position().max(self.empty_to))
    }

    /// True if a record at this offset contradicts what is on record.
    pub(super) fn is_proven_empty(&self, offset: i64) -> bool {
        (self.next..self.empty_to).contains(&offset)
    }
}

#[derive(Debug)]
struct OpenBlock {
    block: Block,
    /// Per partition in it, the offset after its last record in it.
    ends: BTreeMap<i32, i64>,
}

/// What becomes of a record that is handed to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// It is gathered.
    Buffered,
    /// It is gathered, and it is time to insert.
    Full,
    /// Insert first, then hand it over again.
    InsertFirst,
    /// It belongs to what is no longer, or not yet, this process's.
    NotOwned,
    /// Asked to stop.
    Stopped,
}

/// What Kafka's consumer does for a lane's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchState {
    /// It does not have them.
    Unassigned,
    /// It has them. What it hands over is not used: the lane is in doubt, or was.
    Paused,
    /// It fetches from where the lane stands.
    Active,
}

/// A table, and its share of the work.
#[derive(Debug)]
pub(super) struct TableWriter {
    pub(super) route: Route,
    pub(super) partitions: BTreeMap<i32, OwnedPartition>,
    pub(super) fetch_state: FetchState,
    /// When to claim (again); `None`: the claims hold, as far as is known.
    pub(super) claim_at: Option<Instant>,
    /// Inserts in a row that did not succeed.
    pub(super) consecutive_failures: u32,
    /// Of an insert that was not answered with a plain yes: per partition in it, the offset after its last record.
    pub(super) unconfirmed_ends: BTreeMap<i32, i64>,
    backoff: Backoff,
    plan: BlockPlan,
    open_blocks: Vec<OpenBlock>,
    rows: usize,
    full: bool,
    oldest: Option<Instant>,
    inserted: Option<Instant>,
    /// Of what is gathered: the offsets that the consumer passed over. No row behind one goes out before [`Self::confirmed`] has it.
    skips: Ranges,
    /// Of these, those before the rows of the insert in doubt.
    unconfirmed_skips: Ranges,
    /// Those before rows that are durable by now; neither counted nor logged yet.
    durable_skips: Ranges,
    /// Those in which a second reader found no record either.
    confirmed: BTreeMap<i32, HashSet<Range<i64>>>,
    /// The second reader that is at work.
    second_read: Option<SecondRead>,
    /// Why what was passed over is not known to be empty, since a second reader did not agree.
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

    /// New partitions, those of its topic among `all`: what was gathered for the old ones is dropped, their next owner
    /// reads it again.
    pub(super) fn assign(&mut self, all: &[TopicPartition]) {
        self.drop_rows();
        self.unconfirmed_ends.clear();
        self.unconfirmed_skips.clear();
        self.confirmed.clear();
        self.second_read = None;
        self.skip_problem = None;
        let ours = all.iter().filter(|at| *at.topic == *self.route.topic).cloned();
        self.partitions = ours.map(|at| (at.partition, OwnedPartition::new(at))).collect();
        self.fetch_state = FetchState::Unassigned;
        self.claim_at = (!self.partitions.is_empty()).then(Instant::now);
    }

    /// Whether the last insert, or a claim, took effect is not known: drops what is gathered, and claims again later.
    pub(super) fn invalidate(&mut self) {
        self.drop_rows();
        if self.fetch_state == FetchState::Active {
            self.fetch_state = FetchState::Paused;
        }
        self.claim_at = Some(Instant::now() + self.backoff.pause());
    }

    /// The claims hold.
    pub(super) fn mark_claimed(&mut self) {
        self.claim_at = None;
        if self.consecutive_failures == 0 {
            self.backoff.reset();
        }
    }

    /// Positions of the quiet partitions of a lane that is not in doubt, by which a reader may prove that no record follows.
    pub(super) fn quiet_positions(&self) -> BTreeMap<i32, i64> {
        let partitions = self.partitions.iter().filter(|_| self.claim_at.is_none());
        partitions.filter_map(|(partition, owned)| Some((*partition, owned.unproven_from()?))).collect()
    }

    /// A proof that no record stands in `offsets`, as a row: the partition's name, its claim, and the offsets from the next row's on.
    /// `None` if the partition has moved since.
    pub(super) fn empty_tail_row(
        &self,
        partition: i32,
        offsets: &Range<i64>,
    ) -> Option<(String, u64, Range<i64>)> {
        let owned = self.partitions.get(&partition).filter(|_| self.claim_at.is_none())?;
        let is_here = owned.unproven_from() == Some(offsets.start);
        is_here.then(|| (owned.at.name().to_owned(), owned.claim, owned.next..offsets.end))
    }

    /// The proof is on record.
    pub(super) fn mark_empty(&mut self, partition: i32, empty_to: i64) {
        if let Some(owned) = self.partitions.get_mut(&partition) {
            owned.empty_to = empty_to;
        }
    }

    /// What is gathered and was passed over, as far as it is there and no second reader has agreed.
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

    /// Whether what is gathered may go out: a second reader finds no record where the first passed over offsets. If that is not known
    /// soon, what is gathered is dropped, to be read again once it is.
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
                            "{}: offsets without a record were passed over; a second reader still reads them",
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

    /// True while a second reader is at work, without which the lane cannot go on.
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
                "{at}: the group's consumer passed over the record at offset {offset}, which a second reader finds; it is read again"
            ),
            SecondReadOutcome::Mismatch(why) => format!("{why}; it is read again"),
            SecondReadOutcome::NoAnswer(why) => format!(
                "{why}; a second reader has yet to find out whether offsets without a record were passed over"
            ),
        };
        self.skip_problem = Some(why);
        // Each time in a row the next one is further away.
        self.consecutive_failures += 1;
        self.invalidate();
    }

    /// Takes a record in.
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
        // `u64` of a positive number.
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
            return Err(StageError::Internal(format!("{}: no block of number {at}", owned.at)));
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

    /// How long what is gathered should still wait, if anything is. `idle`: no more records are there at the moment.
    pub(super) fn time_until_insert(&self, idle: bool) -> Option<Duration> {
        let oldest = self.oldest?;
        let since = if idle { self.inserted } else { Some(oldest) };
        let waiting = since.filter(|_| !self.full);
        Some(waiting.map_or(Duration::ZERO, |since| MIN_INSERT_INTERVAL.saturating_sub(since.elapsed())))
    }

    /// Inserts what is gathered, block by block. Returns how many rows; on an error, the lane is to be doubted.
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
        // What is not gathered yet was perhaps read, too.
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

    /// What was passed over before rows that are durable, each range once.
    pub(super) fn take_durable_skips(&mut self) -> Ranges {
        std::mem::take(&mut self.durable_skips)
    }

    /// Notes as doubtful what went out last and is not known to be durable.
    pub(super) fn note_unconfirmed(&mut self) {
        let durable = |open: &&OpenBlock| {
            open.ends
                .iter()
                .all(|(partition, end)| self.partitions.get(partition).is_some_and(|s| s.durable >= *end))
        };
        let unconfirmed_ends =
            self.open_blocks.iter().find(|open| !durable(open)).map(|open| open.ends.clone());
        // All of it is durable: nothing is doubtful.
        self.unconfirmed_ends = unconfirmed_ends.unwrap_or_default();
        self.unconfirmed_skips.clear();
        move_ranges_before(&mut self.skips, &self.unconfirmed_ends, &mut self.unconfirmed_skips);
    }

    /// What the look found of the insert that was in doubt, if one was: all of its rows, or none.
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

/// Moves the ranges whose next record stands before the end of its partition's rows.
fn move_ranges_before(from: &mut Ranges, ends: &BTreeMap<i32, i64>, to: &mut Ranges) {
    for (partition, end) in ends {
        let Some(ranges) = from.get_mut(partition) else { continue };
        let before = ranges.extract_if(.., |range| range.end < *end);
        to.entry(*partition).or_default().extend(before);
    }
}
