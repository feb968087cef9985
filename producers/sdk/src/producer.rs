//! The producer: one client of Kafka, one polling thread, one buffer and one spool folder for any number of sources.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentgov_schemas::subject;
use uuid::Uuid;

use crate::deadline::deadline;
use crate::in_flight::InFlightWindow;
use crate::queue::{DeliveryTarget, Queue};
use crate::spool::{DeadSource, Recovery, SegmentHeader, Spool, SpoolFolder, Syncer};
use crate::{
    Composer, Fsync, ProducerOptions, Recorder, RecorderOptions, RecoverError, SourceOptions, SpoolError,
    SpoolOptions, StartError, start,
};

/// Delivers the events of any number of sources, of any tenants, through one client of Kafka and within one bound on memory.
/// Each [`Recorder`] that it opens is a source. Clones share the client; it ends with its last clone, recorder and future of
/// [`Recorder::durable`].
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<ProducerShared>,
}

/// State of a producer, shared by its recorders.
pub(crate) struct ProducerShared {
    /// Dropped first, so that recovery stops before the client ends.
    pub(crate) spools: Option<SpoolRoot>,
    pub(crate) queue: Queue,
    in_flight: Arc<InFlightWindow>,
    target: DeliveryTarget,
}

/// The spool folder of a producer.
pub(crate) struct SpoolRoot {
    pub(crate) options: SpoolOptions,
    syncer: Option<Syncer>,
    pub(crate) recovery: Recovery,
}

impl Producer {
    /// Starts a producer: fetches the schema id from the schema registry and the topic's metadata from the brokers, then
    /// starts a polling thread. Writes nothing to Kafka. Fails if schema or topic does not exist; `agentgov topology apply`
    /// creates both. Do not call it from async code, since it blocks on the network.
    ///
    /// With a spool, it also claims the sources that dead processes left in the spool's folder and reads their files; a
    /// damaged file is an error. A background thread publishes their events, in order and under their sequence numbers,
    /// closes each dead source with its total, and removes its files once all of that is durable. New events do not wait
    /// for this, so there is no order between a dead source and a new one, not even within a session; callers that need one
    /// call [`Producer::wait_for_dead_sources`]. If this process dies as well, the next start continues. In a folder where
    /// a producer has started before, schema registry and brokers may be unavailable.
    pub fn start(options: ProducerOptions) -> Result<Self, StartError> {
        let (topic, max_message_bytes) = topic_of(&options)?;
        start::check_producer(&options, max_message_bytes)?;
        let resolved = start::resolve_schema(&options, topic)?;
        let in_flight = Arc::new(InFlightWindow::new(options.buffer_events, options.buffer_bytes));
        let target = DeliveryTarget {
            kafka: options.kafka.clone(),
            topic: topic.to_owned(),
            max_message_bytes,
            schema_id: resolved.id,
        };
        let queue = Queue::open(&target, options.linger, Arc::clone(&in_flight))?;
        start::check_topic(&queue, &options.kafka, resolved.is_cached)?;
        if let Some(spool) = &options.spool {
            start::cache_schema(spool, &options.schema_registry.url, topic, &resolved)?;
        }
        Self::with_queue(queue, in_flight, target, options.spool)
    }

    pub(crate) fn with_queue(
        queue: Queue,
        in_flight: Arc<InFlightWindow>,
        target: DeliveryTarget,
        spool: Option<SpoolOptions>,
    ) -> Result<Self, StartError> {
        let spools = spool.map(|options| SpoolRoot::open(options, &target)).transpose()?;
        Ok(Self { shared: Arc::new(ProducerShared { spools, queue, in_flight, target }) })
    }

