//! What is done and when, from a seed and nothing else.

use std::time::Duration;

use agentgov_testenv::Part;

/// Processes of each stage, unless it is being scaled.
pub(crate) const USUAL: usize = 2;
/// What a stage that is scaled has, one after the other; then it is as before.
const SCALES: [usize; 4] = [1, 3, 1, USUAL];
/// Pauses between two faults, in milliseconds. Most are far shorter than what they interrupt takes to recover.
const BETWEEN: std::ops::Range<u64> = 200..3_000;
/// One pause in so many is long enough for everything to recover, so that the next fault meets stages at work, not only stages
/// that start.
const BREATH_IN: u32 = 8;
/// Such a pause, in milliseconds.
const BREATH: std::ops::Range<u64> = 12_000..25_000;
/// How much longer than its session a stopped process stays stopped, in milliseconds.
const BEYOND_SESSION: std::ops::Range<u64> = 1_000..6_000;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a process of a stage; it is started again at once.
    KillStage {
        /// The stage's place among the topology's stages.
        stage: usize,
        /// Which of its processes.
        member: usize,
    },
    /// SIGKILL of a part of the stack; it is started again at once, on the same data.
    KillPart(Part),
    /// SIGSTOP of a process of a stage, and SIGCONT when its session is over: a zombie wakes up.
    PauseStage {
        /// The stage's place among the topology's stages.
        stage: usize,
        /// Which of its processes.
        member: usize,
        /// How long it stands still.
        length: Duration,
    },
    /// A stage gets another number of processes: new ones, or SIGTERM for the last ones.
    Scale {
        /// The stage's place among the topology's stages.
        stage: usize,
        /// How many it has from now on.
        to: usize,
    },
}

impl Fault {
    /// True of what `kills` counts.
    pub fn is_kill(self) -> bool {
        matches!(self, Self::KillStage { .. } | Self::KillPart(_))
    }
}

/// A fault, and how long to wait before it. It does not wait for anything to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// After the step before.
    pub after: Duration,
    /// What then happens.
    pub fault: Fault,
}

/// The steps of a run: as many SIGKILLs as `kills`, and in between them processes that are stopped for longer than
/// `session_timeout`, and stages that are scaled. Ends with as many processes of each stage as it began with.
pub fn schedule(seed: u64, kills: usize, stages: usize, session_timeout: Duration) -> Vec<Step> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut steps, mut killed) = (Vec::new(), 0);
    let mut sizes = vec![USUAL; stages];
    // The stage that is being scaled, and what is to come of it.
    let mut scaling: Option<(usize, std::slice::Iter<'static, usize>)> = None;
    while stages > 0 && (killed < kills || scaling.is_some()) {
        let after = if rng.u32(..BREATH_IN) == 0 { BREATH } else { BETWEEN };
        let after = Duration::from_millis(rng.u64(after));
        let stage = rng.usize(..stages);
        let member = rng.usize(..sizes.get(stage).copied().unwrap_or(USUAL));
        // When the kills are through, only what has begun is ended.
        let kind = if killed < kills { rng.u32(..100) } else { 99 };
        let fault = match kind {
            0..60 => Fault::KillStage { stage, member },
            60..72 => Fault::KillPart(Part::Engine),
            72..78 => Fault::KillPart(Part::Broker),
            78..88 => {
                let beyond = Duration::from_millis(rng.u64(BEYOND_SESSION));
                Fault::PauseStage { stage, member, length: session_timeout + beyond }
            }
            _ => {
                let (stage, rest) = scaling.get_or_insert_with(|| (stage, SCALES.iter()));
                let (stage, to) = (*stage, rest.next().copied().unwrap_or(USUAL));
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

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_seed_another() {
        assert_eq!(schedule(7, 200, 3, SESSION), schedule(7, 200, 3, SESSION));
        assert_ne!(schedule(7, 200, 3, SESSION), schedule(8, 200, 3, SESSION));
    }

    #[test]
    fn every_schedule_has_its_kills_hits_what_is_there_and_ends_as_it_began() {
        for seed in 0..200 {
            let steps = schedule(seed, 40, 3, SESSION);
            assert_eq!(steps.iter().filter(|step| step.fault.is_kill()).count(), 40);
            let mut sizes = [USUAL; 3];
            for Step { after, fault } in steps {
                assert!(after < Duration::from_secs(25));
                match fault {
                    Fault::KillStage { stage, member } => assert!(member < sizes[stage]),
                    Fault::PauseStage { stage, member, length } => {
                        assert!(member < sizes[stage]);
                        assert!(length > SESSION, "a shorter stop makes no zombie");
                    }
                    Fault::Scale { stage, to } => {
                        assert_ne!(sizes[stage], to, "a change changes something");
                        sizes[stage] = to;
                    }
                    Fault::KillPart(part) => assert_ne!(part, Part::Registry),
                }
            }
            assert_eq!(sizes, [USUAL; 3]);
        }
    }

    #[test]
    fn a_long_schedule_has_every_kind_of_fault_and_most_overlap() {
        let steps = schedule(1, 300, 3, SESSION);
        assert!(steps.iter().filter(|step| step.after < SESSION).count() > steps.len() * 4 / 5);
        let count = |is: fn(&Fault) -> bool| steps.iter().filter(|step| is(&step.fault)).count();
        let broker = count(|fault| *fault == Fault::KillPart(Part::Broker));
        let engine = count(|fault| *fault == Fault::KillPart(Part::Engine));
        assert!(0 < broker && broker < engine, "the broker falls more rarely: {broker}, {engine}");
        assert!(count(|fault| matches!(fault, Fault::PauseStage { .. })) > 10);
        assert!(count(|fault| matches!(fault, Fault::Scale { to: 3, .. })) > 3);
    }
}
