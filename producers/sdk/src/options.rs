//! Where a recorder writes, as whom, how much it may hold, and what it does when that is full.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{KafkaEndpoint, RegistryEndpoint};
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

/// What a [`Recorder`](crate::Recorder) is started with.
#[derive(Clone)]
pub struct RecorderOptions {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The schema registry; asked once, at the start.
    pub registry: RegistryEndpoint,
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
    /// What must not leave the process.
    pub redact: Option<Arc<dyn Redact>>,
}

impl RecorderOptions {
    /// Options with a new source id, a buffer of 64 MiB and 100,000 events, waiting when full, redacting nothing.
    pub fn new(
        kafka: KafkaEndpoint,
        registry: RegistryEndpoint,
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
            .finish_non_exhaustive()
    }
}
