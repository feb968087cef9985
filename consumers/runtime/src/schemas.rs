//! Writers' schemas by id: fetched once, then from memory. Errors are never cached.

use std::collections::HashMap;
use std::sync::Arc;

use agentgov_connect::{RegistryError, SchemaRegistry};
use agentgov_schemas::wire::{Schema, SchemaId};

use crate::backoff::Backoff;
use crate::{Health, StageError, Stop};

/// The schemas that this process has met. One a thread: it needs no lock.
#[derive(Debug)]
pub struct SchemaCache {
    registry: SchemaRegistry,
    known: HashMap<SchemaId, Arc<Schema>>,
}

/// What asking for a schema came to.
#[derive(Clone, Debug)]
pub enum SchemaLookup {
    /// The registry knows it.
    Known(Arc<Schema>),
    /// The registry answers, and has no such id, or something there that is no Avro schema: the text says which.
    Unknown(String),
    /// Asked to stop while waiting for the registry.
    Stopped,
}

impl SchemaCache {
    /// An empty cache over `registry`.
    pub fn new(registry: SchemaRegistry) -> Self {
        Self { registry, known: HashMap::new() }
    }

    /// The schema of `id`. While the registry is away it waits, not ready, until it is back or `stop` is asked: a
    /// record is never rejected for an outage.
    pub fn get(&mut self, id: SchemaId, health: &Health, stop: &Stop) -> SchemaLookup {
        if let Some(schema) = self.known.get(&id) {
            return SchemaLookup::Known(Arc::clone(schema));
        }
        let mut backoff = Backoff::default();
        loop {
            match self.registry.schema(id) {
                Ok(schema) => {
                    health.clear("registry");
                    let schema = Arc::new(schema);
                    self.known.insert(id, Arc::clone(&schema));
                    return SchemaLookup::Known(schema);
                }
                Err(error) if error.is_transient() => {
                    health.not_ready("registry", error.to_string());
                    if stop.wait(backoff.pause()) {
                        return SchemaLookup::Stopped;
                    }
                }
                Err(error) => {
                    health.clear("registry");
                    return SchemaLookup::Unknown(error.to_string());
                }
            }
        }
    }

    /// The id under which `schema` is registered for `subject`, for a stage that writes it.
    pub fn id_for_writing(&self, subject: &str, schema: &Schema) -> Result<SchemaId, StageError> {
        match self.registry.id_of(subject, schema.text()) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(StageError::Config(format!(
                "schema registry: subject {subject} does not hold the schema that this build writes; run `agentgov topology apply`"
            ))),
            Err(error @ RegistryError::Unavailable { .. }) => {
                Err(StageError::Unavailable { what: "schema registry".into(), message: error.to_string() })
            }
            Err(error) => Err(StageError::Config(error.to_string())),
        }
    }
}
