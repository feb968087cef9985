//! The stage that writes the log to ClickHouse: every record of every topic that it reads is one row, exactly once, at
//! its own offset, whether it decodes or not.
//!
//! ```text
//!   record ──► schema by id ──► decode, borrowed ──► columns: the record as it was · what it says
//! ```
//!
//! - [`run`]: the stage · [`migrate`]: the tables, from `migrations/*.sql`
//! - `tables`: which topic goes into which table · `columns`: the columns of each, one module a table
//! - `writer`: from record to row · `ledger`: the schemas met, recorded before the rows that use them
//!
//! The loop around it, and why it is exactly once: [`agentgov_runtime::sink`].

mod columns;
mod ledger;
mod migrate;
mod stage;
mod tables;
mod writer;

pub use migrate::{Migrated, migrate};
pub use stage::{Config, run};
#[doc(hidden)]
pub use writer::Actions;
