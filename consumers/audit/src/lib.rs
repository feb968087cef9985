//! Is the log whole? Asked by a reader that shares no code with the stages: it decodes with another Avro library, and
//! compares what the topics hold with what the tables hold, and both with what the events themselves say.
//!
//! ```text
//!   topics ──► every record: place, digest, a few fields ──┐
//!   tables ──► every row: place, digest ───────────────────┼──► Report: what is missing, doubled, out of order
//!   groups ──► how far each stage says it is ──────────────┘
//! ```
//!
//! - [`completeness`]: the check
//! - `counters`: what the evaluator counted in each session against its events
//! - [`Report`], [`Finding`]: what it found, each with the first place

mod check;
mod counters;
mod kafka;
mod record;
mod report;
mod rows;

pub use check::{AuditError, completeness};
pub use report::{Finding, Kind, Report, SourceSeen};
