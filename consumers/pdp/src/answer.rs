//! Responses in the format of AuthZEN.

use std::sync::Arc;

use agentgov_policy::Policy;
use agentgov_policy::authzen::{EvaluationError, Properties};
use agentgov_schemas::Digest;
use agentgov_schemas::verdict::Decision;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::point::{FoundResult, Refusal};

/// A decision, with its reasons.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The decision. The response's `decision` is true for an allow only.
    pub decision: Decision,
    /// Reason of the decision, as an identifier.
    pub reason: &'static str,
    /// Policies that determine the decision.
    pub policies: Vec<Arc<Policy>>,
    /// Rules in observe mode that apply.
    pub observed: Vec<Arc<Policy>>,
    /// Errors of the evaluation.
    pub errors: Vec<EvaluationError>,
    /// Id of this evaluation.
    pub evaluation_id: Uuid,
    /// The bundle that decided, if there is one.
    pub bundle: Option<BundleId>,
    /// True if the decision is recorded in the log.
    pub recorded: bool,
    /// Further members of `context`.
    pub more: Properties,
}

/// Identity of a bundle in a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleId {
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// SHA-256 over its files.
    pub digest: Digest,
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("decision", &(self.decision == Decision::Allow))?;
        map.serialize_entry("context", &AnswerContext(self))?;
        map.end()
    }
}

struct AnswerContext<'a>(&'a Answer);

impl Serialize for AnswerContext<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Answer { decision, reason, policies, observed, errors, evaluation_id, bundle, recorded, more } =
            self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("outcome", decision.as_str())?;
        map.serialize_entry("reason", reason)?;
        map.serialize_entry("policies", &PolicyList(policies))?;
        let remediation: Vec<&str> =
            policies.iter().filter_map(|policy| policy.remediation.as_deref()).collect();
        map.serialize_entry("remediation", &remediation)?;
        if !observed.is_empty() {
            map.serialize_entry("observed", &PolicyList(observed))?;
        }
        if !errors.is_empty() {
            map.serialize_entry("errors", &ErrorList(errors))?;
        }
        let mut id = Uuid::encode_buffer();
        map.serialize_entry("evaluation_id", &*evaluation_id.hyphenated().encode_lower(&mut id))?;
        if let Some(bundle) = bundle {
            map.serialize_entry("bundle", bundle)?;
        }
        map.serialize_entry("recorded", recorded)?;
        for (name, value) in more {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct PolicyList<'a>(&'a [Arc<Policy>]);

impl Serialize for PolicyList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|policy| PolicyEntry(policy)))
    }
}

struct PolicyEntry<'a>(&'a Policy);

impl Serialize for PolicyEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.0.id)?;
        if let Some(title) = &self.0.title {
            map.serialize_entry("title", title)?;
        }
        map.end()
    }
}

struct ErrorList<'a>(&'a [EvaluationError]);

impl Serialize for ErrorList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            at: &'a str,
            message: &'a str,
        }
        serializer.collect_seq(self.0.iter().map(|error| Entry { at: &error.at, message: &error.message }))
    }
}

impl Serialize for BundleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("name", &*self.name)?;
        map.serialize_entry("version", &*self.version)?;
        map.serialize_entry("digest", &self.digest.to_string())?;
        map.end()
    }
}

/// Response to a batch.
#[derive(Serialize)]
pub(crate) struct Evaluations {
    pub(crate) evaluations: Vec<BatchItem>,
}

/// Result within a batch. An evaluation that could not be decided is denied, with the reason.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum BatchItem {
    Answered(Box<Answer>),
    Failed {
        /// Always false.
        decision: bool,
        context: FailedContext,
    },
}

#[derive(Serialize)]
pub(crate) struct FailedContext {
    error: FailedItem,
}

#[derive(Serialize)]
struct FailedItem {
    status: u16,
    message: String,
}

impl BatchItem {
    pub(crate) fn new(result: Result<Answer, Refusal>) -> Self {
        match result {
            Ok(answer) => Self::Answered(Box::new(answer)),
            Err(refusal) => {
                let (status, message) = refusal.status();
                let context = FailedContext { error: FailedItem { status, message } };
                Self::Failed { decision: false, context }
            }
        }
    }

    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self, Self::Answered(answer) if answer.decision == Decision::Allow)
    }
}

impl Refusal {
    /// Returns the HTTP status and the message.
    pub(crate) fn status(self) -> (u16, String) {
        match self {
            Self::Invalid(message) => (400, message),
            Self::Forbidden(message) => (403, message),
            Self::Internal(message) => (500, message),
        }
    }
}

/// A page of a search.
#[derive(Serialize)]
pub(crate) struct SearchPage {
    pub(crate) page: PageInfo,
    pub(crate) results: Vec<FoundResult>,
}

#[derive(Serialize)]
pub(crate) struct PageInfo {
    /// Empty: there are no more results.
    pub(crate) next_token: String,
    /// Results in this page.
    pub(crate) count: usize,
}

impl Serialize for FoundResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Entity { kind, id, properties } => {
                map.serialize_entry("type", kind)?;
                map.serialize_entry("id", id)?;
                if !properties.is_empty() {
                    map.serialize_entry("properties", properties)?;
                }
            }
            Self::Action { name } => map.serialize_entry("name", name)?,
        }
        map.end()
    }
}
