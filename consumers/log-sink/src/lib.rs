//! Stage that writes the log to ClickHouse: every record of every topic that it reads is one row, exactly once, at its
//! own offset, whether it decodes or not.
//!
//! ```text
//!   record ──► schema by id ──► decode, borrowed ──► columns: the raw record · its fields
//! ```
//!
//! - [`run`]: the stage · [`migrate`]: creates the tables from `migrations/*.sql`
//! - `tables`: tables by topic · `columns`: columns of each table, one module per table
//! - `encoder`: encodes records as rows · `recorded_schemas`: stores schemas before the rows that use them
//!
//! [`agentgov_runtime::sink`] has the loop around it and explains the exactly-once protocol.

mod columns;
mod encoder;
mod migrate;
mod recorded_schemas;
mod stage;
mod tables;

#[doc(hidden)]
pub use encoder::ActionRows;
pub use migrate::{MigrationReport, migrate};
pub use stage::{Config, run};
