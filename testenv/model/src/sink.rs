//! Claim, drain, look, insert: processes of the log-sink that write one topic-partition.
//!
//! A process goes through the steps in order, and starts over after every doubt:
//!
//! ```text
//! Assigned ─prove─► Member ─claim─► Claiming ─(server)─► Claimed ─drain─► Drained ─look─► Ready ─insert─► Inserting ─(server)─► Ready
//! ```
//!
//! What is drawn together, because nothing lies between that anyone could see:
//! - an answer is read when the server sends it; a lost or late one is a [`Action::Invalidate`] before the server acts
//! - a killed process that is started again is a doubt as well: it remembers nothing, and its requests stay under way
//! - a second reader, which looks whether offsets that were passed over hold no record, answers at once; a [`Action::Miss`] is a first
//!   reader that passed over a record, and what comes of it
//! - a proof that no record follows is read and recorded at once: it holds whenever that is. What was gathered when retention
//!   deletes it is dropped
//! - a stopped process (SIGSTOP) is one that takes no action for long; a zombie, one that has not learnt of a rebalance

use stateright::{Model, Property};

mod variants;

pub use variants::{Bounds, Flaw};

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// How far it goes.
    pub bounds: Bounds,
    /// What is wrong with it, if anything.
    pub flaw: Option<Flaw>,
}

/// Everything at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The table's rows, in order.
    table: Vec<Row>,
    /// The claim that the server holds; 0: none.
    claim: u8,
    /// The claim before it. Kept for [`Flaw::PersistentClaims`] only.
    replaced: u8,
    /// The next claim's number.
    next_claim: u8,
    /// What was sent and has not ended, in order.
    in_flight: Vec<Request>,
    /// The group's generation, the process that owns the partition in it, and the committed offset (which is kept for
    /// [`Flaw::NoTailRead`] only).
    generation: u8,
    owner: usize,
    committed: u8,
    restarts: u8,
    /// The first offset that retention has not deleted, and how often it has deleted.
    start: u8,
    deletions: u8,
    /// Offsets, up to the second one, in which a fresh reader found no record.
    proof: Option<(u8, u8)>,
    sinks: Vec<Process>,
}

/// A row: its offset, and how many offsets right before it it counts as passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Row {
    offset: u8,
    skipped: u8,
}

/// What an insert has: the rows of the records from an offset up to another, not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rows {
    from: u8,
    to: u8,
    /// So many offsets at the beginning are passed over, whether there are records or not: those that retention has deleted behind a
    /// proof, and of [`Flaw::NoSecondReader`].
    blind: u8,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    /// The generation that it believes in; 0: it has not joined yet.
    generation: u8,
    step: Step,
}

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    Assigned,
    Member,
    Claiming {
        claim: u8,
    },
    Claimed {
        claim: u8,
    },
    Drained {
        claim: u8,
    },
    /// The next row counts from `next`; what stands before `fetch` was proven, and is deleted.
    Ready {
        claim: u8,
        next: u8,
        fetch: u8,
    },
    Inserting {
        claim: u8,
        rows: Rows,
    },
    /// Retention was faster: exit code 81.
    Overtaken,
}

/// A request, on its way or in the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Sets the claim.
    Claim {
        /// The process that sent it.
        sink: usize,
        /// Its number.
        claim: u8,
    },
    /// Inserts one block.
    Insert {
        /// The process that sent it.
        sink: usize,
        /// The claim that its rows carry.
        claim: u8,
        /// Their offsets.
        rows: Rows,
        /// How far it is.
        at: Progress,
    },
}

/// How far an insert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Progress {
    /// Not at the server yet.
    Sent,
    /// Shows in the list of processes; the fence has not looked at it yet.
    Running,
    /// Has passed the fence; its rows are not there yet.
    Passed,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The group gives the partition to a process.
    Rebalance(usize),
    /// A process learns of the group's generation, and drops what it had.
    Learn(usize),
    /// A process gives up waiting, or is killed and started again; what it has sent stays under way.
    Invalidate(usize),
    /// A process proves to the group that it is a member of its generation.
    Prove(usize),
    /// A process sends a claim.
    Claim(usize),
    /// A process finds no insert in the server's list of processes.
    Drain(usize),
    /// A process looks where the table ends.
    ReadTail(usize),
    /// A process sends an insert up to this offset, not included.
    Insert(usize, u8),
    /// A process is given the record before this offset, and not the one before that, which is there.
    Miss(usize, u8),
    /// A fresh reader finds no record from a process's position up to this offset, not included, and that is recorded.
    ProveEmpty(usize, u8),
    /// Retention deletes what stands before this offset.
    Delete(u8),
    /// The server takes the next step of a request: its claim holds; it starts; the fence looks; its rows are there.
    Serve(Request),
    /// The connection of a running insert is cut, and the server cancels it.
    Cut(Request),
    /// The server is killed and comes back: what ran there is gone. With a claim, if claims are persistent.
    Restart(u8),
}

