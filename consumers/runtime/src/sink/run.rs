//! Sink loop: claim partitions, fetch records, insert rows.

use std::time::{Duration, Instant};

use agentgov_connect::assign::ceil_to_millis;
use agentgov_connect::{KafkaEndpoint, spawn_reconnect_watchdog};
use agentgov_schemas::topology::{Retention, Timing};
use agentgov_schemas::{Millis, NotReadyReason};
use agentgov_service::metrics::SinkMetrics;
use agentgov_service::shutdown::DropWithTimeout;
use agentgov_service::{Health, NO_TIMESTAMP, ShutdownSignal, StageError, failpoint, logged_at};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;

use super::fetcher;
use super::group;
use super::headers::Headers;
use super::probe::TopicProbe;
use super::second_reader::SecondReader;
use super::table_writer::{PushOutcome, TableWriter};
use super::{Record, RowEncoder, Store, TopicPartition, WriteError, empty};
use crate::consumer::{OutageProbe, Rebalance, RebalanceListener, is_offset_gone, is_topic_gone};
use crate::empty_tail::{self, TailProver};

/// Longest wait for a record. Meanwhile the loop notices neither a shutdown request nor a due claim.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Records between two clock reads, while records arrive.
const RECORDS_BETWEEN_CLOCK_READS: usize = 64;

/// A topic and the table of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the topic.
    pub topic: String,
    /// Name of the table.
    pub table: String,
    /// True if the topic's producers write no transactions, so that every offset is a record. The rows of the table are
    /// then counted.
    pub gapless: bool,
    /// Retention of the topic.
    pub retention: Retention,
}

/// Configuration of the sink loop.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the stage, for messages.
    pub stage: String,
    /// Consumer group.
    pub group: String,
    /// Topics and their tables.
    pub routes: Vec<Route>,
    /// Table of claims.
    pub claims_table: String,
    /// Table of accepted gaps.
    pub gaps_table: String,
    /// Table of empty ranges after a partition's last row.
    pub empty_ranges_table: String,
    /// Addresses of Kafka and how to log in.
    pub kafka: KafkaEndpoint,
    /// Timeouts that determine recovery.
    pub timing: Timing,
    /// True: resume after records that retention deleted unread, and record the gap.
    pub accept_gap: bool,
    /// Ends the loop.
    pub stop: ShutdownSignal,
    /// Receives progress and the reasons why the stage is not ready.
    pub health: Health,
}

/// Runs until shutdown is requested or an error occurs that a retry cannot solve. Blocks; never call it from async
/// code.
///
/// Returns `Ok` after it has committed its offsets and left the group. Waits for a running insert if the store responds
/// within the grace period. Rows that are only buffered are read again by the next owner.
pub fn run<E: RowEncoder>(options: Options, store: Store, encoder: E) -> Result<(), StageError> {
    Sink::new(options, store, encoder)?.run()
}

pub(super) struct Sink<E> {
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) encoder: E,
    pub(super) consumer: DropWithTimeout<BaseConsumer<RebalanceListener>>,
    pub(super) probe: TopicProbe,
    second_reader: SecondReader,
    pub(super) prover: TailProver,
    pub(super) writers: Vec<TableWriter>,
    pub(super) metrics: SinkMetrics,
    pub(super) outage: OutageProbe,
    /// Number of times in a row that a proven member found its claim replaced by another process.
    pub(super) claim_conflicts: u32,
}

impl<E: RowEncoder> Sink<E> {
    fn new(options: Options, store: Store, encoder: E) -> Result<Self, StageError> {
        let probe = TopicProbe::new(options.kafka.positioned_config(&options.group), options.stop.clone())?;
        let second_reader = SecondReader::new(options.kafka.reader_config(&options.group));
        let retentions = options.routes.iter().map(|route| route.retention);
        let readers = options.kafka.reader_config(&options.group);
        let prover = TailProver::new(readers, empty_tail::interval(retentions));
        let topics: Vec<_> = options.routes.iter().map(|route| route.topic.as_str()).collect();
        let consumer = group::join(&options.kafka, &options.group, &options.timing, &topics)?;
        let topic = topics.first().copied().ok_or_else(|| {
            StageError::Config(format!(
                "topology: expected stage `{}` to read a topic that has a table, found none",
                options.stage
            ))
        })?;
        let liveness = spawn_reconnect_watchdog(&options.kafka, topic, &consumer.share());
        probe.spawn_reconnect_watchdog(&options.kafka, topic);
        let writers = options.routes.iter().cloned().map(TableWriter::new).collect();
        let tables = options.routes.iter().map(|route| route.table.as_str());
        let metrics = SinkMetrics::new(&options.stage, tables);
        // Probes Kafka at once, as its state is unknown until then.
        let mut outage = OutageProbe::new(liveness);
        outage.suspect();
        Ok(Self {
            options,
            store,
            encoder,
            consumer,
            probe,
            second_reader,
            prover,
            writers,
            metrics,
            outage,
            claim_conflicts: 0,
        })
    }

