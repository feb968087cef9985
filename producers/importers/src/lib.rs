//! Recorded agent runs to events.
//!
//! An importer reads a whole file and names what is wrong with it before it publishes anything: [`chat_completions::read`],
//! then [`publish`]. Every id follows from the file and the [`ImportOptions`], so that an import that was killed is simply
//! run again: what is there already has the same source, number and session, and counts once.
//!
//! - [`chat_completions`]: messages in the format of OpenAI's chat completions, and its dialects
//! - [`Input`]: a file, standard input or bytes, packed with gzip or not; read as often as it is needed, never held
//! - [`Import`], [`ImportOptions`], [`ImportedSession`], [`RunLocation`]: a file that was checked, and its events
//! - [`Problems`], [`Problem`], [`Notes`]: what is wrong with it, and what of it is not imported
//! - [`check`], [`publish`]: all of it through a recorder, or nothing
//! - [`parse_start_time`]: the session clock, as people write it

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
pub use publish::{PublishError, RefusedRuns, check, publish};
pub use start_time::{InvalidStartTime, parse_start_time};
