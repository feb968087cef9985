//! Group commit: a thread that syncs the active segment at an interval.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The syncing thread. Dropping it syncs the written data and ends the thread.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    file: Arc<File>,
    dirty: bool,
    stop: bool,
}

impl Syncer {
    /// Starts a thread that syncs `file` at most `interval` after a write. Calls `on_error` with the first error and then ends.
    pub(super) fn start(
        file: Arc<File>,
        interval: Duration,
        on_error: impl Fn(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let state = Mutex::new(State { file, dirty: false, stop: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("agentgov-spool".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                while let Some(file) = shared.wait_for_file(interval) {
                    if let Err(error) = file.sync_data() {
                        // Not retried: after a failed sync the content of the file is unknown.
                        return on_error(error);
                    }
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Marks the file as written.
    pub(super) fn mark_dirty(&self) {
        let mut state = self.shared.lock();
        if !std::mem::replace(&mut state.dirty, true) {
            self.shared.changed.notify_one();
        }
    }

    /// Switches to the next file. The caller has synced the previous one.
    pub(super) fn switch_to(&self, file: Arc<File>) {
        let mut state = self.shared.lock();
        state.file = file;
        state.dirty = false;
    }
}

impl Shared {
    /// Waits for a write, then for `interval`, so that later writes share the sync. Returns `None` at the end.
    fn wait_for_file(&self, interval: Duration) -> Option<Arc<File>> {
        let mut state = self.lock();
        while !state.dirty && !state.stop {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout_while(state, interval, |state| !state.stop);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::take(&mut state.dirty).then(|| Arc::clone(&state.file))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
