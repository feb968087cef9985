//! Shutdown of the process after a panic in any thread, with the exit code for panics. agentgov does not panic on purpose, but a
//! library may. Without this module only the thread of a stage, of the lag monitor or of the health server would end, and the
//! process would seem healthy.
//!
//! A panic triggers the shutdown signal of each [`PanicGuard`], so that the stages end in order. If they do not end in time, for
//! example because one waits for the thread that has panicked, the process exits.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::{ExitCode, ShutdownSignal, StageError};

/// Maximum time for the stages to end after a panic. It exceeds the time of an orderly shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of the checks whether the stages have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Description of the first panic of this process.
static FIRST_PANIC: OnceLock<String> = OnceLock::new();
/// Shutdown signals that a panic triggers.
static GUARDED: Mutex<Vec<ShutdownSignal>> = Mutex::new(Vec::new());

/// Guard that connects panics to a [`ShutdownSignal`]. While it exists, a panic in any thread of this process triggers the
/// signal. If the guard is not dropped within [`SHUTDOWN_TIMEOUT`] after that, the process exits.
#[derive(Debug)]
pub struct PanicGuard(ShutdownSignal);

impl PanicGuard {
    /// Creates a guard for the signal, and installs the panic hook if the process has none of this module.
    pub fn new(stop: ShutdownSignal) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if !handle(panic) {
                    before(panic);
                }
            }));
        });
        guarded().push(stop.clone());
        Self(stop)
    }

    /// Returns the first panic of this process, if there was one.
    pub fn panic(&self) -> Option<StageError> {
        FIRST_PANIC.get().cloned().map(StageError::Panicked)
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        let mut signals = guarded();
        if let Some(at) = signals.iter().position(|stop| stop.is(&self.0)) {
            signals.swap_remove(at);
        }
    }
}

/// Handles a panic. Returns false if there is no guard.
fn handle(panic: &PanicHookInfo<'_>) -> bool {
    let stops = guarded().clone();
    if stops.is_empty() {
        return false;
    }
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let reason = describe(thread.name().unwrap_or("without a name"), &place, panic.payload());
    let _ = FIRST_PANIC.set(reason.clone());
    stops.iter().for_each(ShutdownSignal::request);
    let end = || {
        let began = Instant::now();
        while began.elapsed() < SHUTDOWN_TIMEOUT {
            std::thread::sleep(POLL_INTERVAL);
            if guarded().is_empty() {
                return;
            }
        }
        // No log line: the panicked thread may hold a lock of the logger.
        std::process::exit(ExitCode::Panicked as i32);
    };
    if std::thread::Builder::new().name("after-panic".into()).spawn(end).is_err() {
        std::process::exit(ExitCode::Panicked as i32);
    }
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(reason, backtrace, "panicked");
    true
}

/// Describes a panic on one line. Escapes the message, which may contain text of a record.
fn describe(thread: &str, place: &str, payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message").escape_debug();
    format!("thread `{thread}` panicked at {place}: {text}")
}

fn guarded() -> std::sync::MutexGuard<'static, Vec<ShutdownSignal>> {
    GUARDED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_in_any_thread_triggers_every_guarded_signal() {
        let stops = [ShutdownSignal::default(), ShutdownSignal::default(), ShutdownSignal::default()];
        let dropped = PanicGuard::new(stops[0].clone());
        let guards = [PanicGuard::new(stops[1].clone()), PanicGuard::new(stops[2].clone())];
        drop(dropped);
        assert!(guards[0].panic().is_none());
        let panicking = std::thread::Builder::new().name("monitor".into());
        assert!(panicking.spawn(|| panic!("no\u{1b}[2J such\nrow")).unwrap().join().is_err());
        assert_eq!(
            stops.map(|stop| stop.is_requested()),
            [false, true, true],
            "a dropped guard has no effect"
        );
        let why = guards[0].panic().unwrap();
        assert_eq!(why.exit_code(), ExitCode::Panicked);
        let why = why.to_string();
        assert!(why.contains("thread `monitor` panicked at ") && why.contains("panics.rs:"), "{why}");
        assert!(why.contains(r"no\u{1b}[2J such\nrow"), "escaped, and on one line: {why}");
        drop(guards);
        assert!(super::guarded().is_empty());
        assert!(std::panic::catch_unwind(|| panic!("no guard")).is_err());
        assert!(!FIRST_PANIC.get().unwrap().contains("no guard"));
    }
}
