//! TCP proxy in front of ClickHouse that disturbs inserts: cuts them, stalls them, or loses their responses.
//!
//! ```text
//!   sink ──request──► [head][body ··· here ···] ──► server
//!        ◄─────────────── response, or none ◄──────
//! ```
//! It parses just enough of HTTP/1.1 to recognise an insert in Native format and the bounds of its body. It can also hide
//! running inserts from a sink that waits for their end ([`PLANT_NO_DRAIN`]).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Exceeds any head that the sink sends.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Marks an insert of a block in the query of its URL.
const INSERT_MARKER: &[u8] = b"FORMAT+Native";
/// Mistake planted by the proxy: after a claim, the sink does not wait for older inserts, since the proxy hides them.
pub const PLANT_NO_DRAIN: &str = "sink::no-drain";
/// Table of running inserts, in a query for them.
const RUNNING_INSERTS_TABLE: &[u8] = b"system.processes";
/// Condition of that query, and a condition of the same length that no insert meets.
const ANY_INSERT: &[u8] = b"'sink:') > 0";
/// See [`ANY`].
const NO_INSERT: &[u8] = b"'sink:') < 0";
/// Interval of checks for shutdown.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Fault of the next insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertFault {
    /// Cuts both connections after a percentage of the body.
    Cut {
        /// Percentage of the body.
        percent: u8,
    },
    /// Pauses after a percentage of the body, then sends the rest, even if the sink has given up.
    Stall {
        /// Percentage of the body.
        percent: u8,
        /// Duration of the pause.
        length: Duration,
    },
    /// Sends the whole insert and withholds the response: the client is disconnected once the server has the request, or
    /// has responded.
    LoseResponse {
        /// True to wait for the server's response.
        after_response: bool,
    },
}

impl InsertFault {
    /// Returns a short description.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut an insert",
            Self::Stall { .. } => "stall an insert",
            Self::LoseResponse { .. } => "lose a response",
        }
    }
}

/// Listening proxy, stopped on drop.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: String,
    hides_inserts: bool,
    next: Mutex<Option<InsertFault>>,
    stop: AtomicBool,
}

impl Proxy {
    /// Listens on a free port and forwards everything to `upstream`, host:port. With `hides_inserts`, queries for running
    /// inserts return none.
    pub(crate) fn start(upstream: &str, hides_inserts: bool) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            hides_inserts,
            next: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            Builder::new().name("proxy".into()).spawn(move || {
                for client in listener.incoming() {
                    if shared.stop.load(Ordering::Acquire) {
                        break;
                    }
                    let (Ok(client), shared) = (client, Arc::clone(&shared)) else { continue };
                    let pass = move || {
                        // Broken connections are the proxy's purpose.
                        let _ = forward_connection(&shared, client);
                    };
                    if Builder::new().name("proxy connection".into()).spawn(pass).is_err() {
                        continue;
                    }
                }
            })?
        };
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Returns the proxy's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Disturbs the next insert. Returns false if the previous fault is still pending.
    pub(crate) fn disturb_next_insert(&self, how: InsertFault) -> bool {
        let mut next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = next.is_none();
        next.get_or_insert(how);
        is_free
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn take(&self) -> Option<InsertFault> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn wait(&self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until && !self.stop.load(Ordering::Acquire) {
            sleep(POLL_INTERVAL);
        }
    }
}

