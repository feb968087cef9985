//! Restore order and transactions of a processor: processes of one stage over one input partition.
//!
//! ```text
//! Assigned ─committed offset─► Restoring ─changelog to its end─► Running ─step, write─► Written ─send offsets─► Sent ─commit─► Running
//! ```
//!
//! A transaction is open, then decided; then its markers reach the partitions that it wrote to, each at its own time.
//! Until the offsets topic has the marker, the committed offset is not stable. Until the changelog has it, committed
//! readers see the changelog end before the transaction.
//!
//! Steps that the model combines, as no other process can observe a state between them:
//! - A batch is polled, stepped and written at once. The process believes in the generation of the poll until it learns
//!   of another one and drops the batch.
//! - A stopped process (SIGSTOP) takes no action for a long time. A zombie has not learned of a rebalance.

use stateright::{Model, Property};

mod variants;

pub use variants::{Bounds, Flaw};

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    /// Bounds of the exploration.
    pub bounds: Bounds,
    /// Flaw of the variant, if it has one.
    pub flaw: Option<Flaw>,
}

/// Set of input offsets, one bit each.
type Offsets = u8;

const fn below(end: u8) -> Offsets {
    (1 << end) - 1
}

/// State of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Transactions in the order of the changelog.
    transactions: Vec<Transaction>,
    generation: u8,
    owner: usize,
    /// Committed offset of the group; 0: none.
    committed: u8,
    kills: u8,
    processes: Vec<Process>,
}

/// Transaction: an output and a state change for each input, the progress entry, and the offset to commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Transaction {
    /// Process of the producer; `None` once it was killed, as the next one has another transactional id.
    by: Option<usize>,
    from: u8,
    to: u8,
    /// True if `from` was stepped with the state of exactly the inputs before it.
    exact: bool,
    /// True if the group's coordinator has its offset.
    offset_sent: bool,
    outcome: Outcome,
    /// True if its marker is in the offsets topic, and in the changelog.
    marked: [bool; 2],
}

const OFFSETS: usize = 0;
const CHANGELOG: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Open,
    Committed,
    Aborted,
}

impl Transaction {
    const fn inputs(&self) -> Offsets {
        below(self.to) & !below(self.from)
    }

    fn complete(&self) -> bool {
        self.marked[CHANGELOG] && (self.marked[OFFSETS] || !self.offset_sent)
    }
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
    Away,
    Assigned,
    Restoring {
        committed: u8,
    },
    /// Of [`Flaw::ChangelogFirst`].
    ChangelogRead {
        known: Offsets,
    },
    Running {
        known: Offsets,
        next: u8,
    },
    Written {
        known: Offsets,
        transaction: usize,
    },
    Sent {
        known: Offsets,
        transaction: usize,
    },
    /// Ended, as the changelog is ahead of the committed offset.
    Ended,
}

/// Event of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The group gives the partition to a process.
    Rebalance(usize),
    /// A process learns of the group's generation, aborts, and drops its state.
    Learn(usize),
    /// A process is killed, and started again.
    Kill(usize),
    /// A process reads the committed offset.
    ReadCommitted(usize),
    /// A process has read the changelog to its end.
    ReadChangelog(usize),
    /// A process polls a record with an error, and drops it. Of [`Flaw::DropsPolledRecord`].
    Drop(usize),
    /// A process steps a batch up to this offset, not included, and writes outputs and state in a transaction.
    Step(usize, u8),
    /// A process sends the offset of its transaction to the group's coordinator.
    SendOffset(usize),
    /// A process asks the transaction coordinator to commit.
    Commit(usize),
    /// The coordinator aborts a transaction that has exceeded its timeout.
    Expire(usize),
    /// A transaction's marker reaches the offsets topic.
    MarkOffsets(usize),
    /// A transaction's marker reaches the changelog.
    MarkChangelog(usize),
}

impl Processor {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Returns true if the coordinator returns committed offsets, false if it makes the caller wait.
    fn stable(&self, state: &State) -> bool {
        let pending = |t: &Transaction| t.offset_sent && !t.marked[OFFSETS];
        self.is(Flaw::UnstableOffsets) || !state.transactions.iter().any(pending)
    }

    /// Returns the inputs whose state the changelog holds, and its progress.
    fn changelog(&self, state: &State) -> (Offsets, u8) {
        let mut found = (0, 0);
        for transaction in &state.transactions {
            let dirty = self.is(Flaw::ReadUncommitted);
            if !transaction.marked[CHANGELOG] && !dirty {
                break;
            }
            if transaction.outcome == Outcome::Committed || dirty {
                found = (found.0 | transaction.inputs(), transaction.to);
            }
        }
        found
    }

