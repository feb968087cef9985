//! The open alert windows of one partition.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agentgov_schemas::Millis;
use agentgov_schemas::verdict::Origin;

/// Grouping key of alerts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlertKey {
    pub tenant_id: String,
    pub session_id: String,
    pub policy: String,
}

/// An open alert: violations of its key are revisions of it until it closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub alert_id: String,
    pub revision: i32,
    pub opened_at: Millis,
    /// Origin of the action that opened the alert.
    pub first: OwnedOrigin,
}

/// Owned copy of an [`Origin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedOrigin {
    topic: String,
    partition: i32,
    offset: i64,
    logged_at: Millis,
}

impl OwnedOrigin {
    /// Returns the origin in the form that records use.
    pub fn origin(&self) -> Origin<'_> {
        let Self { topic, partition, offset, logged_at } = self;
        Origin { topic, partition: *partition, offset: *offset, logged_at: *logged_at }
    }
}

impl From<Origin<'_>> for OwnedOrigin {
    fn from(Origin { topic, partition, offset, logged_at }: Origin<'_>) -> Self {
        Self { topic: topic.to_owned(), partition, offset, logged_at }
    }
}

/// Open alerts, with an index by their opening.
#[derive(Debug, Default)]
pub struct Windows {
    open: HashMap<Arc<AlertKey>, Window>,
    by_opening: BTreeSet<(Millis, Arc<AlertKey>)>,
}

impl Windows {
    pub fn get(&self, key: &AlertKey) -> Option<&Window> {
        self.open.get(key)
    }

    /// Returns the tenants of the open alerts, once for each alert.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(|key| key.tenant_id.as_str())
    }

    /// Opens an alert, or replaces it by its next revision. Returns the previous revision.
    pub fn insert(&mut self, key: Arc<AlertKey>, window: Window) -> Option<Window> {
        let opened_at = window.opened_at;
        let previous = self.open.insert(Arc::clone(&key), window);
        let previous_opened_at = previous.as_ref().map(|previous| previous.opened_at);
        if previous_opened_at != Some(opened_at) {
            if let Some(previous_opened_at) = previous_opened_at {
                self.by_opening.remove(&(previous_opened_at, Arc::clone(&key)));
            }
            self.by_opening.insert((opened_at, key));
        }
        previous
    }

    pub fn remove(&mut self, key: &AlertKey) -> Option<Window> {
        let (key, window) = self.open.remove_entry(key)?;
        self.by_opening.remove(&(window.opened_at, key));
        Some(window)
    }

    /// Closes and returns the alerts that were opened more than `length` before `now`. The alerter calls this for each
    /// verdict, so that the open alerts depend on the records alone and not on the batches.
    pub fn close_before(&mut self, now: Millis, length: Duration) -> Vec<(Arc<AlertKey>, Window)> {
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let mut closed = Vec::new();
        let is_over = |opened_at: Millis| now.0.saturating_sub(opened_at.0) > length;
        while self.by_opening.first().is_some_and(|(opened_at, _)| is_over(*opened_at)) {
            let Some((_, key)) = self.by_opening.pop_first() else { break };
            closed.extend(self.open.remove_entry(&key));
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(policy: &str) -> Arc<AlertKey> {
        Arc::new(AlertKey { tenant_id: "t".into(), session_id: "s".into(), policy: policy.into() })
    }

    fn window(opened_at: i64, revision: i32) -> Window {
        Window {
            alert_id: "a".into(),
            revision,
            opened_at: Millis(opened_at),
            first: Origin { topic: "v", partition: 0, offset: 0, logged_at: Millis(0) }.into(),
        }
    }

    #[test]
    fn window_older_than_its_length_closes_and_others_stay_open() {
        let mut windows = Windows::default();
        windows.insert(key("a"), window(100, 0));
        windows.insert(key("b"), window(200, 0));
        windows.insert(key("a"), window(100, 1));
        let length = Duration::from_millis(50);
        assert!(
            windows.close_before(Millis(150), length).is_empty(),
            "at exactly its length a window is open"
        );
        assert_eq!(windows.close_before(Millis(151), length), [(key("a"), window(100, 1))]);
        assert!(windows.get(&key("a")).is_none() && windows.get(&key("b")).is_some());
        windows.insert(key("b"), window(300, 0));
        assert!(
            windows.close_before(Millis(330), length).is_empty(),
            "the opening of the replaced window no longer counts"
        );
    }
}
