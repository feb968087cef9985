//! Reader of position and digest of every row.

use agentgov_connect::{ClickHouseEndpoint, clickhouse_client};
use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::AuditError;

/// Offset of a row, SHA-256 of its record's value, and its number of skipped offsets right before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct RowDigest {
    pub offset: i64,
    pub sha256: [u8; 32],
    pub skipped: u64,
}

/// Reader of the log's tables.
pub struct Tables {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Tables {
    pub fn new(endpoint: &ClickHouseEndpoint) -> Result<Self, AuditError> {
        let client = clickhouse_client(endpoint)?;
        Ok(Self { client, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }

    /// Returns the rows of a partition of a topic in the order of their offsets, including doubled ones.
    pub fn row_digests(
        &self,
        table: &str,
        topic: &str,
        partition: i32,
    ) -> Result<Vec<RowDigest>, AuditError> {
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

    /// Returns true if the rows of a table count skipped offsets. Only tables of topics without transactions do.
    fn counts_skipped(&self, table: &str) -> Result<bool, AuditError> {
        let query = self
            .client
            .query("SELECT count() FROM system.columns WHERE database = currentDatabase() AND table = ? AND name = 'skipped'")
            .bind(table);
        Ok(self.runtime.block_on(query.fetch_one::<u64>())? > 0)
    }
}
