//! The recorder: numbers an event, appends it to the spool and enqueues it, in one step under one lock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::{RecordEncoder, subject};
use uuid::Uuid;

use crate::compose::closing_event;
use crate::in_flight::{InFlightWindow, Reservation, Usage, WaitOutcome};
use crate::queue::{EnqueueError, Queue};
use crate::spool::{
    AppendError, AppendOutcome, DeadSource, RecordKind, Recovery, RepublishTarget, Spool, SpoolFolder,
    SpoolRecord,
};
use crate::start;
use crate::{
    Composer, Event, FlushError, PreparedEvent, RecordError, RecorderOptions, RecoverError, SpoolError,
    SpoolOptions, StartError, WhenFull,
};

/// Timeout of the flush when a recorder is dropped without `close`.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// Records the actions of agents: numbers events 0, 1, 2 … without a gap, buffers a bounded number of them, and delivers
/// each exactly once, in order within a session. Share it by reference or `Arc`: every function may be called from any
/// thread. Do not call [`Recorder::start`] from async code, since it blocks on the network.
pub struct Recorder {
    composer: Composer,
    when_full: WhenFull,
    sequencer: Mutex<Sequencer>,
    in_flight: Arc<InFlightWindow>,
    queue: Queue,
    /// Maximum bytes of the spool, if there is one.
    max_spool_bytes: Option<u64>,
    recovery: Option<Recovery>,
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
    /// Number of events in flight.
    pub waiting_events: usize,
    /// Bytes of the events in flight.
    pub waiting_bytes: usize,
    /// Number of dead sources in the spool's folder that this recorder has not published and closed yet.
    pub dead_sources: usize,
}

impl Recorder {
    /// Starts a recorder: fetches the schema id from the schema registry and the topic's metadata from the brokers, then
    /// starts a polling thread. Writes nothing to Kafka. Fails if schema or topic does not exist; `agentgov topology apply`
    /// creates both.
    ///
    /// With a spool, it also claims the sources that dead processes left in the spool's folder and reads their files; a
    /// damaged file is an error. A background thread publishes their events, in order and under their sequence numbers,
    /// closes each dead source with its total, and removes its files once all of that is durable. New events do not wait
    /// for this, so there is no order between a dead source and this one, not even within a session; callers that need one
    /// call [`Recorder::wait_for_dead_sources`]. If this process dies as well, the next start continues. In a folder where
    /// a recorder has started before, schema registry and brokers may be unavailable.
    pub fn start(options: RecorderOptions) -> Result<Self, StartError> {
        let (topic, settings) = options.topology.topic_of(subject::ACTION_EVENT)?;
        // A negative limit, which no checked topology has, is rejected as too small.
        let max_message_bytes = usize::try_from(settings.max_message_bytes.value).unwrap_or_default();
        start::check(&options, max_message_bytes)?;
        let resolved = start::resolve_schema(&options, topic)?;
        let schema_id = resolved.id;
        let source_id = options.source_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let composer =
            Composer::new(options.tenant_id, options.environment, source_id, schema_id, max_message_bytes)?
                .with_redaction(options.redact);
        let in_flight = Arc::new(InFlightWindow::new(options.buffer_events, options.buffer_bytes));
        let queue = Queue::open(&options.kafka, topic, max_message_bytes, Arc::clone(&in_flight))?;
        start::check_topic(&queue, &options.kafka, resolved.is_cached)?;
        let mut recorder = Self::with_queue(queue, in_flight, composer, options.when_full);
        if let Some(spool) = &options.spool {
            start::cache_schema(spool, &options.schema_registry.url, topic, &resolved)?;
            let target = RepublishTarget {
                kafka: options.kafka,
                topic: topic.to_owned(),
                max_message_bytes,
                schema_id,
            };
            recorder.attach_spool(spool, target)?;
        }
        Ok(recorder)
    }

