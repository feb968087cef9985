//! Interface between the HTTP server and the decision points.

use std::future::Future;
use std::time::{Duration, Instant};

use agentgov_policy::authzen::{AccessAction, AccessEntity, AccessRequest, Properties};
use agentgov_service::Health;
use serde_json::Value;

use crate::answer::Answer;
use crate::callers::Caller;

/// Source of decisions. The HTTP server has parsed the request and authenticated the caller.
pub trait DecisionPoint: Send + Sync + 'static {
    /// Decides one request. `caller` is `None` if the server requires no token.
    ///
    /// # Errors
    /// If there is no decision. The caller then gets an error, never an allow.
    fn evaluate(
        &self,
        caller: Option<&Caller>,
        question: Question<'_>,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send;

    /// Lists known entities or actions that would be allowed. Records nothing.
    ///
    /// # Errors
    /// If there is no result.
    fn search(
        &self,
        caller: Option<&Caller>,
        search: Search<'_>,
    ) -> impl Future<Output = Result<Found, Refusal>> + Send;

    /// Returns the public keys of decision points as a JSON Web Key Set; `None` if it signs nothing.
    ///
    /// # Errors
    /// The reason why they are not known yet.
    fn jwks(&self) -> Result<Option<Value>, String> {
        Ok(None)
    }

    /// Reports its own readiness, and records its metrics. Called before the first request, and then each second.
    fn report(&self, _health: &Health) {}
}

/// A request for a decision.
#[derive(Clone, Copy, Debug)]
pub struct Question<'r> {
    /// Subject, action, resource and context.
    pub request: AccessRequest<'r>,
    /// Text of `context.arguments`, byte for byte.
    pub arguments: Option<&'r str>,
    /// Time at which the request arrived. The evaluations of a batch share it.
    pub received_at: Instant,
}

impl Question<'_> {
    /// Returns the rest of a timeout that all evaluations of the request share.
    pub fn remaining(&self, timeout: Duration) -> Duration {
        timeout.saturating_sub(self.received_at.elapsed())
    }
}

/// Reason why there is no decision. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is invalid: 400.
    Invalid(String),
    /// The caller may not ask for this: 403.
    Forbidden(String),
    /// A violated invariant of agentgov: 500.
    Internal(String),
}

/// Request for all entities or actions that would be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Search<'r> {
    /// Searched part of the request.
    pub target: SearchTarget<'r>,
    /// Context of the request.
    pub context: &'r Properties,
    /// Text of `context.arguments`, byte for byte.
    pub arguments: Option<&'r str>,
    /// Time at which the request arrived.
    pub received_at: Instant,
    /// Number of candidates that earlier pages have checked.
    pub from: usize,
    /// Maximum number of results.
    pub limit: usize,
}

/// Searched part, with the other parts of the request.
#[derive(Clone, Copy, Debug)]
pub enum SearchTarget<'r> {
    /// Subjects of a type.
    Subject {
        /// The type.
        kind: &'r str,
        /// Action of the subjects.
        action: &'r AccessAction,
        /// Resource of the action.
        resource: &'r AccessEntity,
    },
    /// Resources of a type.
    Resource {
        /// The type.
        kind: &'r str,
        /// The subject.
        subject: &'r AccessEntity,
        /// Action of the subject.
        action: &'r AccessAction,
    },
    /// Actions.
    Action {
        /// The subject.
        subject: &'r AccessEntity,
        /// Resource of the actions.
        resource: &'r AccessEntity,
    },
}

/// A page of results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// In order of the candidates.
    pub results: Vec<FoundResult>,
    /// Number of candidates checked so far, if there are more.
    pub next: Option<usize>,
}

/// A result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundResult {
    /// A subject or a resource.
    Entity {
        /// Its type.
        kind: String,
        /// Its id.
        id: String,
        /// Its properties, as far as a caller needs them.
        properties: Properties,
    },
    /// An action.
    Action {
        /// Its name.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_counts_from_the_arrival_of_the_request() {
        let (entity, action, context) = (AccessEntity::default(), AccessAction::default(), Properties::new());
        let request =
            AccessRequest { subject: &entity, action: &action, resource: &entity, context: &context };
        let timeout = Duration::from_secs(60);
        let remaining = |ago: u64| {
            let received_at = Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
            Question { request, arguments: None, received_at }.remaining(timeout)
        };
        assert_eq!(remaining(61), Duration::ZERO);
        assert!((Duration::from_secs(1)..=Duration::from_secs(20)).contains(&remaining(40)));
        assert!(remaining(0) <= timeout);
    }
}
