//! The recorder: numbers an event, appends it to the spool and enqueues it, in one step under one lock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::RecordEncoder;
use agentgov_schemas::event::ActionEvent;
use uuid::Uuid;

use crate::compose::closing_event;
use crate::deadline::deadline;
use crate::in_flight::{DurableBelow, InFlightSource, Reservation, Usage, WaitOutcome};
use crate::producer::{ProducerShared, start_recorder};
use crate::queue::EnqueueError;
use crate::spool::{AppendError, AppendOutcome, RecordKind, Spool, SpoolRecord};
use crate::{
    Composer, Event, FlushError, PreparedEvent, RecordError, RecorderOptions, RecoverError, StartError,
    WhenFull,
};

/// Timeout of the flush when a recorder is dropped without `close`.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// Records the actions of agents: numbers events 0, 1, 2 … without a gap, buffers a bounded number of them, and delivers
/// each exactly once, in order within a session. Each recorder is a source; a [`Producer`](crate::Producer) opens any number of
/// them. Share it by reference or `Arc`: every function may be called from any thread. Do not call [`Recorder::start`] from
/// async code, since it blocks on the network.
pub struct Recorder {
    composer: Composer,
    when_full: WhenFull,
    sequencer: Mutex<Sequencer>,
    in_flight: Arc<InFlightSource>,
    producer: Arc<ProducerShared>,
}

/// State under the lock. Numbering and enqueueing are one step, so that sequence numbers ascend within a partition.
struct Sequencer {
    next: i64,
    phase: Phase,
    encoder: RecordEncoder<ActionEvent<'static>>,
    value: Vec<u8>,
    /// `None` without a spool, and after `close` has removed its files.
    spool: Option<Spool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// `close` was called; there was no room for the closing event yet.
    Closing,
    /// The closing event is enqueued with this sequence number.
    Closed {
        total: i64,
    },
}

/// Result of [`Recorder::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Sequence number of the event.
    pub sequence: i64,
    /// Id of the event.
    pub event_id: Uuid,
}

/// Result of [`Recorder::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Number of durable events: every sequence below it is durable.
    pub durable: i64,
}

/// Result of [`Recorder::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Number of events before the closing event. All of them, and the closing event, are durable.
    pub total: i64,
}

/// Counters of a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Number of events with a sequence number, including the closing event.
    pub accepted: i64,
    /// Last sequence up to which all events are durable. `None` if the first is not durable.
    pub durable_through: Option<i64>,
    /// Number of this source's events in flight.
    pub waiting_events: usize,
    /// Bytes of this source's events in flight.
    pub waiting_bytes: usize,
    /// Number of dead sources in the spool's folder that the producer has not published and closed yet.
    pub dead_sources: usize,
}

impl Recorder {
    /// Starts a producer with this recorder as its only source: [`Producer::start`](crate::Producer::start), then
    /// [`Producer::recorder`](crate::Producer::recorder).
    pub fn start(options: RecorderOptions) -> Result<Self, StartError> {
        start_recorder(options)
    }

    pub(crate) fn new(
        producer: Arc<ProducerShared>,
        in_flight: Arc<InFlightSource>,
        composer: Composer,
        when_full: WhenFull,
        spool: Option<Spool>,
    ) -> Self {
        let encoder = composer.encoder();
        let sequencer =
            Sequencer { next: 0, phase: Phase::Open, encoder, value: Vec::with_capacity(1024), spool };
        Self { composer, when_full, sequencer: Mutex::new(sequencer), in_flight, producer }
    }

