//! The typed `topology.yaml`: every topic, stage and store. The only place that knows a name.
//!
//! Code asks by role: the topic that carries a schema ([`Topology::topic_of`]), the stage of a name that is also a
//! command ([`Topology::stage`]), the table that is fed from a topic ([`Topology::table_from`]).
//!
//! - `model`: the types
//! - `duration`: lengths of time
//! - `read`: from YAML to the types, with every mistake at once
//! - `check`: the rules that a map must keep
//! - `roles`: the questions above

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
pub use roles::{AUDIT_GROUP, EMBEDDED, MissingRole, reader_group, registry_subject};
