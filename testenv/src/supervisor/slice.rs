//! Time slice of this process.
#![allow(
    unsafe_code,
    reason = "no library here has sched_getattr(2) and sched_setattr(2); this file only makes these two calls"
)]

use std::io;
use std::time::Duration;

/// Requests a time slice for the calling thread and its future children, without changing niceness and policy. Niceness
/// determines the share of a core, not the timing: a running process keeps the core for a slice while waking processes
/// wait. A waking process with a shorter slice preempts it if it has not exceeded its share.
///
/// Slices can be requested, and shorter ones preempt, [from Linux 6.12
/// on](https://docs.kernel.org/scheduler/sched-eevdf.html). On older kernels the call succeeds without effect.
///
/// # Errors
/// If the kernel rejects the call.
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
    // SAFETY: the kernel writes at most `size` bytes into `attributes`, which has that size.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).map_err(io::Error::other)?;
    // SAFETY: `attributes` is a complete `sched_attr` of its `size`, and the kernel only reads it.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
