//! Restores the state of partitions from the changelog and finds their resume offsets.
//!
//! The order is the contract: first the committed offsets, then the changelog to its end, then the first record. The
//! changelog's progress entry and the offsets are written in one transaction, so both must be equal. While the
//! changelog is behind, the marker of its transaction has not been written yet, and the restore keeps reading. A
//! transaction without a record commits the offset of the one before it; the metadata of the committed offset then
//! holds the side-output watermark.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentgov_connect::{TopicEvent, TopicReader};
use agentgov_processor::{Processor, RestoreValue};
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::escape::EscapedBytes;
use agentgov_schemas::topology::reader_group;
use agentgov_schemas::wire;
use agentgov_service::shutdown::DropWithTimeout;
use agentgov_service::{Health, ShutdownSignal, StageError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use crate::{SchemaCache, SchemaLookup, hooks};

/// Time for which the changelog may stay behind the committed offsets; longer than any transaction. The restore then
/// starts again once, as the broker may have been unavailable for a part of that time. A second timeout is an error.
const MARKER_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a call, after which it is retried. The loop notices no shutdown request meanwhile.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// State and resume offset of an assigned partition.
pub(super) struct RestoredPartition<P: Processor> {
    pub state: P::Partition,
    pub next_offset: i64,
    /// Accepted gap that is not recorded yet: the first lost offset, and the first offset that still exists.
    pub gap: Option<(i64, i64)>,
    /// End of proven skipped offsets after `next_offset`, not committed yet.
    pub empty_to: Option<i64>,
}

/// Committed offset of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Committed {
    offset: Option<i64>,
    /// Side-output watermark, if the offset was committed without a record.
    side_output_watermark: i64,
}

/// Returns the metadata of a committed offset: [`Processor::side_output_watermark`] in decimal.
pub(super) fn watermark_metadata(watermark: i64) -> String {
    watermark.to_string()
}

/// Parses [`watermark_metadata`]. An offset that was committed with records has empty metadata.
fn parse_watermark(metadata: &str) -> Option<i64> {
    if metadata.is_empty() { Some(0) } else { metadata.parse().ok() }
}

impl Committed {
    /// # Errors
    /// Fails if the broker does not return the offset, or if another client wrote the metadata.
    fn of(element: &TopicPartitionListElem<'_>) -> Result<Self, StageError> {
        let (topic, partition) = (element.topic(), element.partition());
        element.error().map_err(|e| StageError::Unavailable {
            what: format!("reading the committed offset of {topic}/{partition}"),
            message: e.to_string(),
        })?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            // No offset is committed.
            _ => None,
        };
        let side_output_watermark = parse_watermark(element.metadata()).ok_or_else(|| {
            StageError::Internal(format!(
                "{topic}/{partition}: expected the metadata of the committed offset to be empty or a number, found `{}`: another client \
                 has committed for this group; stop it, and commit the same offset without metadata",
                EscapedBytes(element.metadata().as_bytes())
            ))
        })?;
        Ok(Self { offset, side_output_watermark })
    }

    /// Compares the changelog, applied through `progress` and with this side-output `watermark`, with the committed
    /// offset.
    fn status(self, progress: Option<i64>, watermark: i64) -> ChangelogStatus {
        match (self.offset, progress) {
            // The group's offsets have expired, or none was ever committed. The changelog alone decides where to
            // resume.
            (None, _) => ChangelogStatus::Complete,
            (Some(_), None) => ChangelogStatus::Behind,
            (Some(committed), Some(progress)) if progress > committed => {
                ChangelogStatus::Ahead { committed, progress }
            }
            (Some(committed), Some(progress)) if progress < committed => ChangelogStatus::Behind,
            (Some(_), Some(_)) if watermark < self.side_output_watermark => ChangelogStatus::Behind,
            (Some(_), Some(_)) => ChangelogStatus::Complete,
        }
    }
}