impl Sink {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// What a process may do by itself.
    fn steps(&self, state: &State, sink: usize, actions: &mut Vec<Action>) {
        let process = &state.sinks[sink];
        if process.generation != state.generation {
            actions.push(Action::Learn(sink));
        }
        let claims_left = state.next_claim <= self.bounds.claims;
        let can_invalidate =
            !matches!(process.step, Step::Idle | Step::Assigned | Step::Member | Step::Overtaken);
        if claims_left && can_invalidate {
            actions.push(Action::Invalidate(sink));
        }
        let runs =
            |r: &Request| matches!(r, Request::Insert { at: Progress::Running | Progress::Passed, .. });
        let drained = !state.in_flight.iter().any(runs);
        match process.step {
            Step::Idle | Step::Claiming { .. } | Step::Inserting { .. } | Step::Overtaken => {}
            Step::Assigned => {
                let member = process.generation == state.generation && state.owner == sink;
                if member || self.is(Flaw::NoMembershipProof) {
                    actions.push(Action::Prove(sink));
                }
            }
            Step::Member if self.is(Flaw::DrainFirst) => {
                if drained {
                    actions.push(Action::Drain(sink));
                }
            }
            Step::Member | Step::Drained { claim: 0 } => {
                if claims_left {
                    actions.push(Action::Claim(sink));
                }
            }
            Step::Claimed { .. } => {
                if drained || self.is(Flaw::NoDrain) {
                    actions.push(Action::Drain(sink));
                }
            }
            Step::Drained { .. } => actions.push(Action::ReadTail(sink)),
            // What it would read is not there any more.
            Step::Ready { fetch, .. } if fetch < state.start => {}
            Step::Ready { next, fetch, .. } => {
                let is_empty = |to: &u8| (fetch..*to).all(|offset| !self.is_record(offset));
                let ends = fetch + 1..=self.bounds.offsets;
                let empty = ends.filter(|to| is_empty(to) || self.is(Flaw::ProofWithoutRead));
                let proofs = empty.filter(|to| self.bounds.deletions > 0 && state.proof != Some((next, *to)));
                actions.extend(proofs.map(|to| Action::ProveEmpty(sink, to)));
                let ends = (fetch + 1..=self.bounds.offsets).filter(|to| self.is_record(to - 1));
                for to in ends {
                    let records = (fetch..to).filter(|offset| self.is_record(*offset)).count();
                    if records <= usize::from(self.bounds.block) {
                        actions.push(Action::Insert(sink, to));
                    }
                    if records == 2 && claims_left {
                        actions.push(Action::Miss(sink, to));
                    }
                }
            }
        }
    }

    fn claim(&self, state: &mut State, sink: usize) {
        let number = u8::try_from(sink + 1).unwrap_or(u8::MAX);
        let claim = if self.is(Flaw::ClaimReused) { number } else { state.next_claim };
        state.next_claim += 1;
        state.in_flight.push(Request::Claim { sink, claim });
        state.sinks[sink].step = if self.is(Flaw::UnacknowledgedClaim) {
            Step::Claimed { claim }
        } else {
            Step::Claiming { claim }
        };
    }

    fn read_tail(&self, state: &mut State, sink: usize) {
        let Step::Drained { claim } = state.sinks[sink].step else { return };
        let end = state.table.last().map_or(0, |last| last.offset + 1);
        let next = if self.is(Flaw::NoTailRead) { state.committed } else { end };
        let covers = |(from, to): (u8, u8)| {
            (from..to).contains(&next) && (to >= state.start || self.is(Flaw::ProofTooShort))
        };
        state.sinks[sink].step = match state.start {
            start if start <= next => Step::Ready { claim, next, fetch: next },
            start if state.proof.is_some_and(covers) => match self.is(Flaw::ProvenSkipsNotCounted) {
                true => Step::Ready { claim, next: start, fetch: start },
                false => Step::Ready { claim, next, fetch: start },
            },
            _ => Step::Overtaken,
        };
    }

    const fn is_record(&self, offset: u8) -> bool {
        self.bounds.empty & (1 << offset) == 0
    }

    /// The rows of an insert: each record is one, and counts what was passed over right before it.
    fn rows(&self, rows: Rows) -> Vec<Row> {
        let mut skipped = 0;
        let mut found = Vec::new();
        for offset in rows.from..rows.to {
            if offset < rows.from + rows.blind || !self.is_record(offset) {
                skipped += u8::from(!self.is(Flaw::SkipsNotCounted));
            } else {
                found.push(Row { offset, skipped });
                skipped = 0;
            }
        }
        found
    }

