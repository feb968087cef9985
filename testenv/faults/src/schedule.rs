//! Schedule of faults, determined by its seed.

use std::time::Duration;

use agentgov_testenv::Part;

use crate::proxy::InsertFault;

/// Default number of processes of each stage.
pub(crate) const DEFAULT_PROCESSES: usize = 2;
/// Sequence of process counts of a stage that is scaled, which ends with the default.
const PROCESS_COUNTS: [usize; 4] = [1, 3, 1, DEFAULT_PROCESSES];
/// Pauses between two faults, in milliseconds. Most are far shorter than the recovery from a fault.
const PAUSE_MS: std::ops::Range<u64> = 200..3_000;
/// One pause in this number is long enough for a full recovery, so that faults also meet stages at work, not only starting
/// ones.
const LONG_PAUSE_ONE_IN: u32 = 10;
/// Long pause, in milliseconds.
const LONG_PAUSE_MS: std::ops::Range<u64> = 10_000..20_000;
/// Duration beyond the session timeout for which a process stays stopped, in milliseconds.
const BEYOND_SESSION_TIMEOUT_MS: std::ops::Range<u64> = 1_000..6_000;

/// Duration of a full store, in milliseconds.
const FULL_STORE_MS: std::ops::Range<u64> = 2_000..12_000;
/// Duration of a short stall of an insert, in milliseconds.
const SHORT_STALL_MS: std::ops::Range<u64> = 100..3_000;
/// Duration beyond the insert timeout of a long stall, in milliseconds.
const BEYOND_INSERT_TIMEOUT_MS: std::ops::Range<u64> = 1_000..6_000;
/// Maximum number of batches of a process before its failpoint.
const MAX_PASSES: u32 = 30;

/// Parameters of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleParams {
    /// Number of stages.
    pub stages: usize,
    /// Number of producers.
    pub producers: usize,
    /// Number of decision points.
    pub decision_points: usize,
    /// Session timeout, after which a silent member is removed from its group.
    pub session_timeout: Duration,
    /// Timeout after which a sink gives up an insert.
    pub insert_timeout: Duration,
}

/// Fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Kill a process of a stage (SIGKILL) and restart it.
    KillStage {
        /// Index of the stage in the topology.
        stage: usize,
        /// Index of the process.
        member: usize,
        /// Failpoint of the restarted process.
        failpoint_stop: Option<FailpointStop>,
    },
    /// Kill a producer (SIGKILL) and restart it on the same spool.
    KillProducer {
        /// Index of the producer.
        member: usize,
    },
    /// Kill a decision point (SIGKILL) and restart it on the same spool.
    KillDecisionPoint {
        /// Index of the decision point.
        member: usize,
        /// Failpoint of the restarted process.
        failpoint_stop: Option<FailpointStop>,
    },
    /// Kill a part of the stack (SIGKILL) and restart it on the same data.
    KillPart(Part),
    /// Stop a process of a stage (SIGSTOP) until its session has expired, so that a zombie resumes.
    PauseStage {
        /// Index of the stage in the topology.
        stage: usize,
        /// Index of the process.
        member: usize,
        /// Duration of the stop.
        length: Duration,
    },
    /// Stop a decision point (SIGSTOP) until its copy of the log is outdated.
    PauseDecisionPoint {
        /// Index of the decision point.
        member: usize,
        /// Duration of the stop.
        length: Duration,
    },
    /// Change the number of a stage's processes: start new ones, or terminate the last ones.
    Scale {
        /// Index of the stage in the topology.
        stage: usize,
        /// New number of processes.
        to: usize,
    },
    /// Disturb the next insert.
    DisturbInsert(InsertFault),
    /// Make the store full.
    FillStore {
        /// Duration.
        length: Duration,
    },
}

/// Failpoint at which a process ends or stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailpointStop {
    /// Index of the stage's failpoint, modulo their number.
    pub failpoint: usize,
    /// Passes before it takes effect, for a failpoint of each batch.
    pub passes: u32,
    /// Duration of a SIGSTOP; `None` for SIGKILL.
    pub stop: Option<Duration>,
}

impl Fault {
    /// Returns true for faults that count as kills.
    pub const fn is_kill(self) -> bool {
        matches!(
            self,
            Self::KillStage { .. }
                | Self::KillProducer { .. }
                | Self::KillDecisionPoint { .. }
                | Self::KillPart(_)
        )
    }
}

