//! Live, ready and lagging are three different things. A stage says each of them itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a stage says of itself. Cheap to clone and to update.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stage: String,
    started: Instant,
    /// Why the stage is not ready, by what is wrong. Empty: ready.
    reasons: Mutex<BTreeMap<&'static str, String>>,
    /// Milliseconds since `started` at which it last made progress.
    progress: AtomicU64,
    records: AtomicU64,
    rejects: AtomicU64,
}

/// A moment's view of a stage's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stage.
    pub stage: String,
    /// Why it is not ready; empty: ready.
    pub not_ready: BTreeMap<&'static str, String>,
    /// Since it last made progress: finished a batch, or looked and found nothing to do.
    pub since_progress: Duration,
    /// Records processed by this process.
    pub records: u64,
    /// Records rejected by this process.
    pub rejects: u64,
}

impl Health {
    /// Health of a stage that has just started: live, not ready.
    pub fn new(stage: impl Into<String>) -> Self {
        let health = Self(Arc::new(Inner {
            stage: stage.into(),
            started: Instant::now(),
            reasons: Mutex::default(),
            progress: AtomicU64::new(0),
            records: AtomicU64::new(0),
            rejects: AtomicU64::new(0),
        }));
        health.not_ready("starting", "no partitions assigned yet");
        health
    }

    /// Says why the stage is not ready. `what` names the trouble, so that [`Self::clear`] ends just this one.
    pub fn not_ready(&self, what: &'static str, why: impl Into<String>) {
        let why = why.into();
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.get(what) != Some(&why) {
            tracing::warn!(stage = self.0.stage, what, why, "not ready");
            reasons.insert(what, why);
        }
    }

    /// Ends one trouble.
    pub fn clear(&self, what: &'static str) {
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.remove(what).is_some() && reasons.is_empty() {
            tracing::info!(stage = self.0.stage, "ready");
        }
    }

    /// Says that the stage has made progress by so many records, of which so many were rejected. Call it with zeroes
    /// when it looked and there was nothing to do.
    pub fn progress(&self, records: u64, rejects: u64) {
        let since_start = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.progress.store(since_start, Ordering::Relaxed);
        self.0.records.fetch_add(records, Ordering::Relaxed);
        self.0.rejects.fetch_add(rejects, Ordering::Relaxed);
    }

    /// This moment's view.
    pub fn snapshot(&self) -> Snapshot {
        let progress = Duration::from_millis(self.0.progress.load(Ordering::Relaxed));
        Snapshot {
            stage: self.0.stage.clone(),
            not_ready: self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            since_progress: self.0.started.elapsed().saturating_sub(progress),
            records: self.0.records.load(Ordering::Relaxed),
            rejects: self.0.rejects.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_trouble_is_left() {
        let health = Health::new("evaluator");
        assert!(health.snapshot().not_ready.contains_key("starting"));
        health.not_ready("registry", "away");
        health.clear("starting");
        assert_eq!(health.snapshot().not_ready.len(), 1);
        health.clear("registry");
        health.progress(10, 1);
        let now = health.snapshot();
        assert!(now.not_ready.is_empty() && (now.records, now.rejects) == (10, 1));
    }
}
