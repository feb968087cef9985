//! Connection of a session with a server: the server's process, and the HTTP responses that its messages belong to.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::config::ServerEntry;
use crate::envelope::{Envelope, RequestId};
use crate::hooks::Owner;
use crate::json::Members;
use crate::process::{PrintLog, ServerProcess, StartError};
use crate::proxy::{Proxy, ProxyConfig};
use crate::session::{Identity, Session};
use crate::sessions::{SessionError, Sessions};

/// Maximum number of connections.
const MAX_CONNECTIONS: usize = 256;
/// Time after which a connection without a request ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Time that a server has to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that the open calls have to record their end.
const CALLS_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that wait for a stream of the client.
const MAX_WAITING: usize = 1_000;
/// Bytes of the messages that wait for a stream of the client.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Messages that wait for a client to read them.
const CHANNEL: usize = 64;

/// Identity of a connection: the server's name and the session's owner.
type Key = (String, Identity);

/// Open connections.
pub(super) struct Connections {
    proxy: ProxyConfig,
    print_log: Arc<PrintLog>,
    sessions: Arc<Sessions>,
    open: Mutex<HashMap<Key, Arc<Connection>>>,
}

/// Connection that is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("expected at most {MAX_CONNECTIONS} open connections, found one more")]
    Full,
}

/// A connection.
pub(super) struct Connection {
    pub proxy: Arc<Proxy>,
    pub session: Arc<Session>,
    pub mailbox: Arc<Mailbox>,
    process: Mutex<ServerProcess>,
    used_at: Mutex<Instant>,
}

/// Streams to the client.
#[derive(Debug, Default)]
pub(super) struct Mailbox(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    /// Responses in progress, in the order of their requests.
    posts: Vec<Post>,
    /// Stream that belongs to no request.
    stream: Option<Sender<Vec<u8>>>,
    waiting: VecDeque<Vec<u8>>,
    has_ended: bool,
}

#[derive(Debug)]
struct Post {
    id: RequestId,
    /// Bytes of the token under which the request wants progress.
    progress_token: Option<String>,
    messages: Sender<Vec<u8>>,
}

impl Mailbox {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the response to a request. Returns `None` if its id is that of an open one.
    pub(super) fn open_post(
        &self,
        id: &RequestId,
        progress_token: Option<&str>,
    ) -> Option<Receiver<Vec<u8>>> {
        let mut streams = self.streams();
        streams.posts.retain(|post| !post.messages.is_closed());
        if streams.has_ended || streams.posts.iter().any(|post| post.id == *id) {
            return None;
        }
        let (messages, received) = channel(CHANNEL);
        let progress_token = progress_token.map(str::to_owned);
        streams.posts.push(Post { id: id.clone(), progress_token, messages });
        Some(received)
    }

    /// Opens the stream that belongs to no request, in place of an earlier one.
    pub(super) fn open_stream(&self) -> Receiver<Vec<u8>> {
        let mut streams = self.streams();
        let (messages, received) = channel(MAX_WAITING);
        while let Some(message) = streams.waiting.pop_front() {
            // There is room for all that may wait.
            drop(messages.try_send(message));
        }
        streams.stream = (!streams.has_ended).then_some(messages);
        received
    }

    fn end(&self) {
        let mut streams = self.streams();
        *streams = Streams { has_ended: true, ..Streams::default() };
    }

    /// Returns the stream for a message, and takes a response's stream away from the open ones.
    fn route(&self, frame: &[u8]) -> Option<Sender<Vec<u8>>> {
        // Before the lock, which others wait for: a frame may have megabytes.
        let envelope = Envelope::read(frame).ok();
        let mut streams = self.streams();
        streams.posts.retain(|post| !post.messages.is_closed());
        if let Some(Envelope::Response { id: Some(id), .. }) = &envelope {
            let at = streams.posts.iter().position(|post| post.id == *id)?;
            return Some(streams.posts.remove(at).messages);
        }
        let token = match &envelope {
            Some(Envelope::Notification { params, .. }) => progress_token(params),
            _ => None,
        };
        let is_of = |post: &&Post| token.is_some() && post.progress_token.as_deref() == token;
        let post = streams.posts.iter().find(is_of);
        let stream =
            post.map(|post| &post.messages).or(streams.stream.as_ref().filter(|stream| !stream.is_closed()));
        if let Some(stream) = stream.or_else(|| streams.posts.first().map(|post| &post.messages)) {
            return Some(stream.clone());
        }
        let mut bytes = frame.len() + streams.waiting.iter().map(Vec::len).sum::<usize>();
        while streams.waiting.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            let Some(oldest) = streams.waiting.pop_front() else { break };
            bytes -= oldest.len();
        }
        streams.waiting.push_back(frame.to_vec());
        None
    }
}

/// Returns the bytes of the token of a progress notification.
fn progress_token<'a>(params: &Members<'a>) -> Option<&'a str> {
    params.get("progressToken").map(|token| token.get())
}

