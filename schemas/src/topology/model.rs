//! Types of the topology, with the structure of the file. Every name has its location, so that later errors can refer to it.

use std::collections::BTreeMap;

use serde_saphyr::Spanned;

use super::{HumanDuration, Retention};
use crate::{mapping, words};

/// Topology.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Version of this format: 1.
    pub version: Spanned<u32>,
    /// Topics by name.
    pub topics: BTreeMap<String, Spanned<Topic>>,
    /// Stages by name. A stage is one stream processor, with one consumer group, one principal and one metric label.
    pub stages: BTreeMap<String, Spanned<Stage>>,
    /// Stores by name.
    pub stores: BTreeMap<String, Spanned<Store>>,
    /// Principals of Kafka that are not stages, by name.
    pub principals: BTreeMap<String, Spanned<Principal>>,
    /// Timeouts that determine the time to recover.
    pub timing: Timing,
}

/// Kafka topic. Every topic has message.timestamp.type=LogAppendTime.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Content of the topic, for people.
    pub what: String,
    /// Subject of the values: a folder of schemas/avro.
    pub schema: Spanned<String>,
    /// Team that is responsible for the records.
    pub owner: Spanned<String>,
    /// Kind of the keys.
    pub key: KeyKind,
    /// Kind of the producers.
    pub producer: ProducerKind,
    /// Number of partitions. It never changes for a keyed topic.
    pub partitions: Spanned<i32>,
    /// Number of replicas of each partition; absent: the broker's default.
    pub replication: Option<i32>,
    /// Cleanup policy: delete (the default) or compact.
    pub cleanup: Cleanup,
    /// Retention of records, by logged_at.
    pub retention: Spanned<Retention>,
    /// Maximum size of a record batch, in bytes (Kafka's max.message.bytes).
    pub max_message_bytes: Spanned<i32>,
}

/// Kind of a topic's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `tenant_id/session_id`: the records of a session are in one partition, in order.
    Session,
    /// Key of an entry of a global table or a changelog.
    Entry,
}

/// Kind of a topic's producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerKind {
    /// acks=all and idempotence, without transactions. Offsets have no gaps.
    Idempotent,
    /// In the transaction that also commits the input's offsets. Transaction markers take offsets.
    Transactional,
}

/// Kafka's cleanup.policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleanup {
    /// Old segments are deleted.
    #[default]
    Delete,
    /// The last record of each key is kept.
    Compact,
}

/// Stream processor or sink.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Purpose of the stage, for people.
    pub what: String,
    /// Consumer group, and prefix of the transactional ids.
    pub group: Spanned<String>,
    /// Principal in Kafka; absent: the name of the stage.
    pub principal: Option<Spanned<String>>,
    /// Topics that the stage consumes.
    pub reads: Vec<Spanned<String>>,
    /// Governance topics that the stage folds into global tables.
    pub global_tables: Vec<Spanned<String>>,
    /// Changelog topic.
    pub state: Option<Spanned<String>>,
    /// Topics that the stage writes, in one transaction with its offsets.
    pub emits: Vec<Spanned<String>>,
    /// Stores that the stage writes.
    pub stores: Vec<Spanned<String>>,
    /// Share of rejects above which the stage stops consuming.
    pub reject_share: Option<Spanned<RejectShare>>,
    /// Limits on the state of a session (evaluator).
    pub session: Option<Spanned<SessionLimits>>,
    /// Time, by logged_at, during which further violations are revisions of an open alert (alerter).
    pub alert_window: Option<Spanned<HumanDuration>>,
}

/// Share of rejects in a window of records above which a stage stops consuming until a person resumes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RejectShare {
    /// Share of the window, between 0 and 1.
    pub above: f64,
    /// Records in the window.
    pub window: u32,
}

/// Limits on the state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// A session expires when a record's logged_at exceeds that of the session's last record by more than this.
    pub ttl: HumanDuration,
    /// Maximum number of facts and calls.
    pub max_facts: u32,
    /// Maximum size of facts and calls, in bytes.
    pub max_bytes: u64,
}

/// Store outside of Kafka.
#[derive(Clone, Debug)]
pub struct Store {
    /// Purpose of the store, for people.
    pub what: String,
    /// The only stage that writes the store.
    pub writer: Spanned<String>,
    /// Tables by name.
    pub tables: BTreeMap<String, Spanned<Table>>,
}

/// Table of a store.
#[derive(Clone, Debug)]
pub struct Table {
    /// Topic whose records are the rows of the table; absent on an internal table of the writer.
    pub from: Option<Spanned<String>>,
    /// Content of a row, for people.
    pub what: String,
}

/// Principal of Kafka that is not a stage. Several may have the same tasks: each platform service can have its own.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Description for people.
    pub what: String,
    /// Name of the principal in Kafka; absent: its name in the topology.
    pub principal: Option<Spanned<String>>,
    /// Permitted tasks.
    pub may: Vec<Spanned<Task>>,
}

/// Task of a principal that is not a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Write actions, as platform services and importers do.
    Record,
    /// Write and list agents, tools and bundles: `registry push`, `policy push`.
    Govern,
    /// Resume stages: `rejects resume`.
    Operate,
    /// Read all topics and the offsets of the stages: `audit completeness`.
    Audit,
    /// Create topics and change their settings: `topology plan`, `topology apply`.
    Deploy,
    /// Read actions, the evaluator's changelog, agents, bundles and keys, and write decisions: `pdp`.
    Decide,
    /// Write the actions that were decided, as gateways and hooks do.
    Enforce,
    /// Write approvals, which are records of the topic of actions.
    Approve,
}

/// Timeouts that determine the time to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Kafka's session.timeout.ms.
    pub session_timeout: HumanDuration,
    /// Kafka's heartbeat.interval.ms.
    pub heartbeat: HumanDuration,
    /// Kafka's transaction.timeout.ms.
    pub transaction_timeout: HumanDuration,
    /// Timeout of an insert, at the client and at the server.
    pub insert_timeout: HumanDuration,
}

mapping!(Topic, "a topic", { what, schema, owner, key, producer, partitions, replication, cleanup, retention, max_message_bytes });
mapping!(Stage, "a stage", { what, group, principal, reads, global_tables, state, emits, stores, reject_share, session, alert_window });
mapping!(RejectShare, "a reject share", { above, window });
mapping!(SessionLimits, "session limits", { ttl, max_facts, max_bytes });
mapping!(Store, "a store", { what, writer, tables });
mapping!(Table, "a table", { from, what });
mapping!(Principal, "a principal", { what, principal, may });
mapping!(Timing, "timing", { session_timeout, heartbeat, transaction_timeout, insert_timeout });

words!(KeyKind { "session" => Session, "entry" => Entry });
words!(ProducerKind { "idempotent" => Idempotent, "transactional" => Transactional });
words!(Task { "record" => Record, "govern" => Govern, "operate" => Operate, "audit" => Audit, "deploy" => Deploy, "decide" => Decide, "enforce" => Enforce, "approve" => Approve });
words!(Cleanup { "delete" => Delete, "compact" => Compact }, absent: Delete);
