//! Processes of the stages and of the decision points: start, SIGKILL, SIGSTOP, restart. Unexpected exits are counted, and their processes restarted.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentgov_testenv::owned_command;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::decision_points::{DECISION_POINTS, DecisionPoints, PDP};
use crate::exits::{ExitsByStatus, count_exit, log_path};
use crate::outcome::FaultsError;
use crate::run::{Failpoint, Setup};
use crate::schedule::{DEFAULT_PROCESSES, FailpointStop};

/// Minimum time between two starts of a process.
const MIN_RESTART_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for a process to end after SIGTERM.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Processes of all stages, and of the decision points as if they were one more stage. They end on drop and with this
/// process; the thread that starts them must live as long, since the kernel kills them when it ends.
pub(crate) struct StageProcesses<'a> {
    setup: &'a Setup<'a>,
    launcher: Launcher<'a>,
    stages: Vec<Stage>,
    terminating: Vec<TerminatingProcess>,
    exits: ExitsByStatus,
    at_failpoints: BTreeMap<String, u64>,
}

/// Starts the processes.
struct Launcher<'a> {
    setup: &'a Setup<'a>,
    /// ClickHouse URL of the stages: the proxy.
    clickhouse: String,
    points: Option<&'a DecisionPoints>,
}

struct Stage {
    name: String,
    members: Vec<Member>,
}

struct Member {
    child: Option<Child>,
    started: Instant,
    /// Time of SIGCONT, if the process is stopped.
    resume: Option<Instant>,
    /// Failpoint at which the process ends or stops.
    planned_stop: Option<PlannedStop>,
}

struct PlannedStop {
    failpoint: &'static str,
    /// Duration of the stop; `None` for a kill.
    stop: Option<Duration>,
}

/// Process after SIGTERM.
struct TerminatingProcess {
    stage: String,
    child: Child,
    until: Instant,
    planned_stop: Option<PlannedStop>,
}

impl<'a> StageProcesses<'a> {
    /// Starts the default number of processes of each stage, and the decision points.
    pub(crate) fn start(
        setup: &'a Setup<'a>,
        clickhouse: String,
        points: Option<&'a DecisionPoints>,
    ) -> Result<Self, FaultsError> {
        let names = setup.topology.stages.keys().cloned().chain(points.map(|_| PDP.to_owned()));
        let stages = names.map(|name| Stage { name, members: Vec::new() }).collect();
        let mut stage_processes = Self {
            setup,
            launcher: Launcher { setup, clickhouse, points },
            stages,
            terminating: Vec::new(),
            exits: BTreeMap::new(),
            at_failpoints: BTreeMap::new(),
        };
        for stage in 0..setup.topology.stages.len() {
            stage_processes.scale(stage, DEFAULT_PROCESSES)?;
        }
        stage_processes.scale(stage_processes.decision_points(), DECISION_POINTS)?;
        Ok(stage_processes)
    }

    /// Returns the index of the decision points, which have none in the topology.
    pub(crate) fn decision_points(&self) -> usize {
        self.setup.topology.stages.len()
    }

    /// Returns true once each terminated process has ended.
    pub(crate) fn have_terminated(&self) -> bool {
        self.terminating.is_empty()
    }

    /// Returns the stage's name.
    pub(crate) fn name(&self, stage: usize) -> &str {
        self.stages.get(stage).map_or("", |stage| &stage.name)
    }

    /// Returns the unexpected exits of stages.
    pub(crate) fn exits(&self) -> &ExitsByStatus {
        &self.exits
    }

    /// Returns how often processes ended or stopped at their failpoints: `killed at …`, `stopped at …`.
    pub(crate) fn at_failpoints(&self) -> &BTreeMap<String, u64> {
        &self.at_failpoints
    }

    /// Kills a process (SIGKILL) and starts a new one, optionally with a failpoint. Returns false if no process was
    /// running.
    pub(crate) fn kill(
        &mut self,
        stage: usize,
        member: usize,
        failpoint_stop: Option<FailpointStop>,
    ) -> Result<bool, FaultsError> {
        self.supervise()?;
        let Some(stage) = self.stages.get_mut(stage) else { return Ok(false) };
        let (name, number) = (&stage.name, member);
        let Some(member) = stage.members.get_mut(number) else { return Ok(false) };
        let Some(mut child) = member.child.take() else { return Ok(false) };
        signal(&child, Signal::KILL);
        let status = child.wait().map_err(process(name))?;
        *member = self.launcher.spawn(name, number, failpoint_stop)?;
        if is_killed(status) {
            return Ok(true);
        }
        // The process ended before the signal.
        count_exit(self.setup, &mut self.exits, name, "", status);
        Ok(false)
    }

