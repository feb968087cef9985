//! Reads the evaluator's changelog into the replicas.

use std::time::{Duration, Instant};

use agentgov_connect::{TopicEvent, TopicReader};
use agentgov_evaluator::PROGRESS_KEY;
use agentgov_processor::RestoreValue;
use agentgov_runtime::{SchemaCache, SchemaLookup};
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::wire;
use agentgov_service::{Health, ShutdownSignal, StageError};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::state::State;

/// Maximum time since the reader last reached the end of a partition's changelog. After it the partition counts as
/// behind: compaction may delete entries before they are read, and the remaining entries are no consistent state.
const MAX_TIME_BEHIND: Duration = Duration::from_secs(300);
/// A reader that returns nothing for this time, not even an end of partition, is restarted once.
const READER_TIMEOUT: Duration = Duration::from_secs(5);

/// Entries of one partition, from the transaction that is being read.
#[derive(Default)]
struct OpenBatch {
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Time at which the reader last reached the end of the partition.
    last_end: Option<Instant>,
}

/// Follows the changelog until `stop` is requested.
pub(crate) fn follow(
    state: &State,
    reader: &TopicReader,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<(), StageError> {
    let mut batches: Vec<OpenBatch> = state.partitions.iter().map(|_| OpenBatch::default()).collect();
    let mut last_event = Instant::now();
    while !stop.is_requested() {
        match reader.poll(Duration::from_millis(100)) {
            Some(TopicEvent::Record(message)) => {
                last_event = Instant::now();
                take(state, reader.topic(), &message, &mut batches, schemas, health, stop)?;
            }
            Some(TopicEvent::End(partition)) => {
                last_event = Instant::now();
                if let Some((batch, partition)) = at(&mut batches, state, partition) {
                    batch.last_end = Some(Instant::now());
                    if partition.is_loading() {
                        partition.set_loading(false);
                    }
                }
                health.clear(NotReadyReason::Changelog);
            }
            Some(TopicEvent::Error(error)) => {
                health
                    .set_not_ready(NotReadyReason::Changelog, format!("reading {}: {error}", reader.topic()));
            }
            None if !reader.has_read() && last_event.elapsed() > READER_TIMEOUT => {
                let _ = reader.restart();
                last_event = Instant::now();
            }
            None => {}
        }
    }
    Ok(())
}

fn at<'b, 's>(
    batches: &'b mut [OpenBatch],
    state: &'s State,
    partition: i32,
) -> Option<(&'b mut OpenBatch, &'s crate::state::Partition)> {
    let index = usize::try_from(partition).ok()?;
    Some((batches.get_mut(index)?, state.partitions.get(index)?))
}

fn take(
    state: &State,
    topic: &str,
    message: &BorrowedMessage<'_>,
    batches: &mut [OpenBatch],
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<(), StageError> {
    let Some((batch, partition)) = at(batches, state, message.partition()) else {
        return Err(StageError::Config(format!(
            "{topic}: expected partitions 0 to {}, found partition {}; run `agentgov topology plan`",
            state.partitions.len().saturating_sub(1),
            message.partition()
        )));
    };
    let key = message.key().unwrap_or_default();
    let is_progress = key == PROGRESS_KEY;
    batch.entries.push((key.to_vec(), message.payload().map(<[u8]>::to_vec)));
    // A loading partition applies each entry at once, to save memory: no request reads its replica yet.
    if !is_progress && !partition.is_loading() {
        return Ok(());
    }
    if !partition.is_loading() && batch.last_end.is_none_or(|end| end.elapsed() > MAX_TIME_BEHIND) {
        tracing::warn!(
            topic,
            partition = message.partition(),
            "the changelog is behind: its state is not used"
        );
        partition.set_loading(true);
    }
    apply(topic, message, partition, std::mem::take(&mut batch.entries), schemas, health, stop)
}

fn apply(
    topic: &str,
    message: &BorrowedMessage<'_>,
    partition: &crate::state::Partition,
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<(), StageError> {
    let invalid = |reason: String| StageError::OtherCluster {
        stage: "pdp".to_owned(),
        topic: topic.to_owned(),
        partition: message.partition(),
        message: format!(
            "an entry at or before offset {} is none of the evaluator's: {reason}",
            message.offset()
        ),
    };
    let mut resolved = Vec::with_capacity(entries.len());
    for (_, value) in &entries {
        let Some(bytes) = value else {
            resolved.push(None);
            continue;
        };
        let (id, datum) = wire::split(bytes).map_err(|e| invalid(e.to_string()))?;
        match schemas.get_uncached(id, health, stop) {
            SchemaLookup::Known(schema) => resolved.push(Some((id, schema, datum))),
            SchemaLookup::Unknown(reason) => return Err(invalid(reason)),
            SchemaLookup::Stopped => return Ok(()),
        }
    }
    partition
        .update(|replica| {
            entries.iter().zip(&resolved).try_for_each(|((key, _), value)| {
                let value = value.as_ref().map(|(id, schema, datum)| RestoreValue::new(*id, schema, datum));
                replica.apply_entry(key, value)
            })
        })
        .map_err(|error| invalid(error.to_string()))
}
