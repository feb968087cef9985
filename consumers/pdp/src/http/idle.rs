//! Connections without a request in progress. When a new connection finds no room, the one that has been idle longest is
//! closed: clients that connect and send nothing must not keep others from their decisions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Interval at which a new connection without room looks for an idle one.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Room for a limited number of connections.
#[derive(Clone, Debug)]
pub(super) struct ConnectionSlots {
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<IdleConnections>>,
    max: u32,
}

/// Idle connections, the one that has been idle longest first.
#[derive(Debug, Default)]
struct IdleConnections {
    next: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

/// Room of one connection. It is idle until a request begins.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    idle: Arc<Mutex<IdleConnections>>,
    place: Mutex<Option<u64>>,
    close: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

/// Request in progress.
#[derive(Debug)]
pub(super) struct BusySlot(Arc<ConnectionSlot>);

impl ConnectionSlots {
    /// Creates room for `max` connections.
    pub(super) fn new(max: u32) -> Self {
        let permits = usize::try_from(max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(permits)), idle: Arc::default(), max }
    }

    /// Waits for room. Closes the connection that has been idle longest if there is none.
    pub(super) async fn acquire(&self) -> ConnectionSlot {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return self.slot(permit);
            }
            lock(&self.idle).close_longest();
            let acquired = Arc::clone(&self.permits).acquire_owned();
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = tokio::time::timeout(RETRY_INTERVAL, acquired).await {
                return self.slot(permit);
            }
        }
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> ConnectionSlot {
        let slot = ConnectionSlot {
            idle: Arc::clone(&self.idle),
            place: Mutex::default(),
            close: Arc::default(),
            _permit: permit,
        };
        slot.set_idle();
        slot
    }

    /// Waits until every connection has ended.
    pub(super) async fn drained(&self) {
        drop(self.permits.acquire_many(self.max).await);
    }
}

impl IdleConnections {
    fn close_longest(&mut self) {
        if let Some((_, close)) = self.by_age.pop_first() {
            close.notify_one();
        }
    }
}

impl ConnectionSlot {
    /// Waits until another connection needs the room.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Returns true if a request is in progress.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.place).is_none()
    }

    /// Marks the connection as busy until the returned value is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> BusySlot {
        self.set_busy();
        BusySlot(Arc::clone(self))
    }

    fn set_idle(&self) {
        let mut idle = lock(&self.idle);
        let place = idle.next;
        idle.next = idle.next.wrapping_add(1);
        idle.by_age.insert(place, Arc::clone(&self.close));
        *lock(&self.place) = Some(place);
    }

    fn set_busy(&self) {
        let mut idle = lock(&self.idle);
        if let Some(place) = lock(&self.place).take() {
            idle.by_age.remove(&place);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.set_busy();
    }
}

impl Drop for BusySlot {
    fn drop(&mut self) {
        self.0.set_idle();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is usable: no code panics while it holds the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
