//! From a record to a row.

use std::collections::BTreeMap;

use agentgov_runtime::sink::native::Block;
use agentgov_runtime::sink::{NotReady, Pushed, Record, Store, Writer};
use agentgov_runtime::{Health, SchemaCache, SchemaLookup, StageError, Stop};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{Digest, subject};
use serde::Deserialize;

use crate::columns::{Columns, action, agent, alert, bundle, raw, reject, tool, verdict};
use crate::ledger::Ledger;
use crate::tables::{Feed, STAGE};

/// How the records of one topic become rows.
#[derive(Clone, Copy)]
struct Table {
    block: fn() -> Block,
    push: Push,
}

/// Decodes a datum and fills a row with it, or with why it does not decode.
type Push = fn(&mut Block, raw::Raw<'_>, &Writers<'_>);

/// A record's datum and its writer's schema, or why there is none: a reason of docs/errors, and the detail.
type Writers<'a> = Result<(&'a wire::Schema, SchemaId, &'a [u8]), (&'static str, String)>;

impl Table {
    fn of<C>() -> Self
    where
        C: Columns,
        for<'a> C::Value<'a>: Deserialize<'a>,
    {
        Self { block: || Block::new(raw::Columns::columns().chain(C::columns()).collect()), push: push::<C> }
    }

    fn for_subject(name: &str) -> Option<Self> {
        [
            (subject::ACTION_EVENT, Self::of::<action::Columns>()),
            (subject::VERDICT, Self::of::<verdict::Columns>()),
            (subject::ALERT, Self::of::<alert::Columns>()),
            (subject::REJECT, Self::of::<reject::Columns>()),
            (subject::AGENT, Self::of::<agent::Columns>()),
            (subject::TOOL, Self::of::<tool::Columns>()),
            (subject::BUNDLE, Self::of::<bundle::Columns>()),
        ]
        .into_iter()
        .find(|(subject, _)| subject.name == name)
        .map(|(_, table)| table)
    }
}

fn push<C>(block: &mut Block, mut raw: raw::Raw<'_>, writers: &Writers<'_>)
where
    C: Columns,
    for<'a> C::Value<'a>: Deserialize<'a>,
{
    let decoded = match writers {
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
        None => C::absent(&mut cells),
    }
}

/// Writes the records of the log.
pub(crate) struct LogWriter {
    tables: BTreeMap<String, Table>,
    schemas: SchemaCache,
    ledger: Ledger,
    health: Health,
    stop: Stop,
}

impl LogWriter {
    pub(crate) fn new(
        feeds: &[Feed],
        schemas: SchemaCache,
        ledger: Ledger,
        health: &Health,
        stop: &Stop,
    ) -> Self {
        let tables = feeds
            .iter()
            .filter_map(|feed| Some((feed.route.topic.clone(), Table::for_subject(feed.subject.name)?)))
            .collect();
        Self { tables, schemas, ledger, health: health.clone(), stop: stop.clone() }
    }

    fn table(&self, topic: &str) -> Result<Table, StageError> {
        let table = self.tables.get(topic).copied();
        table.ok_or_else(|| StageError::Internal(format!("a record of {topic}, which goes into no table")))
    }
}

impl Writer for LogWriter {
    fn block(&self, topic: &str) -> Result<Block, StageError> {
        Ok((self.table(topic)?.block)())
    }

    fn push(&mut self, block: &mut Block, record: &Record<'_>, claim: u64) -> Result<Pushed, StageError> {
        let table = self.table(&record.at.topic)?;
        let raw = raw::Raw::new(record, claim);
        let (id, datum) = match wire::split(record.value.unwrap_or_default()) {
            Ok(split) => split,
            Err(error) => {
                (table.push)(block, raw, &Err((error.reason(), error.to_string())));
                return Ok(Pushed::Row);
            }
        };
        match self.schemas.get(id, &self.health, &self.stop) {
            SchemaLookup::Stopped => return Ok(Pushed::Stopped),
            SchemaLookup::Unknown(detail) => (table.push)(block, raw, &Err(("unknown_schema_id", detail))),
            SchemaLookup::Known(schema) => {
                self.ledger.meet(id, &schema, record)?;
                (table.push)(block, raw, &Ok((&schema, id, datum)));
            }
        }
        Ok(Pushed::Row)
    }

    fn before_insert(&mut self, store: &Store) -> Result<(), NotReady> {
        self.schemas.recheck(STAGE, &self.health).map_err(NotReady::Fatal)?;
        self.ledger.write(store)
    }
}

/// Rows of actions without a stage around them, so that a benchmark can count what they cost.
#[derive(Debug)]
pub struct Actions {
    block: Block,
    schema: &'static wire::Schema,
}

impl Actions {
    /// None yet.
    ///
    /// # Errors
    /// If this build's schema does not parse.
    pub fn new() -> Result<Self, wire::SchemaError> {
        let block = Block::new(raw::Columns::columns().chain(action::Columns::columns()).collect());
        Ok(Self { block, schema: subject::ACTION_EVENT.schema()? })
    }

    /// Adds a record as a row.
    pub fn push(&mut self, record: &Record<'_>) {
        let raw = raw::Raw::new(record, 1);
        let split = wire::split(record.value.unwrap_or_default());
        let writers = split
            .map(|(id, datum)| (self.schema, id, datum))
            .map_err(|error| (error.reason(), error.to_string()));
        push::<action::Columns>(&mut self.block, raw, &writers);
    }

    /// Bytes gathered.
    pub fn bytes(&self) -> usize {
        self.block.bytes()
    }
}

/// SHA-256 of a record's value; of no bytes for a tombstone.
pub(crate) fn record_digest(record: &Record<'_>) -> Digest {
    Digest::of(record.value.unwrap_or_default())
}

#[cfg(test)]
mod tests;
