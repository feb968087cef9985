//! The log at a glance: how much is there, what happened of late, what judges.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, ReadError, logged};

/// How ClickHouse begins to say that a database is not there.
const UNKNOWN_DATABASE: &str = "Code: 81.";

/// A table's size.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct TableSize {
    /// Rows.
    pub rows: u64,
    /// When its newest row was logged, in milliseconds since the epoch; 0 if it has none.
    pub newest: i64,
}

/// Rejects of a stage, with one reason.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct RejectCount {
    /// The stage.
    #[serde(deserialize_with = "logged::text")]
    pub stage: String,
    /// The reason.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// Alerts of one severity.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct AlertCount {
    /// The severity.
    #[serde(deserialize_with = "logged::text")]
    pub severity: String,
    /// Alerts that were opened.
    pub opened: u64,
    /// Violations that they tell of, the first ones included.
    pub violations: u64,
}

/// Offsets that somebody accepted as lost.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Gap {
    /// Topic and partition.
    #[serde(deserialize_with = "logged::text")]
    pub topic_partition: String,
    /// The first offset lost.
    pub from: i64,
    /// The first offset that is there.
    pub to: i64,
    /// When, in milliseconds since the epoch.
    pub accepted_at: i64,
}

/// Offsets of a topic-partition that no record has, since a client wrote transactions.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct SkippedOffsets {
    /// Topic and partition.
    #[serde(deserialize_with = "logged::text")]
    pub topic_partition: String,
    /// How many in all.
    pub offsets: u64,
    /// The first of the last ones that came one after the other.
    pub from: i64,
    /// The offset after these, which a record has.
    pub to: i64,
    /// When that record was logged, in milliseconds since the epoch.
    pub logged_at: i64,
}

/// The bundle that judges an environment: the last one pushed for it that reached the log.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct ActiveBundle {
    /// The environment.
    #[serde(deserialize_with = "logged::text")]
    pub environment: String,
    /// The bundle's name.
    #[serde(deserialize_with = "logged::text")]
    pub name: String,
    /// Its version.
    #[serde(deserialize_with = "logged::text")]
    pub version: String,
    /// Its digest, in hex.
    #[serde(deserialize_with = "logged::text")]
    pub digest: String,
    /// When it was pushed, in milliseconds since the epoch.
    pub pushed_at: i64,
    /// Who pushed it.
    #[serde(deserialize_with = "logged::text")]
    pub pushed_by: String,
}

#[derive(Row, Deserialize)]
struct Version {
    #[serde(deserialize_with = "logged::text")]
    version: String,
}

impl LogReader {
    /// The server's version; `None` if it answers, but the log's database is not there yet.
    pub fn version(&self) -> Result<Option<String>, ReadError> {
        match self.row::<Version>("SELECT version() AS version", &[]) {
            Ok(row) => Ok(Some(row.version)),
            Err(ReadError::ClickHouse { source: clickhouse::error::Error::BadResponse(text), .. })
                if text.contains(UNKNOWN_DATABASE) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How large a table is. Reads no rows: ClickHouse keeps both figures by part.
    pub fn table_size(&self, table: &str) -> Result<TableSize, ReadError> {
        let sql = "SELECT count() AS rows, if(count() = 0, 0, toUnixTimestamp64Milli(max(logged_at))) AS newest FROM";
        self.row(&format!("{sql} `{table}`"), &[])
    }

    /// Rejects that were logged within the last `seconds`, by stage and reason, the most frequent first.
    pub fn rejects_within(&self, seconds: u32) -> Result<Vec<RejectCount>, ReadError> {
        let sql = format!(
            "SELECT toString(r.stage) AS stage, toString(r.reason) AS reason, count() AS count FROM {} AS r
             WHERE r.logged_at > now64(3) - {seconds} GROUP BY r.stage, r.reason ORDER BY count DESC, stage, reason",
            self.tables.rejects
        );
        self.rows(&sql, &[])
    }

    /// Alerts that were logged within the last `seconds`, by severity.
    pub fn alerts_within(&self, seconds: u32) -> Result<Vec<AlertCount>, ReadError> {
        let sql = format!(
            "SELECT toString(a.severity) AS severity, countIf(a.revision = 0) AS opened, count() AS violations FROM {} AS a
             WHERE a.logged_at > now64(3) - {seconds} GROUP BY a.severity
             ORDER BY indexOf(['critical', 'high', 'medium', 'low'], severity), severity",
            self.tables.alerts
        );
        self.rows(&sql, &[])
    }

    /// Every gap that was accepted, the latest first. `table` is where the sink records them.
    pub fn gaps(&self, table: &str) -> Result<Vec<Gap>, ReadError> {
        let sql = format!(
            "SELECT topic_partition, from_offset AS from, to_offset AS to, toUnixTimestamp64Milli(accepted_at) AS accepted_at
             FROM `{table}` ORDER BY accepted_at DESC"
        );
        self.rows(&sql, &[])
    }

    /// What each partition of a table's topic has of offsets without a record, the latest first. Reads no rows: a projection has it.
    pub fn skipped(&self, table: &str) -> Result<Vec<SkippedOffsets>, ReadError> {
        let sql = format!(
            "SELECT toString(topic_partition) AS topic_partition, sum(skipped) AS offsets,
                    maxIf(offset, skipped > 0) - toInt64(argMaxIf(skipped, offset, skipped > 0)) AS from,
                    maxIf(offset, skipped > 0) AS to, toUnixTimestamp64Milli(maxIf(logged_at, skipped > 0)) AS logged_at
             FROM `{table}` GROUP BY topic_partition HAVING offsets > 0 ORDER BY logged_at DESC, topic_partition"
        );
        self.rows(&sql, &[])
    }

    /// The bundle that judges each environment.
    pub fn active_bundles(&self) -> Result<Vec<ActiveBundle>, ReadError> {
        let sql = format!(
            "SELECT toString(judged) AS environment, argMax(b.name, b.offset) AS name, argMax(b.version, b.offset) AS version,
                    argMax(lower(hex(b.digest)), b.offset) AS digest,
                    argMax(toUnixTimestamp64Milli(b.logged_at), b.offset) AS pushed_at,
                    argMax(toString(b.pushed_by), b.offset) AS pushed_by
             FROM {} AS b ARRAY JOIN b.environments AS judged GROUP BY judged ORDER BY environment",
            self.tables.bundles
        );
        self.rows(&sql, &[])
    }
}
