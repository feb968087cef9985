//! Claim, drain, tail read, insert: processes of the log-sink that write one topic-partition.
//!
//! A process takes the steps in order, and starts over after every unknown outcome:
//!
//! ```text
//! Assigned ─prove─► Member ─claim─► Claiming ─(server)─► Claimed ─drain─► Drained ─read tail─► Ready ─insert─► Inserting ─(server)─► Ready
//! ```
//!
//! Steps that the model combines, as no other process can observe a state between them:
//! - A response is received when the server sends it. A lost or late one is an [`Action::Invalidate`] before the server
//!   acts.
//! - A killed process that is started again is an invalidation too: it has no memory, and its requests stay in flight.
//! - A second reader, which checks that skipped offsets hold no record, responds at once. An [`Action::Miss`] is a
//!   first reader that skips a record, with its consequences.
//! - A proof that no record follows is read and stored at once, as it stays valid. Buffered rows are dropped when
//!   retention deletes their records.
//! - A stopped process (SIGSTOP) takes no action for a long time. A zombie has not learned of a rebalance.

use stateright::{Model, Property};

mod variants;

pub use variants::{Bounds, Flaw};

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// Bounds of the exploration.
    pub bounds: Bounds,
    /// Flaw of the variant, if it has one.
    pub flaw: Option<Flaw>,
}

/// State of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Rows of the table, in order.
    table: Vec<Row>,
    /// Claim that the server holds; 0: none.
    claim: u8,
    /// Claim before it; kept for [`Flaw::PersistentClaims`] only.
    replaced: u8,
    /// Number of the next claim.
    next_claim: u8,
    /// Requests that were sent and have not ended, in order.
    in_flight: Vec<Request>,
    /// Generation of the group, owner of the partition in it, and committed offset (kept for [`Flaw::NoTailRead`]
    /// only).
    generation: u8,
    owner: usize,
    committed: u8,
    restarts: u8,
    /// First offset that retention has not deleted, and number of deletions.
    start: u8,
    deletions: u8,
    /// Range in which a fresh reader found no record; its end is not included.
    proof: Option<(u8, u8)>,
    sinks: Vec<Process>,
}

/// Row: its offset, and the number of skipped offsets right before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Row {
    offset: u8,
    skipped: u8,
}

/// Rows of an insert: the records from one offset up to another, not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rows {
    from: u8,
    to: u8,
    /// Number of offsets at the beginning that are skipped, whether they hold records or not: those that retention has
    /// deleted and a proof covers, and those of [`Flaw::NoSecondReader`].
    blind: u8,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    /// Generation that it believes in; 0: it has not joined yet.
    generation: u8,
    step: Step,
}

/// Step of a process.
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
    /// The next row counts skipped offsets from `next`. The offsets before `fetch` are deleted and proven to be empty.
    Ready {
        claim: u8,
        next: u8,
        fetch: u8,
    },
    Inserting {
        claim: u8,
        rows: Rows,
    },
    /// Retention has overtaken the process: exit code 81.
    Overtaken,
}

/// Request that is in flight or runs in the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Sets the claim.
    Claim {
        /// Process that sent it.
        sink: usize,
        /// Number of the claim.
        claim: u8,
    },
    /// Inserts one block.
    Insert {
        /// Process that sent it.
        sink: usize,
        /// Claim that its rows carry.
        claim: u8,
        /// Offsets of its rows.
        rows: Rows,
        /// Progress of the insert.
        at: Progress,
    },
}

/// Progress of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Progress {
    /// The server has not received it yet.
    Sent,
    /// It shows in the server's list of processes; the fence is not checked yet.
    Running,
    /// It has passed the fence; its rows are not stored yet.
    Passed,
}

/// Event of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The group gives the partition to a process.
    Rebalance(usize),
    /// A process learns of the group's generation, and drops its state.
    Learn(usize),
    /// A process gives up waiting, or is killed and started again. Its requests stay in flight.
    Invalidate(usize),
    /// A process proves to the group that it is a member of its generation.
    Prove(usize),
    /// A process sends a claim.
    Claim(usize),
    /// A process finds no insert in the server's list of processes.
    Drain(usize),
    /// A process reads the table's tail.
    ReadTail(usize),
    /// A process sends an insert up to this offset, not included.
    Insert(usize, u8),
    /// A process receives the record before this offset, but not the one before that, which exists.
    Miss(usize, u8),
    /// A fresh reader finds no record from a process's position up to this offset, not included, and stores that.
    ProveEmpty(usize, u8),
    /// Retention deletes the records before this offset.
    Delete(u8),
    /// The server takes the next step of a request: the claim holds, the insert starts, the fence is checked, or the
    /// rows are stored.
    Serve(Request),
    /// The connection of a running insert is cut, and the server cancels it.
    Cut(Request),
    /// The server is killed and restarts; its running requests are gone. The number is a claim that it remembers, if
    /// claims are persistent.
    Restart(u8),
}

impl Sink {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Adds the actions that a process may take by itself.
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
            // The records that it would read are deleted.
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

    /// Returns the rows of an insert: each record is one, and counts the skipped offsets right before it.
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

    /// The first reader skips a record. The second one finds it, and the process starts over.
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

    /// The server takes the next step of `request`, and responds after the last one.
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
                // Refused with error 469.
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

/// Returns true if a process waits for the response to this insert.
fn awaits(state: &State, sink: usize, claim: u8, rows: Rows) -> bool {
    state.sinks[sink].step == Step::Inserting { claim, rows }
}

/// Delivers the response to the process, if it still waits for it.
fn answer(state: &mut State, sink: usize, claim: u8, rows: Rows, then: Step) {
    if awaits(state, sink, claim, rows) {
        state.sinks[sink].step = then;
    }
}

/// Returns the sort key of a request, so that equal sets of requests are equal states.
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
                "rows and the skipped offsets that they count add up to all offsets",
                |_, state: &State| {
                    let skipped: u8 = state.table.iter().map(|row| row.skipped).sum();
                    let end = state.table.last().map_or(0, |last| usize::from(last.offset) + 1);
                    state.table.len() + usize::from(skipped) == end
                },
            ),
            Property::sometimes("the table has all records", |model: &Self, state: &State| {
                let last = (0..model.bounds.offsets).rfind(|offset| model.is_record(*offset));
                state.table.last().map(|last| last.offset) == last
            }),
            Property::sometimes("a row counts an offset without a record", |_, state: &State| {
                state.table.iter().any(|row| row.skipped > 0)
            }),
            // Without these properties, a model in which nothing happens would pass.
            Property::sometimes("the fence checks an insert under an older claim", |_, state: &State| {
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
                "the server restarts between a tail read and an insert",
                |_, state: &State| {
                    let ready = |p: &Process| matches!(p.step, Step::Ready { .. });
                    state.restarts > 0 && state.claim == 0 && state.sinks.iter().any(ready)
                },
            ));
        }
        if self.bounds.deletions > 0 {
            properties.extend([
            Property::sometimes("a record is inserted after deleted offsets that a proof covers", |_, state: &State| {
                let blind = |r: &Request| matches!(r, Request::Insert { rows, at: Progress::Passed, .. } if rows.blind > 0);
                state.in_flight.iter().any(blind)
            }),
            Property::sometimes("retention overtakes the sink", |_, state: &State| {
                state.sinks.iter().any(|process| process.step == Step::Overtaken)
            }),
            ]);
        }
        properties
    }
}