    /// Opens a recorder for events of one tenant and environment, which is a new source. Does no network I/O; with a spool, it
    /// creates a folder and a file. Each recorder numbers its events from 0, and is closed on its own: [`Recorder::close`].
    pub fn recorder(&self, options: SourceOptions) -> Result<Recorder, StartError> {
        let ProducerShared { spools, in_flight, target, .. } = &*self.shared;
        let spool = spools.as_ref().map(|spools| &spools.options);
        start::check_source(&options, spool, &target.topic, target.max_message_bytes)?;
        let source_id = options.source_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let composer = Composer::new(
            options.tenant_id,
            options.environment,
            source_id,
            target.schema_id,
            target.max_message_bytes,
        )?
        .with_redaction(options.redact);
        let source = in_flight.open_source(0).map_err(|reason| StartError::ProducerStopped { reason })?;
        let source = Arc::new(source);
        let spool = match spools {
            None => None,
            Some(spools) => {
                let source = Arc::clone(&source);
                let on_sync_error = move |error: SpoolError| source.fail(error.to_string());
                Some(spools.create_spool(composer.spool_header(&target.topic), on_sync_error)?)
            }
        };
        Ok(Recorder::new(Arc::clone(&self.shared), source, composer, options.when_full, spool))
    }

    /// Waits until all dead sources of the spool's folder are published and closed. `Ok` means that their events are durable
    /// and their files removed. Without a spool there are none.
    pub fn wait_for_dead_sources(&self, timeout: Duration) -> Result<(), RecoverError> {
        self.shared.wait_for_dead_sources(timeout)
    }
}

impl ProducerShared {
    pub(crate) fn wait_for_dead_sources(&self, timeout: Duration) -> Result<(), RecoverError> {
        self.spools.as_ref().map_or(Ok(()), |spools| spools.recovery.wait(deadline(timeout)))
    }

    /// Returns the number of dead sources that are not published and closed yet.
    pub(crate) fn dead_sources(&self) -> usize {
        self.spools.as_ref().map_or(0, |spools| spools.recovery.left())
    }

    /// Returns the maximum bytes of a source's spool, if there are spools.
    pub(crate) fn max_spool_bytes(&self) -> Option<u64> {
        self.spools.as_ref().map(|spools| spools.options.max_bytes)
    }
}

#[cfg(test)]
impl ProducerShared {
    /// Stops recovery, as the end of the process does.
    pub(crate) fn stop_recovery(&self) {
        if let Some(spools) = &self.spools {
            spools.recovery.stop();
        }
    }
}

impl SpoolRoot {
    /// Claims the dead sources of the folder and starts publishing them.
    fn open(options: SpoolOptions, target: &DeliveryTarget) -> Result<Self, StartError> {
        let folder = SpoolFolder::lock(&options.folder)?;
        let claimed = folder.claim_dead_sources()?.into_iter();
        let dead =
            claimed.map(|source| DeadSource::read(source, &target.topic)).filter_map(Result::transpose);
        let dead = dead.collect::<Result<Vec<DeadSource>, _>>()?;
        drop(folder);
        let syncer = match options.fsync {
            Fsync::Every(interval) => Some(Syncer::start(interval)?),
            Fsync::EveryEvent | Fsync::Never => None,
        };
        let recovery = Recovery::start(dead, target.clone())?;
        Ok(Self { options, syncer, recovery })
    }

    /// Creates the spool of a new source.
    fn create_spool(
        &self,
        header: SegmentHeader,
        on_sync_error: impl Fn(SpoolError) + Send + Sync + 'static,
    ) -> Result<Spool, SpoolError> {
        // No process may claim the source between the creation of its folder and its lock.
        let folder = SpoolFolder::lock(&self.options.folder)?;
        Spool::create(&folder, header, &self.options, self.syncer.as_ref(), on_sync_error)
    }
}

/// Starts a producer with one recorder.
pub(crate) fn start_recorder(options: RecorderOptions) -> Result<Recorder, StartError> {
    let (producer, source) = options.into_parts();
    // Checked before the start, which publishes dead sources.
    let (topic, max_message_bytes) = topic_of(&producer)?;
    start::check_source(&source, producer.spool.as_ref(), topic, max_message_bytes)?;
    Producer::start(producer)?.recorder(source)
}

/// Returns the actions topic and the maximum bytes of its records.
fn topic_of(options: &ProducerOptions) -> Result<(&str, usize), StartError> {
    let (topic, settings) = options.topology.topic_of(subject::ACTION_EVENT)?;
    // A negative limit, which no checked topology has, is rejected as too small.
    Ok((topic, usize::try_from(settings.max_message_bytes.value).unwrap_or_default()))
}

impl fmt::Debug for ProducerShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerShared").field("target", &self.target).finish_non_exhaustive()
    }
}
