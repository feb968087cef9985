//! Publishing what dead sources left, in the background: in order, under the numbers that it has, then the source's end.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::wire::SchemaId;

use super::format::{Broken, Segment};
use super::found::Found;
use crate::RecoverError;
use crate::compose::Composer;
use crate::ledger::{Ledger, Reserved, Settled};
use crate::queue::{NotEnqueued, Queue};

/// Events of a dead source that are sent and not acknowledged.
const EVENTS: usize = 10_000;
/// Their bytes, or one event of the largest size.
const BYTES: usize = 8 << 20;
/// How often a wait looks whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// The thread that publishes. Stops when dropped; what is left then is for the next start.
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

/// What publishing needs.
#[derive(Clone, Debug)]
pub(crate) struct Republish {
    pub(crate) kafka: KafkaEndpoint,
    pub(crate) topic: String,
    pub(crate) max_message_bytes: usize,
    /// Of this build's schema, which closing events are written in.
    pub(crate) schema_id: SchemaId,
}

/// How a step of publishing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is done.
    Done,
    /// The recorder was dropped before.
    Stopped,
}

impl Recovery {
    /// Publishes `dead`, one after the other.
    pub(crate) fn start(dead: Vec<Found>, with: Republish) -> std::io::Result<Self> {
        let state = State { left: dead.len(), running: !dead.is_empty(), failed: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), ..Shared::default() });
        if dead.is_empty() {
            return Ok(Self { shared, thread: None });
        }
        let thread = std::thread::Builder::new().name("agentgov-recovery".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(dead, &with)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Dead sources that are not published and closed yet.
    pub(crate) fn left(&self) -> usize {
        self.shared.lock().left
    }

    /// Waits until there are none.
    pub(crate) fn wait(&self, until: Instant) -> Result<(), RecoverError> {
        let mut state = self.shared.lock();
        loop {
            let left = state.left;
            if left == 0 {
                return Ok(());
            }
            if !state.running {
                let reason = state.failed.clone().unwrap_or_else(|| "it was stopped".to_owned());
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

impl Drop for Recovery {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, dead: Vec<Found>, with: &Republish) {
        for found in dead {
            let (source_id, events) = (found.header.source_id.clone(), found.events());
            match self.publish(&found, with) {
                Ok(Progress::Done) => {
                    tracing::info!(source_id, events, "spool: a dead source is published and closed");
                    self.lock().left -= 1;
                    self.changed.notify_all();
                }
                // Its files are for the next start.
                Ok(Progress::Stopped) => break,
                Err(reason) => {
                    tracing::error!(
                        source_id,
                        reason,
                        "spool: a dead source is not published; its files are kept"
                    );
                    self.lock().failed.get_or_insert(format!("source {source_id}: {reason}"));
                    found.dead.release();
                }
            }
        }
        self.lock().running = false;
        self.changed.notify_all();
    }

    /// Publishes one source, closes it, waits until all of that is durable, and removes its files.
    fn publish(&self, found: &Found, with: &Republish) -> Result<Progress, String> {
        let Found { dead, header, segments, first, end, closed } = found;
        let ledger = Ledger::starting_at(*first, EVENTS, BYTES.max(with.max_message_bytes));
        let ledger = Arc::new(ledger);
        let queue = Queue::open(&with.kafka, &with.topic, with.max_message_bytes, Arc::clone(&ledger))
            .map_err(|error| error.to_string())?;
        for path in segments {
            let told = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
            let bytes = fs::read(path).map_err(|error| told(&error))?;
            let changed = |broken| told(&format!("changed since it was read: {broken:?}"));
            let mut segment = match Segment::open(&bytes) {
                Ok(segment) => segment,
                Err(Broken::Torn { .. }) => break,
                Err(broken) => return Err(changed(broken)),
            };
            loop {
                let record = match segment.next() {
                    Ok(Some(record)) => record,
                    Ok(None) | Err(Broken::Torn { .. }) => break,
                    Err(broken) => return Err(changed(broken)),
                };
                if self.send(&ledger, &queue, record.sequence, record.key, record.value)? == Progress::Stopped
                {
                    return Ok(Progress::Stopped);
                }
            }
        }
        let mut total = *end;
        if !closed {
            let composer = Composer::new(
                header.tenant_id.as_str(),
                header.environment.as_str(),
                header.source_id.as_str(),
                with.schema_id,
                with.max_message_bytes,
            )
            .map_err(|error| error.to_string())?;
            let (key, value) = composer.closing(*end).map_err(|error| error.to_string())?;
            if self.send(&ledger, &queue, *end, &key, &value)? == Progress::Stopped {
                return Ok(Progress::Stopped);
            }
            total += 1;
        }
        loop {
            match ledger.wait_for_durable(total, Instant::now() + LOOK) {
                Settled::Durable => break,
                Settled::Failed { reason, .. } => return Err(reason),
                Settled::Unfinished(_) if self.stop.load(Ordering::Acquire) => return Ok(Progress::Stopped),
                Settled::Unfinished(_) => {}
            }
        }
        dead.remove(segments.iter().map(|path| path.as_path())).map_err(|error| error.to_string())?;
        Ok(Progress::Done)
    }

    /// Sends one record, as soon as there is room.
    fn send(
        &self,
        ledger: &Ledger,
        queue: &Queue,
        sequence: i64,
        key: &[u8],
        value: &[u8],
    ) -> Result<Progress, String> {
        let bytes = key.len() + value.len();
        while !self.stop.load(Ordering::Acquire) {
            match ledger.reserve(bytes) {
                Reserved::Stopped { reason } => return Err(reason),
                Reserved::Full => {
                    ledger.wait_for_room(bytes, Some(Instant::now() + LOOK));
                    continue;
                }
                Reserved::Yes => {}
            }
            match queue.send(sequence, key, value) {
                Ok(()) => return Ok(Progress::Done),
                Err(NotEnqueued::Failed(reason)) => return Err(reason),
                Err(NotEnqueued::Full) => {
                    ledger.release(bytes);
                    ledger.wait_for_room(bytes, Some(Instant::now() + LOOK));
                }
            }
        }
        Ok(Progress::Stopped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
