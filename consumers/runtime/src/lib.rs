//! The two loops that run stages. A stage defines the step for one record; the loops do the I/O around it.
//!
//! ```text
//!   Kafka ──► fetch a batch ──► decode ──► stage's step ──► outputs, state and offsets in one transaction    processor
//!   Kafka ──► fetch a batch ──► columns ─► claim, drain, read tail, insert ──► a store                          sink
//! ```
//!
//! - [`processor`]: loop of stages from Kafka to Kafka; the crate `agentgov_processor` has the interface of such a
//!   stage
//! - [`sink`]: loop of stages from Kafka to a store
//! - [`schemas`]: cache of writers' schemas by id
//! - [`hooks`]: functions that the fault harness replaces to plant a mistake
//! - `consumer`: shared parts of both loops' consumers · `fresh_reader`: clients for one reading
//! - `empty_tail`: proof that the end of a partition consists of skipped offsets
//!
//! Health, metrics, shutdown and exit codes are in the crate `agentgov_service`.

mod consumer;
mod empty_tail;
mod fresh_reader;
pub mod hooks;
pub mod processor;
pub mod schemas;
pub mod sink;

pub use schemas::{SchemaCache, SchemaLookup};
