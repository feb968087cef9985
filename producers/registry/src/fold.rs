//! Reads a governance topic from its first record to its end.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use agentgov_connect::{SchemaRegistry, TopicEvent, TopicReader};
use agentgov_schemas::topology::reader_group;
use agentgov_schemas::wire::{self, Schema, SchemaId, WireError};
use agentgov_schemas::{Millis, Record};
use agentgov_token::KeyRefusal;
use rdkafka::message::{BorrowedMessage, Message as _};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::source::GovernanceTopic;

/// Maximum time without a record.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Content of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing<T> {
    /// The current entries.
    pub entries: Vec<T>,
    /// Records that this build cannot read.
    pub unreadable: Vec<UnreadableRecord>,
}

/// A record of a governance topic that this build cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableRecord {
    /// Offset of the record.
    pub offset: i64,
    /// Reason.
    pub reason: String,
}

/// Offset and time of a record.
pub(crate) struct RecordPosition {
    pub(crate) offset: i64,
    pub(crate) logged_at: Millis,
}

/// Reason for which a record of a governance topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableReason {
    /// The record has no timestamp.
    #[error("expected the time at which the broker appended the record, found none")]
    NoTimestamp,
    /// The value cannot be decoded.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The schema registry does not have the schema, or has an invalid one.
    #[error("{0}")]
    Schema(String),
    /// The set of keys refuses the record.
    #[error(transparent)]
    Key(#[from] KeyRefusal),
    /// A field has a name that this build does not know.
    #[error("expected {expected}, found {field} `{found}`")]
    UnknownName {
        /// Names that this build knows.
        expected: &'static str,
        /// Field of the record.
        field: &'static str,
        /// Name in the record.
        found: String,
    },
}

/// Calls `each` with every record that can be decoded, in the order of the topic. Returns the records that cannot be decoded and
/// those for which `each` returns an error.
pub(crate) fn fold<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    mut each: impl FnMut(RecordPosition, &Decoded<'_, R>) -> Result<(), UnreadableReason>,
) -> Result<Vec<UnreadableRecord>, Error> {
    let reader = TopicReader::new(&topic.endpoints.kafka, topic.name, &reader_group(topic.name))
        .map_err(|source| topic.error("creating a consumer", source))?;
    topic.check(reader.consumer())?;
    reader.start([0]).map_err(|source| topic.error("assigning its partition", source))?;
    let mut schemas =
        Schemas { registry: SchemaRegistry::new(&topic.endpoints.schema_registry)?, known: HashMap::new() };
    let mut unreadable = Vec::new();
    let mut last = Instant::now();
    loop {
        match reader.poll(POLL_TIMEOUT) {
            Some(TopicEvent::Record(record)) => {
                last = Instant::now();
                let offset = record.offset();
                if let Err(reason) = schemas.decode(&record, &mut each)? {
                    unreadable.push(UnreadableRecord { offset, reason: reason.to_string() });
                }
            }
            Some(TopicEvent::End(_)) => return Ok(unreadable),
            // librdkafka reconnects by itself, so an error counts only after a time without records.
            Some(TopicEvent::Error(source)) if last.elapsed() > STALL_TIMEOUT => {
                return Err(topic.error("reading", source));
            }
            None if last.elapsed() > STALL_TIMEOUT => {
                let bootstrap = topic.endpoints.kafka.bootstrap.clone();
                return Err(Error::Stalled {
                    bootstrap,
                    topic: topic.name.to_owned(),
                    waited: STALL_TIMEOUT,
                });
            }
            Some(TopicEvent::Error(_)) | None => (),
        }
    }
}

/// A datum with its writer's schema.
pub(crate) struct Decoded<'a, R> {
    schema: &'a Schema,
    id: SchemaId,
    datum: &'a [u8],
    records: PhantomData<fn(&R)>,
}

impl<'a, R> Decoded<'a, R> {
    pub(crate) fn read<T: Record<Static = R> + Deserialize<'a>>(&self) -> Result<T, WireError> {
        self.schema.decode(self.id, self.datum)
    }
}

/// Schemas of one reading, each asked for once.
struct Schemas {
    registry: SchemaRegistry,
    /// Schemas, or the reason for which an id has none.
    known: HashMap<SchemaId, Result<Schema, String>>,
}

impl Schemas {
    fn decode<R>(
        &mut self,
        record: &BorrowedMessage<'_>,
        each: &mut impl FnMut(RecordPosition, &Decoded<'_, R>) -> Result<(), UnreadableReason>,
    ) -> Result<Result<(), UnreadableReason>, Error> {
        // The evaluator skips such a record as well.
        let Some(logged_at) = record.timestamp().to_millis().map(Millis) else {
            return Ok(Err(UnreadableReason::NoTimestamp));
        };
        let (id, datum) = match wire::split(record.payload().unwrap_or_default()) {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error.into())),
        };
        let schema = match self.known.entry(id) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => match self.registry.schema(id) {
                Ok(schema) => unknown.insert(Ok(schema)),
                // Permanent. An unavailable registry, or an unexpected response, is an error of the whole read instead.
                Err(error) if error.is_about_the_id() => unknown.insert(Err(error.to_string())),
                Err(error) => return Err(error.into()),
            },
        };
        let schema = match schema {
            Ok(schema) => &*schema,
            Err(reason) => return Ok(Err(UnreadableReason::Schema(reason.clone()))),
        };
        let position = RecordPosition { offset: record.offset(), logged_at };
        Ok(each(position, &Decoded { schema, id, datum, records: PhantomData }))
    }
}
