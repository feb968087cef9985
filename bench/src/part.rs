//! The processes beside the pipeline's own: who publishes, and the bare ones.
//!
//! Each says `ready`, waits for a line, does its work, says `done` with what it did, and waits for the end of its stdin, so
//! that what it used can be read.

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::topology::Topology;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::floor::{copy, insert, publish as bare};
use crate::sessions::{Scripts, Sessions};

/// What a process is to do. Travels as JSON on its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "part", content = "what", rename_all = "snake_case")]
pub enum Part {
    /// Publishes sessions with the SDK.
    Publish(Publish),
    /// Publishes a tape with a bare producer.
    BarePublish(bare::BarePublish),
    /// Copies from a topic into others.
    BareCopy(copy::BareCopy),
    /// Inserts rows from memory.
    BareInsert(insert::BareInsert),
}

/// [`Part::Publish`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Whose sessions.
    pub tenant: String,
    /// Who acts.
    pub agent: String,
    /// Where.
    pub environment: String,
    /// How many events; the source's closing event comes on top.
    pub events: u64,
    /// Events a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Sessions that are open side by side.
    pub open_sessions: usize,
    /// What they are made from.
    pub seed: u64,
    /// Sessions are named after it.
    pub run: String,
}

/// What a publisher did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Events, the closing one included.
    pub events: u64,
    /// From the first event to the last acknowledgement.
    pub seconds: f64,
}

/// Where a process finds the stack.
#[derive(Clone, Debug)]
pub struct Places {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The registry.
    pub registry: SchemaRegistryEndpoint,
    /// The map.
    pub topology: Arc<Topology>,
    /// ClickHouse's address with user, password and database, as a URL's query.
    pub clickhouse: crate::store::Store,
    /// Tapes.
    pub tapes: PathBuf,
}

/// Does a part's work.
///
/// # Errors
/// If it cannot.
pub fn work(part: &Part, places: &Places) -> Result<(), BenchError> {
    match part {
        Part::Publish(what) => publish(what, places),
        Part::BarePublish(what) => bare::publish(what, places),
        Part::BareCopy(what) => copy::copy(what, places),
        Part::BareInsert(what) => insert::insert(what, places),
    }
}

fn publish(what: &Publish, places: &Places) -> Result<(), BenchError> {
    let scripts = Scripts::new(what.seed);
    let mut sessions = Sessions::new(&scripts, &what.run, what.open_sessions, what.seed);
    let options = agentgov_sdk::RecorderOptions::new(
        places.kafka.clone(),
        places.registry.clone(),
        Arc::clone(&places.topology),
        &what.tenant,
        &what.environment,
    );
    let recorder =
        agentgov_sdk::Recorder::start(options).map_err(|error| BenchError::Recorder(error.to_string()))?;
    ready()?;
    let pace = Pace::new(what.rate);
    let began = Instant::now();
    for event in 0..what.events {
        pace.wait(event);
        sessions
            .next(&what.agent, &what.run, |event| recorder.record(event))
            .map_err(|error| BenchError::Recorder(error.to_string()))?;
    }
    let closed =
        recorder.close(Duration::from_secs(120)).map_err(|error| BenchError::Recorder(error.to_string()))?;
    let events = u64::try_from(closed.total).unwrap_or_default();
    // The total is the closing event's own number: the events before it, and itself.
    done(&Published { events: events + 1, seconds: began.elapsed().as_secs_f64() })
}

/// Lets events out at a rate: each has its time, and late ones go at once.
pub(crate) struct Pace {
    began: Instant,
    between: Option<Duration>,
}

impl Pace {
    pub(crate) fn new(rate: Option<f64>) -> Self {
        Self { began: Instant::now(), between: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)) }
    }

    pub(crate) fn wait(&self, event: u64) {
        let Some(between) = self.between else { return };
        let due = between.mul_f64(event as f64);
        let early = due.saturating_sub(self.began.elapsed());
        // Shorter sleeps cost more than they are worth: a millisecond's events go together.
        if early > Duration::from_millis(1) {
            std::thread::sleep(early);
        }
    }
}

/// Says that it is ready, and waits until it is told to begin.
pub(crate) fn ready() -> Result<(), BenchError> {
    say("ready").and_then(|()| listen()).map_err(BenchError::io("talking to the bench"))
}

/// Says what was done, and waits until nobody listens.
pub(crate) fn done<T: Serialize>(what: &T) -> Result<(), BenchError> {
    let line = serde_json::to_string(what).map_err(|error| BenchError::io("telling")(error.into()))?;
    say(&line).and_then(|()| listen()).map_err(BenchError::io("talking to the bench"))
}

fn say(line: &str) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn listen() -> io::Result<()> {
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}
