//! Reads the actions that the evaluator has not processed yet into the replicas.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentgov_connect::{TopicEvent, TopicReader};
use agentgov_evaluator::Action;
use agentgov_runtime::{SchemaCache, SchemaLookup};
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::wire;
use agentgov_service::{Health, ShutdownSignal, StageError, logged_at};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::state::{State, report_error};

/// Timeout until the end of a partition is confirmed. After it the reader is restarted, and reports the end again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// Partitions that are paused because too many actions wait for the evaluator.
struct Paused<'r> {
    reader: &'r TopicReader,
    partitions: BTreeSet<i32>,
}

impl Paused<'_> {
    /// Pauses the partition `read` if it exceeds the bound, and resumes paused partitions that are below half of it.
    fn update(&mut self, state: &State, read: Option<i32>) {
        let limit = state.bounds.max_ahead_bytes;
        let ahead = |partition: i32| {
            let partition = usize::try_from(partition).ok().and_then(|index| state.partitions.get(index));
            partition.map_or(0, |partition| partition.replica().ahead_bytes())
        };
        if let Some(partition) = read
            && ahead(partition) > limit
            && self.partitions.insert(partition)
        {
            tracing::warn!(partition, limit, "the evaluator is behind: no further actions are read");
            self.call(partition, BaseConsumer::pause);
        }
        let resumed: Vec<i32> =
            self.partitions.iter().copied().filter(|partition| ahead(*partition) < limit / 2).collect();
        for partition in resumed {
            self.partitions.remove(&partition);
            self.call(partition, BaseConsumer::resume);
        }
    }

    fn call(
        &self,
        partition: i32,
        call: impl Fn(&BaseConsumer, &TopicPartitionList) -> rdkafka::error::KafkaResult<()>,
    ) {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.reader.topic(), partition);
        if let Err(error) = call(self.reader.consumer(), &list) {
            tracing::warn!(partition, %error, "cannot pause or resume a partition");
        }
    }
}

/// Follows the topic of actions until `stop` is requested.
pub(crate) fn follow(
    state: &State,
    reader: &TopicReader,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<(), StageError> {
    let mut last_restart = Instant::now();
    let mut paused = Paused { reader, partitions: BTreeSet::new() };
    while !stop.is_requested() {
        match reader.poll(Duration::from_millis(100)) {
            Some(TopicEvent::Record(message)) => {
                push(state, &message, schemas, health, stop);
                paused.update(state, Some(message.partition()));
            }
            Some(TopicEvent::End(partition)) => {
                if let Some(partition) = usize::try_from(partition).ok().and_then(|p| state.partitions.get(p))
                {
                    partition.freshness.reach_end();
                }
            }
            Some(TopicEvent::Error(error)) => {
                report_error(health, NotReadyReason::Kafka, reader.topic(), &error);
            }
            None => {
                let is_waiting = last_restart.elapsed() > CONFIRM_TIMEOUT
                    && state.partitions.iter().any(|p| p.freshness.is_waiting_since(last_restart));
                if is_waiting && paused.partitions.is_empty() {
                    let _ = reader.restart();
                    last_restart = Instant::now();
                }
                paused.update(state, None);
            }
        }
    }
    Ok(())
}

/// Adds a record to its replica. Skips a record that cannot be decoded, since the evaluator rejects it.
fn push(
    state: &State,
    message: &BorrowedMessage<'_>,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) {
    let Some(partition) = usize::try_from(message.partition()).ok().and_then(|p| state.partitions.get(p))
    else {
        return;
    };
    let offset = message.offset();
    let read = wire::split(message.payload().unwrap_or_default()).ok().zip(logged_at(message));
    let Some(((schema_id, datum), logged_at)) = read else {
        partition.update(|replica| replica.skip(offset));
        partition.freshness.advance(offset.saturating_add(1));
        return;
    };
    match schemas.get(schema_id, health, stop) {
        SchemaLookup::Known(schema) => {
            let action = Action { offset, logged_at, schema_id, schema: &schema, datum };
            if let Err(error) = partition.update(|replica| replica.push(&action)) {
                tracing::debug!(partition = message.partition(), offset, %error, "passed over a record");
            }
        }
        SchemaLookup::Unknown(_) => partition.update(|replica| replica.skip(offset)),
        SchemaLookup::Stopped => return,
    }
    partition.freshness.advance(offset.saturating_add(1));
}
