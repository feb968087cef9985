//! Metrics of a process. This module has the name of every metric; docs/operations/metrics.md describes them for operators.
//!
//! Handles are created once. The loops add up counts and record them once for each batch, never for a single record. Without
//! `run --listen` there is no recorder, and recording costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::verdict::Decision;
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::StageError;

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Value that only grows.
    Counter,
    /// Value that goes up and down.
    Gauge,
    /// Distribution of values over buckets.
    Histogram,
}

/// Definition of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name, with the unit as Prometheus requires.
    pub name: &'static str,
    /// Type of the metric.
    pub kind: MetricKind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// Description for people.
    pub help: &'static str,
}

macro_rules! all {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) const $id: &str = $name;)*
        /// Every metric of a process, in the order of docs/operations/metrics.md.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help }),*];
    };
}

all! {
    BUILD_INFO = Gauge "agentgov_build_info" ["version"] "1; the version is a label.";
    START_TIME = Gauge "process_start_time_seconds" [] "Start time of the process, in seconds since the epoch.";
    READY = Gauge "agentgov_ready" ["stage"] "1 if the stage is ready, otherwise 0; /readyz lists the reasons.";
    NOT_READY = Gauge "agentgov_not_ready" ["stage", "reason"] "1 while the stage is not ready for this reason.";
    LIVE = Gauge "agentgov_live" ["stage"] "1 if the stage's loop runs, 0 if it hangs.";
    PROGRESS_AGE = Gauge "agentgov_progress_age_seconds" ["stage"] "Time since the stage last finished a batch or found nothing to do.";
    PARTITIONS = Gauge "agentgov_partitions" ["stage"] "Partitions that are assigned to this process.";
    LAG_RECORDS = Gauge "agentgov_lag_records" ["stage", "topic", "partition"] "Offsets of a partition that the stage's group has not committed.";
    LAG_SECONDS = Gauge "agentgov_lag_seconds" ["stage", "topic", "partition"] "Age of the oldest record of a partition that the stage's group has not committed; 0 if there is none.";
    LAG_UPDATED = Gauge "agentgov_lag_updated_timestamp_seconds" ["stage"] "Time of the last lag reading, in seconds since the epoch.";
    HELD_BACK = Gauge "agentgov_held_back_seconds" ["stage", "topic", "partition"] "Time for which an open transaction has held back a partition that the stage reads; 0 below 5 seconds.";
    RECORDS = Counter "agentgov_records_total" ["stage"] "Records that this process has finished: committed or inserted.";
    REJECTS = Counter "agentgov_rejects_total" ["stage", "reason"] "Records that this process has rejected.";
    BATCH_RECORDS = Histogram "agentgov_batch_records" ["stage"] "Records of a processor's batch.";
    STEP = Histogram "agentgov_step_seconds" ["stage"] "Time to decode and step a batch.";
    COMMIT = Histogram "agentgov_commit_seconds" ["stage"] "Time to produce a batch's outputs and commit its transaction.";
    ABORTED = Counter "agentgov_transactions_aborted_total" ["stage"] "Aborted transactions; their records were processed again.";
    RESTORE = Histogram "agentgov_restore_seconds" ["stage"] "Time to restore the state of an assignment from the changelog.";
    ROWS = Counter "agentgov_rows_inserted_total" ["stage", "table"] "Rows that this process has inserted.";
    INSERT_ROWS = Histogram "agentgov_insert_rows" ["stage", "table"] "Rows of an insert.";
    INSERT = Histogram "agentgov_insert_seconds" ["stage", "table"] "Time of an insert, until its rows are durable.";
    CLAIM = Histogram "agentgov_claim_seconds" ["stage"] "Time to claim topic-partitions.";
    DRAIN = Histogram "agentgov_drain_seconds" ["stage"] "Time until no insert under an older claim runs.";
    TAIL_READ = Histogram "agentgov_tail_read_seconds" ["stage", "table"] "Time to read a table's tail and compare it with the topic.";
    SKIPPED = Counter "agentgov_offsets_skipped_total" ["stage", "table"] "Skipped offsets before durable rows: a client writes transactions to the topic, or its cleanup.policy is or was compact.";
    INSERTS_UNCONFIRMED = Counter "agentgov_inserts_unconfirmed_total" ["stage", "table"] "Inserts whose outcome was unknown (timeout, error, lost connection); each was verified against the table.";
    INSERTS_RESOLVED = Counter "agentgov_inserts_resolved_total" ["stage", "table", "found"] "Unconfirmed inserts by the result of the verification: present or absent.";
    CLAIMS_LOST = Counter "agentgov_claims_lost_total" ["stage", "table"] "Inserts that the table's fence refused: another writer has claimed the topic-partition, or the server has restarted.";
    DECISIONS = Counter "agentgov_decisions_total" ["outcome", "reason"] "Decisions that this decision point has answered, by outcome and reason.";
    DECISION = Histogram "agentgov_decision_seconds" [] "Time to decide one request, without reading it and writing the answer.";
    REFUSED = Counter "agentgov_requests_refused_total" ["status"] "Requests that this decision point has answered with an error, by HTTP status.";
    DECISIONS_WAITING = Gauge "agentgov_decisions_waiting_bytes" [] "Bytes of decisions in the spool that Kafka has not acknowledged.";
    COPY_KNOWN = Gauge "agentgov_copy_known" ["partition"] "1 while this decision point knows the sessions of a partition, 0 while it is loading, stale, or too far ahead of the evaluator.";
    COPY_BEHIND = Gauge "agentgov_copy_behind_records" ["partition"] "Offsets between the last known action of a partition and its end.";
    COPY_AGE = Gauge "agentgov_copy_age_seconds" ["partition"] "Upper bound of the age of what this decision point knows of a partition's actions.";
    COPY_AHEAD = Gauge "agentgov_copy_ahead_bytes" ["partition"] "Bytes of actions in memory that the evaluator has not processed.";
    COPY_SESSIONS = Gauge "agentgov_copy_sessions" [] "Sessions in memory, as the evaluator has them.";
    BUNDLE_ACTIVE = Gauge "agentgov_bundle_active" ["environment", "digest"] "1 for the bundle by which this decision point decides in an environment, 0 for an earlier one.";
}

