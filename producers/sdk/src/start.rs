//! Checks before a producer starts or a recorder opens: their options, the schema id and the topic.

use std::time::Duration;

use agentgov_connect::{KafkaEndpoint, SchemaRegistry, SchemaRegistryError};
use agentgov_schemas::subject;
use agentgov_schemas::topology::registry_subject;
use agentgov_schemas::wire::SchemaId;
use uuid::Uuid;

use crate::queue::Queue;
use crate::spool::{CachedSchemaId, SegmentHeader, min_spool_bytes};
use crate::{Composer, ProducerOptions, SourceOptions, SpoolOptions, StartError};

/// Timeout of the request for the topic's metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the same request if the start can continue without the brokers.
const OPTIONAL_METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum of librdkafka's `linger.ms`.
const MAX_LINGER: Duration = Duration::from_secs(900);

/// Schema id of this build's actions.
pub(crate) struct ResolvedSchema {
    pub(crate) id: SchemaId,
    /// True if the spool's folder has the id from an earlier start. That start found the topic as well.
    pub(crate) is_cached: bool,
}

/// Checks the bounds of a producer.
pub(crate) fn check_producer(options: &ProducerOptions, max_message_bytes: usize) -> Result<(), StartError> {
    at_least("buffer_events", 1, options.buffer_events as u64)?;
    at_least("buffer_bytes", max_message_bytes as u64, options.buffer_bytes as u64)?;
    if options.linger > MAX_LINGER {
        return Err(StartError::Option {
            option: "linger",
            expected: format!("at most {} s", MAX_LINGER.as_secs()),
            found: format!("{:?}", options.linger),
        });
    }
    Ok(())
}

/// Checks the options of a source, that a spooled one has no `source_id`, and that its spool is large enough.
pub(crate) fn check_source(
    options: &SourceOptions,
    spool: Option<&SpoolOptions>,
    topic: &str,
    max_message_bytes: usize,
) -> Result<(), StartError> {
    // A new id has the length of any other, and no schema id has more digits than the largest.
    let source_id = options.source_id.clone().unwrap_or_else(|| Uuid::nil().to_string());
    let (tenant_id, environment) = (options.tenant_id.as_str(), options.environment.as_str());
    let composer = Composer::new(tenant_id, environment, source_id, SchemaId(u32::MAX), max_message_bytes)?;
    let Some(spool) = spool else { return Ok(()) };
    if let Some(found) = &options.source_id {
        return Err(StartError::Option {
            option: "source_id",
            expected: "none, since the recorder has a spool".into(),
            found: found.clone(),
        });
    }
    check_spool(spool, &composer.spool_header(topic), max_message_bytes)
}

/// Checks the size of a spool.
fn check_spool(
    options: &SpoolOptions,
    header: &SegmentHeader,
    max_message_bytes: usize,
) -> Result<(), StartError> {
    let header = header.to_bytes().map_err(|error| StartError::Option {
        option: "spool",
        expected: "a header that can be written".to_owned(),
        found: error.to_string(),
    })?;
    at_least("spool.max_bytes", min_spool_bytes(&header, max_message_bytes), options.max_bytes)
}

/// Fetches the id of this build's schema from the schema registry. If that is unavailable, reads the id from the spool's
/// folder.
pub(crate) fn resolve_schema(options: &ProducerOptions, topic: &str) -> Result<ResolvedSchema, StartError> {
    let subject = registry_subject(topic);
    let registered = SchemaRegistry::new(&options.schema_registry)
        .and_then(|registry| registry.id_of(&subject, subject::ACTION_EVENT.latest()));
    let Some(spool) = &options.spool else {
        let id = registered?.ok_or(StartError::SchemaNotRegistered { subject })?;
        return Ok(ResolvedSchema { id, is_cached: false });
    };
    let fingerprint = format!("{}", subject::ACTION_EVENT.schema()?.fingerprint().0);
    let cached = CachedSchemaId::load(&spool.folder, &options.schema_registry.url, &subject, &fingerprint);
    match (registered, cached) {
        (Ok(None), _) => Err(StartError::SchemaNotRegistered { subject }),
        // A different id is not cached yet: `cache_schema` stores it only after the topic was found as well, so that a later
        // start may run without both servers.
        (Ok(Some(id)), _) => Ok(ResolvedSchema { id, is_cached: cached == Some(id) }),
        (Err(error @ SchemaRegistryError::Unavailable { .. }), Some(id)) => {
            tracing::warn!(%error, "producer: schema registry unavailable, using the schema id of the spool's folder");
            Ok(ResolvedSchema { id, is_cached: true })
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Checks that the topic exists. If an earlier start has found it (`is_known`), unavailable brokers are no error.
pub(crate) fn check_topic(queue: &Queue, kafka: &KafkaEndpoint, is_known: bool) -> Result<(), StartError> {
    match queue.check_topic(kafka, if is_known { OPTIONAL_METADATA_TIMEOUT } else { METADATA_TIMEOUT }) {
        Err(error @ StartError::Kafka { .. }) if is_known => {
            tracing::warn!(%error, "producer: started without Kafka; events are delivered once it is available");
            Ok(())
        }
        checked => checked,
    }
}

/// Stores the schema id in the spool's folder, for a start without schema registry and brokers.
pub(crate) fn cache_schema(
    options: &SpoolOptions,
    schema_registry: &str,
    topic: &str,
    resolved: &ResolvedSchema,
) -> Result<(), StartError> {
    if resolved.is_cached {
        return Ok(());
    }
    let cached = CachedSchemaId {
        registry: schema_registry.to_owned(),
        subject: registry_subject(topic),
        fingerprint: format!("{}", subject::ACTION_EVENT.schema()?.fingerprint().0),
        id: resolved.id.0,
    };
    Ok(cached.store(&options.folder)?)
}

fn at_least(option: &'static str, min: u64, found: u64) -> Result<(), StartError> {
    let error =
        || StartError::Option { option, expected: format!("at least {min}"), found: found.to_string() };
    (found >= min).then_some(()).ok_or_else(error)
}