    /// Records an event: checks it, assigns the next sequence number and enqueues it. If the buffer or the spool is full, it
    /// behaves as [`WhenFull`] says. If it returns an error, the event has no sequence number and is not recorded: the caller
    /// still owns it.
    ///
    /// - Without a spool it does no I/O. `Ok` means that the event is in memory and is delivered in the background. It is
    ///   durable once [`Recorder::durable`], [`Recorder::flush`] or [`Recorder::close`] returns `Ok`, or `durable_through` of
    ///   [`Recorder::stats`] has reached it.
    /// - With a spool it returns after one write. `Ok` means that the event is in the spool and not yet acknowledged by Kafka. It
    ///   survives the end of this process: the next start on the folder publishes it. [`Fsync`](crate::Fsync) decides which events survive a power loss. If a sync fails, or a failed
    ///   write cannot be undone, the recorder stops; the event for which it then returns [`RecordError::Stopped`] may be on
    ///   disk nevertheless.
    pub fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        let prepared = self.composer.prepare(event)?;
        let until = match self.when_full {
            WhenFull::WaitFor(timeout) => Some(deadline(timeout)),
            WhenFull::Wait | WhenFull::Fail => None,
        };
        loop {
            let no_room = match self.enqueue(&prepared)? {
                EnqueueOutcome::Enqueued(sequence) => {
                    return Ok(Receipt { sequence, event_id: prepared.event_id() });
                }
                EnqueueOutcome::NoRoom(no_room) => no_room,
            };
            if self.when_full == WhenFull::Fail || !self.wait_for_room(no_room, until) {
                return Err(self.full_error(no_room));
            }
        }
    }

    /// Returns the error that [`Recorder::record`] would return for this event, apart from missing room, without recording
    /// it. Producers that must write all events or none call it first.
    pub fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        // No sequence number is encoded in more bytes than the largest.
        self.composer.prepare(event)?.encode_into(i64::MAX, &mut self.composer.encoder(), &mut Vec::new())
    }

    /// Waits until all events recorded before the call are durable, that is on all in-sync replicas. On
    /// [`FlushError::Unfinished`] the missing events are not acknowledged yet and delivery continues.
    pub fn flush(&self, timeout: Duration) -> Result<Flushed, FlushError> {
        let end = self.sequencer().next;
        self.wait_until_durable(end, deadline(timeout))?;
        Ok(Flushed { durable: self.in_flight.durable_below() })
    }

    /// Returns a future that resolves once every event up to and including `sequence` that was recorded before the call is
    /// durable: all of them for `i64::MAX`. [`FlushError::Stopped`] means that delivery failed permanently. The future needs no
    /// runtime and does not poll. It has no timeout, and waits as long as Kafka is unavailable; dropping it changes no delivery.
    pub fn durable(&self, sequence: i64) -> impl Future<Output = Result<Flushed, FlushError>> + Send + use<> {
        let end = self.sequencer().next.min(sequence.saturating_add(1));
        let delivered = DurableBelow::new(Arc::clone(&self.in_flight), end);
        let (source, producer) = (Arc::clone(&self.in_flight), Arc::clone(&self.producer));
        let source_id = self.source_id().to_owned();
        producer.queue.poll_soon();
        async move {
            let outcome = delivered.await;
            flush_result(outcome, &source_id, producer.max_spool_bytes().is_some())?;
            Ok(Flushed { durable: source.durable_below() })
        }
    }

    /// Waits as [`Producer::wait_for_dead_sources`](crate::Producer::wait_for_dead_sources) does.
    pub fn wait_for_dead_sources(&self, timeout: Duration) -> Result<(), RecoverError> {
        self.producer.wait_for_dead_sources(timeout)
    }

    /// Ends the source: rejects further events, records the closing event with the total, and waits until all are durable.
    /// `Ok` means that every event and the closing event are durable and the source's spool files removed. It does not wait
    /// for dead sources. On [`FlushError::Unfinished`] delivery of the missing events continues: call again to keep waiting.
    /// After [`FlushError::Stopped`] there is no closing event, so that the audit finds a source without an end.
    pub fn close(&self, timeout: Duration) -> Result<Closed, FlushError> {
        let until = deadline(timeout);
        let total = self.enqueue_closing_event(until)?;
        self.wait_until_durable(total + 1, until)?;
        let spool = self.sequencer().spool.take();
        if let Some(Err(error)) = spool.map(Spool::remove) {
            // The next start finds a closed source and sends its last events once more.
            tracing::warn!(%error, source_id = self.source_id(), "recorder: cannot remove the spool after close");
        }
        Ok(Closed { total })
    }

    /// Returns the counters of the recorder.
    pub fn stats(&self) -> Stats {
        let accepted = self.sequencer().next;
        let Usage { events, bytes } = self.in_flight.usage();
        let durable_through = self.in_flight.durable_below().checked_sub(1).filter(|sequence| *sequence >= 0);
        let dead_sources = self.producer.dead_sources();
        Stats { accepted, durable_through, waiting_events: events, waiting_bytes: bytes, dead_sources }
    }

    /// Returns the id of this source.
    pub fn source_id(&self) -> &str {
        self.composer.source_id()
    }

    fn enqueue(&self, prepared: &PreparedEvent<'_>) -> Result<EnqueueOutcome, RecordError> {
        let mut sequencer = self.sequencer();
        if sequencer.phase != Phase::Open {
            return Err(RecordError::Closed { source_id: self.source_id().to_owned() });
        }
        self.enqueue_locked(&mut sequencer, prepared, RecordKind::Event)
    }

    /// Appends to the spool, enqueues and then advances the sequence number, under the lock. A failed event uses no sequence
    /// number. The spool comes first, so that Kafka has no event that the spool lacks.
    fn enqueue_locked(
        &self,
        sequencer: &mut Sequencer,
        prepared: &PreparedEvent<'_>,
        kind: RecordKind,
    ) -> Result<EnqueueOutcome, RecordError> {
        let sequence = sequencer.next;
        prepared.encode_into(sequence, &mut sequencer.encoder, &mut sequencer.value)?;
        let (key, value) = (prepared.key(), &sequencer.value);
        let bytes = key.len() + value.len();
        match self.in_flight.reserve(bytes) {
            Reservation::Granted => {}
            Reservation::Full => return Ok(EnqueueOutcome::NoRoom(NoRoom::Memory { bytes })),
            Reservation::Stopped { reason } => return Err(self.stopped_error(reason)),
        }
        let not_enqueued = match &mut sequencer.spool {
            None => None,
            Some(spool) => {
                let record = SpoolRecord { sequence, kind, key, value };
                match spool.append(&record, || self.in_flight.durable_below()) {
                    Ok(AppendOutcome::Appended) => None,
                    Ok(AppendOutcome::Full { until, bytes }) => {
                        Some(Ok(EnqueueOutcome::NoRoom(NoRoom::Spool { until, bytes })))
                    }
                    Err(AppendError::Unchanged(error)) => {
                        let session_id = prepared.session_id().to_owned();
                        Some(Err(RecordError::Spool { session_id, error }))
                    }
                    Err(AppendError::Indeterminate(error)) => Some(Err(self.stop(error.to_string()))),
                }
            }
        };
        if let Some(not_enqueued) = not_enqueued {
            self.in_flight.release(bytes);
            return not_enqueued;
        }
        let failed = match self.producer.queue.send(self.in_flight.ticket(sequence), key, value) {
            Ok(()) => {
                sequencer.next += 1;
                return Ok(EnqueueOutcome::Enqueued(sequence));
            }
            Err(EnqueueError::Full) => None,
            Err(EnqueueError::Failed(reason)) => Some(reason),
        };
        self.in_flight.release(bytes);
        let undone = sequencer.spool.as_mut().map_or(Ok(()), Spool::undo_append);
        match (failed, undone) {
            (None, Ok(())) => Ok(EnqueueOutcome::NoRoom(NoRoom::Memory { bytes })),
            (Some(reason), _) => Err(self.stop(reason)),
            (None, Err(error)) => Err(self.stop(error.to_string())),
        }
    }

    /// Waits until there may be room. Returns false if `until` has passed first.
    fn wait_for_room(&self, no_room: NoRoom, until: Option<Instant>) -> bool {
        match no_room {
            NoRoom::Memory { bytes } => self.in_flight.wait_for_room(bytes, until),
            NoRoom::Spool { until: end, .. } => {
                let until = until.unwrap_or_else(|| deadline(Duration::MAX));
                !matches!(self.in_flight.wait_for_durable(end, until), WaitOutcome::Unfinished(_))
            }
        }
    }

    fn full_error(&self, no_room: NoRoom) -> RecordError {
        match no_room {
            NoRoom::Memory { .. } => {
                let Usage { events, bytes } = self.in_flight.usage_of_all();
                RecordError::Full { events, bytes }
            }
            NoRoom::Spool { bytes, .. } => {
                RecordError::SpoolFull { bytes, limit: self.producer.max_spool_bytes().unwrap_or_default() }
            }
        }
    }

    fn enqueue_closing_event(&self, until: Instant) -> Result<i64, FlushError> {
        let session_id = self.composer.closing_session_id();
        let event = closing_event(&session_id);
        let prepared = self.composer.prepare_closing(&event);
        loop {
            let mut sequencer = self.sequencer();
            if let Phase::Closed { total } = sequencer.phase {
                return Ok(total);
            }
            sequencer.phase = Phase::Closing;
            let total = sequencer.next;
            let enqueued = self.enqueue_locked(&mut sequencer, &prepared, RecordKind::Closing);
            if let Ok(EnqueueOutcome::Enqueued(total)) = enqueued {
                sequencer.phase = Phase::Closed { total };
                return Ok(total);
            }
            drop(sequencer);
            match enqueued {
                Ok(EnqueueOutcome::Enqueued(total)) => return Ok(total),
                Ok(EnqueueOutcome::NoRoom(no_room)) if self.wait_for_room(no_room, Some(until)) => {}
                // No room before the deadline, or stopped: the error names the missing sequences, including the closing event.
                Ok(EnqueueOutcome::NoRoom(_)) | Err(RecordError::Stopped { .. }) => {
                    self.wait_until_durable(total + 1, until)?
                }
                Err(error) => {
                    return Err(FlushError::Closing {
                        source_id: self.source_id().into(),
                        error: Box::new(error),
                    });
                }
            }
        }
    }

    fn wait_until_durable(&self, end: i64, until: Instant) -> Result<(), FlushError> {
        self.producer.queue.poll_soon();
        let outcome = self.in_flight.wait_for_durable(end, until);
        flush_result(outcome, self.source_id(), self.producer.max_spool_bytes().is_some())
    }

    /// Stops the recorder: no event may follow a failed one.
    fn stop(&self, reason: String) -> RecordError {
        self.in_flight.fail(reason.clone());
        self.stopped_error(reason)
    }

    fn stopped_error(&self, reason: String) -> RecordError {
        RecordError::Stopped { source_id: self.source_id().to_owned(), reason }
    }

    fn sequencer(&self) -> MutexGuard<'_, Sequencer> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.sequencer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("composer", &self.composer).finish_non_exhaustive()
    }
}