    fn run(mut self) -> Result<(), StageError> {
        while !self.options.stop.is_requested() {
            self.options.health.heartbeat();
            self.rebalance();
            self.establish()?;
            let fetched = self.fetch()?;
            self.flush(fetched == FetchOutcome::Drained)?;
            self.record_empty_tails()?;
            if let Some(route) = self.options.routes.first() {
                self.outage.run(&self.options.health, &self.consumer, &route.topic);
            }
        }
        self.commit(CommitMode::Sync);
        Ok(())
    }

    /// Applies a rebalance: takes over or gives up partitions.
    fn rebalance(&mut self) {
        let health = &self.options.health;
        let partitions = match self.consumer.context().take() {
            None => return,
            Some(Rebalance::Assigned(partitions)) => partitions,
            Some(Rebalance::Revoked { .. }) => {
                health.set_not_ready(NotReadyReason::Group, "rebalancing");
                // The broker may be unavailable, and the session timed out.
                self.outage.suspect();
                self.writers.iter_mut().for_each(|writer| writer.assign(&[]));
                self.metrics.partitions.set(0.0);
                return;
            }
        };
        self.metrics.partitions.set(partitions.len() as f64);
        tracing::info!(stage = self.options.stage, partitions = partitions.len(), "assigned");
        for writer in &mut self.writers {
            writer.assign(&partitions);
        }
        if partitions.is_empty() {
            health.clear(NotReadyReason::Starting);
            health.clear(NotReadyReason::Group);
        } else {
            health.set_not_ready(
                NotReadyReason::Starting,
                format!("taking over {} partitions", partitions.len()),
            );
        }
    }

