//! The topology's types, as they stand in the file. Every name carries its place, so that a later error can say where it
//! was written.

use std::collections::BTreeMap;

use serde_saphyr::Spanned;

use super::{HumanDuration, Retention};
use crate::{mapping, words};

/// The topology, as written.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Version of this format: 1.
    pub version: Spanned<u32>,
    /// Topics by name.
    pub topics: BTreeMap<String, Spanned<Topic>>,
    /// Stages by name: one stream processor = one consumer group = one principal = one metric label.
    pub stages: BTreeMap<String, Spanned<Stage>>,
    /// Stores by name.
    pub stores: BTreeMap<String, Spanned<Store>>,
    /// Who logs in to Kafka beside the stages, by name.
    pub principals: BTreeMap<String, Spanned<Principal>>,
    /// The timeouts that decide recovery.
    pub timing: Timing,
}

/// A Kafka topic. Every topic has message.timestamp.type=LogAppendTime.
#[derive(Clone, Debug)]
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
    pub replication: Option<i32>,
    /// delete (the default) or compact.
    pub cleanup: Cleanup,
    /// How long records are kept, by logged_at.
    pub retention: Spanned<Retention>,
    /// Largest record batch in bytes (Kafka's max.message.bytes).
    pub max_message_bytes: Spanned<i32>,
}

/// What a topic's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// tenant_id/session_id: records of a session share a partition, in order.
    Session,
    /// The identity of a table's or changelog's entry.
    Entry,
}

/// How a topic's producers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerKind {
    /// acks=all and idempotence, no transactions: offsets have no gaps.
    Idempotent,
    /// In the transaction that also commits the input's offsets: markers take offsets.
    Transactional,
}

/// Kafka's cleanup.policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleanup {
    /// Old segments go.
    #[default]
    Delete,
    /// The last record of each key stays.
    Compact,
}

/// A stream processor.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What it does, for people.
    pub what: String,
    /// Its consumer group, and the prefix of its transactional ids.
    pub group: Spanned<String>,
    /// As whom it logs in to Kafka; absent: as its own name.
    pub principal: Option<Spanned<String>>,
    /// The topics that it consumes.
    pub reads: Vec<Spanned<String>>,
    /// The governance topics that it folds into global tables.
    pub global_tables: Vec<Spanned<String>>,
    /// Its changelog topic.
    pub state: Option<Spanned<String>>,
    /// The topics that it writes, in one transaction with its offsets.
    pub emits: Vec<Spanned<String>>,
    /// The stores that it writes.
    pub stores: Vec<Spanned<String>>,
    /// When rejects stop it.
    pub reject_share: Option<Spanned<RejectShare>>,
    /// What a session may keep (evaluator).
    pub session: Option<Spanned<SessionLimits>>,
    /// How long further violations belong to an open alert, by logged_at (alerter).
    pub alert_window: Option<Spanned<HumanDuration>>,
}

/// A stage whose rejects exceed a share of a window of records consumes nothing more until someone resumes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RejectShare {
    /// Share of the window, between 0 and 1.
    pub above: f64,
    /// Records in the window.
    pub window: u32,
}

/// What a session may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// A session has expired when a record's logged_at is later than its last one's by more than this.
    pub ttl: HumanDuration,
    /// Most facts and calls kept.
    pub max_facts: u32,
    /// Most bytes of facts and calls kept.
    pub max_bytes: u64,
}

/// A place outside Kafka.
#[derive(Clone, Debug)]
pub struct Store {
    /// What it is for.
    pub what: String,
    /// The only stage that writes it.
    pub writer: Spanned<String>,
    /// Its tables by name.
    pub tables: BTreeMap<String, Spanned<Table>>,
}

/// A table of a store.
#[derive(Clone, Debug)]
pub struct Table {
    /// The topic whose every record is one of its rows; absent on a table that the writer keeps for itself.
    pub from: Option<Spanned<String>>,
    /// What a row is.
    pub what: String,
}

/// Who logs in to Kafka and is no stage. There may be several of a kind: each platform service can have its own.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Who that is, for people.
    pub what: String,
    /// As whom it logs in; absent: as its name in the topology.
    pub principal: Option<Spanned<String>>,
    /// What it may do.
    pub may: Vec<Spanned<Task>>,
}

/// What somebody who is no stage may have to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Write actions: a platform service, an importer.
    Record,
    /// Write and list agents, tools and bundles: `registry push`, `policy push`.
    Govern,
    /// Tell stages to go on: `rejects resume`.
    Operate,
    /// Read what is found in the log, and how far the stages are: `audit completeness`.
    Audit,
    /// Create topics and change their settings: `topology plan`, `topology apply`.
    Deploy,
}

/// The timeouts that decide recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Kafka's session.timeout.ms.
    pub session_timeout: HumanDuration,
    /// Kafka's heartbeat.interval.ms.
    pub heartbeat: HumanDuration,
    /// Kafka's transaction.timeout.ms.
    pub transaction_timeout: HumanDuration,
    /// How long an insert may take, at the client and at the server.
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
words!(Task { "record" => Record, "govern" => Govern, "operate" => Operate, "audit" => Audit, "deploy" => Deploy });
words!(Cleanup { "delete" => Delete, "compact" => Compact }, absent: Delete);
