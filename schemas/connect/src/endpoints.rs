//! Where the stack is, and how to get in. Secrets are never printed.

use serde::Serialize;

use crate::{KafkaEndpoint, Secret, Tls};

/// Where Kafka, the schema registry and ClickHouse are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoints {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The Confluent-compatible schema registry.
    pub schema_registry: SchemaRegistryEndpoint,
    /// The ClickHouse server.
    pub clickhouse: ClickHouseEndpoint,
}

/// The schema registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SchemaRegistryEndpoint {
    /// Base URL of its Confluent API, without a slash at the end.
    pub url: String,
    /// Basic authentication; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// Of a URL with https.
    pub tls: Tls,
}

/// A user and its password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// The ClickHouse server. One address: claims, drains and inserts must reach the same server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClickHouseEndpoint {
    /// URL of its HTTP interface.
    pub url: String,
    /// User; empty: the server's default.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Database that holds the log.
    pub database: String,
    /// Of a URL with https.
    pub tls: Tls,
}

impl SchemaRegistryEndpoint {
    /// A registry that wants no login.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}
