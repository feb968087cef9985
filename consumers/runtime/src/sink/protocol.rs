//! Claim, drain, tail read, insert: the four steps against the store that make every offset exactly one row.
//!
//! Each step relies on the following:
//! - A table refuses a row whose claim is not the latest one on its topic-partition (`CONSTRAINT fence`, error 469).
//! - An insert shows in `system.processes`, with its marker, before the fence is checked.
//! - Therefore, once a claim is acknowledged, the drain sees an older insert, or the fence refuses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use agentgov_schemas::{Digest, Millis};
use agentgov_service::{ShutdownSignal, StageError};
use serde::Deserialize;

use super::WriteError;
use super::marker::{Claims, names_in};
use super::native::Block;
use super::store::{CLIENT_MARGIN, Store, StoreError, quote};

const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Summary of a topic-partition's rows in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// First offset, including the skipped offsets right before the first row.
    pub first: i64,
    /// Last offset.
    pub last: i64,
    /// Number of rows.
    pub count: u64,
    /// Number of skipped offsets between `first` and `last`.
    pub skipped: u64,
    /// Identity of the record at `last`.
    pub identity: Identity,
}

/// Identity of a record at a given offset. A topic that was created again may repeat a value at an offset, but hardly
/// at the same millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of its value.
    pub sha256: Digest,
    /// Time at which the broker appended it.
    pub logged_at: Millis,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "logged at {} ms with SHA-256 {}", self.logged_at.0, self.sha256)
    }
}

/// Claims `names`. After `Ok` the claims hold, and the fence refuses every insert under an older claim that it has not
/// checked yet. After an error the claims may hold or not: claim again.
pub fn claim(
    store: &Store,
    table: &str,
    names: impl IntoIterator<Item = String>,
) -> Result<Claims, StoreError> {
    let claims = Claims::random(names);
    let values: Vec<_> = claims.iter().map(|(name, claim)| format!("({},{claim})", quote(name))).collect();
    if !values.is_empty() {
        store
            .execute(&format!("INSERT INTO {table} (topic_partition, claim) VALUES {}", values.join(",")))?;
    }
    Ok(claims)
}

/// Outcome of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum DrainOutcome {
    /// No older insert runs.
    Done,
    /// Shutdown was requested meanwhile.
    Stopped,
}

/// Waits until no insert that names one of `claims` runs. The rows of the table do not change afterwards.
pub fn drain(store: &Store, claims: &Claims, stop: &ShutdownSignal) -> Result<DrainOutcome, StoreError> {
    #[derive(Deserialize)]
    struct Running {
        query: String,
    }
    let deadline = Instant::now() + store.insert_timeout() + CLIENT_MARGIN;
    loop {
        let running: Vec<Running> =
            store.select("SELECT query FROM system.processes WHERE position(query, 'sink:') > 0")?;
        let Some(insert) = running.iter().find(|r| names_in(&r.query).any(|name| claims.get(name).is_some()))
        else {
            return Ok(DrainOutcome::Done);
        };
        if Instant::now() > deadline {
            let marker = insert.query.split_once("*/").map_or(insert.query.as_str(), |(marker, _)| marker);
            return Err(StoreError::InsertOverdue { marker: format!("{marker}*/") });
        }
        if stop.wait(DRAIN_POLL_INTERVAL) {
            return Ok(DrainOutcome::Stopped);
        }
    }
}

/// Reads the tails of `names` in `table`; names without rows are absent. `gapless`: the table has a column `skipped`.
pub fn read_tails(
    store: &Store,
    table: &str,
    gapless: bool,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, Tail>, StoreError> {
    #[derive(Deserialize)]
    struct Row {
        topic_partition: String,
        first: i64,
        last: i64,
        count: u64,
        passed: u64,
        sha256: Digest,
        logged_at: Millis,
    }
    let listed: Vec<_> = names.iter().map(|name| quote(name)).collect();
    // Uses the expressions of the table's projection.
    let (first, skipped) =
        if gapless { ("offset - skipped", "sum(skipped)") } else { ("offset", "toUInt64(0)") };
    let rows: Vec<Row> = store.select(&format!(
        "SELECT topic_partition, min({first}) AS first, max(offset) AS last, count() AS count, {skipped} AS passed, \
         lower(hex(argMax(record_sha256, offset))) AS sha256, \
         toUnixTimestamp64Milli(argMax(logged_at, offset)) AS logged_at FROM {table} WHERE topic_partition IN ({}) \
         GROUP BY topic_partition",
        listed.join(",")
    ))?;
    let tail = |r: &Row| {
        let identity = Identity { sha256: r.sha256, logged_at: r.logged_at };
        Tail { first: r.first, last: r.last, count: r.count, skipped: r.passed, identity }
    };
    Ok(rows.into_iter().map(|row| (row.topic_partition.clone(), tail(&row))).collect())
}

/// Inserts `block` under `claims`, which cover every topic-partition in it. After `Ok` all its rows are durable. After
/// an error of the store the outcome is unknown: the table has all of its rows, or none, or will have them later. Never
/// send them again under these claims. A block that cannot be encoded ends the stage, since no record may be left out.
pub fn insert(store: &Store, table: &str, claims: &Claims, block: &Block) -> Result<(), WriteError> {
    let internal = |e| WriteError::Fatal(StageError::Internal(format!("a block of table {table}: {e}")));
    let body = block.encode().map_err(internal)?;
    let names: Vec<_> = block.names().map(|name| format!("`{name}`")).collect();
    let sql = format!("{} INSERT INTO {table} ({}) FORMAT Native", claims.marker(), names.join(","));
    Ok(store.insert_native(&sql, body)?)
}