/// Bucket bounds of durations, in seconds: from a tail read of a millisecond to an insert that times out.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bucket bounds of a decision's time, in seconds: from a policy that is evaluated in microseconds to a wait for Kafka.
const DECISION_SECONDS: [f64; 12] =
    [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0];
/// Bucket bounds of counts, up to the largest batch.
const COUNTS: [f64; 9] = [1.0, 10.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 20_000.0, 50_000.0];

/// Recorder of the process's metrics. It must be created before the stages start; earlier values are lost.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of this process.
    ///
    /// # Errors
    /// If the process already has a recorder.
    pub fn start() -> Result<Self, StageError> {
        let failed = |e: &dyn std::fmt::Display| {
            StageError::Config(format!("cannot install the metrics recorder: {e}"))
        };
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Full(DECISION.into()), &DECISION_SECONDS))
            .and_then(|b| b.set_buckets(&COUNTS))
            .map_err(|e| failed(&e))?
            .install_recorder()
            .map_err(|e| failed(&e))?;
        for metric in METRICS {
            describe(metric);
        }
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gauge!(START_TIME).set(since_epoch());
        Ok(Self(handle))
    }

    /// Returns all metrics in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        self.0.render()
    }

    /// Aggregates the samples of histograms, which otherwise accumulate until the next rendering. The health server calls it
    /// regularly.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn describe(metric: &Metric) {
    let unit = if metric.name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
    match metric.kind {
        MetricKind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
        MetricKind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
        MetricKind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
    }
}

