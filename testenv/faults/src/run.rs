//! A run: load and faults at once, then quiet, then the audit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use agentgov_audit::{AuditError, Finding, Report, completeness};
use agentgov_connect::Endpoints;
use agentgov_schemas::topology::Topology;
use agentgov_testenv::{Part, TestEnv};

use crate::fleet::Fleet;
use crate::full::Store;
use crate::outcome::{FaultsError, Outcome};
use crate::producers::Producers;
use crate::proxy::{PLANT_NO_DRAIN, Proxy};
use crate::schedule::{Fault, Step};
use crate::strangers::{self, Leaves};

/// How often the processes are looked after.
const TICK: Duration = Duration::from_millis(20);
/// How often a part may be started again after a kill until it lives.
const TRIES: u32 = 3;
/// How long the pipeline may take until records flow through all of it.
const BEGIN: Duration = Duration::from_secs(240);

/// What a run needs.
pub struct Setup<'a> {
    /// The stack, native: its parts can be killed.
    pub env: &'a TestEnv,
    /// Where it is.
    pub endpoints: &'a Endpoints,
    /// The topology; applied, with the registry and a bundle pushed.
    pub topology: &'a Arc<Topology>,
    /// What follows `run STAGE` on the command line of a stage.
    pub stage_args: Vec<String>,
    /// Whose sessions the load is.
    pub tenant: &'a str,
    /// Who acts in them; registered.
    pub agent: &'a str,
    /// Where; the bundle judges there.
    pub environment: &'a str,
    /// `agentgov-bench`, whose `armed run STAGE` the stages are, whose `produce` the producers, and which is testenv's helper.
    pub program: PathBuf,
    /// The edges at which the processes of a stage can be ended and stopped, by its name.
    pub edges: BTreeMap<String, Vec<Edge>>,
    /// Mistakes that every process of every stage makes: names of failpoints, and [`PLANT_NO_DRAIN`].
    pub plants: Vec<&'static str>,
    /// Whether a stranger's producer writes beside the load.
    pub strangers: bool,
    /// What happens, and when.
    pub steps: Vec<Step>,
    /// What the steps were made from, and the load is.
    pub seed: u64,
    /// How long the pipeline may take to be done with everything once the faults are over.
    pub settle: Duration,
}

/// An edge of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The failpoint.
    pub name: &'static str,
    /// True if each batch passes it; else only a process that starts or recovers does.
    pub in_each_batch: bool,
}

