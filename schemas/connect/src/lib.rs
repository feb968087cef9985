//! How every process of both sides reaches the stack: [`Endpoints`] say where Kafka, the schema registry and ClickHouse
//! are and how to get in, [`Settings`] read them from the environment and a file, and [`SchemaRegistry`] is the client of
//! the second.
//!
//! Each kind of client is made in one place: [`KafkaEndpoint::client_config`], [`http_client`] and, with the feature
//! `clickhouse`, `clickhouse_client`. docs/security.md says how to configure them.
//!
//! The registry's client is ours because no crate does lookup, registration and compatibility over one blocking client
//! (ADR 0002); the Kafka and ClickHouse clients are libraries.

pub mod assign;
mod describe;
mod endpoints;
mod http;
mod kafka;
mod reconnect;
mod references;
mod registry;
mod secret;
pub mod settings;
mod tls;
mod topic_reader;

pub use describe::describe;
pub use endpoints::{ClickHouseEndpoint, Endpoints, Login, SchemaRegistryEndpoint};
#[cfg(feature = "clickhouse")]
pub use http::clickhouse_client;
pub use http::{http_client, read_text};
pub use kafka::{KafkaEndpoint, LoginError, Mechanism, SaslLogin};
pub use reconnect::{BrokerClient, BrokerLiveness, spawn_reconnect_watchdog};
pub use registry::{SchemaRegistry, SchemaRegistryError};
pub use secret::Secret;
pub use settings::{Settings, SettingsError};
pub use tls::{ClientCertificate, Tls, TlsError};
pub use topic_reader::{TopicEvent, TopicReader};
