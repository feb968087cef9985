//! The stages' processes: started, killed, stopped, started again. What ends by itself is counted, and started again too.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentgov_testenv::owned_command;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::ended::{Ends, log_of, note};
use crate::outcome::FaultsError;
use crate::run::{Edge, Setup};
use crate::schedule::{AtEdge, USUAL};

/// A process that ended sooner than this after its start is not started again before.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// How long a process may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(60);

/// All processes of all stages. They end with it, and with this process: only one thread, which stays, may start them.
pub(crate) struct Fleet<'a> {
    setup: &'a Setup<'a>,
    /// Where the stages find ClickHouse: the proxy.
    clickhouse: String,
    stages: Vec<Stage>,
    leaving: Vec<Leaving>,
    ended: Ends,
    at_edges: BTreeMap<String, u64>,
}

struct Stage {
    name: String,
    members: Vec<Member>,
}

struct Member {
    child: Option<Child>,
    started: Instant,
    /// Stopped until then.
    resume: Option<Instant>,
    /// The edge at which it ends or stops by itself.
    sent_to: Option<SentTo>,
}

struct SentTo {
    edge: &'static str,
    /// How long it stands still there; `None`: it is killed there.
    stop: Option<Duration>,
}

/// A process that was asked to end.
struct Leaving {
    stage: String,
    child: Child,
    until: Instant,
    sent_to: Option<SentTo>,
}

impl<'a> Fleet<'a> {
    /// Starts the usual number of processes of each stage.
    pub(crate) fn start(setup: &'a Setup<'a>, clickhouse: String) -> Result<Self, FaultsError> {
        let stages = setup.topology.stages.keys();
        let stages = stages.map(|name| Stage { name: name.clone(), members: Vec::new() }).collect();
        let mut fleet = Self {
            setup,
            clickhouse,
            stages,
            leaving: Vec::new(),
            ended: BTreeMap::new(),
            at_edges: BTreeMap::new(),
        };
        for stage in 0..fleet.stages.len() {
            fleet.scale(stage, USUAL)?;
        }
        Ok(fleet)
    }

    /// The stage's name.
    pub(crate) fn name(&self, stage: usize) -> &str {
        self.stages.get(stage).map_or("", |stage| &stage.name)
    }

    /// How stages ended that nobody killed, and how often.
    pub(crate) fn ended(&self) -> &Ends {
        &self.ended
    }

    /// Which edges processes reached that had been sent there, and how often: `killed at …`, `stopped at …`.
    pub(crate) fn at_edges(&self) -> &BTreeMap<String, u64> {
        &self.at_edges
    }

    /// SIGKILL, and a new process in its place, which may be sent to an edge. False if there is none to kill.
    pub(crate) fn kill(
        &mut self,
        stage: usize,
        member: usize,
        then: Option<AtEdge>,
    ) -> Result<bool, FaultsError> {
        self.tend()?;
        let Some(stage) = self.stages.get_mut(stage) else { return Ok(false) };
        let name = &stage.name;
        let Some(member) = stage.members.get_mut(member) else { return Ok(false) };
        let Some(mut child) = member.child.take() else { return Ok(false) };
        signal(&child, Signal::KILL);
        let status = child.wait().map_err(process(name))?;
        *member = spawn(self.setup, &self.clickhouse, name, then)?;
        if is_killed(status) {
            return Ok(true);
        }
        // It was faster.
        note(self.setup, &mut self.ended, name, "", status);
        Ok(false)
    }

    /// SIGSTOP, and SIGCONT after `length`. False if there is nothing to stop, or it stands still already.
    pub(crate) fn pause(
        &mut self,
        stage: usize,
        member: usize,
        length: Duration,
    ) -> Result<bool, FaultsError> {
        self.tend()?;
        let member = self.stages.get_mut(stage).and_then(|stage| stage.members.get_mut(member));
        let Some(Member { child: Some(child), resume: resume @ None, .. }) = member else { return Ok(false) };
        signal(child, Signal::STOP);
        *resume = Some(Instant::now() + length);
        Ok(true)
    }

    /// Starts processes of a stage, or asks its last ones to end.
    pub(crate) fn scale(&mut self, stage: usize, to: usize) -> Result<(), FaultsError> {
        let Some(stage) = self.stages.get_mut(stage) else { return Ok(()) };
        while stage.members.len() < to {
            stage.members.push(spawn(self.setup, &self.clickhouse, &stage.name, None)?);
        }
        for Member { child, resume, sent_to, .. } in stage.members.drain(to..) {
            let Some(child) = child else { continue };
            signal(&child, Signal::TERM);
            if resume.is_some() {
                signal(&child, Signal::CONT);
            }
            let until = Instant::now() + DRAIN;
            self.leaving.push(Leaving { stage: stage.name.clone(), child, until, sent_to });
        }
        Ok(())
    }

