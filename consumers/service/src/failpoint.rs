//! Named edges of the protocols. At each the process calls a hook, if it has one: the fault harness sets one that kills or
//! stops the process there, or plants a mistake, so as to see that it is found. The product sets none, whatever its
//! environment says.

use std::sync::OnceLock;

/// The edges of the processor loop, in the order of a batch.
pub const PROCESSOR_EDGES: [&str; 6] = [
    "processor::restored",
    "processor::stepped",
    "processor::begun",
    "processor::produced",
    "processor::offsets-sent",
    "processor::committed",
];

/// The edges of the sink loop, from a claim to the commit of its offsets.
pub const SINK_EDGES: [&str; 7] = [
    "sink::proven",
    "sink::claimed",
    "sink::drained",
    "sink::tail-read",
    "sink::inserting",
    "sink::inserted",
    "sink::committed",
];

/// Those of both that each batch passes. The others come once a start, or a recovery.
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

/// In threads beside a stage's own: its onlooker, the health server's tasks, calls that a stop leaves behind. A panic that is planted
/// there, `NAME=panic`, ends the process.
pub const THREAD_EDGES: [&str; 3] = ["lag::read", "serve::readyz", "shutdown::call"];

/// Commits a batch's offsets before its outputs, not with them, and goes on from there after a restart.
pub const PLANT_COMMIT_FIRST: &str = "processor::commit-first";
/// Goes on where the group has committed, not where the table ends.
pub const PLANT_NO_TAIL_READ: &str = "sink::no-tail-read";

/// Every mistake that a stage can be asked to make.
pub const PLANTS: [&str; 2] = [PLANT_COMMIT_FIRST, PLANT_NO_TAIL_READ];

/// Called with the name of an edge, which may end or stop the process there, or of a mistake: true if it is planted.
pub type Hook = fn(&'static str) -> bool;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Sets the hook of this process. The first one stays.
pub fn set_hook(hook: Hook) {
    HOOK.get_or_init(|| hook);
}

/// Marks an edge. Without a hook it costs one load.
#[inline]
pub fn edge(name: &'static str) {
    is_planted(name);
}

/// True if this mistake is planted.
#[inline]
pub fn is_planted(name: &'static str) -> bool {
    HOOK.get().is_some_and(|hook| hook(name))
}
