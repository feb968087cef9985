//! The recorder: one lock under which an event gets its number and its place in the queue.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_connect::SchemaRegistry;
use agentgov_schemas::event::Agent;
use agentgov_schemas::topology::registry_subject;
use agentgov_schemas::wire::Encoder;
use agentgov_schemas::{catalogue, subject};
use uuid::Uuid;

use crate::ledger::{Ledger, Load, Reserved, Settled};
use crate::queue::{NotEnqueued, Queue};
use crate::{Composer, Event, FlushError, Prepared, RecordError, RecorderOptions, StartError, WhenFull};

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
}

/// What the lock guards: numbering and enqueueing are one step, so that the order of numbers is the order in a partition.
struct Intake {
    next: i64,
    phase: Phase,
    encoder: Encoder<'static>,
    value: Vec<u8>,
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
}

impl Recorder {
    /// Starts a recorder: asks the registry for the schema's id and the brokers for the topic, then starts one thread.
    /// Nothing is written. Fails if either is not there: creating them is `agentgov topology apply`'s.
    pub fn start(options: RecorderOptions) -> Result<Self, StartError> {
        let (topic, settings) = options.topology.topic_of(subject::ACTION_EVENT)?;
        let max_message_bytes = usize::try_from(settings.max_message_bytes.value).unwrap_or_default();
        check_buffer(&options, max_message_bytes)?;
        let subject = registry_subject(topic);
        let schema = subject::ACTION_EVENT.latest();
        let schema_id = SchemaRegistry::new(&options.registry)?
            .id_of(&subject, schema)?
            .ok_or(StartError::SchemaNotRegistered { subject })?;
        let source_id = options.source_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let composer =
            Composer::new(options.tenant_id, options.environment, source_id, schema_id, max_message_bytes)?
                .redacting(options.redact);
        let ledger = Arc::new(Ledger::new(options.buffer_events, options.buffer_bytes));
        let queue = Queue::open(&options.kafka, topic, max_message_bytes, Arc::clone(&ledger))?;
        queue.check_topic(&options.kafka)?;
        Ok(Self::over(queue, ledger, composer, options.when_full))
    }

    fn over(queue: Queue, ledger: Arc<Ledger>, composer: Composer, when_full: WhenFull) -> Self {
        let encoder = composer.encoder();
        let intake = Intake { next: 0, phase: Phase::Open, encoder, value: Vec::with_capacity(1024) };
        Self { composer, when_full, intake: Mutex::new(intake), ledger, queue }
    }

