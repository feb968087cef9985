//! Events that are numbered and not acknowledged: one bound on the memory of all sources of a producer, and for each source
//! its watermark, its first failure and its waiting callers.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::Sequences;
use crate::sequences::Watermark;
use crate::spool::SourceFolder;

/// Bounds and tracks the events in flight of all sources of a producer. librdkafka's queue is configured without a limit, so
/// these bounds are the only ones.
#[derive(Debug)]
pub(crate) struct InFlightWindow {
    max_events: usize,
    max_bytes: usize,
    state: Mutex<State>,
    /// Notified when there is room again, or a source has stopped.
    room: Condvar,
    /// Notified when the watermark of a source reaches its `lowest_awaited`, or the source has nothing in flight or has
    /// stopped.
    progress: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Events and bytes of all sources.
    usage: Usage,
    /// Number of threads that wait for room.
    waiting_for_room: usize,
    /// Reason for which the producer has stopped, and every source with it.
    failure: Option<String>,
    /// The open sources by slot, and the free slots.
    sources: Vec<Option<SourceState>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct SourceState {
    watermark: Watermark,
    usage: Usage,
    failure: Option<String>,
    /// Lowest watermark that a thread or a future waits for. They are woken when it is reached, not at every acknowledgement.
    lowest_awaited: i64,
    /// Futures that wait, with the watermark that each waits for.
    wakers: Vec<(FutureId, i64, Waker)>,
    next_future: FutureId,
    /// Ownership of the spool's files, held until nothing is in flight any more.
    folder: Option<SourceFolder>,
    /// Whether nothing but the events in flight uses the source any more.
    retired: bool,
}

/// Distinguishes the futures of a source.
type FutureId = u64;

/// Size of the events in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Slot of a source and the low bits of a sequence number, in one word that travels with a record through librdkafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(usize);

/// A source of the window. Its slot is free again once this value is dropped and nothing of the source is in flight.
#[derive(Debug)]
pub(crate) struct InFlightSource {
    window: Arc<InFlightWindow>,
    slot: usize,
}

/// Result of [`InFlightSource::reserve`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    Granted,
    Full,
    Stopped { reason: String },
}

/// Result of [`InFlightSource::wait_for_durable`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WaitOutcome {
    /// Every requested sequence is durable.
    Durable,
    /// The deadline has passed; delivery of the missing sequences continues.
    Unfinished(Sequences),
    /// A delivery failed permanently, and nothing is in flight any more or the deadline has passed.
    Failed { reason: String, missing: Sequences },
}

impl Usage {
    const fn add(&mut self, bytes: usize) {
        self.events += 1;
        self.bytes += bytes;
    }

