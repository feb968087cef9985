//! A TCP proxy in front of ClickHouse, which meddles with an insert on its way: cuts it, stalls it, or loses its answer.
//!
//! ```text
//!   sink ──request──► [head][body ··· here ···] ──► server
//!        ◄─────────────── answer, or none ◄────────
//! ```
//! It understands just enough of HTTP/1.1 to know an insert in Native format, and where its body begins and ends. It can also
//! hide the inserts that run from a sink that waits for their end ([`PLANT_NO_DRAIN`]).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Larger than any head that the sink sends.
const MOST_HEAD: usize = 64 << 10;
/// How an insert of a block shows in the query of its URL.
const INSERT: &[u8] = b"FORMAT+Native";
/// A mistake that the proxy plants: a sink that does not wait for older inserts after a claim, since it sees none.
pub const PLANT_NO_DRAIN: &str = "sink::no-drain";
/// The table of the running inserts, in a query for them.
const RUNNING: &[u8] = b"system.processes";
/// The condition of that query, and one of the same length that no insert meets.
const ANY: &[u8] = b"'sink:') > 0";
/// See [`ANY`].
const NONE: &[u8] = b"'sink:') < 0";
/// How often who waits looks whether it is all over.
const TICK: Duration = Duration::from_millis(20);

/// What happens to the next insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meddling {
    /// After so many percent of its body both sides are cut off.
    Cut {
        /// Of the body.
        percent: u8,
    },
    /// After so many percent of its body nothing goes on for a while; then the rest follows, whoever still waits for it.
    Stall {
        /// Of the body.
        percent: u8,
        /// How long.
        length: Duration,
    },
    /// The server gets all of it, the sink no answer: it is cut off when the server has the request, or has answered it.
    LoseAnswer {
        /// True: the server has answered by then.
        answered: bool,
    },
}

impl Meddling {
    /// What was done, in a word or two.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut an insert",
            Self::Stall { .. } => "stall an insert",
            Self::LoseAnswer { .. } => "lose an answer",
        }
    }
}

/// A proxy that is listening. It ends with this.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: String,
    hides_inserts: bool,
    next: Mutex<Option<Meddling>>,
    stop: AtomicBool,
}

impl Proxy {
    /// Listens on a free port of this machine, and passes everything on to `upstream`, host:port. With `hides_inserts` queries for
    /// running inserts find none.
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
                        // A side that is gone is what it is there for.
                        let _ = pass(&shared, client);
                    };
                    if Builder::new().name("proxy connection".into()).spawn(pass).is_err() {
                        continue;
                    }
                }
            })?
        };
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Meddles with the next insert. False if the last one that was ordered has not come yet.
    pub(crate) fn meddle(&self, how: Meddling) -> bool {
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
    fn take(&self) -> Option<Meddling> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn wait(&self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until && !self.stop.load(Ordering::Acquire) {
            sleep(TICK);
        }
    }
}

