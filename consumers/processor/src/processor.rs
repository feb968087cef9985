//! What a stage must give.

use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::{Millis, NotReadyReason};
use serde::Deserialize;

use crate::{OutputError, Outputs};

/// A stream processor: what it does to one record. Implementations read no clock and do no I/O, so that the same
/// records at the same positions give the same outputs.
pub trait Processor {
    /// The record that the stage reads, borrowed from the bytes that came.
    type Input<'a>: Deserialize<'a> + agentgov_schemas::Record;
    /// What the stage knows of one partition. Rebuilt from the changelog on every assignment.
    type Partition;

    /// What is known of a partition before its changelog is read.
    fn partition(&self, partition: i32) -> Self::Partition;

    /// Applies one record of the changelog. `value` is `None` for a tombstone. Returns the input offset up to which the
    /// partition is applied, if the record says so.
    ///
    /// # Errors
    /// If the record is none that this stage wrote.
    fn restore(
        &self,
        partition: &mut Self::Partition,
        key: &[u8],
        value: Option<RestoreValue<'_>>,
    ) -> Result<Option<i64>, RestoreError>;

    /// Does what the stage does to one record.
    ///
    /// # Errors
    /// A reject, with its reason; what it put into `out` is taken back. If the record has left anything in `partition`,
    /// the reject must say so ([`Reject::undo`]). That costs a restore of all partitions, so records that a client can write
    /// must not lead to it again and again (ADR 0023).
    fn step(
        &mut self,
        partition: &mut Self::Partition,
        origin: &Origin<'_>,
        input: &Self::Input<'_>,
        out: &mut Outputs,
    ) -> Result<(), Reject>;

    /// Called once per partition at the end of a batch, before its transaction: writes how far the partition is applied.
    ///
    /// # Errors
    /// If the progress cannot be written: the stage cannot go on.
    fn finish(
        &mut self,
        partition: &mut Self::Partition,
        next_offset: i64,
        out: &mut Outputs,
    ) -> Result<(), OutputError>;

    /// True if the partition has an output that no input record leads to; then [`Self::finish`] is called for the partition
    /// although no record came.
    fn has_pending_side_output(&self, _partition: &Self::Partition) -> bool {
        false
    }

    /// Calls `each` with every tenant that the partition holds state of: records of theirs were accepted before.
    fn for_each_tenant(&self, _partition: &Self::Partition, _each: &mut dyn FnMut(&str)) {}

    /// Returns how far the side outputs are emitted: grows with each one, and is written by [`Self::finish`]. A restore
    /// compares it, since a side output alone leaves the partition's input offset as it was.
    fn side_output_watermark(&self, _partition: &Self::Partition) -> i64 {
        0
    }

    /// Applies one record of a global table. Never fails: the stage keeps what it cannot use, and reports it through
    /// [`Self::readiness`] or a side output.
    fn update_table(&mut self, _topology: &Topology, _record: &TableRecord<'_>) {}

    /// Called once, at the start, when every global table is read to its end, before the first input record. Records that
    /// [`Self::update_table`] gets later are new.
    fn tables_loaded(&mut self) {}

    /// Reports whether the global tables leave the stage ready: calls `report` with each reason that it knows, and with the
    /// explanation where it holds now.
    fn readiness(&self, _report: &mut dyn FnMut(NotReadyReason, Option<String>)) {}
}

/// The value of a changelog record, with the schema that wrote it.
#[derive(Clone, Copy, Debug)]
pub struct RestoreValue<'a> {
    id: agentgov_schemas::wire::SchemaId,
    schema: &'a agentgov_schemas::wire::Schema,
    datum: &'a [u8],
}

impl<'a> RestoreValue<'a> {
    /// A datum that `schema` wrote, known to the registry as `id`.
    pub const fn new(
        id: agentgov_schemas::wire::SchemaId,
        schema: &'a agentgov_schemas::wire::Schema,
        datum: &'a [u8],
    ) -> Self {
        Self { id, schema, datum }
    }

    /// Decodes it.
    ///
    /// # Errors
    /// If it is not what `T` says.
    pub fn decode<T: Deserialize<'a>>(&self) -> Result<T, RestoreError> {
        self.schema.decode(self.id, self.datum).map_err(|e| RestoreError(e.to_string()))
    }
}

/// A record of a governance topic.
#[derive(Clone, Copy, Debug)]
pub struct TableRecord<'a> {
    /// The governance topic.
    pub topic: &'a str,
    /// The record's offset.
    pub offset: i64,
    /// When the broker appended it.
    pub logged_at: Millis,
    /// Its value, or why it has none that can be read.
    pub value: Result<RestoreValue<'a>, &'a str>,
}

/// Why a record is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The kind of fault.
    pub reason: RejectReason,
    /// What was expected and what was found.
    pub detail: String,
    /// True if the step had begun to change what is known. Then the batch is aborted, what is known is read again from the
    /// changelog, and the record is rejected without being stepped.
    pub undo: bool,
}

impl Reject {
    /// Of a record that has changed nothing.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), undo: false }
    }

    /// Of a record at which an invariant of ours does not hold.
    pub fn internal(detail: impl Into<String>) -> Self {
        Reject::new(RejectReason::Internal, detail)
    }

    /// Of a record whose output cannot be written.
    pub fn from_output_error(error: &OutputError) -> Self {
        match error {
            OutputError::TooLarge { .. } | OutputError::NotEmitted(_) => {
                Reject::new(RejectReason::OutputRefused, error.to_string())
            }
            OutputError::Encode(_) => Self::internal(error.to_string()),
        }
    }

    /// Of a record that may have changed what is known before it turned out that it cannot be processed.
    pub fn undo(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { undo: true, ..Self::new(reason, detail) }
    }
}

/// A changelog record that this stage did not write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RestoreError(pub String);
