//! Processor loop: fetch, step, commit. On any uncertainty the loop discards its state and restores it from the
//! changelog.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::assign::assign;
use agentgov_connect::{Endpoints, SchemaRegistry, spawn_reconnect_watchdog};
use agentgov_processor::Outputs;
use agentgov_processor::Processor;
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::topology::{ProducerKind, Stage, Topology, reader_group};
use agentgov_service::backoff::Backoff;
use agentgov_service::metrics::{ProcessorMetrics, timed};
use agentgov_service::shutdown::DropWithTimeout;
use agentgov_service::{Health, ShutdownSignal, StageError, failpoint};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::batch::{BATCH_INTERVAL, BatchPacer, COMMITTED_BATCH_INTERVAL, FetchEnd, FetchedBatch, fetch};
use super::reject_window::RejectWindow;
use super::restore::{RestoredPartition, Restorer};
use super::stall::StallDetector;
use super::stepper::{BatchStepper, StepOutcome};
use super::tables::{FoldContext, GlobalTables};
use super::transaction::{Outcome, Replacement, Transactions};
use crate::SchemaCache;
use crate::consumer::{OutageProbe, Rebalance, RebalanceListener, is_topic_gone, member_config, membership};
use crate::empty_tail::{self, EmptyTail, TailProver, UnreadRecord};
use crate::hooks;

/// Configuration of a processor.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the stage in the topology.
    pub stage: String,
    /// Addresses of Kafka, the schema registry and ClickHouse.
    pub endpoints: Endpoints,
    /// The topology.
    pub topology: Arc<Topology>,
    /// Ends the loop.
    pub stop: ShutdownSignal,
    /// Receives progress and the reasons why the stage is not ready.
    pub health: Health,
    /// Resume after records that retention deleted before they were read.
    pub accept_gap: bool,
}

/// Runs a processor until shutdown is requested, then leaves the group and returns `Ok`. A transaction in progress is
/// ended if the broker responds within the grace period. A batch that is still being stepped is dropped; the next owner
/// processes it again.
///
/// # Errors
/// Fails if the stage cannot continue; [`StageError::exit_code`] is the exit code of its process.
pub fn run<P: Processor>(config: Config, processor: P) -> Result<(), StageError> {
    let topology = Arc::clone(&config.topology);
    let stage = topology.stage(&config.stage)?;
    match ProcessorLoop::start(&config, stage, processor)? {
        Some(mut running) => running.run(),
        None => Ok(()),
    }
}

struct ProcessorLoop<'c, P: Processor> {
    config: &'c Config,
    changelog: String,
    consumer: DropWithTimeout<BaseConsumer<RebalanceListener>>,
    transactions: Transactions,
    tables: GlobalTables,
    metrics: ProcessorMetrics,
    pacer: BatchPacer,
    outage: OutageProbe,
    /// Offsets that this process has committed, by partition.
    committed_offsets: BTreeMap<i32, i64>,
    prover: TailProver,
    stall_detector: StallDetector,
    /// Separate from the consumer, which the records of a batch borrow.
    stepper: BatchStepper<'c, P>,
}

