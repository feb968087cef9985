//! A run: load and faults at once, then quiet, then the audit.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use agentgov_audit::{AuditError, Finding, Report, completeness};
use agentgov_connect::Endpoints;
use agentgov_schemas::topology::Topology;
use agentgov_testenv::{Part, TestEnv};

use crate::fleet::Fleet;
use crate::outcome::{FaultsError, Outcome};
use crate::producers::Producers;
use crate::schedule::{Fault, Step, schedule};

/// How often the processes are looked after.
const TICK: Duration = Duration::from_millis(20);
/// How long the pipeline may take to be done with everything once the faults are over.
const SETTLE: Duration = Duration::from_secs(240);

/// What a run needs.
pub struct Setup<'a> {
    /// The stack, native: its parts can be killed.
    pub env: &'a TestEnv,
    /// Where it is.
    pub endpoints: &'a Endpoints,
    /// The map; applied, with the registry and a bundle pushed.
    pub topology: &'a Arc<Topology>,
    /// What follows `run STAGE` on the command line of a stage.
    pub stage_args: Vec<String>,
    /// Whose sessions the load is.
    pub tenant: &'a str,
    /// Who acts in them; registered.
    pub agent: &'a str,
    /// Where; the bundle judges there.
    pub environment: &'a str,
    /// SIGKILLs in the schedule.
    pub kills: usize,
    /// What the schedule is made from.
    pub seed: u64,
}

/// Runs it; `tell` gets a line for each thing that happens. The stages are `run STAGE` of this very executable, whose
/// `testenv-supervisor` is testenv's helper. Must be called from a thread that stays until the end, as the
/// kernel kills the stages' processes when the thread that started them ends.
pub fn run(setup: &Setup<'_>, tell: &(dyn Fn(&str) + Sync)) -> Result<Outcome, FaultsError> {
    let session_timeout = setup.topology.timing.session_timeout.0;
    let steps = schedule(setup.seed, setup.kills, setup.topology.stages.len(), session_timeout);
    let outcome = Mutex::new(Outcome { seed: setup.seed, ..Outcome::default() });
    let mut fleet = Fleet::start(setup)?;
    let mut producers = Producers::start(setup)?;
    scope(|scope| {
        let starting = Instant::now();
        // Before the sink has made them there are no tables to audit.
        while !audit(setup, &mut fleet, tell)?.is_ok_and(|report| flows(&report))
            && starting.elapsed() < SETTLE
        {
            tend_for(&mut fleet, Duration::from_secs(1))?;
            producers.tend()?;
        }
        let began = Instant::now();
        let (brokers, broker_kills) = channel();
        let (engines, engine_kills) = channel();
        let parts = [(Part::Broker, broker_kills), (Part::Engine, engine_kills)]
            .map(|(part, kills)| scope.spawn(move || restart(setup.env, part, &kills, tell)));
        for (step, Step { after, fault }) in steps.into_iter().enumerate() {
            tend_for(&mut fleet, after)?;
            producers.tend()?;
            // Every third step a producer falls as well.
            if step % 3 == 0 && producers.kill(step / 3 % producers.len().max(1))? {
                let mut outcome = lock(&outcome);
                outcome.kills += 1;
                *outcome.done.entry("kill producer".to_owned()).or_default() += 1;
                tell(&format!("{:7.1} s  kill producer", began.elapsed().as_secs_f64()));
            }
            let (what, was_done) = match fault {
                Fault::KillStage { stage, member } => {
                    (format!("kill {}", fleet.name(stage)), fleet.kill(stage, member)?)
                }
                Fault::PauseStage { stage, member, length } => {
                    (format!("pause {}", fleet.name(stage)), fleet.pause(stage, member, length)?)
                }
                Fault::Scale { stage, to } => {
                    fleet.scale(stage, to)?;
                    (format!("scale {}", fleet.name(stage)), true)
                }
                Fault::KillPart(part) => {
                    let queue = if part == Part::Broker { &brokers } else { &engines };
                    (format!("kill {part}"), queue.send(()).is_ok())
                }
            };
            let mut outcome = lock(&outcome);
            let how = if was_done { "" } else { ": nothing there" };
            tell(&format!("{:7.1} s  {what}{how}", began.elapsed().as_secs_f64()));
            if was_done {
                outcome.kills += u64::from(fault.is_kill());
                *outcome.done.entry(what).or_default() += 1;
            } else {
                outcome.missed += 1;
            }
        }
        drop((brokers, engines));
        for part in parts {
            tend_while(&mut fleet, part)??;
        }
        lock(&outcome).faults_ms = began.elapsed().as_millis();
        let settling = Instant::now();
        let (heard, producers_ended) = producers.close(|| fleet.tend())?;
        lock(&outcome).heard(heard);
        tell("the faults are over, and the sources are closed");
        let mut last: Option<Report> = None;
        loop {
            let report = match audit(setup, &mut fleet, tell)? {
                Ok(report) => report,
                Err(_) if settling.elapsed() < SETTLE => {
                    tend_for(&mut fleet, Duration::from_secs(1))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let nothing_left = report.pending == 0 && report.unanswered == 0;
            // What was found while a stage still wrote may be what it had not written yet: only what stays counts.
            let settled = nothing_left && (report.findings.is_empty() || last.as_ref() == Some(&report));
            if last.is_none() {
                lock(&outcome).behind = report.pending;
            }
            if settled || settling.elapsed() > SETTLE {
                let mut outcome = lock(&outcome);
                outcome.settled_ms = settled.then(|| settling.elapsed().as_millis());
                outcome.audited(report);
                outcome.ended = fleet.ended().clone();
                outcome.ended.extend(producers_ended);
                return Ok(outcome.clone());
            }
            last = Some(report);
            tend_for(&mut fleet, Duration::from_secs(1))?;
        }
    })
}

/// Kills a part and starts it again, once for each message.
fn restart(
    env: &TestEnv,
    part: Part,
    kills: &Receiver<()>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(), FaultsError> {
    for () in kills {
        let began = Instant::now();
        env.restart(part)?;
        tell(&format!("           {part} is back after {:.1} s", began.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// The audit, while the processes are looked after.
fn audit(
    setup: &Setup<'_>,
    fleet: &mut Fleet<'_>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Result<Report, AuditError>, FaultsError> {
    let audit = || completeness(setup.topology, setup.endpoints);
    let report = scope(|scope| tend_while(fleet, scope.spawn(audit)))?;
    match &report {
        Ok(report) => {
            let Report { records, pending, unanswered, .. } = report;
            tell(&format!(
                "audit: {records} records, {pending} without a row, {unanswered} without an answer"
            ));
            for Finding { kind, count, first } in &report.findings {
                tell(&format!("audit: {} {count}, first {first}", kind.as_str()));
            }
        }
        Err(error) => tell(&error.to_string()),
    }
    Ok(report)
}

/// True if the stages are at work: most of what there is has its rows and its answers.
fn flows(report: &Report) -> bool {
    report.judged > 0 && report.unanswered * 2 < report.judged && report.pending * 2 < report.records
}

fn tend_for(fleet: &mut Fleet<'_>, length: Duration) -> Result<(), FaultsError> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        fleet.tend()?;
        sleep(TICK);
    }
    Ok(())
}

fn tend_while<T>(fleet: &mut Fleet<'_>, thread: ScopedJoinHandle<'_, T>) -> Result<T, FaultsError> {
    while !thread.is_finished() {
        fleet.tend()?;
        sleep(TICK);
    }
    Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn lock(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}
