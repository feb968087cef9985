//! Typed `topology.yaml`: every topic, stage and store. No other code contains their names.
//!
//! Code looks names up by role: the topic that carries a schema ([`Topology::topic_of`]), a stage by its command
//! ([`Topology::stage`]), the table that is fed from a topic ([`Topology::table_from`]).
//!
//! - `model`: types
//! - `duration`: durations
//! - `read`: parser from YAML to the types, which reports every mistake at once
//! - `check`: rules for a topology
//! - `roles`: lookups by role

mod check;
mod duration;
mod model;
mod read;
mod roles;

pub use duration::{HumanDuration, Retention};
pub use model::{
    Cleanup, KeyKind, Principal, ProducerKind, RejectShare, SessionLimits, Stage, Store, Table, Task, Timing,
    Topic, Topology,
};
pub use roles::{AUDIT_GROUP, DECISION_GROUP, EMBEDDED, MissingRole, reader_group, registry_subject};
