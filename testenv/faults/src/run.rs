//! Run of the harness: load and faults, then quiescence, then the audit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use agentgov_audit::{AuditError, Finding, Report, completeness};
use agentgov_connect::Endpoints;
use agentgov_schemas::topology::Topology;
use agentgov_testenv::{Part, TestEnv};

use crate::callers::{self, CallerReports};
use crate::decision_points::{DECISION_POINTS, DecisionPoints};
use crate::decisions::{DecisionReport, Outage};
use crate::foreign_client::{self, StopOnDrop};
use crate::full_store::FullStore;
use crate::outcome::{FaultsError, Outcome};
use crate::producer::CLOSE_TIMEOUT;
use crate::producers::Producers;
use crate::proxy::{PLANT_NO_DRAIN, Proxy};
use crate::schedule::{Fault, Step};
use crate::stage_processes::StageProcesses;
use crate::suspensions::{self, SuspensionPeriod};

/// Interval of checks of the processes.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of starts of a part after a kill.
const MAX_STARTS: u32 = 3;
/// Timeout for the pipeline to process its first records.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(240);

/// Parameters of a run.
pub struct Setup<'a> {
    /// Native stack, whose parts can be killed.
    pub env: &'a TestEnv,
    /// Addresses and logins of the stack.
    pub endpoints: &'a Endpoints,
    /// Applied topology; the registry and a bundle are pushed.
    pub topology: &'a Arc<Topology>,
    /// Arguments after `run STAGE` of a stage.
    pub stage_args: Vec<String>,
    /// Tenant of the load.
    pub tenant: &'a str,
    /// Registered agent of the load.
    pub agent: &'a str,
    /// Environment in which the bundle is active.
    pub environment: &'a str,
    /// `agentgov-bench`: runs the stages (`armed run STAGE`), the decision points (`armed pdp`) and producers (`produce`), and is testenv's helper.
    pub program: PathBuf,
    /// Failpoints of each stage's processes, by stage, and those of the decision points as `pdp`.
    pub failpoints: BTreeMap<String, Vec<Failpoint>>,
    /// Planted mistakes of every stage process: names of failpoints, and [`PLANT_NO_DRAIN`].
    pub plants: Vec<&'static str>,
    /// Runs a foreign client beside the load.
    pub foreign_client: bool,
    /// Runs two decision points, callers that ask them, and suspensions of the callers' agents.
    pub decision_points: bool,
    /// Schedule of the faults.
    pub steps: Vec<Step>,
    /// Seed of the schedule and the load.
    pub seed: u64,
    /// Timeout for the pipeline to process everything after the last fault.
    pub settle: Duration,
}

/// Failpoint of a stage's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failpoint {
    /// Name of the failpoint.
    pub name: &'static str,
    /// True if each batch passes it; false if only a starting or recovering process does.
    pub in_each_batch: bool,
}

