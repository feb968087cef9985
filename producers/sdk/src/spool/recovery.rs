//! Publishes dead sources in the background: their events in order and under their sequence numbers, then the closing event.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dead_source::DeadSource;
use super::format::{SegmentError, SegmentReader};
use crate::RecoverError;
use crate::compose::Composer;
use crate::in_flight::{InFlightSource, InFlightWindow, Reservation, WaitOutcome};
use crate::join::join;
use crate::queue::{DeliveryTarget, EnqueueError, Queue};

/// Maximum number of events in flight.
const MAX_EVENTS_IN_FLIGHT: usize = 10_000;
/// Maximum bytes of the events in flight, if one event of the largest size fits.
const MAX_BYTES_IN_FLIGHT: usize = 8 << 20;
/// Time that a record waits for others. The events of a source are enqueued at once, so batches fill without waiting, and
/// each source waits for its last batch.
const LINGER: Duration = Duration::from_millis(5);
/// Interval at which a wait checks whether the producer was dropped.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The publishing thread. Dropping it stops the thread; the next start publishes the rest.
#[derive(Debug)]
pub(crate) struct Recovery {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    left: usize,
    running: bool,
    failed: Option<String>,
}

/// Client and bound that the dead sources share, one after the other.
struct Delivery {
    window: Arc<InFlightWindow>,
    queue: Queue,
}

impl Delivery {
    fn open(target: &DeliveryTarget) -> Result<Self, String> {
        let max_bytes = MAX_BYTES_IN_FLIGHT.max(target.max_message_bytes);
        let window = Arc::new(InFlightWindow::new(MAX_EVENTS_IN_FLIGHT, max_bytes));
        let queue = Queue::open(target, LINGER, Arc::clone(&window)).map_err(|error| error.to_string())?;
        Ok(Self { window, queue })
    }
}

/// Result of publishing a source or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Published.
    Done,
    /// The producer was dropped first.
    Stopped,
}

