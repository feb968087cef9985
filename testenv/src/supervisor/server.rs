//! The supervisor process: starts parts, and sees to it that nothing outlives the owner, however that ends.
//!
//! ```text
//! owner ──requests──► reader thread ──┐
//!                     waiter threads ─┴─► main thread: spawns, signals, cleans up ──notices──► owner
//! ```
//! Only the main thread spawns: a part's parent-death signal follows the thread that spawned it.

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

/// What the supervisor is told at its start.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How long parts may take to end by themselves before they are killed.
    pub(crate) grace: Duration,
    /// A file to hold locked, so that no second stack opens the same data, even while this one is ending.
    pub(crate) lock: Option<PathBuf>,
    /// A directory to remove at the end.
    pub(crate) remove: Option<PathBuf>,
}

enum Input {
    Request(Request),
    OwnerEnded,
    Exited { pid: u32, status: String },
}

/// Runs until the owner ends or closes the stream.
pub(crate) fn supervise(settings: &Settings) {
    // A terminal's Ctrl-C is meant for the owner. Fails only if this process leads a group, which shields as well.
    let _ = rustix::process::setsid();
    let Ok(_lock) = settings.lock.as_deref().map(hold).transpose() else {
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
            Input::Exited { pid, status } => supervisor.exited(pid, status),
        }
    }
    supervisor.end_parts(&inbox, settings.grace);
    for label in &supervisor.labels {
        crate::docker::remove_labelled(label);
    }
    if let Some(folder) = &settings.remove {
        // A leftover directory in /tmp is all that can come of a failure.
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn hold(path: &Path) -> std::io::Result<File> {
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
            Err(error) => log(&format!("ignoring a request that does not parse: {error}: {line}")),
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
                // Only what still runs: an old number may belong to somebody else by now.
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

    fn exited(&mut self, pid: u32, status: String) {
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
                Ok(Input::Exited { pid, status }) => self.exited(pid, status),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// Starts the part through this executable once more, which arms the parent-death signal and becomes the part.
fn spawn(launch: &Launch) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
    let errors = log.try_clone()?;
    // Not current_exe(): the file may have been rebuilt under a running supervisor.
    let mut command = become_command(Path::new("/proc/self/exe"));
    if launch.gives_way {
        // It makes a group of its own, as the first thing that it does.
        command.arg("--gives-way");
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
        // No such group: it has yet to be made, or is gone, which its exit tells as well.
        let _ = kill_process_group(part, signal).or_else(|_| kill_process(part, signal));
    }
}

fn notify(notice: &Notice) {
    let line = serde_json::to_string(notice).unwrap_or_default();
    // Without an owner nobody listens; the end of stdin tells that.
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn log(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
