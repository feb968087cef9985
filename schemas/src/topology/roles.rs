//! What the topology says of a role.

use super::{Stage, Topic, Topology};
use crate::subject::Subject;

/// A role that the topology does not fill. `topology check` finds these before anything starts.
#[derive(Debug, thiserror::Error)]
pub enum MissingRole {
    /// No topic carries the schema.
    #[error("topology: expected one topic with schema `{0}`, found none")]
    Topic(&'static str),
    /// No such stage.
    #[error("topology: expected a stage `{0}`, found none")]
    Stage(String),
    /// No table is fed from the topic.
    #[error("topology: expected a table with `from: {0}`, found none")]
    Table(String),
    /// A stage names a topic that is not there.
    #[error("topology: no topic `{0}`")]
    TopicName(String),
    /// A topic names a schema that is not there, or one that cannot be read.
    #[error("topology: no schema `{0}`")]
    Schema(String),
    /// A stage lacks a setting that it needs.
    #[error("topology: expected `{setting}` on stage `{stage}`, found none")]
    Setting {
        /// The stage.
        stage: &'static str,
        /// The setting, as topology.yaml names it.
        setting: &'static str,
    },
}

impl Topology {
    /// As whom a stage logs in to Kafka.
    pub fn principal_of<'t>(&'t self, stage: &'t str) -> Result<&'t str, MissingRole> {
        Ok(self.stage(stage)?.principal.as_ref().map_or(stage, |principal| principal.value.as_str()))
    }

    /// The topic that carries `subject`, and its name.
    pub fn topic_of(&self, subject: Subject) -> Result<(&str, &Topic), MissingRole> {
        self.topics
            .iter()
            .find(|(_, topic)| topic.value.schema.value == subject.name)
            .map(|(name, topic)| (name.as_str(), &topic.value))
            .ok_or(MissingRole::Topic(subject.name))
    }

    /// The stage `name`.
    pub fn stage(&self, name: &str) -> Result<&Stage, MissingRole> {
        self.stages.get(name).map(|stage| &stage.value).ok_or_else(|| MissingRole::Stage(name.to_owned()))
    }

    /// The store and table whose rows are the records of `topic`.
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

/// The registry's subject of a topic's values (Confluent's TopicNameStrategy).
pub fn registry_subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// The group that a reader names who reads topics from their start to their end. It never joins it and commits nothing, but
/// Kafka's client wants a name, and asks for the group's coordinator. `of` is a stage or a topic.
pub fn reader_group(of: &str) -> String {
    format!("{of}.reader")
}

/// [`reader_group`] of the audit.
pub const AUDIT_GROUP: &str = "agentgov.audit";

/// The topology that this build was made with.
pub const EMBEDDED: &str = include_str!("../../../topology.yaml");
