//! The proxy between one client and one server: sends frames on byte for byte, and holds each governed request until it is
//! decided. Each governed request has a thread of its own, so that none waits for another.

mod definitions;
mod governed;
mod listing;
mod outbox;
mod requests;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::envelope::{
    Envelope, INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, Malformed, RequestId, ResponseOutcome,
};
use crate::json::Members;
use crate::methods::{self, Sender, Treatment};
use crate::process::PARSER_STACK_BYTES;
use crate::reply;
use crate::seal::Seal;
use crate::session::{Session, shorten_reason};
use definitions::Definitions;
use outbox::{Bounds, Outbox};
use requests::{CallEvent, Requests};

/// Interval at which the end of the governed requests is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Settings of a proxy.
#[derive(Clone, Copy, Debug)]
pub struct ProxyConfig {
    /// Time that a call waits for an approval.
    pub approval_wait: Duration,
    /// Interval at which a call that waits for an approval is decided again.
    pub approval_interval: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self { approval_wait: Duration::from_secs(30), approval_interval: Duration::from_secs(2) }
    }
}

/// Stream to the client. Each frame is one write.
type Output = Mutex<Option<Box<dyn Write + Send>>>;

/// A proxy.
pub struct Proxy {
    session: Arc<Session>,
    server: String,
    config: ProxyConfig,
    seal: Seal,
    to_client: Output,
    to_server: Arc<Outbox>,
    requests: Requests,
    definitions: Definitions,
}

impl Proxy {
    /// Creates a proxy of the server with this name.
    ///
    /// # Errors
    /// If the system has no random numbers or refuses a thread.
    pub fn new(
        session: Arc<Session>,
        server: &str,
        config: ProxyConfig,
        (to_client, to_server): (Box<dyn Write + Send>, Box<dyn Write + Send>),
    ) -> io::Result<Arc<Self>> {
        let seal = Seal::random().map_err(|error| io::Error::other(error.to_string()))?;
        let of_requests: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let answering = Arc::clone(&of_requests);
        let to_server = Outbox::start(to_server, Bounds::default(), move |id| {
            if let Some(proxy) = answering.get().and_then(Weak::upgrade) {
                proxy.fail(id, "the server has ended");
            }
        })?;
        let proxy = Arc::new(Self {
            session,
            server: server.to_owned(),
            config,
            seal,
            to_client: Mutex::new(Some(to_client)),
            to_server,
            requests: Requests::default(),
            definitions: Definitions::default(),
        });
        // No request is sent before.
        drop(of_requests.set(Arc::downgrade(&proxy)));
        Ok(proxy)
    }

    /// Handles a frame of the client.
    pub fn on_client_frame(self: &Arc<Self>, frame: Vec<u8>) {
        match Envelope::read(&frame) {
            Err(Malformed { id, code, message }) => {
                self.refuse(Sender::Client, &message, &frame);
                self.send_to_client(&reply::error(id.as_ref(), code, &message));
            }
            Ok(Envelope::Request { id, method, .. }) => match methods::request(Sender::Client, &method) {
                None => {
                    let message = format!("expected a method of MCP, found {method:?}");
                    self.refuse(Sender::Client, &message, &frame);
                    self.send_to_client(&reply::error(Some(&id), METHOD_NOT_FOUND, &message));
                }
                Some(Treatment::Pass) => match self.requests.open_passed(&id) {
                    Ok(()) => self.send_request(&id, &frame),
                    Err(reason) => self.refuse_request(&id, reason, &frame),
                },
                Some(_) => match self.requests.open_governed(&id) {
                    Ok(events) => self.spawn(id, frame, events),
                    Err(reason) => self.refuse_request(&id, reason, &frame),
                },
            },
            Ok(Envelope::Notification { method, params }) => {
                if !methods::notification(Sender::Client, &method) {
                    self.refuse(
                        Sender::Client,
                        &format!("expected a notification of MCP, found {method:?}"),
                        &frame,
                    );
                } else if method != "notifications/cancelled" || self.cancel(&params) {
                    self.send_to_server(&frame);
                }
            }
            Ok(Envelope::Response { id, .. }) => {
                if id.is_some_and(|id| self.requests.close_servers(&id)) {
                    self.send_to_server(&frame);
                } else {
                    self.refuse(
                        Sender::Client,
                        "expected a response to an open request, found another",
                        &frame,
                    );
                }
            }
        }
    }

    /// Reports a frame of the client that exceeds the bound.
    pub fn on_long_client_frame(&self, max_bytes: usize) {
        let message = format!("expected a message of at most {max_bytes} bytes, found a longer one");
        self.refuse(Sender::Client, &message, b"");
        self.send_to_client(&reply::error(None, INVALID_REQUEST, &message));
    }

