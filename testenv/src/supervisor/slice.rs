//! How long this process has a core at a time.
#![allow(
    unsafe_code,
    reason = "no library here has sched_getattr(2) and sched_setattr(2); this file only makes these two calls"
)]

use std::io;
use std::time::Duration;

/// Asks for turns of this length, for the calling thread and all that it starts from then on; other niceness and policy than now
/// are not touched. Niceness says how much of a core a process has, not when: at its turn it keeps the core for a slice, while
/// others that wake wait. But one that wakes with a shorter slice takes the core at once, if it has had no more than its share.
///
/// Slices can be asked for, and shorter ones preempt, [from Linux 6.12 on](https://docs.kernel.org/scheduler/sched-eevdf.html). Before
/// it the call succeeds and nothing changes.
///
/// # Errors
/// What the kernel says.
pub(super) fn request(slice: Duration) -> io::Result<()> {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes into `attributes`, which is that large.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).map_err(io::Error::other)?;
    // SAFETY: `attributes` is a whole `sched_attr`, as its `size` says, and the kernel only reads it.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
