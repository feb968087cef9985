//! The differences between the topology and the world, for people and for programs.

use std::fmt;

use agentgov_connect::Endpoints;
use agentgov_schemas::escape::Escaped;
use agentgov_schemas::topology::Topology;
use serde::Serialize;

use crate::{ClusterReadError, compare, look};

/// Compares the topology with what is there, and changes nothing. Blocks: one look at Kafka, a few calls a subject.
pub fn plan(topology: &Topology, endpoints: &Endpoints) -> Result<Plan, ClusterReadError> {
    Ok(compare::compare(topology, &look::look(topology, endpoints)?))
}

/// Every difference, in the order in which `apply` would remove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What differs.
    pub differences: Vec<Difference>,
    /// What is worth knowing, and no difference: topics that the topology does not know.
    pub notes: Vec<String>,
    /// How many topics the topology has.
    pub topics: usize,
    /// How many subjects the topology has.
    pub subjects: usize,
}

/// One thing that is not as the topology says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind of thing differs.
    pub kind: Kind,
    /// The topic or subject.
    pub name: String,
    /// What of it.
    pub aspect: Aspect,
    /// What the topology says.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What `apply` does about it.
    #[serde(flatten)]
    pub action: Action,
}

/// What can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A Kafka topic.
    Topic,
    /// A schema registry's subject.
    Subject,
}

/// What of a topic or subject differs. To programs a text: `topic`, `partitions`, `replication`, the setting's name,
/// `compatibility`, `version N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// All of a topic: it is not there.
    Whole,
    /// Its number of partitions.
    Partitions,
    /// Its number of replicas.
    Replication,
    /// One of its settings, by Kafka's name.
    Setting(&'static str),
    /// A subject's compatibility level.
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

/// What `apply` does about a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Creates what is not there.
    Create,
    /// Changes what is there. Nothing is lost.
    Change,
    /// Nothing, and nothing else either: something could be lost.
    Refuse {
        /// What a person can do.
        to_do: String,
    },
}

impl Plan {
    /// True if the world is as the topology says.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// The differences that `apply` refuses to remove.
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
        // Settings and levels are as the cluster and the registry returned them.
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
