//! Waiting for conditions of stages in this process.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use agentgov_service::ExitCode;
use agentgov_service::health::Snapshot;

use super::RunningStages;
use crate::failure::Failure;

impl RunningStages {
    /// Returns the health of each stage.
    pub fn health(&self) -> Vec<Snapshot> {
        self.stages.iter().map(|(health, _)| health.snapshot()).collect()
    }

    /// Waits for a condition, which it checks ten times a second. Fails at once if a stage has ended.
    pub fn wait(
        &self,
        what: &str,
        within: Duration,
        mut met: impl FnMut(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        // `None` if the deadline is beyond the range of the clock.
        let deadline = Instant::now().checked_add(within);
        while !met(self)? {
            let reports_of_stages = || {
                let reports = self.health().into_iter().flat_map(|stage| {
                    stage.not_ready.into_values().map(move |why| format!("{}: {why}", stage.stage))
                });
                reports.collect::<Vec<_>>()
            };
            if self.stop.wait(Duration::from_millis(100)) {
                if let Some(panic) = self.panics.panic() {
                    return Err(panic.into());
                }
                // A stage that ends by itself shuts the others down; its failure is the cause.
                if let Some(failure) =
                    self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
                {
                    return Err(failure);
                }
                return Err(Failure::all(
                    ExitCode::Failed,
                    &format!("stopped while waiting for {what}"),
                    reports_of_stages(),
                ));
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let what = format!("expected {what} within {within:?}; the stages report:");
                return Err(Failure::all(ExitCode::TryAgain, &what, reports_of_stages()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use agentgov_connect::Endpoints;
    use agentgov_schemas::topology::Topology;
    use agentgov_service::ShutdownSignal;
    use agentgov_service::panics::PanicGuard;

    use super::*;

    #[test]
    fn wait_accepts_any_duration() {
        let _alone = crate::print::HOOK.lock().unwrap_or_else(PoisonError::into_inner);
        let topology = Arc::new(Topology::embedded().unwrap());
        let endpoints = Endpoints {
            kafka: agentgov_connect::KafkaEndpoint::default(),
            schema_registry: agentgov_connect::SchemaRegistryEndpoint::default(),
            clickhouse: agentgov_connect::ClickHouseEndpoint::default(),
        };
        let running = RunningStages::start(&[], &endpoints, &topology, false).unwrap();
        running.wait("nothing", Duration::MAX, |_| Ok(true)).unwrap();
        let late = running.wait("what never comes", Duration::ZERO, |_| Ok(false));
        assert!(late.is_err());
    }

    #[test]
    fn wait_returns_the_failure_of_the_stage_that_ended() {
        let _alone = crate::print::HOOK.lock().unwrap_or_else(PoisonError::into_inner);
        for (first, code) in [
            (None, ExitCode::Failed),
            (Some(Failure::new(ExitCode::Overtaken, "retention was faster")), ExitCode::Overtaken),
        ] {
            let stop = ShutdownSignal::default();
            let panics = PanicGuard::new(stop.clone());
            let running = RunningStages {
                stop,
                panics,
                stages: Vec::new(),
                first_failure: Arc::new(Mutex::new(first)),
            };
            running.stop().request();
            let failure = running.wait("what never comes", Duration::MAX, |_| Ok(false)).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
        }
    }
}
