//! Suspends and resumes the agents of the callers while they ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use agentgov_registry::{RegistryContext, Suspension, SuspensionOutcome, change_suspension};
use fastrand::Rng;

use crate::decision_points::AUTHOR;
use crate::plants::PLANT_LATE_SUSPENSION;
use crate::run::Setup;

/// Pauses between two changes, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 1_000..4_000;
/// Pause before a retry, and interval at which the end of the run is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout of the retries.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);
/// Delay of a suspension by [`PLANT_LATE_SUSPENSION`].
const PLANTED_DELAY: Duration = Duration::from_secs(3);

/// Time during which an agent was suspended.
#[derive(Clone, Debug)]
pub(crate) struct SuspensionPeriod {
    pub(crate) agent: String,
    /// When all in-sync replicas had the suspension.
    pub(crate) acknowledged: Instant,
    /// Before its end was sent.
    pub(crate) ended: Instant,
}

/// Suspends one agent at a time until `stop` is set. No agent stays suspended.
pub(crate) fn run(
    setup: &Setup<'_>,
    agents: &[String],
    stop: &AtomicBool,
) -> Result<Vec<SuspensionPeriod>, String> {
    let mut rng = Rng::with_seed(setup.seed);
    let is_late = setup.plants.contains(&PLANT_LATE_SUSPENSION);
    let mut periods = Vec::new();
    loop {
        pause(&mut rng, stop);
        let Some(agent) = agents.get(rng.usize(..agents.len().max(1))) else { break };
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let acknowledged = if is_late {
            let acknowledged = Instant::now();
            sleep(PLANTED_DELAY);
            change(setup, Suspension::Suspend, agent)?;
            acknowledged
        } else {
            change(setup, Suspension::Suspend, agent)?
        };
        pause(&mut rng, stop);
        let ended = Instant::now();
        change(setup, Suspension::Resume, agent)?;
        periods.push(SuspensionPeriod { agent: agent.clone(), acknowledged, ended });
    }
    Ok(periods)
}

/// Changes the state of an agent; repeats that while Kafka or the schema registry does not respond. Returns when all in-sync
/// replicas had the change.
fn change(setup: &Setup<'_>, suspension: Suspension, agent: &str) -> Result<Instant, String> {
    let context = RegistryContext { endpoints: setup.endpoints, topology: setup.topology };
    let began = Instant::now();
    loop {
        match change_suspension(context, suspension, (setup.tenant, agent), "a test of suspensions", AUTHOR) {
            Ok(SuspensionOutcome::Changed { acknowledged }) => return Ok(acknowledged),
            // A failed try appended the entry, perhaps without its acknowledgement.
            Ok(SuspensionOutcome::Unchanged) => return Ok(Instant::now()),
            Err(error) if began.elapsed() > CHANGE_TIMEOUT => {
                return Err(format!("{agent}: {suspension:?}: {error}"));
            }
            Err(_) => sleep(POLL_INTERVAL),
        }
    }
}

fn pause(rng: &mut Rng, stop: &AtomicBool) {
    let until = Instant::now() + Duration::from_millis(rng.u64(PAUSE_MS));
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        sleep(POLL_INTERVAL);
    }
}
