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

use crate::stalls::Stalls;
use crate::state::{Partition, STAGE, State, report_error};

/// Maximum time for which the reader is behind the end of a partition's changelog. After it the partition counts as
/// loading: compaction may delete entries before they are read, and the remaining entries are no consistent state.
const MAX_TIME_BEHIND: Duration = Duration::from_secs(300);
/// Maximum time for which the reader of a loading partition is behind its end when the partition counts as loaded. A
/// partition to which the evaluator writes constantly may never report its end.
const MAX_TIME_BEHIND_LOADED: Duration = Duration::from_secs(10);
/// A partition that waits, and of which the reader returns nothing for this time, not even its end, restarts the reader.
const READER_TIMEOUT: Duration = Duration::from_secs(5);

/// Entries of one partition, from the transaction that is being read.
#[derive(Default)]
struct OpenBatch {
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    tail: Tail,
}

/// Time for which the reader is behind the end of a partition.
#[derive(Debug, Default)]
struct Tail {
    /// A time: the reader has read every entry that was committed before it.
    caught_up_at: Option<Instant>,
}

impl Tail {
    fn catch_up(&mut self, at: Option<Instant>) {
        self.caught_up_at = self.caught_up_at.max(at);
    }

    fn is_behind(&self, now: Instant, limit: Duration) -> bool {
        self.caught_up_at.is_none_or(|at| now.saturating_duration_since(at) > limit)
    }

    /// Returns whether the partition is loading after a progress entry.
    fn is_loading(&self, now: Instant, was_loading: bool) -> bool {
        self.is_behind(now, if was_loading { MAX_TIME_BEHIND_LOADED } else { MAX_TIME_BEHIND })
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
    let mut stalls = Stalls::new(READER_TIMEOUT, state.partitions.len(), Instant::now());
    while !stop.is_requested() {
        schemas.recheck(STAGE, health)?;
        match reader.poll(Duration::from_millis(25)) {
            Some(TopicEvent::Record(message)) => {
                stalls.record_event(message.partition(), Instant::now());
                take(state, reader.topic(), &message, &mut batches, schemas, health, stop)?;
            }
            Some(TopicEvent::End(number)) => {
                stalls.record_event(number, Instant::now());
                if let Some((batch, partition)) = at(&mut batches, state, number) {
                    partition.changelog.reach_end(reader.empty_at());
                    batch.tail.catch_up(reader.empty_at());
                    if partition.is_loading() {
                        partition.set_loading(false);
                    }
                }
            }
            Some(TopicEvent::Error(error)) => {
                report_error(health, NotReadyReason::Changelog, reader.topic(), &error);
            }
            None => {}
        }
        let is_waiting = |number: i32, since: Instant| {
            let waits = |p: &Partition| p.is_loading() || p.changelog.is_waiting_since(since);
            state.partition_at(number).is_some_and(waits)
        };
        if stalls.is_due(Instant::now(), is_waiting) {
            tracing::info!(topic = reader.topic(), "a partition has no events: the reader starts again");
            let _ = reader.restart();
        }
    }
    Ok(())
}

fn at<'b, 's>(
    batches: &'b mut [OpenBatch],
    state: &'s State,
    partition: i32,
) -> Option<(&'b mut OpenBatch, &'s Partition)> {
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
    let next_offset = message.offset().saturating_add(1);
    partition.set_changelog_position(next_offset);
    let key = message.key().unwrap_or_default();
    let is_progress = key == PROGRESS_KEY;
    batch.entries.push((key.to_vec(), message.payload().map(<[u8]>::to_vec)));
    let was_loading = partition.is_loading();
    // A loading partition applies each entry at once, to save memory: no request reads its replica yet.
    if !is_progress && !was_loading {
        return Ok(());
    }
    let mut is_loading = was_loading;
    if is_progress {
        partition.changelog.advance(next_offset);
        batch.tail.catch_up(partition.changelog.fresh_at());
        is_loading = batch.tail.is_loading(Instant::now(), was_loading);
    }
    if is_loading && !was_loading {
        tracing::warn!(
            topic,
            partition = message.partition(),
            "the changelog is behind: its state is not used"
        );
        partition.set_loading(true);
    }
    apply(topic, message, partition, std::mem::take(&mut batch.entries), schemas, health, stop)?;
    if was_loading && !is_loading && !stop.is_requested() {
        partition.set_loading(false);
    }
    Ok(())
}

fn apply(
    topic: &str,
    message: &BorrowedMessage<'_>,
    partition: &Partition,
    entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<(), StageError> {
    let invalid = |reason: String| StageError::OtherCluster {
        stage: STAGE.to_owned(),
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
    use crate::freshness::Freshness;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn idle_partition_is_not_behind_at_its_first_record() {
        let start = Instant::now();
        let (freshness, mut tail) = (Freshness::default(), Tail::default());
        freshness.observe_end(start, 7, 5);
        freshness.reach_end(Some(at(start, 1)));
        tail.catch_up(Some(at(start, 1)));
        assert!(!tail.is_loading(at(start, 2), true));
        // Nothing is written for an hour, and the unchanged end is confirmed.
        freshness.observe_end(at(start, 3600), 7, 5);
        tail.catch_up(freshness.fresh_at());
        assert!(!tail.is_loading(at(start, 3601), false));
    }

    #[test]
    fn partition_that_was_behind_for_too_long_is_loading() {
        let start = Instant::now();
        let mut tail = Tail::default();
        tail.catch_up(Some(start));
        tail.catch_up(None);
        assert!(!tail.is_loading(at(start, 300), false));
        assert!(tail.is_loading(at(start, 301), false), "compaction may have overtaken the reader");
        tail.catch_up(Some(at(start, 302)));
        assert!(!tail.is_loading(at(start, 302), true));
    }

    #[test]
    fn partition_with_constant_load_is_loaded_at_an_end_that_was_requested_recently() {
        let start = Instant::now();
        let (freshness, mut tail) = (Freshness::default(), Tail::default());
        freshness.observe_end(start, 1000, 0);
        let mut advance = |position, seconds| {
            freshness.advance(position);
            tail.catch_up(freshness.fresh_at());
            tail.is_loading(at(start, seconds), true)
        };
        assert!(advance(999, 59));
        assert!(advance(1000, 60), "entries were removed since the request, with later ones after that end");
        freshness.observe_end(at(start, 60), 1200, 1000);
        assert!(advance(1199, 62));
        assert!(!advance(1200, 63));
    }
}
