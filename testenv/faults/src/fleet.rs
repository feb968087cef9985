//! The stages' processes: started, killed, stopped, started again. What ends by itself is counted, and started again too.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::outcome::FaultsError;
use crate::run::Setup;
use crate::schedule::USUAL;

/// This executable, even if its file has been built anew since it was started.
const OURSELVES: &str = "/proc/self/exe";
/// A process that ended sooner than this after its start is not started again before.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// How long a process may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(60);

/// All processes of all stages. They end with it, and with this process: only one thread, which stays, may start them.
pub(crate) struct Fleet<'a> {
    setup: &'a Setup<'a>,
    stages: Vec<Stage>,
    leaving: Vec<Leaving>,
    ended: BTreeMap<String, u64>,
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
}

/// A process that was asked to end.
struct Leaving {
    stage: String,
    child: Child,
    until: Instant,
}

impl<'a> Fleet<'a> {
    /// Starts the usual number of processes of each stage.
    pub(crate) fn start(setup: &'a Setup<'a>) -> Result<Self, FaultsError> {
        let stages = setup.topology.stages.keys();
        let stages = stages.map(|name| Stage { name: name.clone(), members: Vec::new() }).collect();
        let mut fleet = Self { setup, stages, leaving: Vec::new(), ended: BTreeMap::new() };
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
    pub(crate) fn ended(&self) -> &BTreeMap<String, u64> {
        &self.ended
    }

    /// SIGKILL, and a new process in its place. False if there is none to kill.
    pub(crate) fn kill(&mut self, stage: usize, member: usize) -> Result<bool, FaultsError> {
        self.tend()?;
        let Some(stage) = self.stages.get_mut(stage) else { return Ok(false) };
        let name = &stage.name;
        let Some(member) = stage.members.get_mut(member) else { return Ok(false) };
        let Some(mut child) = member.child.take() else { return Ok(false) };
        signal(&child, Signal::KILL);
        let status = child.wait().map_err(process(name))?;
        *member = spawn(self.setup, name)?;
        if status.signal() == Some(Signal::KILL.as_raw()) {
            return Ok(true);
        }
        // It was faster.
        note(&mut self.ended, name, "", status);
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
            stage.members.push(spawn(self.setup, &stage.name)?);
        }
        for Member { child, resume, .. } in stage.members.drain(to..) {
            let Some(child) = child else { continue };
            signal(&child, Signal::TERM);
            if resume.is_some() {
                signal(&child, Signal::CONT);
            }
            self.leaving.push(Leaving { stage: stage.name.clone(), child, until: Instant::now() + DRAIN });
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
                if let Some(child) = &mut member.child
                    && let Some(status) = child.try_wait().map_err(process(&stage.name))?
                {
                    note(&mut self.ended, &stage.name, "", status);
                    member.child = None;
                }
                if member.child.is_none() && member.started.elapsed() >= SHORTEST_LIFE {
                    *member = spawn(self.setup, &stage.name)?;
                }
            }
        }
        for mut leaving in std::mem::take(&mut self.leaving) {
            let (stage, after_term) = (&leaving.stage, " on SIGTERM");
            match leaving.child.try_wait().map_err(process(stage))? {
                Some(status) if status.success() => {}
                Some(status) => note(&mut self.ended, stage, after_term, status),
                None if Instant::now() < leaving.until => self.leaving.push(leaving),
                None => {
                    signal(&leaving.child, Signal::KILL);
                    let status = leaving.child.wait().map_err(process(stage))?;
                    note(&mut self.ended, stage, " on SIGTERM, too late", status);
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
fn spawn(setup: &Setup<'_>, stage: &str) -> Result<Member, FaultsError> {
    let open = || {
        let path = setup.env.logs().join(format!("{stage}.log"));
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        log.try_clone().map(|again| (log, again))
    };
    let (log, errors) = open().map_err(process(stage))?;
    let clickhouse = &setup.endpoints.clickhouse;
    let child = Command::new(OURSELVES)
        .args(["testenv-supervisor", "become", "--parent", &std::process::id().to_string(), "--"])
        .arg(OURSELVES)
        .args(["run", stage])
        .args(&setup.stage_args)
        .env("AGENTGOV_KAFKA", &setup.endpoints.kafka.bootstrap)
        .env("AGENTGOV_REGISTRY", &setup.endpoints.registry.url)
        .env("AGENTGOV_CLICKHOUSE", &clickhouse.url)
        .env("AGENTGOV_CLICKHOUSE_USER", &clickhouse.user)
        .env("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose())
        .env("AGENTGOV_CLICKHOUSE_DATABASE", &clickhouse.database)
        .env_remove("AGENTGOV_LISTEN")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(process(stage))?;
    Ok(Member { child: Some(child), started: Instant::now(), resume: None })
}

/// Only of processes that were not waited for: their number is still theirs.
fn signal(child: &Child, signal: Signal) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails only when the process has ended, which its status tells.
        let _ = kill_process_group(group, signal);
    }
}

fn note(ended: &mut BTreeMap<String, u64>, stage: &str, when: &str, status: ExitStatus) {
    *ended.entry(format!("{stage}{when}: {status}")).or_default() += 1;
}

fn process(stage: &str) -> impl Fn(std::io::Error) -> FaultsError {
    move |source| FaultsError::Process { stage: stage.to_owned(), source }
}
