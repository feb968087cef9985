//! Worker processes: the publisher, and those of the baseline.
//!
//! A worker prints `ready`, waits for a line, does its task, prints the result as JSON, and waits for the end of stdin, so
//! that its resource usage can be read before it exits.

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::topology::Topology;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::baseline::{copy, insert, publish as bare};
use crate::decide::{ConstantServer, constant};
use crate::sessions::{Scripts, Sessions};

/// Task of a worker process, passed as JSON on its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "worker", content = "task", rename_all = "snake_case")]
pub enum WorkerTask {
    /// Publish sessions with the SDK.
    Publish(PublishTask),
    /// Publish a recording with a bare producer.
    BarePublish(bare::BarePublish),
    /// Copy a topic into others.
    BareCopy(copy::BareCopy),
    /// Insert rows from memory.
    BareInsert(insert::BareInsert),
    /// Serve a constant decision.
    Constant(ConstantServer),
}

/// Content of [`WorkerTask::Publish`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishTask {
    /// Tenant of the sessions.
    pub tenant: String,
    /// Agent of the sessions.
    pub agent: String,
    /// Deployment environment of the sessions.
    pub environment: String,
    /// Number of events, without the closing event of the source.
    pub events: u64,
    /// Events per second; `None` for full speed.
    pub rate: Option<f64>,
    /// Concurrently open sessions.
    pub open_sessions: usize,
    /// Seed of the sessions.
    pub seed: u64,
    /// Prefix of the session ids.
    pub run: String,
    /// Begins with one event of each open session.
    pub visits_each: bool,
}

/// Result of a publisher.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PublishResult {
    /// Number of events, with the closing event.
    pub events: u64,
    /// Seconds from the first event to the last acknowledgement.
    pub seconds: f64,
}

/// Addresses and folders of a worker.
#[derive(Clone, Debug)]
pub struct WorkerContext {
    /// Kafka brokers.
    pub kafka: KafkaEndpoint,
    /// Schema registry.
    pub registry: SchemaRegistryEndpoint,
    /// Topology of the pipeline.
    pub topology: Arc<Topology>,
    /// ClickHouse.
    pub clickhouse: crate::store::Store,
    /// Folder of the recordings.
    pub recordings: PathBuf,
}

/// Runs a worker's task.
///
/// # Errors
/// If the task fails.
pub fn run_worker(task: &WorkerTask, context: &WorkerContext) -> Result<(), BenchError> {
    match task {
        WorkerTask::Publish(task) => publish(task, context),
        WorkerTask::BarePublish(task) => bare::publish(task, context),
        WorkerTask::BareCopy(task) => copy::copy(task, context),
        WorkerTask::BareInsert(task) => insert::insert(task, context),
        WorkerTask::Constant(task) => constant::serve(task),
    }
}

fn publish(task: &PublishTask, context: &WorkerContext) -> Result<(), BenchError> {
    let scripts = Scripts::new(task.seed);
    let sessions = Sessions::new(&scripts, &task.run, task.open_sessions, task.seed);
    let mut sessions = if task.visits_each { sessions.visiting_each() } else { sessions };
    let options = agentgov_sdk::RecorderOptions::new(
        context.kafka.clone(),
        context.registry.clone(),
        Arc::clone(&context.topology),
        &task.tenant,
        &task.environment,
    );
    let recorder =
        agentgov_sdk::Recorder::start(options).map_err(|error| BenchError::Recorder(error.to_string()))?;
    await_start()?;
    let limiter = RateLimiter::new(task.rate);
    let began = Instant::now();
    for event in 0..task.events {
        limiter.wait(event);
        sessions
            .next(&task.agent, &task.run, |event| recorder.record(event))
            .map_err(|error| BenchError::Recorder(error.to_string()))?;
    }
    let closed =
        recorder.close(Duration::from_secs(120)).map_err(|error| BenchError::Recorder(error.to_string()))?;
    let events = u64::try_from(closed.total).unwrap_or_default();
    // `total` is the sequence number of the closing event, which counts from 0.
    report_result(&PublishResult { events: events + 1, seconds: began.elapsed().as_secs_f64() })
}

/// Limits the rate of events: each event has a due time, and late events are sent at once.
pub(crate) struct RateLimiter {
    began: Instant,
    between: Option<Duration>,
}

impl RateLimiter {
    pub(crate) fn new(rate: Option<f64>) -> Self {
        Self { began: Instant::now(), between: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)) }
    }

    pub(crate) fn wait(&self, event: u64) {
        let Some(between) = self.between else { return };
        let due = between.mul_f64(event as f64);
        let early = due.saturating_sub(self.began.elapsed());
        // Sends the events of one millisecond together, since shorter sleeps would cost CPU without a smoother rate.
        if early > Duration::from_millis(1) {
            std::thread::sleep(early);
        }
    }
}

/// Prints `ready` and waits for the start line.
pub(crate) fn await_start() -> Result<(), BenchError> {
    write_line("ready").and_then(|()| read_line()).map_err(BenchError::io("writing to the benchmark"))
}

/// Prints the result and waits for the end of stdin.
pub(crate) fn report_result<T: Serialize>(result: &T) -> Result<(), BenchError> {
    let line =
        serde_json::to_string(result).map_err(|error| BenchError::io("encoding a result")(error.into()))?;
    write_line(&line).and_then(|()| read_line()).map_err(BenchError::io("writing to the benchmark"))
}

fn write_line(line: &str) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn read_line() -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}