    /// Stops a process (SIGSTOP) until SIGCONT after `length`. Returns false if no process was running or it is already
    /// stopped.
    pub(crate) fn pause(
        &mut self,
        stage: usize,
        member: usize,
        length: Duration,
    ) -> Result<bool, FaultsError> {
        self.supervise()?;
        let member = self.stages.get_mut(stage).and_then(|stage| stage.members.get_mut(member));
        let Some(Member { child: Some(child), resume: resume @ None, .. }) = member else { return Ok(false) };
        signal(child, Signal::STOP);
        *resume = Some(Instant::now() + length);
        Ok(true)
    }

    /// Starts processes of a stage, or terminates its last ones.
    pub(crate) fn scale(&mut self, stage: usize, to: usize) -> Result<(), FaultsError> {
        let Some(stage) = self.stages.get_mut(stage) else { return Ok(()) };
        while stage.members.len() < to {
            stage.members.push(self.launcher.spawn(&stage.name, stage.members.len(), None)?);
        }
        for Member { child, resume, planned_stop, .. } in stage.members.drain(to..) {
            let Some(child) = child else { continue };
            signal(&child, Signal::TERM);
            if resume.is_some() {
                signal(&child, Signal::CONT);
            }
            let until = Instant::now() + SHUTDOWN_TIMEOUT;
            self.terminating.push(TerminatingProcess {
                stage: stage.name.clone(),
                child,
                until,
                planned_stop,
            });
        }
        Ok(())
    }

    /// Continues stopped processes whose time is over, counts exits, and restarts processes. Must be called frequently.
    pub(crate) fn supervise(&mut self) -> Result<(), FaultsError> {
        for stage in &mut self.stages {
            for (number, member) in stage.members.iter_mut().enumerate() {
                if let (Some(child), Some(until)) = (&member.child, member.resume)
                    && Instant::now() >= until
                {
                    signal(child, Signal::CONT);
                    member.resume = None;
                }
                if let (Some(child), None, Some(PlannedStop { failpoint, stop: Some(length) })) =
                    (&member.child, member.resume, &member.planned_stop)
                    && is_stopped(child)
                {
                    *self.at_failpoints.entry(format!("stopped at {failpoint}")).or_default() += 1;
                    member.resume = Some(Instant::now() + *length);
                    member.planned_stop = None;
                }
                if let Some(child) = &mut member.child
                    && let Some(status) = child.try_wait().map_err(process(&stage.name))?
                {
                    member.child = None;
                    match member.planned_stop.take() {
                        Some(PlannedStop { failpoint, stop: None }) if is_killed(status) => {
                            *self.at_failpoints.entry(format!("killed at {failpoint}")).or_default() += 1;
                        }
                        _ => count_exit(self.setup, &mut self.exits, &stage.name, "", status),
                    }
                }
                if member.child.is_none() && member.started.elapsed() >= MIN_RESTART_INTERVAL {
                    *member = self.launcher.spawn(&stage.name, number, None)?;
                }
            }
        }
        for mut terminating in std::mem::take(&mut self.terminating) {
            let (stage, after_term) = (&terminating.stage, " on SIGTERM");
            match terminating.child.try_wait().map_err(process(stage))? {
                Some(status) if status.success() => {}
                Some(status) => match &terminating.planned_stop {
                    Some(PlannedStop { failpoint, stop: None }) if is_killed(status) => {
                        *self.at_failpoints.entry(format!("killed at {failpoint}")).or_default() += 1;
                    }
                    _ => count_exit(self.setup, &mut self.exits, stage, after_term, status),
                },
                None if Instant::now() < terminating.until => self.terminating.push(terminating),
                None => {
                    signal(&terminating.child, Signal::KILL);
                    let status = terminating.child.wait().map_err(process(stage))?;
                    count_exit(self.setup, &mut self.exits, stage, " on SIGTERM, too late", status);
                }
            }
        }
        Ok(())
    }
}

