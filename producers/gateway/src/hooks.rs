//! Hooks of coding agents: decides each call that an agent announces, and records calls, results, prompts and sessions.
//!
//! - [`agent`]: the agents, their events and the names of their tools
//! - [`payload`]: what an agent sends · [`reply`]: what it gets
//! - [`client`]: the command that an agent runs; every doubt blocks · [`settings`]: how an agent finds it
//!
//! [`Hooks::answer`] is a function of an agent and a body, over the decisions and the log of [`crate::session`].

pub mod agent;
mod calls;
pub mod client;
pub mod payload;
pub mod reply;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentgov_schemas::catalogue;
use serde_json::json;
use uuid::Uuid;

use self::agent::CodingAgent;
use self::calls::OpenCalls;
use self::payload::{HookCall, HookEvent, HookResult, Payload};
use self::reply::HookReply;
use crate::reply::denial_text;
use crate::session::{Call, CallResult, Identity, Session};
use crate::sessions::{SessionError, Sessions};

/// Type of the event that names the agent's hooks as the source of a session's calls.
pub const HOOKS_ATTACHED: &str = "hooks.attached";
/// Maximum number of sessions whose state is kept. Beyond it, the one that was used least recently is forgotten: the source of its
/// calls is recorded again, and open calls without an id lose their results.
const MAX_SESSIONS: usize = 10_000;

/// Client whose hooks call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The environment.
    pub environment: &'a str,
    /// The agent.
    pub agent_id: &'a str,
}

impl Owner<'_> {
    /// Returns true if a session is of this client.
    pub fn has(&self, identity: &Identity) -> bool {
        (self.tenant_id, self.environment, self.agent_id)
            == (&*identity.tenant_id, &*identity.environment, &*identity.agent_id)
    }
}

/// Hook without an answer. It blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// The body is not what the agent sends.
    #[error("{0}")]
    Malformed(String),
    /// The session belongs to another agent.
    #[error("{0}")]
    Forbidden(String),
    /// The call is not decided, or something is not recorded.
    #[error("{0}")]
    Failed(String),
}

/// The hooks of coding agents. They share their sessions with the MCP servers of the gateway.
pub struct Hooks {
    sessions: Arc<Sessions>,
    states: Mutex<States>,
}

/// State of the sessions, with the number of its last use.
#[derive(Default)]
struct States {
    of: HashMap<Identity, (u64, Arc<Mutex<State>>)>,
    uses: u64,
}

#[derive(Default)]
struct State {
    is_attached: bool,
    calls: OpenCalls,
}

/// A session, as its hooks use it.
struct HookSession {
    session: Arc<Session>,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl Hooks {
    /// Creates the hooks of a gateway.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, states: Mutex::default() }
    }

    /// Answers a hook. Every error must block what the agent is about to do. Calls of MCP servers that `is_behind_gateway` are
    /// left to the gateway, which decides them itself.
    ///
    /// # Errors
    /// If the body is malformed, the call is not decided, or something is not recorded.
    pub fn answer(
        &self,
        agent: CodingAgent,
        owner: &Owner<'_>,
        body: &[u8],
        is_behind_gateway: impl FnOnce(&str) -> bool,
    ) -> Result<HookReply, HookError> {
        let body = std::str::from_utf8(body)
            .map_err(|error| HookError::Malformed(format!("expected UTF-8: {error}")))?;
        let payload = Payload::read(agent, body).map_err(HookError::Malformed)?;
        let allowed = HookReply::allowed(agent, &payload.event);
        if let HookEvent::Before(call) | HookEvent::After(call, _) = &payload.event
            && call.server.as_deref().is_some_and(is_behind_gateway)
        {
            return Ok(allowed);
        }
        let identity = Identity {
            tenant_id: owner.tenant_id.to_owned(),
            environment: owner.environment.to_owned(),
            agent_id: owner.agent_id.to_owned(),
            session_id: payload.session_id.into_owned(),
        };
        let session = self.session(&identity)?;
        match &payload.event {
            HookEvent::SessionStarted { is_new } => {
                if *is_new {
                    session.session.record_plain(catalogue::SESSION_STARTED).map_err(failed)?;
                }
                session.attach(agent)?;
            }
            HookEvent::SessionEnded => {
                session.session.record_plain(catalogue::SESSION_ENDED).map_err(failed)?;
                self.states().of.remove(&identity);
            }
            HookEvent::Prompt(text) => {
                session.attach(agent)?;
                let message_id = Uuid::now_v7().to_string();
                session.session.record_user_input(&message_id, text).map_err(failed)?;
            }
            HookEvent::Before(call) => {
                session.attach(agent)?;
                if let Some(reason) = session.decide(agent, call)? {
                    return Ok(HookReply::denied(agent, &payload.event, reason));
                }
            }
            HookEvent::After(call, result) => {
                session.attach(agent)?;
                session.record_result(agent, call, result)?;
            }
        }
        Ok(allowed)
    }

