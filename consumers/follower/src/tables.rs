//! Reads governance topics into the tables.
//!
//! A bundle is compiled before the table is locked. Meanwhile the last good bundle decides. Agents and tools have threads of
//! their own, so that a suspension never waits for a compilation.

use std::time::{Duration, Instant};

use agentgov_connect::{TopicEvent, TopicReader};
use agentgov_policy::{BundleTable, FoldOutcome};
use agentgov_runtime::{SchemaCache, SchemaLookup};
use agentgov_schemas::governance::{AgentEntry, Bundle, KeyEntry, ToolEntry};
use agentgov_schemas::wire::{self, Schema, SchemaId};
use agentgov_schemas::{Millis, NotReadyReason};
use agentgov_service::{Health, NO_TIMESTAMP, ShutdownSignal, StageError, logged_at};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::freshness::Freshness;
use crate::stalls::Stalls;
use crate::state::{STAGE, State, report_error};

/// Timeout until the end of the topic is confirmed. After it the reader is restarted, and reports the end again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// A table that follows a governance topic.
pub(crate) trait Table {
    /// Applies a record; `Err` is the reason why it cannot be read.
    fn apply(&mut self, state: &State, record: Entry<'_>);
    /// Marks the table as loaded: the topic was read to its end for the first time.
    fn load(&mut self, _state: &State) {}
    /// Freshness of the table.
    fn freshness(state: &State) -> &Freshness;
}

/// A record of a governance topic.
pub(crate) struct Entry<'a> {
    offset: i64,
    logged_at: Millis,
    value: Result<(SchemaId, &'a Schema, &'a [u8]), String>,
}

/// The agents.
pub(crate) struct Agents;

impl Table for Agents {
    fn apply(&mut self, state: &State, Entry { offset, value, .. }: Entry<'_>) {
        let entry = value.and_then(|(id, schema, datum)| {
            schema.decode::<AgentEntry<'_>>(id, datum).map_err(|error| error.to_string())
        });
        match entry {
            Ok(entry) => state.agents_mut().fold(&entry, offset),
            Err(error) => {
                state.agents_mut().skip(offset);
                tracing::error!(
                    topic = state.topics.agents,
                    offset,
                    error,
                    "skipped an agent that cannot be read"
                );
            }
        }
    }

    fn freshness(state: &State) -> &Freshness {
        &state.agents_freshness
    }
}

/// The tools and their servers.
pub(crate) struct Tools;

impl Table for Tools {
    fn apply(&mut self, state: &State, Entry { offset, value, .. }: Entry<'_>) {
        let entry = value.and_then(|(id, schema, datum)| {
            schema.decode::<ToolEntry<'_>>(id, datum).map_err(|error| error.to_string())
        });
        match entry {
            Ok(entry) => state.tools_mut().fold(&entry, offset),
            Err(error) => {
                state.tools_mut().skip(offset);
                tracing::error!(
                    topic = state.topics.tools,
                    offset,
                    error,
                    "skipped a tool that cannot be read"
                );
            }
        }
    }

    fn freshness(state: &State) -> &Freshness {
        &state.tools_freshness
    }
}

/// The keys that sign decisions and approvals.
pub(crate) struct Keys;

impl Table for Keys {
    fn apply(&mut self, state: &State, Entry { offset, logged_at, value }: Entry<'_>) {
        let folded = value.and_then(|(id, schema, datum)| {
            let entry = schema.decode::<KeyEntry<'_>>(id, datum).map_err(|error| error.to_string())?;
            state.keys_mut().fold(&entry, offset, logged_at).map_err(|error| error.to_string())
        });
        if let Err(error) = folded {
            state.keys_mut().skip(offset);
            tracing::error!(topic = state.topics.keys, offset, error, "skipped a key");
        }
    }

    fn freshness(state: &State) -> &Freshness {
        &state.keys_freshness
    }
}

/// The bundles. Of those pushed before the start, only the newest of each environment is compiled.
#[derive(Default)]
pub(crate) struct Bundles {
    is_loaded: bool,
    deferred: BundleTable,
}

