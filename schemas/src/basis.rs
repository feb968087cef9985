//! Inputs of verdicts besides the actions: subject `evaluation-basis`.
//!
//! The type borrows from the bytes that it is decoded from. A test holds its serde defaults to the schema's.

use serde::{Deserialize, Serialize};

use crate::verdict::TablePosition;

/// Inputs of the evaluator's verdicts besides the actions, for the actions of one partition from one offset on. The
/// partition's next record ends it (ADR 0039).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationBasis<'a> {
    /// Topic of the actions.
    pub topic: &'a str,
    /// Partition of the actions.
    pub partition: i32,
    /// First offset of the actions that are judged on this basis.
    pub from_offset: i64,
    /// Position of each global table that the evaluator folds, sorted by topic.
    #[serde(borrow)]
    pub tables: Vec<TablePosition<'a>>,
    /// Version of the kernel's rules.
    pub rules_version: i32,
    /// Version of agentgov that judged.
    pub build: &'a str,
    /// Number of partitions of the topic of actions.
    pub partitions: i32,
    /// Time after which a session without events expires, in milliseconds.
    pub session_ttl_ms: i64,
    /// Maximum number of facts and calls of a session.
    pub max_facts: i64,
    /// Maximum size of the facts and calls of a session, in bytes.
    pub max_bytes: i64,
}
