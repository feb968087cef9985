//! Producer processes: start, SIGKILL, restart on the same spool, shutdown, and their reports.

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

use crate::exits::{ExitsByStatus, count_exit, log_path};
use crate::outcome::FaultsError;
use crate::producer::{CLOSE_TIMEOUT, ProducerReport};
use crate::run::Setup;

/// Number of concurrent producers.
pub const PRODUCERS: usize = 3;
/// Minimum time between two starts of a process.
const MIN_RESTART_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checks during shutdown.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const NAME: &str = "producer";

/// All producer processes. They end on drop and with this process; the thread that starts them must live as long.
pub(crate) struct Producers<'a> {
    setup: &'a Setup<'a>,
    members: Vec<Member>,
    reports: Arc<Mutex<ProducerReports>>,
    exits: ExitsByStatus,
    starts: u64,
    shutting_down: bool,
}

struct Member {
    /// `None` if the process has ended and was counted.
    process: Option<Process>,
    started: Instant,
    /// True if the process ended after its shutdown was requested.
    done: bool,
}

struct Process {
    child: Child,
    /// The process ends when this is closed.
    stdin: Option<ChildStdin>,
    reader: JoinHandle<()>,
}

/// Reports of the producers.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProducerReports {
    /// Last acknowledged sequence number of each source.
    pub(crate) acknowledged: BTreeMap<String, i64>,
    /// Errors.
    pub(crate) failed: Vec<String>,
}

impl<'a> Producers<'a> {
    /// Starts the producers.
    pub(crate) fn start(setup: &'a Setup<'a>) -> Result<Self, FaultsError> {
        let mut producers = Self {
            setup,
            members: Vec::new(),
            reports: Arc::default(),
            exits: ExitsByStatus::new(),
            starts: 0,
            shutting_down: false,
        };
        for _ in 0..PRODUCERS {
            let member = producers.spawn()?;
            producers.members.push(member);
        }
        Ok(producers)
    }

    /// Kills a process (SIGKILL) and starts a new one on the same spool. Returns false if no process was running.
    pub(crate) fn kill(&mut self, which: usize) -> Result<bool, FaultsError> {
        self.supervise()?;
        let process = self.members.get_mut(which).and_then(|member| member.process.take());
        let Some(mut process) = process else { return Ok(false) };
        process.child.kill().map_err(failed)?;
        let status = process.child.wait().map_err(failed)?;
        process.join_reader();
        let member = self.spawn()?;
        if let Some(slot) = self.members.get_mut(which) {
            *slot = member;
        }
        let killed = status.signal() == Some(9);
        if !killed {
            // The process ended before the signal.
            count_exit(self.setup, &mut self.exits, NAME, "", status);
        }
        Ok(killed)
    }

    /// Counts exits and restarts processes. Must be called frequently.
    pub(crate) fn supervise(&mut self) -> Result<(), FaultsError> {
        for which in 0..self.members.len() {
            let Some(member) = self.members.get_mut(which) else { break };
            if let Some(process) = &mut member.process
                && let Some(status) = process.child.try_wait().map_err(failed)?
            {
                if let Some(process) = member.process.take() {
                    process.join_reader();
                }
                member.done = self.shutting_down && status.success();
                if !member.done {
                    count_exit(self.setup, &mut self.exits, NAME, "", status);
                }
            }
            if member.process.is_none() && !member.done && member.started.elapsed() >= MIN_RESTART_INTERVAL {
                let new = self.spawn()?;
                if let Some(slot) = self.members.get_mut(which) {
                    *slot = new;
                }
            }
        }
        Ok(())
    }

    /// Shuts all producers down and waits until every source is closed; calls `meanwhile` frequently. Returns their reports
    /// and the unexpected exits.
    pub(crate) fn close(
        mut self,
        mut meanwhile: impl FnMut() -> Result<(), FaultsError>,
    ) -> Result<(ProducerReports, ExitsByStatus), FaultsError> {
        self.shutting_down = true;
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            process.stdin = None;
        }
        let until = Instant::now() + CLOSE_TIMEOUT;
        while self.members.iter().any(|member| !member.done) && Instant::now() < until {
            self.supervise()?;
            meanwhile()?;
            sleep(POLL_INTERVAL);
        }
        let late = self.members.iter().filter(|member| !member.done).count();
        let mut reports = self.reports().clone();
        if late > 0 {
            reports.failed.push(format!("{late} producers did not end within {} s", CLOSE_TIMEOUT.as_secs()));
        }
        let folder = spool(self.setup);
        let left =
            std::fs::read_dir(&folder).map_err(failed)?.flatten().filter(|entry| entry.path().is_dir());
        let left = left.count();
        if left > 0 {
            reports
                .failed
                .push(format!("{}: expected every source closed, found {left} open", folder.display()));
        }
        Ok((reports, std::mem::take(&mut self.exits)))
    }

    fn reports(&self) -> MutexGuard<'_, ProducerReports> {
        lock(&self.reports)
    }

    fn spawn(&mut self) -> Result<Member, FaultsError> {
        self.starts += 1;
        let setup = self.setup;
        let log = log_path(setup, NAME);
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
        // During shutdown, a restarted process only closes dead sources.
        let stdin = child.stdin.take().filter(|_| !self.shutting_down);
        let reports = Arc::clone(&self.reports);
        let stdout = child.stdout.take();
        let reader = std::thread::spawn(move || {
            if let Some(stdout) = stdout {
                read_reports(stdout, &reports);
            }
        });
        let process = Some(Process { child, stdin, reader });
        Ok(Member { process, started: Instant::now(), done: false })
    }
}

impl Process {
    /// Waits until all reports of an ended process are read.
    fn join_reader(self) {
        // A panic of the reader is a bug of the harness.
        if let Err(panic) = self.reader.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Producers<'_> {
    fn drop(&mut self) {
        for mut process in self.members.drain(..).filter_map(|member| member.process) {
            // Errors mean that the process has already ended.
            let _ = process.child.kill();
            let _ = process.child.wait();
            let _ = process.reader.join();
        }
    }
}

fn read_reports(stdout: ChildStdout, reports: &Mutex<ProducerReports>) {
    let mut source = String::new();
    // The last line of a killed process may be incomplete.
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        match line.parse() {
            Ok(ProducerReport::Source(id)) => source = id,
            Ok(ProducerReport::Acknowledged(sequence)) => {
                let mut reports = lock(reports);
                let last = reports.acknowledged.entry(source.clone()).or_default();
                *last = sequence.max(*last);
            }
            Ok(ProducerReport::Closed(_)) => {}
            Ok(ProducerReport::Failed(why)) => lock(reports).failed.push(why),
            Err(()) => lock(reports).failed.push(format!("{NAME}: expected a report, found: {line}")),
        }
    }
}

fn spool(setup: &Setup<'_>) -> PathBuf {
    // Several pipelines may share the stack, so the name contains the pipeline's database.
    setup.env.logs().join(format!("spool-{}", setup.endpoints.clickhouse.database))
}

fn lock(reports: &Mutex<ProducerReports>) -> MutexGuard<'_, ProducerReports> {
    reports.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(source: std::io::Error) -> FaultsError {
    FaultsError::Process { stage: NAME.to_owned(), source }
}
