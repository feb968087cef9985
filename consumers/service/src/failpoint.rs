//! Failpoints: named edges of the protocols at which the process calls a hook, if one is set. The fault harness sets a hook that
//! kills or stops the process there. The product never sets one, and its environment cannot.

use std::sync::OnceLock;

/// Edges of the processor loop, in the order of a batch.
pub const PROCESSOR_EDGES: [&str; 6] = [
    "processor::restored",
    "processor::stepped",
    "processor::begun",
    "processor::produced",
    "processor::offsets-sent",
    "processor::committed",
];

/// Edges of the sink loop, from a claim to the commit of its offsets.
pub const SINK_EDGES: [&str; 7] = [
    "sink::proven",
    "sink::claimed",
    "sink::drained",
    "sink::tail-read",
    "sink::inserting",
    "sink::inserted",
    "sink::committed",
];

/// Edges of a decision: before it is recorded, and before it is answered.
pub const PDP_EDGES: [&str; 2] = ["pdp::decided", "pdp::recorded"];

/// Edges of both loops that each batch passes. A process passes the others once for each start or recovery.
pub const BATCH_EDGES: [&str; 8] = [
    "processor::stepped",
    "processor::begun",
    "processor::produced",
    "processor::offsets-sent",
    "processor::committed",
    "sink::inserting",
    "sink::inserted",
    "sink::committed",
];

/// Edges in other threads than a stage's own: the lag monitor, the tasks of the health server, calls that a shutdown abandons. A
/// panic that `NAME=panic` injects there ends the process.
pub const THREAD_EDGES: [&str; 3] = ["lag::read", "serve::readyz", "shutdown::call"];

/// Function that is called with the name of an edge. It may end or stop the process.
pub type Hook = fn(&'static str);

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Sets the hook of this process. Later calls have no effect.
pub fn set_hook(hook: Hook) {
    HOOK.get_or_init(|| hook);
}

/// Marks an edge. Costs one load if no hook is set.
#[inline]
pub fn edge(name: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}
