//! The loop.

use std::time::{Duration, Instant};

use agentgov_connect::assign::whole_millis;
use agentgov_connect::{KafkaEndpoint, keep_reaching};
use agentgov_schemas::topology::{Retention, Timing};
use agentgov_schemas::{Millis, NotReadyReason};
use agentgov_service::metrics::SinkMetrics;
use agentgov_service::stop::Parting;
use agentgov_service::{Health, NO_TIMESTAMP, StageError, Stop, failpoint, logged_at};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;

use super::fetcher;
use super::group;
use super::headers::Headers;
use super::lane::{Lane, Taken};
use super::probe::Probe;
use super::second::Second;
use super::{NotReady, Record, Store, TopicPartition, Writer, empty};
use crate::consumer::{OutageProbe, Rebalance, RebalanceListener, is_offset_gone, is_topic_gone};
use crate::empty_tail::{self, TailProver};

/// Longest wait for a record: so long a request to stop, or a claim that is due, may go unheard.
const POLL: Duration = Duration::from_millis(50);

/// How often the clock is looked at while records come.
const RECORDS_BETWEEN_LOOKS: usize = 64;

/// A topic, and the table that has its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The topic.
    pub topic: String,
    /// The table.
    pub table: String,
    /// True if every offset is a record: the topic's producers write no transactions. Then the table's rows are counted.
    pub gapless: bool,
    /// How long the topic keeps its records.
    pub retention: Retention,
}

/// What the loop needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stage's name, for messages.
    pub stage: String,
    /// Its consumer group.
    pub group: String,
    /// What it reads, and where that goes.
    pub routes: Vec<Route>,
    /// The table of claims.
    pub claims: String,
    /// The table of offsets that were accepted as lost.
    pub gaps: String,
    /// The table of offsets behind a partition's last row in which a fresh reader found no record.
    pub empty: String,
    /// Where Kafka is.
    pub kafka: KafkaEndpoint,
    /// The timeouts that decide recovery.
    pub timing: Timing,
    /// True: go on where retention was faster, and record what was lost.
    pub accept_gap: bool,
    /// Asks it to end.
    pub stop: Stop,
    /// What it says of itself.
    pub health: Health,
}

/// Runs until asked to stop, or until something that waiting does not mend. Blocks; never call it from async code.
///
/// Returns `Ok` after it has committed its offsets and left the group. An insert that is under way is waited for if the store
/// answers soon; what was only gathered is read again by whoever goes on.
pub fn run<W: Writer>(options: Options, store: Store, writer: W) -> Result<(), StageError> {
    Sink::new(options, store, writer)?.run()
}

pub(super) struct Sink<W> {
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) writer: W,
    pub(super) consumer: Parting<BaseConsumer<RebalanceListener>>,
    pub(super) probe: Probe,
    second: Second,
    pub(super) prover: TailProver,
    pub(super) lanes: Vec<Lane>,
    pub(super) metrics: SinkMetrics,
    pub(super) outage: OutageProbe,
    /// Times in a row that a proven member found its claim taken by someone else.
    pub(super) robbed: u32,
}

impl<W: Writer> Sink<W> {
    fn new(options: Options, store: Store, writer: W) -> Result<Self, StageError> {
        let probe = Probe::new(options.kafka.positioned_config(&options.group), options.stop.clone())?;
        let second = Second::new(options.kafka.reader_config(&options.group));
        let retentions = options.routes.iter().map(|route| route.retention);
        let readers = options.kafka.reader_config(&options.group);
        let prover = TailProver::new(readers, empty_tail::interval(retentions));
        let topics: Vec<_> = options.routes.iter().map(|route| route.topic.as_str()).collect();
        let consumer = group::join(&options.kafka, &options.group, &options.timing, &topics)?;
        let topic = topics.first().copied().ok_or_else(|| {
            StageError::Config(format!("topology: stage `{}` reads no topic that has a table", options.stage))
        })?;
        let reach = keep_reaching(&options.kafka, topic, &consumer.share());
        probe.keep_reaching(&options.kafka, topic);
        let lanes = options.routes.iter().cloned().map(Lane::new).collect();
        let tables = options.routes.iter().map(|route| route.table.as_str());
        let metrics = SinkMetrics::new(&options.stage, tables);
        // Whether it is there is asked at once: until then nothing is known.
        let mut outage = OutageProbe::new(reach);
        outage.suspect();
        Ok(Self {
            options,
            store,
            writer,
            consumer,
            probe,
            second,
            prover,
            lanes,
            metrics,
            outage,
            robbed: 0,
        })
    }

