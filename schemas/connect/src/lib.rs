//! How every process of both sides reaches the stack: [`Endpoints`] say where Kafka, the schema registry and ClickHouse
//! are, and [`SchemaRegistry`] is the client of the second.
//!
//! The registry's client is ours because no crate does lookup, registration and compatibility over one blocking client
//! (ADR 0002); the Kafka and ClickHouse clients are libraries.

mod describe;
mod endpoints;
mod registry;

pub use describe::describe;
pub use endpoints::{ClickHouseEndpoint, Endpoints, KafkaEndpoint, RegistryEndpoint, Secret};
pub use registry::{RegistryError, SchemaRegistry};
