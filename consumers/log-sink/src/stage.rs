//! The stage: its tables, its encoder, the loop.

use std::sync::Arc;

use agentgov_connect::{Endpoints, SchemaRegistry};
use agentgov_runtime::SchemaCache;
use agentgov_runtime::sink::{self, Options, Store};
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::topology::Topology;
use agentgov_service::backoff::Backoff;
use agentgov_service::{Health, ShutdownSignal, StageError};

use crate::encoder::LogEncoder;
use crate::migrate;
use crate::recorded_schemas::RecordedSchemas;
use crate::tables::{CLAIMS, EMPTY, GAPS, STAGE, feeds, stage};

/// Configuration of the stage.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of Kafka, the schema registry and ClickHouse.
    pub endpoints: Endpoints,
    /// The topology.
    pub topology: Arc<Topology>,
    /// Ends the stage.
    pub stop: ShutdownSignal,
    /// Receives progress and the reasons why the stage is not ready.
    pub health: Health,
    /// True: resume after records that retention deleted unread, and record the gap.
    pub accept_gap: bool,
}

/// Runs until shutdown is requested. Blocks; never call it from async code. Waits, not ready, while ClickHouse, Kafka
/// or the schema registry is unavailable.
///
/// Fails with `Overtaken`, `OtherCluster` or `Fenced` as their pages in docs/errors describe, with `Config` if
/// topology, tables and topics do not match, and with `Internal` if a table lacks rows.
pub fn run(config: Config) -> Result<(), StageError> {
    let feeds = feeds(&config.topology)?;
    let timing = config.topology.timing;
    let store = Store::new(&config.endpoints.clickhouse, timing.insert_timeout.0)?
        .with_shutdown(config.stop.clone(), config.health.clone());
    let Some(recorded_schemas) = prepare(&config, &store)? else { return Ok(()) };
    let registry = SchemaRegistry::new(&config.endpoints.schema_registry)
        .map_err(|e| StageError::Config(e.to_string()))?;
    let encoder =
        LogEncoder::new(&feeds, SchemaCache::new(registry), recorded_schemas, &config.health, &config.stop);
    let options = Options {
        stage: STAGE.to_owned(),
        group: stage(&config.topology)?.group.value.clone(),
        routes: feeds.into_iter().map(|feed| feed.route).collect(),
        claims_table: CLAIMS.to_owned(),
        gaps_table: GAPS.to_owned(),
        empty_ranges_table: EMPTY.to_owned(),
        kafka: config.endpoints.kafka,
        timing,
        accept_gap: config.accept_gap,
        stop: config.stop,
        health: config.health,
    };
    sink::run(options, store, encoder)
}

/// Creates the tables and reads the stored schemas. Waits while ClickHouse is unavailable; returns `None` if shutdown
/// is requested.
fn prepare(config: &Config, store: &Store) -> Result<Option<RecordedSchemas>, StageError> {
    let mut backoff = Backoff::default();
    loop {
        let started = migrate::migrate_store(store, &config.stop).and_then(|_| RecordedSchemas::load(store));
        match started {
            Ok(recorded_schemas) => {
                config.health.clear(NotReadyReason::Clickhouse);
                return Ok(Some(recorded_schemas));
            }
            Err(StageError::Unavailable { what, message }) => {
                config.health.set_not_ready(NotReadyReason::Clickhouse, format!("{what}: {message}"));
            }
            Err(fatal) => return Err(fatal),
        }
        if config.stop.wait(backoff.pause()) {
            return Ok(None);
        }
    }
}
