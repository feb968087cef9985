//! The producers' processes: killed, started again on the same spool, and asked to end; and what they said.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use agentgov_testenv::owned_command;

use crate::ended::{Ends, log_of, note};
use crate::outcome::FaultsError;
use crate::produce::{PATIENCE, Said};
use crate::run::Setup;

/// Producers at a time.
pub const PRODUCERS: usize = 3;
/// A process that ended sooner than this after its start is not started again before.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// How often closing looks.
const TICK: Duration = Duration::from_millis(20);
const NAME: &str = "producer";

/// All of them. They end with it, and with this process: only one thread, which stays, may start them.
pub(crate) struct Producers<'a> {
    setup: &'a Setup<'a>,
    members: Vec<Member>,
    heard: Arc<Mutex<Heard>>,
    ended: Ends,
    starts: u64,
    closing: bool,
}

struct Member {
    /// `None`: it has ended, and been noted.
    process: Option<Process>,
    started: Instant,
    /// It was asked to end, and did.
    done: bool,
}

struct Process {
    child: Child,
    /// It ends when this does.
    stdin: Option<ChildStdin>,
    listening: JoinHandle<()>,
}

/// What the producers said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// Of each source that acknowledged anything, the last sequence that it acknowledged.
    pub(crate) acknowledged: BTreeMap<String, i64>,
    /// What went wrong.
    pub(crate) failed: Vec<String>,
}

impl<'a> Producers<'a> {
    /// Starts them.
    pub(crate) fn start(setup: &'a Setup<'a>) -> Result<Self, FaultsError> {
        let mut producers = Self {
            setup,
            members: Vec::new(),
            heard: Arc::default(),
            ended: Ends::new(),
            starts: 0,
            closing: false,
        };
        for _ in 0..PRODUCERS {
            let member = producers.spawn()?;
            producers.members.push(member);
        }
        Ok(producers)
    }

    /// SIGKILL, and a new process on the same spool. False if there is none to kill.
    pub(crate) fn kill(&mut self, which: usize) -> Result<bool, FaultsError> {
        self.tend()?;
        let process = self.members.get_mut(which).and_then(|member| member.process.take());
        let Some(mut process) = process else { return Ok(false) };
        process.child.kill().map_err(failed)?;
        let status = process.child.wait().map_err(failed)?;
        process.heard_out();
        let member = self.spawn()?;
        if let Some(slot) = self.members.get_mut(which) {
            *slot = member;
        }
        let killed = status.signal() == Some(9);
        if !killed {
            // It was faster.
            note(self.setup, &mut self.ended, NAME, "", status);
        }
        Ok(killed)
    }

    /// Counts who has ended, and starts those again. To be called often.
    pub(crate) fn tend(&mut self) -> Result<(), FaultsError> {
        for which in 0..self.members.len() {
            let Some(member) = self.members.get_mut(which) else { break };
            if let Some(process) = &mut member.process
                && let Some(status) = process.child.try_wait().map_err(failed)?
            {
                if let Some(process) = member.process.take() {
                    process.heard_out();
                }
                member.done = self.closing && status.success();
                if !member.done {
                    note(self.setup, &mut self.ended, NAME, "", status);
                }
            }
            if member.process.is_none() && !member.done && member.started.elapsed() >= SHORTEST_LIFE {
                let new = self.spawn()?;
                if let Some(slot) = self.members.get_mut(which) {
                    *slot = new;
                }
            }
        }
        Ok(())
    }

    /// Asks all to end and waits until they have, and with them every source; `meanwhile` is called often. What they said, and
    /// what they left undone.
    pub(crate) fn close(
        mut self,
        mut meanwhile: impl FnMut() -> Result<(), FaultsError>,
    ) -> Result<(Heard, Ends), FaultsError> {
        self.closing = true;
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            process.stdin = None;
        }
        let until = Instant::now() + PATIENCE;
        while self.members.iter().any(|member| !member.done) && Instant::now() < until {
            self.tend()?;
            meanwhile()?;
            sleep(TICK);
        }
        let late = self.members.iter().filter(|member| !member.done).count();
        let mut heard = self.heard().clone();
        if late > 0 {
            heard.failed.push(format!("{late} producers did not end within {} s", PATIENCE.as_secs()));
        }
        let folder = spool(self.setup);
        let left =
            std::fs::read_dir(&folder).map_err(failed)?.flatten().filter(|entry| entry.path().is_dir());
        let left = left.count();
        if left > 0 {
            heard.failed.push(format!("{}: {left} sources are left that nobody closed", folder.display()));
        }
        Ok((heard, std::mem::take(&mut self.ended)))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    fn spawn(&mut self) -> Result<Member, FaultsError> {
        self.starts += 1;
        let setup = self.setup;
        let log = log_of(setup, NAME);
        let log = OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
        let seed = setup.seed.wrapping_add(self.starts).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut child = owned_command(&setup.program)
            .arg(&setup.program)
            .args(["produce", "--tenant", setup.tenant, "--agent", setup.agent])
            .args(["--environment", setup.environment, "--seed", &seed.to_string(), "--spool"])
            .arg(spool(setup))
            .args(&setup.stage_args)
            .env("AGENTGOV_KAFKA", &setup.endpoints.kafka.bootstrap)
            .env("AGENTGOV_SCHEMA_REGISTRY", &setup.endpoints.schema_registry.url)
            .env("AGENTGOV_CLICKHOUSE", &setup.endpoints.clickhouse.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        // Asked to end already, it only looks after the dead.
        let stdin = child.stdin.take().filter(|_| !self.closing);
        let heard = Arc::clone(&self.heard);
        let said = child.stdout.take();
        let listening = std::thread::spawn(move || {
            if let Some(said) = said {
                listen(said, &heard);
            }
        });
        let process = Some(Process { child, stdin, listening });
        Ok(Member { process, started: Instant::now(), done: false })
    }
}

impl Process {
    /// Waits until everything that it said is heard. It has ended.
    fn heard_out(self) {
        // A panic of the listener is the harness's own.
        if let Err(panic) = self.listening.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Producers<'_> {
    fn drop(&mut self) {
        for mut process in self.members.drain(..).filter_map(|member| member.process) {
            // Gone either way.
            let _ = process.child.kill();
            let _ = process.child.wait();
            let _ = process.listening.join();
        }
    }
}

fn listen(said: ChildStdout, heard: &Mutex<Heard>) {
    let mut source = String::new();
    // The last line of a process that was killed may be half of one.
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        match line.parse() {
            Ok(Said::Source(id)) => source = id,
            Ok(Said::Acknowledged(sequence)) => {
                let mut heard = lock(heard);
                let last = heard.acknowledged.entry(source.clone()).or_default();
                *last = sequence.max(*last);
            }
            Ok(Said::Closed(_)) => {}
            Ok(Said::Failed(why)) => lock(heard).failed.push(why),
            Err(()) => lock(heard).failed.push(format!("{NAME} says: {line}")),
        }
    }
}

fn spool(setup: &Setup<'_>) -> PathBuf {
    // One of a pipeline: several may share the stack.
    setup.env.logs().join(format!("spool-{}", setup.endpoints.clickhouse.database))
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(source: std::io::Error) -> FaultsError {
    FaultsError::Process { stage: NAME.to_owned(), source }
}
