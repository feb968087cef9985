//! Mistakes that a run plants in every stage process, to show that the audit finds them.

use crate::proxy::PLANT_NO_DRAIN;

/// Commits the offsets of a batch before its outputs, and resumes from the committed offset after a restart.
pub const PLANT_COMMIT_FIRST: &str = "processor::commit-first";
/// Resumes at the group's committed offset instead of the end of the table.
pub const PLANT_NO_TAIL_READ: &str = "sink::no-tail-read";

/// Answers some decisions without recording them.
pub const PLANT_FORGET_DECISION: &str = "pdp::forget-decision";
/// Records some decisions twice.
pub const PLANT_DOUBLE_DECISION: &str = "pdp::double-decision";
/// Records some decisions with another outcome than the answered one.
pub const PLANT_ALTER_DECISION: &str = "pdp::alter-decision";
/// Acknowledges the suspension of an agent before it is published. The harness itself makes this mistake.
pub const PLANT_LATE_SUSPENSION: &str = "registry::late-suspension";

/// Records some calls with the token of an earlier call. The callers of the harness make this mistake.
pub const PLANT_REUSE_TOKEN: &str = "caller::reuse-token";

/// Mistakes that can be planted.
pub const PLANTS: [&str; 8] = [
    PLANT_COMMIT_FIRST,
    PLANT_NO_TAIL_READ,
    PLANT_NO_DRAIN,
    PLANT_FORGET_DECISION,
    PLANT_DOUBLE_DECISION,
    PLANT_ALTER_DECISION,
    PLANT_LATE_SUSPENSION,
    PLANT_REUSE_TOKEN,
];
