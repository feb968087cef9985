//! Sessions of a gateway that serves many agents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_sdk::{Event, Receipt, RecordError};

use crate::session::{Decider, Identity, Journal, Session};

/// Maximum number of sessions that are kept.
const MAX_SESSIONS: usize = 10_000;
/// Time after which a session without a request is forgotten. A later request of its agent opens it again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Opens logs, one for each tenant and environment.
pub trait Journals: Send + Sync {
    /// Returns the log of a tenant and an environment.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn open(&self, tenant_id: &str, environment: &str) -> Result<Arc<dyn Journal>, String>;
}

/// Session that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The session belongs to another agent.
    #[error("expected a session of this agent, found that of another one")]
    OtherAgent,
    /// There are too many sessions.
    #[error("expected at most {MAX_SESSIONS} open sessions, found one more")]
    Full,
    /// The log cannot be opened.
    #[error("the log of the session cannot be opened: {0}")]
    Journal(String),
}

/// Open sessions by tenant and id.
pub struct Sessions {
    decider: Arc<dyn Decider>,
    journals: Box<dyn Journals>,
    open: Mutex<HashMap<(String, String), OpenSession>>,
}

struct OpenSession {
    session: Arc<Session>,
    used_at: Instant,
}

impl Sessions {
    /// Creates an empty set.
    pub fn new(decider: Arc<dyn Decider>, journals: Box<dyn Journals>) -> Self {
        Self { decider, journals, open: Mutex::default() }
    }

    /// Returns the session of an agent, and true if it is new here.
    ///
    /// # Errors
    /// If it is another agent's, or cannot be opened.
    pub fn get(&self, identity: &Identity) -> Result<(Arc<Session>, bool), SessionError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (identity.tenant_id.clone(), identity.session_id.clone());
        if let Some(found) = open.get_mut(&key) {
            if found.session.identity() != identity {
                return Err(SessionError::OtherAgent);
            }
            found.used_at = Instant::now();
            return Ok((Arc::clone(&found.session), false));
        }
        if open.len() >= MAX_SESSIONS {
            // A session that a connection still uses is kept, or its events would not be known to its next question.
            open.retain(|_, open| {
                open.used_at.elapsed() < IDLE_TIMEOUT || Arc::strong_count(&open.session) > 1
            });
        }
        if open.len() >= MAX_SESSIONS {
            return Err(SessionError::Full);
        }
        let journal = self.journals.open(&identity.tenant_id, &identity.environment);
        let journal = journal.map_err(SessionError::Journal)?;
        let session = Session::new(identity.clone(), Box::new(Arc::clone(&self.decider)), Box::new(journal));
        let session = Arc::new(session);
        open.insert(key, OpenSession { session: Arc::clone(&session), used_at: Instant::now() });
        Ok((session, true))
    }
}

impl<D: Decider + ?Sized> Decider for Arc<D> {
    fn decide(
        &self,
        question: &agentgov_authzen_client::CallQuestion<'_>,
        max_wait: Duration,
    ) -> Result<agentgov_authzen_client::Decision, agentgov_authzen_client::AskError> {
        (**self).decide(question, max_wait)
    }

    fn permitted_tools(
        &self,
        question: &agentgov_authzen_client::CallQuestion<'_>,
    ) -> Result<Vec<agentgov_authzen_client::PermittedTool>, agentgov_authzen_client::AskError> {
        (**self).permitted_tools(question)
    }
}

impl<J: Journal + ?Sized> Journal for Arc<J> {
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        (**self).record(event)
    }

    fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        (**self).check(event)
    }

    fn source_id(&self) -> &str {
        (**self).source_id()
    }
}
