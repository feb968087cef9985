//! Open requests of both peers.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::envelope::RequestId;

/// Maximum number of open requests of the client that are governed. Each has a thread.
const MAX_GOVERNED: usize = 256;
/// Maximum number of open requests of a peer.
const MAX_OPEN: usize = 10_000;

/// Event of a governed request.
#[derive(Debug)]
pub(super) enum CallEvent {
    /// Response of the server.
    Response(Vec<u8>),
    /// There will be no response, for this reason.
    Failed(String),
    /// The client does not wait any more.
    Cancelled,
}

/// Events of a governed request.
pub(super) type CallEvents = Receiver<CallEvent>;

/// Open requests.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    clients: HashMap<RequestId, Open>,
    servers: HashSet<RequestId>,
    governed: usize,
    has_ended: bool,
}

#[derive(Debug)]
enum Open {
    Passed,
    Governed { events: Sender<CallEvent>, phase: Phase },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The server does not have the request.
    Unsent,
    Sent,
    /// The server has responded, or will not.
    Answered,
}

/// Request of the client to which a response belongs.
pub(super) enum Answered {
    Passed,
    Governed(Sender<CallEvent>),
    Unknown,
}

impl Requests {
    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a request that passes.
    pub fn open_passed(&self, id: &RequestId) -> Result<(), &'static str> {
        let mut state = self.state();
        state.check(id)?;
        state.clients.insert(id.clone(), Open::Passed);
        Ok(())
    }

    /// Opens a governed request.
    pub fn open_governed(&self, id: &RequestId) -> Result<CallEvents, &'static str> {
        let mut state = self.state();
        state.check(id)?;
        if state.governed >= MAX_GOVERNED {
            return Err("expected fewer calls at the same time, found too many");
        }
        let (events, received) = channel();
        if state.has_ended {
            drop(events.send(CallEvent::Failed("the server has ended".to_owned())));
        }
        state.clients.insert(id.clone(), Open::Governed { events, phase: Phase::Unsent });
        state.governed += 1;
        Ok(received)
    }

    /// Opens a request of the gateway itself.
    pub fn open_own(&self, id: &RequestId) -> Result<CallEvents, &'static str> {
        let mut state = self.state();
        state.check(id)?;
        if state.has_ended {
            return Err("the server has ended");
        }
        let (events, received) = channel();
        state.clients.insert(id.clone(), Open::Governed { events, phase: Phase::Unsent });
        Ok(received)
    }

    /// Marks a governed request as sent. Returns false if it must not be sent, since it was cancelled or the server has ended.
    pub fn mark_sent(&self, id: &RequestId) -> bool {
        let mut state = self.state();
        let has_ended = state.has_ended;
        match state.clients.get_mut(id) {
            Some(Open::Governed { phase: phase @ Phase::Unsent, .. }) if !has_ended => {
                *phase = Phase::Sent;
                true
            }
            _ => false,
        }
    }

    /// Returns the request to which a response belongs. It accepts no other response.
    pub fn answer(&self, id: &RequestId) -> Answered {
        let mut state = self.state();
        if matches!(state.clients.get(id), Some(Open::Passed)) {
            state.clients.remove(id);
            return Answered::Passed;
        }
        match state.clients.get_mut(id) {
            Some(Open::Governed { events, phase: phase @ Phase::Sent }) => {
                *phase = Phase::Answered;
                Answered::Governed(events.clone())
            }
            _ => Answered::Unknown,
        }
    }

    /// Cancels a request of the client. Returns true if the server must learn of it.
    pub fn cancel(&self, id: &RequestId) -> bool {
        let mut state = self.state();
        match state.clients.get_mut(id) {
            // The server may answer it nevertheless.
            Some(Open::Passed) => true,
            Some(Open::Governed { events, phase }) => {
                let is_sent = *phase == Phase::Sent;
                if matches!(phase, Phase::Unsent | Phase::Sent) {
                    // Without a receiver, the request has ended.
                    drop(events.send(CallEvent::Cancelled));
                }
                if *phase == Phase::Unsent {
                    *phase = Phase::Answered;
                }
                is_sent
            }
            None => false,
        }
    }

    /// Cancels the governed requests that the server does not have.
    pub fn cancel_unsent(&self) {
        for open in self.state().clients.values_mut() {
            if let Open::Governed { events, phase: phase @ Phase::Unsent } = open {
                *phase = Phase::Answered;
                drop(events.send(CallEvent::Cancelled));
            }
        }
    }

    /// Closes a governed request, which is answered next.
    pub fn close_governed(&self, id: &RequestId) {
        self.state().clients.remove(id);
    }

    /// Ends a governed request, which has been closed and answered.
    pub fn finish_governed(&self) {
        let mut state = self.state();
        state.governed = state.governed.saturating_sub(1);
    }

    /// Returns the number of governed requests that have not ended.
    pub fn governed(&self) -> usize {
        self.state().governed
    }

    /// Ends all requests of the client. Returns those that passed, which nobody else answers.
    pub fn end(&self, reason: &str) -> Vec<RequestId> {
        let mut state = self.state();
        state.has_ended = true;
        for open in state.clients.values() {
            if let Open::Governed { events, .. } = open {
                drop(events.send(CallEvent::Failed(reason.to_owned())));
            }
        }
        let passed: Vec<RequestId> = state
            .clients
            .iter()
            .filter(|(_, open)| matches!(open, Open::Passed))
            .map(|(id, _)| id.clone())
            .collect();
        state.clients.retain(|_, open| !matches!(open, Open::Passed));
        passed
    }

    /// Opens a request of the server.
    pub fn open_servers(&self, id: &RequestId) -> Result<(), &'static str> {
        let mut state = self.state();
        if state.servers.len() >= MAX_OPEN {
            return Err("expected fewer open requests, found too many");
        }
        if !state.servers.contains(&id.twin()) && state.servers.insert(id.clone()) {
            return Ok(());
        }
        Err("expected a new id, found that of an open request")
    }

    /// Closes a request of the server. Returns false if there is none.
    pub fn close_servers(&self, id: &RequestId) -> bool {
        self.state().servers.remove(id)
    }
}

impl State {
    fn check(&self, id: &RequestId) -> Result<(), &'static str> {
        if self.clients.contains_key(id) || self.clients.contains_key(&id.twin()) {
            return Err("expected a new id, found that of an open request");
        }
        if self.clients.len() >= MAX_OPEN {
            return Err("expected fewer open requests, found too many");
        }
        Ok(())
    }
}
