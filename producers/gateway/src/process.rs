//! Process of an MCP server, with the thread that reads its frames and the one that prints its log.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use agentgov_schemas::escape::EscapedBytes;
use agentgov_schemas::is_configuration;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::frame::{Frame, FrameReader, MAX_FRAME_BYTES};
use crate::methods::Sender;
use crate::proxy::Proxy;

/// Time that the server has to end after a signal.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which the end of the process is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Stack of the threads that read frames. The parser of JSON recurses.
pub(crate) const PARSER_STACK_BYTES: usize = 4 << 20;
/// Maximum bytes of a line of the server's stderr. A longer one is divided.
const MAX_LOG_BYTES: usize = 8 << 10;

/// Prints a line of a server's stderr, which is escaped.
pub type PrintLog = dyn Fn(&str) + Send + Sync;

/// Server that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command line is empty.
    #[error("expected the command of an MCP server, found none")]
    NoCommand,
    /// The program cannot be started.
    #[error("the MCP server {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Cause.
        source: io::Error,
    },
    /// The operating system refuses a thread, a pipe or random numbers.
    #[error("the gateway cannot start: {0}")]
    System(String),
}

/// A server's process. It is ended when it is dropped.
pub(crate) struct ServerProcess(Child);

/// Streams of a server's process.
pub(crate) struct ServerStreams {
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl ServerProcess {
    /// Starts a server in a process group of its own, so that its children end with it. Returns it with the stream to it.
    pub(crate) fn start(
        command: &[OsString],
    ) -> Result<(Self, Box<dyn Write + Send>, ServerStreams), StartError> {
        let Some((program, arguments)) = command.split_first() else { return Err(StartError::NoCommand) };
        let variables = std::env::vars_os().map(|(name, _)| name);
        let mut child = server_command(program, arguments, variables).spawn().map_err(|source| {
            StartError::Start { program: program.to_string_lossy().into_owned(), source }
        })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = Self(child);
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(StartError::System("expected the pipes of the server, found none".to_owned()));
        };
        Ok((process, Box::new(stdin), ServerStreams { stdout, stderr }))
    }

    /// Waits for the process, then ends its group.
    pub(crate) fn end(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if !has_ended(pid, timeout) {
            signal(pid, Signal::TERM);
            has_ended(pid, SIGNAL_TIMEOUT);
        }
        // Before the process is reaped: until then its group cannot belong to another one.
        signal(pid, Signal::KILL);
        self.0.wait().ok()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A process that has been reaped has no group any more.
        if matches!(self.0.try_wait(), Ok(None)) {
            self.end(Duration::ZERO);
        }
    }
}

impl ServerStreams {
    /// Reads the server's frames until its end, then calls `on_end`, and prints its log.
    pub(crate) fn read(
        self,
        proxy: Arc<Proxy>,
        print_log: Arc<PrintLog>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<(), StartError> {
        let Self { stdout, stderr } = self;
        spawn("from-server", move || {
            read_frames(&proxy, stdout);
            on_end();
        })?;
        spawn("server-log", move || read_log(stderr, &*print_log))
    }
}

/// Returns the command of a server, which inherits these variables apart from the gateway's configuration: it holds addresses and
/// logins.
fn server_command(
    program: &OsStr,
    arguments: &[OsString],
    variables: impl Iterator<Item = OsString>,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for name in variables.filter(|name| is_configuration(name)) {
        command.env_remove(name);
    }
    command
}

/// Starts a thread that may parse JSON.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let spawned = Builder::new().name(name.to_owned()).stack_size(PARSER_STACK_BYTES).spawn(run);
    spawned.map(drop).map_err(|error| StartError::System(error.to_string()))
}

fn read_frames(proxy: &Proxy, stdout: impl Read) {
    let mut frames = FrameReader::new(BufReader::new(stdout), MAX_FRAME_BYTES);
    let reason = loop {
        match frames.next_frame() {
            Ok(Some(Frame::Whole(frame))) => proxy.on_server_frame(frame),
            Ok(Some(Frame::TooLong)) => {
                // It may never end, and which request it answers is not known.
                let reason = format!("the server sent a message of more than {MAX_FRAME_BYTES} bytes");
                proxy.refuse(Sender::Server, &reason, b"");
                break reason;
            }
            Ok(None) => break "the server has ended".to_owned(),
            Err(error) => break format!("the server's stream failed: {error}"),
        }
    };
    proxy.on_server_end(&reason);
}

/// Prints the server's stderr line by line, in lines of bounded length.
fn read_log(log: impl Read, print: &PrintLog) {
    let mut log = BufReader::with_capacity(MAX_LOG_BYTES, log);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut log).take(MAX_LOG_BYTES as u64).read_until(b'\n', &mut line);
        if !matches!(read, Ok(bytes) if bytes > 0) {
            return;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        print(&EscapedBytes(text.strip_suffix(b"\r").unwrap_or(text)).to_string());
    }
}

/// Waits until the process has ended, and does not reap it.
fn has_ended(pid: Option<Pid>, timeout: Duration) -> bool {
    let Some(pid) = pid else { return true };
    let until = Instant::now() + timeout;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) if Instant::now() < until => std::thread::sleep(POLL_INTERVAL),
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    // A group that has ended is what is wanted.
    let _ = group.map(|group| kill_process_group(group, signal));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_does_not_inherit_the_configuration_of_the_gateway() {
        let variables = ["AGENTGOV_PDP_TOKEN", "PATH", "AGENTGOV_KAFKA_PASSWORD", "OTHER_AGENTGOV_X"];
        let command = server_command("server".as_ref(), &[], variables.iter().map(Into::into));
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).collect();
        let expected = ["AGENTGOV_KAFKA_PASSWORD", "AGENTGOV_PDP_TOKEN"].map(|name| (OsStr::new(name), None));
        assert_eq!(removed, expected);
    }
}
