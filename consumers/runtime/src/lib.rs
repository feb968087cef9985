//! What stages share. A stage is what is done to one record; everything around it is here.
//!
//! ```text
//!   Kafka ──► fetch a batch ──► decode ──► stage's step ──► outputs, state and offsets in one transaction    processor
//!   Kafka ──► fetch a batch ──► columns ─► claim, drain, look, insert ──► a store                          sink
//! ```
//!
//! - [`processor`]: the loop of stages from Kafka to Kafka
//! - [`sink`]: the loop of stages from Kafka to a store
//! - [`schemas`]: writers' schemas by id, fetched once
//! - [`health`]: live, ready and why not, progress
//! - [`metrics`]: what a process counts and times, by name · [`lag`]: how far a group is behind, as an onlooker sees it
//! - [`serve`]: what the process says of itself over HTTP
//! - [`error`]: how a stage ends, and the exit code that says so · [`panics`]: a panic in any thread ends the process
//! - [`failpoint`]: edges at which the fault harness interferes, by a hook that the product does not set
//! - [`stop`], [`backoff`], `assign`: the small parts

mod assign;
pub mod backoff;
pub mod error;
pub mod failpoint;
pub mod health;
pub mod lag;
pub mod metrics;
pub mod panics;
pub mod processor;
pub mod schemas;
pub mod serve;
pub mod sink;
pub mod stop;

pub use error::{ExitCode, StageError};
pub use health::Health;
pub use metrics::Metrics;
pub use schemas::{SchemaCache, SchemaLookup};
pub use serve::Serving;
pub use stop::Stop;
