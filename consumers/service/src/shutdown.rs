//! Shutdown of a stage: it finishes its batch, commits, leaves its group and returns, within seconds in any state.
//!
//! A call that cannot be interrupted is abandoned ([`ShutdownSignal::run_cancellable`], [`DropWithTimeout`]). That loses nothing,
//! since the next owner of the partitions repeats uncommitted work.

use std::ops::Deref;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::failpoint;

/// Time that running calls have after a shutdown request. A commit or an insert that succeeds takes less.
pub const GRACE_PERIOD: Duration = Duration::from_secs(3);
/// Duration after which a running call is reported as slow.
pub const SLOW_CALL_THRESHOLD: Duration = Duration::from_secs(3);
/// Interval of the checks while a call runs.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Shutdown request. Clones share it: some request the shutdown, others check for it.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requested_at: OnceLock<Instant>,
    gate: Mutex<()>,
    wake: Condvar,
    /// Worker threads without a call.
    idle: Mutex<Vec<Worker>>,
}

/// Thread that runs calls, one after the other, until the worker is dropped.
#[derive(Debug)]
struct Worker(SyncSender<Box<dyn FnOnce() + Send>>);

impl Worker {
    fn start() -> std::io::Result<Self> {
        let (calls, next) = sync_channel::<Box<dyn FnOnce() + Send>>(1);
        std::thread::Builder::new()
            .name("call".into())
            .spawn(move || next.into_iter().for_each(|call| call()))?;
        Ok(Self(calls))
    }
}

impl ShutdownSignal {
    /// Requests the shutdown, and wakes waiting threads.
    pub fn request(&self) {
        self.0.requested_at.get_or_init(Instant::now);
        let _gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.wake.notify_all();
    }

    /// Returns true if both share one request.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns true once the shutdown is requested.
    pub fn is_requested(&self) -> bool {
        self.0.requested_at.get().is_some()
    }

    /// Returns true once [`GRACE_PERIOD`] has passed since the request, so that running calls must be abandoned.
    pub fn is_grace_over(&self) -> bool {
        self.0.requested_at.get().is_some_and(|at| at.elapsed() >= GRACE_PERIOD)
    }

    /// Waits for `pause`, or until a shutdown is requested. Returns [`Self::is_requested`].
    pub fn wait(&self, pause: Duration) -> bool {
        let gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let _woken = self.0.wake.wait_timeout_while(gate, pause, |()| !self.is_requested());
        self.is_requested()
    }

    /// Runs a call that cannot be interrupted in a worker thread. Returns `None` if [the grace period is over](Self::is_grace_over)
    /// first: then the call is abandoned, and its outcome is unknown. Calls `on_slow` repeatedly once the call takes longer than
    /// [`SLOW_CALL_THRESHOLD`].
    pub fn run_cancellable<T: Send + 'static>(
        &self,
        on_slow: impl Fn(),
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_until(on_slow, call, |_| self.is_grace_over())
    }

    /// Runs a call of the shutdown itself, as [`Self::run_cancellable`] does. After a shutdown request it has `grace` from its
    /// start.
    pub fn run_cancellable_within<T: Send + 'static>(
        &self,
        grace: Duration,
        on_slow: impl Fn(),
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_until(on_slow, call, |began| self.is_requested() && began.elapsed() >= grace)
    }

    fn run_until<T: Send + 'static>(
        &self,
        on_slow: impl Fn(),
        call: impl FnOnce() -> T + Send + 'static,
        over: impl Fn(Instant) -> bool,
    ) -> Option<T> {
        let (done, answer) = sync_channel(1);
        let began = Instant::now();
        let idle = || self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut call: Box<dyn FnOnce() + Send> = Box::new(move || {
            failpoint::edge("shutdown::call");
            // Sending fails if the call was abandoned.
            let _ = done.send(call());
        });
        let worker = loop {
            let kept = idle().pop();
            match kept.map_or_else(Worker::start, Ok) {
                Ok(worker) => match worker.0.send(call) {
                    Ok(()) => break worker,
                    Err(SendError(unsent)) => call = unsent,
                },
                // `None` would mean a shutdown, so the call waits until the system can start a thread.
                Err(error) => {
                    tracing::warn!(%error, "cannot start a thread for a call; retrying");
                    std::thread::sleep(POLL_INTERVAL);
                }
            }
            if over(began) {
                return None;
            }
        };
        loop {
            match answer.recv_timeout(POLL_INTERVAL) {
                Ok(answer) => {
                    idle().push(worker);
                    return Some(answer);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if began.elapsed() >= SLOW_CALL_THRESHOLD {
                on_slow();
            }
            if over(began) {
                // The worker is dropped and ends after the call.
                return None;
            }
        }
    }
}

/// Wrapper that drops its content in another thread and waits for that with a timeout. Kafka's clients talk to the broker when
/// they are dropped, which takes until the broker answers. After the timeout the drop continues in its thread.
pub struct DropWithTimeout<T: Send + Sync + 'static> {
    inner: Arc<T>,
    /// Waits for the thread that drops `inner`. Declared after `inner`, since fields are dropped in the order of declaration.
    waiter: DropWaiter,
}

