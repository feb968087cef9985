//! Governance topics, folded into tables: to their end before the first record, then followed. The topic of controls is
//! among them: what operators tell the stage is for the loop, all else is for the stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, keep_reaching};
use agentgov_schemas::Millis;
use agentgov_schemas::governance::Control;
use agentgov_schemas::topology::{Stage, Topology};
use agentgov_schemas::{subject, wire};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::restore::reader;
use super::stage::{Processor, RestoreValue, TableRecord};
use crate::stop::Parting;
use crate::{Health, SchemaCache, SchemaLookup, StageError, Stop};

/// A reader that has said nothing for so long, not even that it is at the end, is told again where to read: one whose first
/// request met a broker that was going away has been seen to wait for ever.
const QUIET: Duration = Duration::from_secs(5);

/// Readers of the stage's governance topics, one each: the end of a partition is told without the name of its topic.
pub(super) struct Tables {
    readers: Parting<Vec<(String, Arc<BaseConsumer>)>>,
    stage: String,
    controls: Option<String>,
}

/// What folding needs beside the readers.
pub(super) struct Folding<'f, P> {
    pub processor: &'f mut P,
    pub topology: &'f Topology,
    pub schemas: &'f mut SchemaCache,
    pub health: &'f Health,
    pub stop: &'f Stop,
}

/// What following came to.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// An operator told the stage to resume.
    pub resume: bool,
    /// Kafka is in trouble. It is read on by itself when Kafka is back.
    pub trouble: Option<String>,
}

impl Tables {
    pub(super) fn new(
        kafka: &KafkaEndpoint,
        name: &str,
        stage: &Stage,
        topology: &Topology,
    ) -> Result<Self, StageError> {
        let mut readers = Vec::new();
        for topic in stage.tables.iter().map(|topic| topic.value.clone()) {
            let reader = Arc::new(reader(kafka, name)?);
            keep_reaching(kafka, &topic, &reader);
            let mut from_start = TopicPartitionList::new();
            from_start
                .add_partition_offset(&topic, 0, Offset::Beginning)
                .and_then(|()| reader.assign(&from_start))
                .map_err(StageError::kafka(format!("reading {topic}")))?;
            readers.push((topic, reader));
        }
        let controls = topology.topic_of(subject::CONTROL).ok().map(|(topic, _)| topic.to_owned());
        Ok(Self { readers: Parting::other(readers), stage: name.to_owned(), controls })
    }

    /// Folds every table to its end. False if asked to stop meanwhile. What operators told earlier is over.
    pub(super) fn fold_to_end<P: Processor>(&self, mut folding: Folding<'_, P>) -> bool {
        for (topic, reader) in self.readers.iter() {
            let (mut next, mut quiet) = (Offset::Beginning, Instant::now());
            loop {
                if folding.stop.is_asked() {
                    return false;
                }
                folding.health.alive();
                if quiet.elapsed() > QUIET {
                    read_from(topic, reader, next);
                    quiet = Instant::now();
                }
                match reader.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => {
                        (next, quiet) = (Offset::Offset(message.offset() + 1), Instant::now());
                        self.fold(topic, &message, &mut folding);
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    Some(Err(error)) => {
                        folding.health.not_ready("tables", format!("reading {topic}: {error}"))
                    }
                    None => {}
                }
            }
        }
        folding.health.clear("tables");
        true
    }

    /// Folds what has come since, without waiting.
    pub(super) fn follow<P: Processor>(&self, mut folding: Folding<'_, P>) -> Followed {
        let mut followed = Followed::default();
        for (topic, reader) in self.readers.iter() {
            while let Some(event) = reader.poll(Duration::ZERO) {
                match event {
                    Ok(message) => followed.resume |= self.fold(topic, &message, &mut folding),
                    Err(KafkaError::PartitionEOF(_)) => {}
                    Err(error) => followed.trouble = Some(format!("reading {topic}: {error}")),
                }
            }
        }
        followed
    }

    /// After an outage: has every reader go on where it is.
    pub(super) fn go_on(&self) {
        for (topic, reader) in self.readers.iter() {
            let next = reader.position().ok().and_then(|at| at.elements().first().map(|at| at.offset()));
            if let Some(next @ Offset::Offset(_)) = next {
                read_from(topic, reader, next);
            }
        }
    }

    /// True if the record tells this stage to resume.
    fn fold<P: Processor>(
        &self,
        topic: &str,
        message: &BorrowedMessage<'_>,
        folding: &mut Folding<'_, P>,
    ) -> bool {
        let offset = message.offset();
        let logged_at = Millis(message.timestamp().to_millis().unwrap_or_default());
        let parsed;
        let unreadable;
        let value = match wire::split(message.payload().unwrap_or_default()) {
            Err(error) => {
                unreadable = error.to_string();
                Err(unreadable.as_str())
            }
            Ok((id, datum)) => match folding.schemas.get(id, folding.health, folding.stop) {
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
        if self.controls.as_deref() != Some(topic) {
            let record = TableRecord { topic, offset, logged_at, value };
            folding.processor.fold(folding.topology, &record, folding.health);
            return false;
        }
        let control = value
            .map_err(str::to_owned)
            .and_then(|value| value.decode::<Control<'_>>().map_err(|e| e.to_string()));
        match control {
            Ok(control) if control.stage == self.stage && control.command == Control::RESUME => true,
            Ok(_) => false,
            Err(error) => {
                tracing::error!(topic, offset, error, "a control that cannot be read is passed over");
                false
            }
        }
    }
}

/// Reads on at `next`, from a new start of the fetcher.
fn read_from(topic: &str, reader: &BaseConsumer, next: Offset) {
    let mut from = TopicPartitionList::new();
    if let Err(error) = from.add_partition_offset(topic, 0, next).and_then(|()| reader.assign(&from)) {
        tracing::warn!(topic, %error, "reading on");
    }
}
