//! Encodes records as rows.

use std::collections::BTreeMap;

use agentgov_runtime::sink::native::{Block, CellCountError, Column};
use agentgov_runtime::sink::{EncodeOutcome, Record, RowEncoder, Store, WriteError};
use agentgov_runtime::{SchemaCache, SchemaLookup};
use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{Digest, record};
use agentgov_service::{Health, ShutdownSignal, StageError};
use serde::Deserialize;

use crate::columns::{
    Columns, action, agent, alert, basis, bundle, key, raw, reject, skipped, tool, verdict,
};
use crate::recorded_schemas::RecordedSchemas;
use crate::tables::{Feed, STAGE};

/// Encoding of one topic's records.
#[derive(Clone, Copy, Debug)]
struct Table {
    columns: fn() -> Vec<Column>,
    push: Push,
    gapless: bool,
}

/// Decodes a datum and fills a row with its fields or with the decoding error, and with the skipped offsets if the
/// table has that column.
type Push = fn(&mut Block, raw::Raw<'_>, &SplitValue<'_>, Option<u64>);

/// Datum of a record with its writer's schema, or the reason why there is none: a code of docs/errors, and the detail.
type SplitValue<'a> = Result<(&'a wire::Schema, SchemaId, &'a [u8]), (RejectReason, String)>;

impl Table {
    fn of<C>(gapless: bool) -> Self
    where
        C: Columns,
        for<'a> C::Value<'a>: Deserialize<'a>,
    {
        Self { columns: || raw::Columns::columns().chain(C::columns()).collect(), push: push::<C>, gapless }
    }

    /// Returns the table with the subject of its records.
    fn with_subject<C>(gapless: bool) -> (Subject, Self)
    where
        C: Columns,
        for<'a> C::Value<'a>: Deserialize<'a> + record::Record,
    {
        (<C::Value<'static> as record::Record>::SUBJECT, Self::of::<C>(gapless))
    }

    fn for_feed(feed: &Feed) -> Option<Self> {
        let gapless = feed.route.gapless;
        [
            Self::with_subject::<action::Columns>(gapless),
            Self::with_subject::<verdict::Columns>(gapless),
            Self::with_subject::<alert::Columns>(gapless),
            Self::with_subject::<reject::Columns>(gapless),
            Self::with_subject::<basis::Columns>(gapless),
            Self::with_subject::<agent::Columns>(gapless),
            Self::with_subject::<tool::Columns>(gapless),
            Self::with_subject::<bundle::Columns>(gapless),
            Self::with_subject::<key::Columns>(gapless),
        ]
        .into_iter()
        .find(|(subject, _)| subject.name == feed.subject.name)
        .map(|(_, table)| table)
    }

    fn block(&self) -> Block {
        let mut columns = (self.columns)();
        if self.gapless {
            columns.extend(skipped::Columns::columns());
        }
        Block::new(columns)
    }

    fn push(&self, block: &mut Block, raw: raw::Raw<'_>, skipped: u64, split: &SplitValue<'_>) {
        (self.push)(block, raw, split, self.gapless.then_some(skipped));
    }
}

fn push<C>(block: &mut Block, mut raw: raw::Raw<'_>, split: &SplitValue<'_>, skipped: Option<u64>)
where
    C: Columns,
    for<'a> C::Value<'a>: Deserialize<'a>,
{
    let decoded = match split {
        Ok((schema, id, datum)) => {
            raw.schema_id = id.0;
            raw.schema_fingerprint = schema.fingerprint().0;
            schema.decode::<C::Value<'_>>(*id, datum).map_err(|e| format!("{}: {e}", e.reason()))
        }
        Err((reason, detail)) => Err(format!("{reason}: {detail}")),
    };
    let decoded = decoded.map_err(|why| raw.decode_error = why).ok();
    let mut cells = block.row();
    raw::Columns::fill(&mut cells, &raw);
    match &decoded {
        Some(value) => C::fill(&mut cells, value),
        None => C::fill_default(&mut cells),
    }
    if let Some(skipped) = skipped {
        skipped::Columns::fill(&mut cells, &skipped);
    }
}

/// Encodes the records of the log.
pub(crate) struct LogEncoder {
    tables: BTreeMap<String, Table>,
    schemas: SchemaCache,
    recorded_schemas: RecordedSchemas,
    health: Health,
    stop: ShutdownSignal,
}

impl LogEncoder {
    pub(crate) fn new(
        feeds: &[Feed],
        schemas: SchemaCache,
        recorded_schemas: RecordedSchemas,
        health: &Health,
        stop: &ShutdownSignal,
    ) -> Self {
        let tables = feeds
            .iter()
            .filter_map(|feed| Some((feed.route.topic.clone(), Table::for_feed(feed)?)))
            .collect();
        Self { tables, schemas, recorded_schemas, health: health.clone(), stop: stop.clone() }
    }

