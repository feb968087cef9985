//! Addresses of a running stack.

use std::fmt;

use agentgov_connect::{ClickHouseEndpoint, Endpoints, KafkaEndpoint, SchemaRegistryEndpoint, Secret};
use serde::{Deserialize, Serialize};

/// Addresses and ClickHouse login of a stack. Also the format of the file that `AGENTGOV_STACK` names.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Bootstrap address of the broker, `host:port`.
    pub kafka: String,
    /// Base URL of the schema registry's Confluent-compatible API, as in `http://127.0.0.1:1234/apis/ccompat/v7`.
    #[serde(rename = "schema_registry")]
    pub registry: String,
    /// Base URL of ClickHouse's HTTP interface, as in `http://127.0.0.1:1234`.
    pub clickhouse: String,
    /// ClickHouse user.
    #[serde(default = "default_name")]
    pub clickhouse_user: String,
    /// Password of the user; never printed by `Debug`.
    #[serde(default)]
    pub clickhouse_password: String,
    /// ClickHouse database.
    #[serde(default = "default_name")]
    pub clickhouse_database: String,
}

/// Returns ClickHouse's name of its default user and default database.
pub(crate) fn default_name() -> String {
    "default".to_owned()
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses")
            .field("kafka", &self.kafka)
            .field("registry", &self.registry)
            .field("clickhouse", &self.clickhouse)
            .field("clickhouse_user", &self.clickhouse_user)
            .field("clickhouse_password", &"***")
            .field("clickhouse_database", &self.clickhouse_database)
            .finish()
    }
}

/// Converts addresses for the crates of the pipeline: without TLS, with the ClickHouse user.
impl From<&Addresses> for Endpoints {
    fn from(addresses: &Addresses) -> Self {
        Self {
            kafka: KafkaEndpoint::at(addresses.kafka.clone()),
            schema_registry: SchemaRegistryEndpoint::at(addresses.registry.clone()),
            clickhouse: ClickHouseEndpoint {
                url: addresses.clickhouse.clone(),
                user: addresses.clickhouse_user.clone(),
                password: Secret::new(addresses.clickhouse_password.clone()),
                database: addresses.clickhouse_database.clone(),
                ..ClickHouseEndpoint::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_password() {
        let addresses = Addresses {
            kafka: "k:1".to_owned(),
            registry: "http://r".to_owned(),
            clickhouse: "http://c".to_owned(),
            clickhouse_user: "u".to_owned(),
            clickhouse_password: "hunter2".to_owned(),
            clickhouse_database: "d".to_owned(),
        };
        assert!(!format!("{addresses:?}").contains("hunter2"));
    }
}
