//! Lookups in the topology by role.

use super::{Stage, Topic, Topology};
use crate::subject::Subject;

/// Error for a role that the topology does not fill. `topology check` finds it before a stage starts.
#[derive(Debug, thiserror::Error)]
pub enum MissingRole {
    /// No topic carries the schema.
    #[error("topology: expected one topic with schema `{0}`, found none")]
    Topic(&'static str),
    /// The topology has no such stage.
    #[error("topology: expected a stage `{0}`, found none")]
    Stage(String),
    /// No table is fed from the topic.
    #[error("topology: expected a table with `from: {0}`, found none")]
    Table(String),
    /// A stage refers to a topic that does not exist.
    #[error("topology: no topic `{0}`")]
    TopicName(String),
    /// A topic refers to a schema that does not exist or does not parse.
    #[error("topology: no schema `{0}`")]
    Schema(String),
    /// A stage lacks a required setting.
    #[error("topology: expected `{setting}` on stage `{stage}`, found none")]
    Setting {
        /// The stage.
        stage: &'static str,
        /// Key of the setting in topology.yaml.
        setting: &'static str,
    },
    /// A stage does not fold a topic of a required schema as a global table.
    #[error(
        "topology: expected topic `{topic}` (schema `{schema}`) in the global_tables of stage `{stage}`, found none; add it there"
    )]
    GlobalTable {
        /// The stage.
        stage: &'static str,
        /// The topic.
        topic: String,
        /// The schema.
        schema: &'static str,
    },
    /// A stage does not emit a topic of a required schema.
    #[error("topology: expected a topic with schema `{schema}` in the emits of stage `{stage}`, found none")]
    Output {
        /// The stage.
        stage: &'static str,
        /// The schema.
        schema: &'static str,
    },
}

impl Topology {
    /// Returns the principal with which a stage logs in to Kafka.
    pub fn principal_of<'t>(&'t self, stage: &'t str) -> Result<&'t str, MissingRole> {
        Ok(self.stage(stage)?.principal.as_ref().map_or(stage, |principal| principal.value.as_str()))
    }

    /// Returns name and topic for `subject`.
    pub fn topic_of(&self, subject: Subject) -> Result<(&str, &Topic), MissingRole> {
        self.topics
            .iter()
            .find(|(_, topic)| topic.value.schema.value == subject.name)
            .map(|(name, topic)| (name.as_str(), &topic.value))
            .ok_or(MissingRole::Topic(subject.name))
    }

    /// Returns the stage `name`.
    pub fn stage(&self, name: &str) -> Result<&Stage, MissingRole> {
        self.stages.get(name).map(|stage| &stage.value).ok_or_else(|| MissingRole::Stage(name.to_owned()))
    }

    /// Returns the store and table whose rows are the records of `topic`.
    pub fn table_from(&self, topic: &str) -> Result<(&str, &str), MissingRole> {
        self.stores
            .iter()
            .flat_map(|(store, s)| {
                s.value.tables.iter().map(move |(table, t)| (store.as_str(), table.as_str(), t))
            })
            .find(|(_, _, t)| t.value.from.as_ref().is_some_and(|from| from.value == topic))
            .map(|(store, table, _)| (store, table))
            .ok_or_else(|| MissingRole::Table(topic.to_owned()))
    }
}

/// Returns the schema registry's subject for the values of a topic (Confluent's TopicNameStrategy).
pub fn registry_subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// Returns the group id for clients that read topics from start to end. Such a client never joins the group and commits
/// nothing, but librdkafka requires a group id and looks up its coordinator. `of` is a stage or a topic.
pub fn reader_group(of: &str) -> String {
    format!("{of}.reader")
}

/// Group id of the audit, as of [`reader_group`].
pub const AUDIT_GROUP: &str = "agentgov.audit";

/// Group id of the decision points, as of [`reader_group`]. It does not depend on their names, so that one right is
/// enough for any number of them.
pub const DECISION_GROUP: &str = "agentgov.decisions";

/// Topology that is compiled into this build, as YAML.
pub const EMBEDDED: &str = include_str!("../../../topology.yaml");
