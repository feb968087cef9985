#![doc = include_str!("../README.md")]
//!
//! - [`Producer`]: one client of Kafka and one buffer for any number of recorders
//! - [`Recorder`]: start, record, flush, close; each function documents what is durable when it returns
//! - [`ProducerOptions`], [`SourceOptions`], [`RecorderOptions`], [`WhenFull`]: endpoints, identity, bounds, and the behaviour of
//!   a full buffer
//! - [`SpoolOptions`], [`Fsync`]: durability across the end of the process, and across a power loss
//! - [`Event`] and its parts: the input of a caller; the SDK adds ids, time, sequence numbers and digests
//! - [`Redact`], [`RedactFields`]: removal of data that must not leave the process
//! - [`Composer`]: the pure part of a recorder, from the checks to the encoded bytes
//! - [`uuid_v8`]: deterministic ids, for importers
//! - [`RecordError`], [`FlushError`], [`RecoverError`], [`StartError`], [`SpoolError`]: failures
//! - [`Sequences`]: sequence numbers that are not durable, as ranges

mod compose;
mod deadline;
mod error;
mod event;
mod in_flight;
mod join;
mod options;
mod producer;
mod queue;
mod recorder;
mod redact;
mod sequences;
mod spool;
mod start;

pub use compose::{Composer, PreparedEvent, uuid_v8};
pub use error::{FlushError, RecordError, RecoverError, StartError};
pub use event::{Content, Event, Message, ToolCall, ToolResult};
pub use options::{Fsync, ProducerOptions, RecorderOptions, SourceOptions, SpoolOptions, WhenFull};
pub use producer::Producer;
pub use recorder::{Closed, Flushed, Receipt, Recorder, Stats};
pub use redact::{InvalidPointer, Payload, PayloadKind, Redact, RedactFields};
pub use sequences::Sequences;
pub use spool::SpoolError;
#[doc(hidden)]
pub use spool::read_any_segment;
