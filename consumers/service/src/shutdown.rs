//! Asking a stage to end: it finishes its batch, commits, leaves its group and returns. Whatever it waits for, it does so
//! within seconds: a call that cannot be interrupted is left behind ([`ShutdownSignal::run_cancellable`], [`DropWithTimeout`]), which loses nothing, as
//! what was not committed is done again by whoever goes on.

use std::ops::Deref;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::failpoint;

/// How long what is under way may still take once a stop is asked for: a commit or an insert that works takes less.
pub const GRACE_PERIOD: Duration = Duration::from_secs(3);
/// A call that takes longer is worth telling.
pub const SLOW_CALL_THRESHOLD: Duration = Duration::from_secs(3);
/// How often one that waits for a call looks around.
const LOOK: Duration = Duration::from_millis(50);

/// A request to stop, shared by whoever may make it and whoever must heed it.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: OnceLock<Instant>,
    gate: Mutex<()>,
    wake: Condvar,
    /// Between two calls.
    idle: Mutex<Vec<Worker>>,
}

/// A thread that makes calls, one after the other, until it is dropped.
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
    /// Asks. Wakes those who wait.
    pub fn request(&self) {
        self.0.asked.get_or_init(Instant::now);
        let _gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.wake.notify_all();
    }

    /// True if it is the same request.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// True once asked.
    pub fn is_requested(&self) -> bool {
        self.0.asked.get().is_some()
    }

    /// True once it was asked so long ago that what is under way is to be given up.
    pub fn is_grace_over(&self) -> bool {
        self.0.asked.get().is_some_and(|asked| asked.elapsed() >= GRACE_PERIOD)
    }

    /// Waits for `pause`, or less if asked to stop meanwhile. Returns [`Self::is_requested`].
    pub fn wait(&self, pause: Duration) -> bool {
        let gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let _woken = self.0.wake.wait_timeout_while(gate, pause, |()| !self.is_requested());
        self.is_requested()
    }

    /// Makes a call that cannot be interrupted, in a worker thread. `None` if a stop [is due](Self::is_grace_over): then it is
    /// left behind, and what comes of it is not known. `late` is called, again and again, while it takes longer than
    /// [`SLOW_CALL_THRESHOLD`].
    pub fn run_cancellable<T: Send + 'static>(
        &self,
        late: impl Fn(),
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_until(late, call, |_| self.is_grace_over())
    }

    /// The same for what is done on leaving: it has `grace` from its begin.
    pub fn run_cancellable_within<T: Send + 'static>(
        &self,
        grace: Duration,
        late: impl Fn(),
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_until(late, call, |began| self.is_requested() && began.elapsed() >= grace)
    }

    fn run_until<T: Send + 'static>(
        &self,
        late: impl Fn(),
        call: impl FnOnce() -> T + Send + 'static,
        over: impl Fn(Instant) -> bool,
    ) -> Option<T> {
        let (done, answer) = sync_channel(1);
        let began = Instant::now();
        let idle = || self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut call: Box<dyn FnOnce() + Send> = Box::new(move || {
            failpoint::edge("shutdown::call");
            // Nobody listens any more: it was left behind.
            let _ = done.send(call());
        });
        let worker = loop {
            let kept = idle().pop();
            match kept.map_or_else(Worker::start, Ok) {
                Ok(worker) => match worker.0.send(call) {
                    Ok(()) => break worker,
                    Err(SendError(unsent)) => call = unsent,
                },
                // `None` means a stop, so the call waits until the system has a thread again.
                Err(error) => {
                    tracing::warn!(%error, "no thread for a call; trying again");
                    std::thread::sleep(LOOK);
                }
            }
            if over(began) {
                return None;
            }
        };
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => {
                    idle().push(worker);
                    return Some(answer);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if began.elapsed() >= SLOW_CALL_THRESHOLD {
                late();
            }
            if over(began) {
                // The worker ends after its call.
                return None;
            }
        }
    }
}

/// What talks to a broker when it is dropped, as Kafka's clients do: that may take as long as the broker does not answer.
/// Dropped through this, it is waited for so long and no longer, and ends by itself afterwards.
pub struct DropWithTimeout<T: Send + Sync + 'static> {
    inner: Arc<T>,
    /// After `inner`, since fields are dropped in this order: waits until the thread that has the last share is done.
    ended: Ended,
}

struct Ended {
    limit: Duration,
    done: Option<Receiver<()>>,
}

impl<T: Send + Sync + 'static> DropWithTimeout<T> {
    /// For a member of a group: worth waiting for, since a group that is not told waits for the session to time out.
    pub fn group_member(inner: T) -> Self {
        Self { inner: Arc::new(inner), ended: Ended { limit: Duration::from_secs(2), done: None } }
    }

    /// For all else.
    pub fn new(inner: T) -> Self {
        Self { inner: Arc::new(inner), ended: Ended { limit: Duration::from_millis(500), done: None } }
    }

    /// For a call that is raced with a stop, and for who looks after it.
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
        // Without a thread it is dropped here, however long that takes.
        if std::thread::Builder::new().name("parting".into()).spawn(dropping).is_ok() {
            self.ended.done = Some(ended);
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(done) = &self.done
            && done.recv_timeout(self.limit).is_err()
        {
            tracing::warn!(limit = ?self.limit, "a client of the broker has not ended yet; it is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_waited_for_until_a_stop_is_due() {
        let stop = ShutdownSignal::default();
        assert_eq!(stop.run_cancellable(|| (), || 5), Some(5));
        stop.request();
        assert_eq!(stop.run_cancellable(|| (), || 6), Some(6), "what works ends within the grace");
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
            "once it is due, nothing more is waited for"
        );
        assert!(began.elapsed() < GRACE_PERIOD);
    }

    #[test]
    fn calls_share_a_thread_until_one_is_left_behind() {
        let stop = ShutdownSignal::default();
        let thread = || stop.run_cancellable(|| (), || std::thread::current().id());
        let first = thread().unwrap();
        assert_eq!(thread(), Some(first));
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        stop.request();
        assert!(stop.run_cancellable_within(Duration::ZERO, || (), move || held.recv()).is_none());
        assert!(thread().is_some_and(|second| second != first), "the first one is still in its call");
        let nested = stop.run_cancellable(|| (), {
            let stop = stop.clone();
            move || stop.run_cancellable(|| (), || 5)
        });
        assert_eq!(nested, Some(Some(5)), "a call may make another");
    }

    #[test]
    fn what_does_not_end_is_left_behind() {
        struct Slow(Receiver<()>);
        impl Drop for Slow {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        // A receiver is not Sync; nobody shares it here.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        drop(DropWithTimeout::new(Mutex::new(Slow(held))));
        assert!(began.elapsed() >= Duration::from_millis(500) && began.elapsed() < SLOW_CALL_THRESHOLD);
        drop(release);
        let (release, held) = std::sync::mpsc::channel::<()>();
        drop(release);
        let began = Instant::now();
        drop(DropWithTimeout::group_member(Mutex::new(Slow(held))));
        assert!(began.elapsed() < SLOW_CALL_THRESHOLD, "it ended at once");
    }
}
