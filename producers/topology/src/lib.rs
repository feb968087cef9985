//! The topology against the world. What the topology itself must keep is checked in `agentgov_schemas::topology`; here it is
//!
//! - drawn: [`graph`](fn@graph), and [`splice`] into a document,
//! - turned into rights: [`acls`](fn@acls) for Kafka, [`grants`](fn@grants) for ClickHouse,
//! - compared with a cluster and a schema registry: [`plan`](fn@plan),
//! - applied: [`apply`](fn@apply) creates what is missing, and refuses whatever could lose a record.
//!
//! `plan` and `apply` block; never call them from async code.
//!
//! ```text
//!  Topology ──► wanted ──┐
//!                        ├──► compare ──► Plan ──► apply ──► look again
//!  Kafka, registry ► look ┘
//! ```

mod acls;
mod apply;
mod compare;
mod grants;
mod graph;
mod look;
mod plan;
mod settings;

pub use acls::{Acl, Acls, Operation, Pattern, Resource, acls};
pub use apply::{ApplyError, ApplyReport, apply};
pub use grants::grants;
pub use graph::{MissingMarkers, graph, splice};
pub use look::ClusterReadError;
pub use plan::{Action, Aspect, Difference, Kind, Plan, plan};
