//! Connections to Kafka, the schema registry and ClickHouse, for producers and consumers. [`Endpoints`] has addresses and logins,
//! [`Settings`] reads them from the environment and a file, and [`SchemaRegistry`] is a client of the schema registry.
//!
//! Each kind of client is created in one place: [`KafkaEndpoint::client_config`], [`http_client`] and, with the feature
//! `clickhouse`, `clickhouse_client`. docs/security.md describes their configuration.
//!
//! No crate has a blocking client for lookup, registration and compatibility of schemas, so [`SchemaRegistry`] is our own (ADR
//! 0002). The clients of Kafka and ClickHouse are libraries.

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
pub use http::{ReadBodyError, http_client, read_body};
pub use kafka::{KafkaEndpoint, LoginError, Mechanism, SaslLogin};
pub use reconnect::{BrokerClient, BrokerLiveness, spawn_reconnect_watchdog};
pub use registry::{SchemaRegistry, SchemaRegistryError};
pub use secret::Secret;
pub use settings::{Settings, SettingsError};
pub use tls::{ClientCertificate, Tls, TlsError};
pub use topic_reader::{TopicEvent, TopicReader};
