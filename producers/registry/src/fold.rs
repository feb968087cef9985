//! Reads a governance topic from its first record to its end.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use agentgov_connect::{SchemaRegistry, SchemaRegistryError, TopicEvent, TopicReader};
use agentgov_schemas::topology::reader_group;
use agentgov_schemas::wire::{self, Schema, SchemaId, WireError};
use agentgov_schemas::{Millis, Record};
use agentgov_token::KeyRefusal;
use rdkafka::message::{BorrowedMessage, Message as _};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::source::GovernanceTopic;

/// How long reading may stand still.
const STALL: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// What a topic holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing<T> {
    /// The entries that count.
    pub entries: Vec<T>,
    /// Records that this build cannot read.
    pub unreadable: Vec<UnreadableRecord>,
}

/// A record of a governance topic that this build cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableRecord {
    /// Where it stands.
    pub offset: i64,
    /// Why.
    pub reason: String,
}

/// A record's place, beside its value.
pub(crate) struct At {
    pub(crate) offset: i64,
    pub(crate) logged_at: Millis,
}

/// Reason for which a record of a governance topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableReason {
    /// The record has no timestamp.
    #[error("expected the time at which the broker appended the record, found none")]
    NoTimestamp,
    /// The value does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The schema registry does not have the schema, or has an invalid one.
    #[error(transparent)]
    Schema(SchemaRegistryError),
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

/// Calls `each` with every record that decodes, in the order of the log. What does not decode, or what `each` refuses,
/// is returned.
pub(crate) fn fold<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    mut each: impl FnMut(At, &Decoded<'_, R>) -> Result<(), UnreadableReason>,
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
        match reader.poll(POLL) {
            Some(TopicEvent::Record(record)) => {
                last = Instant::now();
                let offset = record.offset();
                if let Err(reason) = schemas.decode(&record, &mut each)? {
                    unreadable.push(UnreadableRecord { offset, reason: reason.to_string() });
                }
            }
            Some(TopicEvent::End(_)) => return Ok(unreadable),
            // librdkafka reconnects by itself; only standing still for long is an error.
            Some(TopicEvent::Error(source)) if last.elapsed() > STALL => {
                return Err(topic.error("reading", source));
            }
            None if last.elapsed() > STALL => {
                let bootstrap = topic.endpoints.kafka.bootstrap.clone();
                return Err(Error::Stalled { bootstrap, topic: topic.name.to_owned(), waited: STALL });
            }
            Some(TopicEvent::Error(_)) | None => (),
        }
    }
}

/// A datum and the schema that wrote it.
pub(crate) struct Decoded<'a, R> {
    schema: &'a Schema,
    id: SchemaId,
    datum: &'a [u8],
    of: PhantomData<fn(&R)>,
}

impl<'a, R> Decoded<'a, R> {
    pub(crate) fn read<T: Record<Static = R> + Deserialize<'a>>(&self) -> Result<T, WireError> {
        self.schema.decode(self.id, self.datum)
    }
}

struct Schemas {
    registry: SchemaRegistry,
    known: HashMap<SchemaId, Schema>,
}

impl Schemas {
    fn decode<R>(
        &mut self,
        record: &BorrowedMessage<'_>,
        each: &mut impl FnMut(At, &Decoded<'_, R>) -> Result<(), UnreadableReason>,
    ) -> Result<Result<(), UnreadableReason>, Error> {
        // As the evaluator, which passes such a record over.
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
                Ok(schema) => unknown.insert(schema),
                // Unreadable for good, unlike where a registry is away, or something else answers in its place.
                Err(error) if error.is_about_the_id() => return Ok(Err(UnreadableReason::Schema(error))),
                Err(error) => return Err(error.into()),
            },
        };
        let at = At { offset: record.offset(), logged_at };
        Ok(each(at, &Decoded { schema, id, datum, of: PhantomData }))
    }
}