struct DropWaiter {
    timeout: Duration,
    done: Option<Receiver<()>>,
}

impl<T: Send + Sync + 'static> DropWithTimeout<T> {
    /// Wraps a member of a consumer group. It has a longer timeout, since without a leave request the group waits for the
    /// session timeout.
    pub fn group_member(inner: T) -> Self {
        Self { inner: Arc::new(inner), waiter: DropWaiter { timeout: Duration::from_secs(2), done: None } }
    }

    /// Wraps any other client.
    pub fn new(inner: T) -> Self {
        Self {
            inner: Arc::new(inner),
            waiter: DropWaiter { timeout: Duration::from_millis(500), done: None },
        }
    }

    /// Returns a shared reference, for a cancellable call or a watchdog.
    pub fn share(&self) -> Arc<T> {
        Arc::clone(&self.inner)
    }
}

impl<T: Send + Sync + 'static> Deref for DropWithTimeout<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: Send + Sync + 'static> Drop for DropWithTimeout<T> {
    fn drop(&mut self) {
        let (done, ended) = sync_channel(1);
        let mut shared = Arc::clone(&self.inner);
        let dropping = move || {
            while let Err(still) = Arc::try_unwrap(shared).map(drop) {
                shared = still;
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = done.send(());
        };
        // If no thread can be started, the content is dropped here, without a timeout.
        if std::thread::Builder::new().name("drop".into()).spawn(dropping).is_ok() {
            self.waiter.done = Some(ended);
        }
    }
}

impl Drop for DropWaiter {
    fn drop(&mut self) {
        if let Some(done) = &self.done
            && done.recv_timeout(self.timeout).is_err()
        {
            tracing::warn!(timeout = ?self.timeout, "a Kafka client has not closed within its timeout; it closes in the background");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_abandoned_after_the_grace_period() {
        let stop = ShutdownSignal::default();
        assert_eq!(stop.run_cancellable(|| (), || 5), Some(5));
        stop.request();
        assert_eq!(stop.run_cancellable(|| (), || 6), Some(6), "a fast call ends within the grace period");
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        assert!(
            stop.run_cancellable_within(Duration::from_millis(100), || (), move || held.recv()).is_none()
        );
        assert!(began.elapsed() < SLOW_CALL_THRESHOLD, "{:?}", began.elapsed());
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        assert!(stop.run_cancellable(|| (), move || held.recv()).is_none());
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        assert!(
            stop.run_cancellable(|| (), move || held.recv()).is_none(),
            "a call after the grace period is abandoned at once"
        );
        assert!(began.elapsed() < GRACE_PERIOD);
    }

    #[test]
    fn calls_share_a_thread_until_one_is_abandoned() {
        let stop = ShutdownSignal::default();
        let thread = || stop.run_cancellable(|| (), || std::thread::current().id());
        let first = thread().unwrap();
        assert_eq!(thread(), Some(first));
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        stop.request();
        assert!(stop.run_cancellable_within(Duration::ZERO, || (), move || held.recv()).is_none());
        assert!(thread().is_some_and(|second| second != first), "the first thread is still in its call");
        let nested = stop.run_cancellable(|| (), {
            let stop = stop.clone();
            move || stop.run_cancellable(|| (), || 5)
        });
        assert_eq!(nested, Some(Some(5)), "a call may make another");
    }

    #[test]
    fn slow_drop_continues_in_the_background() {
        struct Slow(Receiver<()>);
        impl Drop for Slow {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        // A receiver is not Sync, and the mutex makes it so.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        drop(DropWithTimeout::new(Mutex::new(Slow(held))));
        assert!(began.elapsed() >= Duration::from_millis(500) && began.elapsed() < SLOW_CALL_THRESHOLD);
        drop(release);
        let (release, held) = std::sync::mpsc::channel::<()>();
        drop(release);
        let began = Instant::now();
        drop(DropWithTimeout::group_member(Mutex::new(Slow(held))));
        assert!(began.elapsed() < SLOW_CALL_THRESHOLD, "the drop ended at once");
    }
}
