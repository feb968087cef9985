//! Typed reads of the log in ClickHouse, for the CLI's reports. Blocking: never call it from async code.
//!
//! - [`LogReader`]: the connection
//! - [`imported`]: what became of one import: progress, counts, violations, latency
//! - [`session`]: one session, event by event
//! - [`LoggedBytes`]: payloads, which may be any bytes
//! - [`overview`]: the log at a glance: how much is there, what happened of late, what judges
//!
//! Analysts need none of this: docs/QUERIES.md has the same as plain SQL.

pub mod imported;
pub mod overview;
pub mod session;

mod logged;
mod reader;

pub use logged::LoggedBytes;
pub use reader::{LogReader, ReadError};