    fn states(&self) -> MutexGuard<'_, States> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, identity: &Identity) -> Result<HookSession, HookError> {
        let (session, _) = self.sessions.get(identity).map_err(|error| match error {
            SessionError::OtherAgent => HookError::Forbidden(error.to_string()),
            error => HookError::Failed(error.to_string()),
        })?;
        let mut states = self.states();
        states.uses += 1;
        let now = states.uses;
        if let Some((used, state)) = states.of.get_mut(identity) {
            *used = now;
            return Ok(HookSession { session, state: Arc::clone(state) });
        }
        if states.of.len() >= MAX_SESSIONS {
            let oldest = states.of.iter().min_by_key(|(_, (used, _))| *used);
            let oldest = oldest.map(|(identity, _)| identity.clone());
            oldest.map(|oldest| states.of.remove(&oldest));
        }
        let state = Arc::new(Mutex::default());
        states.of.insert(identity.clone(), (now, Arc::clone(&state)));
        Ok(HookSession { session, state })
    }
}

impl HookSession {
    fn state(&self) -> MutexGuard<'_, State> {
        // As above.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records once where the calls of the session come from: transcripts and telemetry of the agent have them, too, under other
    /// names.
    fn attach(&self, agent: CodingAgent) -> Result<(), HookError> {
        let mut state = self.state();
        if !state.is_attached {
            let note = json!({ "client": agent.name(), "calls": "hooks" });
            self.session.record_note(HOOKS_ATTACHED, &note.to_string()).map_err(failed)?;
            state.is_attached = true;
        }
        Ok(())
    }

    /// Decides a call. Returns why it is denied, `None` if it is allowed.
    fn decide(&self, agent: CodingAgent, call: &HookCall<'_>) -> Result<Option<String>, HookError> {
        let derived = call.call_id.is_none().then(|| self.state().calls.derive(agent, call));
        let call_id = call.call_id.as_deref().or(derived.as_deref()).unwrap_or_default();
        let asked = Call {
            tool: &call.tool,
            call_id,
            arguments: &call.arguments,
            is_retry: false,
            definition: None,
            trace: None,
        };
        let decision = self.session.decide(&asked, true).map_err(failed)?;
        if !decision.is_allowed() {
            return Ok(Some(denial_text(&decision)));
        }
        if let Some(call_id) = derived {
            self.state().calls.open(call, call_id);
        }
        Ok(None)
    }

    fn record_result(
        &self,
        agent: CodingAgent,
        call: &HookCall<'_>,
        result: &HookResult<'_>,
    ) -> Result<(), HookError> {
        let derived = call.call_id.is_none().then(|| {
            let calls = &mut self.state().calls;
            // The call was announced to another process of the gateway.
            calls.close(call).unwrap_or_else(|| calls.derive(agent, call))
        });
        let call_id = call.call_id.as_deref().or(derived.as_deref()).unwrap_or_default();
        let result =
            CallResult { content: &result.content, is_error: result.is_error, is_failure: result.is_failure };
        self.session.record_result(&call.tool, call_id, &result).map_err(failed)
    }
}

fn failed(error: impl fmt::Display) -> HookError {
    HookError::Failed(error.to_string())
}