    /// Returns the next step of a process that has read the changelog to its end; `None`: it keeps reading.
    fn restored(&self, state: &State, committed: u8) -> Option<Step> {
        let (known, progress) = self.changelog(state);
        if committed == 0
            || progress == committed
            || (progress < committed && self.is(Flaw::NoWaitFromChangelog))
        {
            return Some(Step::Running { known, next: progress });
        }
        if progress > committed {
            return Some(Step::Ended);
        }
        self.is(Flaw::NoWaitFromCommitted).then_some(Step::Running { known, next: committed })
    }

    /// Adds the actions that a process may take by itself.
    fn steps(&self, state: &State, process: usize, actions: &mut Vec<Action>) {
        let Process { generation, step } = &state.processes[process];
        if *step == Step::Ended {
            return;
        }
        if *generation != state.generation {
            actions.push(Action::Learn(process));
        }
        if state.kills < self.bounds.kills && *step != Step::Away {
            actions.push(Action::Kill(process));
        }
        match step {
            Step::Away | Step::Ended => {}
            Step::Assigned if self.is(Flaw::ChangelogFirst) => actions.push(Action::ReadChangelog(process)),
            Step::Assigned | Step::ChangelogRead { .. } => {
                if self.stable(state) {
                    actions.push(Action::ReadCommitted(process));
                }
            }
            Step::Restoring { committed } => {
                if self.restored(state, *committed).is_some() {
                    actions.push(Action::ReadChangelog(process));
                }
            }
            Step::Running { next, .. } => {
                if self.is(Flaw::DropsPolledRecord) && *next < self.bounds.records {
                    actions.push(Action::Drop(process));
                }
                // A producer begins a transaction only when its last one is complete.
                let busy = |t: &Transaction| t.by == Some(process) && !t.complete();
                let room = state.transactions.len() < self.bounds.transactions;
                if room && !state.transactions.iter().any(busy) {
                    let last = (next + self.bounds.batch).min(self.bounds.records);
                    actions.extend((next + 1..=last).map(|to| Action::Step(process, to)));
                }
            }
            Step::Written { .. } => actions.push(Action::SendOffset(process)),
            Step::Sent { .. } => actions.push(Action::Commit(process)),
        }
    }

    /// Sends the offset of a process's transaction. The coordinator accepts it in the group's current generation only.
    fn send_offset(&self, state: &mut State, process: usize) {
        let Step::Written { known, transaction } = state.processes[process].step else { return };
        let of_the_group =
            state.processes[process].generation == state.generation || self.is(Flaw::LateMetadata);
        let sent = &mut state.transactions[transaction];
        if sent.outcome == Outcome::Open && of_the_group {
            sent.offset_sent = true;
            state.processes[process].step = Step::Sent { known, transaction };
        } else {
            self.aborted(state, process, known, transaction);
        }
    }

    fn commit(&self, state: &mut State, process: usize) {
        let Step::Sent { known, transaction } = state.processes[process].step else { return };
        let decided = &mut state.transactions[transaction];
        if decided.outcome == Outcome::Open {
            decided.outcome = Outcome::Committed;
            let (known, next) = (known | decided.inputs(), decided.to);
            state.processes[process].step = Step::Running { known, next };
        } else {
            self.aborted(state, process, known, transaction);
        }
    }

    /// Aborts a process's transaction, which may be aborted already.
    fn aborted(&self, state: &mut State, process: usize, known: Offsets, transaction: usize) {
        let lost = &mut state.transactions[transaction];
        lost.outcome = Outcome::Aborted;
        state.processes[process].step = match self.is(Flaw::KeepsMemory) {
            true => Step::Running { known: known | lost.inputs(), next: lost.to },
            false => Step::Assigned,
        };
    }
}

/// Aborts a process's transaction if it is open.
fn abort_open(state: &mut State, process: usize) {
    for transaction in &mut state.transactions {
        if transaction.by == Some(process) && transaction.outcome == Outcome::Open {
            transaction.outcome = Outcome::Aborted;
        }
    }
}