    fn run(mut self) -> Result<(), StageError> {
        while !self.options.stop.is_asked() {
            self.options.health.alive();
            self.rebalance();
            self.establish()?;
            let fetched = self.fetch()?;
            self.flush(fetched == Fetched::All)?;
            self.record_empty_tails()?;
            if let Some(route) = self.options.routes.first() {
                self.outage.run(&self.options.health, &self.consumer, &route.topic);
            }
        }
        self.commit(CommitMode::Sync);
        Ok(())
    }

    /// Takes over, or gives up, what the group says.
    fn rebalance(&mut self) {
        for rebalance in self.consumer.context().take() {
            let health = &self.options.health;
            let partitions = match rebalance {
                Rebalance::Assigned(partitions) => partitions,
                Rebalance::Revoked { .. } => {
                    health.not_ready(NotReadyReason::Group, "rebalancing");
                    // Or the broker does not answer any more, and the session has timed out.
                    self.outage.suspect();
                    self.lanes.iter_mut().for_each(|lane| lane.assign(&[]));
                    self.metrics.partitions.set(0.0);
                    continue;
                }
            };
            self.metrics.partitions.set(partitions.len() as f64);
            tracing::info!(stage = self.options.stage, partitions = partitions.len(), "assigned");
            for lane in &mut self.lanes {
                lane.assign(&partitions);
            }
            if partitions.is_empty() {
                health.clear(NotReadyReason::Starting);
                health.clear(NotReadyReason::Group);
            } else {
                health.not_ready(
                    NotReadyReason::Starting,
                    format!("taking over {} partitions", partitions.len()),
                );
            }
        }
    }

