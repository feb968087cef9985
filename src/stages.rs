//! The stages by name, each running in a thread of this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentgov_alerter::Alerter;
use agentgov_connect::Endpoints;
use agentgov_evaluator::Evaluator;
use agentgov_runtime::processor;
use agentgov_schemas::bounds::STACK;
use agentgov_schemas::topology::Topology;
use agentgov_service::health::Snapshot;
use agentgov_service::panics::Watch;
use agentgov_service::{ExitCode, Health, StageError, Stop};

use crate::failure::Failure;

/// Stages that run.
pub struct Running {
    stop: Stop,
    /// Of all threads of this process, until the stages have ended.
    panics: Watch,
    stages: Vec<(Health, JoinHandle<Result<(), Failure>>)>,
    /// Why a stage ended by itself: the first of them.
    first: Arc<Mutex<Option<Failure>>>,
}

impl Running {
    /// Starts stages; `all` is every stage of the map. Nothing is started if one name is wrong.
    pub fn start(
        names: &[String],
        endpoints: &Endpoints,
        topology: &Arc<Topology>,
        accept_gap: bool,
    ) -> Result<Self, Failure> {
        let known: Vec<&String> = topology.stages.keys().collect();
        let names: Vec<&String> =
            if names.iter().any(|name| name == "all") { known.clone() } else { names.iter().collect() };
        if let Some(wrong) = names.iter().find(|name| !known.contains(name)) {
            let known: Vec<_> = known.iter().map(|name| name.as_str()).collect();
            let message = format!("expected a stage of the topology ({}), found `{wrong}`", known.join(", "));
            return Err(Failure::new(ExitCode::Usage, message));
        }
        let stop = Stop::default();
        let panics = Watch::new(stop.clone());
        let first = Arc::<Mutex<Option<Failure>>>::default();
        let mut stages = Vec::new();
        for name in names {
            let health = Health::new(name.as_str());
            let config = processor::Config {
                stage: name.clone(),
                endpoints: endpoints.clone(),
                topology: Arc::clone(topology),
                stop: stop.clone(),
                health: health.clone(),
                accept_gap,
            };
            let thread = std::thread::Builder::new()
                .name(name.clone())
                // The evaluator compiles what was pushed.
                .stack_size(STACK)
                .spawn({
                    let (stop, first) = (stop.clone(), Arc::clone(&first));
                    move || {
                        let ended = run(config).map_err(Failure::from);
                        if let Err(failure) = &ended {
                            first
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert_with(|| failure.clone());
                        }
                        // One stage's end is the process's: half a pipeline that looks alive helps nobody.
                        stop.ask();
                        ended
                    }
                })
                .map_err(|e| Failure::new(ExitCode::Failed, format!("starting a thread for {name}: {e}")))?;
            stages.push((health, thread));
        }
        Ok(Self { stop, panics, stages, first })
    }

    /// To ask the stages to end.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// What each stage says of itself, from now on.
    pub fn healths(&self) -> Vec<Health> {
        self.stages.iter().map(|(health, _)| health.clone()).collect()
    }

    /// How each stage is.
    pub fn health(&self) -> Vec<Snapshot> {
        self.stages.iter().map(|(health, _)| health.snapshot()).collect()
    }

    /// Waits for a condition, looking ten times a second. Fails at once if a stage has ended.
    pub fn wait(
        &self,
        what: &str,
        within: Duration,
        mut met: impl FnMut(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        // `None`: later than the clock goes.
        let deadline = Instant::now().checked_add(within);
        while !met(self)? {
            let trouble = || {
                let told = self.health().into_iter().flat_map(|stage| {
                    stage.not_ready.into_values().map(move |why| format!("{}: {why}", stage.stage))
                });
                told.collect::<Vec<_>>()
            };
            if self.stop.wait(Duration::from_millis(100)) {
                if let Some(panic) = self.panics.panic() {
                    return Err(panic.into());
                }
                // A stage that ended by itself asked the others to stop: its reason is the process's.
                if let Some(failure) = self.first.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                    return Err(failure);
                }
                return Err(Failure::all(
                    ExitCode::Failed,
                    &format!("stopped while waiting for {what}"),
                    trouble(),
                ));
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let what = format!("expected {what} within {within:?}; still not so. What the stages say:");
                return Err(Failure::all(ExitCode::TryAgain, &what, trouble()));
            }
        }
        Ok(())
    }

    /// Waits until all have ended: the first error counts.
    pub fn join(mut self) -> Result<(), Failure> {
        self.join_all()
    }

    fn join_all(&mut self) -> Result<(), Failure> {
        let mut first = Ok(());
        for (health, thread) in self.stages.drain(..) {
            let ended = thread.join().unwrap_or_else(|_| {
                Err(StageError::Internal(format!("{}: panicked", health.snapshot().stage)).into())
            });
            if first.is_ok() {
                first = ended;
            }
        }
        // Whichever thread panicked: that is why the others ended.
        self.panics.panic().map_or(first, |panic| Err(panic.into()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.ask();
        if !self.stages.is_empty()
            && let Err(failure) = self.join_all()
        {
            tracing::error!(%failure, "a stage failed");
        }
    }
}

fn run(config: processor::Config) -> Result<(), StageError> {
    let topology = Arc::clone(&config.topology);
    match config.stage.as_str() {
        "evaluator" => {
            let evaluator = Evaluator::new(&topology, topology.stage(&config.stage)?)?;
            processor::run(config, evaluator)
        }
        "alerter" => {
            let window =
                topology.stage(&config.stage)?.alert_window.as_ref().ok_or_else(|| {
                    StageError::Config("topology: stage `alerter` has no alert_window".into())
                })?;
            processor::run(config, Alerter::new(window.value.0))
        }
        "log-sink" => agentgov_log_sink::run(agentgov_log_sink::Config {
            endpoints: config.endpoints,
            topology: config.topology,
            stop: config.stop,
            health: config.health,
            accept_gap: config.accept_gap,
        }),
        other => Err(StageError::Config(format!("topology: `{other}` is no stage of this build"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_of_time_is_waited_for() {
        let _alone = crate::print::HOOK.lock().unwrap_or_else(PoisonError::into_inner);
        let topology = Arc::new(Topology::embedded().unwrap());
        let endpoints = Endpoints {
            kafka: agentgov_connect::KafkaEndpoint::default(),
            registry: agentgov_connect::RegistryEndpoint::default(),
            clickhouse: agentgov_connect::ClickHouseEndpoint::default(),
        };
        let running = Running::start(&[], &endpoints, &topology, false).unwrap();
        running.wait("nothing", Duration::MAX, |_| Ok(true)).unwrap();
        let late = running.wait("what never comes", Duration::ZERO, |_| Ok(false));
        assert!(late.is_err());
    }

    #[test]
    fn a_stage_that_ends_by_itself_gives_the_reason_and_the_exit_code() {
        let _alone = crate::print::HOOK.lock().unwrap_or_else(PoisonError::into_inner);
        for (first, code) in [
            (None, ExitCode::Failed),
            (Some(Failure::new(ExitCode::Overtaken, "retention was faster")), ExitCode::Overtaken),
        ] {
            let stop = Stop::default();
            let panics = Watch::new(stop.clone());
            let running = Running { stop, panics, stages: Vec::new(), first: Arc::new(Mutex::new(first)) };
            running.stop().ask();
            let failure = running.wait("what never comes", Duration::MAX, |_| Ok(false)).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
        }
    }
}
