//! Ends of threads.

use std::thread::{self, JoinHandle};

/// Waits until the thread ends. Returns at once in the thread itself, which may run the code of a woken future that drops the
/// last handle of a producer.
pub(crate) fn join(handle: JoinHandle<()>) {
    if handle.thread().id() != thread::current().id() {
        let _ = handle.join();
    }
}
