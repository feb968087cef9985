//! What the tables hold: place and digest of every row.

use agentgov_connect::{ClickHouseEndpoint, clickhouse_client};
use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::AuditError;

/// A row's offset, and the SHA-256 of its record's value.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Place {
    pub offset: i64,
    pub sha256: String,
}

pub struct Tables {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Tables {
    pub fn new(endpoint: &ClickHouseEndpoint) -> Result<Self, AuditError> {
        let client = clickhouse_client(endpoint)?;
        Ok(Self { client, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }

    /// The rows of a partition of a topic, in order of their offsets; one of a doubled offset stands beside the other.
    pub fn places(&self, table: &str, topic: &str, partition: i32) -> Result<Vec<Place>, AuditError> {
        let query = self
            .client
            .query("SELECT offset, lower(hex(record_sha256)) AS sha256 FROM ? WHERE topic = ? AND partition = ? ORDER BY offset")
            .bind(clickhouse::sql::Identifier(table))
            .bind(topic)
            .bind(partition);
        Ok(self.runtime.block_on(query.fetch_all())?)
    }
}
