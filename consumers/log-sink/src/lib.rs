//! The stage that writes the log to ClickHouse: every record of every topic that it reads is one row, exactly once, at
//! its own offset, whether it decodes or not.
//!
//! ```text
//!   record ──► schema by id ──► decode, borrowed ──► columns: the record as it was · what it says
//! ```
//!
//! - [`run`]: the stage · [`migrate`]: the tables, from `migrations/*.sql`
//! - `tables`: which topic goes into which table · `columns`: the columns of each, one module a table
//! - `encoder`: from record to row · `recorded_schemas`: the schemas met, recorded before the rows that use them
//!
//! The loop around it, and why it is exactly once: [`agentgov_runtime::sink`].

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