impl Model for Processor {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            transactions: Vec::new(),
            generation: 1,
            owner: 0,
            committed: 0,
            kills: 0,
            processes: vec![Process { generation: 0, step: Step::Away }; self.bounds.processes],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for process in 0..self.bounds.processes {
            self.steps(state, process, actions);
            if process != state.owner && state.generation <= self.bounds.rebalances {
                actions.push(Action::Rebalance(process));
            }
        }
        for (number, transaction) in state.transactions.iter().enumerate() {
            if transaction.outcome == Outcome::Open {
                actions.push(Action::Expire(number));
                continue;
            }
            if transaction.offset_sent && !transaction.marked[OFFSETS] {
                actions.push(Action::MarkOffsets(number));
            }
            if !transaction.marked[CHANGELOG] {
                actions.push(Action::MarkChangelog(number));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Rebalance(process) => {
                state.generation += 1;
                state.owner = process;
            }
            Action::Learn(process) => {
                abort_open(&mut state, process);
                let step = if state.owner == process { Step::Assigned } else { Step::Away };
                state.processes[process] = Process { generation: state.generation, step };
            }
            Action::Kill(process) => {
                state.kills += 1;
                for transaction in &mut state.transactions {
                    transaction.by = transaction.by.filter(|by| *by != process);
                }
                state.processes[process] = Process { generation: 0, step: Step::Away };
            }
            Action::ReadCommitted(process) => {
                let committed = state.committed;
                let step = &mut state.processes[process].step;
                *step = match step {
                    Step::ChangelogRead { known } => Step::Running { known: *known, next: committed },
                    _ => Step::Restoring { committed },
                };
            }
            Action::ReadChangelog(process) => {
                let step = match state.processes[process].step {
                    Step::Restoring { committed } => self.restored(&state, committed)?,
                    _ => Step::ChangelogRead { known: self.changelog(&state).0 },
                };
                state.processes[process].step = step;
            }
            Action::Drop(process) => {
                let Step::Running { known, next } = state.processes[process].step else { return None };
                state.processes[process].step = Step::Running { known, next: next + 1 };
            }
            Action::Step(process, to) => {
                let Step::Running { known, next } = state.processes[process].step else { return None };
                state.processes[process].step =
                    Step::Written { known, transaction: state.transactions.len() };
                state.transactions.push(Transaction {
                    by: Some(process),
                    from: next,
                    to,
                    exact: known == below(next),
                    offset_sent: false,
                    outcome: Outcome::Open,
                    marked: [false; 2],
                });
            }
            Action::SendOffset(process) => self.send_offset(&mut state, process),
            Action::Commit(process) => self.commit(&mut state, process),
            Action::Expire(number) => state.transactions[number].outcome = Outcome::Aborted,
            Action::MarkOffsets(number) => {
                let transaction = &mut state.transactions[number];
                transaction.marked[OFFSETS] = true;
                if transaction.outcome == Outcome::Committed {
                    state.committed = transaction.to;
                }
            }
            Action::MarkChangelog(number) => state.transactions[number].marked[CHANGELOG] = true,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn committed(state: &State) -> impl Iterator<Item = &Transaction> {
            state.transactions.iter().filter(|t| t.outcome == Outcome::Committed)
        }
        vec![
            Property::always(
                "a record is stepped from the state of exactly those before it",
                |_, state: &State| state.transactions.iter().all(|t| t.exact),
            ),
            Property::always("an input has exactly one committed output", |_, state: &State| {
                let end = committed(state).map(|t| t.to).max().unwrap_or(0);
                let outputs =
                    |offset: u8| committed(state).filter(|t| (t.from..t.to).contains(&offset)).count();
                (0..end).all(|offset| outputs(offset) == 1)
            }),
            Property::sometimes("all inputs have an output", |model: &Self, state: &State| {
                state.committed == model.bounds.records
            }),
            // Without these a model in which nothing happens would hold too.
            Property::sometimes("a restore waits for a marker", |model: &Self, state: &State| {
                let behind = |p: &Process| matches!(p.step, Step::Restoring { committed } if model.changelog(state).1 < committed);
                state.processes.iter().any(behind)
            }),
            Property::sometimes("a restore waits for a stable offset", |model: &Self, state: &State| {
                !model.stable(state) && state.processes.iter().any(|p| p.step == Step::Assigned)
            }),
            Property::sometimes("a zombie is about to send an offset", |_, state: &State| {
                let zombie =
                    |p: &Process| p.generation != state.generation && matches!(p.step, Step::Written { .. });
                state.processes.iter().any(zombie)
            }),
            Property::sometimes("a zombie commits what it sent before the rebalance", |_, state: &State| {
                let zombie =
                    |p: &Process| p.generation != state.generation && matches!(p.step, Step::Sent { .. });
                state.processes.iter().any(zombie)
            }),
            // Loses nothing, but ends needlessly: a process that was stopped between its two reads.
            Property::sometimes(
                "a stopped restore finds the changelog ahead, and ends",
                |_, state: &State| state.processes.iter().any(|p| p.step == Step::Ended),
            ),
        ]
    }
}
