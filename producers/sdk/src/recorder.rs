//! The recorder: one lock under which an event gets its number and its place, in the spool and in the queue.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::{RecordEncoder, subject};
use uuid::Uuid;

use crate::compose::closing_event;
use crate::ledger::{Ledger, Load, Reserved, Settled};
use crate::queue::{NotEnqueued, Queue};
use crate::spool::{AppendError, Appended, Folder, Found, Kind, Record, Recovery, Republish, Spool};
use crate::start;
use crate::{
    Composer, Event, FlushError, PreparedEvent, RecordError, RecorderOptions, RecoverError, SpoolError,
    SpoolOptions, StartError, WhenFull,
};

/// How long dropping a recorder that was not closed waits for what it holds.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// Records what agents do: numbers events 0, 1, 2 … without a gap, holds a bounded number of them, and delivers each
/// exactly once, in order within a session. Share it by reference or `Arc`; every function may be called from any thread,
/// but [`Recorder::start`] not from async code, since it blocks on the network.
pub struct Recorder {
    composer: Composer,
    when_full: WhenFull,
    intake: Mutex<Intake>,
    ledger: Arc<Ledger>,
    queue: Queue,
    /// Whether there is a spool, and how many bytes it may have.
    spool_bytes: Option<u64>,
    recovery: Option<Recovery>,
}

/// What the lock guards: numbering and enqueueing are one step, so that the order of numbers is the order in a partition.
struct Intake {
    next: i64,
    phase: Phase,
    encoder: RecordEncoder<ActionEvent<'static>>,
    value: Vec<u8>,
    /// `None` also when all is durable and the files are gone.
    spool: Option<Spool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// `close` was called; its event has not found room yet.
    Closing,
    /// The closing event is enqueued, under this number.
    Closed {
        total: i64,
    },
}

/// What `record` says of an event that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its number at this source.
    pub sequence: i64,
    /// Its id.
    pub event_id: Uuid,
}

/// What `flush` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// How many events are durable: every sequence below.
    pub durable: i64,
}

/// What `close` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// How many events were recorded before the closing event. All of them, and the closing event, are durable.
    pub total: i64,
}

/// Where a recorder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Events numbered, the closing one included.
    pub accepted: i64,
    /// The last sequence up to which everything is durable; `None`: not even the first.
    pub durable_through: Option<i64>,
    /// Events that wait for their acknowledgement.
    pub waiting_events: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Dead sources of the spool's folder that this recorder has not published and closed yet.
    pub dead_sources: usize,
}

impl Recorder {
    /// Starts a recorder: asks the registry for the schema's id and the brokers for the topic, then starts one thread.
    /// Nothing is written to Kafka. Fails if either is not there: creating them is `agentgov topology apply`'s.
    ///
    /// With a spool, it also claims what dead processes left in the spool's folder, checks every byte of it, and fails if
    /// that is damaged. It is then published in the background, in order, under the numbers that it has; each dead source
    /// is closed with its total, and its files go when all that is durable. What is recorded meanwhile does not wait for
    /// it: between a dead source and this one there is no order, also not within a session. [`Recorder::wait_for_dead_sources`]
    /// waits for who needs one. If this process dies as well, the next start goes on. In a folder where a recorder has
    /// started before, registry and brokers may be away.
    pub fn start(options: RecorderOptions) -> Result<Self, StartError> {
        let (topic, settings) = options.topology.topic_of(subject::ACTION_EVENT)?;
        // A negative limit, which no checked topology has, is refused as too small.
        let max_message_bytes = usize::try_from(settings.max_message_bytes.value).unwrap_or_default();
        start::check(&options, max_message_bytes)?;
        let known = start::schema_id(&options, topic)?;
        let schema_id = known.schema_id;
        let source_id = options.source_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let composer =
            Composer::new(options.tenant_id, options.environment, source_id, schema_id, max_message_bytes)?
                .with_redaction(options.redact);
        let ledger = Arc::new(Ledger::new(options.buffer_events, options.buffer_bytes));
        let queue = Queue::open(&options.kafka, topic, max_message_bytes, Arc::clone(&ledger))?;
        start::check_topic(&queue, &options.kafka, known.from_spool)?;
        let mut recorder = Self::over(queue, ledger, composer, options.when_full);
        if let Some(spool) = &options.spool {
            start::note(spool, &options.registry.url, topic, &known)?;
            let with =
                Republish { kafka: options.kafka, topic: topic.to_owned(), max_message_bytes, schema_id };
            recorder.spooling(spool, with)?;
        }
        Ok(recorder)
    }

