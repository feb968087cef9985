//! Named edges of the protocols. At each edge the process calls a hook, if it has one. The fault harness sets a hook that kills or
//! stops the process there. The product sets none, whatever its environment says.

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

/// Called with the name of an edge; may end or stop the process there.
pub type Hook = fn(&'static str);

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Sets the hook of this process. The first one stays.
pub fn set_hook(hook: Hook) {
    HOOK.get_or_init(|| hook);
}

/// Marks an edge. Without a hook it costs one load.
#[inline]
pub fn edge(name: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}
