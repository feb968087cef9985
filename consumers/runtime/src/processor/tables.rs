//! Global tables from the governance topics: read to their end before the first record, then followed. The topic of
//! controls is one of them; the loop handles the controls of its stage, and the processor everything else.

use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, TopicEvent, TopicReader};
use agentgov_processor::{Processor, RestoreValue, TableRecord};
use agentgov_schemas::Millis;
use agentgov_schemas::governance::Control;
use agentgov_schemas::topology::{Stage, Topology, reader_group};
use agentgov_schemas::{NotReadyReason, subject, wire};
use agentgov_service::shutdown::DropWithTimeout;
use agentgov_service::{Health, NO_TIMESTAMP, ShutdownSignal, StageError, logged_at};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::{SchemaCache, SchemaLookup};

/// Time without an event, including the end of the partition, after which a reader is restarted
/// ([`TopicReader::restart`]).
const READER_TIMEOUT: Duration = Duration::from_secs(5);

/// Readers of the stage's governance topics, one per topic: an end-of-partition event does not name its topic.
pub(super) struct GlobalTables {
    readers: DropWithTimeout<Vec<TopicReader>>,
    stage: String,
    controls: Option<String>,
}

/// State that applying a record needs.
pub(super) struct FoldContext<'f, P> {
    pub processor: &'f mut P,
    pub topology: &'f Topology,
    pub schemas: &'f mut SchemaCache,
    pub health: &'f Health,
    pub stop: &'f ShutdownSignal,
}

impl<P: Processor> FoldContext<'_, P> {
    /// Sets or clears the processor's own reasons.
    fn report_readiness(&self) {
        self.processor.readiness(&mut |reason, why| match why {
            Some(why) => self.health.set_not_ready(reason, why),
            None => self.health.clear(reason),
        });
    }
}

/// Result of a poll of the tables.
#[derive(Debug, Default)]
pub(super) struct TableUpdates {
    /// A control resumes the stage.
    pub resume: bool,
    /// Error of a reader. The reader continues by itself when Kafka is available again.
    pub error: Option<String>,
}

impl GlobalTables {
    pub(super) fn new(
        kafka: &KafkaEndpoint,
        name: &str,
        stage: &Stage,
        topology: &Topology,
    ) -> Result<Self, StageError> {
        let mut readers = Vec::new();
        for topic in stage.global_tables.iter().map(|topic| topic.value.clone()) {
            let reader = TopicReader::new(kafka, &topic, &reader_group(name));
            let reader = reader.map_err(StageError::kafka("creating a reader"))?;
            reader.start([0]).map_err(StageError::kafka(format!("reading {topic}")))?;
            readers.push(reader);
        }
        let controls = topology.topic_of(subject::CONTROL).ok().map(|(topic, _)| topic.to_owned());
        Ok(Self { readers: DropWithTimeout::new(readers), stage: name.to_owned(), controls })
    }

    /// Reads every table to its end. Returns false if shutdown was requested meanwhile. Controls from before the start
    /// have no effect.
    pub(super) fn load<P: Processor>(&self, mut context: FoldContext<'_, P>) -> bool {
        for reader in self.readers.iter() {
            let mut last_event = Instant::now();
            loop {
                if context.stop.is_requested() {
                    return false;
                }
                context.health.heartbeat();
                if last_event.elapsed() > READER_TIMEOUT {
                    restart(reader);
                    last_event = Instant::now();
                }
                match reader.poll(Duration::from_millis(100)) {
                    Some(TopicEvent::Record(message)) => {
                        last_event = Instant::now();
                        self.apply(reader.topic(), &message, &mut context);
                    }
                    Some(TopicEvent::End(_)) => break,
                    Some(TopicEvent::Error(error)) => {
                        let topic = reader.topic();
                        context
                            .health
                            .set_not_ready(NotReadyReason::Tables, format!("reading {topic}: {error}"))
                    }
                    None => {}
                }
            }
        }
        context.processor.tables_loaded();
        context.report_readiness();
        context.health.clear(NotReadyReason::Tables);
        true
    }

    /// Applies new records, without waiting.
    pub(super) fn poll_updates<P: Processor>(&self, mut context: FoldContext<'_, P>) -> TableUpdates {
        let mut updates = TableUpdates::default();
        for reader in self.readers.iter() {
            while let Some(event) = reader.poll(Duration::ZERO) {
                match event {
                    TopicEvent::Record(message) => {
                        updates.resume |= self.apply(reader.topic(), &message, &mut context);
                    }
                    TopicEvent::End(_) => {}
                    TopicEvent::Error(error) => {
                        updates.error = Some(format!("reading {}: {error}", reader.topic()));
                    }
                }
            }
        }
        updates
    }

    /// Restarts every reader at its position, after an outage.
    pub(super) fn restart_readers(&self) {
        self.readers.iter().filter(|reader| reader.has_read()).for_each(restart);
    }

    /// Applies a record. A tombstone counts as an empty value, which no entry has. Returns true if the record resumes
    /// this stage.
    fn apply<P: Processor>(
        &self,
        topic: &str,
        message: &BorrowedMessage<'_>,
        context: &mut FoldContext<'_, P>,
    ) -> bool {
        let offset = message.offset();
        let logged_at = logged_at(message);
        let parsed;
        let unreadable;
        let value = match wire::split(message.payload().unwrap_or_default()) {
            Err(error) => {
                unreadable = error.to_string();
                Err(unreadable.as_str())
            }
            Ok((id, datum)) => match context.schemas.get_uncached(id, context.health, context.stop) {
                SchemaLookup::Known(schema) => {
                    parsed = schema;
                    Ok(RestoreValue::new(id, &parsed, datum))
                }
                SchemaLookup::Unknown(why) => {
                    unreadable = why;
                    Err(unreadable.as_str())
                }
                SchemaLookup::Stopped => return false,
            },
        };
        // The time at which an entry was logged is a part of the entry.
        let value = if logged_at.is_some() { value } else { Err(NO_TIMESTAMP) };
        let logged_at = logged_at.unwrap_or(Millis(0));
        if self.controls.as_deref() != Some(topic) {
            let record = TableRecord { topic, offset, logged_at, value };
            context.processor.update_table(context.topology, &record);
            context.report_readiness();
            return false;
        }
        let control = value
            .map_err(str::to_owned)
            .and_then(|value| value.decode::<Control<'_>>().map_err(|e| e.to_string()));
        match control {
            Ok(control) if control.stage == self.stage && control.command == Control::RESUME => true,
            Ok(_) => false,
            Err(error) => {
                tracing::error!(topic, offset, error, "ignored a control that does not decode");
                false
            }
        }
    }
}

fn restart(reader: &TopicReader) {
    if let Err(error) = reader.restart() {
        tracing::warn!(topic = reader.topic(), %error, "could not restart the reader");
    }
}
