//! Each part is killed, and later stopped so that connections hang, for longer than the timeouts that matter. Stages that
//! run wait, say why, keep their memory, end in seconds when asked, and catch up; those started meanwhile wait, too.

use std::time::{Duration, Instant};

use agentgov_schemas::NotReadyReason;
use agentgov_testenv::Part;

use crate::load::Load;
use crate::stack::{Stack, eventually, stack};
use crate::stage::{Stage, all_ready, fleet, terminate};

/// How a part is away.
#[derive(Clone, Copy, Debug)]
enum How {
    Killed,
    Hanging,
}

struct Outage<'a> {
    part: Part,
    how: How,
    /// Longer than the timeouts that matter. The environment makes it minutes: AGENTGOV_OUTAGE_SECONDS.
    length: Duration,
    /// Who must say so, if it runs and if it is started meanwhile, and by which names of `/readyz`.
    running: &'a [&'a str],
    started: &'a [&'a str],
    because: &'a [NotReadyReason],
}

impl Outage<'_> {
    /// `stages` live through it; they are ready before and afterwards.
    fn survive(&self, stack: &Stack, load: &Load, stages: &mut [Stage]) {
        let Self { part, how, .. } = self;
        let when = format!("{part} {how:?}");
        let leaving = fleet(stack);
        all_ready(&format!("before {when}"), stages);
        all_ready(&format!("before {when}"), &leaving);
        load.flows(20);
        let before: Vec<_> = stages.iter_mut().map(Stage::memory).collect();

        match how {
            How::Killed => stack.env.kill(*part).unwrap(),
            How::Hanging => stack.env.pause(*part).unwrap(),
        }
        let _end = Ends(stack, *part);
        let began = Instant::now();
        let mut most = before.clone();
        let late = fleet(stack);
        let affected = |stage: &Stage, names: &[&str]| names.contains(&stage.name);
        let says_so = |stage: &Stage| {
            let troubles = stage.troubles();
            self.because.iter().any(|what| troubles.contains(&format!("{}: {what}: ", stage.name)))
        };
        eventually(&format!("{when}: those that run say why they wait"), || {
            stages.iter().filter(|stage| affected(stage, self.running)).all(says_so)
        });
        eventually(&format!("{when}: those that start say why they wait"), || {
            late.iter().filter(|stage| affected(stage, self.started)).all(says_so)
        });
        eprintln!("{when}: told after {:.1?}", began.elapsed());
        terminate(&format!("{when}, running"), leaving);
        terminate(&format!("{when}, started meanwhile"), late);
        let late = fleet(stack);
        while began.elapsed() < self.length {
            for (stage, most) in stages.iter_mut().zip(&mut most) {
                *most = stage.memory().max(*most);
                // Who does not need the part goes on, though its group may rebalance as others come and go.
                assert!(affected(stage, self.running) || !says_so(stage), "{when}: {}", stage.troubles());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for stage in stages.iter().filter(|stage| affected(stage, self.running)) {
            assert!(says_so(stage), "{when}: {}: {:?}\n{}", stage.name, stage.troubles(), stage.told());
        }

        match how {
            How::Killed => stack.env.restart(*part).unwrap(),
            How::Hanging => stack.env.resume(*part).unwrap(),
        }
        let back = Instant::now();
        all_ready(&format!("after {when}"), stages);
        all_ready(&format!("after {when}, started meanwhile"), &late);
        load.flows(20);
        eprintln!("{when}: flows {:.1?} after it", back.elapsed());
        for ((stage, before), most) in stages.iter_mut().zip(before).zip(most) {
            let now = stage.memory();
            eprintln!("{when}: {} held {before}, {most}, {now} KiB", stage.name);
        }
        terminate(&format!("after {when}"), late);
    }
}

/// A test that fails leaves the part running for the next one.
struct Ends<'s>(&'s Stack, Part);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.env.resume(self.1).is_err() {
            let _ = self.0.env.restart(self.1);
        }
    }
}

fn seconds(usual: u64) -> Duration {
    let asked = std::env::var("AGENTGOV_OUTAGE_SECONDS").ok().map(|asked| asked.parse().unwrap());
    Duration::from_secs(asked.unwrap_or(usual))
}

fn survives(outages: &[Outage<'_>]) {
    let Some(stack) = stack() else { return };
    let load = Load::start(&stack);
    let mut stages = fleet(&stack);
    for outage in outages {
        outage.survive(&stack, &load, &mut stages);
    }
    load.stop();
    stack.is_whole(&stages);
    terminate("nothing to do", stages);
}

const ALL: [&str; 3] = ["evaluator", "alerter", "log-sink"];

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let outage = |how| Outage {
        part: Part::Broker,
        how,
        length: seconds(13),
        running: &ALL,
        started: &ALL,
        because: &[NotReadyReason::Kafka, NotReadyReason::Transaction],
    };
    survives(&[outage(How::Hanging), outage(How::Killed)]);
}

#[test]
fn a_clickhouse_that_is_away_is_waited_for() {
    let outage = |how| Outage {
        part: Part::Engine,
        how,
        length: seconds(5),
        running: &["log-sink"],
        started: &["log-sink"],
        because: &[NotReadyReason::Clickhouse, NotReadyReason::ClickhouseAnswer],
    };
    survives(&[outage(How::Hanging), outage(How::Killed)]);
}

#[test]
fn a_registry_that_is_away_is_waited_for() {
    let outage = |how| Outage {
        part: Part::Registry,
        how,
        length: seconds(5),
        // What has met the schemas that flow does not need it.
        running: &[],
        started: &["evaluator", "alerter"],
        because: &[NotReadyReason::Dependency],
    };
    survives(&[outage(How::Hanging), outage(How::Killed)]);
}
