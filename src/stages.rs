//! Stages of the pipeline, each in a thread of this process.

#[cfg(feature = "local-stack")]
mod wait;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use agentgov_alerter::Alerter;
use agentgov_connect::Endpoints;
use agentgov_evaluator::Evaluator;
use agentgov_runtime::processor;
use agentgov_schemas::bounds::STACK_BYTES;
use agentgov_schemas::topology::Topology;
use agentgov_service::panics::PanicGuard;
use agentgov_service::{ExitCode, Health, ShutdownSignal, StageError};

use crate::failure::Failure;

/// Stages in progress.
pub struct RunningStages {
    stop: ShutdownSignal,
    /// Watches all threads of this process for panics until the stages have ended.
    panics: PanicGuard,
    stages: Vec<(Health, JoinHandle<Result<(), Failure>>)>,
    /// Failure of the first stage that ended by itself.
    first_failure: Arc<Mutex<Option<Failure>>>,
}

impl RunningStages {
    /// Starts stages; `all` selects every stage of the topology. If a name is unknown, nothing is started.
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
        let stop = ShutdownSignal::default();
        let panics = PanicGuard::new(stop.clone());
        let first_failure = Arc::<Mutex<Option<Failure>>>::default();
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
                // The evaluator compiles pushed bundles, which needs a large stack.
                .stack_size(STACK_BYTES)
                .spawn({
                    let (stop, first_failure) = (stop.clone(), Arc::clone(&first_failure));
                    move || {
                        let ended = run(config).map_err(Failure::from);
                        if let Err(failure) = &ended {
                            first_failure
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert_with(|| failure.clone());
                        }
                        // If one stage ends, the process ends: a partial pipeline must not look alive.
                        stop.request();
                        ended
                    }
                })
                .map_err(|e| Failure::new(ExitCode::Failed, format!("starting a thread for {name}: {e}")))?;
            stages.push((health, thread));
        }
        Ok(Self { stop, panics, stages, first_failure })
    }

    /// Returns the shutdown signal of the stages.
    pub fn stop(&self) -> &ShutdownSignal {
        &self.stop
    }

    /// Returns the health handles of the stages.
    pub fn healths(&self) -> Vec<Health> {
        self.stages.iter().map(|(health, _)| health.clone()).collect()
    }

    /// Waits until all stages have ended and returns the first failure.
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
        // The panic or the first failed stage caused the others to end.
        match (self.panics.panic(), self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take())
        {
            (Some(panic), _) => Err(panic.into()),
            (None, Some(failure)) => Err(failure),
            (None, None) => first,
        }
    }
}

impl Drop for RunningStages {
    fn drop(&mut self) {
        self.stop.request();
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
        other => Err(StageError::Config(format!("topology: this build has no stage `{other}`"))),
    }
}