    /// Wakes who has been stopped for long enough, counts who has ended, and starts those again. To be called often.
    pub(crate) fn tend(&mut self) -> Result<(), FaultsError> {
        for stage in &mut self.stages {
            for member in &mut stage.members {
                if let (Some(child), Some(until)) = (&member.child, member.resume)
                    && Instant::now() >= until
                {
                    signal(child, Signal::CONT);
                    member.resume = None;
                }
                if let (Some(child), None, Some(SentTo { edge, stop: Some(length) })) =
                    (&member.child, member.resume, &member.sent_to)
                    && is_stopped(child)
                {
                    *self.at_edges.entry(format!("stopped at {edge}")).or_default() += 1;
                    member.resume = Some(Instant::now() + *length);
                    member.sent_to = None;
                }
                if let Some(child) = &mut member.child
                    && let Some(status) = child.try_wait().map_err(process(&stage.name))?
                {
                    member.child = None;
                    match member.sent_to.take() {
                        Some(SentTo { edge, stop: None }) if is_killed(status) => {
                            *self.at_edges.entry(format!("killed at {edge}")).or_default() += 1;
                        }
                        _ => note(self.setup, &mut self.ended, &stage.name, "", status),
                    }
                }
                if member.child.is_none() && member.started.elapsed() >= SHORTEST_LIFE {
                    *member = spawn(self.setup, &self.clickhouse, &stage.name, None)?;
                }
            }
        }
        for mut leaving in std::mem::take(&mut self.leaving) {
            let (stage, after_term) = (&leaving.stage, " on SIGTERM");
            match leaving.child.try_wait().map_err(process(stage))? {
                Some(status) if status.success() => {}
                Some(status) => match &leaving.sent_to {
                    Some(SentTo { edge, stop: None }) if is_killed(status) => {
                        *self.at_edges.entry(format!("killed at {edge}")).or_default() += 1;
                    }
                    _ => note(self.setup, &mut self.ended, stage, after_term, status),
                },
                None if Instant::now() < leaving.until => self.leaving.push(leaving),
                None => {
                    signal(&leaving.child, Signal::KILL);
                    let status = leaving.child.wait().map_err(process(stage))?;
                    note(self.setup, &mut self.ended, stage, " on SIGTERM, too late", status);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        let members = self.stages.iter_mut().flat_map(|stage| stage.members.drain(..));
        let left = members.filter_map(|member| member.child);
        for mut child in left.chain(self.leaving.drain(..).map(|leaving| leaving.child)) {
            signal(&child, Signal::KILL);
            // Gone either way.
            let _ = child.wait();
        }
    }
}

/// Starts a process through testenv's helper, which has the kernel kill it when this process ends.
fn spawn(
    setup: &Setup<'_>,
    clickhouse_url: &str,
    stage: &str,
    then: Option<AtEdge>,
) -> Result<Member, FaultsError> {
    let open = || {
        let log = OpenOptions::new().create(true).append(true).open(log_of(setup, stage))?;
        log.try_clone().map(|again| (log, again))
    };
    let (log, errors) = open().map_err(process(stage))?;
    let clickhouse = &setup.endpoints.clickhouse;
    let (sent_to, failpoints) = failpoints(setup, stage, then);
    let child = owned_command(&setup.program)
        .arg(&setup.program)
        .args(["armed", "run", stage])
        .args(&setup.stage_args)
        .env("AGENTGOV_KAFKA", &setup.endpoints.kafka.bootstrap)
        .env("AGENTGOV_SCHEMA_REGISTRY", &setup.endpoints.schema_registry.url)
        .env("AGENTGOV_CLICKHOUSE", clickhouse_url)
        .env("AGENTGOV_CLICKHOUSE_USER", &clickhouse.user)
        .env("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose())
        .env("AGENTGOV_CLICKHOUSE_DATABASE", &clickhouse.database)
        .env_remove("AGENTGOV_LISTEN")
        .env("FAILPOINTS", failpoints)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(process(stage))?;
    Ok(Member { child: Some(child), started: Instant::now(), resume: None, sent_to })
}

/// What is planted in every process of the stage, and the edge to which this one is sent.
fn failpoints(setup: &Setup<'_>, stage: &str, then: Option<AtEdge>) -> (Option<SentTo>, String) {
    let mut points: Vec<String> = setup.plants.iter().map(|plant| format!("{plant}=return")).collect();
    let edges = setup.edges.get(stage).map_or(&[][..], Vec::as_slice);
    let sent_to = then.and_then(|then| {
        let Edge { name, in_each_batch } = edges.get(then.edge.checked_rem(edges.len())?)?;
        let passes = if *in_each_batch { then.passes } else { 0 };
        let action = if then.stop.is_some() { "1*return(stop)->off" } else { "return(kill)" };
        points.push(match passes {
            0 => format!("{name}={action}"),
            passes => format!("{name}={passes}*off->{action}"),
        });
        Some(SentTo { edge: name, stop: then.stop })
    });
    (sent_to, points.join(";"))
}

fn is_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

/// True if the process stands still.
fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // The state follows the program's name, which is in parentheses and may contain anything.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

/// Only of processes that were not waited for: their number is still theirs.
fn signal(child: &Child, signal: Signal) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails only when the process has ended, which its status tells.
        let _ = kill_process_group(group, signal);
    }
}

fn process(stage: &str) -> impl Fn(std::io::Error) -> FaultsError {
    move |source| FaultsError::Process { stage: stage.to_owned(), source }
}
