//! Reads watermarks and single records of partitions. Uses a consumer of its own, outside the group, so that the
//! position of the group's consumer never moves.

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

/// Timeout of a request for watermarks. The loop notices no shutdown request meanwhile.
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(3);
const RECORDS_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Record that Kafka holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KafkaRecord {
    pub(super) offset: i64,
    /// `None` for a record without a timestamp; no table has a row for it.
    pub(super) identity: Option<Identity>,
}

/// Consumer that reads watermarks and single records.
pub(super) struct TopicProbe {
    consumer: DropWithTimeout<BaseConsumer>,
    stop: ShutdownSignal,
}

impl TopicProbe {
    /// Creates the consumer. `config` is that of the group, whose name an assignment requires; the consumer never joins
    /// it.
    pub(super) fn new(mut config: ClientConfig, stop: ShutdownSignal) -> Result<Self, StageError> {
        let consumer = config
            // Rows of the table come from committed records, so there is no need to wait for open transactions after
            // them.
            .set("isolation.level", "read_uncommitted")
            // Each partition needs one record, however large its batch. No limit is set below the defaults, under which
            // a broker returns only the first partition's batch. A fetch that waits for further records delays the next
            // request on the same connection.
            .set("fetch.wait.max.ms", "20")
            .create()
            .map_err(StageError::kafka("creating the consumer of tail reads"))?;
        Ok(Self { consumer: DropWithTimeout::new(consumer), stop })
    }

    /// Starts the watchdog that re-adds the bootstrap brokers after the client has lost all brokers.
    pub(super) fn spawn_reconnect_watchdog(&self, kafka: &KafkaEndpoint, topic: &str) {
        spawn_reconnect_watchdog(kafka, topic, &self.consumer.share());
    }

    /// Returns the watermarks of a partition.
    pub(super) fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, KafkaError> {
        let (low, high) = self.consumer.fetch_watermarks(&at.topic, at.partition, WATERMARKS_TIMEOUT)?;
        Ok(Watermarks { low, high })
    }

    /// Returns the first records at or after these offsets, all of which must lie within the watermarks.
    pub(super) fn records(
        &self,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, KafkaRecord>, KafkaError> {
        let mut found = BTreeMap::new();
        if offsets.is_empty() {
            return Ok(found);
        }
        self.consumer.assign(&list(offsets.iter().map(|(at, offset)| (at, Offset::Offset(*offset))))?)?;
        let outcome = self.collect(offsets.len(), &mut found);
        self.consumer.unassign()?;
        outcome.map(|()| found)
    }

    fn collect(
        &self,
        wanted: usize,
        found: &mut BTreeMap<TopicPartition, KafkaRecord>,
    ) -> Result<(), KafkaError> {
        let deadline = Instant::now() + RECORDS_TIMEOUT;
        let mut last = RDKafkaErrorCode::OperationTimedOut;
        while found.len() < wanted {
            if Instant::now() > deadline || self.stop.is_requested() {
                return Err(KafkaError::MessageConsumption(last));
            }
            let message = match self.consumer.poll(POLL_INTERVAL) {
                None => continue,
                Some(Ok(message)) => message,
                // Errors queue up between two reads, as nothing polls the consumer then.
                Some(Err(error)) if is_connection_lost(&error) => {
                    last = error.rdkafka_error_code().unwrap_or(last);
                    continue;
                }
                Some(Err(error)) => return Err(error),
            };
            let at = TopicPartition::new(message.topic(), message.partition());
            found.entry(at).or_insert_with(|| KafkaRecord {
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
