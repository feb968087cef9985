//! Events that are numbered and not acknowledged: the bounds on their memory, the watermark, and the first failure.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::Sequences;
use crate::sequences::Watermark;

/// Bounds and tracks the events in flight. librdkafka's queue is configured without a limit, so these bounds are the only
/// ones.
#[derive(Debug)]
pub(crate) struct InFlightWindow {
    max_events: usize,
    max_bytes: usize,
    state: Mutex<State>,
    /// Notified when there is room again, or the recorder has stopped.
    room: Condvar,
    /// Notified when the watermark reaches `lowest_awaited`, nothing is in flight, or the recorder has stopped.
    progress: Condvar,
}

#[derive(Debug)]
struct State {
    watermark: Watermark,
    events: usize,
    bytes: usize,
    failure: Option<String>,
    /// Number of threads that wait for room.
    waiting_for_room: usize,
    /// Lowest watermark that a thread waits for. Threads are woken when it is reached, not at every acknowledgement.
    lowest_awaited: i64,
}

/// Size of the events in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Result of [`InFlightWindow::reserve`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    Granted,
    Full,
    Stopped { reason: String },
}

/// Result of [`InFlightWindow::wait_for_durable`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    /// Every requested sequence is durable.
    Durable,
    /// The deadline has passed; delivery of the missing sequences continues.
    Unfinished(Sequences),
    /// A delivery failed permanently, and nothing is in flight any more or the deadline has passed.
    Failed { reason: String, missing: Sequences },
}

impl InFlightWindow {
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self::from_sequence(0, max_events, max_bytes)
    }

    /// Creates a window for the sequences from `first` on. All earlier ones count as durable.
    pub(crate) fn from_sequence(first: i64, max_events: usize, max_bytes: usize) -> Self {
        let state = State {
            watermark: Watermark::from_sequence(first),
            events: 0,
            bytes: 0,
            failure: None,
            waiting_for_room: 0,
            lowest_awaited: i64::MAX,
        };
        Self {
            max_events,
            max_bytes,
            state: Mutex::new(state),
            room: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    /// Adds an event of `bytes` if there is room.
    pub(crate) fn reserve(&self, bytes: usize) -> Reservation {
        let mut state = self.lock();
        if let Some(reason) = &state.failure {
            return Reservation::Stopped { reason: reason.clone() };
        }
        if !self.fits(&state, bytes) {
            return Reservation::Full;
        }
        state.events += 1;
        state.bytes += bytes;
        Reservation::Granted
    }

    /// Removes an event that was reserved and not enqueued.
    pub(crate) fn release(&self, bytes: usize) {
        let mut state = self.lock();
        self.remove(&mut state, bytes);
    }

    /// Returns the reason for which the recorder has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Stops the recorder. The first reason is kept.
    pub(crate) fn fail(&self, reason: String) {
        self.set_failure(&mut self.lock(), reason);
    }

    /// Removes an event that is durable or has failed for the given reason.
    pub(crate) fn complete(&self, sequence: i64, bytes: usize, outcome: Result<(), String>) {
        let mut state = self.lock();
        match outcome {
            Ok(()) => state.watermark.acknowledge(sequence),
            Err(reason) => self.set_failure(&mut state, reason),
        }
        self.remove(&mut state, bytes);
    }

    /// Waits until an event of `bytes` fits, or the recorder has stopped. Returns false if `until` has passed first.
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

    /// Waits until every sequence below `end` is durable, or `until` has passed, or delivery has failed and nothing is in
    /// flight.
    pub(crate) fn wait_for_durable(&self, end: i64, until: Instant) -> WaitOutcome {
        let mut state = self.lock();
        let mut in_time = true;
        loop {
            if state.watermark.below() >= end {
                return WaitOutcome::Durable;
            }
            if let Some(reason) = state.failure.as_ref().filter(|_| state.events == 0 || !in_time) {
                return WaitOutcome::Failed { reason: reason.clone(), missing: state.watermark.missing(end) };
            }
            if !in_time {
                return WaitOutcome::Unfinished(state.watermark.missing(end));
            }
            state.lowest_awaited = state.lowest_awaited.min(end);
            (state, in_time) = wait(&self.progress, state, Some(until));
        }
    }

    /// Returns the watermark: every sequence below it is durable.
    pub(crate) fn durable_below(&self) -> i64 {
        self.lock().watermark.below()
    }

    /// Returns the size of the events in flight.
    pub(crate) fn usage(&self) -> Usage {
        let state = self.lock();
        Usage { events: state.events, bytes: state.bytes }
    }

    fn set_failure(&self, state: &mut State, reason: String) {
        if state.failure.is_none() {
            tracing::error!(reason, "recorder: stopped");
            state.failure = Some(reason);
            self.room.notify_all();
            self.progress.notify_all();
        }
    }

    fn fits(&self, state: &State, bytes: usize) -> bool {
        state.events < self.max_events && state.bytes + bytes <= self.max_bytes
    }

    fn remove(&self, state: &mut State, bytes: usize) {
        state.events = state.events.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(bytes);
        // Wakes waiting threads only when an eighth of the buffer is free. Waking them for each acknowledged event would cost
        // two context switches per event.
        let has_room = |used: usize, max: usize| used <= max - max / 8;
        if state.waiting_for_room > 0
            && has_room(state.events, self.max_events - 1)
            && has_room(state.bytes, self.max_bytes)
        {
            self.room.notify_all();
        }
        if state.watermark.below() >= state.lowest_awaited || state.events == 0 {
            state.lowest_awaited = i64::MAX;
            self.progress.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a notification. Returns false once `until` has passed.
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
