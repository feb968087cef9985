//! Producer process: consecutive sources with a spool, which write sessions at a bounded rate. It reports acknowledged
//! events on stdout, and ends when its stdin is closed.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::topology::Topology;
use agentgov_sdk::{FlushError, Recorder, RecorderOptions, SpoolOptions, StartError};
use fastrand::Rng;

use crate::session::Session;

/// Interval between two events of a source; three sources together write about 300 events per second.
const EVENT_INTERVAL: Duration = Duration::from_millis(10);
/// Concurrently open sessions of a source, so that sessions last for seconds.
const OPEN_SESSIONS: usize = 16;
/// Events of a source before it closes.
const SOURCE_EVENTS: std::ops::Range<u32> = 1_000..6_000;
/// Timeout for a source to start or close: longer than any part is unavailable.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(240);
/// Slightly above the minimum, so that segments are rotated and a kill repeats few events.
const SPOOL_BYTES: u64 = 9 << 19;

/// Parameters of a producer process.
#[derive(Clone, Debug)]
pub struct Produce {
    /// Kafka brokers.
    pub kafka: KafkaEndpoint,
    /// Schema registry.
    pub registry: SchemaRegistryEndpoint,
    /// Topology of the pipeline.
    pub topology: Arc<Topology>,
    /// Tenant of the sessions.
    pub tenant: String,
    /// Agent of the sessions.
    pub agent: String,
    /// Deployment environment of the sessions.
    pub environment: String,
    /// Folder of the spool, which all producers share.
    pub spool: PathBuf,
    /// Seed of the sessions.
    pub seed: u64,
}

/// Report of a producer, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProducerReport {
    /// A source started.
    Source(String),
    /// `record` returned `Ok` for all events up to this sequence number.
    Acknowledged(i64),
    /// The source closed with this total.
    Closed(i64),
    /// The source could not close, or a dead source was not published.
    Failed(String),
}

impl fmt::Display for ProducerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(id) => write!(f, "source {id}"),
            Self::Acknowledged(sequence) => write!(f, "acknowledged {sequence}"),
            Self::Closed(total) => write!(f, "closed {total}"),
            Self::Failed(why) => write!(f, "failed {}", why.replace('\n', " ")),
        }
    }
}

impl FromStr for ProducerReport {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (what, rest) = line.split_once(' ').ok_or(())?;
        let number = || rest.parse().map_err(drop);
        Ok(match what {
            "source" => Self::Source(rest.to_owned()),
            "acknowledged" => Self::Acknowledged(number()?),
            "closed" => Self::Closed(number()?),
            "failed" => Self::Failed(rest.to_owned()),
            _ => return Err(()),
        })
    }
}

/// Writes until stdin is closed, then closes its last source and the dead sources that it has claimed.
///
/// # Errors
/// If stdout is closed, since the harness has ended.
pub fn produce(produce: &Produce) -> io::Result<()> {
    let done = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let done = Arc::clone(&done);
        move || {
            // Both the end of stdin and an error end the producer.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            done.store(true, Ordering::Release);
        }
    });
    let mut rng = Rng::with_seed(produce.seed);
    let mut last = false;
    while !last {
        last = done.load(Ordering::Acquire);
        // The registry or the broker may be unreachable.
        let recorder = match produce.start() {
            Ok(recorder) => recorder,
            Err(error @ StartError::Spool(_)) => return report(&ProducerReport::Failed(error.to_string())),
            Err(_) => {
                last = false;
                sleep(Duration::from_millis(200));
                continue;
            }
        };
        if !last {
            write_events(produce, &recorder, &mut rng, &done)?;
            last = done.load(Ordering::Acquire);
        }
        match close_source(&recorder) {
            Some(closed) => report(&closed)?,
            // The next start finds the source in the spool.
            None => last = false,
        }
        // The next start of a recorder finds the remaining dead sources.
        if last && let Err(error) = recorder.wait_for_dead_sources(CLOSE_TIMEOUT) {
            report(&ProducerReport::Failed(error.to_string()))?;
        }
    }
    Ok(())
}

/// Writes the events of one source.
fn write_events(produce: &Produce, recorder: &Recorder, rng: &mut Rng, done: &AtomicBool) -> io::Result<()> {
    let mut sessions = 0_u64;
    let mut new_session = |rng: &mut Rng| {
        sessions += 1;
        Session::new(format!("{}-session-{sessions}", recorder.source_id()), rng)
    };
    let mut open: Vec<Session> = (0..OPEN_SESSIONS).map(|_| new_session(rng)).collect();
    report(&ProducerReport::Source(recorder.source_id().to_owned()))?;
    for _ in 0..rng.u32(SOURCE_EVENTS) {
        if done.load(Ordering::Acquire) {
            break;
        }
        let Some(session) = open.get_mut(rng.usize(..OPEN_SESSIONS)) else { break };
        // Closing reports the reason.
        let Ok(receipt) = session.record_next(recorder, &produce.agent, None) else { break };
        report(&ProducerReport::Acknowledged(receipt.sequence))?;
        if session.is_over() {
            *session = new_session(rng);
        }
        sleep(EVENT_INTERVAL);
    }
    Ok(())
}

/// Closes the source. Returns `None` if the broker is unreachable for so long that the source is left to the spool.
pub(crate) fn close_source(recorder: &Recorder) -> Option<ProducerReport> {
    let began = Instant::now();
    loop {
        match recorder.close(Duration::from_secs(10)) {
            Ok(closed) => return Some(ProducerReport::Closed(closed.total)),
            Err(FlushError::Unfinished { .. }) if began.elapsed() < CLOSE_TIMEOUT => {}
            Err(FlushError::Unfinished { .. }) => return None,
            Err(error) => return Some(ProducerReport::Failed(error.to_string())),
        }
    }
}

impl Produce {
    fn start(&self) -> Result<Recorder, StartError> {
        let (kafka, registry) = (self.kafka.clone(), self.registry.clone());
        let topology = Arc::clone(&self.topology);
        let options = RecorderOptions::new(kafka, registry, topology, &self.tenant, &self.environment);
        let spool = SpoolOptions { max_bytes: SPOOL_BYTES, ..SpoolOptions::new(&self.spool) };
        Recorder::start(RecorderOptions { spool: Some(spool), ..options })
    }
}

/// Flushes each line, so that reports before a SIGKILL arrive.
fn report(producer_report: &ProducerReport) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{producer_report}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producer_reports_are_parsed_as_printed() {
        for producer_report in [
            ProducerReport::Source("0192-x".into()),
            ProducerReport::Acknowledged(7),
            ProducerReport::Closed(0),
            ProducerReport::Failed("two words".into()),
        ] {
            assert_eq!(producer_report.to_string().parse(), Ok(producer_report));
        }
        assert_eq!("source".parse::<ProducerReport>(), Err(()));
        assert_eq!("acknowledged x".parse::<ProducerReport>(), Err(()));
    }
}
