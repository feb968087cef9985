//! Client of the supervisor in the owner's process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::protocol::{Launch, Notice, Request, Signal};
use crate::Error;
use crate::files::tail;
use crate::helper::HELPER_SUBCOMMAND;

/// Timeout of responses that need no work.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of the cleanup beyond the parts' grace period: kills, containers, directories.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(40);

/// Running supervisor. Dropping it, or the end of this process, ends everything that it started.
pub(crate) struct Supervisor {
    helper: PathBuf,
    grace: Duration,
    child: Mutex<Child>,
    requests: Mutex<Option<ChildStdin>>,
    state: Arc<SupervisorState>,
    next_id: AtomicU64,
}

/// Notices of the supervisor so far.
#[derive(Default)]
struct SupervisorState {
    notices: Mutex<Notices>,
    changed: Condvar,
}

#[derive(Default)]
struct Notices {
    answers: BTreeMap<u64, Result<u32, String>>,
    exits: BTreeMap<u32, String>,
    /// First notice: true if the directory's lock is held.
    is_lock_held: Option<bool>,
    ended: bool,
}

impl Supervisor {
    /// Starts a supervisor for the stack in `folder`. Parts get `grace` to end; `remove` deletes the folder at the end.
    pub(crate) fn start(helper: &Path, folder: &Path, grace: Duration, remove: bool) -> Result<Self, Error> {
        let failed = |what| Error::Supervisor { helper: helper.to_path_buf(), what };
        let log = folder.join("logs/supervisor.log");
        let errors =
            File::options().create(true).append(true).open(&log).map_err(Error::io("create", &log))?;
        let mut command = Command::new(helper);
        command.args([HELPER_SUBCOMMAND, "supervisor", "run", "--grace-ms", &grace.as_millis().to_string()]);
        command.arg("--lock").arg(folder.join("in-use.lock"));
        if remove {
            command.arg("--remove").arg(folder);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(format!("does not start: {error}")))?;
        let requests = Mutex::new(child.stdin.take());
        let state = Arc::new(SupervisorState::default());
        if let Some(stdout) = child.stdout.take() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || state.listen(stdout));
        }
        let (helper, child, next_id) = (helper.to_path_buf(), Mutex::new(child), AtomicU64::new(0));
        let supervisor = Self { helper, grace, child, requests, state, next_id };
        match supervisor.state.wait(RESPONSE_TIMEOUT, |state| state.is_lock_held) {
            Some(true) => Ok(supervisor),
            Some(false) => Err(Error::InUse { path: folder.to_path_buf() }),
            None => Err(supervisor.failed(format!("does not answer:\n{}", tail(&log)))),
        }
    }

    /// Starts a process and returns its pid.
    pub(crate) fn spawn(&self, launch: Launch) -> Result<u32, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let program = launch.program.display().to_string();
        self.request(&Request::Spawn { id, launch })?;
        match self.state.wait(RESPONSE_TIMEOUT, |state| state.answers.remove(&id)) {
            Some(Ok(pid)) => Ok(pid),
            Some(Err(reason)) => Err(self.failed(format!("cannot start {program}: {reason}"))),
            None => Err(self.failed("does not answer".to_owned())),
        }
    }

    /// Sends a signal to a process group of the supervisor; no effect if it has ended.
    pub(crate) fn signal(&self, pid: u32, signal: Signal) -> Result<(), Error> {
        self.request(&Request::Signal { pid, signal })
    }

    /// Registers containers with this label for removal at the end.
    #[cfg(feature = "docker")]
    pub(crate) fn own_containers(&self, label: String) -> Result<(), Error> {
        self.request(&Request::Containers { label })
    }

    /// Returns the exit status of a process, if it has ended.
    pub(crate) fn exit_of(&self, pid: u32) -> Option<String> {
        self.state.lock().exits.get(&pid).cloned()
    }

    /// Waits for the end of a process; `None` after the limit.
    pub(crate) fn wait_for_exit(&self, pid: u32, limit: Duration) -> Option<String> {
        self.state.wait(limit, |state| state.exits.get(&pid).cloned())
    }

    /// Ends everything and waits until it is gone. A second call does nothing.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        let Some(requests) = lock(&self.requests).take() else { return Ok(()) };
        // Closing the stream requests the end.
        drop(requests);
        let ended = self.state.wait(self.grace + CLEANUP_TIMEOUT, |state| state.ended.then_some(()));
        let mut child = lock(&self.child);
        if ended.is_none() {
            // The parts' parent-death signal ends them.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| self.failed(format!("cannot be waited for: {error}")))?;
        match (ended, status.success()) {
            (Some(()), true) => Ok(()),
            (Some(()), false) => Err(self.failed(format!("ended with {status}"))),
            (None, _) => Err(self.failed("did not end in time and was killed".to_owned())),
        }
    }

    fn request(&self, request: &Request) -> Result<(), Error> {
        let line = serde_json::to_string(request).unwrap_or_default();
        let mut requests = lock(&self.requests);
        let Some(requests) = requests.as_mut() else { return Err(self.failed("was stopped".to_owned())) };
        writeln!(requests, "{line}")
            .and_then(|()| requests.flush())
            .map_err(|error| self.failed(format!("is gone: {error}")))
    }

    fn failed(&self, what: String) -> Error {
        Error::Supervisor { helper: self.helper.clone(), what }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Errors cannot be reported from drop.
        let _ = self.stop();
    }
}

impl SupervisorState {
    fn lock(&self) -> MutexGuard<'_, Notices> {
        lock(&self.notices)
    }

    fn listen(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let mut state = self.lock();
            match serde_json::from_str(&line) {
                Ok(Notice::Started { id, pid }) => {
                    // The system may reuse process ids.
                    state.exits.remove(&pid);
                    state.answers.insert(id, Ok(pid));
                }
                Ok(Notice::Ready) => state.is_lock_held = Some(true),
                Ok(Notice::Busy) => state.is_lock_held = Some(false),
                Ok(Notice::Refused { id, reason }) => drop(state.answers.insert(id, Err(reason))),
                Ok(Notice::Exited { pid, status }) => drop(state.exits.insert(pid, status)),
                // The process is not a supervisor; its end will be noticed.
                Err(_) => {}
            }
            drop(state);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until `find` returns a value; returns `None` at the limit, or when no notice can arrive any more.
    fn wait<T>(&self, limit: Duration, mut find: impl FnMut(&mut Notices) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&mut state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
