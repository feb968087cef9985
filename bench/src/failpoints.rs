//! Failpoints of the `fail` crate at the edges of the stages' protocols.
//!
//! `FAILPOINTS="sink::inserted=2*off->return(kill)"` kills the process (SIGKILL) the third time that it has inserted a block and
//! not yet taken note of it; `return(stop)` stops it (SIGSTOP) there, so that a zombie wakes up with the rest of the step in
//! its hand; `panic` panics in the thread that passes; a mistake is planted with `return`.

use agentgov_service::failpoint;
use fail::FailScenario;
use rustix::process::{Signal, getpid, kill_process};

/// Has this process obey the failpoints of the environment's `FAILPOINTS` until the scenario is dropped.
pub fn arm() -> FailScenario<'static> {
    let scenario = FailScenario::setup();
    failpoint::set_hook(pass);
    scenario
}

/// Passes an edge, or asks for a mistake.
fn pass(name: &'static str) -> bool {
    fail::eval(name, |action| match action.as_deref() {
        None => true,
        Some(action) => {
            signal_self(name, action);
            false
        }
    })
    .unwrap_or(false)
}

fn signal_self(name: &str, action: &str) {
    let signal = match action {
        "kill" => Signal::KILL,
        "stop" => Signal::STOP,
        other => {
            tracing::error!(name, other, "expected the action `kill` or `stop` of a failpoint");
            return;
        }
    };
    tracing::warn!(name, action, "failpoint");
    if let Err(error) = kill_process(getpid(), signal) {
        tracing::error!(name, %error, "failpoint without effect");
    }
}
