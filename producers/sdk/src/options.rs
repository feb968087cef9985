//! Options of a recorder: endpoints, identity, bounds, spool and redaction.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::topology::Topology;

use crate::Redact;

/// Behaviour of `record` when the buffer is full. No event is lost: either it is in the buffer, or `record` returns an
/// error and the event has no sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Waits until there is room.
    Wait,
    /// Waits at most this long, then returns [`RecordError::Full`](crate::RecordError::Full).
    WaitFor(Duration),
    /// Returns [`RecordError::Full`](crate::RecordError::Full) at once.
    Fail,
}

/// When the spool is synced to disk. With each policy, an event for which `record` returned `Ok` survives the end of the
/// process, because the operating system has it. The policies differ in the events that survive a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Syncs each event before `record` returns. A power loss loses no acknowledged event. Callers wait for one sync per
    /// event, one after the other.
    EveryEvent,
    /// Syncs from a thread of its own, at most this long after a write, all events of that time at once. A power loss may
    /// lose the events of that time.
    Every(Duration),
    /// Leaves syncing to the operating system. A power loss may lose the events of about the last half minute.
    Never,
}

/// Options of a spool: bounded files with the events that Kafka has not acknowledged, which survive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// The folder; created if it does not exist. Several processes may share it, since each source has a subfolder. It must
    /// be on a local disk: locks of a network file system may outlive their process.
    pub folder: PathBuf,
    /// Maximum bytes of this source's files, at least about four times the largest event. At the maximum, `record` behaves
    /// as [`WhenFull`] says.
    pub max_bytes: u64,
    /// When the files are synced to disk.
    pub fsync: Fsync,
}

impl SpoolOptions {
    /// Creates options for a spool of 256 MiB that is synced every 100 ms.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let fsync = Fsync::Every(Duration::from_millis(100));
        Self { folder: folder.into(), max_bytes: 256 << 20, fsync }
    }
}

/// Options of a [`Recorder`](crate::Recorder).
#[derive(Clone)]
pub struct RecorderOptions {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The schema registry; used only at the start.
    pub schema_registry: SchemaRegistryEndpoint,
    /// The topology, for the actions topic and its maximum record size.
    pub topology: Arc<Topology>,
    /// The tenant of every event.
    pub tenant_id: String,
    /// The deployment environment of every event, e.g. production.
    pub environment: String,
    /// Id of this source. `None` means a new UUID of version 7. Set it only if a second run records the same events in the
    /// same order, so that sequence numbers identify the same events. Importers do that.
    pub source_id: Option<String>,
    /// Maximum bytes of encoded events in flight; at least one event of the largest size.
    pub buffer_bytes: usize,
    /// Maximum number of events in flight; at least 1.
    pub buffer_events: usize,
    /// Behaviour when either maximum is reached.
    pub when_full: WhenFull,
    /// Spool for events that Kafka has not acknowledged. `None` keeps them in memory only, and they are lost with the
    /// process. A spool excludes a `source_id`: a spooled source ends with its process, and the next process closes it.
    pub spool: Option<SpoolOptions>,
    /// Hook that removes data that must not leave the process.
    pub redact: Option<Arc<dyn Redact>>,
}

impl RecorderOptions {
    /// Creates options with a new source id, a buffer of 64 MiB and 100,000 events, [`WhenFull::Wait`], no spool and no
    /// redaction.
    pub fn new(
        kafka: KafkaEndpoint,
        schema_registry: SchemaRegistryEndpoint,
        topology: Arc<Topology>,
        tenant_id: impl Into<String>,
        environment: impl Into<String>,
    ) -> Self {
        Self {
            kafka,
            schema_registry,
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