/// Returns the current time in seconds since the epoch, as Prometheus represents it.
pub(crate) fn since_epoch() -> f64 {
    // A clock before 1970 is wrong in any case, and reads as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Runs `work` and records its duration.
pub fn timed<T>(histogram: &Histogram, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    histogram.record(began.elapsed());
    done
}

/// Metrics of a processor loop.
pub struct ProcessorMetrics {
    stage: String,
    records: Counter,
    aborted: Counter,
    batch_records: Histogram,
    step: Histogram,
    commit: Histogram,
    /// Duration of restoring an assignment.
    pub restore: Histogram,
    /// Number of partitions that are assigned to this process.
    pub partitions: Gauge,
}

impl ProcessorMetrics {
    /// Creates the metrics of the processor `stage`.
    pub fn new(stage: &str) -> Self {
        let stage = stage.to_owned();
        let metrics = Self {
            records: counter!(RECORDS, "stage" => stage.clone()),
            aborted: counter!(ABORTED, "stage" => stage.clone()),
            batch_records: histogram!(BATCH_RECORDS, "stage" => stage.clone()),
            step: histogram!(STEP, "stage" => stage.clone()),
            commit: histogram!(COMMIT, "stage" => stage.clone()),
            restore: histogram!(RESTORE, "stage" => stage.clone()),
            partitions: gauge!(PARTITIONS, "stage" => stage.clone()),
            stage,
        };
        // A counter that starts at 0 shows its first increment.
        metrics.aborted.increment(0);
        metrics.records.increment(0);
        metrics
    }

    /// Records a committed batch.
    pub fn committed(
        &self,
        records: usize,
        rejects: &BTreeMap<RejectReason, u64>,
        step: Duration,
        commit: Duration,
    ) {
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        self.records.increment(u64::from(records));
        self.batch_records.record(records);
        self.step.record(step);
        self.commit.record(commit);
        for (reason, count) in rejects {
            counter!(REJECTS, "stage" => self.stage.clone(), "reason" => reason.as_str()).increment(*count);
        }
    }

    /// Records an aborted batch.
    pub fn aborted(&self) {
        self.aborted.increment(1);
    }
}

/// Metrics of a sink loop.
pub struct SinkMetrics {
    records: Counter,
    /// Duration of claiming topic-partitions.
    pub claim: Histogram,
    /// Duration of waiting until no insert under an older claim runs.
    pub drain: Histogram,
    /// Number of partitions that are assigned to this process.
    pub partitions: Gauge,
    tables: BTreeMap<String, TableMetrics>,
}

struct TableMetrics {
    rows: Counter,
    insert_rows: Histogram,
    insert: Histogram,
    tail_read: Histogram,
    skipped: Counter,
    inserts_unconfirmed: Counter,
    present: Counter,
    absent: Counter,
    claims_lost: Counter,
}

impl SinkMetrics {
    /// Creates the metrics of the sink `stage`, which writes `tables`.
    pub fn new<'t>(stage: &str, tables: impl Iterator<Item = &'t str>) -> Self {
        let tables = tables.map(|table| (table.to_owned(), TableMetrics::new(stage, table))).collect();
        let stage = stage.to_owned();
        Self {
            records: counter!(RECORDS, "stage" => stage.clone()),
            claim: histogram!(CLAIM, "stage" => stage.clone()),
            drain: histogram!(DRAIN, "stage" => stage.clone()),
            partitions: gauge!(PARTITIONS, "stage" => stage),
            tables,
        }
    }

    /// Records inserted rows that are durable.
    pub fn inserted(&self, table: &str, rows: usize, took: Duration) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.records.increment(u64::from(rows));
        if let Some(metrics) = self.tables.get(table) {
            metrics.rows.increment(u64::from(rows));
            metrics.insert_rows.record(rows);
            metrics.insert.record(took);
        }
    }

    /// Records skipped offsets before durable rows.
    pub fn skipped(&self, table: &str, offsets: u64) {
        if let Some(metrics) = self.tables.get(table) {
            metrics.skipped.increment(offsets);
        }
    }

    /// Records an unconfirmed insert.
    pub fn insert_unconfirmed(&self, table: &str, refused_by_fence: bool) {
        if let Some(metrics) = self.tables.get(table) {
            metrics.inserts_unconfirmed.increment(1);
            metrics.claims_lost.increment(u64::from(refused_by_fence));
        }
    }

    /// Records whether the tail read found the rows of an unconfirmed insert.
    pub fn resolved(&self, table: &str, present: bool) {
        if let Some(metrics) = self.tables.get(table) {
            if present { &metrics.present } else { &metrics.absent }.increment(1);
        }
    }

    /// Runs `work`, a tail read of a table, and records its duration.
    pub fn time_tail_read<T>(&self, table: &str, work: impl FnOnce() -> T) -> T {
        match self.tables.get(table) {
            Some(metrics) => timed(&metrics.tail_read, work),
            None => work(),
        }
    }
}

impl TableMetrics {
    fn new(stage: &str, table: &str) -> Self {
        let labels = || [("stage", stage.to_owned()), ("table", table.to_owned())];
        let found = |found: &str| {
            let [stage, table] = labels();
            counter!(INSERTS_RESOLVED, &[stage, table, ("found", found.to_owned())])
        };
        let metrics = Self {
            rows: counter!(ROWS, &labels()),
            insert_rows: histogram!(INSERT_ROWS, &labels()),
            insert: histogram!(INSERT, &labels()),
            tail_read: histogram!(TAIL_READ, &labels()),
            skipped: counter!(SKIPPED, &labels()),
            inserts_unconfirmed: counter!(INSERTS_UNCONFIRMED, &labels()),
            present: found("present"),
            absent: found("absent"),
            claims_lost: counter!(CLAIMS_LOST, &labels()),
        };
        for counter in [
            &metrics.rows,
            &metrics.skipped,
            &metrics.inserts_unconfirmed,
            &metrics.present,
            &metrics.absent,
            &metrics.claims_lost,
        ] {
            counter.increment(0);
        }
        metrics
    }
}

