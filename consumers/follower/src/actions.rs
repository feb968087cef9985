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

use crate::stalls::Stalls;
use crate::state::{STAGE, State, report_error};

/// Timeout until the end of a partition is confirmed. After it the reader is restarted, and reports the end again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of a poll. An end confirms only the requests before the last poll without an event, so a longer timeout costs
/// restarts.
const POLL_TIMEOUT: Duration = Duration::from_millis(25);

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
            state.partition_at(partition).map_or(0, |partition| partition.replica().ahead_bytes())
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

    /// Pauses the partitions of a reader that was restarted.
    fn pause_again(&self) {
        self.partitions.iter().for_each(|partition| self.call(*partition, BaseConsumer::pause));
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
    let mut stalls = Stalls::new(CONFIRM_TIMEOUT, state.partitions.len(), Instant::now());
    let mut paused = Paused { reader, partitions: BTreeSet::new() };
    while !stop.is_requested() {
        schemas.recheck(STAGE, health)?;
        match reader.poll(POLL_TIMEOUT) {
            Some(TopicEvent::Record(message)) => {
                push(state, &message, schemas, health, stop);
                stalls.record_event(message.partition(), Instant::now());
                paused.update(state, Some(message.partition()));
            }
            Some(TopicEvent::End(number)) => {
                stalls.record_event(number, Instant::now());
                if let Some(partition) = state.partition_at(number) {
                    partition.freshness.reach_end(reader.empty_at());
                }
            }
            Some(TopicEvent::Error(error)) => {
                report_error(health, NotReadyReason::Kafka, reader.topic(), &error);
            }
            None => paused.update(state, None),
        }
        let is_waiting = |number: i32, since: Instant| {
            !paused.partitions.contains(&number)
                && state.partition_at(number).is_some_and(|p| p.freshness.is_waiting_since(since))
        };
        if stalls.is_due(Instant::now(), is_waiting) {
            let _ = reader.restart();
            paused.pause_again();
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
    let Some(partition) = state.partition_at(message.partition()) else { return };
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
