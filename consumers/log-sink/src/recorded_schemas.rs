//! The schemas met in the log: each is recorded, with the id it was met under, before the first row that uses it.

use std::collections::HashMap;

use agentgov_runtime::sink::store::quote;
use agentgov_runtime::sink::{Record, Store, StoreError, WriteError};
use agentgov_schemas::Digest;
use agentgov_schemas::wire::{Schema, SchemaId};
use agentgov_service::StageError;
use serde::Deserialize;

use crate::tables::{SCHEMAS, STAGE};

/// What is recorded, and what is still to be.
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
    /// What the table has.
    pub(crate) fn load(store: &Store) -> Result<Self, StageError> {
        let mut recorded_schemas = Self::default();
        for row in rows(store)
            .map_err(|e| StageError::Unavailable { what: "schemas".into(), message: e.to_string() })?
        {
            recorded_schemas.recorded.insert(SchemaId(row.schema_id), row.fingerprint);
        }
        Ok(recorded_schemas)
    }

    /// Takes note that `record` was written with `schema`, which the registry knows as `id`.
    ///
    /// Fatal if the id was recorded for another schema: ids mean nothing outside the registry that gave them, so this is
    /// another registry, or one that lost its data, and records may be misread.
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

    /// Records what was met and is not recorded yet. To be called before rows that refer to it go out.
    pub(crate) fn flush(&mut self, store: &Store) -> Result<(), WriteError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // Another sink may have recorded the same id since this one looked.
        for row in rows(store)? {
            if let Some(ours) =
                self.pending.iter().find(|p| p.id.0 == row.schema_id && p.fingerprint != row.fingerprint)
            {
                let error = other_registry_error(ours.id, row.fingerprint, ours.fingerprint, &ours.topic, -1);
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
             met, but the registry now has one with fingerprint {found}: it is another registry, or has lost its data",
            id.0
        ),
    }
}
