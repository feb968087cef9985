//! Waiting for stages of this process.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use agentgov_service::ExitCode;
use agentgov_service::health::Snapshot;

use super::Running;
use crate::failure::Failure;

impl Running {
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
                let what = format!("expected {what} within {within:?}; the stages report:");
                return Err(Failure::all(ExitCode::TryAgain, &what, trouble()));
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
    use agentgov_service::Stop;
    use agentgov_service::panics::Watch;

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
