//! A panic in any thread of a process that runs stages ends the process: with a reason, and the exit code that says so. Nothing
//! here panics by intent, but a library may. Without this, a stage's thread, an onlooker or a task of the health server
//! would end alone, and the rest would look alive.
//!
//! A panic asks each [`PanicGuard`] of the process to stop, so that the stages end in order. Where they do not end in time, as one of
//! them may wait for the thread that is gone, the process ends all the same.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::{ExitCode, ShutdownSignal, StageError};

/// How long stages may take to end after a panic: longer than an orderly stop takes.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the end of the stages is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The first panic of this process.
static FIRST: OnceLock<String> = OnceLock::new();
/// Who is asked to stop by a panic.
static WATCHES: Mutex<Vec<ShutdownSignal>> = Mutex::new(Vec::new());

/// Until it is dropped, a panic in any thread of this process asks its [`ShutdownSignal`]; if it is not dropped [in time](LIMIT)
/// then, the process ends.
#[derive(Debug)]
pub struct PanicGuard(ShutdownSignal);

impl PanicGuard {
    /// From now on.
    pub fn new(stop: ShutdownSignal) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if !seen(panic) {
                    before(panic);
                }
            }));
        });
        watches().push(stop.clone());
        Self(stop)
    }

    /// The first panic of this process, if there was one.
    pub fn panic(&self) -> Option<StageError> {
        FIRST.get().cloned().map(StageError::Panicked)
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        let mut watches = watches();
        if let Some(at) = watches.iter().position(|stop| stop.is(&self.0)) {
            watches.swap_remove(at);
        }
    }
}

/// What a panic does. False: nobody watches.
fn seen(panic: &PanicHookInfo<'_>) -> bool {
    let stops = watches().clone();
    if stops.is_empty() {
        return false;
    }
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let reason = worded(thread.name().unwrap_or("without a name"), &place, panic.payload());
    let _ = FIRST.set(reason.clone());
    stops.iter().for_each(ShutdownSignal::request);
    let end = || {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            std::thread::sleep(LOOK);
            if watches().is_empty() {
                return;
            }
        }
        // Without a word: the thread that is gone may hold what logging needs.
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

/// The reason, on one line: a message may have in it whatever a record has.
fn worded(thread: &str, place: &str, payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message").escape_debug();
    format!("thread `{thread}` panicked at {place}: {text}")
}

fn watches() -> std::sync::MutexGuard<'static, Vec<ShutdownSignal>> {
    WATCHES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_any_thread_stops_whoever_watches() {
        let stops = [ShutdownSignal::default(), ShutdownSignal::default(), ShutdownSignal::default()];
        let gone = PanicGuard::new(stops[0].clone());
        let watches = [PanicGuard::new(stops[1].clone()), PanicGuard::new(stops[2].clone())];
        drop(gone);
        assert!(watches[0].panic().is_none());
        let panicking = std::thread::Builder::new().name("onlooker".into());
        assert!(panicking.spawn(|| panic!("no\u{1b}[2J such\nrow")).unwrap().join().is_err());
        assert_eq!(
            stops.map(|stop| stop.is_requested()),
            [false, true, true],
            "who does not watch is left alone"
        );
        let why = watches[0].panic().unwrap();
        assert_eq!(why.exit_code(), ExitCode::Panicked);
        let why = why.to_string();
        assert!(why.contains("thread `onlooker` panicked at ") && why.contains("panics.rs:"), "{why}");
        assert!(why.contains(r"no\u{1b}[2J such\nrow"), "escaped, and on one line: {why}");
        drop(watches);
        assert!(super::watches().is_empty());
        assert!(std::panic::catch_unwind(|| panic!("nobody watches")).is_err());
        assert!(!FIRST.get().unwrap().contains("nobody watches"));
    }
}