/// Status of a partition's changelog, compared with the committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangelogStatus {
    /// It holds all committed state.
    Complete,
    /// A transaction marker is not written yet.
    Behind,
    /// The group has committed since its offset was read, or its offsets were moved back.
    Ahead { committed: i64, progress: i64 },
}

pub(super) struct Restorer<'a> {
    pub stage: &'a str,
    pub input: &'a str,
    pub changelog: &'a str,
    pub kafka: &'a agentgov_connect::KafkaEndpoint,
    pub accept_gap: bool,
    pub health: &'a Health,
    pub stop: &'a ShutdownSignal,
    /// Offsets that this process has committed. A committed offset below them is an error.
    pub committed_offsets: &'a BTreeMap<i32, i64>,
    /// True once the changelog has stayed behind for [`MARKER_TIMEOUT`].
    pub was_behind: Cell<bool>,
}

/// A partition's state, as far as its changelog was read.
struct ReplayedPartition<P: Processor> {
    state: P::Partition,
    /// Input offset up to which the state is applied, if an entry had one.
    progress: Option<i64>,
}

/// Replay of the changelog for an assignment.
struct Replay<'p, P: Processor> {
    processor: &'p P,
    partitions: BTreeMap<i32, ReplayedPartition<P>>,
    /// Committed offsets of the group.
    committed: BTreeMap<i32, Committed>,
    /// Partitions whose changelog has not reached the committed offset.
    behind: Vec<i32>,
    /// End of the wait for them.
    deadline: Instant,
}

impl<'p, P: Processor> Replay<'p, P> {
    fn new(processor: &'p P, partitions: &[i32], committed: BTreeMap<i32, Committed>) -> Self {
        let empty = |partition| ReplayedPartition { state: processor.partition(partition), progress: None };
        Self {
            processor,
            partitions: partitions.iter().map(|partition| (*partition, empty(*partition))).collect(),
            committed,
            behind: partitions.to_vec(),
            deadline: Instant::now() + MARKER_TIMEOUT,
        }
    }

    /// Restarts the wait, after a record or an error.
    fn extend_deadline(&mut self) {
        self.deadline = Instant::now() + MARKER_TIMEOUT;
    }

    fn mark_complete(&mut self, partition: i32) {
        self.behind.retain(|behind| *behind != partition);
    }

    /// Returns the status of a partition; `None` if it is not among the requested ones.
    fn status(&mut self, partition: i32) -> Option<ChangelogStatus> {
        let ReplayedPartition { state, progress } = self.partitions.get_mut(&partition)?;
        let committed = self.committed.get(&partition)?;
        *progress = hooks::restored_progress(committed.offset, *progress);
        Some(committed.status(*progress, self.processor.side_output_watermark(state)))
    }
}