impl<'c, P: Processor> ProcessorLoop<'c, P> {
    /// Prepares everything that the first record needs. Returns `None` if shutdown was requested meanwhile.
    fn start(config: &'c Config, stage: &Stage, mut processor: P) -> Result<Option<Self>, StageError> {
        let [input] = stage.reads.as_slice() else {
            return Err(StageError::Config(format!(
                "topology: expected stage `{}` to read exactly one topic, found {}",
                config.stage,
                stage.reads.len()
            )));
        };
        let changelog = stage.state.as_ref().ok_or_else(|| {
            StageError::Config(format!(
                "topology: expected stage `{}` to have a state topic, found none",
                config.stage
            ))
        })?;
        let kafka = &config.endpoints.kafka;
        let registry = SchemaRegistry::new(&config.endpoints.schema_registry).map_err(|e| {
            StageError::Unavailable { what: "schema registry".into(), message: e.to_string() }
        })?;
        let mut schemas = SchemaCache::new(registry);
        let Some(outputs) = retry_unavailable(config, || {
            Outputs::new(&config.topology, stage, |subject, schema| {
                schemas.id_for_writing(subject, schema, &config.health, &config.stop)
            })
        })?
        else {
            return Ok(None);
        };
        let timing = &config.topology.timing;
        let started = Transactions::start(kafka, &config.stage, stage, timing, &config.health, &config.stop)?;
        let Some(transactions) = started else { return Ok(None) };
        let tables = GlobalTables::new(kafka, &config.stage, stage, &config.topology)?;
        if !tables.load(fold_context(config, &mut processor, &mut schemas)) {
            return Ok(None);
        }
        let FetchSettings { min_bytes, max_wait_ms, interval } =
            fetch_settings(&config.topology, &input.value);
        let consumer: BaseConsumer<RebalanceListener> = member_config(kafka, &stage.group.value, timing)
            .set("fetch.min.bytes", min_bytes)
            .set("fetch.wait.max.ms", max_wait_ms)
            .set("queued.max.messages.kbytes", "65536")
            .create_with_context(RebalanceListener::default())
            .map_err(StageError::kafka("creating the consumer"))?;
        consumer.subscribe(&[&input.value]).map_err(StageError::kafka("subscribing"))?;
        let consumer = DropWithTimeout::group_member(consumer);
        let liveness = spawn_reconnect_watchdog(kafka, &input.value, &consumer.share());
        let retention = config.topology.topics.get(&input.value).map(|topic| topic.value.retention.value);
        let readers = kafka.reader_config(&reader_group(&config.stage));
        let limit = stage.reject_share.as_ref().map(|share| share.value);
        let window = RejectWindow::new(limit, alert_window(&config.topology));
        Ok(Some(Self {
            config,
            changelog: changelog.value.clone(),
            consumer,
            transactions,
            tables,
            metrics: ProcessorMetrics::new(&config.stage),
            pacer: BatchPacer::new(interval),
            outage: OutageProbe::new(liveness),
            committed_offsets: BTreeMap::new(),
            prover: TailProver::new(readers, empty_tail::interval(retention)),
            stall_detector: StallDetector::default(),
            stepper: BatchStepper::new(config, &input.value, processor, schemas, outputs, window),
        }))
    }

    fn run(&mut self) -> Result<(), StageError> {
        while !self.config.stop.is_requested() {
            self.config.health.heartbeat();
            let updates = self.tables.poll_updates(fold_context(
                self.config,
                &mut self.stepper.processor,
                &mut self.stepper.schemas,
            ));
            if updates.resume {
                self.resume_after_reject_flood()?;
            }
            if let Some(why) = updates.error {
                self.outage.report(&self.config.health, why);
            }
            self.stepper.schemas.recheck(&self.config.stage, &self.config.health)?;
            self.check_quiet_partitions()?;
            match self.process_batch()? {
                BatchOutcome::Done => {}
                BatchOutcome::Unavailable(why) => self.outage.report(&self.config.health, why),
                BatchOutcome::Restore => self.restore_assignment()?,
            }
            if self.outage.run(&self.config.health, &self.consumer, &self.stepper.input) {
                self.tables.restart_readers();
            }
        }
        Ok(())
    }

    /// Lets the next transaction commit past proven empty tails, and lets fresh readers read the partitions that are
    /// quiet now. Once retention has deleted these offsets, only such a proof shows that no record was lost.
    ///
    /// If they find a record that the stage's own consumer does not return, all partitions are restored and assigned
    /// again.
    fn check_quiet_partitions(&mut self) -> Result<(), StageError> {
        let (input, partitions) = (&self.stepper.input, &mut self.stepper.partitions);
        let positions = || {
            let positions = partitions.iter().map(|(partition, restored)| (*partition, restored.next_offset));
            BTreeMap::from([(input.to_string(), positions.collect())])
        };
        let found = self.prover.poll(positions);
        for EmptyTail { partition, offsets, .. } in found.empty {
            if let Some(restored) = partitions.get_mut(&partition)
                && restored.next_offset == offsets.start
            {
                restored.empty_to = Some(offsets.end);
            }
        }
        if self.stepper.pause_reason.is_some() {
            return Ok(());
        }
        let mut is_stalled = false;
        for record in found.unread {
            let Some(restored) = partitions.get(&record.partition) else { continue };
            if self.stall_detector.is_stalled(&record, restored.next_offset, Instant::now()) {
                let (stage, UnreadRecord { topic, partition, offset, .. }) = (&self.config.stage, record);
                tracing::error!(
                    stage,
                    topic,
                    partition,
                    offset,
                    "the consumer is idle and does not return this record; all its partitions are assigned again"
                );
                is_stalled = true;
            }
        }
        if is_stalled { self.restore_assignment() } else { Ok(()) }
    }

