//! Liveness and readiness of a stage.
//!
//! - *ready*: the stage waits for nothing
//! - *live*: the loop of the stage runs, also while it waits; a ready stage makes progress
//!
//! [`crate::lag`] measures the lag, which a stage cannot see itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::NotReadyReason;

/// Maximum time without progress of a ready stage. A ready stage reports progress at least ten times a second.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time without a heartbeat. A waiting stage retries every few seconds, and no call to a dependency takes longer than a
/// minute.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(150);

/// Reasons that the lag monitor sets. The stage itself does not wait, so they do not excuse missing progress.
const MONITORED: [NotReadyReason; 1] = [NotReadyReason::HeldBack];

/// Health of a stage. Cheap to clone and to update.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stage: String,
    started: Instant,
    /// Reasons for which the stage is not ready, with explanations. Empty if it is ready.
    reasons: Mutex<BTreeMap<NotReadyReason, String>>,
    /// Time of the last progress, in milliseconds since `started`.
    progress: AtomicU64,
    /// Time of the last heartbeat, in milliseconds since `started`.
    heartbeat: AtomicU64,
    records: AtomicU64,
    rejects: AtomicU64,
}

/// Health of a stage at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stage.
    pub stage: String,
    /// Reasons for which the stage is not ready, with explanations. Empty if it is ready.
    pub not_ready: BTreeMap<NotReadyReason, String>,
    /// Time since the last progress: the stage finished a batch, or found nothing to do.
    pub since_progress: Duration,
    /// Time since the last heartbeat.
    pub since_alive: Duration,
    /// Records processed by this process.
    pub records: u64,
    /// Records rejected by this process.
    pub rejects: u64,
}

impl Health {
    /// Creates the health of a stage that has just started: live, and not ready.
    pub fn new(stage: impl Into<String>) -> Self {
        let health = Self(Arc::new(Inner {
            stage: stage.into(),
            started: Instant::now(),
            reasons: Mutex::default(),
            progress: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            records: AtomicU64::new(0),
            rejects: AtomicU64::new(0),
        }));
        health.set_not_ready(NotReadyReason::Starting, "no partitions assigned yet");
        health
    }

    /// Sets a reason for which the stage is not ready, with its explanation. [`Self::clear`] removes it.
    pub fn set_not_ready(&self, what: NotReadyReason, why: impl Into<String>) {
        self.heartbeat();
        let why = why.into();
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.get(&what) != Some(&why) {
            tracing::warn!(stage = self.0.stage, what = what.as_str(), why, "not ready");
            reasons.insert(what, why);
        }
    }

    /// Sets or clears a reason that the lag monitor observes. It is not a heartbeat of the stage.
    pub(crate) fn set_monitored(&self, what: NotReadyReason, why: Option<String>) {
        debug_assert!(MONITORED.contains(&what));
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) if reasons.get(&what) != Some(&why) => {
                tracing::warn!(stage = self.0.stage, what = what.as_str(), why, "not ready");
                reasons.insert(what, why);
            }
            Some(_) => {}
            None => {
                if reasons.remove(&what).is_some() {
                    tracing::info!(stage = self.0.stage, what = what.as_str(), "no longer applies");
                }
            }
        }
    }

    /// Records that the loop of the stage runs.
    pub fn heartbeat(&self) {
        self.0.heartbeat.store(self.now(), Ordering::Relaxed);
    }

    /// Removes a reason for which the stage is not ready.
    pub fn clear(&self, what: NotReadyReason) {
        self.heartbeat();
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.remove(&what).is_some() && reasons.is_empty() {
            tracing::info!(stage = self.0.stage, "ready");
        }
    }

    /// Records progress: the number of processed records, and the number of rejected ones among them. A stage that finds nothing
    /// to do calls it with zeroes.
    pub fn record_progress(&self, records: u64, rejects: u64) {
        self.heartbeat();
        self.0.progress.store(self.now(), Ordering::Relaxed);
        self.0.records.fetch_add(records, Ordering::Relaxed);
        self.0.rejects.fetch_add(rejects, Ordering::Relaxed);
    }

    /// Returns the current state.
    pub fn snapshot(&self) -> Snapshot {
        let since = |moment: &AtomicU64| {
            self.0.started.elapsed().saturating_sub(Duration::from_millis(moment.load(Ordering::Relaxed)))
        };
        Snapshot {
            stage: self.0.stage.clone(),
            not_ready: self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            since_progress: since(&self.0.progress),
            since_alive: since(&self.0.heartbeat),
            records: self.0.records.load(Ordering::Relaxed),
            rejects: self.0.rejects.load(Ordering::Relaxed),
        }
    }

    /// Returns the milliseconds since the start of the stage.
    fn now(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Snapshot {
    /// Returns the reason for which the stage is not live; `None` if it is live. A stage that is ready and makes no progress, or
    /// has no heartbeat, hangs. A stage that waits is live, since a restart would not help.
    pub fn hangs(&self) -> Option<String> {
        let waits = self.not_ready.keys().any(|what| !MONITORED.contains(what));
        if !waits && self.since_progress > PROGRESS_TIMEOUT {
            Some(format!("ready, but no progress for {:.0?}", self.since_progress))
        } else if self.since_alive > HEARTBEAT_TIMEOUT {
            Some(format!("no heartbeat for {:.0?}", self.since_alive))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_is_ready_when_no_reason_is_left() {
        let health = Health::new("evaluator");
        assert!(health.snapshot().not_ready.contains_key(&NotReadyReason::Starting));
        health.set_not_ready(NotReadyReason::Registry, "away");
        health.clear(NotReadyReason::Starting);
        assert_eq!(health.snapshot().not_ready.len(), 1);
        health.clear(NotReadyReason::Registry);
        health.record_progress(10, 1);
        let now = health.snapshot();
        assert!(now.not_ready.is_empty() && (now.records, now.rejects) == (10, 1));
    }

    #[test]
    fn waiting_stage_does_not_hang() {
        let mut stage = Health::new("evaluator").snapshot();
        stage.since_progress = PROGRESS_TIMEOUT * 2;
        assert_eq!(stage.hangs(), None, "it waits");
        stage.since_alive = HEARTBEAT_TIMEOUT + Duration::from_secs(1);
        assert!(stage.hangs().is_some(), "no heartbeat while it waits");
        stage.since_alive = Duration::ZERO;
        stage.not_ready.clear();
        assert!(stage.hangs().is_some(), "ready, without progress");
        stage.not_ready.insert(NotReadyReason::HeldBack, "an open transaction".into());
        assert!(stage.hangs().is_some(), "a monitored reason is no wait of the stage");
        stage.since_progress = PROGRESS_TIMEOUT;
        assert_eq!(stage.hangs(), None);
    }

    #[test]
    fn every_update_by_the_stage_is_a_heartbeat() {
        let updates: [fn(&Health); 4] = [
            |health| health.set_not_ready(NotReadyReason::Registry, "away"),
            |health| health.clear(NotReadyReason::Registry),
            |health| health.record_progress(0, 0),
            Health::heartbeat,
        ];
        for update in updates {
            let health = Health::new("evaluator");
            std::thread::sleep(Duration::from_millis(20));
            let before = health.snapshot().since_alive;
            update(&health);
            assert!(health.snapshot().since_alive < before);
        }
    }
}