    /// Handles a frame of the server.
    pub fn on_server_frame(&self, frame: Vec<u8>) {
        match Envelope::read(&frame) {
            Err(Malformed { id, message, .. }) => {
                self.refuse(Sender::Server, &message, &frame);
                // Otherwise the client would wait for the response.
                if let Some(id) = id {
                    self.fail(&id, &format!("the server's response is refused: {message}"));
                }
            }
            Ok(Envelope::Request { id, method, .. }) => {
                if methods::request(Sender::Server, &method).is_none() {
                    let message = format!("expected a method of MCP, found {method:?}");
                    self.refuse(Sender::Server, &message, &frame);
                    self.send_to_server(&reply::error(Some(&id), METHOD_NOT_FOUND, &message));
                } else if let Err(reason) = self.requests.open_servers(&id) {
                    self.refuse(Sender::Server, reason, &frame);
                    self.send_to_server(&reply::error(Some(&id), INVALID_REQUEST, reason));
                } else {
                    self.send_to_client(&frame);
                }
            }
            Ok(Envelope::Notification { method, .. }) => {
                if methods::notification(Sender::Server, &method) {
                    if method == "notifications/tools/list_changed" {
                        self.definitions.clear();
                    }
                    self.send_to_client(&frame);
                } else {
                    self.refuse(
                        Sender::Server,
                        &format!("expected a notification of MCP, found {method:?}"),
                        &frame,
                    );
                }
            }
            Ok(Envelope::Response { id: None, outcome: ResponseOutcome::Error(_) }) => {
                self.send_to_client(&frame)
            }
            Ok(Envelope::Response { id, .. }) => {
                let answered = id.map(|id| self.requests.answer(&id));
                match answered {
                    Some(requests::Answered::Passed) => self.send_to_client(&frame),
                    Some(requests::Answered::Governed(events)) => {
                        drop(events.send(CallEvent::Response(frame)))
                    }
                    Some(requests::Answered::Unknown) | None => {
                        self.refuse(
                            Sender::Server,
                            "expected a response to an open request, found another",
                            &frame,
                        );
                    }
                }
            }
        }
    }

    /// Answers all open requests with an error, since the server has ended or its stream is unusable.
    pub fn on_server_end(&self, reason: &str) {
        self.to_server.close();
        for id in self.requests.end(reason) {
            self.send_to_client(&reply::error(Some(&id), INTERNAL_ERROR, reason));
        }
    }

    /// Ends the stream to the server, and cancels the requests that are not sent yet, since the client has gone.
    pub fn on_client_end(&self) {
        self.requests.cancel_unsent();
        self.to_server.close();
    }

    /// Waits until all governed requests have ended, at most for `timeout`. Returns false if some have not.
    pub fn wait_for_requests(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        while self.requests.governed() > 0 {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        true
    }

    /// Records that a frame is refused or dropped.
    pub fn refuse(&self, sender: Sender, reason: &str, frame: &[u8]) {
        let reason = shorten_reason(reason);
        let from = match sender {
            Sender::Client => "client",
            Sender::Server => "server",
        };
        tracing::warn!(from, reason, bytes = frame.len(), "gateway: a message is refused");
        if let Err(error) = self.session.record_refusal(from, reason, frame) {
            tracing::error!(from, reason, %error, "gateway: a refused message is not recorded");
        }
    }

    fn refuse_request(&self, id: &RequestId, reason: &str, frame: &[u8]) {
        self.refuse(Sender::Client, reason, frame);
        self.send_to_client(&reply::error(Some(id), INVALID_REQUEST, reason));
    }

    /// Answers an open request with an error.
    fn fail(&self, id: &RequestId, reason: &str) {
        match self.requests.answer(id) {
            requests::Answered::Passed => {
                self.send_to_client(&reply::error(Some(id), INTERNAL_ERROR, reason))
            }
            requests::Answered::Governed(events) => drop(events.send(CallEvent::Failed(reason.to_owned()))),
            requests::Answered::Unknown => {}
        }
    }

    /// Returns true if the server must learn of the cancellation, because it has the request.
    fn cancel(&self, params: &Members<'_>) -> bool {
        let id = params.get("requestId").and_then(RequestId::read);
        id.is_none_or(|id| self.requests.cancel(&id))
    }

    fn spawn(self: &Arc<Self>, id: RequestId, frame: Vec<u8>, events: requests::CallEvents) {
        let (proxy, of) = (Arc::clone(self), id.clone());
        let spawned =
            std::thread::Builder::new().name("call".into()).stack_size(PARSER_STACK_BYTES).spawn(move || {
                let answer = proxy.run_governed(&of, &frame, &events);
                // The client may use the id again as soon as it has the answer.
                proxy.requests.close_governed(&of);
                if let Some(answer) = answer {
                    proxy.send_to_client(&answer);
                }
                proxy.requests.finish_governed();
            });
        if let Err(error) = spawned {
            self.requests.close_governed(&id);
            self.requests.finish_governed();
            let message = format!("the gateway cannot start a thread: {error}");
            self.send_to_client(&reply::error(Some(&id), INTERNAL_ERROR, &message));
        }
    }

    /// Sends a request, and answers it if the server has gone.
    fn send_request(&self, id: &RequestId, frame: &[u8]) {
        if let Err(reason) = self.to_server.send(Some(id), frame) {
            self.fail(id, reason);
        }
    }

    /// Sends a frame. A client that has gone is noticed by its own stream.
    fn send_to_client(&self, frame: &[u8]) {
        // A poisoned lock is usable: no code panics while it holds the lock.
        let mut output = self.to_client.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = output.as_mut() else { return };
        let mut line = Vec::with_capacity(frame.len() + 1);
        line.extend_from_slice(frame);
        line.push(b'\n');
        let sent = stream.write_all(&line).and_then(|()| stream.flush());
        if let Err(error) = &sent {
            tracing::debug!(%error, "gateway: a peer has gone");
            // A part of the frame may be written, so nothing may follow.
            *output = None;
        }
    }

    /// Sends a frame that is no request.
    fn send_to_server(&self, frame: &[u8]) {
        if let Err(reason) = self.to_server.send(None, frame) {
            tracing::warn!(server = self.server, reason, "gateway: a message does not reach its server");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.to_server.close();
    }
}

#[cfg(test)]
mod tests;
