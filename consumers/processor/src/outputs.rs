//! Where a step puts what it says. One buffer a batch, so that a record costs no allocation of its own.

use std::collections::HashSet;

use agentgov_schemas::Record;
use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{MissingRole, Stage, Topology, registry_subject};
use agentgov_schemas::wire::{Encoder, Schema, SchemaId};

/// What the records of a batch led to, in order, not yet sent.
pub struct Outputs {
    emitters: Vec<Emitter>,
    state: Option<usize>,
    bytes: Vec<u8>,
    records: Vec<Placed>,
    /// The partition of the record in work: outputs go to the same.
    partition: i32,
}

struct Emitter {
    subject: &'static str,
    topic: String,
    max_bytes: usize,
    encoder: Encoder<'static>,
}

/// A position in the outputs of a batch, see [`Outputs::mark`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputMark {
    records: usize,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Placed {
    emitter: usize,
    partition: i32,
    key_start: usize,
    value_start: usize,
    end: usize,
    tombstone: bool,
}

/// One record to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition: that of the record which led to it.
    pub partition: i32,
    /// The key.
    pub key: &'a [u8],
    /// The value in the wire format; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// A number for topic and partition.
    pub place: usize,
}

/// An output that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// The broker would refuse it.
    #[error("{topic}: a record of {size} bytes is above the topic's max_message_bytes of {limit}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Key and value, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The stage is not one that writes this.
    #[error("the stage emits no topic of schema `{0}` in topology.yaml")]
    NotEmitted(&'static str),
    /// A mistake of ours.
    #[error("{0}")]
    Encode(String),
}

/// Kafka's own bytes around a record in a batch: the broker's limit is on the batch.
const BATCH_OVERHEAD: usize = 512;

impl Outputs {
    /// For the topics that `stage` emits, and its changelog. `id_of` gives the id of a schema under a registry subject.
    ///
    /// # Errors
    /// If the topology names what is not there, or `id_of` fails.
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
                // A negative limit, which no checked topology has, lets nothing out.
                max_bytes: usize::try_from(topic.value.max_message_bytes.value).unwrap_or(0),
                encoder: Encoder::new(id, schema),
            });
        }
        Ok(Self { emitters, state, bytes: Vec::new(), records: Vec::new(), partition: 0 })
    }

    /// Puts `record` onto the topic that carries its family, in the partition of the record in work.
    ///
    /// ```compile_fail,E0277
    /// # use agentgov_processor::{Outputs, Reject};
    /// fn emit(outputs: &mut Outputs, reject: &Reject) {
    ///     outputs.emit(b"key", reject); // It is no record: that is agentgov_schemas::reject::Reject.
    /// }
    /// ```
    ///
    /// # Errors
    /// If the stage does not emit it, or it is too large; then it is as if it had not been called.
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
    /// If the stage has no changelog of this family, or the entry is too large; then it is as if it had not been called.
    pub fn state<R: Record>(&mut self, key: &[u8], entry: Option<&R>) -> Result<(), OutputError> {
        let carries = |state: &usize| self.emitters.get(*state).is_some_and(|e| e.subject == R::SUBJECT.name);
        let emitter = self.state.filter(carries).ok_or(OutputError::NotEmitted(R::SUBJECT.name))?;
        self.push(emitter, key, entry)
    }

    /// True if an entry of the changelog may have so many bytes, key and value.
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
        self.records.push(Placed {
            emitter: index,
            partition: self.partition,
            key_start,
            value_start,
            end,
            tombstone,
        });
        Ok(())
    }

    /// From here on, outputs go to `partition`.
    pub fn set_partition(&mut self, partition: i32) {
        self.partition = partition;
    }

    /// Where the outputs stand now, for [`Self::rollback_to`].
    pub fn mark(&self) -> OutputMark {
        OutputMark { records: self.records.len(), bytes: self.bytes.len() }
    }

    /// Forgets what came after `mark`.
    pub fn rollback_to(&mut self, mark: OutputMark) {
        self.records.truncate(mark.records);
        self.bytes.truncate(mark.bytes);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.rollback_to(OutputMark::default());
    }

    /// Bytes of all keys and values.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// What is to be sent, in order: of each entry of the changelog only the last, since nobody sees what stood there in
    /// between, and compaction would leave no other.
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

    /// What was said, in order.
    #[expect(
        clippy::expect_used,
        reason = "`push` wrote what a record refers to, and `rollback_to` cuts whole records; none may be left out"
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
                place: partition * self.emitters.len() + r.emitter,
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

    /// The evaluator's, with an entry of the changelog and a reject for each partition, key and next offset in turn.
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
            let progress = Some(Progress { next_offset: *next_offset, bundles_announced: 0 });
            let entry = SessionState { progress, ..SessionState::new("", "") };
            outputs.state(key.as_bytes(), Some(&entry)).unwrap();
            outputs.emit(key.as_bytes(), &reject).unwrap();
        }
        outputs
    }

    #[test]
    fn of_each_entry_of_the_changelog_the_last_is_sent_and_all_else() {
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
        assert_eq!(sent.len() - states.len(), 4, "what is no state is sent whatever its key");
        let said: Vec<_> = outputs.iter().filter(|said| said.topic == state).collect();
        assert_eq!(states[1].value, said[3].value, "and it is the last one");
    }
}
