//! Loop of stages from Kafka to a store: every offset is one row, exactly once, with plain HTTP inserts.
//!
//! ```text
//!   assigned or invalidated ─► claim ─► drain ─► read tail ─► compare ─► fetch ─► insert ─► fetch …
//!                                ▲                                                │
//!                                └───────── any response but 200: invalidate ─────┘
//! ```
//!
//! The table, not Kafka, decides where to resume: it always holds a prefix of its topic-partition. The committed
//! offsets only show the lag. ADR 0005 (docs/adr) explains why every offset becomes exactly one row; [`protocol`] has
//! the steps.
//!
//! - [`run`]: the loop · [`RowEncoder`]: interface of a stage, which encodes records as rows
//! - [`native`]: ClickHouse's Native format, built by column · [`store`]: the HTTP client
//! - [`protocol`]: claim, drain, tail read, insert · [`marker`]: the comment that names the claims of an insert
//! - `position`: resume position of a partition, a pure function · `plan`: assignment of records to blocks
//! - `group`: membership · `fetcher`: fetched partitions and their positions · `probe`: watermarks and single records
//!   from Kafka
//! - `table_writer`: open blocks and partitions of one table · `headers`: headers of a record, with any names
//! - `second_reader`: confirms skipped offsets · `skip_log`: log lines about skipped offsets
//! - `empty`: stores proofs that no record follows the last row

pub mod marker;
pub mod native;
pub mod protocol;
pub mod store;

mod empty;
mod encoder;
mod establish;
mod fetcher;
mod group;
mod headers;
mod plan;
mod position;
mod probe;
mod run;
mod second_reader;
mod skip_log;
mod table_writer;

pub use crate::consumer::TopicPartition;
pub use encoder::{EncodeOutcome, Record, RowEncoder, WriteError};
pub use headers::{Header, Headers};
pub use run::{Options, Route, run};
pub use store::{Store, StoreError};