fn flush_result(outcome: WaitOutcome, source_id: &str, spooled: bool) -> Result<(), FlushError> {
    let source_id = source_id.to_owned();
    match outcome {
        WaitOutcome::Durable => Ok(()),
        WaitOutcome::Unfinished(missing) => Err(FlushError::Unfinished { source_id, missing }),
        WaitOutcome::Failed { reason, missing } => {
            Err(FlushError::Stopped { source_id, reason, missing, spooled })
        }
    }
}

enum EnqueueOutcome {
    Enqueued(i64),
    NoRoom(NoRoom),
}

/// The full buffer.
#[derive(Clone, Copy)]
enum NoRoom {
    /// The memory has no room for an event of `bytes`.
    Memory { bytes: usize },
    /// The spool, with `bytes` in its files, has no room until every sequence below `until` is durable.
    Spool { until: i64, bytes: u64 },
}

/// Flushes a recorder that is dropped without `close`, for at most [`DROP_TIMEOUT`], and logs the outcome.
impl Drop for Recorder {
    fn drop(&mut self) {
        let closed = matches!(self.sequencer().phase, Phase::Closed { .. });
        let flushed = self.flush(if closed { Duration::ZERO } else { DROP_TIMEOUT });
        match (closed, flushed) {
            (true, Ok(_)) => {}
            (false, Ok(flushed)) => {
                tracing::warn!(
                    source_id = self.source_id(),
                    durable = flushed.durable,
                    spooled = self.producer.max_spool_bytes().is_some(),
                    "recorder: dropped without close; all events are durable, but the source has no closing event; with a spool, the next start records it"
                );
            }
            (_, Err(error)) => tracing::warn!(%error, "recorder: dropped before all events were durable"),
        }
        // The producer may live on and deliver the rest.
        let spool = self.sequencer().spool.take();
        if let Some(spool) = spool {
            self.in_flight.keep_folder(spool.into_folder());
        }
    }
}

#[cfg(test)]
mod tests;