    fn over(queue: Queue, ledger: Arc<Ledger>, composer: Composer, when_full: WhenFull) -> Self {
        let encoder = composer.encoder();
        let intake =
            Intake { next: 0, phase: Phase::Open, encoder, value: Vec::with_capacity(1024), spool: None };
        let intake = Mutex::new(intake);
        Self { composer, when_full, intake, ledger, queue, spool_bytes: None, recovery: None }
    }

    /// Has the recorder keep its events in a spool, and publish what dead sources left there.
    fn spooling(&mut self, options: &SpoolOptions, with: Republish) -> Result<(), StartError> {
        let header = self.composer.spool_header(&with.topic);
        start::check_spool(options, &header, with.max_message_bytes)?;
        let folder = Folder::lock(&options.folder)?;
        let dead = folder.claim_dead()?;
        let dead = dead.into_iter().map(|dead| Found::read(dead, &with.topic)).filter_map(Result::transpose);
        let dead = dead.collect::<Result<Vec<Found>, _>>()?;
        let ledger = Arc::clone(&self.ledger);
        let failed = move |error: SpoolError| ledger.fail(error.to_string());
        self.intake().spool = Some(Spool::create(&folder, header, options, failed)?);
        self.spool_bytes = Some(options.max_bytes);
        drop(folder);
        self.recovery = Some(Recovery::start(dead, with)?);
        Ok(())
    }