/// Names of the metrics that only a decision point has.
pub const DECISION_POINT_ONLY: [&str; 10] = [
    DECISIONS,
    DECISION,
    REFUSED,
    DECISIONS_WAITING,
    COPY_KNOWN,
    COPY_BEHIND,
    COPY_AGE,
    COPY_AHEAD,
    COPY_SESSIONS,
    BUNDLE_ACTIVE,
];

/// Metrics of a decision point.
pub struct DecisionMetrics {
    /// Counters by outcome and reason.
    decisions: RwLock<HashMap<(Decision, &'static str), Counter>>,
    seconds: Histogram,
}

impl DecisionMetrics {
    /// Registers them.
    pub fn new() -> Self {
        Self { decisions: RwLock::default(), seconds: histogram!(DECISION) }
    }

    /// Counts a decision.
    pub fn decided(&self, decision: Decision, reason: &'static str, took: Duration) {
        let key = (decision, reason);
        let known = self.decisions.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let counter = known.unwrap_or_else(|| {
            let counter = counter!(DECISIONS, "outcome" => decision.as_str(), "reason" => reason);
            let mut decisions = self.decisions.write().unwrap_or_else(PoisonError::into_inner);
            decisions.entry(key).or_insert(counter).clone()
        });
        counter.increment(1);
        self.seconds.record(took);
    }

    /// Counts a request that was answered with an error.
    pub fn refused(&self, status: u16) {
        counter!(REFUSED, "status" => status.to_string()).increment(1);
    }
}

/// Records the bytes of decisions that Kafka has not acknowledged.
pub fn record_waiting_decisions(bytes: u64) {
    gauge!(DECISIONS_WAITING).set(bytes as f64);
}

/// State of a follower's copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// True if sessions of the partition can be read.
    pub is_known: bool,
    /// Offsets between the last known action and the end; `None` if the end is not known.
    pub behind: Option<i64>,
    /// Upper bound of its age; `None` if it was never fresh.
    pub age: Option<Duration>,
    /// Bytes of the actions that the evaluator has not processed.
    pub ahead_bytes: usize,
}

/// Metrics of a follower's copy of the evaluator's state.
#[derive(Debug, Default)]
pub struct FollowerMetrics {
    /// Bundles that were active, by environment and digest.
    bundles: Mutex<BTreeSet<(String, String)>>,
}

impl FollowerMetrics {
    /// Creates them. They appear with their first values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records the copy of a partition.
    pub fn record_copy(&self, partition: i32, state: &CopyState) {
        let gauge = |name: &'static str| gauge!(name, "partition" => partition.to_string());
        gauge(COPY_KNOWN).set(if state.is_known { 1.0 } else { 0.0 });
        gauge(COPY_AHEAD).set(state.ahead_bytes as f64);
        if let Some(behind) = state.behind {
            gauge(COPY_BEHIND).set(behind.max(0) as f64);
        }
        if let Some(age) = state.age {
            gauge(COPY_AGE).set(age.as_secs_f64());
        }
    }

    /// Records the number of sessions.
    pub fn record_sessions(&self, sessions: usize) {
        gauge!(COPY_SESSIONS).set(sessions as f64);
    }

    /// Records the active bundles, each an environment and a digest. An earlier bundle falls back to 0.
    pub fn record_bundles<'b>(&self, active: impl Iterator<Item = (&'b str, String)>) {
        let active: BTreeSet<_> =
            active.map(|(environment, digest)| (environment.to_owned(), digest)).collect();
        let mut seen = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(active.iter().cloned());
        for bundle in seen.iter() {
            let (environment, digest) = bundle.clone();
            let value = if active.contains(bundle) { 1.0 } else { 0.0 };
            gauge!(BUNDLE_ACTIVE, "environment" => environment, "digest" => digest).set(value);
        }
    }
}

impl Default for DecisionMetrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_the_conventions() {
        for metric in METRICS {
            let name = metric.name;
            assert!(name.starts_with("agentgov_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
            assert_eq!(
                METRICS.iter().filter(|other| other.name == name).count(),
                1,
                "{name} is defined twice"
            );
        }
    }
}
