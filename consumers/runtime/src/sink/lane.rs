//! What is gathered for one table: its partitions of this process, and the open blocks of their records.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use agentgov_service::backoff::Backoff;
use agentgov_service::{StageError, Stop, failpoint};

use super::finding::Finding;
use super::marker::Claims;
use super::native::Block;
use super::plan::{Month, Place, Plan};
use super::position::Resume;
use super::second::{Answer, Ranges, Reading, Second};
use super::{NotReady, Pushed, Record, Route, Store, TopicPartition, Writer, protocol};

/// What is gathered goes out at this size, however little time has passed.
pub(super) const MOST_ROWS: usize = 50_000;
pub(super) const MOST_BYTES: usize = 32 << 20;
/// Inserts of a table keep this distance, so that its parts stay few: each is two dozen files, to be made, synced, merged and
/// deleted, whatever it holds (ADR 0030 has what that costs). So long a row waits for others while more are coming, too.
const PACE: Duration = Duration::from_secs(1);
/// How often the size in bytes is looked at.
const ROWS_BETWEEN_LOOKS: usize = 64;

/// One partition of this process.
#[derive(Debug)]
pub(super) struct Share {
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

impl Share {
    pub(super) const fn new(at: TopicPartition) -> Self {
        Self { at, claim: 0, next: 0, durable: 0, readable: 0, empty_to: 0 }
    }

    /// The claim holds.
    pub(super) fn claimed(&mut self, claim: u64, Resume { next, fetch, empty_to }: Resume) {
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
struct Open {
    block: Block,
    /// Per partition in it, the offset after its last record in it.
    ends: BTreeMap<i32, i64>,
}

/// What becomes of a record that is handed to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is gathered.
    Yes,
    /// It is gathered, and it is time to insert.
    Full,
    /// Insert first, then hand it over again.
    InsertFirst,
    /// It belongs to what is no longer, or not yet, this process's.
    NotOurs,
    /// Asked to stop.
    Stopped,
}

/// What Kafka's consumer does for a lane's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetching {
    /// It does not have them.
    No,
    /// It has them. What it hands over is not used: the lane is in doubt, or was.
    Rests,
    /// It fetches from where the lane stands.
    Yes,
}

/// A table, and its share of the work.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) route: Route,
    pub(super) shares: BTreeMap<i32, Share>,
    pub(super) fetching: Fetching,
    /// When to claim (again); `None`: the claims hold, as far as is known.
    pub(super) claim_at: Option<Instant>,
    /// Inserts in a row that did not succeed.
    pub(super) strikes: u32,
    /// Of an insert that was not answered with a plain yes: per partition in it, the offset after its last record.
    pub(super) doubtful: BTreeMap<i32, i64>,
    backoff: Backoff,
    plan: Plan,
    open: Vec<Open>,
    rows: usize,
    full: bool,
    oldest: Option<Instant>,
    inserted: Option<Instant>,
    /// Of what is gathered: the offsets that the consumer passed over. No row behind one goes out before [`Self::agreed`] has it.
    passed_over: Ranges,
    /// Of these, those before the rows of the insert in doubt.
    doubtful_over: Ranges,
    /// Those before rows that are durable by now; neither counted nor logged yet.
    durable_over: Ranges,
    /// Those in which a second reader found no record either.
    agreed: BTreeMap<i32, HashSet<Range<i64>>>,
    /// The second reader that is at work.
    reading: Option<Reading>,
    /// Why what was passed over is not known to be empty, since a second reader did not agree.
    pub(super) contested: Option<String>,
    pub(super) finding: Finding,
}

impl Lane {
    pub(super) fn new(route: Route) -> Self {
        Self {
            route,
            shares: BTreeMap::new(),
            fetching: Fetching::No,
            claim_at: None,
            strikes: 0,
            doubtful: BTreeMap::new(),
            backoff: Backoff::default(),
            plan: Plan::default(),
            open: Vec::new(),
            rows: 0,
            full: false,
            oldest: None,
            inserted: None,
            passed_over: Ranges::new(),
            doubtful_over: Ranges::new(),
            durable_over: Ranges::new(),
            agreed: BTreeMap::new(),
            reading: None,
            contested: None,
            finding: Finding::default(),
        }
    }

    /// New partitions, those of its topic among `all`: what was gathered for the old ones is dropped, their next owner
    /// reads it again.
    pub(super) fn assign(&mut self, all: &[TopicPartition]) {
        self.drop_rows();
        self.doubtful.clear();
        self.doubtful_over.clear();
        self.agreed.clear();
        self.reading = None;
        self.contested = None;
        let ours = all.iter().filter(|at| *at.topic == *self.route.topic).cloned();
        self.shares = ours.map(|at| (at.partition, Share::new(at))).collect();
        self.fetching = Fetching::No;
        self.claim_at = (!self.shares.is_empty()).then(Instant::now);
    }

