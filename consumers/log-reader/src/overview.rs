//! Sizes of tables, recent rejects and alerts, gaps, skipped offsets and active bundles.

use agentgov_schemas::Vocabulary as _;
use agentgov_schemas::verdict::Severity;
use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, ReadError, logged};

/// Start of ClickHouse's message for an unknown database.
const UNKNOWN_DATABASE: &str = "Code: 81.";

/// Size of a table.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct TableSize {
    /// Number of rows.
    pub rows: u64,
    /// logged_at of the newest row, in milliseconds since the epoch; 0 if the table is empty.
    pub newest: i64,
}

/// Number of a stage's rejects with one reason.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct RejectCount {
    /// Name of the stage.
    #[serde(deserialize_with = "logged::text")]
    pub stage: String,
    /// Reason of the rejects.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// Number of rejects.
    pub count: u64,
}

/// Number of alerts with one severity.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct AlertCount {
    /// Severity of the alerts.
    #[serde(deserialize_with = "logged::text")]
    pub severity: String,
    /// Number of alerts that were opened.
    pub opened: u64,
    /// Number of violations, including the first of each alert.
    pub violations: u64,
}

/// Last stop of a stage after a flood of rejects. Only an operator resumes the stage.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct StageStop {
    /// Name of the stage.
    #[serde(deserialize_with = "logged::text")]
    pub stage: String,
    /// Time of the stop, in milliseconds since the epoch.
    pub stopped_at: i64,
    /// Message of the alert about the stop.
    #[serde(deserialize_with = "logged::text")]
    pub message: String,
}

/// Accepted gap: offsets that a person accepted as lost.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Gap {
    /// Topic and partition.
    #[serde(deserialize_with = "logged::text")]
    pub topic_partition: String,
    /// First lost offset.
    pub from: i64,
    /// First offset after the gap.
    pub to: i64,
    /// Time of the acceptance, in milliseconds since the epoch.
    pub accepted_at: i64,
}

/// Offsets of a topic-partition without a record, because a client wrote transactions or compaction removed records.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct SkippedOffsets {
    /// Topic and partition.
    #[serde(deserialize_with = "logged::text")]
    pub topic_partition: String,
    /// Number of skipped offsets.
    pub offsets: u64,
    /// First offset of the last skipped range.
    pub from: i64,
    /// Offset of the record after that range.
    pub to: i64,
    /// logged_at of that record, in milliseconds since the epoch.
    pub logged_at: i64,
}

/// Active bundle of an environment: the last one in the log that was pushed for it.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct ActiveBundle {
    /// Name of the environment.
    #[serde(deserialize_with = "logged::text")]
    pub environment: String,
    /// Name of the bundle.
    #[serde(deserialize_with = "logged::text")]
    pub name: String,
    /// Version of the bundle.
    #[serde(deserialize_with = "logged::text")]
    pub version: String,
    /// Digest of the bundle, in hex.
    #[serde(deserialize_with = "logged::text")]
    pub digest: String,
    /// Time of the push, in milliseconds since the epoch.
    pub pushed_at: i64,
    /// Person or service that pushed the bundle.
    #[serde(deserialize_with = "logged::text")]
    pub pushed_by: String,
}

#[derive(Row, Deserialize)]
struct Version {
    #[serde(deserialize_with = "logged::text")]
    version: String,
}

impl LogReader {
    /// Returns the version of the server; `None` if the log's database does not exist yet.
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

    /// Returns the size of a table. Reads no rows: ClickHouse keeps both values for each part.
    pub fn table_size(&self, table: &str) -> Result<TableSize, ReadError> {
        let sql = "SELECT count() AS rows, if(count() = 0, 0, toUnixTimestamp64Milli(max(logged_at))) AS newest FROM";
        self.row(&format!("{sql} `{table}`"), &[])
    }

    /// Returns the rejects of the last `seconds` by stage and reason, the most frequent first.
    pub fn rejects_within(&self, seconds: u32) -> Result<Vec<RejectCount>, ReadError> {
        let sql = format!(
            "SELECT toString(r.stage) AS stage, toString(r.reason) AS reason, count() AS count FROM {} AS r
             WHERE r.logged_at > now64(3) - {seconds} GROUP BY r.stage, r.reason ORDER BY count DESC, stage, reason",
            self.tables.rejects
        );
        self.rows(&sql, &[])
    }

    /// Returns the alerts of the last `seconds` by severity, the highest first.
    pub fn alerts_within(&self, seconds: u32) -> Result<Vec<AlertCount>, ReadError> {
        let severities: Vec<String> =
            Severity::ALL.iter().rev().map(|severity| format!("'{severity}'")).collect();
        let severities = severities.join(", ");
        let sql = format!(
            "SELECT toString(a.severity) AS severity, countIf(a.revision = 0) AS opened, count() AS violations FROM {} AS a
             WHERE a.logged_at > now64(3) - {seconds} GROUP BY a.severity
             ORDER BY indexOf([{severities}], severity), severity",
            self.tables.alerts
        );
        self.rows(&sql, &[])
    }

    /// Returns the last stop of each stage in the last `seconds`.
    pub fn stops_within(&self, seconds: u32) -> Result<Vec<StageStop>, ReadError> {
        let sql = format!(
            "SELECT substring(toString(a.session_id), length('rejects/') + 1) AS stage,
                    toUnixTimestamp64Milli(max(a.logged_at)) AS stopped_at, argMax(toString(a.message), a.logged_at) AS message
             FROM {} AS a WHERE a.policy = 'agentgov:stage-stopped' AND a.logged_at > now64(3) - {seconds}
             GROUP BY a.session_id ORDER BY stage",
            self.tables.alerts
        );
        self.rows(&sql, &[])
    }

    /// Returns every accepted gap, the latest first. `table` is the table in which the sink records gaps.
    pub fn gaps(&self, table: &str) -> Result<Vec<Gap>, ReadError> {
        let sql = format!(
            "SELECT topic_partition, from_offset AS from, to_offset AS to, toUnixTimestamp64Milli(accepted_at) AS accepted_at
             FROM `{table}` ORDER BY accepted_at DESC"
        );
        self.rows(&sql, &[])
    }

    /// Returns the skipped offsets of each partition of a table's topic, the latest first. Reads a projection, and no rows.
    pub fn skipped(&self, table: &str) -> Result<Vec<SkippedOffsets>, ReadError> {
        let sql = format!(
            "SELECT toString(topic_partition) AS topic_partition, sum(skipped) AS offsets,
                    maxIf(offset, skipped > 0) - toInt64(argMaxIf(skipped, offset, skipped > 0)) AS from,
                    maxIf(offset, skipped > 0) AS to, toUnixTimestamp64Milli(maxIf(logged_at, skipped > 0)) AS logged_at
             FROM `{table}` GROUP BY topic_partition HAVING offsets > 0 ORDER BY logged_at DESC, topic_partition"
        );
        self.rows(&sql, &[])
    }

    /// Returns the active bundle of each environment.
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