impl Restorer<'_> {
    /// Restores `partitions`. Returns `None` if shutdown was requested meanwhile.
    ///
    /// # Errors
    /// Fails if retention has overtaken the stage, if topic, offsets and changelog do not belong together, or if Kafka
    /// is unavailable.
    pub(super) fn restore<P: Processor, C: rdkafka::consumer::ConsumerContext>(
        &self,
        processor: &P,
        group: &BaseConsumer<C>,
        partitions: &[i32],
        schemas: &mut SchemaCache,
    ) -> Result<Option<BTreeMap<i32, RestoredPartition<P>>>, StageError> {
        let committed = self.committed(group, partitions)?;
        for (partition, reached) in self.committed_offsets {
            if let Some(Committed { offset, .. }) = committed.get(partition)
                && offset.is_none_or(|committed| committed < *reached)
            {
                return Err(self.offset_reset_error(*partition, *offset, *reached));
            }
        }
        let Some(known) = self.replay_changelog(processor, group, partitions, committed, schemas)? else {
            return Ok(None);
        };
        let mut restored = BTreeMap::new();
        for (partition, ReplayedPartition { state, progress }) in known {
            // A changelog without a progress entry belongs to a stage that has processed nothing.
            let expected = progress.unwrap_or(0);
            let next_offset = self.resume_offset(group, partition, expected)?;
            let gap = (next_offset > expected).then_some((expected, next_offset));
            tracing::info!(stage = self.stage, topic = self.input, partition, next_offset, "restored");
            restored.insert(partition, RestoredPartition { state, next_offset, gap, empty_to: None });
        }
        Ok(Some(restored))
    }

    /// A running group's offsets neither expire nor move back.
    fn offset_reset_error(&self, partition: i32, committed: Option<i64>, reached: i64) -> StageError {
        let found = committed.map_or_else(|| "none".to_owned(), |committed| committed.to_string());
        StageError::OtherCluster {
            stage: self.stage.to_owned(),
            topic: self.input.to_owned(),
            partition,
            message: format!(
                "expected the group's committed offset to be {reached} or above, as this process has committed it, found \
                 {found}: the topic was deleted or created again, its offsets were reset, or this is another cluster"
            ),
        }
    }

    /// Returns the group's committed offsets. With read_committed the broker returns stable offsets only: it makes the
    /// call wait for open transactions.
    fn committed<C: rdkafka::consumer::ConsumerContext>(
        &self,
        group: &BaseConsumer<C>,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Committed>, StageError> {
        let mut requested = TopicPartitionList::new();
        for partition in partitions {
            requested.add_partition(self.input, *partition);
        }
        let answer = group.committed_offsets(requested, CALL_TIMEOUT).map_err(|e| StageError::Unavailable {
            what: "reading committed offsets".into(),
            message: match e.rdkafka_error_code() {
                Some(RDKafkaErrorCode::OperationTimedOut) => format!(
                    "{e}: the broker is slow, or a transaction of this group has not ended; if this lasts for minutes, see \
                     docs/errors/hanging-transaction.md"
                ),
                _ => e.to_string(),
            },
        })?;
        let committed: BTreeMap<_, _> = answer
            .elements()
            .iter()
            .map(|element| Ok((element.partition(), Committed::of(element)?)))
            .collect::<Result<_, StageError>>()?;
        match partitions.iter().find(|partition| !committed.contains_key(partition)) {
            None => Ok(committed),
            Some(partition) => Err(StageError::Unavailable {
                what: "reading committed offsets".into(),
                message: format!("the response lacks {}/{partition}", self.input),
            }),
        }
    }

    /// Replays the changelog until it holds the committed state of each partition. Returns `None` if shutdown was
    /// requested meanwhile.
    fn replay_changelog<P: Processor, C: rdkafka::consumer::ConsumerContext>(
        &self,
        processor: &P,
        group: &BaseConsumer<C>,
        partitions: &[i32],
        committed: BTreeMap<i32, Committed>,
        schemas: &mut SchemaCache,
    ) -> Result<Option<BTreeMap<i32, ReplayedPartition<P>>>, StageError> {
        let reader = self.changelog_reader(partitions)?;
        let mut replay = Replay::new(processor, partitions, committed);
        while let Some(first_behind) = replay.behind.first().copied() {
            if self.stop.is_requested() {
                return Ok(None);
            }
            self.health.heartbeat();
            match reader.poll(Duration::from_millis(100)) {
                Some(TopicEvent::Record(record)) => {
                    replay.extend_deadline();
                    if !self.apply(&mut replay, &record, schemas)? {
                        return Ok(None);
                    }
                }
                Some(TopicEvent::End(partition)) => self.check_end(&mut replay, group, partition)?,
                Some(TopicEvent::Error(error)) => {
                    replay.extend_deadline();
                    self.health
                        .set_not_ready(NotReadyReason::Changelog, format!("reading the changelog: {error}"));
                }
                None => {}
            }
            if Instant::now() > replay.deadline {
                return Err(self.changelog_behind_error(&replay.committed, first_behind));
            }
        }
        self.health.clear(NotReadyReason::Changelog);
        Ok(Some(replay.partitions))
    }

    /// Applies a record of the changelog. Returns false if shutdown was requested during an outage of the schema
    /// registry.
    fn apply<P: Processor>(
        &self,
        replay: &mut Replay<'_, P>,
        record: &BorrowedMessage<'_>,
        schemas: &mut SchemaCache,
    ) -> Result<bool, StageError> {
        let Some(partition) = replay.partitions.get_mut(&record.partition()) else { return Ok(true) };
        let failed = |why: &dyn std::fmt::Display| {
            let (changelog, at, offset) = (self.changelog, record.partition(), record.offset());
            StageError::Internal(format!("{changelog}/{at} offset {offset}: {why}"))
        };
        let parsed;
        let value = match record.payload() {
            None => None,
            Some(bytes) => {
                let (id, datum) = wire::split(bytes).map_err(|e| failed(&e))?;
                parsed = match schemas.get_uncached(id, self.health, self.stop) {
                    SchemaLookup::Known(schema) => schema,
                    SchemaLookup::Unknown(why) => return Err(failed(&why)),
                    SchemaLookup::Stopped => return Ok(false),
                };
                Some(RestoreValue::new(id, &parsed, datum))
            }
        };
        // Every changelog record has a key; the processor refuses an empty one.
        let key = record.key().unwrap_or_default();
        let applied = replay.processor.restore(&mut partition.state, key, value).map_err(|e| failed(&e))?;
        partition.progress = applied.or(partition.progress);
        Ok(true)
    }

    /// Compares a partition whose changelog is read to its end with the committed offset.
    fn check_end<P: Processor, C: rdkafka::consumer::ConsumerContext>(
        &self,
        replay: &mut Replay<'_, P>,
        group: &BaseConsumer<C>,
        partition: i32,
    ) -> Result<(), StageError> {
        let unknown_partition = || {
            let input = self.input;
            StageError::Internal(format!("{input}/{partition} was restored but not requested"))
        };
        let mut status = replay.status(partition).ok_or_else(unknown_partition)?;
        if let ChangelogStatus::Ahead { .. } = status {
            // This process may have been suspended while another one committed.
            replay.committed.extend(self.committed(group, &[partition])?);
            status = replay.status(partition).ok_or_else(unknown_partition)?;
        }
        match status {
            ChangelogStatus::Complete => replay.mark_complete(partition),
            ChangelogStatus::Behind => {}
            ChangelogStatus::Ahead { committed, progress } => {
                return Err(self.changelog_ahead_error(partition, committed, progress));
            }
        }
        Ok(())
    }

    /// Handles a changelog that did not reach the committed offsets in time: the first time the restore starts again.
    fn changelog_behind_error(&self, committed: &BTreeMap<i32, Committed>, partition: i32) -> StageError {
        if !self.was_behind.replace(true) {
            return StageError::Unavailable {
                what: "the changelog".into(),
                message: format!(
                    "behind the committed offsets ({committed:?}) for {MARKER_TIMEOUT:?}; reading it again"
                ),
            };
        }
        StageError::OtherCluster {
            stage: self.stage.to_owned(),
            topic: self.changelog.to_owned(),
            partition,
            message: format!(
                "expected the changelog to reach the committed offsets ({committed:?}), found it behind after {MARKER_TIMEOUT:?} at both attempts: \
                 it was deleted, or this is another cluster"
            ),
        }
    }

    fn changelog_ahead_error(&self, partition: i32, committed: i64, progress: i64) -> StageError {
        StageError::OtherCluster {
            stage: self.stage.to_owned(),
            topic: self.input.to_owned(),
            partition,
            message: format!(
                "expected the committed offset of the group to be {progress} or above, as the changelog is applied up to there, found \
                 {committed}: the offsets were reset, and resuming would judge actions twice"
            ),
        }
    }

    /// Returns the resume offset, checked against the offsets that the topic still holds.
    fn resume_offset<C: rdkafka::consumer::ConsumerContext>(
        &self,
        group: &BaseConsumer<C>,
        partition: i32,
        next: i64,
    ) -> Result<i64, StageError> {
        let (low, high) = group.fetch_watermarks(self.input, partition, CALL_TIMEOUT).map_err(|e| {
            StageError::Unavailable { what: "reading watermarks".into(), message: e.to_string() }
        })?;
        if next > high {
            return Err(StageError::OtherCluster {
                stage: self.stage.to_owned(),
                topic: self.input.to_owned(),
                partition,
                message: format!(
                    "expected to resume at offset {next}, but the topic ends at {high}: it was created again"
                ),
            });
        }
        if next >= low {
            return Ok(next);
        }
        if self.accept_gap {
            tracing::warn!(
                stage = self.stage,
                topic = self.input,
                partition,
                from = next,
                to = low,
                "resuming after an accepted gap"
            );
            return Ok(low);
        }
        Err(StageError::Overtaken {
            stage: self.stage.to_owned(),
            topic: self.input.to_owned(),
            partition,
            expected: next,
            found: low,
        })
    }

    fn changelog_reader(&self, partitions: &[i32]) -> Result<DropWithTimeout<TopicReader>, StageError> {
        let reader = TopicReader::new(self.kafka, self.changelog, &reader_group(self.stage));
        let reader = reader.map_err(StageError::kafka("creating a reader"))?;
        reader.start(partitions.iter().copied()).map_err(StageError::kafka("assigning the changelog"))?;
        Ok(DropWithTimeout::new(reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changelog_is_complete_once_it_reaches_the_committed_offset_and_watermark() {
        let mut list = TopicPartitionList::new();
        let mut committed = |offset: Option<i64>, watermark: Option<i64>| {
            let partition = i32::try_from(list.count()).unwrap();
            let mut element = list.add_partition("agent.actions", partition);
            element.set_offset(offset.map_or(Offset::Invalid, Offset::Offset)).unwrap();
            if let Some(watermark) = watermark {
                element.set_metadata(watermark_metadata(watermark));
            }
            Committed::of(&element).unwrap()
        };
        let ahead = ChangelogStatus::Ahead { committed: 7, progress: 8 };
        for (offset, committed_watermark, progress, watermark, status) in [
            (None, None, None, 0, ChangelogStatus::Complete),
            (None, None, Some(7), 0, ChangelogStatus::Complete),
            (Some(7), None, None, 0, ChangelogStatus::Behind),
            (Some(7), None, Some(6), 9, ChangelogStatus::Behind),
            (Some(7), None, Some(7), 0, ChangelogStatus::Complete),
            (Some(7), None, Some(7), 3, ChangelogStatus::Complete),
            (Some(7), None, Some(8), 0, ahead),
            // Committed without a record: the offset is that of the transaction before.
            (Some(7), Some(3), Some(7), 2, ChangelogStatus::Behind),
            (Some(7), Some(3), Some(7), 3, ChangelogStatus::Complete),
            (Some(7), Some(3), Some(7), 4, ChangelogStatus::Complete),
            (Some(7), Some(3), Some(8), 3, ahead),
        ] {
            assert_eq!(
                committed(offset, committed_watermark).status(progress, watermark),
                status,
                "committed at {offset:?} with {committed_watermark:?}, changelog at {progress:?} with {watermark}"
            );
        }
    }

    #[test]
    fn metadata_of_another_client_is_an_error_with_a_remedy() {
        for foreign in ["ours", "1.5", " 3", "9223372036854775808", "\n"] {
            let mut list = TopicPartitionList::new();
            let mut element = list.add_partition("agent.actions", 4);
            element.set_offset(Offset::Offset(7)).unwrap();
            element.set_metadata(foreign);
            let error = Committed::of(&element).unwrap_err().to_string();
            let shown = EscapedBytes(foreign.as_bytes()).to_string();
            for part in ["agent.actions/4", &shown, "commit the same offset without metadata"] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }
}
