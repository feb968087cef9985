//! Addresses and logins of Kafka, the schema registry and ClickHouse. Secrets are never printed.

use serde::Serialize;

use crate::{KafkaEndpoint, Secret, Tls};

/// Endpoints of Kafka, the schema registry and ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoints {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The Confluent-compatible schema registry.
    pub schema_registry: SchemaRegistryEndpoint,
    /// The ClickHouse server.
    pub clickhouse: ClickHouseEndpoint,
}

/// Endpoint of the schema registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SchemaRegistryEndpoint {
    /// Base URL of its Confluent API, without a slash at the end.
    pub url: String,
    /// User and password of basic authentication; `None` without authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// TLS settings, for a URL with https.
    pub tls: Tls,
}

/// User and password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Name of the user.
    pub user: String,
    /// Password of the user.
    pub password: Secret,
}

/// Endpoint of ClickHouse. It has one address, since claims, drains and inserts must reach the same server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClickHouseEndpoint {
    /// URL of its HTTP interface.
    pub url: String,
    /// User; empty for the server's default.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Database that holds the log.
    pub database: String,
    /// TLS settings, for a URL with https.
    pub tls: Tls,
}

impl SchemaRegistryEndpoint {
    /// Creates the endpoint of a schema registry without login.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}
