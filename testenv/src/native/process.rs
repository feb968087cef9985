//! State of a process in /proc.

/// Returns true if every thread of a process is stopped. A signal takes effect a little after it was sent.
pub(super) fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    // The state follows the program's name, which is in parentheses and may contain any character.
    states.all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't'])))
}
