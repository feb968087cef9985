//! What is done and when, from a seed and nothing else.

use std::time::Duration;

use agentgov_testenv::Part;

use crate::proxy::Meddling;

/// Processes of each stage, unless it is being scaled.
pub(crate) const USUAL: usize = 2;
/// What a stage that is scaled has, one after the other; then it is as before.
const SCALES: [usize; 4] = [1, 3, 1, USUAL];
/// Pauses between two faults, in milliseconds. Most are far shorter than what they interrupt takes to recover.
const BETWEEN: std::ops::Range<u64> = 200..3_000;
/// One pause in so many is long enough for everything to recover, so that the next fault meets stages at work, not only stages
/// that start.
const BREATH_IN: u32 = 10;
/// Such a pause, in milliseconds.
const BREATH: std::ops::Range<u64> = 10_000..20_000;
/// How much longer than its session a stopped process stays stopped, in milliseconds.
const BEYOND_SESSION: std::ops::Range<u64> = 1_000..6_000;

/// How long the store is full, in milliseconds.
const FULL: std::ops::Range<u64> = 2_000..12_000;
/// How long an insert that is merely delayed stands still, in milliseconds.
const DELAY: std::ops::Range<u64> = 100..3_000;
/// How much longer than a sink waits for its insert a stalled one stands still, in milliseconds.
const BEYOND_INSERT: std::ops::Range<u64> = 1_000..6_000;
/// Batches that a process may do before an edge at which it is to end or stop, at most.
const PASSES: u32 = 30;

/// What the schedule is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// How many stages there are.
    pub stages: usize,
    /// How many producers.
    pub producers: usize,
    /// After what a process that says nothing is out of its group.
    pub session_timeout: Duration,
    /// After what a sink gives an insert up.
    pub insert_timeout: Duration,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a process of a stage; it is started again at once.
    KillStage {
        /// The stage's place among the topology's stages.
        stage: usize,
        /// Which of its processes.
        member: usize,
        /// What becomes of the process that takes its place.
        then: Option<AtEdge>,
    },
    /// SIGKILL of a producer; it is started again at once, on the same spool.
    KillProducer {
        /// Which.
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
    /// The next insert is meddled with on its way.
    Meddle(Meddling),
    /// The store has no room.
    FillStore {
        /// How long.
        length: Duration,
    },
}

/// A process that ends or stops by itself, in the middle of what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtEdge {
    /// Which of its stage's edges, counted around.
    pub edge: usize,
    /// How often it passes an edge that each batch has, before.
    pub passes: u32,
    /// `Some`: SIGSTOP, for so long; `None`: SIGKILL.
    pub stop: Option<Duration>,
}