/// Runs the harness; `log` receives a line per event. The calling thread must live until the end, since the kernel kills
/// the stage processes when the thread that started them ends.
pub fn run(setup: &Setup<'_>, log: &(dyn Fn(&str) + Sync)) -> Result<Outcome, FaultsError> {
    let outcome = Mutex::new(Outcome { seed: setup.seed, ..Outcome::default() });
    let upstream = setup.endpoints.clickhouse.url.trim_start_matches("http://");
    let proxy = Proxy::start(upstream, setup.plants.contains(&PLANT_NO_DRAIN))
        .map_err(|source| FaultsError::Proxy { source })?;
    let tables = setup.topology.stores.values().flat_map(|store| store.value.tables.iter());
    let tables = tables.filter(|(_, table)| table.value.from.is_some()).map(|(name, _)| name.as_str());
    let store = FullStore::new(&setup.endpoints.clickhouse, tables)?;
    let points = setup.decision_points.then(|| DecisionPoints::prepare(setup)).transpose();
    let points = points.map_err(FaultsError::DecisionPoints)?;
    let points = points.as_ref();
    let mut stage_processes = StageProcesses::start(setup, proxy.url(), points)?;
    let mut producers = Producers::start(setup)?;
    let stop = AtomicBool::new(false);
    let outages = &Mutex::new(Vec::new());
    scope(|scope| {
        let stop_on_drop = StopOnDrop(&stop);
        let starting = Instant::now();
        // The audit fails until the sink has created the tables.
        while !run_audit(setup, &mut stage_processes, log)?.is_ok_and(|report| is_processing(&report))
            && starting.elapsed() < STARTUP_TIMEOUT
        {
            supervise_for(&mut stage_processes, Duration::from_secs(1))?;
            producers.supervise()?;
        }
        let foreign_client = setup.foreign_client.then(|| scope.spawn(|| foreign_client::run(setup, &stop)));
        let decisions = points.map(|points| Callers::start(scope, setup, points, &stop));
        let began = Instant::now();
        let (brokers, broker_kills) = channel();
        let (engines, engine_kills) = channel();
        let (registries, registry_kills) = channel();
        let parts =
            [(Part::Broker, broker_kills), (Part::Engine, engine_kills), (Part::Registry, registry_kills)]
                .map(|(part, kills)| {
                    scope.spawn(move || restart_part(setup.env, (part, kills), outages, log))
                });
        let (fillings, filled) = channel();
        let filling = scope.spawn(|| fill_store(&store, filled, log));
        for Step { after, fault } in setup.steps.iter().copied() {
            supervise_for(&mut stage_processes, after)?;
            producers.supervise()?;
            let (what, was_done) = match fault {
                Fault::KillStage { stage, member, failpoint_stop } => (
                    format!("kill {}", stage_processes.name(stage)),
                    stage_processes.kill(stage, member, failpoint_stop)?,
                ),
                Fault::KillDecisionPoint { member, failpoint_stop } => {
                    let stage = stage_processes.decision_points();
                    ("kill pdp".to_owned(), stage_processes.kill(stage, member, failpoint_stop)?)
                }
                Fault::PauseDecisionPoint { member, length } => {
                    let stage = stage_processes.decision_points();
                    ("pause pdp".to_owned(), stage_processes.pause(stage, member, length)?)
                }
                Fault::KillProducer { member } => ("kill producer".to_owned(), producers.kill(member)?),
                Fault::DisturbInsert(how) => (how.as_str().to_owned(), proxy.disturb_next_insert(how)),
                Fault::FillStore { length } => ("fill_store store".to_owned(), fillings.send(length).is_ok()),
                Fault::PauseStage { stage, member, length } => (
                    format!("pause {}", stage_processes.name(stage)),
                    stage_processes.pause(stage, member, length)?,
                ),
                Fault::Scale { stage, to } => {
                    stage_processes.scale(stage, to)?;
                    (format!("scale {}", stage_processes.name(stage)), true)
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
            let how = if was_done { "" } else { ": no process" };
            log(&format!("{:7.1} s  {what}{how}", began.elapsed().as_secs_f64()));
            if was_done {
                outcome.kills += u64::from(fault.is_kill());
                *outcome.done.entry(what).or_default() += 1;
            } else {
                outcome.missed += 1;
            }
        }
        drop((brokers, engines, registries, fillings));
        for part in parts {
            supervise_while(&mut stage_processes, part)??;
        }
        supervise_while(&mut stage_processes, filling)??;
        lock(&outcome).faults_ms = began.elapsed().as_millis();
        drop(stop_on_drop);
        if let Some(foreign_client) = foreign_client {
            let report =
                supervise_while(&mut stage_processes, foreign_client)?.map_err(FaultsError::ForeignClient)?;
            lock(&outcome).foreign_client = Some(report);
        }
        let settling = Instant::now();
        let callers = decisions.map(|decisions| decisions.join(&mut stage_processes)).transpose()?;
        let (mut reports, producers_ended) = producers.close(|| stage_processes.supervise())?;
        if let (Some(points), Some((mut callers, suspensions))) = (points, callers) {
            reports.acknowledged.append(&mut callers.acknowledged);
            callers.failed.extend(close_decision_points(points, &mut stage_processes)?);
            let report = DecisionReport::new(callers, &suspensions, &lock(outages));
            lock(&outcome).decisions = Some(report);
        }
        lock(&outcome).store_reports(reports);
        log("faults finished, sources closed");
        let mut last: Option<Report> = None;
        loop {
            let report = match run_audit(setup, &mut stage_processes, log)? {
                Ok(report) => report,
                Err(_) if settling.elapsed() < setup.settle => {
                    supervise_for(&mut stage_processes, Duration::from_secs(1))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let nothing_left = report.pending == 0 && report.unanswered == 0;
            // Findings while a stage still writes may be incomplete work; only persistent ones count.
            let settled = nothing_left && (report.findings.is_empty() || last.as_ref() == Some(&report));
            if last.is_none() {
                lock(&outcome).behind = report.pending;
            }
            if settled || settling.elapsed() > setup.settle {
                let mut outcome = lock(&outcome);
                outcome.settled_ms = settled.then(|| settling.elapsed().as_millis());
                outcome.store_audit(setup.tenant, report);
                if let Some(foreign_client) = &mut outcome.foreign_client {
                    foreign_client
                        .compare_with_rows(setup.endpoints, setup.topology)
                        .map_err(FaultsError::ForeignClient)?;
                }
                if let Some(decisions) = &mut outcome.decisions {
                    decisions
                        .compare_with_rows(setup.endpoints, setup.topology, setup.tenant)
                        .map_err(FaultsError::DecisionPoints)?;
                }
                outcome.unexpected_exits = stage_processes.exits().clone();
                outcome.at_failpoints = stage_processes.at_failpoints().clone();
                outcome.unexpected_exits.extend(producers_ended);
                return Ok(outcome.clone());
            }
            last = Some(report);
            supervise_for(&mut stage_processes, Duration::from_secs(1))?;
        }
    })
}

/// Threads of the callers and of the suspensions.
struct Callers<'scope> {
    callers: Vec<ScopedJoinHandle<'scope, Result<CallerReports, String>>>,
    suspensions: ScopedJoinHandle<'scope, Result<Vec<SuspensionPeriod>, String>>,
}

impl<'scope> Callers<'scope> {
    fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        setup: &'env Setup<'env>,
        points: &'env DecisionPoints,
        stop: &'env AtomicBool,
    ) -> Self {
        let caller = |agent: &'env String| scope.spawn(move || callers::run(setup, points, agent, stop));
        Self {
            callers: points.agents().iter().map(caller).collect(),
            suspensions: scope.spawn(|| suspensions::run(setup, points.agents(), stop)),
        }
    }

    /// Waits for the threads, which end once the run has stopped.
    fn join(
        self,
        stage_processes: &mut StageProcesses<'_>,
    ) -> Result<(CallerReports, Vec<SuspensionPeriod>), FaultsError> {
        let mut reports = CallerReports::default();
        for caller in self.callers {
            reports.append(supervise_while(stage_processes, caller)?.map_err(FaultsError::DecisionPoints)?);
        }
        let suspensions = supervise_while(stage_processes, self.suspensions)?;
        Ok((reports, suspensions.map_err(FaultsError::DecisionPoints)?))
    }
}

/// Terminates the decision points, and starts them again until nothing is left in their spools. Returns a problem if
/// something stays there.
fn close_decision_points(
    points: &DecisionPoints,
    stage_processes: &mut StageProcesses<'_>,
) -> Result<Option<String>, FaultsError> {
    let (stage, until) = (stage_processes.decision_points(), Instant::now() + CLOSE_TIMEOUT);
    loop {
        stage_processes.scale(stage, 0)?;
        while !stage_processes.have_terminated() {
            supervise_for(stage_processes, POLL_INTERVAL)?;
        }
        let left = points.spooled_sources();
        if left == 0 || Instant::now() > until {
            return Ok(
                (left > 0).then(|| format!("decision points: expected empty spools, found {left} sources"))
            );
        }
        stage_processes.scale(stage, DECISION_POINTS)?;
        while points.spooled_sources() > 0 && Instant::now() < until {
            supervise_for(stage_processes, POLL_INTERVAL)?;
        }
    }
}

/// Kills a part and restarts it, once per message. Adds the outages of the broker to `outages`.
fn restart_part(
    env: &TestEnv,
    (part, kills): (Part, Receiver<()>),
    outages: &Mutex<Vec<Outage>>,
    log: &(dyn Fn(&str) + Sync),
) -> Result<(), FaultsError> {
    for () in &kills {
        let began = Instant::now();
        let mut starts = 1;
        // On a busy machine a part's own startup timeout may expire, as that of the registry's database.
        while let Err(error) = env.restart(part) {
            if starts == MAX_STARTS || !matches!(error, agentgov_testenv::Error::PartDied { .. }) {
                return Err(error.into());
            }
            starts += 1;
        }
        if part == Part::Broker {
            lock(outages).push(Outage { began, ended: Instant::now() });
        }
        log(&format!("           {part} responds after {:.1} s", began.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// Makes the store full, once per message.
fn fill_store(
    store: &FullStore<'_>,
    lengths: Receiver<Duration>,
    log: &(dyn Fn(&str) + Sync),
) -> Result<(), FaultsError> {
    for length in lengths {
        let was_full = store.fill(length).map_err(FaultsError::Full)?;
        log(if was_full {
            "           the store accepts inserts again"
        } else {
            "           the store was unreachable, not full"
        });
    }
    Ok(())
}

/// Runs the audit while the processes are supervised.
fn run_audit(
    setup: &Setup<'_>,
    stage_processes: &mut StageProcesses<'_>,
    log: &(dyn Fn(&str) + Sync),
) -> Result<Result<Report, AuditError>, FaultsError> {
    let audit = || completeness(setup.topology, setup.endpoints);
    let report = scope(|scope| supervise_while(stage_processes, scope.spawn(audit)))?;
    match &report {
        Ok(report) => {
            let Report { records, pending, unanswered, .. } = report;
            log(&format!(
                "audit: {records} records, {pending} without a row, {unanswered} without a response"
            ));
            for Finding { kind, count, first, .. } in &report.findings {
                log(&format!("audit: {} {count}, first {first}", kind.as_str()));
            }
        }
        Err(error) => log(&error.to_string()),
    }
    Ok(report)
}

/// Returns true once most records have their rows and responses.
fn is_processing(report: &Report) -> bool {
    report.judged > 0 && report.unanswered * 2 < report.judged && report.pending * 2 < report.records
}

fn supervise_for(stage_processes: &mut StageProcesses<'_>, length: Duration) -> Result<(), FaultsError> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        stage_processes.supervise()?;
        sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn supervise_while<T>(
    stage_processes: &mut StageProcesses<'_>,
    thread: ScopedJoinHandle<'_, T>,
) -> Result<T, FaultsError> {
    while !thread.is_finished() {
        stage_processes.supervise()?;
        sleep(POLL_INTERVAL);
    }
    Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