    /// Whether the last insert, or a claim, took effect is not known: drops what is gathered, and claims again later.
    pub(super) fn doubt(&mut self) {
        self.drop_rows();
        if self.fetching == Fetching::Yes {
            self.fetching = Fetching::Rests;
        }
        self.claim_at = Some(Instant::now() + self.backoff.pause());
    }

    /// The claims hold.
    pub(super) fn claimed(&mut self) {
        self.claim_at = None;
        if self.strikes == 0 {
            self.backoff.reset();
        }
    }

    /// Positions of the quiet partitions of a lane that is not in doubt, by which a reader may prove that no record follows.
    pub(super) fn quiet(&self) -> BTreeMap<i32, i64> {
        let shares = self.shares.iter().filter(|_| self.claim_at.is_none());
        shares.filter_map(|(partition, share)| Some((*partition, share.unproven_from()?))).collect()
    }

    /// A proof that no record stands in `offsets`, as a row: the partition's name, its claim, and the offsets from the next row's on.
    /// `None` if the partition has moved since.
    pub(super) fn proof(&self, partition: i32, offsets: &Range<i64>) -> Option<(String, u64, Range<i64>)> {
        let share = self.shares.get(&partition).filter(|_| self.claim_at.is_none())?;
        let is_here = share.unproven_from() == Some(offsets.start);
        is_here.then(|| (share.at.name().to_owned(), share.claim, share.next..offsets.end))
    }

    /// The proof is on record.
    pub(super) fn proven(&mut self, partition: i32, empty_to: i64) {
        if let Some(share) = self.shares.get_mut(&partition) {
            share.empty_to = empty_to;
        }
    }

    /// What is gathered and was passed over, as far as it is there and no second reader has agreed.
    pub(super) fn unproven(&self) -> Ranges {
        let unproven = self.passed_over.iter().map(|(partition, ranges)| {
            let agreed = self.agreed.get(partition);
            let readable = self.shares.get(partition).map_or(0, |share| share.readable);
            let there = ranges.iter().map(|range| range.start.max(readable)..range.end);
            let proven = |range: &Range<i64>| agreed.is_some_and(|agreed| agreed.contains(range));
            (*partition, there.filter(|range| !range.is_empty() && !proven(range)).collect::<Vec<_>>())
        });
        unproven.filter(|(_, ranges)| !ranges.is_empty()).collect()
    }

    /// Whether what is gathered may go out: a second reader finds no record where the first passed over offsets. If that is not known
    /// soon, what is gathered is dropped, to be read again once it is.
    pub(super) fn proves(&mut self, second: &Second, stop: &Stop) -> bool {
        let unproven = self.unproven();
        if unproven.is_empty() {
            return true;
        }
        match second.read(&self.route.topic, unproven) {
            Ok(reading) => {
                let answer = reading.wait(stop);
                self.reading = Some(reading);
                match answer {
                    Some(answer) => self.answered(answer),
                    None => {
                        self.contested = Some(format!(
                            "{}: offsets without a record were passed over; a second reader still reads them",
                            self.route.topic
                        ));
                        self.doubt();
                    }
                }
            }
            Err(error) => self.answered(Answer::Silence(error.to_string())),
        }
        self.claim_at.is_none()
    }

    /// True while a second reader is at work, without which the lane cannot go on.
    pub(super) fn reads_again(&mut self) -> bool {
        if let Some(answer) = self.reading.as_ref().and_then(Reading::answer) {
            self.answered(answer);
        }
        self.reading.is_some()
    }

    fn answered(&mut self, answer: Answer) {
        let ranges = self.reading.take().map(|reading| reading.ranges.clone()).unwrap_or_default();
        let why = match answer {
            Answer::Agrees => {
                for (partition, ranges) in ranges {
                    self.agreed.entry(partition).or_default().extend(ranges);
                }
                self.contested = None;
                return;
            }
            Answer::Record(at, offset) => format!(
                "{at}: the group's consumer passed over the record at offset {offset}, which a second reader finds; it is read again"
            ),
            Answer::Otherwise(why) => format!("{why}; it is read again"),
            Answer::Silence(why) => format!(
                "{why}; a second reader has yet to find out whether offsets without a record were passed over"
            ),
        };
        self.contested = Some(why);
        // Each time in a row the next one is further away.
        self.strikes += 1;
        self.doubt();
    }