    /// Takes an event: checks it, gives it the next number and enqueues it. Does no I/O; if the buffer is full it does as
    /// [`WhenFull`] says. When it returns `Ok`, nothing need be durable yet: the event is in this process's memory and is
    /// delivered in the background, and only [`Recorder::flush`], [`Recorder::close`] or `durable_through` of
    /// [`Recorder::stats`] say that it is. When it returns an error, the event has no number and is never written.
    pub fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        let prepared = self.composer.prepare(event)?;
        let until = match self.when_full {
            WhenFull::WaitFor(patience) => Some(deadline(patience)),
            WhenFull::Wait | WhenFull::Fail => None,
        };
        loop {
            let bytes = match self.enqueue(&prepared)? {
                Enqueued::As(sequence) => return Ok(Receipt { sequence, event_id: prepared.event_id() }),
                Enqueued::Full { bytes } => bytes,
            };
            if self.when_full == WhenFull::Fail || !self.ledger.wait_for_room(bytes, until) {
                let Load { events, bytes } = self.ledger.load();
                return Err(RecordError::Full { events, bytes });
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

    /// Ends the source: refuses further events, writes the closing event with their total, and waits for all of it. When it
    /// returns `Ok`, every event and the closing one are durable. On [`FlushError::Unfinished`] the named events are still
    /// being delivered: call again to go on waiting. After [`FlushError::Stopped`] there is no closing event, so that the
    /// source is seen to have ended without a word.
    pub fn close(&self, within: Duration) -> Result<Closed, FlushError> {
        let until = deadline(within);
        let total = self.write_closing(until)?;
        self.settle(total + 1, until)?;
        Ok(Closed { total })
    }

    /// Where the recorder stands.
    pub fn stats(&self) -> Stats {
        let accepted = self.intake().next;
        let Load { events, bytes } = self.ledger.load();
        let durable_through = self.ledger.durable_below().checked_sub(1).filter(|sequence| *sequence >= 0);
        Stats { accepted, durable_through, waiting_events: events, waiting_bytes: bytes }
    }

    /// Name of this source.
    pub fn source_id(&self) -> &str {
        self.composer.source_id()
    }

    fn enqueue(&self, prepared: &Prepared<'_>) -> Result<Enqueued, RecordError> {
        let mut intake = self.intake();
        if intake.phase != Phase::Open {
            return Err(RecordError::Closed { source_id: self.source_id().to_owned() });
        }
        self.enqueue_under(&mut intake, prepared)
    }

    /// Numbers and enqueues, in one step under the lock. The number is taken last: what fails before has none.
    fn enqueue_under(&self, intake: &mut Intake, prepared: &Prepared<'_>) -> Result<Enqueued, RecordError> {
        let sequence = intake.next;
        prepared.encode_into(sequence, &mut intake.encoder, &mut intake.value)?;
        let bytes = prepared.key().len() + intake.value.len();
        match self.ledger.reserve(bytes) {
            Reserved::Yes => {}
            Reserved::Full => return Ok(Enqueued::Full { bytes }),
            Reserved::Stopped { reason } => return Err(self.stopped(reason)),
        }
        match self.queue.send(sequence, prepared.key(), &intake.value) {
            Ok(()) => {
                intake.next += 1;
                Ok(Enqueued::As(sequence))
            }
            Err(NotEnqueued::Full) => {
                self.ledger.release(bytes);
                Ok(Enqueued::Full { bytes })
            }
            Err(NotEnqueued::Failed(reason)) => {
                self.ledger.release(bytes);
                self.ledger.fail(reason.clone());
                Err(self.stopped(reason))
            }
        }
    }

    fn write_closing(&self, until: Instant) -> Result<i64, FlushError> {
        let session_id = format!("source/{}", self.source_id());
        let agent =
            Agent { id: env!("CARGO_PKG_NAME"), name: None, version: Some(env!("CARGO_PKG_VERSION")) };
        let event = Event::new(catalogue::SOURCE_CLOSED, &session_id, agent);
        let prepared = self.composer.prepare_closing(&event);
        loop {
            let mut intake = self.intake();
            if let Phase::Closed { total } = intake.phase {
                return Ok(total);
            }
            intake.phase = Phase::Closing;
            let total = intake.next;
            let enqueued = self.enqueue_under(&mut intake, &prepared);
            if let Ok(Enqueued::As(total)) = enqueued {
                intake.phase = Phase::Closed { total };
                return Ok(total);
            }
            drop(intake);
            match enqueued {
                Ok(Enqueued::As(total)) => return Ok(total),
                Ok(Enqueued::Full { bytes }) if self.ledger.wait_for_room(bytes, Some(until)) => {}
                // No room in time, or stopped: what is not durable is named, this event among it.
                Ok(Enqueued::Full { .. }) | Err(RecordError::Stopped { .. }) => {
                    self.settle(total + 1, until)?
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

    fn settle(&self, end: i64, until: Instant) -> Result<(), FlushError> {
        let source_id = || self.source_id().to_owned();
        match self.ledger.wait_for_durable(end, until) {
            Settled::Durable => Ok(()),
            Settled::Unfinished(missing) => Err(FlushError::Unfinished { source_id: source_id(), missing }),
            Settled::Failed { reason, missing } => {
                Err(FlushError::Stopped { source_id: source_id(), reason, missing })
            }
        }
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
    Full { bytes: usize },
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
                    "recorder dropped without close: everything is durable, but the source has not said that it ended"
                );
            }
            (_, Err(error)) => tracing::warn!(%error, "recorder dropped before everything was durable"),
        }
    }
}

fn check_buffer(options: &RecorderOptions, max_message_bytes: usize) -> Result<(), StartError> {
    let check = |option, least: usize, found: usize| {
        let error =
            || StartError::Option { option, expected: format!("at least {least}"), found: found.to_string() };
        (found >= least).then_some(()).ok_or_else(error)
    };
    check("buffer_events", 1, options.buffer_events)?;
    check("buffer_bytes", max_message_bytes, options.buffer_bytes)
}

fn deadline(within: Duration) -> Instant {
    let now = Instant::now();
    // A year stands for "as long as it takes" where the clock cannot say it.
    now.checked_add(within).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

#[cfg(test)]
mod tests;
