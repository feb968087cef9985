//! Steps the records of a batch. Its only I/O is the lookup of schemas.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agentgov_processor::{OutputError, Outputs};
use agentgov_processor::{Processor, Reject};
use agentgov_schemas::alert::{Alert, AlertDecision};
use agentgov_schemas::reject::{self, RejectReason};
use agentgov_schemas::verdict::{Mode, Origin, Severity};
use agentgov_schemas::{Digest, Micros, Millis, SessionKey, wire};
use agentgov_service::{NO_TIMESTAMP, StageError, logged_at};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Config;
use super::reject_window::{Flood, FloodAlert, RecordRef, RejectWindow};
use super::restore::{RestoredPartition, watermark_metadata};
use crate::{SchemaCache, SchemaLookup};

/// Limit in bytes of a rejected record's key, value and detail in the reject.
const MAX_REJECT_BYTES: usize = 4096;

pub(super) struct BatchStepper<'c, P: Processor> {
    config: &'c Config,
    pub(super) input: Arc<str>,
    pub(super) processor: P,
    pub(super) schemas: SchemaCache,
    pub(super) outputs: Outputs,
    pub(super) partitions: BTreeMap<i32, RestoredPartition<P>>,
    /// Reason why the stage is paused until an operator resumes it.
    pub(super) pause_reason: Option<String>,
    /// Reason for which the stage pauses once the current batch is committed.
    pending_pause: Option<String>,
    pub(super) window: RejectWindow,
    /// Rejected records of the current batch, by reason.
    pub(super) rejected: BTreeMap<RejectReason, u64>,
    /// Records that are rejected without a step, as their step has changed state that must be undone.
    known_rejects: HashMap<(i32, i64), Reject>,
}

/// Outcome of stepping a batch.
pub(super) enum StepOutcome {
    /// Every record was stepped; these offsets are committed with the outputs.
    Offsets(TopicPartitionList),
    /// Shutdown was requested before the end.
    Stopped,
    /// A rejected record has changed state. After the restore it is rejected without a step.
    Restore,
}

impl<'c, P: Processor> BatchStepper<'c, P> {
    pub(super) fn new(
        config: &'c Config,
        input: &str,
        processor: P,
        schemas: SchemaCache,
        outputs: Outputs,
        window: RejectWindow,
    ) -> Self {
        Self {
            config,
            input: input.into(),
            processor,
            schemas,
            outputs,
            partitions: BTreeMap::new(),
            pause_reason: None,
            pending_pause: None,
            window,
            rejected: BTreeMap::new(),
            known_rejects: HashMap::new(),
        }
    }

    /// Marks `offset` of `partition` as committed: no record before it is stepped again.
    pub(super) fn mark_committed(&mut self, partition: i32, offset: i64) {
        self.known_rejects.retain(|(of, at), _| *of != partition || *at >= offset);
    }

    /// Applies the pause that the committed batch requires, if it requires one.
    pub(super) fn apply_pause(&mut self) {
        if let Some(why) = self.pending_pause.take() {
            tracing::error!(
                stage = self.config.stage,
                why,
                "the stage stands still after a flood of rejects"
            );
            self.pause_reason = Some(why);
        }
    }

