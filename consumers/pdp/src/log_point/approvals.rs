//! Approvals that this process knows of and the log does not show yet.
//!
//! ```text
//!   ask   ─► the session has an open approval of this call? ─► its id
//!            otherwise this process has asked for one?      ─► its id
//!            otherwise                                      ─► a new one: approval.asked
//!   allow ─► an approval is relied on by one decision at a time, until the token of that decision expires
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentgov_schemas::event::{self, Actor, Agent, Trace};
use agentgov_schemas::{Digest, Micros, Millis};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::question::CallQuestion;

/// Maximum number of requests that wait for the log. A further call gets no request.
const MAX_PENDING: usize = 10_000;

/// Content of an `approval.asked` event.
#[derive(Clone, Debug)]
pub struct AskedApproval<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The environment.
    pub environment: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// The agent that wants to make the call.
    pub agent: Agent<'a>,
    /// Person or service for which the agent acts.
    pub actor: Option<Actor<'a>>,
    /// Trace of the request.
    pub trace: Option<Trace<'a>>,
    /// Time at which the call was decided.
    pub occurred_at: Micros,
    /// The request.
    pub approval: event::Approval<'a>,
}

/// Request for an approval, as a response names it: `access_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AccessRequest {
    /// Id of the evaluation that asked.
    pub id: String,
    pub expires_at: Millis,
    /// Name of the person who refused.
    pub refused_by: Option<String>,
}

impl AccessRequest {
    pub fn to_json(&self) -> Value {
        let expires_at = DateTime::from_timestamp_millis(self.expires_at.0);
        let expires_at = expires_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
        match &self.refused_by {
            None => json!({ "evaluation_id": self.id, "expires_at": expires_at, "state": "open" }),
            Some(approver) => json!({
                "evaluation_id": self.id,
                "expires_at": expires_at,
                "state": "refused",
                "message": format!("{approver} refused this call; ask again after expires_at"),
            }),
        }
    }
}

/// A call that approvals are bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CallKey {
    tenant_id: String,
    environment: String,
    session_id: String,
    agent_id: String,
    tool: String,
    arguments: Digest,
}

impl CallKey {
    pub fn of(call: &CallQuestion<'_>) -> Self {
        Self {
            tenant_id: call.tenant_id.to_owned(),
            environment: call.environment.to_owned(),
            session_id: call.session_id.to_owned(),
            agent_id: call.agent_id.to_owned(),
            tool: call.tool.to_owned(),
            arguments: call.arguments_sha256,
        }
    }
}

/// What this process knows of approvals ahead of the log.
#[derive(Debug, Default)]
pub(super) struct ApprovalsAhead(Mutex<Ahead>);

#[derive(Debug, Default)]
struct Ahead {
    /// Requests by call, each with its id and the end of its validity.
    pending: HashMap<CallKey, (String, Millis)>,
    /// Approvals that decisions rely on, until their tokens expire.
    relied_on: HashMap<String, Millis>,
}

/// Result of [`ApprovalsAhead::ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// The request is new: record it.
    New,
    /// This process has asked already.
    Pending(String, Millis),
    /// Too many requests wait for the log.
    Full,
}

impl ApprovalsAhead {
    fn lock(&self) -> MutexGuard<'_, Ahead> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the ids of the approvals that decisions rely on.
    pub fn relied_on(&self, now: Millis) -> Vec<String> {
        let mut ahead = self.lock();
        ahead.relied_on.retain(|_, until| *until > now);
        ahead.relied_on.keys().cloned().collect()
    }

    /// Reserves an approval for a decision. Returns false if another decision relies on it.
    pub fn rely_on(&self, id: &str, until: Millis, now: Millis) -> bool {
        let mut ahead = self.lock();
        if ahead.relied_on.get(id).is_some_and(|until| *until > now) {
            return false;
        }
        ahead.relied_on.insert(id.to_owned(), until);
        true
    }

    /// Ends a reservation whose decision was not given.
    pub fn release(&self, id: &str) {
        self.lock().relied_on.remove(id);
    }

