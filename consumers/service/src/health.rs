//! Live, ready and lagging are three different things. A stage says each of them itself.
//!
//! - *ready*: it waits for nothing
//! - *live*: its loop turns, also while it waits; and if it is ready, it makes progress
//! - how far it is behind is seen from outside: [`crate::lag`]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::NotReadyReason;

/// A stage that says it is ready looks around at least ten times a second. After this long without, it hangs.
const STUCK: Duration = Duration::from_secs(60);
/// A stage that waits tries again every few seconds, and no single call to what it waits for takes longer than a minute.
/// After this long without a sign of life it hangs, whatever it says.
const SILENT: Duration = Duration::from_secs(150);

/// Reasons that an onlooker sees: the stage itself waits for nothing.
const SEEN: [NotReadyReason; 1] = [NotReadyReason::HeldBack];

/// What a stage says of itself. Cheap to clone and to update.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stage: String,
    started: Instant,
    /// Why the stage is not ready, by what is wrong. Empty: ready.
    reasons: Mutex<BTreeMap<NotReadyReason, String>>,
    /// Milliseconds since `started` at which it last made progress.
    progress: AtomicU64,
    /// Milliseconds since `started` of its last sign of life.
    alive: AtomicU64,
    records: AtomicU64,
    rejects: AtomicU64,
}

/// A moment's view of a stage's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stage.
    pub stage: String,
    /// Why it is not ready; empty: ready.
    pub not_ready: BTreeMap<NotReadyReason, String>,
    /// Since it last made progress: finished a batch, or looked and found nothing to do.
    pub since_progress: Duration,
    /// Since its loop last turned, or it said anything else.
    pub since_alive: Duration,
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
            alive: AtomicU64::new(0),
            records: AtomicU64::new(0),
            rejects: AtomicU64::new(0),
        }));
        health.set_not_ready(NotReadyReason::Starting, "no partitions assigned yet");
        health
    }

    /// Says why the stage is not ready. `what` names the trouble, so that [`Self::clear`] ends just this one.
    pub fn set_not_ready(&self, what: NotReadyReason, why: impl Into<String>) {
        self.heartbeat();
        let why = why.into();
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.get(&what) != Some(&why) {
            tracing::warn!(stage = self.0.stage, what = what.as_str(), why, "not ready");
            reasons.insert(what, why);
        }
    }

    /// Sets, or clears, a reason that an onlooker sees: no sign of life of the stage, and it may hang all the same.
    pub(crate) fn seen(&self, what: NotReadyReason, why: Option<String>) {
        debug_assert!(SEEN.contains(&what));
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) if reasons.get(&what) != Some(&why) => {
                tracing::warn!(stage = self.0.stage, what = what.as_str(), why, "not ready");
                reasons.insert(what, why);
            }
            Some(_) => {}
            None => {
                if reasons.remove(&what).is_some() {
                    tracing::info!(stage = self.0.stage, what = what.as_str(), "over");
                }
            }
        }
    }

    /// A sign of life: the loop turns, although there may be nothing to say.
    pub fn heartbeat(&self) {
        self.0.alive.store(self.now(), Ordering::Relaxed);
    }

    /// Ends one trouble.
    pub fn clear(&self, what: NotReadyReason) {
        self.heartbeat();
        let mut reasons = self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.remove(&what).is_some() && reasons.is_empty() {
            tracing::info!(stage = self.0.stage, "ready");
        }
    }

    /// Says that the stage has made progress by so many records, of which so many were rejected. Call it with zeroes
    /// when it looked and there was nothing to do.
    pub fn record_progress(&self, records: u64, rejects: u64) {
        self.heartbeat();
        self.0.progress.store(self.now(), Ordering::Relaxed);
        self.0.records.fetch_add(records, Ordering::Relaxed);
        self.0.rejects.fetch_add(rejects, Ordering::Relaxed);
    }

    /// This moment's view.
    pub fn snapshot(&self) -> Snapshot {
        let since = |moment: &AtomicU64| {
            self.0.started.elapsed().saturating_sub(Duration::from_millis(moment.load(Ordering::Relaxed)))
        };
        Snapshot {
            stage: self.0.stage.clone(),
            not_ready: self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            since_progress: since(&self.0.progress),
            since_alive: since(&self.0.alive),
            records: self.0.records.load(Ordering::Relaxed),
            rejects: self.0.rejects.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds since it started.
    fn now(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Snapshot {
    /// Why the stage is not live, if so. One that says why it is not ready waits for something, and restarting it helps
    /// nobody; one that is ready without progress, or gives no sign of life at all, hangs.
    pub fn hangs(&self) -> Option<String> {
        let waits = self.not_ready.keys().any(|what| !SEEN.contains(what));
        if !waits && self.since_progress > STUCK {
            Some(format!("ready, but no progress for {:.0?}", self.since_progress))
        } else if self.since_alive > SILENT {
            Some(format!("no sign of life for {:.0?}", self.since_alive))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_trouble_is_left() {
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
    fn waiting_is_not_hanging() {
        let mut stage = Health::new("evaluator").snapshot();
        stage.since_progress = STUCK * 2;
        assert_eq!(stage.hangs(), None, "it says what it waits for");
        stage.since_alive = SILENT + Duration::from_secs(1);
        assert!(stage.hangs().is_some(), "it said so long ago, and nothing since");
        stage.since_alive = Duration::ZERO;
        stage.not_ready.clear();
        assert!(stage.hangs().is_some(), "it waits for nothing");
        stage.not_ready.insert(NotReadyReason::HeldBack, "an open transaction".into());
        assert!(stage.hangs().is_some(), "an onlooker speaks, it does not");
        stage.since_progress = STUCK;
        assert_eq!(stage.hangs(), None);
    }

    #[test]
    fn whatever_a_stage_says_is_a_sign_of_life() {
        let says: [fn(&Health); 4] = [
            |health| health.set_not_ready(NotReadyReason::Registry, "away"),
            |health| health.clear(NotReadyReason::Registry),
            |health| health.record_progress(0, 0),
            Health::heartbeat,
        ];
        for say in says {
            let health = Health::new("evaluator");
            std::thread::sleep(Duration::from_millis(20));
            let before = health.snapshot().since_alive;
            say(&health);
            assert!(health.snapshot().since_alive < before);
        }
    }
}
