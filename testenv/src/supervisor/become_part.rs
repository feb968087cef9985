//! Step between the supervisor and a part: arms the parent-death signal, then executes the part.

use std::ffi::OsString;
use std::io::{Error, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::slice;

/// Niceness of a low-priority part: it gets a tenth of a core's time that a normal process gets.
const NICE: i32 = 10;
/// Requested time slice, longer than those of others, so that a waking process preempts the part. The default is 1.4 ms on
/// two cores.
const TIME_SLICE: Duration = Duration::from_millis(50);

/// Executes the part; returns only on error. The parent-death signal is the second line of defence if the supervisor is
/// killed.
pub(crate) fn become_part(parent: u32, low_priority: bool, command: &[OsString]) -> Error {
    if low_priority {
        lower_priority();
    }
    execute(parent, command)
}

fn execute(parent: u32, command: &[OsString]) -> Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The supervisor may have ended before the signal was armed.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != i32::try_from(parent).ok() {
        return Error::other("the supervisor has ended");
    }
    match command {
        [] => Error::other("expected a program, found no arguments"),
        [program, args @ ..] => Command::new(program).args(args).exec(),
    }
}

/// Creates a session with low priority. If that fails, the part runs with normal priority.
fn lower_priority() {
    // Linux schedules sessions against each other (sched(7), "The autogroup feature"): niceness counts only within a
    // session, and the session's own is set in a file. Without the feature the file does not exist.
    let _ = rustix::process::setsid();
    for _ in 0..20 {
        let written = std::fs::write("/proc/self/autogroup", NICE.to_string());
        // Without root, the write fails if another process has done so within a tenth of a second.
        if !written.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = rustix::process::setpriority_process(None, NICE);
    let _ = slice::request(TIME_SLICE);
}