    fn with_queue(
        queue: Queue,
        in_flight: Arc<InFlightWindow>,
        composer: Composer,
        when_full: WhenFull,
    ) -> Self {
        let encoder = composer.encoder();
        let sequencer =
            Sequencer { next: 0, phase: Phase::Open, encoder, value: Vec::with_capacity(1024), spool: None };
        let sequencer = Mutex::new(sequencer);
        Self { composer, when_full, sequencer, in_flight, queue, max_spool_bytes: None, recovery: None }
    }

    /// Creates the spool of this source, and starts publishing the dead sources of its folder.
    fn attach_spool(&mut self, options: &SpoolOptions, target: RepublishTarget) -> Result<(), StartError> {
        let header = self.composer.spool_header(&target.topic);
        start::check_spool(options, &header, target.max_message_bytes)?;
        let folder = SpoolFolder::lock(&options.folder)?;
        let claimed = folder.claim_dead_sources()?.into_iter();
        let dead =
            claimed.map(|source| DeadSource::read(source, &target.topic)).filter_map(Result::transpose);
        let dead = dead.collect::<Result<Vec<DeadSource>, _>>()?;
        let in_flight = Arc::clone(&self.in_flight);
        let on_sync_error = move |error: SpoolError| in_flight.fail(error.to_string());
        self.sequencer().spool = Some(Spool::create(&folder, header, options, on_sync_error)?);
        self.max_spool_bytes = Some(options.max_bytes);
        drop(folder);
        self.recovery = Some(Recovery::start(dead, target)?);
        Ok(())
    }

    /// Records an event: checks it, assigns the next sequence number and enqueues it. If the buffer or the spool is full, it
    /// behaves as [`WhenFull`] says. If it returns an error, the event has no sequence number and is not recorded: the caller
    /// still owns it.
    ///
    /// - Without a spool it does no I/O. `Ok` means that the event is in memory and is delivered in the background. It is
    ///   durable once [`Recorder::flush`] or [`Recorder::close`] returns `Ok`, or `durable_through` of [`Recorder::stats`]
    ///   has reached it.
    /// - With a spool it writes once. `Ok` means that the event survives the end of this process: the next start on the
    ///   folder publishes it. [`Fsync`](crate::Fsync) decides which events survive a power loss. If a sync fails, or a failed
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

    /// Waits until all dead sources of the spool's folder are published and closed. `Ok` means that their events are durable
    /// and their files removed. Without a spool there are none.
    pub fn wait_for_dead_sources(&self, timeout: Duration) -> Result<(), RecoverError> {
        self.recovery.as_ref().map_or(Ok(()), |recovery| recovery.wait(deadline(timeout)))
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
        let dead_sources = self.recovery.as_ref().map_or(0, Recovery::left);
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
        let failed = match self.queue.send(sequence, key, value) {
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
                let Usage { events, bytes } = self.in_flight.usage();
                RecordError::Full { events, bytes }
            }
            NoRoom::Spool { bytes, .. } => {
                RecordError::SpoolFull { bytes, limit: self.max_spool_bytes.unwrap_or_default() }
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
        let source_id = || self.source_id().to_owned();
        match self.in_flight.wait_for_durable(end, until) {
            WaitOutcome::Durable => Ok(()),
            WaitOutcome::Unfinished(missing) => {
                Err(FlushError::Unfinished { source_id: source_id(), missing })
            }
            WaitOutcome::Failed { reason, missing } => {
                let spooled = self.max_spool_bytes.is_some();
                Err(FlushError::Stopped { source_id: source_id(), reason, missing, spooled })
            }
        }
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
                    spooled = self.max_spool_bytes.is_some(),
                    "recorder: dropped without close; all events are durable, but the source has no closing event; with a spool, the next start records it"
                );
            }
            (_, Err(error)) => tracing::warn!(%error, "recorder: dropped before all events were durable"),
        }
    }
}

fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    // A timeout beyond the clock's range becomes a year.
    now.checked_add(timeout).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

#[cfg(test)]
mod tests;
