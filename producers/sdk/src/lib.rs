#![doc = include_str!("../README.md")]
//!
//! - [`Recorder`]: start, record, flush, close; at each function what is durable when it returns
//! - [`RecorderOptions`], [`WhenFull`]: where to, as whom, and what to do when the buffer is full
//! - [`SpoolOptions`], [`Fsync`]: what outlives the process, and what outlives the machine
//! - [`Event`] and its parts: what a caller says; ids, clock, numbers and digests are the SDK's
//! - [`Redact`], [`RedactFields`]: what must not leave the process
//! - [`Composer`]: the pure half of a recorder, checks to bytes
//! - [`uuid_v8`]: ids that follow from what they name, for importers
//! - [`RecordError`], [`FlushError`], [`RecoverError`], [`StartError`], [`SpoolError`], [`Sequences`]: what is not durable,
//!   by number

mod compose;
mod error;
mod event;
mod ledger;
mod options;
mod queue;
mod recorder;
mod redact;
mod sequences;
mod spool;
mod start;

pub use compose::{Composer, PreparedEvent, uuid_v8};
pub use error::{FlushError, RecordError, RecoverError, StartError};
pub use event::{Content, Event, Message, ToolCall, ToolResult};
pub use options::{Fsync, RecorderOptions, SpoolOptions, WhenFull};
pub use recorder::{Closed, Flushed, Receipt, Recorder, Stats};
pub use redact::{InvalidPointer, Payload, PayloadKind, Redact, RedactFields};
pub use sequences::Sequences;
pub use spool::SpoolError;
#[doc(hidden)]
pub use spool::read_any_segment;