    /// The first reader passes over a record. The second one finds it: a doubt.
    fn miss(&self, state: &mut State, sink: usize, to: u8) {
        match self.is(Flaw::NoSecondReader) {
            true => self.insert(state, sink, to, true),
            false => state.sinks[sink].step = Step::Assigned,
        }
    }

    fn insert(&self, state: &mut State, sink: usize, to: u8, misses: bool) {
        let Step::Ready { claim, next, fetch } = state.sinks[sink].step else { return };
        let rows = Rows { from: next, to, blind: if misses { to - 1 - next } else { fetch - next } };
        state.in_flight.push(Request::Insert { sink, claim, rows, at: Progress::Sent });
        state.sinks[sink].step = match self.is(Flaw::Pipelined) {
            true => Step::Ready { claim, next: to, fetch: to },
            false => Step::Inserting { claim, rows },
        };
    }

    fn invalidate(&self, state: &mut State, sink: usize) {
        let step = &mut state.sinks[sink].step;
        *step = match step {
            Step::Inserting { claim, rows } if self.is(Flaw::InsertRetried) => {
                Step::Ready { claim: *claim, next: rows.from, fetch: rows.from + rows.blind }
            }
            _ => Step::Assigned,
        };
    }

    /// The server takes the next step of `request`, and answers if that was the last one.
    fn serve(&self, state: &mut State, request: Request) {
        remove(state, &request);
        match request {
            Request::Claim { sink, claim } => {
                if self.is(Flaw::PersistentClaims) {
                    state.replaced = state.claim;
                }
                state.claim = claim;
                let step = &mut state.sinks[sink].step;
                if *step == (Step::Claiming { claim }) {
                    *step = match self.is(Flaw::DrainFirst) {
                        true => Step::Drained { claim },
                        false => Step::Claimed { claim },
                    };
                }
            }
            Request::Insert { sink, claim, rows, at } => match at {
                Progress::Sent => {
                    state.in_flight.push(Request::Insert { sink, claim, rows, at: Progress::Running });
                }
                Progress::Running if state.claim == claim || self.is(Flaw::NoFence) => {
                    state.in_flight.push(Request::Insert { sink, claim, rows, at: Progress::Passed });
                }
                // Refused: 469.
                Progress::Running => answer(state, sink, claim, rows, Step::Assigned),
                Progress::Passed => {
                    state.table.extend(self.rows(rows));
                    state.table.sort_unstable();
                    let current = state.sinks[sink].generation == state.generation;
                    if self.is(Flaw::NoTailRead) && current && awaits(state, sink, claim, rows) {
                        state.committed = rows.to;
                    }
                    answer(state, sink, claim, rows, Step::Ready { claim, next: rows.to, fetch: rows.to });
                }
            },
        }
    }
}

fn remove(state: &mut State, request: &Request) {
    if let Some(at) = state.in_flight.iter().position(|r| r == request) {
        state.in_flight.remove(at);
    }
}

/// Whether a process waits for the answer to this insert.
fn awaits(state: &State, sink: usize, claim: u8, rows: Rows) -> bool {
    state.sinks[sink].step == Step::Inserting { claim, rows }
}

/// Hands the answer to the process, if it still waits for it.
fn answer(state: &mut State, sink: usize, claim: u8, rows: Rows, then: Step) {
    if awaits(state, sink, claim, rows) {
        state.sinks[sink].step = then;
    }
}

/// What orders requests, so that the same ones are the same state.
const fn rank(request: &Request) -> (usize, u8, Rows, Option<Progress>) {
    match request {
        Request::Claim { sink, claim } => (*sink, *claim, Rows { from: 0, to: 0, blind: 0 }, None),
        Request::Insert { sink, claim, rows, at } => (*sink, *claim, *rows, Some(*at)),
    }
}

