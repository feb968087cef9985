//! The two loops that run stages. A stage is what is done to one record; everything around it is here.
//!
//! ```text
//!   Kafka ──► fetch a batch ──► decode ──► stage's step ──► outputs, state and offsets in one transaction    processor
//!   Kafka ──► fetch a batch ──► columns ─► claim, drain, look, insert ──► a store                          sink
//! ```
//!
//! - [`processor`]: the loop of stages from Kafka to Kafka; the interface of such a stage is the crate `agentgov_processor`
//! - [`sink`]: the loop of stages from Kafka to a store
//! - [`schemas`]: writers' schemas by id, fetched once
//! - `consumer`: what the consumers of both loops share · `fresh_reader`: clients made for one reading
//! - `empty_tail`: proof that a partition ends with offsets that no record has
//!
//! Health, metrics, stopping and exit codes are the crate `agentgov_service`.

mod consumer;
mod empty_tail;
mod fresh_reader;
pub mod hooks;
pub mod processor;
pub mod schemas;
pub mod sink;

pub use schemas::{SchemaCache, SchemaLookup};
