//! Load: sources that write sessions at a bounded rate, close, and are replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use agentgov_sdk::{FlushError, Recorder, RecorderOptions};
use fastrand::Rng;

use crate::run::Setup;
use crate::session::Session;

/// Sources at a time.
pub(crate) const SOURCES: u64 = 3;
/// Between two events of a source: all sources together write some 300 a second.
const BETWEEN: Duration = Duration::from_millis(10);
/// Sessions that a source has open, so that they last for seconds.
const OPEN: usize = 16;
/// Events of a source before it closes.
const LIFE: std::ops::Range<u32> = 1_000..6_000;
/// How long a source may take to start or to close: longer than any part is away.
const PATIENCE: Duration = Duration::from_secs(240);

/// Writes until `done`; says of each source how it ended: the total that it closed with.
pub(crate) fn write(
    setup: &Setup<'_>,
    number: u64,
    done: &AtomicBool,
    mut ended: impl FnMut(Result<i64, FlushError>),
) {
    let mut rng = Rng::with_seed(setup.seed.wrapping_add(number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut sessions = 0_u64;
    while !done.load(Ordering::Acquire) {
        // The registry or the broker may be away.
        let Ok(recorder) = start(setup) else {
            sleep(Duration::from_millis(200));
            continue;
        };
        let mut new_session = |rng: &mut Rng| {
            sessions += 1;
            Session::new(format!("source-{number}-session-{sessions}"), rng)
        };
        let mut open: Vec<Session> = (0..OPEN).map(|_| new_session(&mut rng)).collect();
        for _ in 0..rng.u32(LIFE) {
            let which = rng.usize(..OPEN);
            let Some(session) = open.get_mut(which) else { break };
            match session.go_on(&recorder, setup.agent) {
                Ok(false) => {}
                Ok(true) => *session = new_session(&mut rng),
                // Closing says why.
                Err(_) => break,
            }
            if done.load(Ordering::Acquire) {
                break;
            }
            sleep(BETWEEN);
        }
        ended(close(&recorder));
    }
}

fn start(setup: &Setup<'_>) -> Result<Recorder, agentgov_sdk::StartError> {
    let (kafka, registry) = (setup.endpoints.kafka.clone(), setup.endpoints.registry.clone());
    let topology = Arc::clone(setup.topology);
    Recorder::start(RecorderOptions::new(kafka, registry, topology, setup.tenant, setup.environment))
}

fn close(recorder: &Recorder) -> Result<i64, FlushError> {
    let began = Instant::now();
    loop {
        match recorder.close(Duration::from_secs(10)) {
            Ok(closed) => return Ok(closed.total),
            Err(FlushError::Unfinished { .. }) if began.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
    }
}
