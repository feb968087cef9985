//! What Kafka holds of a partition: its watermarks, and a record by its offset. A consumer of its own, outside the group,
//! so that the group's consumer is never moved for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, spawn_reconnect_watchdog};
use agentgov_schemas::Digest;
use agentgov_service::shutdown::DropWithTimeout;
use agentgov_service::{ShutdownSignal, StageError, logged_at};
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;

use super::TopicPartition;
use super::group::list;
use super::position::Watermarks;
use super::protocol::Identity;
use crate::consumer::is_connection_lost;

/// A stop goes unheard for so long.
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(3);
const RECORDS_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A record that Kafka holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KafkaRecord {
    pub(super) offset: i64,
    /// `None` of a record without a timestamp, of which no table has a row.
    pub(super) identity: Option<Identity>,
}

/// The consumer.
pub(super) struct TopicProbe {
    consumer: DropWithTimeout<BaseConsumer>,
    stop: ShutdownSignal,
}

impl TopicProbe {
    /// `config` is the group's: assigning needs its name, but this consumer never joins.
    pub(super) fn new(mut config: ClientConfig, stop: ShutdownSignal) -> Result<Self, StageError> {
        let consumer = config
            // What the table holds was committed when it was read: no need to wait for open transactions behind it.
            .set("isolation.level", "read_uncommitted")
            // It wants one record of each partition, however large its batch is. Yet no limit is set below the defaults: under one a
            // broker returns only the first partition's batch.
            // A fetch that waits for records that nobody wants yet holds up the next question on the same connection.
            .set("fetch.wait.max.ms", "20")
            .create()
            .map_err(StageError::kafka("kafka consumer"))?;
        Ok(Self { consumer: DropWithTimeout::new(consumer), stop })
    }

    /// Has it told again where the brokers are when it has lost them.
    pub(super) fn spawn_reconnect_watchdog(&self, kafka: &KafkaEndpoint, topic: &str) {
        spawn_reconnect_watchdog(kafka, topic, &self.consumer.share());
    }

    /// Its watermarks.
    pub(super) fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, KafkaError> {
        let (low, high) = self.consumer.fetch_watermarks(&at.topic, at.partition, WATERMARKS_TIMEOUT)?;
        Ok(Watermarks { low, high })
    }

    /// The first records at or after these offsets, all of which must lie within the watermarks.
    pub(super) fn records(
        &self,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, KafkaRecord>, KafkaError> {
        let mut held = BTreeMap::new();
        if offsets.is_empty() {
            return Ok(held);
        }
        self.consumer.assign(&list(offsets.iter().map(|(at, offset)| (at, Offset::Offset(*offset))))?)?;
        let outcome = self.collect(offsets.len(), &mut held);
        self.consumer.unassign()?;
        outcome.map(|()| held)
    }

    fn collect(
        &self,
        wanted: usize,
        held: &mut BTreeMap<TopicPartition, KafkaRecord>,
    ) -> Result<(), KafkaError> {
        let deadline = Instant::now() + RECORDS_TIMEOUT;
        let mut last = RDKafkaErrorCode::OperationTimedOut;
        while held.len() < wanted {
            if Instant::now() > deadline || self.stop.is_requested() {
                return Err(KafkaError::MessageConsumption(last));
            }
            let message = match self.consumer.poll(POLL_INTERVAL) {
                None => continue,
                Some(Ok(message)) => message,
                // Nobody polls between two looks.
                Some(Err(error)) if is_connection_lost(&error) => {
                    last = error.rdkafka_error_code().unwrap_or(last);
                    continue;
                }
                Some(Err(error)) => return Err(error),
            };
            let at = TopicPartition::new(message.topic(), message.partition());
            held.entry(at).or_insert_with(|| KafkaRecord {
                offset: message.offset(),
                identity: logged_at(&message).map(|logged_at| Identity {
                    // The digest of a tombstone is that of no bytes.
                    sha256: Digest::of(message.payload().unwrap_or_default()),
                    logged_at,
                }),
            });
        }
        Ok(())
    }
}