    pub(super) fn step_all(&mut self, records: &[BorrowedMessage<'_>]) -> Result<StepOutcome, StageError> {
        let mut next_offsets: BTreeMap<i32, i64> = BTreeMap::new();
        self.rejected.clear();
        self.pending_pause = None;
        self.window.begin();
        let input = Arc::clone(&self.input);
        for message in records {
            let Some(restored) = self.partitions.get(&message.partition()) else { continue };
            let next_offset = next_offsets.get(&message.partition()).copied().unwrap_or(restored.next_offset);
            if is_redelivered(&input, message, next_offset) {
                continue;
            }
            if self.config.stop.is_requested() {
                // Nothing of the batch is committed; its next owner processes it again.
                return Ok(StepOutcome::Stopped);
            }
            self.outputs.set_partition(message.partition());
            let mark = self.outputs.mark();
            let (origin, timestamp) = origin_of(&input, message);
            let step = match timestamp {
                Ok(()) => self.step(message, &origin),
                Err(reject) => Some(Err(reject)),
            };
            let Some(step) = step else { return Ok(StepOutcome::Stopped) };
            if let Err(reject) = &step {
                self.outputs.rollback_to(mark);
                if reject.undo {
                    let Origin { topic, partition, offset, .. } = origin;
                    let Reject { reason, ref detail, .. } = *reject;
                    let stage = &self.config.stage;
                    tracing::warn!(
                        stage,
                        topic,
                        partition,
                        offset,
                        reason = reason.as_str(),
                        detail,
                        "undoing the record's step by a restore"
                    );
                    let known_rejects = Reject { undo: false, ..reject.clone() };
                    self.known_rejects.insert((origin.partition, origin.offset), known_rejects);
                    return Ok(StepOutcome::Restore);
                }
                *self.rejected.entry(reject.reason).or_default() += 1;
                self.emit_reject(message, &origin, reject)?;
            }
            let at = (origin.partition, origin.offset, origin.logged_at);
            match self.window.count(message.key(), step.err().map(|reject| reject.reason), at) {
                None => {}
                Some(Flood::PauseStage { alert, at, message }) => {
                    let why = format!("{message}; {}", until_resumed(&self.config.stage));
                    self.emit_flood_alert(STAGE_STOPPED, alert, &at, &why)?;
                    self.pending_pause = Some(why);
                }
                Some(Flood::Alert { alert, at, message }) => {
                    tracing::error!(stage = self.config.stage, message, "a flood of rejects");
                    self.emit_flood_alert(REJECT_FLOOD, alert, &at, &message)?;
                }
            }
            next_offsets.insert(message.partition(), message.offset() + 1);
        }
        self.finish(&next_offsets).map(StepOutcome::Offsets)
    }

    /// Decodes and steps one record. Returns `None` if shutdown was requested during an outage of the schema registry.
    fn step(&mut self, message: &BorrowedMessage<'_>, origin: &Origin<'_>) -> Option<Result<(), Reject>> {
        if let Some(known_rejects) = self.known_rejects.get(&(origin.partition, origin.offset)) {
            return Some(Err(known_rejects.clone()));
        }
        let decoded = |error: wire::WireError| Some(Err(Reject::new(error.reason(), error.to_string())));
        // A tombstone is rejected as an empty value.
        let (id, datum) = match wire::split(message.payload().unwrap_or_default()) {
            Ok(split) => split,
            Err(error) => return decoded(error),
        };
        let schema = match self.schemas.get(id, &self.config.health, &self.config.stop) {
            SchemaLookup::Known(schema) => schema,
            SchemaLookup::Unknown(detail) => {
                return Some(Err(Reject::new(RejectReason::UnknownSchemaId, detail)));
            }
            SchemaLookup::Stopped => return None,
        };
        let input = match schema.decode::<P::Input<'_>>(id, datum) {
            Ok(input) => input,
            Err(error) => return decoded(error),
        };
        let partition = self.partitions.get_mut(&origin.partition)?;
        Some(self.processor.step(&mut partition.state, origin, &input, &mut self.outputs))
    }