/// Forwards one connection, request by request.
fn forward_connection(shared: &Arc<Shared>, mut client: TcpStream) -> std::io::Result<()> {
    let mut server = TcpStream::connect(&shared.upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Set once responses are to be discarded.
    let discard_responses = Arc::new(AtomicBool::new(false));
    let responses = {
        let (mut from, mut to, discard_responses) =
            (server.try_clone()?, client.try_clone()?, Arc::clone(&discard_responses));
        Builder::new()
            .name("proxy responses".into())
            .spawn(move || forward_responses(&mut from, &mut to, &discard_responses))?
    };
    let outcome = forward_requests(shared, &mut client, &mut server, &discard_responses);
    if !discard_responses.load(Ordering::Acquire) {
        let _ = server.shutdown(Shutdown::Both);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = responses.join();
    outcome
}

fn forward_responses(server: &mut TcpStream, client: &mut TcpStream, discard_responses: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if discard_responses.load(Ordering::Acquire) {
            break;
        }
        let sent = buffer.get(..count).map(|bytes| client.write_all(bytes));
        if !matches!(sent, Some(Ok(()))) {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

fn forward_requests(
    shared: &Shared,
    client: &mut TcpStream,
    server: &mut TcpStream,
    discard_responses: &AtomicBool,
) -> std::io::Result<()> {
    let mut buffered = Vec::new();
    while let Some((head, length)) = read_head(client, &mut buffered)? {
        let is_insert = head.windows(INSERT_MARKER.len()).any(|window| window == INSERT_MARKER);
        let how = if is_insert { shared.take() } else { None };
        server.write_all(&head)?;
        if shared.hides_inserts && !is_insert && length <= MAX_HEAD_BYTES as u64 {
            server.write_all(&without_running_inserts(read_body(client, &mut buffered, length)?))?;
            continue;
        }
        let mut body = Body { client, server, buffered: &mut buffered };
        let percent = match how {
            Some(InsertFault::Cut { percent } | InsertFault::Stall { percent, .. }) => u64::from(percent),
            Some(InsertFault::LoseResponse { .. }) | None => 100,
        };
        let first = length * percent / 100;
        if let Some(InsertFault::LoseResponse { .. }) = how {
            // Set before the last byte, since the response may follow immediately.
            discard_responses.store(true, Ordering::Release);
        }
        body.forward(first)?;
        match how {
            None => {}
            Some(InsertFault::Cut { .. }) => return Ok(()),
            Some(InsertFault::Stall { length: pause, .. }) => {
                shared.wait(pause);
                body.forward(length - first)?;
            }
            Some(InsertFault::LoseResponse { after_response: true }) => {
                // The response thread disconnects the client when the response arrives.
                let mut nothing = [0; 1];
                let _ = client.read(&mut nothing);
                return Ok(());
            }
            Some(InsertFault::LoseResponse { after_response: false }) => return Ok(()),
        }
    }
    Ok(())
}

/// Reads a request's head and the length of its body. `None` if there is no further request.
fn read_head(client: &mut TcpStream, buffered: &mut Vec<u8>) -> std::io::Result<Option<(Vec<u8>, u64)>> {
    let mut chunk = [0; 8 << 10];
    loop {
        if let Some(end) = buffered.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffered.split_off(end + 4);
            let head = std::mem::replace(buffered, rest);
            let length = content_length(&head);
            return Ok(Some((head, length)));
        }
        let count = client.read(&mut chunk)?;
        if count == 0 || buffered.len() > MAX_HEAD_BYTES {
            return Ok(None);
        }
        buffered.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// Reads a small body.
fn read_body(client: &mut TcpStream, buffered: &mut Vec<u8>, length: u64) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let missing = length.saturating_sub(buffered.len());
    let mut more = vec![0; missing];
    client.read_exact(&mut more)?;
    let rest = buffered.split_off(length.min(buffered.len()));
    let mut body = std::mem::replace(buffered, rest);
    body.extend_from_slice(&more);
    Ok(body)
}

/// Changes a query for running inserts so that it finds none; other queries stay unchanged.
fn without_running_inserts(mut query: Vec<u8>) -> Vec<u8> {
    if query.windows(RUNNING_INSERTS_TABLE.len()).any(|window| window == RUNNING_INSERTS_TABLE)
        && let Some(at) = query.windows(ANY_INSERT.len()).position(|window| window == ANY_INSERT)
        && let Some(condition) = query.get_mut(at..at + ANY_INSERT.len())
    {
        condition.copy_from_slice(NO_INSERT);
    }
    query
}

fn content_length(head: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(head);
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let length = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.filter_map(|(_, value)| value.trim().parse().ok()).next().unwrap_or(0)
}

struct Body<'a> {
    client: &'a mut TcpStream,
    server: &'a mut TcpStream,
    buffered: &'a mut Vec<u8>,
}

impl Body<'_> {
    fn forward(&mut self, mut count: u64) -> std::io::Result<()> {
        let had = self.buffered.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        self.server.write_all(self.buffered.get(..had).unwrap_or_default())?;
        self.buffered.drain(..had);
        count -= had as u64;
        let copied = std::io::copy(&mut self.client.take(count), self.server)?;
        if copied < count { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST /?query=INSERT+INTO+t+FORMAT+Native HTTP/1.1\r\nContent-Length: 1000\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// Returns the number of body bytes that the server received, and whether the client received a response.
    fn insert_through(how: Option<InsertFault>) -> (usize, bool) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(&server.local_addr().unwrap().to_string(), false).unwrap();
        if let Some(how) = how {
            assert!(proxy.disturb_next_insert(how) && !proxy.disturb_next_insert(how), "one at a time");
        }
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut got = Vec::new();
            let mut chunk = [0; 4096];
            while got.len() < HEAD.len() + 1000 {
                match stream.read(&mut chunk) {
                    Ok(count @ 1..) => got.extend_from_slice(&chunk[..count]),
                    _ => break,
                }
            }
            let _ = stream.write_all(RESPONSE);
            got.len() - HEAD.len()
        });
        let mut client = TcpStream::connect(proxy.address).unwrap();
        client.write_all(HEAD.as_bytes()).unwrap();
        let _ = client.write_all(&[7; 1000]);
        let mut response = [0; RESPONSE.len()];
        let after_response = client.read_exact(&mut response).is_ok();
        drop(client);
        (serving.join().unwrap(), after_response)
    }

    #[test]
    fn insert_faults_are_applied() {
        let stall = InsertFault::Stall { percent: 50, length: Duration::from_millis(50) };
        for (how, expected) in [
            (None, (1000, true)),
            (Some(InsertFault::Cut { percent: 30 }), (300, false)),
            (Some(InsertFault::Cut { percent: 0 }), (0, false)),
            (Some(stall), (1000, true)),
            (Some(InsertFault::LoseResponse { after_response: true }), (1000, false)),
            (Some(InsertFault::LoseResponse { after_response: false }), (1000, false)),
        ] {
            assert_eq!(insert_through(how), expected, "{how:?}");
        }
    }

    #[test]
    fn running_inserts_are_hidden_without_changing_the_length() {
        let query = b"SELECT query FROM system.processes WHERE position(query, 'sink:') > 0".to_vec();
        let hidden = without_running_inserts(query.clone());
        assert_eq!(hidden.len(), query.len());
        assert!(hidden.ends_with(b"< 0"));
        let other = b"SELECT 'sink:') > 0".to_vec();
        assert_eq!(without_running_inserts(other.clone()), other);
    }
}