/// Runs it; `tell` gets a line for each thing that happens. Must be called from a thread that stays until the end, as the
/// kernel kills the stages' processes when the thread that started them ends.
pub fn run(setup: &Setup<'_>, tell: &(dyn Fn(&str) + Sync)) -> Result<Outcome, FaultsError> {
    let outcome = Mutex::new(Outcome { seed: setup.seed, ..Outcome::default() });
    let upstream = setup.endpoints.clickhouse.url.trim_start_matches("http://");
    let proxy = Proxy::start(upstream, setup.plants.contains(&PLANT_NO_DRAIN))
        .map_err(|source| FaultsError::Proxy { source })?;
    let tables = setup.topology.stores.values().flat_map(|store| store.value.tables.iter());
    let tables = tables.filter(|(_, table)| table.value.from.is_some()).map(|(name, _)| name.as_str());
    let store = Store::new(&setup.endpoints.clickhouse, tables)?;
    let mut fleet = Fleet::start(setup, proxy.url())?;
    let mut producers = Producers::start(setup)?;
    let leaves = AtomicBool::new(false);
    scope(|scope| {
        let leaving = Leaves(&leaves);
        let starting = Instant::now();
        // Before the sink has made them there are no tables to audit.
        while !audit(setup, &mut fleet, tell)?.is_ok_and(|report| flows(&report))
            && starting.elapsed() < BEGIN
        {
            tend_for(&mut fleet, Duration::from_secs(1))?;
            producers.tend()?;
        }
        let stranger = setup.strangers.then(|| scope.spawn(|| strangers::write(setup, &leaves)));
        let began = Instant::now();
        let (brokers, broker_kills) = channel();
        let (engines, engine_kills) = channel();
        let (registries, registry_kills) = channel();
        let parts =
            [(Part::Broker, broker_kills), (Part::Engine, engine_kills), (Part::Registry, registry_kills)]
                .map(|(part, kills)| scope.spawn(move || restart(setup.env, part, &kills, tell)));
        let (fillings, filled) = channel();
        let filling = scope.spawn(|| fill(&store, filled, tell));
        for Step { after, fault } in setup.steps.iter().copied() {
            tend_for(&mut fleet, after)?;
            producers.tend()?;
            let (what, was_done) = match fault {
                Fault::KillStage { stage, member, then } => {
                    (format!("kill {}", fleet.name(stage)), fleet.kill(stage, member, then)?)
                }
                Fault::KillProducer { member } => ("kill producer".to_owned(), producers.kill(member)?),
                Fault::Meddle(how) => (how.as_str().to_owned(), proxy.meddle(how)),
                Fault::FillStore { length } => ("fill store".to_owned(), fillings.send(length).is_ok()),
                Fault::PauseStage { stage, member, length } => {
                    (format!("pause {}", fleet.name(stage)), fleet.pause(stage, member, length)?)
                }
                Fault::Scale { stage, to } => {
                    fleet.scale(stage, to)?;
                    (format!("scale {}", fleet.name(stage)), true)
                }
                Fault::KillPart(part) => {
                    let queue = match part {
                        Part::Broker => &brokers,
                        Part::Engine => &engines,
                        Part::Registry => &registries,
                    };
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
        drop((brokers, engines, registries, fillings));
        for part in parts {
            tend_while(&mut fleet, part)??;
        }
        tend_while(&mut fleet, filling)??;
        lock(&outcome).faults_ms = began.elapsed().as_millis();
        drop(leaving);
        if let Some(stranger) = stranger {
            let did = tend_while(&mut fleet, stranger)?.map_err(FaultsError::Stranger)?;
            lock(&outcome).strangers = Some(did);
        }
        let settling = Instant::now();
        let (heard, producers_ended) = producers.close(|| fleet.tend())?;
        lock(&outcome).heard(heard);
        tell("the faults are over, and the sources are closed");
        let mut last: Option<Report> = None;
        loop {
            let report = match audit(setup, &mut fleet, tell)? {
                Ok(report) => report,
                Err(_) if settling.elapsed() < setup.settle => {
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
            if settled || settling.elapsed() > setup.settle {
                let mut outcome = lock(&outcome);
                outcome.settled_ms = settled.then(|| settling.elapsed().as_millis());
                outcome.audited(setup.tenant, report);
                if let Some(strangers) = &mut outcome.strangers {
                    strangers.look(setup.endpoints, setup.topology).map_err(FaultsError::Stranger)?;
                }
                outcome.ended = fleet.ended().clone();
                outcome.at_edges = fleet.at_edges().clone();
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
        let mut tries = 1;
        // Its own start may be too slow for it on a busy machine, as it is for the registry's database.
        while let Err(error) = env.restart(part) {
            if tries == TRIES || !matches!(error, agentgov_testenv::Error::PartDied { .. }) {
                return Err(error.into());
            }
            tries += 1;
        }
        tell(&format!("           {part} is back after {:.1} s", began.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// Fills the store for a while, once for each message.
fn fill(
    store: &Store<'_>,
    lengths: Receiver<Duration>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(), FaultsError> {
    for length in lengths {
        let was_full = store.fill(length).map_err(FaultsError::Full)?;
        tell(if was_full {
            "           the store has room again"
        } else {
            "           the store was away, not full"
        });
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
            for Finding { kind, count, first, .. } in &report.findings {
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