/// One connection, request by request.
fn pass(shared: &Arc<Shared>, mut client: TcpStream) -> std::io::Result<()> {
    let mut server = TcpStream::connect(&shared.upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // What the server says after this is for nobody.
    let swallow = Arc::new(AtomicBool::new(false));
    let answers = {
        let (mut from, mut to, swallow) = (server.try_clone()?, client.try_clone()?, Arc::clone(&swallow));
        Builder::new().name("proxy answers".into()).spawn(move || answer(&mut from, &mut to, &swallow))?
    };
    let outcome = requests(shared, &mut client, &mut server, &swallow);
    if !swallow.load(Ordering::Acquire) {
        let _ = server.shutdown(Shutdown::Both);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = answers.join();
    outcome
}

fn answer(server: &mut TcpStream, client: &mut TcpStream, swallow: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if swallow.load(Ordering::Acquire) {
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

fn requests(
    shared: &Shared,
    client: &mut TcpStream,
    server: &mut TcpStream,
    swallow: &AtomicBool,
) -> std::io::Result<()> {
    let mut buffered = Vec::new();
    while let Some((head, length)) = read_head(client, &mut buffered)? {
        let is_insert = head.windows(INSERT.len()).any(|window| window == INSERT);
        let how = if is_insert { shared.take() } else { None };
        server.write_all(&head)?;
        if shared.hides_inserts && !is_insert && length <= MOST_HEAD as u64 {
            server.write_all(&without_running_inserts(read_body(client, &mut buffered, length)?))?;
            continue;
        }
        let mut body = Body { client, server, buffered: &mut buffered };
        let percent = match how {
            Some(Meddling::Cut { percent } | Meddling::Stall { percent, .. }) => u64::from(percent),
            Some(Meddling::LoseAnswer { .. }) | None => 100,
        };
        let first = length * percent / 100;
        if let Some(Meddling::LoseAnswer { .. }) = how {
            // Before the last byte: the answer may come at once after it.
            swallow.store(true, Ordering::Release);
        }
        body.pass(first)?;
        match how {
            None => {}
            Some(Meddling::Cut { .. }) => return Ok(()),
            Some(Meddling::Stall { length: pause, .. }) => {
                shared.wait(pause);
                body.pass(length - first)?;
            }
            Some(Meddling::LoseAnswer { answered: true }) => {
                // The other thread cuts the client off when the answer is there.
                let mut nothing = [0; 1];
                let _ = client.read(&mut nothing);
                return Ok(());
            }
            Some(Meddling::LoseAnswer { answered: false }) => return Ok(()),
        }
    }
    Ok(())
}

/// A request's head, and how long its body is. `None`: no further request.
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
        if count == 0 || buffered.len() > MOST_HEAD {
            return Ok(None);
        }
        buffered.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// A body of a few bytes.
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

/// A query for running inserts finds none; any other stays as it is.
fn without_running_inserts(mut query: Vec<u8>) -> Vec<u8> {
    if query.windows(RUNNING.len()).any(|window| window == RUNNING)
        && let Some(at) = query.windows(ANY.len()).position(|window| window == ANY)
        && let Some(condition) = query.get_mut(at..at + ANY.len())
    {
        condition.copy_from_slice(NONE);
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
    fn pass(&mut self, mut count: u64) -> std::io::Result<()> {
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
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// What the server got of an insert's body, and whether its client saw an answer.
    fn insert_through(how: Option<Meddling>) -> (usize, bool) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(&server.local_addr().unwrap().to_string(), false).unwrap();
        if let Some(how) = how {
            assert!(proxy.meddle(how) && !proxy.meddle(how), "one at a time");
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
            let _ = stream.write_all(ANSWER);
            got.len() - HEAD.len()
        });
        let mut client = TcpStream::connect(proxy.address).unwrap();
        client.write_all(HEAD.as_bytes()).unwrap();
        let _ = client.write_all(&[7; 1000]);
        let mut answer = [0; ANSWER.len()];
        let answered = client.read_exact(&mut answer).is_ok();
        drop(client);
        (serving.join().unwrap(), answered)
    }

    #[test]
    fn meddles_with_the_insert_as_ordered() {
        let stall = Meddling::Stall { percent: 50, length: Duration::from_millis(50) };
        for (how, expected) in [
            (None, (1000, true)),
            (Some(Meddling::Cut { percent: 30 }), (300, false)),
            (Some(Meddling::Cut { percent: 0 }), (0, false)),
            (Some(stall), (1000, true)),
            (Some(Meddling::LoseAnswer { answered: true }), (1000, false)),
            (Some(Meddling::LoseAnswer { answered: false }), (1000, false)),
        ] {
            assert_eq!(insert_through(how), expected, "{how:?}");
        }
    }

    #[test]
    fn hides_running_inserts_where_they_are_asked_for_and_changes_no_length() {
        let asked = b"SELECT query FROM system.processes WHERE position(query, 'sink:') > 0".to_vec();
        let hidden = without_running_inserts(asked.clone());
        assert_eq!(hidden.len(), asked.len());
        assert!(hidden.ends_with(b"< 0"));
        let other = b"SELECT 'sink:') > 0".to_vec();
        assert_eq!(without_running_inserts(other.clone()), other);
    }
}
