//! Mistakes that a run plants in every stage process, to show that the audit finds them.

use crate::proxy::PLANT_NO_DRAIN;

/// Commits the offsets of a batch before its outputs, and resumes from the committed offset after a restart.
pub const PLANT_COMMIT_FIRST: &str = "processor::commit-first";
/// Resumes at the group's committed offset instead of the end of the table.
pub const PLANT_NO_TAIL_READ: &str = "sink::no-tail-read";

/// Mistakes that can be planted.
pub const PLANTS: [&str; 3] = [PLANT_COMMIT_FIRST, PLANT_NO_TAIL_READ, PLANT_NO_DRAIN];