    const fn remove(&mut self, bytes: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Bits of a sequence number in a [`Ticket`]. The numbers in flight of one source span far less.
const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: usize = (1 << SEQUENCE_BITS) - 1;
/// Maximum number of open sources, as many as fit the rest of a [`Ticket`].
pub(crate) const MAX_SOURCES: usize = 1 << (usize::BITS - SEQUENCE_BITS);

impl Ticket {
    const fn new(slot: usize, sequence: i64) -> Self {
        Self((slot << SEQUENCE_BITS) | (sequence as usize & SEQUENCE_MASK))
    }

    pub(crate) const fn from_opaque(opaque: usize) -> Self {
        Self(opaque)
    }

    pub(crate) const fn to_opaque(self) -> usize {
        self.0
    }

    const fn slot(self) -> usize {
        self.0 >> SEQUENCE_BITS
    }

    /// Returns the sequence number, which is not below the watermark of its source.
    const fn sequence(self, watermark: i64) -> i64 {
        watermark + (self.0.wrapping_sub(watermark as usize) & SEQUENCE_MASK) as i64
    }
}

impl InFlightWindow {
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            max_events,
            max_bytes,
            state: Mutex::default(),
            room: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    /// Opens a source whose sequences begin with `first`. All earlier ones count as durable. Returns the reason if the
    /// producer has stopped.
    pub(crate) fn open_source(self: &Arc<Self>, first: i64) -> Result<InFlightSource, String> {
        let mut state = self.lock();
        if let Some(reason) = &state.failure {
            return Err(reason.clone());
        }
        let source = SourceState::new(first);
        let slot = match state.free.pop() {
            Some(slot) => slot,
            None if state.sources.len() < MAX_SOURCES => {
                state.sources.push(None);
                state.sources.len() - 1
            }
            None => return Err(format!("it has {MAX_SOURCES} open sources, which is the maximum")),
        };
        if let Some(free) = state.sources.get_mut(slot) {
            *free = Some(source);
        }
        drop(state);
        Ok(InFlightSource { window: Arc::clone(self), slot })
    }

    /// Returns the reason for which the producer has stopped, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Stops the producer and every source. The first reason is kept.
    pub(crate) fn fail(&self, reason: &str) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        tracing::error!(reason, "producer: stopped");
        state.failure = Some(reason.to_owned());
        let mut wakers = Vec::new();
        for source in state.sources.iter_mut().flatten() {
            source.failure.get_or_insert_with(|| reason.to_owned());
            wakers.append(&mut source.take_due_wakers());
        }
        self.notify_all(state, wakers);
    }

    /// Returns the sequence of a ticket, and the reason for which its source has stopped, if it has.
    pub(crate) fn resolve(&self, ticket: Ticket) -> (i64, Option<String>) {
        let state = self.lock();
        let source = state.sources.get(ticket.slot()).and_then(Option::as_ref);
        source.map_or((0, None), |source| (ticket.sequence(source.watermark.below()), source.failure.clone()))
    }

    /// Removes an event that is durable or has failed for the given reason. A failed event stops its source.
    pub(crate) fn complete(&self, ticket: Ticket, bytes: usize, outcome: Result<(), String>) {
        let mut state = self.lock();
        let Some(source) = state.source(ticket.slot()) else { return };
        match outcome {
            Ok(()) => {
                let sequence = ticket.sequence(source.watermark.below());
                source.watermark.acknowledge(sequence);
                self.remove(state, ticket.slot(), bytes);
            }
            Err(reason) => {
                source.set_failure(reason);
                self.room.notify_all();
                self.remove(state, ticket.slot(), bytes);
            }
        }
    }

    /// Returns the size of the events in flight of all sources.
    pub(crate) fn usage(&self) -> Usage {
        self.lock().usage
    }

    fn fits(&self, usage: Usage, bytes: usize) -> bool {
        usage.events < self.max_events && usage.bytes + bytes <= self.max_bytes
    }

    fn remove(&self, mut state: MutexGuard<'_, State>, slot: usize, bytes: usize) {
        state.usage.remove(bytes);
        // Wakes waiting threads only when an eighth of the buffer is free. Waking them for each acknowledged event would cost
        // two context switches per event.
        let has_room = |used: usize, max: usize| used <= max - max / 8;
        if state.waiting_for_room > 0
            && has_room(state.usage.events, self.max_events - 1)
            && has_room(state.usage.bytes, self.max_bytes)
        {
            self.room.notify_all();
        }
        let Some(source) = state.source(slot) else { return };
        source.usage.remove(bytes);
        let is_idle = source.usage.events == 0;
        if source.watermark.below() < source.lowest_awaited && !is_idle {
            return;
        }
        let wakers = source.take_due_wakers();
        let folder = if is_idle { source.folder.take() } else { None };
        if is_idle && source.retired {
            state.remove_source(slot);
        }
        self.progress.notify_all();
        drop(state);
        // Wakers run code of an executor, and the lock of a folder is a file: neither belongs under the lock.
        drop(folder);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn notify_all(&self, state: MutexGuard<'_, State>, wakers: Vec<Waker>) {
        self.room.notify_all();
        self.progress.notify_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn source(&mut self, slot: usize) -> Option<&mut SourceState> {
        self.sources.get_mut(slot)?.as_mut()
    }

    fn remove_source(&mut self, slot: usize) -> Option<SourceState> {
        let removed = self.sources.get_mut(slot)?.take();
        self.free.push(slot);
        removed
    }
}

impl SourceState {
    fn new(first: i64) -> Self {
        Self {
            watermark: Watermark::from_sequence(first),
            usage: Usage::default(),
            failure: None,
            lowest_awaited: i64::MAX,
            wakers: Vec::new(),
            next_future: 0,
            folder: None,
            retired: false,
        }
    }

    fn set_failure(&mut self, reason: String) {
        if self.failure.is_none() {
            tracing::error!(reason, "recorder: stopped");
            self.failure = Some(reason);
        }
    }

    /// Returns the reason of the failure if no delivery is pending that could still succeed.
    fn final_failure(&self) -> Option<&String> {
        self.failure.as_ref().filter(|_| self.usage.events == 0)
    }

    /// Removes and returns the wakers of the futures that can resolve, and lowers `lowest_awaited` to the rest.
    fn take_due_wakers(&mut self) -> Vec<Waker> {
        let (below, has_failed) = (self.watermark.below(), self.final_failure().is_some());
        let due = self.wakers.extract_if(.., |(_, end, _)| *end <= below || has_failed);
        let due = due.map(|(_, _, waker)| waker).collect();
        self.lowest_awaited = self.wakers.iter().map(|(_, end, _)| *end).min().unwrap_or(i64::MAX);
        due
    }
}

impl InFlightSource {
    /// Adds an event of `bytes` if there is room.
    pub(crate) fn reserve(&self, bytes: usize) -> Reservation {
        let mut state = self.window.lock();
        if !self.window.fits(state.usage, bytes) {
            let failure = state.source(self.slot).and_then(|source| source.failure.clone());
            return failure.map_or(Reservation::Full, |reason| Reservation::Stopped { reason });
        }
        let Some(source) = state.source(self.slot) else { return Reservation::Full };
        if let Some(reason) = &source.failure {
            return Reservation::Stopped { reason: reason.clone() };
        }
        source.usage.add(bytes);
        state.usage.add(bytes);
        Reservation::Granted
    }

    /// Removes an event that was reserved and not enqueued.
    pub(crate) fn release(&self, bytes: usize) {
        self.window.remove(self.window.lock(), self.slot, bytes);
    }

    /// Returns the ticket of an event.
    pub(crate) const fn ticket(&self, sequence: i64) -> Ticket {
        Ticket::new(self.slot, sequence)
    }

    /// Stops the source. The first reason is kept.
    pub(crate) fn fail(&self, reason: String) {
        let mut state = self.window.lock();
        let Some(source) = state.source(self.slot) else { return };
        source.set_failure(reason);
        let wakers = source.take_due_wakers();
        self.window.notify_all(state, wakers);
    }

    /// Waits until an event of `bytes` fits, or the source has stopped. Returns false if `until` has passed first.
    pub(crate) fn wait_for_room(&self, bytes: usize, until: Option<Instant>) -> bool {
        let window = &*self.window;
        let mut state = window.lock();
        state.waiting_for_room += 1;
        let mut in_time = true;
        let may_go_on = |state: &mut State| {
            window.fits(state.usage, bytes)
                || state.source(self.slot).is_none_or(|source| source.failure.is_some())
        };
        while in_time && !may_go_on(&mut state) {
            (state, in_time) = wait(&window.room, state, until);
        }
        let fits = may_go_on(&mut state);
        state.waiting_for_room -= 1;
        fits
    }

    /// Waits until every sequence below `end` is durable, or `until` has passed, or delivery has failed and nothing is in
    /// flight.
    pub(crate) fn wait_for_durable(&self, end: i64, until: Instant) -> WaitOutcome {
        let mut state = self.window.lock();
        let mut in_time = true;
        loop {
            let Some(source) = state.source(self.slot) else { return WaitOutcome::Durable };
            if source.watermark.below() >= end {
                return WaitOutcome::Durable;
            }
            if let Some(reason) = source.failure.as_ref().filter(|_| source.usage.events == 0 || !in_time) {
                let missing = source.watermark.missing(end);
                return WaitOutcome::Failed { reason: reason.clone(), missing };
            }
            if !in_time {
                return WaitOutcome::Unfinished(source.watermark.missing(end));
            }
            source.lowest_awaited = source.lowest_awaited.min(end);
            (state, in_time) = wait(&self.window.progress, state, Some(until));
        }
    }

    /// Returns the watermark: every sequence below it is durable.
    pub(crate) fn durable_below(&self) -> i64 {
        self.window.lock().source(self.slot).map_or(0, |source| source.watermark.below())
    }

    /// Returns the size of the events in flight of this source.
    pub(crate) fn usage(&self) -> Usage {
        self.window.lock().source(self.slot).map_or_else(Usage::default, |source| source.usage)
    }

    /// Returns the size of the events in flight of all sources.
    pub(crate) fn usage_of_all(&self) -> Usage {
        self.window.usage()
    }

    /// Keeps the ownership of the spool's files until nothing of the source is in flight, so that no other process publishes
    /// them while this one does.
    pub(crate) fn keep_folder(&self, folder: SourceFolder) {
        let mut state = self.window.lock();
        let Some(source) = state.source(self.slot) else { return };
        let released = if source.usage.events > 0 { source.folder.replace(folder) } else { Some(folder) };
        drop(state);
        drop(released);
    }
}

impl Drop for InFlightSource {
    fn drop(&mut self) {
        let mut state = self.window.lock();
        let Some(source) = state.source(self.slot) else { return };
        source.retired = true;
        let removed = if source.usage.events == 0 { state.remove_source(self.slot) } else { None };
        drop(state);
        drop(removed);
    }
}

/// Resolves like [`InFlightSource::wait_for_durable`] without a deadline.
#[derive(Debug)]
pub(crate) struct DurableBelow {
    source: Arc<InFlightSource>,
    end: i64,
    id: Option<FutureId>,
}

impl DurableBelow {
    pub(crate) const fn new(source: Arc<InFlightSource>, end: i64) -> Self {
        Self { source, end, id: None }
    }
}

impl Future for DurableBelow {
    type Output = WaitOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WaitOutcome> {
        let Self { source, end, id } = &mut *self;
        let mut state = source.window.lock();
        let Some(of_source) = state.source(source.slot) else { return Poll::Ready(WaitOutcome::Durable) };
        if of_source.watermark.below() >= *end {
            return Poll::Ready(WaitOutcome::Durable);
        }
        if let Some(reason) = of_source.final_failure() {
            let missing = of_source.watermark.missing(*end);
            return Poll::Ready(WaitOutcome::Failed { reason: reason.clone(), missing });
        }
        of_source.wait(id, *end, context.waker());
        Poll::Pending
    }
}

impl SourceState {
    /// Registers the waker of a future, in place of its earlier one.
    fn wait(&mut self, id: &mut Option<FutureId>, end: i64, waker: &Waker) {
        self.lowest_awaited = self.lowest_awaited.min(end);
        if let Some((_, _, before)) = self.wakers.iter_mut().find(|(other, _, _)| Some(*other) == *id) {
            before.clone_from(waker);
            return;
        }
        let new = self.next_future;
        self.next_future += 1;
        *id = Some(new);
        self.wakers.push((new, end, waker.clone()));
    }
}

impl Drop for DurableBelow {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut state = self.source.window.lock();
        let Some(source) = state.source(self.source.slot) else { return };
        let removed = source.wakers.extract_if(.., |(other, _, _)| *other == id).next();
        drop(state);
        drop(removed);
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
