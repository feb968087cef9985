//! Open storage, with one connection per request in flight.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::EngineError;
use super::library::Library;
use super::session::Session;

/// Maximum number of requests in progress; further ones wait.
const MAX_IN_FLIGHT: usize = 64;

/// Engine with open storage.
#[derive(Clone)]
pub(super) struct Storage {
    library: &'static Library,
    path: Arc<PathBuf>,
    /// Keeps the storage open between requests, since closing the last connection closes it.
    anchor: Arc<Mutex<Option<Session>>>,
    permits: Arc<Semaphore>,
}

impl Storage {
    /// Loads the library and opens the storage in `path`, which must exist.
    pub(super) fn open(library: &Path, path: &Path) -> Result<Self, EngineError> {
        let library = Library::load(library)?;
        let anchor = Session::open(library, path)?;
        Ok(Self {
            library,
            path: Arc::new(path.to_path_buf()),
            anchor: Arc::new(Mutex::new(Some(anchor))),
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        })
    }

    /// Waits for a permit and runs `work` with its own connection in a blocking thread. The work finishes even if the
    /// caller no longer waits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| EngineError::Stopping)?;
        let (library, path) = (self.library, Arc::clone(&self.path));
        let task = tokio::task::spawn_blocking(move || {
            let _permit: OwnedSemaphorePermit = permit;
            work(&mut Session::open(library, &path)?)
        });
        task.await.map_err(|_| EngineError::NoOutcome)?
    }

    /// Waits until no request is in flight, rejects new ones, and closes the storage.
    pub(super) async fn close(&self) {
        let all = u32::try_from(MAX_IN_FLIGHT).unwrap_or(u32::MAX);
        let idle = self.permits.acquire_many(all).await;
        self.permits.close();
        drop(idle);
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
