//! What was accepted and is not acknowledged yet: the bound on memory, the watermark, and the first failure.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Sequences;
use crate::sequences::Watermark;

/// Counts what is in flight. The librdkafka queue has no limit of its own: this is the only one.
#[derive(Debug)]
pub(crate) struct Ledger {
    max_events: usize,
    max_bytes: usize,
    state: Mutex<State>,
    /// There is room again, or the recorder has stopped.
    room: Condvar,
    /// The watermark has passed what someone waits for, nothing is in flight, or the recorder has stopped.
    settled: Condvar,
}

#[derive(Debug)]
struct State {
    watermark: Watermark,
    events: usize,
    bytes: usize,
    failure: Option<String>,
    waiting_for_room: usize,
    /// The lowest watermark that a waiter wants to see: who waits is woken once, not at every acknowledgement.
    wanted: i64,
}

/// What is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Whether an event was counted in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reserved {
    Yes,
    Full,
    Stopped { reason: String },
}

/// How a wait for durability ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Everything asked for is durable.
    Durable,
    /// Time is up; the rest is still being delivered.
    Unfinished(Sequences),
    /// Something failed for good, and nothing is in flight any more (or time is up).
    Failed { reason: String, missing: Sequences },
}

impl Ledger {
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self::starting_at(0, max_events, max_bytes)
    }

    /// A ledger of what comes from sequence `first` on; everything before is durable.
    pub(crate) fn starting_at(first: i64, max_events: usize, max_bytes: usize) -> Self {
        let state = State {
            watermark: Watermark::starting_at(first),
            events: 0,
            bytes: 0,
            failure: None,
            waiting_for_room: 0,
            wanted: i64::MAX,
        };
        Self {
            max_events,
            max_bytes,
            state: Mutex::new(state),
            room: Condvar::new(),
            settled: Condvar::new(),
        }
    }

    /// Counts an event of `bytes` in, if there is room.
    pub(crate) fn reserve(&self, bytes: usize) -> Reserved {
        let mut state = self.lock();
        if let Some(reason) = &state.failure {
            return Reserved::Stopped { reason: reason.clone() };
        }
        if !self.fits(&state, bytes) {
            return Reserved::Full;
        }
        state.events += 1;
        state.bytes += bytes;
        Reserved::Yes
    }

    /// Counts an event out that was never enqueued.
    pub(crate) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        self.leave(&mut state, bytes);
    }

    /// Why the recorder has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Stops the recorder, unless it has stopped before.
    pub(crate) fn fail(&self, reason: String) {
        self.stop(&mut self.lock(), reason);
    }

    /// Counts an event out: durable, or failed for the given reason.
    pub(crate) fn delivered(&self, sequence: i64, bytes: usize, outcome: Result<(), String>) {
        let mut state = self.lock();
        match outcome {
            Ok(()) => state.watermark.acknowledge(sequence),
            Err(reason) => self.stop(&mut state, reason),
        }
        self.leave(&mut state, bytes);
    }

    /// Waits until an event of `bytes` fits, or the recorder has stopped. False: `until` has passed first.
    pub(crate) fn wait_for_room(&self, bytes: usize, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        state.waiting_for_room += 1;
        let mut in_time = true;
        while in_time && state.failure.is_none() && !self.fits(&state, bytes) {
            (state, in_time) = wait(&self.room, state, until);
        }
        let fits = state.failure.is_some() || self.fits(&state, bytes);
        state.waiting_for_room -= 1;
        fits
    }

    /// Waits until every sequence below `end` is durable, `until` has passed, or delivery has failed and the rest has settled.
    pub(crate) fn wait_for_durable(&self, end: i64, until: Instant) -> Settled {
        let mut state = self.lock();
        let mut in_time = true;
        loop {
            if state.watermark.below() >= end {
                return Settled::Durable;
            }
            if let Some(reason) = state.failure.as_ref().filter(|_| state.events == 0 || !in_time) {
                return Settled::Failed { reason: reason.clone(), missing: state.watermark.missing(end) };
            }
            if !in_time {
                return Settled::Unfinished(state.watermark.missing(end));
            }
            state.wanted = state.wanted.min(end);
            (state, in_time) = wait(&self.settled, state, Some(until));
        }
    }

    /// Every sequence below is durable.
    pub(crate) fn durable_below(&self) -> i64 {
        self.lock().watermark.below()
    }

    /// What is in flight.
    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        Load { events: state.events, bytes: state.bytes }
    }

    fn stop(&self, state: &mut State, reason: String) {
        if state.failure.is_none() {
            tracing::error!(reason, "the recorder stops");
            state.failure = Some(reason);
            self.room.notify_all();
            self.settled.notify_all();
        }
    }

    fn fits(&self, state: &State, bytes: usize) -> bool {
        state.events < self.max_events && state.bytes + bytes <= self.max_bytes
    }

    fn leave(&self, state: &mut State, bytes: usize) {
        state.events = state.events.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(bytes);
        // Woken at every event that leaves a full buffer, a waiting caller would switch threads twice an event.
        let roomy = |used: usize, max: usize| used <= max - max / 8;
        if state.waiting_for_room > 0
            && roomy(state.events, self.max_events - 1)
            && roomy(state.bytes, self.max_bytes)
        {
            self.room.notify_all();
        }
        if state.watermark.below() >= state.wanted || state.events == 0 {
            state.wanted = i64::MAX;
            self.settled.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so the state is whole even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a change; false once `until` has passed.
fn wait<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    until: Option<Instant>,
) -> (MutexGuard<'a, State>, bool) {
    match until {
        None => (condition.wait(state).unwrap_or_else(PoisonError::into_inner), true),
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now());
            let (state, _) = condition.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            (state, Instant::now() < until)
        }
    }
}