    fn table(&self, topic: &str) -> Result<Table, StageError> {
        let table = self.tables.get(topic).copied();
        table.ok_or_else(|| {
            StageError::Internal(format!("expected a table for the records of {topic}, found none"))
        })
    }
}

impl RowEncoder for LogEncoder {
    fn block(&self, topic: &str) -> Result<Block, StageError> {
        Ok(self.table(topic)?.block())
    }

    fn push(
        &mut self,
        block: &mut Block,
        record: &Record<'_>,
        claim: u64,
    ) -> Result<EncodeOutcome, StageError> {
        let table = self.table(&record.at.topic)?;
        let (raw, skipped) = (raw::Raw::new(record, claim), record.skipped);
        // A tombstone counts as an empty value.
        let (id, datum) = match wire::split(record.value.unwrap_or_default()) {
            Ok(split) => split,
            Err(error) => {
                table.push(block, raw, skipped, &Err((error.reason(), error.to_string())));
                return Ok(EncodeOutcome::Row);
            }
        };
        match self.schemas.get(id, &self.health, &self.stop) {
            SchemaLookup::Stopped => return Ok(EncodeOutcome::Stopped),
            SchemaLookup::Unknown(detail) => {
                table.push(block, raw, skipped, &Err((RejectReason::UnknownSchemaId, detail)));
            }
            SchemaLookup::Known(schema) => {
                self.recorded_schemas.add(id, &schema, record)?;
                table.push(block, raw, skipped, &Ok((&schema, id, datum)));
            }
        }
        Ok(EncodeOutcome::Row)
    }

    fn before_insert(&mut self, store: &Store) -> Result<(), WriteError> {
        self.schemas.recheck(STAGE, &self.health).map_err(WriteError::Fatal)?;
        self.recorded_schemas.flush(store)
    }
}

/// Rows of actions without a stage. A benchmark measures their cost, and a fuzz test checks that no row is left out.
#[derive(Debug)]
pub struct ActionRows {
    block: Block,
    table: Table,
    schema: &'static wire::Schema,
}

impl ActionRows {
    /// Creates an empty block.
    ///
    /// # Errors
    /// Fails if this build's schema does not parse.
    pub fn new() -> Result<Self, wire::SchemaError> {
        let table = Table::of::<action::Columns>(true);
        Ok(Self { block: table.block(), table, schema: subject::ACTION_EVENT.schema()? })
    }

    /// Adds a record as a row.
    pub fn push(&mut self, record: &Record<'_>) {
        let raw = raw::Raw::new(record, 1);
        let split = wire::split(record.value.unwrap_or_default());
        let split = split
            .map(|(id, datum)| (self.schema, id, datum))
            .map_err(|error| (error.reason(), error.to_string()));
        self.table.push(&mut self.block, raw, record.skipped, &split);
    }

    /// Returns the number of rows.
    pub const fn rows(&self) -> usize {
        self.block.rows()
    }

    /// Encodes the rows.
    ///
    /// # Errors
    /// Fails if a row does not have a cell for each column: a bug.
    pub fn encode(&self) -> Result<Vec<u8>, CellCountError> {
        self.block.encode()
    }

    /// Returns the size of the rows in bytes.
    pub fn bytes(&self) -> usize {
        self.block.bytes()
    }
}

/// Returns the SHA-256 of a record's value; of no bytes for a tombstone.
pub(crate) fn record_digest(record: &Record<'_>) -> Digest {
    Digest::of(record.value.unwrap_or_default())
}

#[cfg(test)]
mod tests;