    /// Emits the progress entries and the side outputs. Returns the offsets to commit.
    fn finish(&mut self, next_offsets: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, StageError> {
        let stage = &self.config.stage;
        let mut offsets = TopicPartitionList::new();
        for (id, partition) in &mut self.partitions {
            let gap = partition.gap.take();
            let empty_to = partition.empty_to.take();
            let next = next_offsets.get(id).copied().or(empty_to);
            if next.is_none() && gap.is_none() && !self.processor.has_pending_side_output(&partition.state) {
                continue;
            }
            partition.next_offset = next.unwrap_or(partition.next_offset);
            self.outputs.set_partition(*id);
            if let Some((from, to)) = gap {
                emit_gap(stage, &self.input, *id, (from, to), &mut self.outputs)?;
            }
            self.processor
                .finish(&mut partition.state, partition.next_offset, &mut self.outputs)
                .map_err(|e| StageError::Internal(format!("{stage}: writing progress: {e}")))?;
            let mut named = offsets.add_partition(&self.input, *id);
            named
                .set_offset(Offset::Offset(partition.next_offset))
                .map_err(StageError::kafka("naming offsets"))?;
            if next.is_none() {
                named
                    .set_metadata(watermark_metadata(self.processor.side_output_watermark(&partition.state)));
            }
        }
        Ok(offsets)
    }

    /// Emits an alert about a flood of rejects, or its next revision, to the partition of the record that it names.
    fn emit_flood_alert(
        &mut self,
        policy: &str,
        alert: FloodAlert,
        at: &RecordRef,
        message: &str,
    ) -> Result<(), StageError> {
        let stage = &self.config.stage;
        let session_id = format!("rejects/{stage}");
        let RecordRef { partition, offset, logged_at, .. } = *at;
        let origin = Origin { topic: &self.input, partition, offset, logged_at };
        let FloodAlert { revision, first: (first_partition, first_offset, opened_at) } = alert;
        let first_origin = Origin {
            topic: &self.input,
            partition: first_partition,
            offset: first_offset,
            logged_at: opened_at,
        };
        let id = Digest::of_parts([
            SYSTEM_TENANT.as_bytes(),
            session_id.as_bytes(),
            policy.as_bytes(),
            self.input.as_bytes(),
            &first_partition.to_be_bytes(),
            &first_offset.to_be_bytes(),
        ]);
        let alert = Alert {
            alert_id: &id.to_string(),
            revision,
            tenant_id: SYSTEM_TENANT,
            environment: "",
            session_id: &session_id,
            session_label: None,
            agent_id: "",
            event_id: "",
            policy,
            severity: Severity::Critical.into(),
            mode: Mode::Enforce.into(),
            decision: AlertDecision::Rejected.into(),
            tool: None,
            call_index: None,
            message,
            occurred_at: Micros(logged_at.0.saturating_mul(1000)),
            opened_at,
            origin,
            first_origin,
            bundle_digest: None,
            prevented: false,
        };
        let key = SessionKey { tenant_id: SYSTEM_TENANT, session_id: &session_id }.to_bytes();
        self.outputs.set_partition(partition);
        match self.outputs.emit(&key, &alert) {
            // Without a topic of alerts in the topology the log is the only report.
            Ok(()) | Err(OutputError::NotEmitted(_)) => Ok(()),
            Err(e) => Err(StageError::Internal(format!("{stage}: writing an alert: {e}"))),
        }
    }

    fn emit_reject(
        &mut self,
        message: &BorrowedMessage<'_>,
        origin: &Origin<'_>,
        reject: &Reject,
    ) -> Result<(), StageError> {
        let stage = &self.config.stage;
        let detail: String = reject.detail.chars().take(MAX_REJECT_BYTES / 4).collect();
        tracing::warn!(
            stage,
            topic = origin.topic,
            partition = origin.partition,
            offset = origin.offset,
            reason = reject.reason.as_str(),
            detail,
            "rejected"
        );
        // Empty for a tombstone, and for a record without a key.
        let value = message.payload().unwrap_or_default();
        let key = truncate(message.key().unwrap_or_default());
        let record = reject::Reject {
            stage,
            reason: reject.reason.into(),
            detail: &detail,
            origin: *origin,
            key,
            size: i64::try_from(value.len()).unwrap_or(i64::MAX),
            sha256: Digest::of(value),
            head: truncate(value),
        };
        self.outputs
            .emit(key, &record)
            .map_err(|e| StageError::Internal(format!("{stage}: writing a reject: {e}")))
    }
}

/// Returns the origin of a record. The error is the reject of a record without a timestamp: it cannot be stepped, and
/// its origin has the timestamp 0 (1970).
fn origin_of<'m>(topic: &'m str, message: &impl Message) -> (Origin<'m>, Result<(), Reject>) {
    let (partition, offset) = (message.partition(), message.offset());
    let at = |logged_at| Origin { topic, partition, offset, logged_at };
    match logged_at(message) {
        Some(logged_at) => (at(logged_at), Ok(())),
        None => (at(Millis(0)), Err(Reject::new(RejectReason::NoTimestamp, NO_TIMESTAMP))),
    }
}

