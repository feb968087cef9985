//! What a recorder checks and asks before it starts.

use std::time::Duration;

use agentgov_connect::{KafkaEndpoint, SchemaRegistry, SchemaRegistryError};
use agentgov_schemas::subject;
use agentgov_schemas::topology::registry_subject;
use agentgov_schemas::wire::SchemaId;

use crate::queue::Queue;
use crate::spool::{Header, KnownSchema, least_bytes};
use crate::{RecorderOptions, SpoolOptions, StartError};

/// How long the brokers may take to say that the topic is there.
const METADATA: Duration = Duration::from_secs(10);
/// The same, where the start does without them.
const METADATA_IF_THERE: Duration = Duration::from_secs(2);

/// The id of this build's schema.
pub(crate) struct Known {
    pub(crate) schema_id: SchemaId,
    /// Whether the spool's folder knows it from an earlier start, which found the topic too.
    pub(crate) from_spool: bool,
}

/// Options that cannot work, by name.
pub(crate) fn check(options: &RecorderOptions, max_message_bytes: usize) -> Result<(), StartError> {
    at_least("buffer_events", 1, options.buffer_events as u64)?;
    at_least("buffer_bytes", max_message_bytes as u64, options.buffer_bytes as u64)?;
    match &options.source_id {
        Some(found) if options.spool.is_some() => Err(StartError::Option {
            option: "source_id",
            expected: "none, as there is a spool".into(),
            found: found.clone(),
        }),
        _ => Ok(()),
    }
}

/// The same of a spool's.
pub(crate) fn check_spool(
    options: &SpoolOptions,
    header: &Header,
    max_message_bytes: usize,
) -> Result<(), StartError> {
    let header = header.to_bytes().map_err(|error| StartError::Option {
        option: "spool",
        expected: "a header that can be written".to_owned(),
        found: error.to_string(),
    })?;
    at_least("spool.max_bytes", least_bytes(&header, max_message_bytes), options.max_bytes)
}

/// Asks the registry for the id of this build's schema; if it is away, the spool's folder.
pub(crate) fn schema_id(options: &RecorderOptions, topic: &str) -> Result<Known, StartError> {
    let subject = registry_subject(topic);
    let asked = SchemaRegistry::new(&options.registry)
        .and_then(|registry| registry.id_of(&subject, subject::ACTION_EVENT.latest()));
    let Some(spool) = &options.spool else {
        let schema_id = asked?.ok_or(StartError::SchemaNotRegistered { subject })?;
        return Ok(Known { schema_id, from_spool: false });
    };
    let fingerprint = format!("{}", subject::ACTION_EVENT.schema()?.fingerprint().0);
    let known = KnownSchema::recall(&spool.folder, &options.registry.url, &subject, &fingerprint);
    match (asked, known) {
        (Ok(None), _) => Err(StartError::SchemaNotRegistered { subject }),
        (Ok(Some(schema_id)), _) => {
            // Only a start that found the topic as well notes it, so that the next one may do without both.
            Ok(Known { schema_id, from_spool: known == Some(schema_id) })
        }
        (Err(error @ SchemaRegistryError::Unavailable { .. }), Some(schema_id)) => {
            tracing::warn!(%error, "recorder: starts with the schema id that its spool's folder knows");
            Ok(Known { schema_id, from_spool: true })
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Asks the brokers whether the topic is there. Where an earlier start has found it, they may be away.
pub(crate) fn check_topic(queue: &Queue, kafka: &KafkaEndpoint, known: bool) -> Result<(), StartError> {
    match queue.check_topic(kafka, if known { METADATA_IF_THERE } else { METADATA }) {
        Err(error @ StartError::Kafka { .. }) if known => {
            tracing::warn!(%error, "recorder: starts while Kafka is away");
            Ok(())
        }
        checked => checked,
    }
}

/// Notes what a start without registry and brokers needs.
pub(crate) fn note(
    options: &SpoolOptions,
    registry: &str,
    topic: &str,
    known: &Known,
) -> Result<(), StartError> {
    if known.from_spool {
        return Ok(());
    }
    let schema = KnownSchema {
        registry: registry.to_owned(),
        subject: registry_subject(topic),
        fingerprint: format!("{}", subject::ACTION_EVENT.schema()?.fingerprint().0),
        id: known.schema_id.0,
    };
    Ok(schema.note(&options.folder)?)
}

fn at_least(option: &'static str, least: u64, found: u64) -> Result<(), StartError> {
    let error =
        || StartError::Option { option, expected: format!("at least {least}"), found: found.to_string() };
    (found >= least).then_some(()).ok_or_else(error)
}
