//! Recorded agent runs to events.
//!
//! An importer reads a whole file and names every bad line before it publishes anything: [`chat_completions::parse`],
//! then [`publish`]. Every id follows from the file and the [`ImportOptions`], so that an import that was killed is simply
//! run again: what is there already has the same source, number and session, and counts once.
//!
//! - [`chat_completions`]: one run a line, messages in the format of OpenAI's chat completions
//! - [`Import`], [`ImportOptions`], [`ImportedSession`]: a file that was checked, and its events
//! - [`publish`]: all of it through a recorder, or nothing
//! - [`parse_start_time`]: the session clock, as people write it

pub mod chat_completions;
mod import;
mod problem;
mod publish;
mod start_time;

pub use import::{Import, ImportOptions, ImportedSession, Summary};
pub use problem::Problem;
pub use publish::{PublishError, publish};
pub use start_time::{InvalidStartTime, parse_start_time};
