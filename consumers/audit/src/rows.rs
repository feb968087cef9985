//! Reader of position and digest of every row.

use agentgov_connect::{ClickHouseEndpoint, clickhouse_client};
use clickhouse::query::RowCursor;
use clickhouse::{Client, Row};
use serde::Deserialize;

use crate::AuditError;

/// Offset of a row, SHA-256 of its record's value, and its number of skipped offsets right before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDigest {
    pub offset: i64,
    pub sha256: [u8; 32],
    pub skipped: u64,
}

/// A row of a topic.
#[derive(Clone, Copy, Debug, Row, Deserialize)]
struct TopicRow {
    partition: i32,
    offset: i64,
    sha256: [u8; 32],
    skipped: u64,
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

    /// Reads the rows of a topic, in the order of partitions and offsets, including doubled ones. One query for all partitions, since
    /// the tables are sorted by session, so that each query reads the columns of the whole table.
    pub fn rows(&self, table: &str, topic: &str) -> Result<PartitionRows<'_>, AuditError> {
        let skipped = if self.counts_skipped(table)? { "skipped" } else { "toUInt64(0)" };
        let query = self
            .client
            .query(&format!(
                "SELECT partition, offset, record_sha256 AS sha256, {skipped} AS skipped FROM ? WHERE topic = ? \
                 ORDER BY partition, offset"
            ))
            .bind(clickhouse::sql::Identifier(table))
            .bind(topic);
        Ok(PartitionRows { runtime: &self.runtime, cursor: query.fetch()?, next: None })
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

/// Rows of a topic. Holds those of one partition at a time.
pub struct PartitionRows<'t> {
    runtime: &'t tokio::runtime::Runtime,
    cursor: RowCursor<TopicRow>,
    /// First row of the next partition.
    next: Option<TopicRow>,
}

impl PartitionRows<'_> {
    /// Returns the rows of a partition. Partitions must be requested in their order; those between are skipped.
    pub fn of_partition(&mut self, partition: i32) -> Result<Vec<RowDigest>, AuditError> {
        let mut rows = Vec::new();
        loop {
            let row = match self.next.take() {
                Some(row) => row,
                None => match self.runtime.block_on(self.cursor.next())? {
                    Some(row) => row,
                    None => return Ok(rows),
                },
            };
            if row.partition > partition {
                self.next = Some(row);
                return Ok(rows);
            }
            if row.partition == partition {
                rows.push(RowDigest { offset: row.offset, sha256: row.sha256, skipped: row.skipped });
            }
        }
    }
}
