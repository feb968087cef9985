//! The group commit: a thread that makes what was written durable, every so often.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The thread. Ends when dropped, after what is written is durable.
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
    /// Syncs `file` at most `every` after it was written to; tells `failed` what the system says otherwise.
    pub(super) fn start(
        file: Arc<File>,
        every: Duration,
        failed: impl Fn(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let state = Mutex::new(State { file, dirty: false, stop: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("agentgov-spool".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                while let Some(file) = shared.next(every) {
                    if let Err(error) = file.sync_data() {
                        // What a file holds after that, nobody knows: never tried again.
                        return failed(error);
                    }
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The file was written to.
    pub(super) fn written(&self) {
        let mut state = self.shared.lock();
        if !std::mem::replace(&mut state.dirty, true) {
            self.shared.changed.notify_one();
        }
    }

    /// The next file; the last one is durable.
    pub(super) fn follow(&self, file: Arc<File>) {
        let mut state = self.shared.lock();
        state.file = file;
        state.dirty = false;
    }
}

impl Shared {
    /// Waits until there is something to sync, and then for the others that come meanwhile. `None`: it is over.
    fn next(&self, every: Duration) -> Option<Arc<File>> {
        let mut state = self.lock();
        while !state.dirty && !state.stop {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout_while(state, every, |state| !state.stop);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::take(&mut state.dirty).then(|| Arc::clone(&state.file))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
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
