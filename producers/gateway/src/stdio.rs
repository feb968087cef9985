//! MCP over stdio: starts the server as a child, and connects it with the client of this process.

use std::ffi::OsString;
use std::io::{BufReader, Read, Write};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender as EventSender, channel};
use std::time::{Duration, Instant};

use crate::frame::{Frame, FrameReader, MAX_FRAME_BYTES};
use crate::process::{PrintLog, ServerProcess, StartError, spawn};
use crate::proxy::{Proxy, ProxyConfig};
use crate::session::Session;

/// Time that the server has to end by itself once its input has ended.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that the open calls have to record their end.
const CALLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the stop request is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

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
    /// Prints the server's stderr.
    pub print_log: Arc<PrintLog>,
}

/// Cause of the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client ended its stream, or the process was asked to stop.
    Client,
    /// The server ended first.
    Server(ExitStatus),
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
) -> Result<Ended, StartError> {
    let (mut process, to_server, streams) = ServerProcess::start(&options.command)?;
    let proxy = Proxy::new(session, &options.server, options.proxy, (options.to_client, to_server));
    let proxy = proxy.map_err(|error| StartError::System(error.to_string()))?;
    let (events, received) = channel();
    let (of_server, to_proxy, from_client) = (events.clone(), Arc::clone(&proxy), options.from_client);
    streams.read(Arc::clone(&proxy), options.print_log, move || drop(of_server.send(Event::ServerEnded)))?;
    spawn("from-client", move || read_client(&to_proxy, from_client, &events))?;
    let by_server = wait(&received, &stop);
    proxy.on_client_end();
    if !by_server {
        // The server may still answer calls that it has.
        let until = Instant::now() + END_TIMEOUT;
        while Instant::now() < until
            && !matches!(received.recv_timeout(POLL_INTERVAL), Ok(Event::ServerEnded))
        {}
    }
    let status = process.end(if by_server { END_TIMEOUT } else { POLL_INTERVAL });
    proxy.on_server_end("the server has ended");
    if !proxy.wait_for_requests(CALLS_TIMEOUT) {
        tracing::error!("gateway: calls have not ended in time, so their results are not recorded");
    }
    Ok(match status {
        Some(status) if by_server => Ended::Server(status),
        _ => Ended::Client,
    })
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
