//! What the tables hold: place and digest of every row.

use agentgov_connect::{ClickHouseEndpoint, clickhouse_client};
use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::AuditError;

/// A row's offset, the SHA-256 of its record's value, and how many offsets right before it hold no record, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Place {
    pub offset: i64,
    pub sha256: [u8; 32],
    pub skipped: u64,
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
        let skipped = if self.counts_skipped(table)? { "skipped" } else { "toUInt64(0)" };
        let query = self
            .client
            .query(&format!(
                "SELECT offset, record_sha256 AS sha256, {skipped} AS skipped FROM ? WHERE topic = ? AND partition = ? ORDER BY offset"
            ))
            .bind(clickhouse::sql::Identifier(table))
            .bind(topic)
            .bind(partition);
        Ok(self.runtime.block_on(query.fetch_all())?)
    }

    /// True if the rows of a table count the offsets before them that hold no record: only those of topics whose offsets are
    /// to be without gaps do.
    fn counts_skipped(&self, table: &str) -> Result<bool, AuditError> {
        let query = self
            .client
            .query("SELECT count() FROM system.columns WHERE database = currentDatabase() AND table = ? AND name = 'skipped'")
            .bind(table);
        Ok(self.runtime.block_on(query.fetch_one::<u64>())? > 0)
    }
}
