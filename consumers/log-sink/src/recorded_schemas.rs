//! Schemas of the log's records. Each is stored, with the id under which it was read, before the first row that uses
//! it.

use std::collections::HashMap;

use agentgov_runtime::sink::store::quote;
use agentgov_runtime::sink::{Record, Store, StoreError, WriteError};
use agentgov_schemas::Digest;
use agentgov_schemas::wire::{Schema, SchemaId};
use agentgov_service::StageError;
use serde::Deserialize;

use crate::tables::{SCHEMAS, STAGE};

/// Stored schemas, and those that are still to be stored.
#[derive(Debug, Default)]
pub(crate) struct RecordedSchemas {
    recorded: HashMap<SchemaId, Digest>,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    id: SchemaId,
    fingerprint: Digest,
    text: String,
    topic: String,
}

#[derive(Deserialize)]
struct Row {
    schema_id: u32,
    fingerprint: Digest,
}

impl RecordedSchemas {
    /// Reads the stored schemas from the table.
    pub(crate) fn load(store: &Store) -> Result<Self, StageError> {
        let mut recorded_schemas = Self::default();
        for row in rows(store)
            .map_err(|e| StageError::Unavailable { what: "schemas".into(), message: e.to_string() })?
        {
            recorded_schemas.recorded.insert(SchemaId(row.schema_id), row.fingerprint);
        }
        Ok(recorded_schemas)
    }

    /// Adds the schema of `record`, which the schema registry has under `id`.
    ///
    /// Fails if another schema is stored under the id. Ids are only valid within one schema registry, so this is
    /// another registry, or one that has lost its data, and records may be misread.
    pub(crate) fn add(
        &mut self,
        id: SchemaId,
        schema: &Schema,
        record: &Record<'_>,
    ) -> Result<(), StageError> {
        let fingerprint = schema.fingerprint().0;
        match self.recorded.get(&id) {
            Some(recorded) if *recorded == fingerprint => Ok(()),
            Some(recorded) => {
                Err(other_registry_error(id, *recorded, fingerprint, &record.at.topic, record.at.partition))
            }
            None => {
                let topic = record.at.topic.to_string();
                self.recorded.insert(id, fingerprint);
                self.pending.push(Pending { id, fingerprint, text: schema.text().to_owned(), topic });
                Ok(())
            }
        }
    }

    /// Stores the added schemas. Must be called before rows that refer to them are inserted.
    pub(crate) fn flush(&mut self, store: &Store) -> Result<(), WriteError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // Another sink may have stored the same id since the last read.
        for row in rows(store)? {
            if let Some(pending) =
                self.pending.iter().find(|p| p.id.0 == row.schema_id && p.fingerprint != row.fingerprint)
            {
                let error = other_registry_error(
                    pending.id,
                    row.fingerprint,
                    pending.fingerprint,
                    &pending.topic,
                    -1,
                );
                return Err(WriteError::Fatal(error));
            }
        }
        let values: Vec<_> = self
            .pending
            .iter()
            .map(|p| {
                format!("({},unhex('{}'),{},{})", p.id.0, p.fingerprint, quote(&p.text), quote(&p.topic))
            })
            .collect();
        store.execute(&format!(
            "INSERT INTO {SCHEMAS} (schema_id, fingerprint, text, met_in) VALUES {}",
            values.join(",")
        ))?;
        self.pending.clear();
        Ok(())
    }
}

fn rows(store: &Store) -> Result<Vec<Row>, StoreError> {
    store.select(&format!("SELECT DISTINCT schema_id, lower(hex(fingerprint)) AS fingerprint FROM {SCHEMAS}"))
}

fn other_registry_error(
    id: SchemaId,
    recorded: Digest,
    found: Digest,
    topic: &str,
    partition: i32,
) -> StageError {
    StageError::OtherCluster {
        stage: STAGE.to_owned(),
        topic: topic.to_owned(),
        partition,
        message: format!(
            "schema id {}: expected the schema with fingerprint {recorded}, recorded in table {SCHEMAS} when the id was first \
             read, but found one with fingerprint {found}: this is another schema registry, or it has lost its data",
            id.0
        ),
    }
}