    fn process_batch(&mut self) -> Result<BatchOutcome, StageError> {
        // A fatal error is returned once, and ends the stage even if a rebalance came with it: such a consumer owns nothing any more.
        let FetchedBatch { records, end } = fetch(&self.consumer, &self.pacer).map_err(|error| {
            StageError::Fenced { stage: self.config.stage.clone(), message: error.to_string() }
        })?;
        if let Some(rebalance) = self.consumer.context().take() {
            // The fetched records belong to a previous assignment. Their new owner fetches them again.
            drop(records);
            return self.apply_rebalance(rebalance).map(|()| BatchOutcome::Done);
        }
        let after = match end {
            FetchEnd::Full => BatchOutcome::Done,
            FetchEnd::Drained => {
                self.stall_detector.mark_drained(Instant::now());
                BatchOutcome::Done
            }
            // Restoring reads every position again, and fetching resumes there.
            FetchEnd::OffsetGone => return Ok(BatchOutcome::Restore),
            // The topic may be created again.
            FetchEnd::Transient(error) if is_topic_gone(&error) => {
                self.outage.report(&self.config.health, error.to_string());
                return Ok(BatchOutcome::Restore);
            }
            FetchEnd::Transient(error) => BatchOutcome::Unavailable(error.to_string()),
        };
        // Metadata of the generation in which the records were polled. With later metadata a zombie could commit.
        let Some(group) = membership(&self.consumer)? else {
            drop(records);
            return self.apply_rebalance(Rebalance::Revoked { lost: true }).map(|()| BatchOutcome::Done);
        };
        let began = Instant::now();
        let offsets = match self.stepper.step_all(&records)? {
            StepOutcome::Offsets(offsets) => offsets,
            StepOutcome::Stopped if self.config.stop.is_requested() => return Ok(BatchOutcome::Done),
            // The fetched records must not be skipped.
            StepOutcome::Stopped => return Ok(BatchOutcome::Restore),
            StepOutcome::Restore => return Ok(BatchOutcome::Restore),
        };
        let count = records.len();
        self.pacer.record_step(count, began, began.elapsed());
        drop(records);
        if offsets.count() == 0 {
            self.config.health.record_progress(0, 0);
            return Ok(after);
        }
        let stepped = began.elapsed();
        failpoint::edge("processor::stepped");
        if let Some(outcome) = self.commit(&offsets, group, count)? {
            return Ok(outcome);
        }
        let rejected = self.stepper.rejected.values().sum();
        self.metrics.committed(count, &self.stepper.rejected, stepped, began.elapsed() - stepped);
        self.config.health.record_progress(count as u64, rejected);
        self.stepper.apply_pause();
        self.pause_on_reject_flood()?;
        Ok(after)
    }

