//! The sink's consumer: it takes note of rebalances, and leaves it to the loop when to fetch.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::topology::Timing;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::lane::{MOST_BYTES, MOST_ROWS};
use agentgov_service::stop::{GRACE, Parting};
use agentgov_service::{Health, StageError, Stop};

/// A stop goes unheard for so long.
const GROUP_TIMEOUT: Duration = Duration::from_secs(3);
/// What one answer of a broker may bring, compressed. All of it is queued, however full the queue is; with the default, 1 MiB of
/// each partition, the sink had some 100 MB more (ADR 0031).
const MOST_FETCHED: usize = 4 << 20;

/// A partition of a topic. Its name, `topic/partition`, is what claims and rows carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    name: Arc<str>,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: &str, partition: i32) -> Self {
        Self { topic: topic.into(), partition, name: format!("{topic}/{partition}").into() }
    }

    /// `topic/partition`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A rebalance, as it was told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rebalance {
    /// These are this process's partitions now.
    Assigned(Vec<TopicPartition>),
    /// None are.
    Revoked,
}

/// Takes note of rebalances.
#[derive(Debug, Default)]
pub(super) struct Notes {
    rebalances: Mutex<Vec<Rebalance>>,
    any: AtomicBool,
}

impl Notes {
    /// True if there is something to take.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What happened since the last time, in order.
    pub(super) fn take(&self) -> Vec<Rebalance> {
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut self.rebalances.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, rebalance: Rebalance) {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(rebalance);
        self.any.store(true, Ordering::Release);
    }
}

impl ClientContext for Notes {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, message, "kafka");
            }
            _ => tracing::warn!(facility, message, "kafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Notes {
    /// Answers at once, so that the group never waits for the store: an assignment with an empty one. The loop assigns
    /// the partitions when it knows where to go on.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let (rebalance, answered) = match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let assigned = partitions.elements();
                let assigned =
                    assigned.iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect();
                (Rebalance::Assigned(assigned), consumer.assign(&TopicPartitionList::new()))
            }
            _ => (Rebalance::Revoked, consumer.unassign()),
        };
        if let Err(error) = answered {
            tracing::error!(%error, ?rebalance, "the rebalance was not answered");
        }
        self.note(rebalance);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "offsets were not committed; only the lag shows it");
        }
    }
}

/// What both of the sink's consumers share.
pub(super) fn config(kafka: &KafkaEndpoint, group: &str, timing: &Timing) -> ClientConfig {
    let mut config = kafka.consumer_config(group);
    config
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("session.timeout.ms", timing.session_timeout.0.as_millis().to_string())
        .set("heartbeat.interval.ms", timing.heartbeat.0.as_millis().to_string())
        // Tried again at least this often: what is back is used within seconds.
        .set("reconnect.backoff.max.ms", "2000")
        .set("allow.auto.create.topics", "false");
    config
}

/// Joins the group, to read `topics`.
pub(super) fn join(
    config: &mut ClientConfig,
    topics: &[&str],
) -> Result<Parting<BaseConsumer<Notes>>, StageError> {
    let consumer: BaseConsumer<Notes> = config
        .set("isolation.level", "read_committed")
        // Eager: all partitions are given up before any is taken. Round robin spreads the many topics of one partition.
        .set("partition.assignment.strategy", "roundrobin")
        // A trickle is fetched in gulps: the next insert is further away than that.
        .set("fetch.min.bytes", "262144")
        .set("fetch.wait.max.ms", "100")
        // While one insert runs the next is fetched, and no more.
        .set("queued.min.messages", MOST_ROWS.to_string())
        .set("queued.max.messages.kbytes", (MOST_BYTES >> 10).to_string())
        .set("fetch.max.bytes", MOST_FETCHED.to_string())
        .create_with_context(Notes::default())
        .map_err(StageError::kafka("kafka consumer"))?;
    consumer.subscribe(topics).map_err(StageError::kafka("subscribe"))?;
    Ok(Parting::member(consumer))
}

/// Why membership is not proven.
#[derive(Debug)]
pub(super) enum NotProven {
    /// The group does not know this member in this generation: a rebalance will say more.
    NotMember(KafkaError),
    /// The brokers did not say.
    Unknown(KafkaError),
    /// Asked to stop.
    Stopped,
}

/// Proves that this process is a member of the group's present generation: only a member can commit. What it commits is
/// what was committed before.
pub(super) fn prove_membership(
    consumer: &Parting<BaseConsumer<Notes>>,
    partitions: &[TopicPartition],
    stop: &Stop,
    health: &Health,
) -> Result<(), NotProven> {
    let list =
        list(partitions.iter().map(|partition| (partition, Offset::Invalid))).map_err(NotProven::Unknown)?;
    let mut committed = consumer.committed_offsets(list, GROUP_TIMEOUT).map_err(proof)?;
    let none_yet: Vec<_> = committed
        .elements()
        .iter()
        .filter(|e| !matches!(e.offset(), Offset::Offset(_)))
        .map(|e| (e.topic().to_owned(), e.partition()))
        .collect();
    for (topic, partition) in none_yet {
        committed.set_partition_offset(&topic, partition, Offset::Offset(0)).map_err(NotProven::Unknown)?;
    }
    commit(consumer, committed, stop, || {
        health.not_ready(
            NotReadyReason::Kafka,
            "the group's coordinator has accepted a commit and does not answer",
        );
    })
    .ok_or(NotProven::Stopped)?
    .map_err(proof)
}

/// Commits, and waits for the answer. `None`: asked to stop.
pub(super) fn commit(
    consumer: &Parting<BaseConsumer<Notes>>,
    offsets: TopicPartitionList,
    stop: &Stop,
    late: impl Fn(),
) -> Option<KafkaResult<()>> {
    let consumer = consumer.share();
    stop.race_last(GRACE / 2, late, move || consumer.commit(&offsets, CommitMode::Sync))
}

fn proof(error: KafkaError) -> NotProven {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::AssignmentLost,
        ) => NotProven::NotMember(error),
        _ => NotProven::Unknown(error),
    }
}

/// Partitions with an offset each, as rdkafka wants them.
pub(super) fn list<'a>(
    offsets: impl IntoIterator<Item = (&'a TopicPartition, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (at, offset) in offsets {
        list.add_partition_offset(&at.topic, at.partition, offset)?;
    }
    Ok(list)
}