    /// Gathers records until there are none, or enough.
    fn fetch(&mut self) -> Result<Fetched, StageError> {
        let started = Instant::now();
        let mut records = 0_usize;
        let mut wait = self.lanes.iter().filter_map(|lane| lane.patience(true)).fold(POLL, Duration::min);
        let consumer = &self.consumer;
        loop {
            let message = match consumer.poll(whole_millis(wait)) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    trouble(&self.options, &mut self.lanes, error)?;
                    self.rest()?;
                    self.outage.suspect();
                    break;
                }
            };
            if consumer.context().any() {
                // Rebalanced: the message may be no longer ours. Whoever owns it reads it again.
                return Ok(Fetched::Some);
            }
            let Some(lane) = self.lanes.iter_mut().find(|lane| lane.route.topic == message.topic()) else {
                continue;
            };
            match gather(&self.options, lane, &mut self.writer, &message)? {
                Taken::Yes | Taken::NotOurs => {}
                Taken::Full | Taken::Stopped => return Ok(Fetched::Some),
                Taken::InsertFirst => {
                    let inserted = insert(
                        &self.options,
                        &self.store,
                        lane,
                        &mut self.writer,
                        (consumer, &self.second),
                        &self.metrics,
                    )?;
                    if inserted == Inserted::InDoubt {
                        return self.rest().map(|()| Fetched::Some);
                    }
                    if gather(&self.options, lane, &mut self.writer, &message)? == Taken::InsertFirst {
                        return Err(StageError::Internal("a record found no place in empty blocks".into()));
                    }
                }
            }
            records += 1;
            if records.is_multiple_of(RECORDS_BETWEEN_LOOKS) && started.elapsed() > POLL {
                self.options.health.clear(NotReadyReason::Kafka);
                return Ok(Fetched::Some);
            }
            wait = Duration::ZERO;
        }
        if self.lanes.iter().all(|lane| lane.claim_at.is_none()) {
            self.options.health.progress(0, 0);
        }
        Ok(Fetched::All)
    }

    /// Inserts what has waited long enough.
    fn flush(&mut self, idle: bool) -> Result<(), StageError> {
        let mut doubts = false;
        for lane in &mut self.lanes {
            if self.options.stop.is_asked() {
                // What is not inserted yet is read again by whoever goes on.
                return Ok(());
            }
            if lane.patience(idle).is_some_and(|patience| patience.is_zero()) {
                match insert(
                    &self.options,
                    &self.store,
                    lane,
                    &mut self.writer,
                    (&self.consumer, &self.second),
                    &self.metrics,
                )? {
                    Inserted::Durable => self.robbed = 0,
                    Inserted::InDoubt => doubts = true,
                }
            }
        }
        if self.lanes.iter().all(|lane| lane.claim_at.is_none() && lane.strikes == 0) {
            self.options.health.clear(NotReadyReason::Clickhouse);
        }
        match self.lanes.iter().find_map(|lane| lane.contested.as_deref()) {
            Some(why) => self.options.health.not_ready(NotReadyReason::Skipped, why),
            None => self.options.health.clear(NotReadyReason::Skipped),
        }
        if doubts { self.rest() } else { Ok(()) }
    }

    /// Stops fetching for the lanes that are in doubt; the others go on.
    pub(super) fn rest(&self) -> Result<(), StageError> {
        fetcher::pause(&self.consumer, &self.lanes)
    }

    /// Goes on fetching for the lanes whose claims hold.
    pub(super) fn resume(&mut self) -> Result<(), StageError> {
        if self.consumer.context().any() {
            // Rebalanced meanwhile: these may be no longer ours.
            return Ok(());
        }
        fetcher::fetch(&self.consumer, &mut self.lanes)
    }

    /// Commits what the tables have: it shows how far the stage is, and where nothing new comes it is not said otherwise.
    pub(super) fn commit(&self, mode: CommitMode) {
        let held = self.lanes.iter().flat_map(|lane| lane.shares.values()).filter(|share| share.claim != 0);
        let committed =
            group::list(held.map(|share| (&share.at, Offset::Offset(share.durable)))).and_then(|list| {
                match (list.count(), mode) {
                    (0, _) => Ok(()),
                    (_, CommitMode::Async) => self.consumer.commit(&list, mode),
                    // On leaving; it is not waited for long.
                    (_, CommitMode::Sync) => group::commit(&self.consumer, list, &self.options.stop, || ())
                        .unwrap_or(Err(KafkaError::Canceled)),
                }
            });
        if let Err(error) = committed {
            tracing::warn!(stage = self.options.stage, %error, "offsets were not committed; only the lag shows it");
        }
    }
}

fn gather<W: Writer>(
    options: &Options,
    lane: &mut Lane,
    writer: &mut W,
    message: &BorrowedMessage<'_>,
) -> Result<Taken, StageError> {
    let Some(share) = lane.shares.get(&message.partition()) else { return Ok(Taken::NotOurs) };
    if share.is_proven_empty(message.offset()) {
        return Err(empty::contradicted(options, &share.at, message.offset()));
    }
    let at: TopicPartition = share.at.clone();
    let logged_at = appended(&at, message)?;
    let record = Record {
        at: &at,
        offset: message.offset(),
        logged_at,
        key: message.key(),
        value: message.payload(),
        headers: Headers::of(message),
        skipped: 0,
    };
    lane.take(writer, &record)
}

/// When a record was appended. One without a timestamp ends the stage: a table has no row without one, and no record may be left out.
fn appended(at: &TopicPartition, message: &impl Message) -> Result<Millis, StageError> {
    let missing = || {
        let offset = message.offset();
        StageError::Config(format!("{at} offset {offset}: {NO_TIMESTAMP}; see docs/errors/no_timestamp.md"))
    };
    logged_at(message).ok_or_else(missing)
}

