//! Interface of a stage: it encodes records as rows.

use agentgov_schemas::Millis;
use agentgov_service::StageError;

use super::TopicPartition;
use super::headers::Headers;
use super::native::Block;
use super::store::{Store, StoreError};

/// Record as Kafka holds it.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Topic and partition.
    pub at: &'a TopicPartition,
    /// Offset.
    pub offset: i64,
    /// Time at which the broker appended it.
    pub logged_at: Millis,
    /// Key, if there is one.
    pub key: Option<&'a [u8]>,
    /// Value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, in order.
    pub headers: Headers<'a>,
    /// Number of skipped offsets right before it; 0 if the topic is not gapless.
    pub skipped: u64,
}

/// Outcome of encoding a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeOutcome {
    /// The record is a row of the block.
    Row,
    /// Shutdown was requested during a lookup that the row needs; the block is unchanged.
    Stopped,
}

/// Error of a write to the store.
#[derive(Debug)]
pub enum WriteError {
    /// The store failed: retried later, like an insert.
    Store(StoreError),
    /// The stage ends.
    Fatal(StageError),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Encodes records as rows. Every record is a row: an encoder cannot leave one out.
pub trait RowEncoder {
    /// Creates an empty block of the table for records of `topic`. Its columns include `topic_partition`, `offset`,
    /// `claim`, `logged_at` and `record_sha256`, and for a gapless topic `skipped`, as the protocol requires.
    fn block(&self, topic: &str) -> Result<Block, StageError>;

    /// Adds `record` to a block of its topic, under `claim`. An error ends the stage.
    fn push(
        &mut self,
        block: &mut Block,
        record: &Record<'_>,
        claim: u64,
    ) -> Result<EncodeOutcome, StageError>;

    /// Stores everything that the pushed rows refer to. Called before each insert, possibly several times for the same
    /// rows.
    fn before_insert(&mut self, store: &Store) -> Result<(), WriteError>;
}