/// Fault with the pause before it, which does not wait for recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Pause after the previous step.
    pub after: Duration,
    /// Fault of the step.
    pub fault: Fault,
}

/// Generates the steps of a run: `kills` SIGKILLs, with faults of all other kinds in between. The stages end with their
/// initial number of processes.
pub fn schedule(seed: u64, kills: usize, params: &ScheduleParams) -> Vec<Step> {
    let mut generator = Generator { rng: fastrand::Rng::with_seed(seed), params };
    let (mut steps, mut killed) = (Vec::new(), 0);
    let mut sizes = vec![DEFAULT_PROCESSES; params.stages];
    // Stage that is being scaled, with the remaining process counts.
    let mut scaling: Option<(usize, std::slice::Iter<'static, usize>)> = None;
    while params.stages > 0 && (killed < kills || scaling.is_some()) {
        let after = if generator.rng.u32(..LONG_PAUSE_ONE_IN) == 0 { LONG_PAUSE_MS } else { PAUSE_MS };
        let after = generator.millis(after);
        let stage = generator.rng.usize(..params.stages);
        let member = generator.rng.usize(..sizes.get(stage).copied().unwrap_or(DEFAULT_PROCESSES));
        // After the last kill, only a scaling in progress is completed.
        let kind = if killed < kills { generator.rng.u32(..100) } else { 99 };
        let fault = match kind {
            0..8 if params.decision_points > 0 => Fault::KillDecisionPoint {
                member: generator.rng.usize(..params.decision_points),
                failpoint_stop: generator.failpoint_stop(),
            },
            0..46 => Fault::KillStage { stage, member, failpoint_stop: generator.failpoint_stop() },
            46..54 if params.producers > 0 => {
                Fault::KillProducer { member: generator.rng.usize(..params.producers) }
            }
            46..64 => Fault::KillPart(Part::Engine),
            64..70 => Fault::KillPart(Part::Broker),
            70..73 => Fault::KillPart(Part::Registry),
            73..75 if params.decision_points > 0 => Fault::PauseDecisionPoint {
                member: generator.rng.usize(..params.decision_points),
                length: generator.beyond_session(),
            },
            73..80 => Fault::PauseStage { stage, member, length: generator.beyond_session() },
            80..88 => Fault::DisturbInsert(generator.insert_fault()),
            88..90 => Fault::FillStore { length: generator.millis(FULL_STORE_MS) },
            _ => {
                let (stage, rest) = scaling.get_or_insert_with(|| (stage, PROCESS_COUNTS.iter()));
                let (stage, to) = (*stage, rest.next().copied().unwrap_or(DEFAULT_PROCESSES));
                if rest.len() == 0 {
                    scaling = None;
                }
                if let Some(size) = sizes.get_mut(stage) {
                    *size = to;
                }
                Fault::Scale { stage, to }
            }
        };
        killed += usize::from(fault.is_kill());
        steps.push(Step { after, fault });
    }
    steps
}

struct Generator<'a> {
    rng: fastrand::Rng,
    params: &'a ScheduleParams,
}