    /// Buffers records until none is available or a limit is reached.
    fn fetch(&mut self) -> Result<FetchOutcome, StageError> {
        let started = Instant::now();
        let mut records = 0_usize;
        let mut wait = self
            .writers
            .iter()
            .filter_map(|writer| writer.time_until_insert(true))
            .fold(POLL_INTERVAL, Duration::min);
        let consumer = &self.consumer;
        loop {
            let message = match consumer.poll(ceil_to_millis(wait)) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    handle_consumer_error(&self.options, &mut self.writers, error)?;
                    self.pause_invalidated()?;
                    self.outage.suspect();
                    break;
                }
            };
            if consumer.context().has_rebalance() {
                // A rebalance has happened, and another process may own the partition. The owner reads the record
                // again.
                return Ok(FetchOutcome::Limited);
            }
            let Some(writer) = self.writers.iter_mut().find(|writer| writer.route.topic == message.topic())
            else {
                continue;
            };
            match push_message(&self.options, writer, &mut self.encoder, &message)? {
                PushOutcome::Buffered | PushOutcome::NotOwned => {}
                PushOutcome::Full | PushOutcome::Stopped => return Ok(FetchOutcome::Limited),
                PushOutcome::InsertFirst => {
                    let inserted = insert(
                        &self.options,
                        &self.store,
                        writer,
                        &mut self.encoder,
                        (consumer, &self.second_reader),
                        &self.metrics,
                    )?;
                    if inserted == InsertOutcome::Unconfirmed {
                        return self.pause_invalidated().map(|()| FetchOutcome::Limited);
                    }
                    if push_message(&self.options, writer, &mut self.encoder, &message)?
                        == PushOutcome::InsertFirst
                    {
                        return Err(StageError::Internal(
                            "expected room for a record in empty blocks, found none".into(),
                        ));
                    }
                }
            }
            records += 1;
            if records.is_multiple_of(RECORDS_BETWEEN_CLOCK_READS) && started.elapsed() > POLL_INTERVAL {
                self.options.health.clear(NotReadyReason::Kafka);
                return Ok(FetchOutcome::Limited);
            }
            wait = Duration::ZERO;
        }
        if self.writers.iter().all(|writer| writer.claim_at.is_none()) {
            self.options.health.record_progress(0, 0);
        }
        Ok(FetchOutcome::Drained)
    }

    /// Inserts the rows that have waited long enough.
    fn flush(&mut self, idle: bool) -> Result<(), StageError> {
        let mut invalidated = false;
        for writer in &mut self.writers {
            if self.options.stop.is_requested() {
                // Rows that are not inserted are read again by the next owner.
                return Ok(());
            }
            if writer.time_until_insert(idle).is_some_and(|time_until_insert| time_until_insert.is_zero()) {
                match insert(
                    &self.options,
                    &self.store,
                    writer,
                    &mut self.encoder,
                    (&self.consumer, &self.second_reader),
                    &self.metrics,
                )? {
                    InsertOutcome::Durable => self.claim_conflicts = 0,
                    InsertOutcome::Unconfirmed => invalidated = true,
                }
            }
        }
        if self.writers.iter().all(|writer| writer.claim_at.is_none() && writer.consecutive_failures == 0) {
            self.options.health.clear(NotReadyReason::Clickhouse);
        }
        match self.writers.iter().find_map(|writer| writer.skip_problem.as_deref()) {
            Some(why) => self.options.health.set_not_ready(NotReadyReason::Skipped, why),
            None => self.options.health.clear(NotReadyReason::Skipped),
        }
        if invalidated { self.pause_invalidated() } else { Ok(()) }
    }

    /// Pauses fetching for invalidated writers; the others continue.
    pub(super) fn pause_invalidated(&self) -> Result<(), StageError> {
        fetcher::pause(&self.consumer, &self.writers)
    }

    /// Resumes fetching for the writers whose claims hold.
    pub(super) fn resume(&mut self) -> Result<(), StageError> {
        if self.consumer.context().has_rebalance() {
            // After a rebalance another process may own these partitions.
            return Ok(());
        }
        fetcher::fetch(&self.consumer, &mut self.writers)
    }

    /// Commits the durable offsets, from which the lag is computed. Inserts commit them too, but a partition without
    /// new records has no insert.
    pub(super) fn commit(&self, mode: CommitMode) {
        let claimed = self
            .writers
            .iter()
            .flat_map(|writer| writer.partitions.values())
            .filter(|owned| owned.claim != 0);
        let committed = group::list(claimed.map(|owned| (&owned.at, Offset::Offset(owned.durable))))
            .and_then(|list| {
                match (list.count(), mode) {
                    (0, _) => Ok(()),
                    (_, CommitMode::Async) => self.consumer.commit(&list, mode),
                    // At shutdown, with a short timeout.
                    (_, CommitMode::Sync) => group::commit(&self.consumer, list, &self.options.stop, || ())
                        .unwrap_or(Err(KafkaError::Canceled)),
                }
            });
        if let Err(error) = committed {
            tracing::warn!(stage = self.options.stage, %error, "could not commit offsets; only the reported lag is affected");
        }
    }
}

fn push_message<E: RowEncoder>(
    options: &Options,
    writer: &mut TableWriter,
    encoder: &mut E,
    message: &BorrowedMessage<'_>,
) -> Result<PushOutcome, StageError> {
    let Some(owned) = writer.partitions.get(&message.partition()) else { return Ok(PushOutcome::NotOwned) };
    if owned.is_proven_empty(message.offset()) {
        return Err(empty::contradiction_error(options, &owned.at, message.offset()));
    }
    let at: TopicPartition = owned.at.clone();
    let logged_at = append_time(&at, message)?;
    let record = Record {
        at: &at,
        offset: message.offset(),
        logged_at,
        key: message.key(),
        value: message.payload(),
        headers: Headers::of(message),
        skipped: 0,
    };
    writer.push(encoder, &record)
}

/// Returns the time at which a record was appended. A record without a timestamp ends the stage: a row requires one,
/// and no record may be left out.
fn append_time(at: &TopicPartition, message: &impl Message) -> Result<Millis, StageError> {
    let missing = || {
        let offset = message.offset();
        StageError::Config(format!("{at} offset {offset}: {NO_TIMESTAMP}; see docs/errors/no_timestamp.md"))
    };
    logged_at(message).ok_or_else(missing)
}