    /// Commits the outputs of a batch of `count` records together with its `offsets`. Returns `None` if they are
    /// committed, otherwise the outcome of the batch.
    fn commit(
        &mut self,
        offsets: &TopicPartitionList,
        group: ConsumerGroupMetadata,
        count: usize,
    ) -> Result<Option<BatchOutcome>, StageError> {
        hooks::before_transaction(&self.consumer, offsets)
            .map_err(StageError::kafka("the hook before a transaction"))?;
        let outcome = self.transactions.run(&self.stepper.outputs, offsets, group);
        let bytes = self.stepper.outputs.byte_len();
        tracing::debug!(stage = self.config.stage, count, bytes, ?outcome, "batch");
        self.stepper.outputs.clear();
        failpoint::edge("processor::committed");
        match outcome {
            Outcome::Committed => {
                self.stepper.window.commit();
                for at in offsets.elements() {
                    if let Offset::Offset(offset) = at.offset() {
                        self.committed_offsets.insert(at.partition(), offset);
                        self.stepper.mark_committed(at.partition(), offset);
                    }
                }
                Ok(None)
            }
            Outcome::Aborted => {
                self.metrics.aborted();
                Ok(Some(BatchOutcome::Restore))
            }
            Outcome::Lost(lost) => Ok(Some(match self.transactions.replace(lost)? {
                Replacement::Done => BatchOutcome::Restore,
                Replacement::Stopped => BatchOutcome::Done,
            })),
            Outcome::Abandoned => Ok(Some(BatchOutcome::Done)),
        }
    }

    /// Pauses fetching after a flood of rejects, until an operator resumes the stage.
    fn pause_on_reject_flood(&self) -> Result<(), StageError> {
        let Some(why) = &self.stepper.pause_reason else { return Ok(()) };
        self.config.health.set_not_ready(NotReadyReason::RejectShare, why.clone());
        let assigned = self.consumer.assignment().map_err(StageError::kafka("reading the assignment"))?;
        self.consumer.pause(&assigned).map_err(StageError::kafka("pausing"))
    }

    fn apply_rebalance(&mut self, rebalance: Rebalance) -> Result<(), StageError> {
        self.stepper.partitions.clear();
        self.stepper.outputs.clear();
        self.stepper.window.reset();
        self.stall_detector.reset();
        self.metrics.partitions.set(0.0);
        match rebalance {
            Rebalance::Revoked { lost } => {
                let why = if lost { "the group has continued without this process" } else { "rebalancing" };
                self.config.health.set_not_ready(NotReadyReason::Starting, why);
                // The broker may be unavailable, and the session timed out.
                self.outage.suspect();
                Ok(())
            }
            Rebalance::Assigned(partitions) => {
                let partitions: Vec<i32> = partitions.iter().map(|at| at.partition).collect();
                self.restore_and_assign(&partitions)
            }
        }
    }

    /// Restores the state of `partitions`, then starts fetching them.
    fn restore_and_assign(&mut self, partitions: &[i32]) -> Result<(), StageError> {
        let restorer = Restorer {
            stage: &self.config.stage,
            input: &self.stepper.input,
            changelog: &self.changelog,
            kafka: &self.config.endpoints.kafka,
            accept_gap: self.config.accept_gap,
            health: &self.config.health,
            stop: &self.config.stop,
            committed_offsets: &self.committed_offsets,
            was_behind: Cell::new(false),
        };
        let why = format!("restoring {} partitions from {}", partitions.len(), self.changelog);
        self.config.health.set_not_ready(NotReadyReason::Starting, why);
        let restored = timed(&self.metrics.restore, || {
            retry_unavailable(self.config, || {
                restorer.restore(
                    &self.stepper.processor,
                    &self.consumer,
                    partitions,
                    &mut self.stepper.schemas,
                )
            })
        })?;
        let Some(restored) = restored.flatten() else { return Ok(()) };
        let mut from = TopicPartitionList::new();
        for (partition, RestoredPartition { next_offset, .. }) in &restored {
            from.add_partition_offset(&self.stepper.input, *partition, Offset::Offset(*next_offset))
                .map_err(StageError::kafka("assigning"))?;
        }
        assign(&self.consumer, &from).map_err(StageError::kafka("assigning"))?;
        self.metrics.partitions.set(restored.len() as f64);
        for RestoredPartition { state, .. } in restored.values() {
            self.stepper.processor.for_each_tenant(state, &mut |tenant| {
                self.stepper.window.add_known_tenant(tenant.as_bytes())
            });
        }
        self.stepper.partitions = restored;
        failpoint::edge("processor::restored");
        self.config.health.clear(NotReadyReason::Starting);
        self.pause_on_reject_flood()
    }

