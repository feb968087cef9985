//! The interface between the HTTP server and what decides.

use std::future::Future;

use agentgov_policy::authzen::{AccessAction, AccessEntity, AccessRequest, Properties};

use crate::answer::Answer;
use crate::callers::Caller;

/// Decides. The HTTP server has read and checked the request, and knows the caller.
pub trait DecisionPoint: Send + Sync + 'static {
    /// Decides one request. `caller` is `None` where no token is asked for.
    ///
    /// # Errors
    /// If there is no decision: the caller gets an error, which is no allow.
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
}

/// A request for a decision.
#[derive(Clone, Copy, Debug)]
pub struct Question<'r> {
    /// Subject, action, resource and context.
    pub request: AccessRequest<'r>,
    /// The text of `context.arguments` as it came, byte for byte.
    pub arguments: Option<&'r str>,
}

/// Why there is no decision. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request cannot be answered as it stands: 400.
    Invalid(String),
    /// The caller may not ask this: 403.
    Forbidden(String),
    /// An invariant of ours does not hold: 500.
    Internal(String),
}

/// A request for everything of a kind that would be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Search<'r> {
    /// What is searched for.
    pub target: SearchTarget<'r>,
    /// Circumstances of the request.
    pub context: &'r Properties,
    /// Number of candidates that earlier pages have gone through.
    pub from: usize,
    /// Most results.
    pub limit: usize,
}

/// What is searched for, and the other parts of the request.
#[derive(Clone, Copy, Debug)]
pub enum SearchTarget<'r> {
    /// Subjects of a type.
    Subject {
        /// The type.
        kind: &'r str,
        /// What they would do.
        action: &'r AccessAction,
        /// To what they would do it.
        resource: &'r AccessEntity,
    },
    /// Resources of a type.
    Resource {
        /// The type.
        kind: &'r str,
        /// The subject.
        subject: &'r AccessEntity,
        /// What the subject would do.
        action: &'r AccessAction,
    },
    /// Actions.
    Action {
        /// The subject.
        subject: &'r AccessEntity,
        /// To what the subject would do it.
        resource: &'r AccessEntity,
    },
}

/// A page of results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// In order of the candidates.
    pub results: Vec<FoundResult>,
    /// Number of candidates gone through, if there are more.
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
    },
    /// An action.
    Action {
        /// Its name.
        name: String,
    },
}
