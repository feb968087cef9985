//! Buffer for the outputs of a batch. All records share one allocation.

use std::collections::HashSet;

use agentgov_schemas::Record;
use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{MissingRole, Stage, Topology, registry_subject};
use agentgov_schemas::wire::{Encoder, Schema, SchemaId};

/// Outputs of a batch, in order, before they are sent.
pub struct Outputs {
    emitters: Vec<Emitter>,
    state: Option<usize>,
    bytes: Vec<u8>,
    records: Vec<BufferedRecord>,
    /// Partition of the current input record, and of its outputs.
    partition: i32,
}

/// Encoder and topic of one schema family.
struct Emitter {
    subject: &'static str,
    topic: String,
    max_bytes: usize,
    encoder: Encoder<'static>,
}

/// Position in the outputs of a batch, see [`Outputs::mark`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputMark {
    records: usize,
    bytes: usize,
}

/// Record in the buffer, as offsets into its bytes.
#[derive(Clone, Copy)]
struct BufferedRecord {
    emitter: usize,
    partition: i32,
    key_start: usize,
    value_start: usize,
    end: usize,
    tombstone: bool,
}

/// Record to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition, equal to that of the input record.
    pub partition: i32,
    /// The key.
    pub key: &'a [u8],
    /// The value in the wire format; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Unique number of topic and partition.
    pub slot: usize,
}

/// Error for an output that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// The record exceeds the maximum size of its topic.
    #[error("{topic}: a record of {size} bytes is above the topic's max_message_bytes of {limit}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Size of key and value, in bytes.
        size: usize,
        /// Maximum of the topic, in bytes.
        limit: usize,
    },
    /// The stage does not emit this schema family.
    #[error("the stage emits no topic of schema `{0}` in topology.yaml")]
    NotEmitted(&'static str),
    /// The record does not fit its schema: a bug in agentgov.
    #[error("{0}")]
    Encode(String),
}

/// Bytes that Kafka's batch format adds to a record, rounded up. The broker limits the size of a batch.
const BATCH_OVERHEAD: usize = 512;

impl Outputs {
    /// Creates the buffer for the topics that `stage` emits, and for its changelog. `id_of` returns the id of a schema under a
    /// subject of the schema registry.
    ///
    /// # Errors
    /// If the topology lacks a topic or schema of the stage, or `id_of` fails.
    pub fn new<E: From<MissingRole>>(
        topology: &Topology,
        stage: &Stage,
        id_of: impl Fn(&str, &Schema) -> Result<SchemaId, E>,
    ) -> Result<Self, E> {
        let mut emitters = Vec::new();
        let mut state = None;
        for name in stage.emits.iter().chain(&stage.state) {
            let topic =
                topology.topics.get(&name.value).ok_or_else(|| MissingRole::TopicName(name.value.clone()))?;
            let missing = || MissingRole::Schema(topic.value.schema.value.clone());
            let subject = Subject::by_name(&topic.value.schema.value).ok_or_else(missing)?;
            let schema = subject.schema().map_err(|_| missing())?;
            let id = id_of(&registry_subject(&name.value), schema)?;
            if stage.state.as_ref().is_some_and(|s| s.value == name.value) {
                state = Some(emitters.len());
            }
            emitters.push(Emitter {
                subject: subject.name,
                topic: name.value.clone(),
                // A valid topology has no negative limit; 0 would reject every output.
                max_bytes: usize::try_from(topic.value.max_message_bytes.value).unwrap_or(0),
                encoder: Encoder::new(id, schema),
            });
        }
        Ok(Self { emitters, state, bytes: Vec::new(), records: Vec::new(), partition: 0 })
    }

    /// Emits `record` to the topic of its family, in the partition of the current input record.
    ///
    /// ```compile_fail,E0277
    /// # use agentgov_processor::{Outputs, Reject};
    /// fn emit(outputs: &mut Outputs, reject: &Reject) {
    ///     outputs.emit(b"key", reject); // Not a record; the record is agentgov_schemas::reject::Reject.
    /// }
    /// ```
    ///
    /// # Errors
    /// If the stage does not emit the family, or the record is too large. The buffer is unchanged.
    pub fn emit<R: Record>(&mut self, key: &[u8], record: &R) -> Result<(), OutputError> {
        let emitter = self
            .emitters
            .iter()
            .position(|e| e.subject == R::SUBJECT.name)
            .ok_or(OutputError::NotEmitted(R::SUBJECT.name))?;
        self.push(emitter, key, Some(record))
    }

    /// Writes an entry of the changelog; `None` is a tombstone.
    ///
    /// # Errors
    /// If the stage has no changelog of this family, or the entry is too large. The buffer is unchanged.
    pub fn state<R: Record>(&mut self, key: &[u8], entry: Option<&R>) -> Result<(), OutputError> {
        let carries = |state: &usize| self.emitters.get(*state).is_some_and(|e| e.subject == R::SUBJECT.name);
        let emitter = self.state.filter(carries).ok_or(OutputError::NotEmitted(R::SUBJECT.name))?;
        self.push(emitter, key, entry)
    }

    /// Returns true if a changelog entry with `size` bytes of key and value is below the topic's maximum.
    pub fn state_fits(&self, size: usize) -> bool {
        let emitter = self.state.and_then(|state| self.emitters.get(state));
        emitter.is_some_and(|emitter| size + BATCH_OVERHEAD <= emitter.max_bytes)
    }

