//! Stage in its own process.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::stack::{DEADLINE, Stack, agentgov, eventually};

/// Maximum time from SIGTERM to the exit during any outage on a busy machine; on an idle one it takes about three seconds.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum resident memory of a stage in KiB, mostly queues of Kafka's client.
const MAX_MEMORY_KIB: u64 = 500_000;

pub struct Stage {
    pub name: &'static str,
    child: Child,
    address: String,
    log: PathBuf,
    http: reqwest::blocking::Client,
}

/// Starts one process of each stage.
pub fn start_stages(stack: &Stack) -> Vec<Stage> {
    ["evaluator", "alerter", "log-sink"].map(|name| Stage::start(stack, name)).into()
}

impl Stage {
    /// Starts a stage through testenv's helper, which makes the kernel kill it when the test ends.
    pub fn start(stack: &Stack, name: &'static str) -> Self {
        Self::start_process(stack, name, &["run", name])
    }

    /// Starts a decision point, as [`Self::start`] does.
    pub fn start_decision_point(stack: &Stack) -> Self {
        let spool = stack.data.path().join("decisions");
        Self::start_process(stack, "pdp", &["pdp", "--spool", spool.to_str().unwrap()])
    }

    fn start_process(stack: &Stack, name: &'static str, command: &[&str]) -> Self {
        let (log, path) =
            tempfile::Builder::new().prefix(name).tempfile_in(stack.env.logs()).unwrap().keep().unwrap();
        let mut child = stack
            .command()
            .args(["testenv", "supervisor", "become", "--parent", &std::process::id().to_string(), "--"])
            .arg(agentgov())
            .args(["--log", "info"])
            .args(command)
            .args(["--listen", "127.0.0.1:0"])
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().split(',').next().unwrap().to_owned();
        assert!(
            address.starts_with("127.0.0.1:"),
            "{name}: {line}{}",
            std::fs::read_to_string(&path).unwrap()
        );
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        Self { name, child, address, log: path, http }
    }

    /// Returns the reasons for which it is not ready; empty if it is.
    pub fn not_ready_reasons(&self) -> String {
        let answer = self.http.get(format!("http://{}/readyz", self.address)).send();
        let answer = answer.unwrap_or_else(|e| panic!("{} does not respond: {e}\n{}", self.name, self.log()));
        if answer.status().is_success() { String::new() } else { answer.text().unwrap() }
    }

    /// Returns the resident memory in KiB. Panics with the log if the process has ended.
    pub fn memory(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let Some(line) = status.lines().find(|line| line.starts_with("VmRSS:")) else {
            panic!("{} ended unexpectedly: {}\n{}", self.name, self.child.wait().unwrap(), self.log());
        };
        let memory = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(memory < MAX_MEMORY_KIB, "{} holds {memory} KiB", self.name);
        memory
    }

    /// Returns the log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits for the process to end by itself. Returns its exit code and log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        eventually("the stage ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap().code(), self.log())
    }
}

/// Sends SIGTERM to all and expects exit code 0 within seconds.
pub fn terminate(when: &str, stages: Vec<Stage>) {
    let began = Instant::now();
    for stage in &stages {
        stage.signal(Signal::TERM);
    }
    for mut stage in stages {
        let status = loop {
            if let Some(status) = stage.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                began.elapsed() < SHUTDOWN_TIMEOUT,
                "{when}: {} still runs after {SHUTDOWN_TIMEOUT:?}\n{}",
                stage.name,
                stage.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        eprintln!("{when}: {} ended {:.1?} after SIGTERM", stage.name, began.elapsed());
        assert_eq!(status.code(), Some(0), "{when}: {}: {status}\n{}", stage.name, stage.log());
    }
}

/// Waits until all are ready.
pub fn all_ready(when: &str, stages: &[Stage]) {
    let began = Instant::now();
    for stage in stages {
        let mut last = String::new();
        while began.elapsed() < DEADLINE {
            last = stage.not_ready_reasons();
            if last.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(last.is_empty(), "{when}: {} is not ready: {last}\n{}", stage.name, stage.log());
    }
    eprintln!("{when}: all ready after {:.1?}", began.elapsed());
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Errors mean that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
