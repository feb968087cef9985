//! What a stage adds to the loop: the columns of a record.

use agentgov_schemas::Millis;
use agentgov_service::StageError;

use super::TopicPartition;
use super::headers::Headers;
use super::native::Block;
use super::store::{Store, StoreError};

/// A record as Kafka holds it.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Where.
    pub at: &'a TopicPartition,
    /// Its offset there.
    pub offset: i64,
    /// When the broker appended it.
    pub logged_at: Millis,
    /// Its key; absent: none.
    pub key: Option<&'a [u8]>,
    /// Its value; absent: a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: Headers<'a>,
    /// How many offsets right before it were passed over, since the topic has no record there. Only where it is gapless.
    pub skipped: u64,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeOutcome {
    /// It is a row of the block.
    Row,
    /// The stage was asked to stop while it waited for what the row needs; the block is as it was.
    Stopped,
}

/// Why what the rows refer to is not durable.
#[derive(Debug)]
pub enum WriteError {
    /// The store did not do as asked: tried again after a while, like an insert.
    Store(StoreError),
    /// This ends the stage.
    Fatal(StageError),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Turns records into rows. Every record is a row: a writer has no way to leave one out.
pub trait RowEncoder {
    /// An empty block of the table that the records of `topic` go to. Its columns include `topic_partition`, `offset`,
    /// `claim`, `logged_at` and `record_sha256`, and `skipped` where the topic is gapless, on which the protocol relies.
    fn block(&self, topic: &str) -> Result<Block, StageError>;

    /// Adds `record` to a block of its topic, under `claim`. An error ends the stage.
    fn push(
        &mut self,
        block: &mut Block,
        record: &Record<'_>,
        claim: u64,
    ) -> Result<EncodeOutcome, StageError>;

    /// Makes durable what the rows pushed so far refer to. Called before each insert; may be called again for the same.
    fn before_insert(&mut self, store: &Store) -> Result<(), WriteError>;
}
