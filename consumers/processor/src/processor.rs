//! The interface of a stage.

use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::{Millis, NotReadyReason};
use serde::Deserialize;

use crate::{OutputError, Outputs};

/// Stream processor that steps through records one by one. Implementations read no clock and do no I/O, so the same records at
/// the same positions give the same outputs.
pub trait Processor {
    /// Input record of the stage, borrowed from its bytes.
    type Input<'a>: Deserialize<'a> + agentgov_schemas::Record;
    /// State of one partition. Rebuilt from the changelog on every assignment.
    type Partition;

    /// Returns the state of a partition before its changelog is read.
    fn partition(&self, partition: i32) -> Self::Partition;

    /// Applies one record of the changelog. `value` is `None` for a tombstone. Returns the input offset up to which the
    /// partition is applied, if the record is a progress entry.
    ///
    /// # Errors
    /// If this stage cannot have written the record.
    fn restore(
        &self,
        partition: &mut Self::Partition,
        key: &[u8],
        value: Option<RestoreValue<'_>>,
    ) -> Result<Option<i64>, RestoreError>;

    /// Processes one record.
    ///
    /// # Errors
    /// A reject with its reason; the loop removes its outputs from `out`. If the record has changed `partition`, the reject must
    /// be a [`Reject::undo`]. It costs a restore of all partitions, so records that a client can write must not cause it
    /// repeatedly (ADR 0023).
    fn step(
        &mut self,
        partition: &mut Self::Partition,
        origin: &Origin<'_>,
        input: &Self::Input<'_>,
        out: &mut Outputs,
    ) -> Result<(), Reject>;

    /// Writes the progress of a partition. Called once for each partition at the end of a batch, before its transaction.
    ///
    /// # Errors
    /// If the progress cannot be written; the stage ends.
    fn finish(
        &mut self,
        partition: &mut Self::Partition,
        next_offset: i64,
        out: &mut Outputs,
    ) -> Result<(), OutputError>;

    /// Returns true if the partition has an output that no input record causes. Then the loop calls [`Self::finish`] for the
    /// partition without a record.
    fn has_pending_side_output(&self, _partition: &Self::Partition) -> bool {
        false
    }

    /// Calls `each` with every tenant for which the partition has state. The stage has accepted records of these tenants before.
    fn for_each_tenant(&self, _partition: &Self::Partition, _each: &mut dyn FnMut(&str)) {}

    /// Returns the watermark of side outputs, which grows with each one and which [`Self::finish`] writes. A restore compares it,
    /// since a side output without a record does not change the partition's input offset.
    fn side_output_watermark(&self, _partition: &Self::Partition) -> i64 {
        0
    }

    /// Applies one record of a global table. Never fails: the stage reports a record that it cannot use
    /// through [`Self::readiness`] or a side output.
    fn update_table(&mut self, _topology: &Topology, _record: &TableRecord<'_>) {}

    /// Called once, when every global table is read to its end, before the first input record. Later calls of
    /// [`Self::update_table`] are for new records.
    fn tables_loaded(&mut self) {}

    /// Reports the readiness that depends on global tables: calls `report` with each reason that the stage may set, and with an
    /// explanation if the reason applies now.
    fn readiness(&self, _report: &mut dyn FnMut(NotReadyReason, Option<String>)) {}
}

/// Value of a record with its writer's schema.
#[derive(Clone, Copy, Debug)]
pub struct RestoreValue<'a> {
    id: agentgov_schemas::wire::SchemaId,
    schema: &'a agentgov_schemas::wire::Schema,
    datum: &'a [u8],
}

impl<'a> RestoreValue<'a> {
    /// Creates the value from a datum that was written with `schema`, whose id is `id`.
    pub const fn new(
        id: agentgov_schemas::wire::SchemaId,
        schema: &'a agentgov_schemas::wire::Schema,
        datum: &'a [u8],
    ) -> Self {
        Self { id, schema, datum }
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// If the value is not a `T`.
    pub fn decode<T: Deserialize<'a>>(&self) -> Result<T, RestoreError> {
        self.schema.decode(self.id, self.datum).map_err(|e| RestoreError(e.to_string()))
    }
}

/// Record of a governance topic.
#[derive(Clone, Copy, Debug)]
pub struct TableRecord<'a> {
    /// The governance topic.
    pub topic: &'a str,
    /// The record's offset.
    pub offset: i64,
    /// Append time of the record.
    pub logged_at: Millis,
    /// Value of the record, or the reason for which it cannot be decoded.
    pub value: Result<RestoreValue<'a>, &'a str>,
}

/// Rejection of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Reason of the rejection.
    pub reason: RejectReason,
    /// Expected and actual content, for people.
    pub detail: String,
    /// True if the step may have changed the state. Then the loop aborts the batch, restores the state from the changelog, and
    /// rejects the record without a step.
    pub undo: bool,
}

impl Reject {
    /// Creates a reject of a record that has not changed the state.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), undo: false }
    }

    /// Creates a reject of a record at which an invariant of the stage does not hold.
    pub fn internal(detail: impl Into<String>) -> Self {
        Reject::new(RejectReason::Internal, detail)
    }

    /// Creates a reject of a record whose output cannot be written.
    pub fn from_output_error(error: &OutputError) -> Self {
        match error {
            OutputError::TooLarge { .. } | OutputError::NotEmitted(_) => {
                Reject::new(RejectReason::OutputRefused, error.to_string())
            }
            OutputError::Encode(_) => Self::internal(error.to_string()),
        }
    }

    /// Creates a reject of a record that may have changed the state.
    pub fn undo(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { undo: true, ..Self::new(reason, detail) }
    }
}

/// Error for a changelog record that this stage cannot have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RestoreError(pub String);
