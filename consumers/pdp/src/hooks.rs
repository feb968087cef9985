//! Hook with which the fault harness plants a mistake, to show that its checks find it (ADR 0026).
//!
//! Only `agentgov-bench armed` sets it. No environment variable sets a hook in the product. Without a hook a call costs one
//! load.

use std::sync::OnceLock;

use crate::log_point::{DecisionLog, NotRecorded, RecordedDecision};

/// Function that records a decision to the log.
pub type RecordDecision = fn(&dyn DecisionLog, &RecordedDecision<'_>) -> Result<(), NotRecorded>;

static RECORD: OnceLock<RecordDecision> = OnceLock::new();

/// Sets the function that records decisions in this process. The first one stays.
pub fn set_record(record: RecordDecision) {
    RECORD.get_or_init(|| record);
}

pub(crate) fn record(log: &dyn DecisionLog, decision: &RecordedDecision<'_>) -> Result<(), NotRecorded> {
    RECORD.get().map_or_else(|| log.record(decision), |record| record(log, decision))
}
