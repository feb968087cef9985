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
/// Maximum number of requests of one tenant that wait for the log.
const MAX_PENDING_OF_TENANT: usize = 1_000;
/// Time for which a request waits for the log, in milliseconds. If the log does not show it by then, no approval can follow from
/// it: a record before it took its place in the session, or it was not logged.
const PENDING_MILLIS: i64 = 30_000;

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

    fn is_of_session_of(&self, other: &Self) -> bool {
        self.session_id == other.session_id && self.tenant_id == other.tenant_id
    }
}

/// What this process knows of approvals ahead of the log.
#[derive(Debug, Default)]
pub(super) struct ApprovalsAhead(Mutex<Ahead>);

#[derive(Debug, Default)]
struct Ahead {
    /// Requests that wait for the log, by call.
    pending: HashMap<CallKey, Pending>,
    /// Approvals that decisions rely on, until their tokens expire.
    relied_on: HashMap<String, Millis>,
}

/// A request that waits for the log.
#[derive(Clone, Debug)]
struct Pending {
    id: String,
    asked_at: Millis,
    /// End of its validity.
    expires_at: Millis,
}

impl Pending {
    fn is_awaited(&self, now: Millis) -> bool {
        self.expires_at > now && self.asked_at.0.saturating_add(PENDING_MILLIS) > now.0
    }
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
    /// The requests of the session that wait for the log take all of its room.
    NoRoom,
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

    /// Forgets the requests of the call's session that the log shows.
    pub fn settle(&self, call: &CallKey, is_shown: impl Fn(&str) -> bool) {
        self.lock().pending.retain(|key, pending| !key.is_of_session_of(call) || !is_shown(&pending.id));
    }

    /// Forgets a request that could not be recorded.
    pub fn forget(&self, call: &CallKey, id: &str) {
        let mut ahead = self.lock();
        if ahead.pending.get(call).is_some_and(|pending| pending.id == id) {
            ahead.pending.remove(call);
        }
    }

    /// Adds the request `id` for a call, unless there is one. `room` is the number of approvals that the session of the call
    /// takes beside those that the log shows.
    pub fn ask(&self, call: CallKey, id: &str, expires_at: Millis, room: usize, now: Millis) -> Asking {
        let mut ahead = self.lock();
        ahead.pending.retain(|_, pending| pending.is_awaited(now));
        if let Some(pending) = ahead.pending.get(&call) {
            return Asking::Pending(pending.id.clone(), pending.expires_at);
        }
        let of_session = ahead.pending.keys().filter(|key| key.is_of_session_of(&call)).count();
        if of_session >= room {
            return Asking::NoRoom;
        }
        let of_tenant = ahead.pending.keys().filter(|key| key.tenant_id == call.tenant_id).count();
        if of_tenant >= MAX_PENDING_OF_TENANT || ahead.pending.len() >= MAX_PENDING {
            return Asking::Full;
        }
        ahead.pending.insert(call, Pending { id: id.to_owned(), asked_at: now, expires_at });
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

    fn ask(ahead: &ApprovalsAhead, call: CallKey, id: &str, expires_at: i64, now: i64) -> Asking {
        ahead.ask(call, id, Millis(expires_at), usize::MAX, Millis(now))
    }

    #[test]
    fn call_has_one_request_until_it_expires_or_the_log_shows_it() {
        let ahead = ApprovalsAhead::default();
        assert_eq!(ask(&ahead, key("pay"), "a", 100, 0), Asking::New);
        let pending = Asking::Pending("a".to_owned(), Millis(100));
        assert_eq!(ask(&ahead, key("pay"), "b", 200, 99), pending);
        assert_eq!(ask(&ahead, key("look"), "c", 200, 99), Asking::New, "another call");
        ahead.forget(&key("pay"), "b");
        let elsewhere = CallKey { session_id: "t".to_owned(), ..key("pay") };
        ahead.settle(&elsewhere, |_| true);
        ahead.settle(&key("look"), |id| id == "b");
        assert_eq!(ask(&ahead, key("pay"), "b", 200, 99), pending, "another request, another session");
        ahead.settle(&key("look"), |id| id == "a");
        assert_eq!(ask(&ahead, key("pay"), "b", 200, 99), Asking::New, "the log shows it");
        assert_eq!(ask(&ahead, key("look"), "d", 300, 200), Asking::New, "expired");
    }

    #[test]
    fn request_that_the_log_does_not_show_in_time_is_forgotten() {
        let ahead = ApprovalsAhead::default();
        ask(&ahead, key("pay"), "a", i64::MAX, 0);
        let pending = Asking::Pending("a".to_owned(), Millis(i64::MAX));
        assert_eq!(ask(&ahead, key("pay"), "b", i64::MAX, PENDING_MILLIS - 1), pending);
        assert_eq!(ask(&ahead, key("pay"), "b", i64::MAX, PENDING_MILLIS), Asking::New);
    }

    #[test]
    fn requests_of_a_session_that_wait_take_its_room() {
        let ahead = ApprovalsAhead::default();
        let room = |call, room| ahead.ask(call, "a", Millis(100), room, Millis(0));
        assert_eq!((room(key("1"), 2), room(key("2"), 2)), (Asking::New, Asking::New));
        assert_eq!(room(key("3"), 2), Asking::NoRoom);
        assert_eq!(room(key("1"), 0), Asking::Pending("a".to_owned(), Millis(100)), "asked before");
        let elsewhere = CallKey { session_id: "t".to_owned(), ..key("3") };
        assert_eq!(room(elsewhere, 2), Asking::New);
    }

    #[test]
    fn requests_are_bounded_in_all_and_per_tenant() {
        let ahead = ApprovalsAhead::default();
        let of =
            |tenant: usize, tool: usize| CallKey { tenant_id: tenant.to_string(), ..key(&tool.to_string()) };
        for tool in 0..MAX_PENDING_OF_TENANT {
            assert_eq!(ask(&ahead, of(0, tool), "a", 100, 0), Asking::New);
        }
        assert_eq!(ask(&ahead, of(0, MAX_PENDING_OF_TENANT), "a", 100, 99), Asking::Full);
        assert_eq!(ask(&ahead, of(1, 0), "a", 100, 99), Asking::New, "another tenant");
        let pending = |id: &str| Pending { id: id.to_owned(), asked_at: Millis(0), expires_at: Millis(100) };
        let all = (0..MAX_PENDING).map(|tenant| (of(tenant, 0), pending("a")));
        ahead.lock().pending = all.collect();
        assert_eq!(ask(&ahead, of(MAX_PENDING, 0), "a", 200, 99), Asking::Full);
        assert_eq!(ask(&ahead, of(MAX_PENDING, 0), "a", 200, 100), Asking::New);
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