    /// Takes an event: checks it, gives it the next number and enqueues it. If the buffer or the spool is full it does as
    /// [`WhenFull`] says. When it returns an error, the event has no number and is not recorded: the caller still owns it.
    ///
    /// - Without a spool it does no I/O, and when it returns `Ok`, nothing need be durable yet: the event is in this process's
    ///   memory and is delivered in the background, and only [`Recorder::flush`], [`Recorder::close`] or `durable_through` of
    ///   [`Recorder::stats`] say that it is.
    /// - With a spool it writes once, and when it returns `Ok`, the event outlives this process: whenever and however that ends, the
    ///   next start on the folder publishes it. What outlives the machine, [`Fsync`](crate::Fsync) says. If the file could
    ///   not be made to say what it should (a failed sync), the recorder stops with that reason; an event that got
    ///   [`RecordError::Stopped`] then may have reached the disk all the same.
    pub fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        let prepared = self.composer.prepare(event)?;
        let until = match self.when_full {
            WhenFull::WaitFor(patience) => Some(deadline(patience)),
            WhenFull::Wait | WhenFull::Fail => None,
        };
        loop {
            let lack = match self.enqueue(&prepared)? {
                Enqueued::As(sequence) => return Ok(Receipt { sequence, event_id: prepared.event_id() }),
                Enqueued::Not(lack) => lack,
            };
            if self.when_full == WhenFull::Fail || !self.wait_for(lack, until) {
                return Err(self.full(lack));
            }
        }
    }

    /// What [`Recorder::record`] would refuse of `event` for its own sake, without recording it: a producer that must write
    /// all or nothing asks first.
    pub fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        // No number takes more bytes than the largest.
        self.composer.prepare(event)?.encode_into(i64::MAX, &mut self.composer.encoder(), &mut Vec::new())
    }

    /// Waits until everything recorded before the call is durable: on all in-sync replicas. When it returns `Ok`, it is.
    /// On [`FlushError::Unfinished`] the named events are not acknowledged yet and still being delivered.
    pub fn flush(&self, within: Duration) -> Result<Flushed, FlushError> {
        let end = self.intake().next;
        self.settle(end, deadline(within))?;
        Ok(Flushed { durable: self.ledger.durable_below() })
    }

    /// Waits until everything that dead sources left in the spool's folder is published, and each is closed. When it returns
    /// `Ok`, all of it is durable and their files are gone. Without a spool there are none.
    pub fn wait_for_dead_sources(&self, within: Duration) -> Result<(), RecoverError> {
        self.recovery.as_ref().map_or(Ok(()), |recovery| recovery.wait(deadline(within)))
    }

    /// Ends the source: refuses further events, writes the closing event with their total, and waits for all of it. When it
    /// returns `Ok`, every event and the closing one are durable, and the source's files in the spool are gone; dead sources
    /// are not waited for. On [`FlushError::Unfinished`] the named events are still
    /// being delivered: call again to go on waiting. After [`FlushError::Stopped`] there is no closing event, so that the
    /// source is seen to have ended without a word.
    pub fn close(&self, within: Duration) -> Result<Closed, FlushError> {
        let until = deadline(within);
        let total = self.write_closing(until)?;
        self.settle(total + 1, until)?;
        let spool = self.intake().spool.take();
        if let Some(Err(error)) = spool.map(Spool::remove) {
            // Then the next start finds a source that has closed, and sends its last events once more.
            tracing::warn!(%error, source_id = self.source_id(), "recorder: closed, but its spool is not removed");
        }
        Ok(Closed { total })
    }

    /// Where the recorder stands.
    pub fn stats(&self) -> Stats {
        let accepted = self.intake().next;
        let Load { events, bytes } = self.ledger.load();
        let durable_through = self.ledger.durable_below().checked_sub(1).filter(|sequence| *sequence >= 0);
        let dead_sources = self.recovery.as_ref().map_or(0, Recovery::left);
        Stats { accepted, durable_through, waiting_events: events, waiting_bytes: bytes, dead_sources }
    }

    /// Name of this source.
    pub fn source_id(&self) -> &str {
        self.composer.source_id()
    }

    fn enqueue(&self, prepared: &PreparedEvent<'_>) -> Result<Enqueued, RecordError> {
        let mut intake = self.intake();
        if intake.phase != Phase::Open {
            return Err(RecordError::Closed { source_id: self.source_id().to_owned() });
        }
        self.enqueue_under(&mut intake, prepared, Kind::Event)
    }

    /// Numbers, spools and enqueues, in one step under the lock. The number is taken last: what fails before has none. The
    /// spool comes before the queue, so that nothing is in Kafka that the spool does not know.
    fn enqueue_under(
        &self,
        intake: &mut Intake,
        prepared: &PreparedEvent<'_>,
        kind: Kind,
    ) -> Result<Enqueued, RecordError> {
        let sequence = intake.next;
        prepared.encode_into(sequence, &mut intake.encoder, &mut intake.value)?;
        let (key, value) = (prepared.key(), &intake.value);
        let bytes = key.len() + value.len();
        match self.ledger.reserve(bytes) {
            Reserved::Yes => {}
            Reserved::Full => return Ok(Enqueued::Not(Lack::Memory { bytes })),
            Reserved::Stopped { reason } => return Err(self.stopped(reason)),
        }
        let not_enqueued = match &mut intake.spool {
            None => None,
            Some(spool) => {
                let record = Record { sequence, kind, key, value };
                match spool.append(&record, || self.ledger.durable_below()) {
                    Ok(Appended::Yes) => None,
                    Ok(Appended::Full { until, bytes }) => {
                        Some(Ok(Enqueued::Not(Lack::Spool { until, bytes })))
                    }
                    Err(AppendError::Refused(error)) => {
                        let session_id = prepared.session_id().to_owned();
                        Some(Err(RecordError::Spool { session_id, error }))
                    }
                    Err(AppendError::Broken(error)) => Some(Err(self.stop(error.to_string()))),
                }
            }
        };
        if let Some(not_enqueued) = not_enqueued {
            self.ledger.release(bytes);
            return not_enqueued;
        }
        let failed = match self.queue.send(sequence, key, value) {
            Ok(()) => {
                intake.next += 1;
                return Ok(Enqueued::As(sequence));
            }
            Err(NotEnqueued::Full) => None,
            Err(NotEnqueued::Failed(reason)) => Some(reason),
        };
        self.ledger.release(bytes);
        let taken_back = intake.spool.as_mut().map_or(Ok(()), Spool::rollback_to);
        match (failed, taken_back) {
            (None, Ok(())) => Ok(Enqueued::Not(Lack::Memory { bytes })),
            (Some(reason), _) => Err(self.stop(reason)),
            (None, Err(error)) => Err(self.stop(error.to_string())),
        }
    }

    /// Waits until what was lacking may be there. False: `until` has passed first.
    fn wait_for(&self, lack: Lack, until: Option<Instant>) -> bool {
        match lack {
            Lack::Memory { bytes } => self.ledger.wait_for_room(bytes, until),
            Lack::Spool { until: end, .. } => {
                let until = until.unwrap_or_else(|| deadline(Duration::MAX));
                !matches!(self.ledger.wait_for_durable(end, until), Settled::Unfinished(_))
            }
        }
    }

    fn full(&self, lack: Lack) -> RecordError {
        match lack {
            Lack::Memory { .. } => {
                let Load { events, bytes } = self.ledger.load();
                RecordError::Full { events, bytes }
            }
            Lack::Spool { bytes, .. } => {
                RecordError::SpoolFull { bytes, limit: self.spool_bytes.unwrap_or_default() }
            }
        }
    }

    fn write_closing(&self, until: Instant) -> Result<i64, FlushError> {
        let session_id = self.composer.closing_session();
        let event = closing_event(&session_id);
        let prepared = self.composer.prepare_closing(&event);
        loop {
            let mut intake = self.intake();
            if let Phase::Closed { total } = intake.phase {
                return Ok(total);
            }
            intake.phase = Phase::Closing;
            let total = intake.next;
            let enqueued = self.enqueue_under(&mut intake, &prepared, Kind::Closing);
            if let Ok(Enqueued::As(total)) = enqueued {
                intake.phase = Phase::Closed { total };
                return Ok(total);
            }
            drop(intake);
            match enqueued {
                Ok(Enqueued::As(total)) => return Ok(total),
                Ok(Enqueued::Not(lack)) if self.wait_for(lack, Some(until)) => {}
                // No room in time, or stopped: what is not durable is named, this event among it.
                Ok(Enqueued::Not(_)) | Err(RecordError::Stopped { .. }) => self.settle(total + 1, until)?,
                Err(error) => {
                    return Err(FlushError::Closing {
                        source_id: self.source_id().into(),
                        error: Box::new(error),
                    });
                }
            }
        }
    }

    fn settle(&self, end: i64, until: Instant) -> Result<(), FlushError> {
        let source_id = || self.source_id().to_owned();
        match self.ledger.wait_for_durable(end, until) {
            Settled::Durable => Ok(()),
            Settled::Unfinished(missing) => Err(FlushError::Unfinished { source_id: source_id(), missing }),
            Settled::Failed { reason, missing } => {
                let spooled = self.spool_bytes.is_some();
                Err(FlushError::Stopped { source_id: source_id(), reason, missing, spooled })
            }
        }
    }

    /// Stops the recorder: nothing may follow what has failed.
    fn stop(&self, reason: String) -> RecordError {
        self.ledger.fail(reason.clone());
        self.stopped(reason)
    }

    fn stopped(&self, reason: String) -> RecordError {
        RecordError::Stopped { source_id: self.source_id().to_owned(), reason }
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        // Nothing panics while it holds the lock, so the intake is whole even then.
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("composer", &self.composer).finish_non_exhaustive()
    }
}