impl Model for Sink {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            table: Vec::new(),
            claim: 0,
            replaced: 0,
            next_claim: 1,
            in_flight: Vec::new(),
            generation: 1,
            owner: 0,
            committed: 0,
            restarts: 0,
            start: 0,
            deletions: 0,
            proof: None,
            sinks: vec![Process { generation: 0, step: Step::Idle }; self.bounds.sinks],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for sink in 0..self.bounds.sinks {
            self.steps(state, sink, actions);
            if sink != state.owner && state.generation <= self.bounds.rebalances {
                actions.push(Action::Rebalance(sink));
            }
        }
        if state.deletions < self.bounds.deletions {
            actions.extend((state.start + 1..=self.bounds.offsets).map(Action::Delete));
        }
        for request in &state.in_flight {
            actions.push(Action::Serve(request.clone()));
            if matches!(request, Request::Insert { at: Progress::Running | Progress::Passed, .. }) {
                actions.push(Action::Cut(request.clone()));
            }
        }
        if state.restarts < self.bounds.restarts {
            if self.is(Flaw::PersistentClaims) {
                actions.extend([Action::Restart(state.claim), Action::Restart(state.replaced)]);
            } else {
                actions.push(Action::Restart(0));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Rebalance(sink) => {
                state.generation += 1;
                state.owner = sink;
            }
            Action::Learn(sink) => {
                let step = if state.owner == sink { Step::Assigned } else { Step::Idle };
                state.sinks[sink] = Process { generation: state.generation, step };
            }
            Action::Invalidate(sink) => self.invalidate(&mut state, sink),
            Action::Prove(sink) => state.sinks[sink].step = Step::Member,
            Action::Claim(sink) => self.claim(&mut state, sink),
            Action::Drain(sink) => {
                let claim = if let Step::Claimed { claim } = state.sinks[sink].step { claim } else { 0 };
                state.sinks[sink].step = Step::Drained { claim };
            }
            Action::ReadTail(sink) => self.read_tail(&mut state, sink),
            Action::Insert(sink, to) => self.insert(&mut state, sink, to, false),
            Action::Miss(sink, to) => self.miss(&mut state, sink, to),
            Action::ProveEmpty(sink, to) => {
                if let Step::Ready { next, .. } = state.sinks[sink].step {
                    state.proof = Some((next, to));
                }
            }
            Action::Delete(to) => {
                state.deletions += 1;
                state.start = to;
            }
            Action::Serve(request) => self.serve(&mut state, request),
            Action::Cut(request) => remove(&mut state, &request),
            Action::Restart(claim) => {
                state.restarts += 1;
                state.claim = claim;
                let survives = |r: &Request| {
                    !matches!(r, Request::Insert { at: Progress::Running | Progress::Passed, .. })
                };
                state.in_flight.retain(survives);
            }
        }
        state.in_flight.sort_unstable_by_key(rank);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(
                "the table has the records of a prefix of the topic",
                |model: &Self, state: &State| {
                    let end = state.table.last().map_or(0, |last| last.offset + 1);
                    let records = (0..end).filter(|offset| model.is_record(*offset));
                    state.table.iter().map(|row| row.offset).eq(records)
                },
            ),
            Property::always(
                "rows and what they count as passed over are all offsets",
                |_, state: &State| {
                    let skipped: u8 = state.table.iter().map(|row| row.skipped).sum();
                    let end = state.table.last().map_or(0, |last| usize::from(last.offset) + 1);
                    state.table.len() + usize::from(skipped) == end
                },
            ),
            Property::sometimes("all records are there", |model: &Self, state: &State| {
                let last = (0..model.bounds.offsets).rfind(|offset| model.is_record(*offset));
                state.table.last().map(|last| last.offset) == last
            }),
            Property::sometimes("a row counts an offset without a record", |_, state: &State| {
                state.table.iter().any(|row| row.skipped > 0)
            }),
            // Without these the model would hold for want of anything happening.
            Property::sometimes("the fence meets an insert under an older claim", |_, state: &State| {
                let older = |r: &Request| matches!(r, Request::Insert { claim, at: Progress::Running, .. } if *claim < state.claim);
                state.in_flight.iter().any(older)
            }),
            Property::sometimes(
                "a drain waits for an insert that has passed the fence",
                |_, state: &State| {
                    let passed = |r: &Request| matches!(r, Request::Insert { at: Progress::Passed, .. });
                    let waits = |p: &Process| matches!(p.step, Step::Claimed { .. });
                    state.sinks.iter().any(waits) && state.in_flight.iter().any(passed)
                },
            ),
            Property::sometimes("a zombie is about to insert", |_, state: &State| {
                let zombie =
                    |p: &Process| p.generation != state.generation && matches!(p.step, Step::Ready { .. });
                state.sinks.iter().any(zombie)
            }),
        ];
        if self.bounds.restarts > 0 {
            properties.push(Property::sometimes(
                "the server restarts between a look and an insert",
                |_, state: &State| {
                    let ready = |p: &Process| matches!(p.step, Step::Ready { .. });
                    state.restarts > 0 && state.claim == 0 && state.sinks.iter().any(ready)
                },
            ));
        }
        if self.bounds.deletions > 0 {
            properties.extend([
            Property::sometimes("a record is inserted behind offsets that retention deleted and a proof covers", |_, state: &State| {
                let blind = |r: &Request| matches!(r, Request::Insert { rows, at: Progress::Passed, .. } if rows.blind > 0);
                state.in_flight.iter().any(blind)
            }),
            Property::sometimes("retention was faster than the sink", |_, state: &State| {
                state.sinks.iter().any(|process| process.step == Step::Overtaken)
            }),
            ]);
        }
        properties
    }
}
