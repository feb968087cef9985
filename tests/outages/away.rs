//! Tests of outages: each part is killed, and later suspended with open connections, for longer than the relevant timeouts.
//! Running stages wait, report the reason, bound their memory, shut down in seconds, and catch up. Stages that start
//! meanwhile wait, too.

use std::time::{Duration, Instant};

use agentgov_schemas::NotReadyReason;
use agentgov_testenv::Part;

use crate::load::Load;
use crate::stack::{Stack, eventually, stack};
use crate::stage::{Stage, all_ready, start_stages, terminate};

/// Kind of an outage.
#[derive(Clone, Copy, Debug)]
enum How {
    Killed,
    Hanging,
}

struct Outage<'a> {
    part: Part,
    how: How,
    /// Duration, longer than the relevant timeouts; AGENTGOV_OUTAGE_SECONDS extends it to minutes.
    length: Duration,
    /// Stages that must report the outage, running or starting, and their reasons of `/readyz`.
    running: &'a [&'a str],
    started: &'a [&'a str],
    because: &'a [NotReadyReason],
}

impl Outage<'_> {
    /// Checks that `stages` survive the outage and are ready before and after it.
    fn assert_survived(&self, stack: &Stack, load: &Load, stages: &mut [Stage]) {
        let Self { part, how, .. } = self;
        let when = format!("{part} {how:?}");
        let leaving = start_stages(stack);
        all_ready(&format!("before {when}"), stages);
        all_ready(&format!("before {when}"), &leaving);
        load.wait_for_sessions(20);
        let before: Vec<_> = stages.iter_mut().map(Stage::memory).collect();

        match how {
            How::Killed => stack.env.kill(*part).unwrap(),
            How::Hanging => stack.env.pause(*part).unwrap(),
        }
        let _end = RestartOnDrop(stack, *part);
        let began = Instant::now();
        let mut most = before.clone();
        let late = start_stages(stack);
        let affected = |stage: &Stage, names: &[&str]| names.contains(&stage.name);
        let reports_outage = |stage: &Stage| {
            let not_ready_reasons = stage.not_ready_reasons();
            self.because.iter().any(|what| not_ready_reasons.contains(&format!("{}: {what}: ", stage.name)))
        };
        eventually(&format!("{when}: those that run say why they wait"), || {
            stages.iter().filter(|stage| affected(stage, self.running)).all(reports_outage)
        });
        eventually(&format!("{when}: those that start say why they wait"), || {
            late.iter().filter(|stage| affected(stage, self.started)).all(reports_outage)
        });
        eprintln!("{when}: reported after {:.1?}", began.elapsed());
        terminate(&format!("{when}, running"), leaving);
        terminate(&format!("{when}, started meanwhile"), late);
        let late = start_stages(stack);
        while began.elapsed() < self.length {
            for (stage, most) in stages.iter_mut().zip(&mut most) {
                *most = stage.memory().max(*most);
                // Stages that do not need the part continue, though their group may rebalance when others come and go.
                assert!(
                    affected(stage, self.running) || !reports_outage(stage),
                    "{when}: {}",
                    stage.not_ready_reasons()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for stage in stages.iter().filter(|stage| affected(stage, self.running)) {
            assert!(
                reports_outage(stage),
                "{when}: {}: {:?}\n{}",
                stage.name,
                stage.not_ready_reasons(),
                stage.log()
            );
        }

        match how {
            How::Killed => stack.env.restart(*part).unwrap(),
            How::Hanging => stack.env.resume(*part).unwrap(),
        }
        let back = Instant::now();
        all_ready(&format!("after {when}"), stages);
        all_ready(&format!("after {when}, started meanwhile"), &late);
        load.wait_for_sessions(20);
        eprintln!("{when}: wait_for_sessions {:.1?} after it", back.elapsed());
        for ((stage, before), most) in stages.iter_mut().zip(before).zip(most) {
            let now = stage.memory();
            eprintln!("{when}: {} held {before}, {most}, {now} KiB", stage.name);
        }
        terminate(&format!("after {when}"), late);
    }
}

/// Restarts the part for the next test if this one fails.
struct RestartOnDrop<'s>(&'s Stack, Part);

impl Drop for RestartOnDrop<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.0.env.resume(self.1).is_err() {
            let _ = self.0.env.restart(self.1);
        }
    }
}

fn seconds(usual: u64) -> Duration {
    let seconds = std::env::var("AGENTGOV_OUTAGE_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(usual))
}

fn survives(outages: &[Outage<'_>]) {
    let Some(stack) = stack() else { return };
    let load = Load::start(&stack);
    let mut stages = start_stages(&stack);
    for outage in outages {
        outage.assert_survived(&stack, &load, &mut stages);
    }
    load.stop();
    stack.wait_for_complete_log(&stages);
    terminate("nothing to do", stages);
}

const ALL: [&str; 3] = ["evaluator", "alerter", "log-sink"];

#[test]
fn stages_wait_for_an_unreachable_broker() {
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
fn stages_wait_for_an_unreachable_clickhouse() {
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
fn stages_wait_for_an_unreachable_registry() {
    let outage = |how| Outage {
        part: Part::Registry,
        how,
        length: seconds(5),
        // Stages that have cached the current schemas do not need it.
        running: &[],
        started: &["evaluator", "alerter"],
        because: &[NotReadyReason::Dependency],
    };
    survives(&[outage(How::Hanging), outage(How::Killed)]);
}
