//! Governance topics, folded into tables: to their end before the first record, then followed.

use std::time::Duration;

use agentgov_schemas::Millis;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::wire;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::restore::reader;
use super::stage::{Processor, RestoreValue, TableRecord};
use crate::{Health, SchemaCache, SchemaLookup, StageError, Stop};

/// Readers of the stage's governance topics, one each: the end of a partition is told without the name of its topic.
pub(super) struct Tables {
    readers: Vec<(String, BaseConsumer)>,
}

impl Tables {
    pub(super) fn new(
        kafka: &agentgov_connect::KafkaEndpoint,
        stage: &str,
        topics: impl Iterator<Item = String>,
    ) -> Result<Self, StageError> {
        let mut readers = Vec::new();
        for topic in topics {
            let reader = reader(kafka, stage)?;
            let mut from_start = TopicPartitionList::new();
            from_start
                .add_partition_offset(&topic, 0, Offset::Beginning)
                .and_then(|()| reader.assign(&from_start))
                .map_err(StageError::kafka(format!("reading {topic}")))?;
            readers.push((topic, reader));
        }
        Ok(Self { readers })
    }

    /// Folds every table to its end. False if asked to stop meanwhile.
    pub(super) fn fold_to_end<P: Processor>(
        &self,
        processor: &mut P,
        topology: &Topology,
        schemas: &mut SchemaCache,
        health: &Health,
        stop: &Stop,
    ) -> bool {
        for (topic, reader) in &self.readers {
            loop {
                if stop.is_asked() {
                    return false;
                }
                match reader.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => fold(processor, topology, topic, &message, schemas, health, stop),
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    Some(Err(error)) => health.not_ready("tables", format!("reading {topic}: {error}")),
                    None => {}
                }
            }
        }
        health.clear("tables");
        true
    }

    /// Folds what has come since, without waiting.
    pub(super) fn follow<P: Processor>(
        &self,
        processor: &mut P,
        topology: &Topology,
        schemas: &mut SchemaCache,
        health: &Health,
        stop: &Stop,
    ) {
        for (topic, reader) in &self.readers {
            while let Some(event) = reader.poll(Duration::ZERO) {
                match event {
                    Ok(message) => fold(processor, topology, topic, &message, schemas, health, stop),
                    Err(KafkaError::PartitionEOF(_)) => health.clear("tables"),
                    Err(error) => health.not_ready("tables", format!("reading {topic}: {error}")),
                }
            }
        }
    }
}

fn fold<P: Processor>(
    processor: &mut P,
    topology: &Topology,
    topic: &str,
    message: &rdkafka::message::BorrowedMessage<'_>,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &Stop,
) {
    let offset = message.offset();
    let logged_at = Millis(message.timestamp().to_millis().unwrap_or_default());
    let mut give = |value| processor.fold(topology, &TableRecord { topic, offset, logged_at, value }, health);
    match wire::split(message.payload().unwrap_or_default()) {
        Err(error) => give(Err(&error.to_string())),
        Ok((id, datum)) => match schemas.get(id, health, stop) {
            SchemaLookup::Known(schema) => give(Ok(RestoreValue::new(id, &schema, datum))),
            SchemaLookup::Unknown(why) => give(Err(&why)),
            SchemaLookup::Stopped => {}
        },
    }
}
