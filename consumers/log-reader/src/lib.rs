//! Typed reads of the log in ClickHouse, for the CLI's reports. Blocking: never call it from async code.
//!
//! - [`LogReader`]: connection to ClickHouse
//! - [`imported`]: progress, counts, violations and latency of one import
//! - [`approvals`]: requests for approvals, with the decisions about them
//! - [`decided`]: calls with the decisions that were made before them
//! - [`session`]: one session, event by event; [`Disagreement`]: how a decision differs from its verdict;
//!   [`DecisionEvidence`]: whether a token proves it
//! - [`LoggedBytes`]: payloads, which may be any bytes
//! - [`overview`]: sizes of tables, recent rejects and alerts, active bundles
//!
//! For analysts, docs/QUERIES.md has similar queries as plain SQL.

pub mod approvals;
pub mod decided;
pub mod imported;
pub mod overview;
pub mod session;

mod disagreement;
mod evidence;
mod logged;
mod reader;

pub use disagreement::Disagreement;
pub use evidence::DecisionEvidence;
pub use logged::LoggedBytes;
pub use reader::{LogReader, ReadError};
