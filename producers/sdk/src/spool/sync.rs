//! Group commit: one thread that syncs the written files of all spools of a producer at an interval.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::join::join;

/// The syncing thread. Dropping it syncs the written data and ends the thread.
#[derive(Debug)]
pub(crate) struct Syncer {
    queue: Arc<DirtyQueue>,
    thread: Option<JoinHandle<()>>,
}

/// The active segment of one spool, registered with the syncing thread.
#[derive(Debug)]
pub(super) struct SyncedFile {
    queue: Arc<DirtyQueue>,
    spool: Arc<SpoolState>,
}

/// Spools that were written since their last sync.
#[derive(Debug, Default)]
struct DirtyQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    dirty: Vec<Arc<SpoolState>>,
    stop: bool,
}

struct SpoolState {
    file: Mutex<FileState>,
    on_error: Box<dyn Fn(io::Error) + Send + Sync>,
}

#[derive(Debug)]
struct FileState {
    file: Arc<File>,
    dirty: bool,
    /// Whether a sync has failed. It is not retried: after a failed sync the content of the file is unknown.
    failed: bool,
}

impl Syncer {
    /// Starts a thread that syncs each file at most `interval` after a write, apart from the time that syncs take.
    pub(crate) fn start(interval: Duration) -> io::Result<Self> {
        let queue = Arc::new(DirtyQueue::default());
        let thread = std::thread::Builder::new().name("agentgov-spool".into()).spawn({
            let queue = Arc::clone(&queue);
            move || {
                while let Some(dirty) = queue.wait_for_writes(interval) {
                    dirty.iter().for_each(|spool| spool.sync());
                }
            }
        })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Registers the file of a spool. The thread calls `on_error` with the first error of a sync, and syncs that spool no more.
    pub(super) fn register(
        &self,
        file: Arc<File>,
        on_error: impl Fn(io::Error) + Send + Sync + 'static,
    ) -> SyncedFile {
        let file = Mutex::new(FileState { file, dirty: false, failed: false });
        let spool = Arc::new(SpoolState { file, on_error: Box::new(on_error) });
        SyncedFile { queue: Arc::clone(&self.queue), spool }
    }
}

impl SyncedFile {
    /// Marks the file as written.
    pub(super) fn mark_dirty(&self) {
        if !std::mem::replace(&mut self.spool.lock().dirty, true) {
            self.queue.lock().dirty.push(Arc::clone(&self.spool));
            self.queue.changed.notify_one();
        }
    }

    /// Switches to the next file. The caller has synced the previous one.
    pub(super) fn switch_to(&self, file: Arc<File>) {
        self.spool.lock().file = file;
    }
}

impl SpoolState {
    fn sync(&self) {
        let file = {
            let mut state = self.lock();
            state.dirty = false;
            if state.failed {
                return;
            }
            Arc::clone(&state.file)
        };
        if let Err(error) = file.sync_data() {
            self.lock().failed = true;
            (self.on_error)(error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FileState> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirtyQueue {
    /// Waits for a write, then for `interval`, so that later writes share the sync. Returns `None` at the end.
    fn wait_for_writes(&self, interval: Duration) -> Option<Vec<Arc<SpoolState>>> {
        let mut state = self.lock();
        while state.dirty.is_empty() && !state.stop {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout_while(state, interval, |state| !state.stop);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let dirty = std::mem::take(&mut state.dirty);
        (!dirty.is_empty()).then_some(dirty)
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SpoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolState").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.queue.lock().stop = true;
        self.queue.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}