impl Table for Bundles {
    fn apply(&mut self, state: &State, Entry { offset, logged_at, value }: Entry<'_>) {
        let bundle = value.and_then(|(id, schema, datum)| {
            schema.decode::<Bundle<'_>>(id, datum).map_err(|error| error.to_string())
        });
        match bundle {
            Ok(bundle) if !self.is_loaded => self.deferred.defer(&bundle, offset, logged_at),
            Ok(bundle) => {
                let outcome = BundleTable::compile(&bundle, offset, logged_at);
                if let FoldOutcome::Refused(refused) = &outcome {
                    tracing::error!(
                        topic = state.topics.bundles,
                        offset,
                        problem = refused.first_problem(),
                        "the bundle does not load; the last good one stays active"
                    );
                }
                state.bundles_mut().insert(&outcome, offset);
            }
            Err(error) => {
                match self.is_loaded {
                    true => state.bundles_mut().skip(offset),
                    false => self.deferred.skip(offset),
                }
                tracing::error!(
                    topic = state.topics.bundles,
                    offset,
                    error,
                    "skipped a bundle that cannot be read"
                );
            }
        }
    }

    fn load(&mut self, state: &State) {
        self.is_loaded = true;
        let compiled = self.deferred.compile_deferred();
        tracing::info!(pushed = compiled.pushed, compiled = compiled.compiled, "compiled the newest bundles");
        *state.bundles_mut() = std::mem::take(&mut self.deferred);
    }

    fn freshness(state: &State) -> &Freshness {
        &state.bundles_freshness
    }
}

/// Follows the topic of `reader` until `stop` is requested.
///
/// # Errors
/// If the schema registry has another schema under an id that was read before.
pub(crate) fn follow<T: Table>(
    mut table: T,
    state: &State,
    reader: &TopicReader,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<(), StageError> {
    let freshness = T::freshness(state);
    let mut is_loaded = false;
    let mut stalls = Stalls::new(CONFIRM_TIMEOUT, 1, Instant::now());
    while !stop.is_requested() {
        schemas.recheck(STAGE, health)?;
        match reader.poll(Duration::from_millis(100)) {
            Some(TopicEvent::Record(message)) => {
                apply(&mut table, state, &message, schemas, health, stop);
                stalls.record_event(0, Instant::now());
                if is_loaded {
                    freshness.advance(message.offset().saturating_add(1));
                }
            }
            Some(TopicEvent::End(_)) => {
                if !std::mem::replace(&mut is_loaded, true) {
                    table.load(state);
                }
                stalls.record_event(0, Instant::now());
                freshness.reach_end(reader.empty_at());
            }
            Some(TopicEvent::Error(error)) => {
                report_error(health, NotReadyReason::Tables, reader.topic(), &error);
            }
            None => {}
        }
        if stalls.is_due(Instant::now(), |_, since| freshness.is_waiting_since(since)) {
            let _ = reader.restart();
        }
    }
    Ok(())
}

fn apply<T: Table>(
    table: &mut T,
    state: &State,
    message: &BorrowedMessage<'_>,
    schemas: &mut SchemaCache,
    health: &Health,
    stop: &ShutdownSignal,
) {
    let offset = message.offset();
    let parsed;
    let value = match wire::split(message.payload().unwrap_or_default()) {
        Err(error) => Err(error.to_string()),
        Ok((id, datum)) => match schemas.get_uncached(id, health, stop) {
            SchemaLookup::Known(schema) => {
                parsed = schema;
                Ok((id, &*parsed, datum))
            }
            SchemaLookup::Unknown(reason) => Err(reason),
            SchemaLookup::Stopped => return,
        },
    };
    // The append time belongs to the entry.
    let logged_at = logged_at(message);
    let value = if logged_at.is_some() { value } else { Err(NO_TIMESTAMP.to_owned()) };
    table.apply(state, Entry { offset, logged_at: logged_at.unwrap_or(Millis(0)), value });
}