/// Stream of a proxy to its client.
struct MailboxWriter(Arc<Mailbox>);

impl Write for MailboxWriter {
    /// A frame is one write.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let frame = line.trim_ascii();
        if let Some(stream) = self.0.route(frame) {
            // Only threads of the proxy write. A client that has gone does not want it any more.
            drop(stream.blocking_send(frame.to_vec()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connections {
    pub(super) fn new(proxy: ProxyConfig, print_log: Arc<PrintLog>, sessions: Arc<Sessions>) -> Self {
        Self { proxy, print_log, sessions, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the agent has an open connection with a server, in any session.
    pub(super) fn has_open(&self, server: &str, owner: &Owner<'_>) -> bool {
        self.open().iter().any(|((name, identity), connection)| {
            name == server && owner.has(identity) && !connection.has_ended()
        })
    }

    /// Returns the connection of a session with a server, if it is open.
    pub(super) fn get(&self, server: &str, identity: &Identity) -> Option<Arc<Connection>> {
        let open = self.open();
        let connection = open.get(&(server.to_owned(), identity.clone()))?;
        if connection.has_ended() {
            return None;
        }
        connection.touch();
        Some(Arc::clone(connection))
    }

    /// Returns the connection of a session with a server, and true if the session is new. Starts the server if needed.
    pub(super) fn get_or_start(
        &self,
        server: &str,
        entry: &ServerEntry,
        identity: &Identity,
    ) -> Result<(Arc<Connection>, bool), ConnectionError> {
        if let Some(connection) = self.get(server, identity) {
            return Ok((connection, false));
        }
        self.end_idle();
        let (session, is_new) = self.sessions.get(identity)?;
        let mut open = self.open();
        let key = (server.to_owned(), identity.clone());
        if let Some(connection) = open.get(&key).filter(|connection| !connection.has_ended()) {
            return Ok((Arc::clone(connection), is_new));
        }
        if open.len() >= MAX_CONNECTIONS {
            return Err(ConnectionError::Full);
        }
        let command: Vec<OsString> = entry.command.iter().map(Into::into).collect();
        let (process, to_server, streams) = ServerProcess::start(&command)?;
        let mailbox = Arc::new(Mailbox::default());
        let outputs = (Box::new(MailboxWriter(Arc::clone(&mailbox))) as Box<dyn Write + Send>, to_server);
        let proxy = Proxy::new(Arc::clone(&session), server, self.proxy, outputs);
        let proxy = proxy.map_err(|error| StartError::System(error.to_string()))?;
        let ended = Arc::clone(&mailbox);
        // Its later requests are answered with an error, until the client opens another session.
        streams.read(Arc::clone(&proxy), Arc::clone(&self.print_log), move || ended.end())?;
        let connection = Connection {
            proxy,
            session,
            mailbox,
            process: Mutex::new(process),
            used_at: Mutex::new(Instant::now()),
        };
        let connection = Arc::new(connection);
        open.insert(key, Arc::clone(&connection));
        Ok((connection, is_new))
    }

    /// Ends a connection. Returns false if there is none.
    pub(super) fn close(&self, server: &str, identity: &Identity) -> bool {
        let connection = self.open().remove(&(server.to_owned(), identity.clone()));
        connection.inspect(|connection| connection.end()).is_some()
    }

    /// Ends all connections.
    pub(super) fn end(&self) {
        let open = std::mem::take(&mut *self.open());
        for connection in open.values() {
            connection.end();
        }
    }

    fn end_idle(&self) {
        let idle: Vec<Arc<Connection>> = {
            let mut open = self.open();
            let is_idle = |connection: &Connection| connection.is_idle();
            let keys: Vec<Key> = open
                .iter()
                .filter(|(_, connection)| is_idle(connection))
                .map(|(key, _)| key.clone())
                .collect();
            keys.iter().filter_map(|key| open.remove(key)).collect()
        };
        for connection in idle {
            connection.end();
        }
    }
}

impl Connection {
    fn touch(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns true if the server has ended.
    fn has_ended(&self) -> bool {
        self.mailbox.streams().has_ended
    }

    fn is_idle(&self) -> bool {
        self.has_ended()
            || self.used_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > IDLE_TIMEOUT
    }

    fn end(&self) {
        self.proxy.on_client_end();
        self.process.lock().unwrap_or_else(PoisonError::into_inner).end(END_TIMEOUT);
        self.proxy.on_server_end("the session has ended");
        if !self.proxy.wait_for_requests(CALLS_TIMEOUT) {
            tracing::error!("gateway: calls have not ended in time, so their results are not recorded");
        }
        self.mailbox.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_wait_for_a_stream_are_bounded_by_their_bytes() {
        let mailbox = Mailbox::default();
        for _ in 0..3 {
            assert!(mailbox.route(&vec![b'x'; MAX_WAITING_BYTES / 2]).is_none());
        }
        assert_eq!(mailbox.streams().waiting.len(), 2);
    }
}
