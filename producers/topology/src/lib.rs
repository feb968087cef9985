//! Commands on a checked topology (`agentgov_schemas::topology` has its types and checks).
//!
//! - [`graph`](fn@graph) draws it, and [`splice`] inserts the drawing into a document
//! - [`acls`](fn@acls) and [`grants`](fn@grants) derive the rights in Kafka and ClickHouse
//! - [`plan`](fn@plan) compares it with a cluster and a schema registry
//! - [`apply`](fn@apply) creates and changes topics and subjects, and refuses every change that could lose a record
//!
//! `plan` and `apply` block; never call them from async code.
//!
//! ```text
//!  Topology ──────────────────────────► compare ──► Plan ──► apply ──► read and compare again
//!  Kafka, schema registry ──► LiveState ──┘
//! ```

mod acls;
mod apply;
mod compare;
mod grants;
mod graph;
mod live;
mod plan;
mod settings;

pub use acls::{Acl, Acls, Operation, Pattern, Resource, acls};
pub use apply::{ApplyError, ApplyReport, apply};
pub use grants::grants;
pub use graph::{MissingMarkers, graph, splice};
pub use live::ClusterReadError;
pub use plan::{Action, Aspect, Difference, Kind, Plan, plan};