    fn push<R: Record>(&mut self, index: usize, key: &[u8], value: Option<&R>) -> Result<(), OutputError> {
        let Some(emitter) = self.emitters.get_mut(index) else {
            return Err(OutputError::NotEmitted("state"));
        };
        let key_start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value_start = self.bytes.len();
        if let Some(value) = value
            && let Err(e) = emitter.encoder.encode_into(value, &mut self.bytes)
        {
            self.bytes.truncate(key_start);
            return Err(OutputError::Encode(e.to_string()));
        }
        let end = self.bytes.len();
        let size = end - key_start;
        if size + BATCH_OVERHEAD > emitter.max_bytes {
            self.bytes.truncate(key_start);
            return Err(OutputError::TooLarge {
                topic: emitter.topic.clone(),
                size,
                limit: emitter.max_bytes,
            });
        }
        let tombstone = value.is_none();
        self.records.push(BufferedRecord {
            emitter: index,
            partition: self.partition,
            key_start,
            value_start,
            end,
            tombstone,
        });
        Ok(())
    }

    /// Sets the partition of further outputs.
    pub fn set_partition(&mut self, partition: i32) {
        self.partition = partition;
    }

    /// Returns the current position, for [`Self::rollback_to`].
    pub fn mark(&self) -> OutputMark {
        OutputMark { records: self.records.len(), bytes: self.bytes.len() }
    }

    /// Removes the outputs after `mark`.
    pub fn rollback_to(&mut self, mark: OutputMark) {
        self.records.truncate(mark.records);
        self.bytes.truncate(mark.bytes);
    }

    /// Removes all outputs.
    pub fn clear(&mut self) {
        self.rollback_to(OutputMark::default());
    }

    /// Returns the size of all keys and values, in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the records to send, in order. Of several values of one changelog key in the batch only the last is returned:
    /// the others are never visible, since the batch is one transaction.
    pub fn to_send(&self) -> impl Iterator<Item = Outgoing<'_>> {
        let mut last = HashSet::new();
        let mut superseded = vec![false; self.records.len()];
        for (record, superseded) in self.records.iter().zip(&mut superseded).rev() {
            if Some(record.emitter) == self.state {
                let key = self.bytes.get(record.key_start..record.value_start);
                *superseded = !last.insert((record.partition, key));
            }
        }
        self.iter().zip(superseded).filter(|(_, superseded)| !superseded).map(|(record, _)| record)
    }

    /// Returns all outputs, in order.
    #[expect(
        clippy::expect_used,
        reason = "`push` wrote the bytes of each record, and `rollback_to` removes whole records; none may be omitted"
    )]
    pub fn iter(&self) -> impl Iterator<Item = Outgoing<'_>> {
        self.records.iter().map(|r| {
            let bytes = |from, to| self.bytes.get(from..to).expect("the bytes of a record");
            let partition = usize::try_from(r.partition).expect("Kafka counts partitions from 0");
            Outgoing {
                topic: &self.emitters.get(r.emitter).expect("the emitter of a record").topic,
                partition: r.partition,
                key: bytes(r.key_start, r.value_start),
                value: (!r.tombstone).then(|| bytes(r.value_start, r.end)),
                slot: partition * self.emitters.len() + r.emitter,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::state::{Progress, SessionState};
    use agentgov_schemas::verdict::Origin;
    use agentgov_schemas::{reject, subject};

    use super::*;

    /// Returns outputs of the evaluator with a changelog entry and a reject for each partition, key and next offset.
    fn entries_and_rejects(of: &[(i32, &str, i64)]) -> Outputs {
        let topology = Topology::embedded().unwrap();
        let stage = topology.stage("evaluator").unwrap();
        let mut outputs = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(SchemaId(1))).unwrap();
        let reject = reject::Reject {
            stage: "evaluator",
            reason: reject::RejectReason::EmptyValue.into(),
            detail: "",
            origin: Origin { topic: "t", partition: 0, offset: 0, logged_at: Default::default() },
            key: b"",
            size: 0,
            sha256: agentgov_schemas::Digest::of(b""),
            head: b"",
        };
        for (partition, key, next_offset) in of {
            outputs.set_partition(*partition);
            let progress = Some(Progress { next_offset: *next_offset, bundles_announced: 0, basis: None });
            let entry = SessionState { progress, ..SessionState::new("", "") };
            outputs.state(key.as_bytes(), Some(&entry)).unwrap();
            outputs.emit(key.as_bytes(), &reject).unwrap();
        }
        outputs
    }

    #[test]
    fn last_value_of_each_changelog_key_and_every_other_record_is_sent() {
        let mut outputs = entries_and_rejects(&[(0, "a", 1), (1, "a", 2), (0, "b", 3), (0, "a", 4)]);
        outputs.set_partition(0);
        outputs.state::<SessionState<'_>>(b"b", None).unwrap();
        let topology = Topology::embedded().unwrap();
        let state = topology.topic_of(subject::SESSION_STATE).unwrap().0;
        let sent: Vec<_> = outputs.to_send().collect();
        let states: Vec<_> = sent.iter().filter(|sent| sent.topic == state).collect();
        let keys: Vec<_> =
            states.iter().map(|sent| (sent.partition, sent.key, sent.value.is_some())).collect();
        assert_eq!(keys, [(1, &b"a"[..], true), (0, &b"a"[..], true), (0, &b"b"[..], false)]);
        assert_eq!(sent.len() - states.len(), 4, "every reject is sent, whatever its key");
        let all: Vec<_> = outputs.iter().filter(|output| output.topic == state).collect();
        assert_eq!(states[1].value, all[3].value, "the last value");
    }
}
