//! Options of producers and recorders: endpoints, bounds and spool; identity and redaction of a source.

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
    /// Syncs from a thread of its own, at most this long after a write, all events of that time at once. Sources of one producer
    /// share the thread, which syncs one file after the other. A power loss may lose the events of that time.
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
    /// Maximum bytes of the files of each source, at least about four times the largest event. At the maximum, `record` behaves
    /// as [`WhenFull`] says.
    pub max_bytes: u64,
    /// Policy for syncing the files to disk.
    pub fsync: Fsync,
}

impl SpoolOptions {
    /// Creates options for a spool of 256 MiB that is synced every 100 ms.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let fsync = Fsync::Every(Duration::from_millis(100));
        Self { folder: folder.into(), max_bytes: 256 << 20, fsync }
    }
}

/// Default of `linger`. Each batch is a request to the broker, so librdkafka's default of 5 ms is expensive for few records
/// over many partitions (ADR 0030).
pub(crate) const DEFAULT_LINGER: Duration = Duration::from_millis(40);

/// Options of a [`Producer`](crate::Producer).
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The schema registry; used only at the start.
    pub schema_registry: SchemaRegistryEndpoint,
    /// The topology, for the actions topic and its maximum record size.
    pub topology: Arc<Topology>,
    /// Maximum bytes of encoded events in flight, of all sources together; at least one event of the largest size.
    pub buffer_bytes: usize,
    /// Maximum number of events in flight, of all sources together; at least 1.
    pub buffer_events: usize,
    /// Time that an event waits for others of its partition before it is sent; `flush` takes at least as long. Zero sends at
    /// once, for few events that someone waits for. At most 15 minutes.
    pub linger: Duration,
    /// Spool for events that Kafka has not acknowledged. `None` keeps them in memory only, and they are lost with the
    /// process. A spool excludes a `source_id`: a spooled source ends with its process, and the next process closes it.
    pub spool: Option<SpoolOptions>,
}

impl ProducerOptions {
    /// Creates options with a buffer of 64 MiB and 100,000 events, a linger of 40 ms and no spool.
    pub const fn new(
        kafka: KafkaEndpoint,
        schema_registry: SchemaRegistryEndpoint,
        topology: Arc<Topology>,
    ) -> Self {
        Self {
            kafka,
            schema_registry,
            topology,
            buffer_bytes: 64 << 20,
            buffer_events: 100_000,
            linger: DEFAULT_LINGER,
            spool: None,
        }
    }
}

/// Options of one source of a [`Producer`](crate::Producer).
#[derive(Clone)]
pub struct SourceOptions {
    /// The tenant of every event.
    pub tenant_id: String,
    /// The deployment environment of every event, e.g. production.
    pub environment: String,
    /// Id of this source. `None` means a new UUID of version 7. Set it only if a second run records the same events in the
    /// same order, so that sequence numbers identify the same events. Importers do that.
    pub source_id: Option<String>,
    /// Behaviour when the buffer or the spool is full.
    pub when_full: WhenFull,
    /// Hook that removes data that must not leave the process.
    pub redact: Option<Arc<dyn Redact>>,
}

impl SourceOptions {
    /// Creates options with a new source id, [`WhenFull::Wait`] and no redaction.
    pub fn new(tenant_id: impl Into<String>, environment: impl Into<String>) -> Self {
        Self {
            tenant_id: tenant_id.into(),
            environment: environment.into(),
            source_id: None,
            when_full: WhenFull::Wait,
            redact: None,
        }
    }
}

impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions")
            .field("tenant_id", &self.tenant_id)
            .field("environment", &self.environment)
            .field("source_id", &self.source_id)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}

/// Options of a [`Recorder`](crate::Recorder) with a producer of its own: those of [`ProducerOptions`] and [`SourceOptions`].
#[derive(Clone)]
pub struct RecorderOptions {
    /// See [`ProducerOptions::kafka`].
    pub kafka: KafkaEndpoint,
    /// See [`ProducerOptions::schema_registry`].
    pub schema_registry: SchemaRegistryEndpoint,
    /// See [`ProducerOptions::topology`].
    pub topology: Arc<Topology>,
    /// See [`SourceOptions::tenant_id`].
    pub tenant_id: String,
    /// See [`SourceOptions::environment`].
    pub environment: String,
    /// See [`SourceOptions::source_id`].
    pub source_id: Option<String>,
    /// See [`ProducerOptions::buffer_bytes`].
    pub buffer_bytes: usize,
    /// See [`ProducerOptions::buffer_events`].
    pub buffer_events: usize,
    /// See [`ProducerOptions::linger`].
    pub linger: Duration,
    /// See [`SourceOptions::when_full`].
    pub when_full: WhenFull,
    /// See [`ProducerOptions::spool`].
    pub spool: Option<SpoolOptions>,
    /// See [`SourceOptions::redact`].
    pub redact: Option<Arc<dyn Redact>>,
}

impl RecorderOptions {
    /// Creates options with the defaults of [`ProducerOptions::new`] and [`SourceOptions::new`].
    pub fn new(
        kafka: KafkaEndpoint,
        schema_registry: SchemaRegistryEndpoint,
        topology: Arc<Topology>,
        tenant_id: impl Into<String>,
        environment: impl Into<String>,
    ) -> Self {
        let ProducerOptions { kafka, schema_registry, topology, buffer_bytes, buffer_events, linger, spool } =
            ProducerOptions::new(kafka, schema_registry, topology);
        let SourceOptions { tenant_id, environment, source_id, when_full, redact } =
            SourceOptions::new(tenant_id, environment);
        Self {
            kafka,
            schema_registry,
            topology,
            tenant_id,
            environment,
            source_id,
            buffer_bytes,
            buffer_events,
            linger,
            when_full,
            spool,
            redact,
        }
    }

    /// Returns the options of the producer and of its only source.
    pub(crate) fn into_parts(self) -> (ProducerOptions, SourceOptions) {
        let Self { kafka, schema_registry, topology, buffer_bytes, buffer_events, linger, spool, .. } = self;
        let Self { tenant_id, environment, source_id, when_full, redact, .. } = self;
        (
            ProducerOptions { kafka, schema_registry, topology, buffer_bytes, buffer_events, linger, spool },
            SourceOptions { tenant_id, environment, source_id, when_full, redact },
        )
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
