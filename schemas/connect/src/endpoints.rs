//! Where the stack is. Secrets are never printed.

use std::fmt;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

/// Where Kafka, the schema registry and ClickHouse are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// The Confluent-compatible schema registry.
    pub registry: RegistryEndpoint,
    /// The ClickHouse server.
    pub clickhouse: ClickHouseEndpoint,
}

/// The brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaEndpoint {
    /// host:port, comma separated.
    pub bootstrap: String,
}

/// The schema registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryEndpoint {
    /// Base URL of its Confluent API, without a slash at the end.
    pub url: String,
}

/// The ClickHouse server. One address: claims, drains and inserts must reach the same server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseEndpoint {
    /// URL of its HTTP interface.
    pub url: String,
    /// User; empty: the server's default.
    #[serde(default)]
    pub user: String,
    /// Password.
    #[serde(default)]
    pub password: Secret,
    /// Database that holds the log.
    pub database: String,
}

/// A secret: readable by code, never by people.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the client that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

impl KafkaEndpoint {
    /// A client configuration that reaches these brokers; the caller adds what its job needs.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "agentgov");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let endpoint = ClickHouseEndpoint {
            url: "http://127.0.0.1:8123".into(),
            user: "agentgov".into(),
            password: Secret::new("hunter2"),
            database: "agentgov".into(),
        };
        let printed = format!("{endpoint:?}");
        assert!(!printed.contains("hunter2") && printed.contains("(hidden)"), "{printed}");
    }
}
