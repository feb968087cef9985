//! Named edges of the protocols, at which the fault harness kills or stops a process, and mistakes that it plants so as to
//! see that it finds them. With the feature `failpoints` only, which no product build has: without it all of this is empty.
//!
//! They are points of the `fail` crate: `FAILPOINTS="sink::inserted=2*off->return(kill)"` kills the process (SIGKILL) the
//! third time that it has inserted a block and not yet taken note of it; `return(stop)` stops it (SIGSTOP) there, so that a
//! zombie wakes up with the rest of the step in its hand; a mistake is planted with `return`.

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
    "sink::looked",
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
pub const THREAD_EDGES: [&str; 3] = ["lag::look", "serve::readyz", "stop::call"];

/// Commits a batch's offsets before its outputs, not with them, and goes on from there after a restart.
pub const PLANT_COMMIT_FIRST: &str = "processor::commit-first";
/// Does not wait for older inserts after a claim.
pub const PLANT_NO_DRAIN: &str = "sink::no-drain";
/// Goes on where the group has committed, not where the table ends.
pub const PLANT_NO_LOOK: &str = "sink::no-look";

/// Every mistake that can be planted.
pub const PLANTS: [&str; 3] = [PLANT_COMMIT_FIRST, PLANT_NO_DRAIN, PLANT_NO_LOOK];

/// Points that are in force until this is dropped.
pub struct Armed {
    #[cfg(feature = "failpoints")]
    _scenario: fail::FailScenario<'static>,
}

/// Takes the points of the environment's `FAILPOINTS` into force.
pub fn arm() -> Armed {
    Armed {
        #[cfg(feature = "failpoints")]
        _scenario: fail::FailScenario::setup(),
    }
}

/// True if this build has failpoints.
pub const fn is_built_in() -> bool {
    cfg!(feature = "failpoints")
}

/// An edge. Where it is armed, the process may end or stop here.
pub(crate) fn edge(name: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |action| signal_self(name, action.as_deref()));
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// True if this mistake is planted.
pub(crate) fn is_planted(name: &'static str) -> bool {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_| true);
    let _ = name;
    false
}

#[cfg(feature = "failpoints")]
fn signal_self(name: &str, action: Option<&str>) {
    use rustix::process::{Signal, getpid, kill_process};
    let signal = match action {
        Some("kill") => Signal::KILL,
        Some("stop") => Signal::STOP,
        other => {
            tracing::error!(name, ?other, "expected the action `kill` or `stop` of a failpoint");
            return;
        }
    };
    tracing::warn!(name, ?action, "failpoint");
    if let Err(error) = kill_process(getpid(), signal) {
        tracing::error!(name, %error, "failpoint without effect");
    }
}
