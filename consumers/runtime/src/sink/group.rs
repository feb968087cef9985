//! Membership of the sink in its group.

use std::time::Duration;

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::topology::Timing;
use agentgov_service::shutdown::{DropWithTimeout, GRACE_PERIOD};
use agentgov_service::{Health, ShutdownSignal, StageError};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::table_writer::{MAX_BYTES, MAX_ROWS};
use crate::consumer::{RebalanceListener, TopicPartition, member_config};

/// Timeout of a request to the group's coordinator. The loop notices no shutdown request meanwhile.
const GROUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Limit of a fetch response, compressed. All of a response is queued, however full the queue is. With the default, 1
/// MiB per partition, the sink used some 100 MB more (ADR 0031).
const MAX_FETCH_BYTES: usize = 4 << 20;

/// Joins the group to read `topics`.
pub(super) fn join(
    kafka: &KafkaEndpoint,
    group: &str,
    timing: &Timing,
    topics: &[&str],
) -> Result<DropWithTimeout<BaseConsumer<RebalanceListener>>, StageError> {
    let consumer: BaseConsumer<RebalanceListener> = member_config(kafka, group, timing)
        // Fetches a slow stream in batches. The wait does not delay rows, since inserts are further apart.
        .set("fetch.min.bytes", "262144")
        .set("fetch.wait.max.ms", "100")
        // During an insert the consumer fetches the rows of the next one, and no more.
        .set("queued.min.messages", MAX_ROWS.to_string())
        .set("queued.max.messages.kbytes", (MAX_BYTES >> 10).to_string())
        .set("fetch.max.bytes", MAX_FETCH_BYTES.to_string())
        .create_with_context(RebalanceListener::default())
        .map_err(StageError::kafka("creating the consumer"))?;
    consumer.subscribe(topics).map_err(StageError::kafka("subscribing"))?;
    Ok(DropWithTimeout::group_member(consumer))
}

/// Error of the proof of membership.
#[derive(Debug)]
pub(super) enum MembershipError {
    /// The group does not know this member in its current generation; a rebalance follows.
    NotMember(KafkaError),
    /// The brokers did not respond.
    Unknown(KafkaError),
    /// Shutdown was requested.
    Stopped,
}

/// Proves that this process is a member of the group's current generation, as only a member can commit. It commits the
/// offsets that are already committed, which changes nothing.
pub(super) fn prove_membership(
    consumer: &DropWithTimeout<BaseConsumer<RebalanceListener>>,
    partitions: &[TopicPartition],
    stop: &ShutdownSignal,
    health: &Health,
) -> Result<(), MembershipError> {
    let list = list(partitions.iter().map(|partition| (partition, Offset::Invalid)))
        .map_err(MembershipError::Unknown)?;
    let mut committed = consumer.committed_offsets(list, GROUP_TIMEOUT).map_err(classify_error)?;
    let none_yet: Vec<_> = committed
        .elements()
        .iter()
        .filter(|e| !matches!(e.offset(), Offset::Offset(_)))
        .map(|e| (e.topic().to_owned(), e.partition()))
        .collect();
    for (topic, partition) in none_yet {
        committed
            .set_partition_offset(&topic, partition, Offset::Offset(0))
            .map_err(MembershipError::Unknown)?;
    }
    commit(consumer, committed, stop, || {
        health.set_not_ready(
            NotReadyReason::Kafka,
            "the group's coordinator has accepted a commit and has not responded",
        );
    })
    .ok_or(MembershipError::Stopped)?
    .map_err(classify_error)
}

/// Commits and waits for the response. Returns `None` if shutdown was requested.
pub(super) fn commit(
    consumer: &DropWithTimeout<BaseConsumer<RebalanceListener>>,
    offsets: TopicPartitionList,
    stop: &ShutdownSignal,
    late: impl Fn(),
) -> Option<KafkaResult<()>> {
    let consumer = consumer.share();
    stop.run_cancellable_within(GRACE_PERIOD / 2, late, move || consumer.commit(&offsets, CommitMode::Sync))
}

fn classify_error(error: KafkaError) -> MembershipError {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::AssignmentLost,
        ) => MembershipError::NotMember(error),
        _ => MembershipError::Unknown(error),
    }
}

/// Builds rdkafka's list of partitions with an offset each.
pub(super) fn list<'a>(
    offsets: impl IntoIterator<Item = (&'a TopicPartition, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (at, offset) in offsets {
        list.add_partition_offset(&at.topic, at.partition, offset)?;
    }
    Ok(list)
}