/// Outcome of buffering records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchOutcome {
    /// No more records are available.
    Drained,
    /// A limit was reached; more records may be available.
    Limited,
}

/// Outcome of inserting a writer's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InsertOutcome {
    /// All rows are in the table.
    Durable,
    /// The outcome is unknown: the writer is invalidated.
    Unconfirmed,
}

/// Inserts a writer's rows if a second reader confirms the skipped offsets, and commits the offsets for the lag.
fn insert<E: RowEncoder>(
    options: &Options,
    store: &Store,
    writer: &mut TableWriter,
    encoder: &mut E,
    (consumer, second_reader): (&BaseConsumer<RebalanceListener>, &SecondReader),
    metrics: &SinkMetrics,
) -> Result<InsertOutcome, StageError> {
    if !writer.confirm_skips(second_reader, &options.stop) {
        return Ok(InsertOutcome::Unconfirmed);
    }
    let began = Instant::now();
    let inserted = writer.insert(encoder, store);
    report_skipped(&options.stage, writer, metrics);
    let error = match inserted {
        Ok(rows) => {
            metrics.inserted(&writer.route.table, rows, began.elapsed());
            options.health.record_progress(u64::try_from(rows).unwrap_or(u64::MAX), 0);
            tracing::debug!(stage = options.stage, table = writer.route.table, rows, "inserted");
            let durable = writer.partitions.values().map(|owned| (&owned.at, Offset::Offset(owned.durable)));
            let committed = group::list(durable).and_then(|list| consumer.commit(&list, CommitMode::Async));
            if let Err(error) = committed {
                tracing::warn!(stage = options.stage, %error, "could not commit offsets; only the reported lag is affected");
            }
            failpoint::edge("sink::committed");
            return Ok(InsertOutcome::Durable);
        }
        Err(WriteError::Store(error)) => error,
        Err(WriteError::Fatal(error)) => return Err(error),
    };
    metrics.insert_unconfirmed(&writer.route.table, error.is_fenced());
    writer.note_unconfirmed();
    options
        .health
        .set_not_ready(NotReadyReason::Clickhouse, format!("table {}: {error}", writer.route.table));
    writer.invalidate();
    Ok(InsertOutcome::Unconfirmed)
}

/// Counts and logs skipped offsets before durable rows, even if another block of the insert failed.
pub(super) fn report_skipped(stage: &str, writer: &mut TableWriter, metrics: &SinkMetrics) {
    let skips = writer.take_durable_skips();
    let offsets = skips.values().flatten().map(|range| range.end.abs_diff(range.start));
    metrics.skipped(&writer.route.table, offsets.sum());
    writer.skip_log.note(stage, &writer.route.topic, &skips);
}

/// Handles an error of the consumer: a temporary error is reported, a lost position invalidates all writers, and a
/// fatal error ends the stage.
fn handle_consumer_error(
    options: &Options,
    writers: &mut [TableWriter],
    error: KafkaError,
) -> Result<(), StageError> {
    match error {
        KafkaError::MessageConsumptionFatal(_) => Err(StageError::kafka(options.stage.as_str())(error)),
        error => {
            options.health.set_not_ready(NotReadyReason::Kafka, error.to_string());
            if is_offset_gone(&error) || is_topic_gone(&error) {
                // Retention deleted the offset, or the topic was deleted and may be created again. The error does not
                // name the partition, so all writers read their tails.
                writers
                    .iter_mut()
                    .filter(|writer| !writer.partitions.is_empty())
                    .for_each(TableWriter::invalidate);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use agentgov_service::ExitCode;
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;

    #[test]
    fn record_without_a_timestamp_ends_the_sink() {
        let at = TopicPartition::new("agent.actions", 3);
        let append_time = |timestamp| {
            append_time(&at, &OwnedMessage::new(None, None, "agent.actions".into(), timestamp, 3, 7, None))
        };
        assert_eq!(append_time(Timestamp::LogAppendTime(5)).unwrap(), Millis(5));
        for none in [Timestamp::NotAvailable, Timestamp::CreateTime(-1)] {
            let error = append_time(none).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Config);
            assert!(error.to_string().starts_with("agent.actions/3 offset 7: expected "), "{error}");
        }
    }
}