impl Fault {
    /// True of what `kills` counts.
    pub const fn is_kill(self) -> bool {
        matches!(self, Self::KillStage { .. } | Self::KillProducer { .. } | Self::KillPart(_))
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

/// The steps of a run: as many SIGKILLs as `kills`, and in between them everything else that [`Fault`] has. Ends with as
/// many processes of each stage as it began with.
pub fn schedule(seed: u64, kills: usize, scene: &Scene) -> Vec<Step> {
    let mut dice = Dice { rng: fastrand::Rng::with_seed(seed), scene };
    let (mut steps, mut killed) = (Vec::new(), 0);
    let mut sizes = vec![USUAL; scene.stages];
    // The stage that is being scaled, and what is to come of it.
    let mut scaling: Option<(usize, std::slice::Iter<'static, usize>)> = None;
    while scene.stages > 0 && (killed < kills || scaling.is_some()) {
        let after = if dice.rng.u32(..BREATH_IN) == 0 { BREATH } else { BETWEEN };
        let after = dice.millis(after);
        let stage = dice.rng.usize(..scene.stages);
        let member = dice.rng.usize(..sizes.get(stage).copied().unwrap_or(USUAL));
        // When the kills are through, only what has begun is ended.
        let kind = if killed < kills { dice.rng.u32(..100) } else { 99 };
        let fault = match kind {
            0..46 => Fault::KillStage { stage, member, then: dice.at_edge() },
            46..54 if scene.producers > 0 => {
                Fault::KillProducer { member: dice.rng.usize(..scene.producers) }
            }
            46..64 => Fault::KillPart(Part::Engine),
            64..70 => Fault::KillPart(Part::Broker),
            70..73 => Fault::KillPart(Part::Registry),
            73..80 => Fault::PauseStage { stage, member, length: dice.beyond_session() },
            80..88 => Fault::Meddle(dice.meddling()),
            88..90 => Fault::FillStore { length: dice.millis(FULL) },
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

struct Dice<'a> {
    rng: fastrand::Rng,
    scene: &'a Scene,
}

impl Dice<'_> {
    fn millis(&mut self, among: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(among))
    }

    fn beyond_session(&mut self) -> Duration {
        self.scene.session_timeout + self.millis(BEYOND_SESSION)
    }

    /// Every second successor of a killed process ends or stops in the middle of something, one in six of these stops.
    fn at_edge(&mut self) -> Option<AtEdge> {
        if self.rng.bool() {
            return None;
        }
        let (edge, passes) = (self.rng.usize(..64), self.rng.u32(..PASSES));
        let stop = (self.rng.u32(..6) == 0).then(|| self.beyond_session());
        Some(AtEdge { edge, passes, stop })
    }

    fn meddling(&mut self) -> Meddling {
        let percent = self.rng.u8(..100);
        match self.rng.u32(..8) {
            0..2 => Meddling::Cut { percent },
            2..4 => Meddling::Stall { percent, length: self.millis(DELAY) },
            4 => {
                let length = self.scene.insert_timeout + self.millis(BEYOND_INSERT);
                Meddling::Stall { percent, length }
            }
            5 => Meddling::LoseAnswer { answered: true },
            _ => Meddling::LoseAnswer { answered: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENE: Scene = Scene {
        stages: 3,
        producers: 3,
        session_timeout: Duration::from_secs(10),
        insert_timeout: Duration::from_secs(15),
    };

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_seed_another() {
        assert_eq!(schedule(7, 200, &SCENE), schedule(7, 200, &SCENE));
        assert_ne!(schedule(7, 200, &SCENE), schedule(8, 200, &SCENE));
    }

    #[test]
    fn every_schedule_has_its_kills_hits_what_is_there_and_ends_as_it_began() {
        for seed in 0..200 {
            let steps = schedule(seed, 40, &SCENE);
            assert_eq!(steps.iter().filter(|step| step.fault.is_kill()).count(), 40);
            let mut sizes = [USUAL; 3];
            for Step { after, fault } in steps {
                assert!(after < Duration::from_secs(20));
                match fault {
                    Fault::KillStage { stage, member, .. } => assert!(member < sizes[stage]),
                    Fault::KillProducer { member } => assert!(member < SCENE.producers),
                    Fault::PauseStage { stage, member, length } => {
                        assert!(member < sizes[stage]);
                        assert!(length > SCENE.session_timeout, "a shorter stop makes no zombie");
                    }
                    Fault::Scale { stage, to } => {
                        assert_ne!(sizes[stage], to, "a change changes something");
                        sizes[stage] = to;
                    }
                    Fault::KillPart(_) | Fault::Meddle(_) | Fault::FillStore { .. } => {}
                }
            }
            assert_eq!(sizes, [USUAL; 3]);
        }
    }

    #[test]
    fn a_long_schedule_has_every_kind_of_fault_and_most_overlap() {
        let steps = schedule(1, 300, &SCENE);
        assert!(steps.iter().filter(|step| step.after < SCENE.session_timeout).count() > steps.len() * 4 / 5);
        let count = |is: fn(&Fault) -> bool| steps.iter().filter(|step| is(&step.fault)).count();
        let broker = count(|fault| *fault == Fault::KillPart(Part::Broker));
        let engine = count(|fault| *fault == Fault::KillPart(Part::Engine));
        assert!(0 < broker && broker < engine, "the broker falls more rarely: {broker}, {engine}");
        assert!(count(|fault| *fault == Fault::KillPart(Part::Registry)) > 2);
        assert!(count(|fault| matches!(fault, Fault::KillProducer { .. })) > 10);
        assert!(count(|fault| matches!(fault, Fault::PauseStage { .. })) > 10);
        assert!(count(|fault| matches!(fault, Fault::Scale { to: 3, .. })) > 3);
        assert!(count(|fault| matches!(fault, Fault::FillStore { .. })) > 2);
        let at_edge = |stops: bool| {
            steps.iter().filter(move |step| {
                matches!(step.fault, Fault::KillStage { then: Some(at), .. } if at.stop.is_some() == stops)
            })
        };
        assert!(at_edge(false).count() > 30 && at_edge(true).count() > 5);
        for is in [
            |how: &Meddling| matches!(how, Meddling::Cut { .. }),
            |how: &Meddling| matches!(how, Meddling::Stall { length, .. } if *length < SCENE.insert_timeout),
            |how: &Meddling| matches!(how, Meddling::Stall { length, .. } if *length > SCENE.insert_timeout),
            |how: &Meddling| *how == Meddling::LoseAnswer { answered: true },
            |how: &Meddling| *how == Meddling::LoseAnswer { answered: false },
        ] {
            assert!(steps.iter().any(|step| matches!(&step.fault, Fault::Meddle(how) if is(how))));
        }
    }
}
