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

use crate::state::{State, report_error};

/// Maximum time for which the reader is behind the end of a partition's changelog. After it the partition counts as
/// loading: compaction may delete entries before they are read, and the remaining entries are no consistent state.
const MAX_TIME_BEHIND: Duration = Duration::from_secs(300);
/// A reader that returns nothing for this time, not even an end of partition, is restarted once.
const READER_TIMEOUT: Duration = Duration::from_secs(5);

/// Entries of one partition, from the transaction that is being read.
#[derive(Default)]
struct OpenBatch {
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    tail: Tail,
}

/// Time for which the reader is behind the end of a partition. librdkafka reports an end once, so the age of the last
/// report is no measure: an idle partition has no later one.
#[derive(Debug, Default)]
struct Tail {
    /// Time of the first record after the last end.
    behind_since: Option<Instant>,
}

impl Tail {
    fn read_record(&mut self, now: Instant) {
        self.behind_since.get_or_insert(now);
    }

    fn reach_end(&mut self) {
        self.behind_since = None;
    }

    /// Returns true if compaction may have overtaken the reader.
    fn is_too_far(&self, now: Instant) -> bool {
        self.behind_since.is_some_and(|since| now.saturating_duration_since(since) > MAX_TIME_BEHIND)
    }
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
                    batch.tail.reach_end();
                    if partition.is_loading() {
                        partition.set_loading(false);
                    }
                }
            }
            Some(TopicEvent::Error(error)) => {
                report_error(health, NotReadyReason::Changelog, reader.topic(), &error);
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
    batch.tail.read_record(Instant::now());
    let key = message.key().unwrap_or_default();
    let is_progress = key == PROGRESS_KEY;
    batch.entries.push((key.to_vec(), message.payload().map(<[u8]>::to_vec)));
    // A loading partition applies each entry at once, to save memory: no request reads its replica yet.
    if !is_progress && !partition.is_loading() {
        return Ok(());
    }
    if !partition.is_loading() && batch.tail.is_too_far(Instant::now()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_partition_is_not_behind_at_its_first_record() {
        let start = Instant::now();
        let mut tail = Tail::default();
        tail.read_record(start);
        tail.reach_end();
        let later = start + MAX_TIME_BEHIND * 3;
        assert!(!tail.is_too_far(later));
        tail.read_record(later);
        assert!(!tail.is_too_far(later + MAX_TIME_BEHIND), "the end was there until this record");
        tail.read_record(later + MAX_TIME_BEHIND);
        assert!(tail.is_too_far(later + MAX_TIME_BEHIND + Duration::from_millis(1)), "no end since then");
        tail.reach_end();
        assert!(!tail.is_too_far(later + MAX_TIME_BEHIND * 2));
    }
}