    /// Discards and restores the state, which may be ahead of the committed offsets.
    fn restore_assignment(&mut self) -> Result<(), StageError> {
        let partitions: Vec<i32> = std::mem::take(&mut self.stepper.partitions).into_keys().collect();
        self.stepper.outputs.clear();
        self.stall_detector.reset();
        self.consumer.unassign().map_err(StageError::kafka("unassigning"))?;
        match self.consumer.context().take() {
            // Between a revocation and the next assignment there is nothing to restore, and the stage stays not ready.
            None if partitions.is_empty() => Ok(()),
            None => self.restore_and_assign(&partitions),
            Some(rebalance) => self.apply_rebalance(rebalance),
        }
    }

    /// Resumes fetching after a flood of rejects.
    fn resume_after_reject_flood(&mut self) -> Result<(), StageError> {
        if self.stepper.pause_reason.take().is_some() {
            tracing::info!(stage = self.config.stage, "resumed by an operator");
            self.config.health.clear(NotReadyReason::RejectShare);
            let assigned = self.consumer.assignment().map_err(StageError::kafka("reading the assignment"))?;
            self.consumer.resume(&assigned).map_err(StageError::kafka("resuming"))?;
        }
        Ok(())
    }
}

fn fold_context<'f, P>(
    config: &'f Config,
    processor: &'f mut P,
    schemas: &'f mut SchemaCache,
) -> FoldContext<'f, P> {
    let Config { topology, health, stop, .. } = config;
    FoldContext { processor, topology, schemas, health, stop }
}

/// Returns the time for which an alert of a flood is revised: that of the other alerts.
fn alert_window(topology: &Topology) -> Duration {
    const DEFAULT_WINDOW: Duration = Duration::from_hours(1);
    let window = topology.stages.values().find_map(|stage| stage.value.alert_window.as_ref());
    window.map_or(DEFAULT_WINDOW, |window| window.value.0)
}

/// Fetch settings of a topic.
struct FetchSettings {
    /// `fetch.min.bytes`.
    min_bytes: &'static str,
    /// `fetch.wait.max.ms`.
    max_wait_ms: &'static str,
    /// Interval between the starts of batches, under load.
    interval: Duration,
}

/// Returns the fetch settings of a topic. Records of transactions become readable, and are fetched, as the transactions
/// commit. Other records arrive append by append, and the broker collects them up to a minimum size.
fn fetch_settings(topology: &Topology, topic: &str) -> FetchSettings {
    match topology.topics.get(topic).map(|topic| topic.value.producer) {
        Some(ProducerKind::Transactional) => {
            FetchSettings { min_bytes: "1", max_wait_ms: "20", interval: COMMITTED_BATCH_INTERVAL }
        }
        _ => FetchSettings { min_bytes: "65536", max_wait_ms: "10", interval: BATCH_INTERVAL },
    }
}

/// Outcome of a batch.
enum BatchOutcome {
    Done,
    Unavailable(String),
    Restore,
}

/// Repeats a call that returns `Unavailable`, not ready meanwhile. Returns `None` if shutdown is requested.
fn retry_unavailable<T>(
    config: &Config,
    mut call: impl FnMut() -> Result<T, StageError>,
) -> Result<Option<T>, StageError> {
    let mut backoff = Backoff::default();
    let began = Instant::now();
    loop {
        match call() {
            Err(StageError::Unavailable { what, message }) => {
                config.health.set_not_ready(
                    NotReadyReason::Dependency,
                    format!("{what}: {message} (since {:.0?})", began.elapsed()),
                );
                if config.stop.wait(backoff.pause()) {
                    return Ok(None);
                }
            }
            other => {
                config.health.clear(NotReadyReason::Dependency);
                return other.map(Some);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactional_topic_is_fetched_without_a_minimum() {
        let topology = Topology::embedded().unwrap();
        let (verdicts, actions) =
            (fetch_settings(&topology, "agent.verdicts"), fetch_settings(&topology, "agent.actions"));
        assert_eq!((verdicts.min_bytes, verdicts.interval), ("1", COMMITTED_BATCH_INTERVAL));
        assert_eq!(
            (actions.min_bytes, actions.interval),
            ("65536", BATCH_INTERVAL),
            "its producers write without transactions"
        );
    }
}