impl Recovery {
    /// Starts a thread that publishes the dead sources one after the other.
    pub(crate) fn start(dead: Vec<DeadSource>, target: DeliveryTarget) -> std::io::Result<Self> {
        let state = State { left: dead.len(), running: !dead.is_empty(), failed: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), ..Shared::default() });
        if dead.is_empty() {
            return Ok(Self { shared, thread: None });
        }
        let thread = std::thread::Builder::new().name("agentgov-recovery".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(dead, &target)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns the number of dead sources that are not published and closed yet.
    pub(crate) fn left(&self) -> usize {
        self.shared.lock().left
    }

    /// Waits until all dead sources are published and closed.
    pub(crate) fn wait(&self, until: Instant) -> Result<(), RecoverError> {
        let mut state = self.shared.lock();
        loop {
            let left = state.left;
            if left == 0 {
                return Ok(());
            }
            if !state.running {
                let reason = state.failed.clone().unwrap_or_else(|| "the producer was dropped".to_owned());
                return Err(RecoverError::Stopped { left, reason });
            }
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Err(RecoverError::Unfinished { left });
            }
            state = self.shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
impl Recovery {
    /// Stops the thread, and waits until the locks of the dead sources are released.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        let mut state = self.shared.lock();
        while state.running {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

impl Shared {
    fn run(&self, dead: Vec<DeadSource>, target: &DeliveryTarget) {
        let mut delivery = None;
        for source in dead {
            let (source_id, events) = (source.header.source_id.clone(), source.event_count());
            let published = match &mut delivery {
                Some(delivery) => self.publish(&source, delivery, target),
                none => Delivery::open(target)
                    .and_then(|opened| self.publish(&source, none.insert(opened), target)),
            };
            match published {
                Ok(Outcome::Done) => {
                    tracing::info!(source_id, events, "spool: published and closed a dead source");
                    self.lock().left -= 1;
                    self.changed.notify_all();
                }
                // The next start publishes the rest.
                Ok(Outcome::Stopped) => {
                    drop(delivery);
                    break;
                }
                Err(reason) => {
                    tracing::error!(
                        source_id,
                        reason,
                        "spool: cannot publish a dead source; its files are kept for the next start"
                    );
                    self.lock().failed.get_or_insert(format!("source {source_id}: {reason}"));
                    // Ends the delivery before another process may claim the source. The next source gets a new client.
                    delivery = None;
                    source.folder.release();
                }
            }
        }
        self.lock().running = false;
        self.changed.notify_all();
    }

    /// Publishes one source and its closing event, waits until all of it is durable, and removes its files.
    fn publish(
        &self,
        source: &DeadSource,
        delivery: &Delivery,
        target: &DeliveryTarget,
    ) -> Result<Outcome, String> {
        let DeadSource { folder, header, segments, first, end, closed } = source;
        let Delivery { window, queue } = delivery;
        let in_flight = window.open_source(*first)?;
        for path in segments {
            let at_path = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let bytes = fs::read(path).map_err(|error| at_path(&error))?;
            let changed = |error| at_path(&format!("the file changed after it was checked: {error:?}"));
            let mut segment = match SegmentReader::open(&bytes) {
                Ok(segment) => segment,
                Err(SegmentError::Torn { .. }) => break,
                Err(error) => return Err(changed(error)),
            };
            loop {
                let record = match segment.next_record() {
                    Ok(Some(record)) => record,
                    Ok(None) | Err(SegmentError::Torn { .. }) => break,
                    Err(error) => return Err(changed(error)),
                };
                if self.send(&in_flight, queue, record.sequence, record.key, record.value)?
                    == Outcome::Stopped
                {
                    return Ok(Outcome::Stopped);
                }
            }
        }
        let mut total = *end;
        if !closed {
            let composer = Composer::new(
                header.tenant_id.as_str(),
                header.environment.as_str(),
                header.source_id.as_str(),
                target.schema_id,
                target.max_message_bytes,
            )
            .map_err(|error| error.to_string())?;
            let (key, value) = composer.encode_closing(*end).map_err(|error| error.to_string())?;
            if self.send(&in_flight, queue, *end, &key, &value)? == Outcome::Stopped {
                return Ok(Outcome::Stopped);
            }
            total += 1;
        }
        loop {
            match in_flight.wait_for_durable(total, Instant::now() + POLL_INTERVAL) {
                WaitOutcome::Durable => break,
                WaitOutcome::Failed { reason, .. } => return Err(reason),
                WaitOutcome::Unfinished(_) if self.stop.load(Ordering::Acquire) => {
                    return Ok(Outcome::Stopped);
                }
                WaitOutcome::Unfinished(_) => {}
            }
        }
        folder.remove(segments.iter().map(|path| path.as_path())).map_err(|error| error.to_string())?;
        Ok(Outcome::Done)
    }

    /// Sends one record as soon as there is room.
    fn send(
        &self,
        in_flight: &InFlightSource,
        queue: &Queue,
        sequence: i64,
        key: &[u8],
        value: &[u8],
    ) -> Result<Outcome, String> {
        let bytes = key.len() + value.len();
        while !self.stop.load(Ordering::Acquire) {
            match in_flight.reserve(bytes) {
                Reservation::Stopped { reason } => return Err(reason),
                Reservation::Full => {
                    in_flight.wait_for_room(bytes, Some(Instant::now() + POLL_INTERVAL));
                    continue;
                }
                Reservation::Granted => {}
            }
            match queue.send(in_flight.ticket(sequence), key, value) {
                Ok(()) => return Ok(Outcome::Done),
                Err(EnqueueError::Failed(reason)) => return Err(reason),
                Err(EnqueueError::Full) => {
                    in_flight.release(bytes);
                    in_flight.wait_for_room(bytes, Some(Instant::now() + POLL_INTERVAL));
                }
            }
        }
        Ok(Outcome::Stopped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