/// What gathering records came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    /// Everything that was there.
    All,
    /// As much as is gathered at once; more may be there.
    Some,
}

/// What became of a lane's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inserted {
    /// All of them are in the table.
    Durable,
    /// They may be or not: the lane is in doubt.
    InDoubt,
}

/// Inserts what a lane has gathered, if a second reader agrees with what was passed over, and commits for the lag.
fn insert<W: Writer>(
    options: &Options,
    store: &Store,
    lane: &mut Lane,
    writer: &mut W,
    (consumer, second): (&BaseConsumer<RebalanceListener>, &Second),
    metrics: &SinkMetrics,
) -> Result<Inserted, StageError> {
    if !lane.proves(second, &options.stop) {
        return Ok(Inserted::InDoubt);
    }
    let began = Instant::now();
    let inserted = lane.insert(writer, store);
    note_passed_over(&options.stage, lane, metrics);
    let error = match inserted {
        Ok(rows) => {
            metrics.inserted(&lane.route.table, rows, began.elapsed());
            options.health.progress(u64::try_from(rows).unwrap_or(u64::MAX), 0);
            tracing::debug!(stage = options.stage, table = lane.route.table, rows, "inserted");
            let durable = lane.shares.values().map(|share| (&share.at, Offset::Offset(share.durable)));
            let committed = group::list(durable).and_then(|list| consumer.commit(&list, CommitMode::Async));
            if let Err(error) = committed {
                tracing::warn!(stage = options.stage, %error, "offsets were not committed; only the lag shows it");
            }
            failpoint::edge("sink::committed");
            return Ok(Inserted::Durable);
        }
        Err(NotReady::Store(error)) => error,
        Err(NotReady::Fatal(error)) => return Err(error),
    };
    metrics.doubt(&lane.route.table, error.is_fence());
    lane.unanswered();
    options.health.not_ready(NotReadyReason::Clickhouse, format!("table {}: {error}", lane.route.table));
    lane.doubt();
    Ok(Inserted::InDoubt)
}

/// Counts and logs what was passed over before rows that are durable, also where another block of the insert is not.
pub(super) fn note_passed_over(stage: &str, lane: &mut Lane, metrics: &SinkMetrics) {
    let passed_over = lane.take_passed_over();
    let offsets = passed_over.values().flatten().map(|range| range.end.abs_diff(range.start));
    metrics.skipped(&lane.route.table, offsets.sum());
    lane.finding.note(stage, &lane.route.topic, &passed_over);
}

/// A consumer's error: some pass, some mean that a partition's position is gone, some end the stage.
fn trouble(options: &Options, lanes: &mut [Lane], error: KafkaError) -> Result<(), StageError> {
    match error {
        KafkaError::MessageConsumptionFatal(_) => Err(StageError::kafka(options.stage.as_str())(error)),
        error => {
            options.health.not_ready(NotReadyReason::Kafka, error.to_string());
            if is_offset_gone(&error) || is_topic_gone(&error) {
                // Deleted by retention, or with its topic, which may come back as another. Which partition it was is not told:
                // looking at all of them finds out.
                lanes.iter_mut().filter(|lane| !lane.shares.is_empty()).for_each(Lane::doubt);
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
    fn a_record_without_a_timestamp_ends_the_sink() {
        let at = TopicPartition::new("agent.actions", 3);
        let appended = |timestamp| {
            appended(&at, &OwnedMessage::new(None, None, "agent.actions".into(), timestamp, 3, 7, None))
        };
        assert_eq!(appended(Timestamp::LogAppendTime(5)).unwrap(), Millis(5));
        for none in [Timestamp::NotAvailable, Timestamp::CreateTime(-1)] {
            let error = appended(none).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Config);
            assert!(error.to_string().starts_with("agent.actions/3 offset 7: expected "), "{error}");
        }
    }
}
