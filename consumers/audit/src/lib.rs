//! Is the log whole? Asked by a reader that shares no code with the stages: it decodes with another Avro library, and
//! compares what the topics hold with what the tables hold, and both with what the events themselves say.
//!
//! ```text
//!   topics ──► every record: place, digest, a few fields ──┐
//!   tables ──► every row: place, digest ───────────────────┼──► Report: what is missing, doubled, out of order
//!   groups ──► how far each stage says it is ──────────────┘
//! ```
//!
//! - [`completeness`]: the check; [`examine`]: that of the actions, without a stack
//! - `events`, `sources`, `sessions`: what the events say of themselves, and what the evaluator counted in each session
//! - [`Report`], [`Finding`]: what it found, each with the first place

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
