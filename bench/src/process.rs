//! Processes of a run: start, resource usage, termination.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::BenchError;

/// Timeout for a process to end after SIGTERM.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Resource usage of a process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU-seconds, user and system.
    pub cpu_s: f64,
    /// Maximum resident memory, in bytes.
    pub rss_bytes: u64,
}

impl Usage {
    /// Reads the usage of a running process.
    ///
    /// # Errors
    /// If the process does not exist.
    pub fn of(pid: u32) -> std::io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields 14 and 15 of proc(5), counted after the name, which is in parentheses and may contain any character.
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let ticks: f64 =
            after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kib: u64 = line.trim().split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Ok(Self { cpu_s: ticks / rustix::param::clock_ticks_per_second() as f64, rss_bytes: kib * 1024 })
    }

    /// Reads the current resident memory, in bytes.
    ///
    /// # Errors
    /// If the process does not exist.
    pub fn resident(pid: u32) -> std::io::Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
        Ok(pages * rustix::param::page_size() as u64)
    }
}

/// Environment variables of a process.
pub(crate) type Env = BTreeMap<String, String>;

/// A child process that is controlled through lines on stdin and stdout.
pub(crate) struct Process {
    pub(crate) name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a command through testenv's `helper`, which makes the kernel kill it when this process ends. Its stderr goes
    /// to a file in `logs`.
    pub(crate) fn start(
        helper: &Path,
        name: &str,
        command: &[String],
        env: &Env,
        logs: &Path,
    ) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Process { name: name.to_owned(), source };
        let log = std::fs::File::create(logs.join(format!("bench-{name}.log"))).map_err(failed)?;
        let mut child = agentgov_testenv::owned_command(helper)
            .args(command)
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { name: name.to_owned(), child, stdin, lines: BufReader::new(stdout) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads the usage of the process so far.
    pub(crate) fn usage(&self) -> Result<Usage, BenchError> {
        Usage::of(self.pid()).map_err(|source| BenchError::Process { name: self.name.clone(), source })
    }

    /// Waits for the next line.
    pub(crate) fn read_line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        let failed = |source| BenchError::Process { name: self.name.clone(), source };
        if self.lines.read_line(&mut line).map_err(failed)? == 0 {
            let status = self.child.wait().map_err(failed)?;
            return Err(BenchError::Ended { name: self.name.clone(), status });
        }
        Ok(line.trim_end().to_owned())
    }

    /// Waits for the next line and calls `sample` at an interval until it arrives.
    pub(crate) fn read_line_while_sampling(
        &mut self,
        every: Duration,
        mut sample: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<String, BenchError> {
        std::thread::scope(|scope| {
            let (done, finished) = std::sync::mpsc::channel();
            let waiting = scope.spawn(move || {
                let line = self.read_line();
                // The receiver is gone if `sample` failed.
                let _ = done.send(());
                line
            });
            let mut failed = Ok(());
            while failed.is_ok() && finished.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                failed = sample();
            }
            let line = waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            failed.and(line)
        })
    }

    /// Fails if the process has ended.
    pub(crate) fn check(&mut self) -> Result<(), BenchError> {
        let failed = |source| BenchError::Process { name: self.name.clone(), source };
        match self.child.try_wait().map_err(failed)? {
            Some(status) => Err(BenchError::Ended { name: self.name.clone(), status }),
            None => Ok(()),
        }
    }

    /// Writes a line to the process's stdin.
    pub(crate) fn write_line(&mut self, line: &str) -> Result<(), BenchError> {
        let name = self.name.clone();
        let failed = |source| BenchError::Process { name, source };
        match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{line}").map_err(failed),
            None => Ok(()),
        }
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub(crate) fn terminate(mut self) -> Result<(), BenchError> {
        let failed = |source| BenchError::Process { name: self.name.clone(), source };
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(|error| failed(error.into()))?;
        }
        let began = Instant::now();
        while began.elapsed() < TERMINATION_TIMEOUT {
            if self.child.try_wait().map_err(failed)?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().map_err(failed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