/// Returns true for a record that was processed before. librdkafka returns a record twice if a seek takes effect late
/// or twice (<https://github.com/confluentinc/librdkafka/issues/2256>).
fn is_redelivered(topic: &str, message: &impl Message, next_offset: i64) -> bool {
    let (partition, offset) = (message.partition(), message.offset());
    let is_redelivered = offset < next_offset;
    if is_redelivered {
        tracing::debug!(
            topic,
            partition,
            offset,
            next_offset,
            "the consumer returns a record again; skipped"
        );
    }
    is_redelivered
}

/// Tenant of alerts about agentgov itself.
const SYSTEM_TENANT: &str = "agentgov";
/// Policy name in an alert of a flood of rejects that stops no stage.
const REJECT_FLOOD: &str = "agentgov:reject-flood";
/// Policy name in an alert of a flood of rejects that stops the stage.
const STAGE_STOPPED: &str = "agentgov:stage-stopped";

/// Action that ends the pause of a stage.
fn until_resumed(stage: &str) -> String {
    format!(
        "nothing is consumed until the cause is fixed and an operator runs `agentgov rejects resume {stage} --reason REASON`"
    )
}

/// Emits a reject that records offsets `from` to `to` of a partition as an accepted gap.
fn emit_gap(
    stage: &str,
    input: &str,
    partition: i32,
    (from, to): (i64, i64),
    outputs: &mut Outputs,
) -> Result<(), StageError> {
    let detail = format!(
        "offsets {from} to {} were deleted by retention before they were read; an operator accepted the gap",
        to - 1
    );
    let record = reject::Reject {
        stage,
        reason: RejectReason::GapAccepted.into(),
        detail: &detail,
        origin: Origin { topic: input, partition, offset: from, logged_at: Millis::default() },
        key: b"",
        size: 0,
        sha256: Digest::of(b""),
        head: b"",
    };
    outputs.emit(b"", &record).map_err(|e| StageError::Internal(format!("{stage}: recording a gap: {e}")))
}

fn truncate(bytes: &[u8]) -> &[u8] {
    bytes.get(..MAX_REJECT_BYTES).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;

    #[test]
    fn record_before_the_position_is_skipped() {
        let at =
            |offset| OwnedMessage::new(None, None, "t".into(), Timestamp::LogAppendTime(5), 3, offset, None);
        // Offsets may be missing between records, for example those of transaction markers.
        for (offset, is_skipped) in [(5, true), (6, true), (7, false), (8, false), (90, false)] {
            assert_eq!(is_redelivered("t", &at(offset), 7), is_skipped, "{offset}");
        }
    }

    #[test]
    fn record_without_a_timestamp_is_rejected() {
        let message = |timestamp| OwnedMessage::new(None, None, "t".into(), timestamp, 3, 7, None);
        let (origin, step) = origin_of("t", &message(Timestamp::LogAppendTime(5)));
        let expected = Origin { topic: "t", partition: 3, offset: 7, logged_at: Millis(5) };
        assert_eq!((origin, step), (expected, Ok(())));
        for none in [Timestamp::NotAvailable, Timestamp::CreateTime(-1)] {
            let (origin, step) = origin_of("t", &message(none));
            assert_eq!((origin.partition, origin.offset), (3, 7));
            let reject = step.unwrap_err();
            assert_eq!((reject.reason, reject.undo), (RejectReason::NoTimestamp, false));
        }
    }
}
