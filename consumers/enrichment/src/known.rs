//! What is known of one call.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::tools::Finding;

/// What is known of one call, before the policies judge it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    /// Derived values by name. Values that are not known and values that erred are absent.
    pub derived: BTreeMap<String, Scalar>,
    /// Names of derived values that could not be computed: a policy that mentions one cannot be judged.
    pub erred: BTreeSet<String>,
    /// Facts that the call's arguments refer to, in order of kind and key.
    pub facts: Vec<FactRef>,
    /// Every error on the way, in the order of tools.yaml's names.
    pub findings: Vec<Finding>,
}

/// A fact that a call refers to, by the event that said it. Its content stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FactRef {
    /// Its key.
    pub key: String,
    /// Its kind.
    pub kind: String,
    /// Offset of the event that said it, in the session's partition.
    pub offset: i64,
}

/// A derived value. To people and programs: JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// Cedar's Bool.
    Bool(bool),
    /// Cedar's Long.
    Long(i64),
    /// Cedar's String.
    Text(String),
    /// Cedar's Set, of values of one type.
    Set(BTreeSet<Scalar>),
}
