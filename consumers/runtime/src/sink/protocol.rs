//! Claim, drain, look, insert: the four steps against the store by which every offset becomes exactly one row.
//!
//! What each step relies on:
//! - a table refuses a row whose claim is not the latest one on its topic-partition (`CONSTRAINT fence`, error 469)
//! - an insert shows in `system.processes`, with its marker, before the fence looks at it
//! - so, once a claim is acknowledged, an older insert is either seen by the drain or refused by the fence

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

/// What a table holds of a topic-partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The lowest offset; where offsets right before it were passed over, the lowest of these.
    pub first: i64,
    /// The highest offset.
    pub last: i64,
    /// How many rows.
    pub count: u64,
    /// How many offsets between `first` and `last` were passed over, since the topic has no record there.
    pub skipped: u64,
    /// What the record at `last` is known by.
    pub identity: Identity,
}

/// What a record at a given offset is known by: a re-created topic may repeat a value there, hardly at the same
/// millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of its value.
    pub sha256: Digest,
    /// When the broker appended it.
    pub logged_at: Millis,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "logged at {} ms with SHA-256 {}", self.logged_at.0, self.sha256)
    }
}

/// Claims `names`. When this returns the claims hold, and every insert under an older one that has not passed the fence
/// yet will be refused. On an error they may hold or not: claim anew.
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

/// How waiting for older inserts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum DrainOutcome {
    /// None is under way.
    Done,
    /// A stop was asked for meanwhile.
    Stopped,
}

/// Waits until no insert that names one of `claims` is under way: what is there then stays.
pub fn drain(store: &Store, claims: &Claims, stop: &ShutdownSignal) -> Result<DrainOutcome, StoreError> {
    #[derive(Deserialize)]
    struct Running {
        query: String,
    }
    let deadline = Instant::now() + store.insert_timeout() + CLIENT_MARGIN;
    loop {
        let running: Vec<Running> =
            store.select("SELECT query FROM system.processes WHERE position(query, 'sink:') > 0")?;
        let Some(ours) = running.iter().find(|r| names_in(&r.query).any(|name| claims.get(name).is_some()))
        else {
            return Ok(DrainOutcome::Done);
        };
        if Instant::now() > deadline {
            let marker = ours.query.split_once("*/").map_or(ours.query.as_str(), |(marker, _)| marker);
            return Err(StoreError::InsertOverdue { marker: format!("{marker}*/") });
        }
        if stop.wait(DRAIN_POLL_INTERVAL) {
            return Ok(DrainOutcome::Stopped);
        }
    }
}

/// What `table` holds of `names`; those of which it holds nothing are absent. `gapless`: it has a column `skipped`.
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
    // As the projection has it, whichever the table has.
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

/// Inserts `block` under `claims`, which name every topic-partition in it. When this returns, all its rows are durable
/// at the server. If the store fails, all of them are there, or none, or they will be: never send them again under these claims.
/// A block that cannot be encoded ends the stage, which has no way to leave its records out.
pub fn insert(store: &Store, table: &str, claims: &Claims, block: &Block) -> Result<(), WriteError> {
    let internal = |e| WriteError::Fatal(StageError::Internal(format!("a block of table {table}: {e}")));
    let body = block.encode().map_err(internal)?;
    let names: Vec<_> = block.names().map(|name| format!("`{name}`")).collect();
    let sql = format!("{} INSERT INTO {table} ({}) FORMAT Native", claims.marker(), names.join(","));
    Ok(store.insert_native(&sql, body)?)
}
