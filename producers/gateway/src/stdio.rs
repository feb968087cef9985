//! MCP over stdio: starts the server as a child, and connects it with the client of this process.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender as EventSender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use agentgov_schemas::escape::EscapedBytes;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::frame::{Frame, FrameReader, MAX_FRAME_BYTES};
use crate::methods::Sender;
use crate::proxy::{Proxy, ProxyConfig};
use crate::session::Session;

/// Time that the server has to end by itself once its input has ended.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that the server has to end after a signal.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that the open calls have to record their end.
const CALLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the stop request and the end of the child are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Stack of the threads that read frames. The parser of JSON recurses.
const STACK_BYTES: usize = 4 << 20;
/// Maximum bytes of a line of the server's stderr. A longer one is divided.
const MAX_LOG_BYTES: usize = 8 << 10;

/// Command line of a server, and the streams of the client.
pub struct StdioOptions {
    /// Name of the server; its tools are `NAME/TOOL`.
    pub server: String,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Settings of the proxy.
    pub proxy: ProxyConfig,
    /// Stream of the client's frames.
    pub from_client: Box<dyn Read + Send>,
    /// Stream to the client.
    pub to_client: Box<dyn Write + Send>,
    /// Prints a line of the server's stderr, which is escaped.
    pub print_log: Box<dyn Fn(&str) + Send>,
}

/// Cause of the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client ended its stream, or the process was asked to stop.
    Client,
    /// The server ended first.
    Server(ExitStatus),
}

/// Error of a connection.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The command line is empty.
    #[error("expected the command of an MCP server, found none")]
    NoCommand,
    /// The server cannot be started.
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

enum Event {
    ClientEnded,
    ServerEnded,
}

/// Connects client and server until one of them ends, or `stop` returns true. The server has ended when it returns, and all calls
/// are recorded.
///
/// # Errors
/// If the server cannot be started.
pub fn run(
    options: StdioOptions,
    session: Arc<Session>,
    stop: impl Fn() -> bool,
) -> Result<Ended, StdioError> {
    let system = |error: &dyn std::fmt::Display| StdioError::System(error.to_string());
    let mut child = start(&options.command)?;
    let (Some(to_server), Some(from_server), Some(log)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(StdioError::System("expected the pipes of the server, found none".to_owned()));
    };
    let outputs = (options.to_client, Box::new(to_server) as Box<dyn Write + Send>);
    let proxy = Proxy::new(session, &options.server, options.proxy, outputs);
    let started = proxy.map_err(|error| system(&error)).and_then(|proxy| {
        let (events, received) = channel();
        let (of_client, to_clients) = (events.clone(), Arc::clone(&proxy));
        let from_client = options.from_client;
        let of_server = Arc::clone(&proxy);
        spawn("from-client", move || read_client(&to_clients, from_client, &of_client))
            .and_then(|()| spawn("from-server", move || read_server(&of_server, from_server, &events)))
            .and_then(|()| spawn("server-log", move || read_log(log, &*options.print_log)))
            .map_err(|error| system(&error))?;
        Ok((proxy, received))
    });
    let (proxy, events) = match started {
        Ok(started) => started,
        Err(error) => {
            end(&mut child, Duration::ZERO);
            return Err(error);
        }
    };
    let by_server = wait(&events, &stop);
    proxy.on_client_end();
    if !by_server {
        // The server may still answer calls that it has.
        let until = Instant::now() + END_TIMEOUT;
        while Instant::now() < until && !matches!(events.recv_timeout(POLL_INTERVAL), Ok(Event::ServerEnded))
        {
        }
    }
    let status = end(&mut child, if by_server { END_TIMEOUT } else { POLL_INTERVAL });
    proxy.on_server_end("the server has ended");
    if !proxy.wait_for_requests(CALLS_TIMEOUT) {
        tracing::error!("gateway: calls have not ended in time, so their results are not recorded");
    }
    Ok(match status {
        Some(status) if by_server => Ended::Server(status),
        _ => Ended::Client,
    })
}

/// Starts the server in a process group of its own, so that its children end with it.
fn start(command: &[OsString]) -> Result<Child, StdioError> {
    let Some((program, arguments)) = command.split_first() else { return Err(StdioError::NoCommand) };
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| StdioError::Start { program: program.to_string_lossy().into_owned(), source })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

/// Waits for the first end. Returns true if it is the server's.
fn wait(events: &Receiver<Event>, stop: &impl Fn() -> bool) -> bool {
    loop {
        match events.recv_timeout(POLL_INTERVAL) {
            Ok(Event::ServerEnded) => return true,
            Ok(Event::ClientEnded) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) if stop() => return false,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn read_client(proxy: &Arc<Proxy>, from_client: Box<dyn Read + Send>, events: &EventSender<Event>) {
    let mut frames = FrameReader::new(BufReader::new(from_client), MAX_FRAME_BYTES);
    loop {
        match frames.next_frame() {
            Ok(Some(Frame::Whole(frame))) => proxy.on_client_frame(frame),
            Ok(Some(Frame::TooLong)) => {
                proxy.on_long_client_frame(MAX_FRAME_BYTES);
                if frames.skip_line().is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "gateway: the client's stream failed");
                break;
            }
        }
    }
    // Without a receiver, the connection has ended.
    drop(events.send(Event::ClientEnded));
}

fn read_server(proxy: &Proxy, from_server: impl Read, events: &EventSender<Event>) {
    let mut frames = FrameReader::new(BufReader::new(from_server), MAX_FRAME_BYTES);
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
    drop(events.send(Event::ServerEnded));
}

/// Prints the server's stderr line by line, in lines of bounded length.
fn read_log(log: impl Read, print: &dyn Fn(&str)) {
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

/// Waits for the child, then ends its process group.
fn end(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if !has_ended(pid, timeout) {
        signal(pid, Signal::TERM);
        has_ended(pid, SIGNAL_TIMEOUT);
    }
    // Before the child is reaped: until then its group cannot belong to another process.
    signal(pid, Signal::KILL);
    child.wait().ok()
}

/// Waits until the child has ended, and does not reap it.
fn has_ended(pid: Option<Pid>, timeout: Duration) -> bool {
    let Some(pid) = pid else { return true };
    let until = Instant::now() + timeout;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) if Instant::now() < until => std::thread::sleep(POLL_INTERVAL / 10),
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    // A group that has ended is what is wanted.
    let _ = group.map(|group| kill_process_group(group, signal));
}
