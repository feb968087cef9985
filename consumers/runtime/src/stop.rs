//! Asking a stage to end: it finishes its batch, commits, leaves its group and returns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A request to stop, shared by whoever may make it and whoever must heed it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    gate: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    /// Asks. Wakes those who wait.
    pub fn ask(&self) {
        self.0.asked.store(true, Ordering::Release);
        let _gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.wake.notify_all();
    }

    /// True once asked.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Waits for `pause`, or less if asked to stop meanwhile. Returns [`Self::is_asked`].
    pub fn wait(&self, pause: Duration) -> bool {
        let gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let _woken = self.0.wake.wait_timeout_while(gate, pause, |()| !self.is_asked());
        self.is_asked()
    }
}
