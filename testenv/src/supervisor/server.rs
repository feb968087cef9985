//! Supervisor process: starts parts and ensures that nothing outlives the owner.
//!
//! ```text
//! owner ──requests──► reader thread ──┐
//!                     waiter threads ─┴─► main thread: spawns, signals, cleans up ──notices──► owner
//! ```
//! Only the main thread spawns, because a part's parent-death signal follows the thread that spawned it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process, kill_process_group};

use super::protocol::{Launch, Notice, Request, Signal};
use crate::helper::become_command;

/// Settings of the supervisor.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Grace period of the parts before they are killed.
    pub(crate) grace: Duration,
    /// File to keep locked, so that no second stack opens the same data, even while this one ends.
    pub(crate) lock: Option<PathBuf>,
    /// Directory to remove at the end.
    pub(crate) remove: Option<PathBuf>,
}

enum Input {
    Request(Request),
    OwnerEnded,
    Exited { pid: u32, status: String },
}

/// Runs until the owner ends or closes the stream.
pub(crate) fn supervise(settings: &Settings) {
    // Ctrl-C of a terminal is meant for the owner. The call fails only if this process leads a group, which protects as
    // well.
    let _ = rustix::process::setsid();
    let Ok(_lock) = settings.lock.as_deref().map(lock_file).transpose() else {
        notify(&Notice::Busy);
        return;
    };
    notify(&Notice::Ready);
    let (inputs, inbox) = channel();
    let requests = inputs.clone();
    std::thread::spawn(move || read_requests(&requests));
    let mut supervisor = Supervisor { running: BTreeSet::new(), labels: Vec::new(), inputs };
    while let Ok(input) = inbox.recv() {
        match input {
            Input::OwnerEnded => break,
            Input::Request(request) => supervisor.handle(request),
            Input::Exited { pid, status } => supervisor.remove_exited(pid, status),
        }
    }
    supervisor.end_parts(&inbox, settings.grace);
    for label in &supervisor.labels {
        crate::docker::remove_labelled(label);
    }
    if let Some(folder) = &settings.remove {
        // A failure only leaves a directory in /tmp.
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn lock_file(path: &Path) -> std::io::Result<File> {
    let file = File::create(path)?;
    file.try_lock()?;
    Ok(file)
}

fn read_requests(inputs: &Sender<Input>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(request) => {
                if inputs.send(Input::Request(request)).is_err() {
                    return;
                }
            }
            Err(error) => log(&format!("ignored an invalid request: {error}: {line}")),
        }
    }
    let _ = inputs.send(Input::OwnerEnded);
}

struct Supervisor {
    running: BTreeSet<u32>,
    labels: Vec<String>,
    inputs: Sender<Input>,
}

impl Supervisor {
    fn handle(&mut self, request: Request) {
        match request {
            Request::Spawn { id, launch } => match spawn(&launch) {
                Ok(child) => {
                    let pid = child.id();
                    self.running.insert(pid);
                    notify(&Notice::Started { id, pid });
                    self.wait_for(child);
                }
                Err(error) => notify(&Notice::Refused { id, reason: error.to_string() }),
            },
            Request::Signal { pid, signal } => {
                // Only running processes: an old id may belong to another process.
                if self.running.contains(&pid) {
                    send(pid, signal);
                }
            }
            Request::Containers { label } => self.labels.push(label),
        }
    }

    fn wait_for(&self, mut child: Child) {
        let inputs = self.inputs.clone();
        std::thread::spawn(move || {
            let pid = child.id();
            let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            let _ = inputs.send(Input::Exited { pid, status });
        });
    }

    fn remove_exited(&mut self, pid: u32, status: String) {
        self.running.remove(&pid);
        notify(&Notice::Exited { pid, status });
    }

    fn end_parts(&mut self, inbox: &Receiver<Input>, grace: Duration) {
        for pid in &self.running {
            send(*pid, Signal::Terminate);
            send(*pid, Signal::Resume);
        }
        self.wait_until_gone(inbox, grace);
        for pid in &self.running {
            send(*pid, Signal::Kill);
        }
        self.wait_until_gone(inbox, Duration::from_secs(10));
    }

    fn wait_until_gone(&mut self, inbox: &Receiver<Input>, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.running.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(left) {
                Ok(Input::Exited { pid, status }) => self.remove_exited(pid, status),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// Starts the part through this executable, which arms the parent-death signal and executes the part.
fn spawn(launch: &Launch) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
    let errors = log.try_clone()?;
    // Not current_exe(): the file may be replaced while the supervisor runs.
    let mut command = become_command(Path::new("/proc/self/exe"));
    if launch.low_priority {
        // The process creates its own group first.
        command.arg("--low-priority");
    } else {
        command.process_group(0);
    }
    command
        .arg("--")
        .arg(&launch.program)
        .args(&launch.args)
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&launch.folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
}

fn send(pid: u32, signal: Signal) {
    let signal = match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
        Signal::Pause => rustix::process::Signal::STOP,
        Signal::Resume => rustix::process::Signal::CONT,
    };
    if let Some(part) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The group does not exist yet, or has ended, which its exit reports.
        let _ = kill_process_group(part, signal).or_else(|_| kill_process(part, signal));
    }
}

fn notify(notice: &Notice) {
    let line = serde_json::to_string(notice).unwrap_or_default();
    // The write may fail if the owner is dead. The end of stdin reports that, so the error is ignored.
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn log(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
