//! Faults of the log of decisions: while decisions cannot be recorded every call is denied, so the process is not ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time after the last fault until the process is ready again: only further questions show whether the fault persists.
const FAULT_TIME: Duration = Duration::from_secs(10);
/// Minimum time between two lines of the process's own log.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reason why a decision was not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRecorded {
    /// The log takes no decision at present, for example because its disk is full.
    Log(String),
    /// The log takes other decisions, but not this one.
    Decision(String),
}

impl NotRecorded {
    /// Returns the text.
    pub fn reason(&self) -> &str {
        match self {
            Self::Log(reason) | Self::Decision(reason) => reason,
        }
    }
}

/// Faults of the log since the last decision that was recorded.
#[derive(Debug, Default)]
pub(super) struct RecordingFaults {
    has_fault: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Time and text of the last fault of the log.
    last: Option<(Instant, String)>,
    reported_at: Option<Instant>,
    /// Decisions that were not recorded since the last line.
    unreported: u64,
}

impl RecordingFaults {
    /// Notes a decision that was recorded.
    pub(super) fn recorded(&self) {
        // Almost every decision takes no lock.
        if self.has_fault.load(Ordering::Acquire) {
            let mut state = self.lock();
            state.last = None;
            self.has_fault.store(false, Ordering::Release);
        }
    }

    /// Notes a decision that was not recorded. Returns the number of such decisions since the last line if a line is due.
    pub(super) fn failed(&self, fault: &NotRecorded, now: Instant) -> Option<u64> {
        let mut state = self.lock();
        if let NotRecorded::Log(reason) = fault {
            state.last = Some((now, reason.clone()));
            self.has_fault.store(true, Ordering::Release);
        }
        state.unreported += 1;
        if state.reported_at.is_some_and(|at| now.saturating_duration_since(at) < REPORT_INTERVAL) {
            return None;
        }
        state.reported_at = Some(now);
        Some(std::mem::take(&mut state.unreported))
    }

    /// Returns the fault for which the process is not ready.
    pub(super) fn current(&self, now: Instant) -> Option<String> {
        let state = self.lock();
        let (at, reason) = state.last.as_ref()?;
        (now.saturating_duration_since(*at) < FAULT_TIME).then(|| reason.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_of_the_log_lasts_until_a_decision_is_recorded_or_nobody_asks() {
        let (faults, began) = (RecordingFaults::default(), Instant::now());
        let disk = NotRecorded::Log("the disk is full".to_owned());
        assert_eq!(faults.current(began), None);
        faults.failed(&disk, began);
        assert_eq!(faults.current(began).as_deref(), Some("the disk is full"));
        faults.recorded();
        assert_eq!(faults.current(began), None);
        faults.failed(&disk, began);
        assert_eq!(faults.current(began + FAULT_TIME), None);
        // A caller must not make the process unready by a decision that is too large.
        let faults = RecordingFaults::default();
        faults.failed(&NotRecorded::Decision("too large".to_owned()), began);
        assert_eq!(faults.current(began), None);
    }

    #[test]
    fn failures_are_logged_once_a_second_with_their_number() {
        let (faults, began) = (RecordingFaults::default(), Instant::now());
        let disk = NotRecorded::Log("the disk is full".to_owned());
        let failed = |millis| faults.failed(&disk, began + Duration::from_millis(millis));
        assert_eq!(
            [0, 1, 999, 1_000, 1_001, 2_500].map(failed),
            [Some(1), None, None, Some(3), None, Some(2)]
        );
    }
}
