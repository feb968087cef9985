//! Audit of the log's completeness by a reader that shares no code with the stages. It decodes with another Avro library, compares
//! topics with tables, and checks the events' own sequence numbers and totals.
//!
//! ```text
//!   topics ──► every record: position, digest, some fields ─┐
//!   tables ──► every row: position, digest ─────────────────┼──► Report: missing, doubled and reordered records
//!   groups ──► committed offsets of each stage ─────────────┘
//! ```
//!
//! - [`completeness`]: check of the whole log; [`examine`]: check of actions alone, without a stack
//! - `events`, `sources`, `sessions`: checks of the events, and of the evaluator's counters of each session
//! - [`Report`], [`Finding`]: findings, each with its first position

mod bases;
mod check;
mod events;
mod headers;
mod kafka;
mod murmur2;
mod record;
mod report;
mod rows;
mod sessions;
mod sources;

pub use check::{AuditError, completeness, examine};
pub use kafka::Record;
pub use report::{Finding, FindingKind, Interval, Report, SourceSummary};