    /// Returns the id of the request that this process has made for a call.
    pub fn pending(&self, call: &CallKey, now: Millis) -> Option<String> {
        let ahead = self.lock();
        ahead.pending.get(call).filter(|(_, until)| *until > now).map(|(id, _)| id.clone())
    }

    /// Forgets a request that the log shows, or that could not be recorded.
    pub fn forget(&self, call: &CallKey, id: &str) {
        let mut ahead = self.lock();
        if ahead.pending.get(call).is_some_and(|(pending, _)| pending == id) {
            ahead.pending.remove(call);
        }
    }

    /// Adds the request `id` for a call, unless there is one.
    pub fn ask(&self, call: CallKey, id: &str, expires_at: Millis, now: Millis) -> Asking {
        let mut ahead = self.lock();
        if let Some((pending, until)) = ahead.pending.get(&call).filter(|(_, until)| *until > now) {
            return Asking::Pending(pending.clone(), *until);
        }
        if ahead.pending.len() >= MAX_PENDING {
            ahead.pending.retain(|_, (_, until)| *until > now);
        }
        if ahead.pending.len() >= MAX_PENDING {
            return Asking::Full;
        }
        ahead.pending.insert(call, (id.to_owned(), expires_at));
        Asking::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tool: &str) -> CallKey {
        CallKey {
            tenant_id: "acme".to_owned(),
            environment: "production".to_owned(),
            session_id: "s".to_owned(),
            agent_id: "bot".to_owned(),
            tool: tool.to_owned(),
            arguments: Digest::of(b"{}"),
        }
    }

    #[test]
    fn call_has_one_request_until_it_expires_or_the_log_shows_it() {
        let ahead = ApprovalsAhead::default();
        assert_eq!(ahead.ask(key("pay"), "a", Millis(100), Millis(0)), Asking::New);
        let pending = Asking::Pending("a".to_owned(), Millis(100));
        assert_eq!(ahead.ask(key("pay"), "b", Millis(200), Millis(99)), pending);
        assert_eq!(ahead.ask(key("look"), "c", Millis(200), Millis(99)), Asking::New, "another call");
        ahead.forget(&key("pay"), "b");
        assert_eq!(ahead.pending(&key("pay"), Millis(99)).as_deref(), Some("a"), "another request");
        ahead.forget(&key("pay"), "a");
        assert_eq!(ahead.pending(&key("pay"), Millis(99)), None);
        assert_eq!(ahead.ask(key("look"), "d", Millis(300), Millis(200)), Asking::New, "expired");
    }

    #[test]
    fn requests_are_bounded() {
        let ahead = ApprovalsAhead::default();
        for number in 0..MAX_PENDING {
            ahead.ask(key(&number.to_string()), "a", Millis(100), Millis(0));
        }
        assert_eq!(ahead.ask(key("more"), "a", Millis(100), Millis(99)), Asking::Full);
        assert_eq!(ahead.ask(key("more"), "a", Millis(200), Millis(100)), Asking::New);
        assert_eq!(ahead.lock().pending.len(), 1);
    }

    #[test]
    fn approval_is_relied_on_by_one_decision_at_a_time() {
        let ahead = ApprovalsAhead::default();
        assert!(ahead.rely_on("a", Millis(60), Millis(0)));
        assert!(!ahead.rely_on("a", Millis(90), Millis(59)));
        assert_eq!(ahead.relied_on(Millis(59)), ["a"]);
        assert!(ahead.relied_on(Millis(60)).is_empty() && ahead.rely_on("a", Millis(120), Millis(60)));
        ahead.release("a");
        assert!(ahead.rely_on("a", Millis(120), Millis(60)));
    }

    #[test]
    fn refused_request_names_the_person() {
        let mut request = AccessRequest { id: "a".to_owned(), expires_at: Millis(0), refused_by: None };
        let open = json!({"evaluation_id": "a", "expires_at": "1970-01-01T00:00:00.000Z", "state": "open"});
        assert_eq!(request.to_json(), open);
        request.refused_by = Some("grace".to_owned());
        assert_eq!(request.to_json()["state"], "refused");
        assert_eq!(request.to_json()["message"], "grace refused this call; ask again after expires_at");
    }
}
