//! The context of a call, as policies see it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::tools::Finding;

/// Context of a call, computed from its arguments and its session before the policies judge it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    /// Derived values by name, without missing and erred values.
    pub derived: BTreeMap<String, Scalar>,
    /// Names of derived values whose expressions failed. A policy that reads one of them cannot decide.
    pub erred: BTreeSet<String>,
    /// Facts that the arguments of the call refer to, ordered by kind and key.
    pub facts: Vec<FactRef>,
    /// Errors, ordered by their names in tools.yaml.
    pub findings: Vec<Finding>,
}

/// Reference to a fact, by the event that carried it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FactRef {
    /// Key of the fact.
    pub key: String,
    /// Kind of the fact.
    pub kind: String,
    /// Offset of the event in the session's partition.
    pub offset: i64,
}

/// Derived value. Serialises as plain JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// Cedar's Bool.
    Bool(bool),
    /// Cedar's Long.
    Long(i64),
    /// Cedar's String.
    Text(String),
    /// Cedar's Set; all elements have one type.
    Set(BTreeSet<Scalar>),
}
