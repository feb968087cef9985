//! The loop of stages from Kafka to a store: every offset is one row, exactly once, with plain HTTP inserts.
//!
//! ```text
//!   assigned, or in doubt ──► claim ──► drain ──► look ──► compare ──► fetch ──► insert ──► fetch …
//!                               ▲                                                  │
//!                               └────────── any answer but 200: a doubt ◄──────────┘
//! ```
//!
//! The table, not Kafka, says where to go on: it always holds a prefix of what its topic-partition holds. The committed
//! offsets only show the lag. Why this is exactly once stands in ADR 0005 (docs/adr); [`protocol`] has the steps.
//!
//! - [`run`]: the loop · [`RowEncoder`]: what a stage adds to it, the columns of a record
//! - [`native`]: ClickHouse's Native format, built by column · [`store`]: the HTTP client
//! - [`protocol`]: claim, drain, look, insert · [`marker`]: how inserts name whose they are
//! - `position`: where a partition goes on, as a pure rule · `plan`: which record goes into which insert
//! - `group`: membership, and rebalances · `fetcher`: what is fetched, and from where · `probe`: what Kafka holds
//! - `writer`: what is gathered for one table · `headers`: a record's headers, whatever their names
//! - `second`: what was passed over, read once more · `skip_log`: what the log says of it
//! - `empty`: proofs that no record follows the last row, made durable

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
