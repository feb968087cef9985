//! Failpoints of the `fail` crate at the edges of the stages' protocols.
//!
//! `FAILPOINTS="sink::inserted=2*off->return(kill)"` kills the process (SIGKILL) when it inserts its third block, before it
//! has recorded the insert. `return(stop)` stops it there (SIGSTOP), so that it resumes later in the middle of the step.
//! `panic` panics in the current thread. `return` without an argument plants a mistake (`plants`).

use agentgov_service::failpoint;
use fail::FailScenario;
use rustix::process::{Signal, getpid, kill_process};

use crate::plants;

/// Makes this process obey the failpoints of `FAILPOINTS` until the scenario is dropped.
pub fn arm() -> FailScenario<'static> {
    let scenario = FailScenario::setup();
    failpoint::set_hook(pass);
    plants::arm();
    scenario
}

/// Performs the action of a failpoint, if it has one.
fn pass(name: &'static str) {
    fail::eval(name, |action| {
        if let Some(action) = action {
            signal_self(name, &action);
        }
    });
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