impl Drop for StageProcesses<'_> {
    fn drop(&mut self) {
        let members = self.stages.iter_mut().flat_map(|stage| stage.members.drain(..));
        let left = members.filter_map(|member| member.child);
        for mut child in left.chain(self.terminating.drain(..).map(|terminating| terminating.child)) {
            signal(&child, Signal::KILL);
            // Errors mean that the process has already ended.
            let _ = child.wait();
        }
    }
}

impl Launcher<'_> {
    /// Starts a process through testenv's helper, which makes the kernel kill it when this process ends.
    fn spawn(
        &self,
        stage: &str,
        member: usize,
        failpoint_stop: Option<FailpointStop>,
    ) -> Result<Member, FaultsError> {
        let setup = self.setup;
        let open = || {
            let log = OpenOptions::new().create(true).append(true).open(log_path(setup, stage))?;
            log.try_clone().map(|again| (log, again))
        };
        let (log, errors) = open().map_err(process(stage))?;
        let clickhouse = &setup.endpoints.clickhouse;
        let (planned_stop, failpoints) = failpoints_variable(setup, stage, failpoint_stop);
        let point = self.points.filter(|_| stage == PDP);
        let mut command = owned_command(&setup.program);
        command.arg(&setup.program).arg("armed");
        match point {
            Some(points) => command.arg(PDP).args(points.arguments(member)).stdout(Stdio::piped()),
            None => command.args(["run", stage]).stdout(log),
        };
        let mut child = command
            .args(&setup.stage_args)
            .env("AGENTGOV_KAFKA", &setup.endpoints.kafka.bootstrap)
            .env("AGENTGOV_SCHEMA_REGISTRY", &setup.endpoints.schema_registry.url)
            .env("AGENTGOV_CLICKHOUSE", &self.clickhouse)
            .env("AGENTGOV_CLICKHOUSE_USER", &clickhouse.user)
            .env("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose())
            .env("AGENTGOV_CLICKHOUSE_DATABASE", &clickhouse.database)
            .env_remove("AGENTGOV_LISTEN")
            .env("FAILPOINTS", failpoints)
            .stdin(Stdio::null())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(process(stage))?;
        if let (Some(points), Some(stdout)) = (point, child.stdout.take()) {
            points.read_url(member, stdout);
        }
        Ok(Member { child: Some(child), started: Instant::now(), resume: None, planned_stop })
    }
}

/// Returns the FAILPOINTS of a process: planted mistakes, and its failpoint.
fn failpoints_variable(
    setup: &Setup<'_>,
    stage: &str,
    failpoint_stop: Option<FailpointStop>,
) -> (Option<PlannedStop>, String) {
    let mut points: Vec<String> = setup.plants.iter().map(|plant| format!("{plant}=return")).collect();
    let failpoints = setup.failpoints.get(stage).map_or(&[][..], Vec::as_slice);
    let planned_stop = failpoint_stop.and_then(|failpoint_stop| {
        let Failpoint { name, in_each_batch } =
            failpoints.get(failpoint_stop.failpoint.checked_rem(failpoints.len())?)?;
        let passes = if *in_each_batch { failpoint_stop.passes } else { 0 };
        let action = if failpoint_stop.stop.is_some() { "1*return(stop)->off" } else { "return(kill)" };
        points.push(match passes {
            0 => format!("{name}={action}"),
            passes => format!("{name}={passes}*off->{action}"),
        });
        Some(PlannedStop { failpoint: name, stop: failpoint_stop.stop })
    });
    (planned_stop, points.join(";"))
}

fn is_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// Returns true if the process is stopped.
fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // The state follows the program's name, which is in parentheses and may contain any character.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

/// Sends a signal to a process group whose leader was not yet waited for, so that its id is still valid.
fn signal(child: &Child, signal: Signal) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails only if the process has ended, which its exit status reports.
        let _ = kill_process_group(group, signal);
    }
}

fn process(stage: &str) -> impl Fn(std::io::Error) -> FaultsError {
    move |source| FaultsError::Process { stage: stage.to_owned(), source }
}