impl Generator<'_> {
    fn millis(&mut self, among: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(among))
    }

    fn beyond_session(&mut self) -> Duration {
        self.params.session_timeout + self.millis(BEYOND_SESSION_TIMEOUT_MS)
    }

    /// Every second restarted process gets a failpoint; one in six of these stops instead of ending.
    fn failpoint_stop(&mut self) -> Option<FailpointStop> {
        if self.rng.bool() {
            return None;
        }
        let (failpoint, passes) = (self.rng.usize(..64), self.rng.u32(..MAX_PASSES));
        let stop = (self.rng.u32(..6) == 0).then(|| self.beyond_session());
        Some(FailpointStop { failpoint, passes, stop })
    }

    fn insert_fault(&mut self) -> InsertFault {
        let percent = self.rng.u8(..100);
        match self.rng.u32(..8) {
            0..2 => InsertFault::Cut { percent },
            2..4 => InsertFault::Stall { percent, length: self.millis(SHORT_STALL_MS) },
            4 => {
                let length = self.params.insert_timeout + self.millis(BEYOND_INSERT_TIMEOUT_MS);
                InsertFault::Stall { percent, length }
            }
            5 => InsertFault::LoseResponse { after_response: true },
            _ => InsertFault::LoseResponse { after_response: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: ScheduleParams = ScheduleParams {
        stages: 3,
        producers: 3,
        decision_points: 2,
        session_timeout: Duration::from_secs(10),
        insert_timeout: Duration::from_secs(15),
    };

    #[test]
    fn schedule_is_determined_by_its_seed() {
        assert_eq!(schedule(7, 200, &PARAMS), schedule(7, 200, &PARAMS));
        assert_ne!(schedule(7, 200, &PARAMS), schedule(8, 200, &PARAMS));
    }

    #[test]
    fn schedule_has_its_kills_and_valid_targets_and_restores_process_counts() {
        for seed in 0..200 {
            let steps = schedule(seed, 40, &PARAMS);
            assert_eq!(steps.iter().filter(|step| step.fault.is_kill()).count(), 40);
            let mut sizes = [DEFAULT_PROCESSES; 3];
            for Step { after, fault } in steps {
                assert!(after < Duration::from_secs(20));
                match fault {
                    Fault::KillStage { stage, member, .. } => assert!(member < sizes[stage]),
                    Fault::KillProducer { member } => assert!(member < PARAMS.producers),
                    Fault::KillDecisionPoint { member, .. } | Fault::PauseDecisionPoint { member, .. } => {
                        assert!(member < PARAMS.decision_points);
                    }
                    Fault::PauseStage { stage, member, length } => {
                        assert!(member < sizes[stage]);
                        assert!(length > PARAMS.session_timeout, "a shorter stop makes no zombie");
                    }
                    Fault::Scale { stage, to } => {
                        assert_ne!(sizes[stage], to, "a change changes something");
                        sizes[stage] = to;
                    }
                    Fault::KillPart(_) | Fault::DisturbInsert(_) | Fault::FillStore { .. } => {}
                }
            }
            assert_eq!(sizes, [DEFAULT_PROCESSES; 3]);
        }
    }

    #[test]
    fn long_schedule_has_every_kind_of_fault_and_most_overlap() {
        let steps = schedule(1, 300, &PARAMS);
        assert!(
            steps.iter().filter(|step| step.after < PARAMS.session_timeout).count() > steps.len() * 4 / 5
        );
        let count = |is: fn(&Fault) -> bool| steps.iter().filter(|step| is(&step.fault)).count();
        let broker = count(|fault| *fault == Fault::KillPart(Part::Broker));
        let engine = count(|fault| *fault == Fault::KillPart(Part::Engine));
        assert!(0 < broker && broker < engine, "the broker must be killed less often: {broker}, {engine}");
        assert!(count(|fault| *fault == Fault::KillPart(Part::Registry)) > 2);
        assert!(count(|fault| matches!(fault, Fault::KillProducer { .. })) > 10);
        assert!(count(|fault| matches!(fault, Fault::KillDecisionPoint { .. })) > 10);
        assert!(count(|fault| matches!(fault, Fault::PauseDecisionPoint { .. })) > 2);
        assert!(count(|fault| matches!(fault, Fault::PauseStage { .. })) > 10);
        assert!(count(|fault| matches!(fault, Fault::Scale { to: 3, .. })) > 3);
        assert!(count(|fault| matches!(fault, Fault::FillStore { .. })) > 2);
        let failpoint_stop = |stops: bool| {
            steps.iter().filter(move |step| {
                matches!(step.fault, Fault::KillStage { failpoint_stop: Some(at), .. } if at.stop.is_some() == stops)
            })
        };
        assert!(failpoint_stop(false).count() > 30 && failpoint_stop(true).count() > 5);
        for is in [
            |how: &InsertFault| matches!(how, InsertFault::Cut { .. }),
            |how: &InsertFault| matches!(how, InsertFault::Stall { length, .. } if *length < PARAMS.insert_timeout),
            |how: &InsertFault| matches!(how, InsertFault::Stall { length, .. } if *length > PARAMS.insert_timeout),
            |how: &InsertFault| *how == InsertFault::LoseResponse { after_response: true },
            |how: &InsertFault| *how == InsertFault::LoseResponse { after_response: false },
        ] {
            assert!(steps.iter().any(|step| matches!(&step.fault, Fault::DisturbInsert(how) if is(how))));
        }
    }
}