enum Enqueued {
    As(i64),
    Not(Lack),
}

/// Where there was no room.
#[derive(Clone, Copy)]
enum Lack {
    /// For so many bytes in memory.
    Memory { bytes: usize },
    /// In the spool, until what is below `until` is durable.
    Spool { until: i64, bytes: u64 },
}

/// A recorder that is dropped without `close` waits a little for what it holds, and says so.
impl Drop for Recorder {
    fn drop(&mut self) {
        let closed = matches!(self.intake().phase, Phase::Closed { .. });
        let flushed = self.flush(if closed { Duration::ZERO } else { DROP_PATIENCE });
        match (closed, flushed) {
            (true, Ok(_)) => {}
            (false, Ok(flushed)) => {
                tracing::warn!(
                    source_id = self.source_id(),
                    durable = flushed.durable,
                    spooled = self.spool_bytes.is_some(),
                    "recorder dropped without close: everything is durable, but the source has not said that it ended; with a spool, the next start says it"
                );
            }
            (_, Err(error)) => tracing::warn!(%error, "recorder dropped before everything was durable"),
        }
    }
}

fn deadline(within: Duration) -> Instant {
    let now = Instant::now();
    // A year stands for "as long as it takes" where the clock cannot say it.
    now.checked_add(within).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

#[cfg(test)]
mod tests;
