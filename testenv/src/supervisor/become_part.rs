//! The step between the supervisor and a part: arms the parent-death signal, then turns into the part.

use std::ffi::OsString;
use std::io::{Error, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::slice;

/// What a part that gives way has of a core that others want: a tenth of what one of them has.
const NICE: i32 = 10;
/// What it asks for at a time: longer than anybody else does, so whoever wakes need not wait for its end. The default is 1.4 ms on two cores.
const SLICE: Duration = Duration::from_millis(50);

/// Returns only an error. The signal is the second line of defence, should the supervisor be killed.
pub(crate) fn become_part(parent: u32, gives_way: bool, command: &[OsString]) -> Error {
    if gives_way {
        give_way();
    }
    attempt(parent, command)
}

fn attempt(parent: u32, command: &[OsString]) -> Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The supervisor may have ended before the signal was armed.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != i32::try_from(parent).ok() {
        return Error::other("the supervisor is gone");
    }
    match command {
        [] => Error::other("no program is named"),
        [program, args @ ..] => Command::new(program).args(args).exec(),
    }
}

/// A group and a session of its own, at a lower priority. Where it cannot be had the part runs as any other, but for the group.
fn give_way() {
    // Linux schedules sessions against each other (sched(7), "The autogroup feature"): niceness only counts within one, and the
    // session's own is written to a file. Without the feature there is no such file.
    let _ = rustix::process::setsid();
    for _ in 0..20 {
        let written = std::fs::write("/proc/self/autogroup", NICE.to_string());
        // Who is not root is put off if any other process has done so within a tenth of a second.
        if !written.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = rustix::process::setpriority_process(None, NICE);
    let _ = slice::request(SLICE);
}
