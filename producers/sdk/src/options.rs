//! Where a recorder writes, as whom, how much it may hold, and what it does when that is full.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::topology::Topology;

use crate::Redact;

/// What `record` does when the buffer is full. In no case is an event lost: it is in the buffer, or the caller has an
/// error and the event took no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait until there is room.
    Wait,
    /// Wait at most this long, then [`RecordError::Full`](crate::RecordError::Full).
    WaitFor(Duration),
    /// [`RecordError::Full`](crate::RecordError::Full) at once.
    Fail,
}

/// When what is in the spool is on disk. Whatever the choice, an event that `record` returned `Ok` for outlives its process:
/// it has been handed to the operating system. The choice is about what outlives the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before `record` returns, each event by itself. Nothing that was acknowledged is lost when power goes; callers pay
    /// for one sync an event, one after the other.
    EveryEvent,
    /// By a thread of its own, at most so long after it was written, whatever has gathered meanwhile at once. When power goes,
    /// what was recorded in that time may be lost.
    Every(Duration),
    /// When the operating system likes. When power goes, what was recorded in the last half minute or so may be lost.
    Never,
}

/// A spool: a bounded file of what Kafka has not acknowledged yet, so that it outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// The folder; made if it is not there. Several processes may share one: each of its sources has a folder of its own in it.
    /// On a local disk: the locks of a network file system may not end with their process.
    pub folder: PathBuf,
    /// Most bytes of this source's files; at least some four times the largest event. When it is reached, `record` does as
    /// [`WhenFull`] says.
    pub max_bytes: u64,
    /// When it is on disk.
    pub fsync: Fsync,
}

impl SpoolOptions {
    /// A spool of 256 MiB that is synced every 100 ms.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let fsync = Fsync::Every(Duration::from_millis(100));
        Self { folder: folder.into(), max_bytes: 256 << 20, fsync }
    }
}

/// What a [`Recorder`](crate::Recorder) is started with.
#[derive(Clone)]
pub struct RecorderOptions {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The schema registry; asked once, at the start.
    pub registry: SchemaRegistryEndpoint,
    /// The map: which topic carries actions, and how large a record may be there.
    pub topology: Arc<Topology>,
    /// The tenant of every event.
    pub tenant_id: String,
    /// The deployment environment of every event, e.g. production.
    pub environment: String,
    /// Name of this source. `None`: a new UUID, version 7. Give one only if a second run records the same events in the
    /// same order, so that its numbers mean the same: an importer.
    pub source_id: Option<String>,
    /// Most bytes of encoded events that wait for their acknowledgement; at least one event of the largest size.
    pub buffer_bytes: usize,
    /// Most events that wait for their acknowledgement; at least 1.
    pub buffer_events: usize,
    /// What to do when either is reached.
    pub when_full: WhenFull,
    /// Where events are kept until Kafka has acknowledged them. `None`: in memory only, and lost with the process. Not together
    /// with a `source_id`: a spooled source ends with its process, and what it left is closed by the next.
    pub spool: Option<SpoolOptions>,
    /// What must not leave the process.
    pub redact: Option<Arc<dyn Redact>>,
}

impl RecorderOptions {
    /// Options with a new source id, a buffer of 64 MiB and 100,000 events, waiting when full, without a spool,
    /// redacting nothing.
    pub fn new(
        kafka: KafkaEndpoint,
        registry: SchemaRegistryEndpoint,
        topology: Arc<Topology>,
        tenant_id: impl Into<String>,
        environment: impl Into<String>,
    ) -> Self {
        Self {
            kafka,
            registry,
            topology,
            tenant_id: tenant_id.into(),
            environment: environment.into(),
            source_id: None,
            buffer_bytes: 64 << 20,
            buffer_events: 100_000,
            when_full: WhenFull::Wait,
            spool: None,
            redact: None,
        }
    }
}

impl fmt::Debug for RecorderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecorderOptions")
            .field("kafka", &self.kafka)
            .field("tenant_id", &self.tenant_id)
            .field("environment", &self.environment)
            .field("source_id", &self.source_id)
            .field("when_full", &self.when_full)
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}
