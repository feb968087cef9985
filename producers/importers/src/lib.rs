//! Imports recorded agent runs as events.
//!
//! An import has two steps: [`chat_completions::read`] reads the whole file and reports all its problems, then [`publish`]
//! publishes the events. All ids are derived from the file and the [`ImportOptions`], so that an interrupted import can be
//! repeated: events that are already in the topic have the same source, sequence number and session, and count once.
//!
//! - [`chat_completions`]: messages in the format of OpenAI's chat completions, and its dialects
//! - [`Input`]: a file, standard input or bytes, with or without gzip; read several times and never held in memory
//! - [`Import`], [`ImportOptions`], [`ImportedSession`], [`RunLocation`]: a checked file and its events
//! - [`Problems`], [`Problem`], [`Notes`]: errors of a file, and content that is not imported
//! - [`check`], [`publish`]: all events through a recorder, or none
//! - [`publish_decided`], [`CallDecider`]: the same, with each call decided before it is recorded
//! - [`parse_start_time`]: the start time of the sessions

pub mod chat_completions;
mod file;
mod import;
mod json;
mod problem;
mod publish;
mod start_time;

pub use chat_completions::RunLocation;
pub use file::{Input, MAX_DOCUMENT_BYTES, MAX_UNPACKED_BYTES};
pub use import::{Import, ImportError, ImportOptions, ImportedSession, Summary};
pub use problem::{Notes, Problem, Problems};
pub use publish::{CallDecider, PublishError, RefusedRuns, check, publish, publish_decided};
pub use start_time::{InvalidStartTime, parse_start_time};
