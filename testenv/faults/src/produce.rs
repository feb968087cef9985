//! A producer's process: sources with a spool, one after the other, that write sessions at a bounded rate. Tells the harness on
//! stdout what was acknowledged, after it was; ends when its stdin does.

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

/// Between two events of a source: three sources together write some 300 a second.
const BETWEEN: Duration = Duration::from_millis(10);
/// Sessions that a source has open, so that they last for seconds.
const OPEN: usize = 16;
/// Events of a source before it closes.
const LIFE: std::ops::Range<u32> = 1_000..6_000;
/// How long a source may take to start or to close: longer than any part is away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// Little more than the least, so that segments come and go, and a kill sends few events twice.
const SPOOL_BYTES: u64 = 9 << 19;

/// What a producer's process is told.
#[derive(Clone, Debug)]
pub struct Produce {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The registry.
    pub registry: SchemaRegistryEndpoint,
    /// The map.
    pub topology: Arc<Topology>,
    /// Whose sessions it writes.
    pub tenant: String,
    /// Who acts in them.
    pub agent: String,
    /// Where.
    pub environment: String,
    /// The spool's folder, which the other producers use too.
    pub spool: PathBuf,
    /// What its sessions are made from.
    pub seed: u64,
}

/// What it says, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A source starts.
    Source(String),
    /// `record` has returned `Ok` for everything up to this sequence.
    Acknowledged(i64),
    /// The source is closed with this total.
    Closed(i64),
    /// The source could not close, or a dead one was not published.
    Failed(String),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(id) => write!(f, "source {id}"),
            Self::Acknowledged(sequence) => write!(f, "acknowledged {sequence}"),
            Self::Closed(total) => write!(f, "closed {total}"),
            Self::Failed(why) => write!(f, "failed {}", why.replace('\n', " ")),
        }
    }
}

impl FromStr for Said {
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

/// Writes until stdin ends, and then until its last source and every dead one that it has claimed is closed. An error: the
/// harness is gone.
pub fn produce(produce: &Produce) -> io::Result<()> {
    let done = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let done = Arc::clone(&done);
        move || {
            // Whatever it ends with.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            done.store(true, Ordering::Release);
        }
    });
    let mut rng = Rng::with_seed(produce.seed);
    let mut last = false;
    while !last {
        last = done.load(Ordering::Acquire);
        // The registry or the broker may be away.
        let recorder = match produce.start() {
            Ok(recorder) => recorder,
            Err(error @ StartError::Spool(_)) => return say(&Said::Failed(error.to_string())),
            Err(_) => {
                last = false;
                sleep(Duration::from_millis(200));
                continue;
            }
        };
        if !last {
            write(produce, &recorder, &mut rng, &done)?;
            last = done.load(Ordering::Acquire);
        }
        match close(&recorder) {
            Some(said) => say(&said)?,
            // Its next start finds it in the spool.
            None => last = false,
        }
        // What is not published yet, the next start of a recorder finds.
        if last && let Err(error) = recorder.wait_for_dead_sources(PATIENCE) {
            say(&Said::Failed(error.to_string()))?;
        }
    }
    Ok(())
}

/// One source's life.
fn write(produce: &Produce, recorder: &Recorder, rng: &mut Rng, done: &AtomicBool) -> io::Result<()> {
    let mut sessions = 0_u64;
    let mut new_session = |rng: &mut Rng| {
        sessions += 1;
        Session::new(format!("{}-session-{sessions}", recorder.source_id()), rng)
    };
    let mut open: Vec<Session> = (0..OPEN).map(|_| new_session(rng)).collect();
    say(&Said::Source(recorder.source_id().to_owned()))?;
    for _ in 0..rng.u32(LIFE) {
        if done.load(Ordering::Acquire) {
            break;
        }
        let Some(session) = open.get_mut(rng.usize(..OPEN)) else { break };
        // Closing says why it could not.
        let Ok(receipt) = session.go_on(recorder, &produce.agent) else { break };
        say(&Said::Acknowledged(receipt.sequence))?;
        if session.is_over() {
            *session = new_session(rng);
        }
        sleep(BETWEEN);
    }
    Ok(())
}

/// Closes the source. `None`: the broker is away for so long that it is left to the spool.
fn close(recorder: &Recorder) -> Option<Said> {
    let began = Instant::now();
    loop {
        match recorder.close(Duration::from_secs(10)) {
            Ok(closed) => return Some(Said::Closed(closed.total)),
            Err(FlushError::Unfinished { .. }) if began.elapsed() < PATIENCE => {}
            Err(FlushError::Unfinished { .. }) => return None,
            Err(error) => return Some(Said::Failed(error.to_string())),
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

/// One write a line: what was said before a SIGKILL is heard.
fn say(said: &Said) -> io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{said}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        for said in [
            Said::Source("0192-x".into()),
            Said::Acknowledged(7),
            Said::Closed(0),
            Said::Failed("two words".into()),
        ] {
            assert_eq!(said.to_string().parse(), Ok(said));
        }
        assert_eq!("source".parse::<Said>(), Err(()));
        assert_eq!("acknowledged x".parse::<Said>(), Err(()));
    }
}