    /// Takes a record in.
    pub(super) fn take<W: Writer>(
        &mut self,
        writer: &mut W,
        record: &Record<'_>,
    ) -> Result<Taken, StageError> {
        let ready = self.claim_at.is_none();
        let Some(share) =
            self.shares.get_mut(&record.at.partition).filter(|share| ready && record.offset >= share.next)
        else {
            return Ok(Taken::NotOurs);
        };
        // `u64` of a positive number.
        let skipped = if self.route.gapless { record.offset.abs_diff(share.next) } else { 0 };
        let Place::Block(at) = self.plan.place(record.at.partition, Month::of(record.logged_at)) else {
            return Ok(Taken::InsertFirst);
        };
        if at == self.open.len() {
            self.open.push(Open { block: writer.block(&self.route.topic)?, ends: BTreeMap::new() });
        }
        let Some(open) = self.open.get_mut(at) else {
            return Err(StageError::Internal(format!("{}: no block of number {at}", share.at)));
        };
        if writer.push(&mut open.block, &Record { skipped, ..*record }, share.claim)? == Pushed::Stopped {
            return Ok(Taken::Stopped);
        }
        if skipped > 0 {
            self.passed_over.entry(record.at.partition).or_default().push(share.next..record.offset);
        }
        share.next = record.offset + 1;
        open.ends.insert(record.at.partition, share.next);
        self.rows += 1;
        self.oldest.get_or_insert_with(Instant::now);
        let large = self.rows.is_multiple_of(ROWS_BETWEEN_LOOKS)
            && self.open.iter().map(|open| open.block.bytes()).sum::<usize>() >= MOST_BYTES;
        self.full = large || self.rows >= MOST_ROWS;
        Ok(if self.full { Taken::Full } else { Taken::Yes })
    }

    /// How long what is gathered should still wait, if anything is. `idle`: no more records are there at the moment.
    pub(super) fn patience(&self, idle: bool) -> Option<Duration> {
        let oldest = self.oldest?;
        let since = if idle { self.inserted } else { Some(oldest) };
        let waiting = since.filter(|_| !self.full);
        Some(waiting.map_or(Duration::ZERO, |since| PACE.saturating_sub(since.elapsed())))
    }

    /// Inserts what is gathered, block by block. Returns how many rows; on an error, the lane is to be doubted.
    pub(super) fn insert<W: Writer>(&mut self, writer: &mut W, store: &Store) -> Result<usize, NotReady> {
        self.strikes += 1;
        writer.before_insert(store)?;
        for open in self.open.iter_mut().filter(|open| open.block.rows() > 0) {
            let shares = open.ends.keys().filter_map(|partition| self.shares.get(partition));
            let claims: Claims = shares.map(|share| (share.at.name().to_owned(), share.claim)).collect();
            failpoint::edge("sink::inserting");
            protocol::insert(store, &self.route.table, &claims, &open.block)?;
            failpoint::edge("sink::inserted");
            for (partition, end) in &open.ends {
                if let Some(share) = self.shares.get_mut(partition) {
                    share.durable = *end;
                }
            }
            take_before(&mut self.passed_over, &open.ends, &mut self.durable_over);
        }
        let rows = self.rows;
        self.drop_rows();
        // What is not gathered yet was perhaps read, too.
        for (partition, agreed) in &mut self.agreed {
            let durable = self.shares.get(partition).map_or(i64::MAX, |share| share.durable);
            agreed.retain(|range| range.end >= durable);
        }
        self.contested = None;
        self.inserted = Some(Instant::now());
        self.strikes = 0;
        self.backoff.reset();
        Ok(rows)
    }

    /// What was passed over before rows that are durable, each range once.
    pub(super) fn take_passed_over(&mut self) -> Ranges {
        std::mem::take(&mut self.durable_over)
    }

    /// Notes as doubtful what went out last and is not known to be durable.
    pub(super) fn unanswered(&mut self) {
        let durable = |open: &&Open| {
            open.ends
                .iter()
                .all(|(partition, end)| self.shares.get(partition).is_some_and(|s| s.durable >= *end))
        };
        let doubtful = self.open.iter().find(|open| !durable(open)).map(|open| open.ends.clone());
        // All of it is durable: nothing is doubtful.
        self.doubtful = doubtful.unwrap_or_default();
        self.doubtful_over.clear();
        take_before(&mut self.passed_over, &self.doubtful, &mut self.doubtful_over);
    }

    /// What the look found of the insert that was in doubt, if one was: all of its rows, or none.
    pub(super) fn doubt_resolved(&mut self) -> Option<bool> {
        let doubtful = std::mem::take(&mut self.doubtful);
        let there =
            |(partition, end): (&i32, &i64)| self.shares.get(partition).is_some_and(|s| s.durable >= *end);
        let resolved = (!doubtful.is_empty()).then(|| doubtful.iter().any(there));
        let over = std::mem::take(&mut self.doubtful_over);
        if resolved == Some(true) {
            for (partition, ranges) in over {
                self.durable_over.entry(partition).or_default().extend(ranges);
            }
        }
        resolved
    }

    fn drop_rows(&mut self) {
        self.plan.clear();
        self.passed_over.clear();
        self.rows = 0;
        self.full = false;
        self.oldest = None;
        for open in &mut self.open {
            open.block.clear();
            open.ends.clear();
        }
    }
}

/// Moves the ranges whose next record stands before the end of its partition's rows.
fn take_before(from: &mut Ranges, ends: &BTreeMap<i32, i64>, to: &mut Ranges) {
    for (partition, end) in ends {
        let Some(ranges) = from.get_mut(partition) else { continue };
        let before = ranges.extract_if(.., |range| range.end < *end);
        to.entry(*partition).or_default().extend(before);
    }
}
