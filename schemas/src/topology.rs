//! The typed `topology.yaml`: every topic, stage and store. The only place that knows a name.
//!
//! Code asks by role: the topic that carries a schema ([`Topology::topic_of`]), the stage of a name that is also a
//! command ([`Topology::stage`]), the table that is fed from a topic ([`Topology::table_from`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::subject::Subject;

/// The map, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Version of this format: 1.
    pub version: Spanned<u32>,
    /// Topics by name.
    pub topics: BTreeMap<String, Spanned<Topic>>,
    /// Stages by name: one stream processor = one consumer group = one principal = one metric label.
    pub stages: BTreeMap<String, Spanned<Stage>>,
    /// Stores by name.
    pub stores: BTreeMap<String, Spanned<Store>>,
    /// The timeouts that decide recovery.
    pub timing: Timing,
}

/// A Kafka topic. Every topic has message.timestamp.type=LogAppendTime.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// What it carries, for people.
    pub what: String,
    /// The subject of its values: a folder of schemas/avro.
    pub schema: Spanned<String>,
    /// The team that answers for what is written to it.
    pub owner: Spanned<String>,
    /// What its keys are.
    pub key: KeyKind,
    /// How its producers write.
    pub producer: ProducerKind,
    /// Number of partitions; of a keyed topic, fixed for ever.
    pub partitions: Spanned<i32>,
    /// Replicas of each partition; absent: the broker's default.
    #[serde(default)]
    pub replication: Option<i32>,
    /// delete (the default) or compact.
    #[serde(default)]
    pub cleanup: Cleanup,
    /// How long records are kept, by logged_at.
    pub retention: Spanned<Retention>,
    /// Largest record batch in bytes (Kafka's max.message.bytes).
    pub max_message_bytes: Spanned<i32>,
}

/// What a topic's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// tenant_id/session_id: records of a session share a partition, in order.
    Session,
    /// The identity of a table's or changelog's entry.
    Entry,
}

/// How a topic's producers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProducerKind {
    /// acks=all and idempotence, no transactions: offsets have no gaps.
    Idempotent,
    /// In the transaction that also commits the input's offsets: markers take offsets.
    Transactional,
}

/// Kafka's cleanup.policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    /// Old segments go.
    #[default]
    Delete,
    /// The last record of each key stays.
    Compact,
}

/// How long a topic keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// retention.ms=-1.
    Forever,
    /// retention.ms.
    For(Duration),
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "forever" {
            return Ok(Self::Forever);
        }
        parse_duration(&text).map(Self::For).map_err(serde::de::Error::custom)
    }
}

/// A stream processor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What it does, for people.
    pub what: String,
    /// Its consumer group, and the prefix of its transactional ids.
    pub group: Spanned<String>,
    /// The topics that it consumes.
    pub reads: Vec<Spanned<String>>,
    /// The governance topics that it folds into tables.
    #[serde(default)]
    pub tables: Vec<Spanned<String>>,
    /// Its changelog topic.
    #[serde(default)]
    pub state: Option<Spanned<String>>,
    /// The topics that it writes, in one transaction with its offsets.
    #[serde(default)]
    pub emits: Vec<Spanned<String>>,
    /// The stores that it writes.
    #[serde(default)]
    pub stores: Vec<Spanned<String>>,
    /// When rejects stop it.
    #[serde(default)]
    pub reject_share: Option<Spanned<RejectShare>>,
    /// What a session may keep (evaluator).
    #[serde(default)]
    pub session: Option<Spanned<SessionLimits>>,
    /// How long further violations belong to an open alert, by logged_at (alerter).
    #[serde(default)]
    pub alert_window: Option<Spanned<Span>>,
}

/// A stage whose rejects exceed a share of a window of records consumes nothing more until someone resumes it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectShare {
    /// Share of the window, between 0 and 1.
    pub above: f64,
    /// Records in the window.
    pub window: u32,
}

/// What a session may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionLimits {
    /// A session has expired when a record's logged_at is later than its last one's by more than this.
    pub ttl: Span,
    /// Most facts and calls kept.
    pub max_facts: u32,
    /// Most bytes of facts and calls kept.
    pub max_bytes: u64,
}

/// A place outside Kafka.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// What it is for.
    pub what: String,
    /// The only stage that writes it.
    pub writer: Spanned<String>,
    /// Its tables by name.
    pub tables: BTreeMap<String, Spanned<Table>>,
}

/// A table of a store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The topic whose every record is one of its rows; absent on a table that the writer keeps for itself.
    #[serde(default)]
    pub from: Option<Spanned<String>>,
    /// What a row is.
    pub what: String,
}

/// The timeouts that decide recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Kafka's session.timeout.ms.
    pub session_timeout: Span,
    /// Kafka's heartbeat.interval.ms.
    pub heartbeat: Span,
    /// Kafka's transaction.timeout.ms.
    pub transaction_timeout: Span,
    /// How long an insert may take, at the client and at the server.
    pub insert_timeout: Span,
}

/// A length of time, written 250ms, 10s, 5m, 1h or 7d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a length of time such as 250ms, 10s, 5m, 1h or 7d, found `{text}`");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// A role that the map does not fill. `topology check` finds these before anything starts.
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
}

impl Topology {
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

/// The map that this build was made with.
pub const EMBEDDED: &str = include_str!("../../topology.yaml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::SUBJECTS;

    #[test]
    fn every_schema_has_its_topic() {
        let map: Topology = serde_saphyr::from_str(EMBEDDED).unwrap();
        for subject in SUBJECTS {
            assert!(map.topic_of(*subject).is_ok(), "{}", subject.name);
        }
    }

    #[test]
    fn lengths_of_time() {
        for (text, millis) in
            [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "10", "s", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
