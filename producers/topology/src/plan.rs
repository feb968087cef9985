//! Differences between the topology and the live state, as text and as JSON.

use std::fmt;

use agentgov_connect::Endpoints;
use agentgov_schemas::escape::Escaped;
use agentgov_schemas::topology::Topology;
use serde::Serialize;

use crate::{ClusterReadError, compare, live};

/// Compares the topology with Kafka and the schema registry, and changes nothing. Blocks: three requests to Kafka, and a few
/// to the schema registry for each subject.
pub fn plan(topology: &Topology, endpoints: &Endpoints) -> Result<Plan, ClusterReadError> {
    Ok(compare::compare(topology, &live::read(topology, endpoints)?))
}

/// All differences, in the order in which `apply` removes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The differences.
    pub differences: Vec<Difference>,
    /// Remarks that are no difference: topics that are not in the topology.
    pub notes: Vec<String>,
    /// Number of topics in the topology.
    pub topics: usize,
    /// Number of subjects in the topology.
    pub subjects: usize,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Kind of the differing object.
    pub kind: Kind,
    /// Name of the topic or subject.
    pub name: String,
    /// The differing property.
    pub aspect: Aspect,
    /// Value in the topology.
    pub expected: String,
    /// Live value.
    pub found: String,
    /// Reaction of `apply`.
    #[serde(flatten)]
    pub action: Action,
}

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A Kafka topic.
    Topic,
    /// A schema registry's subject.
    Subject,
}

/// Property of a topic or subject. In JSON a string: `topic`, `partitions`, `replication`, the name of a setting,
/// `compatibility` or `version N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// The topic itself: it does not exist.
    Whole,
    /// Number of partitions.
    Partitions,
    /// Number of replicas.
    Replication,
    /// A setting, by Kafka's name.
    Setting(&'static str),
    /// Compatibility level of a subject.
    Compatibility,
    /// A version of a subject, from 1.
    Version(usize),
}

impl Serialize for Aspect {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("topic"),
            Self::Partitions => f.write_str("partitions"),
            Self::Replication => f.write_str("replication"),
            Self::Setting(name) => f.write_str(name),
            Self::Compatibility => f.write_str("compatibility"),
            Self::Version(number) => write!(f, "version {number}"),
        }
    }
}

/// Reaction of `apply` to a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Creates the object or value.
    Create,
    /// Changes the value, without losing a record.
    Change,
    /// Refuses all changes of the plan, since this one could lose records.
    Refuse {
        /// Advice for the operator.
        to_do: String,
    },
}

impl Plan {
    /// Returns true if there is no difference.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// Returns the differences that `apply` refuses to remove.
    pub fn refused(&self) -> impl Iterator<Item = &Difference> {
        self.differences.iter().filter(|difference| matches!(difference.action, Action::Refuse { .. }))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Subject => "subject",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, aspect, expected, found, action } = self;
        // Settings and levels are unchecked text from Kafka and the schema registry.
        let (name, aspect) = (Escaped(name), Escaped(aspect));
        let (expected, found) = (Escaped(expected), Escaped(found));
        match action {
            Action::Create if self.aspect == Aspect::Whole => write!(f, "+ create  {kind} {name} {expected}"),
            Action::Create => write!(f, "+ create  {kind} {name}: {aspect} {expected} (found {found})"),
            Action::Change => write!(f, "~ change  {kind} {name}: {aspect} {found} -> {expected}"),
            Action::Refuse { to_do } => {
                write!(
                    f,
                    "! refuse  {kind} {name}: {aspect}: expected {expected}, found {found}; {}",
                    Escaped(to_do)
                )
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note    {}", Escaped(note))?;
        }
        let (topics, subjects) = (self.topics, self.subjects);
        let refused = self.refused().count();
        let rest = self.differences.len() - refused;
        match (rest, refused) {
            (0, 0) => write!(f, "the cluster matches the topology: {topics} topics, {subjects} subjects"),
            (rest, 0) => write!(f, "{rest} to apply, of {topics} topics and {subjects} subjects"),
            (rest, refused) => write!(
                f,
                "{refused} refused and {rest} to apply, of {topics} topics and {subjects} subjects; nothing is applied \
                 while one is refused"
            ),
        }
    }
}
