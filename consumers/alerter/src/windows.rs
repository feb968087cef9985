//! The open alerts of one partition.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agentgov_schemas::Millis;
use agentgov_schemas::verdict::Origin;

/// What an alert is about: tenant, session, policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    pub tenant_id: String,
    pub session_id: String,
    pub policy: String,
}

/// An open alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub alert_id: String,
    pub revision: i32,
    pub opened_at: Millis,
    /// The action that opened it.
    pub first: FirstOrigin,
}

/// Where the action stands that opened an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstOrigin {
    topic: String,
    partition: i32,
    offset: i64,
    logged_at: Millis,
}

impl FirstOrigin {
    /// As records have it.
    pub fn origin(&self) -> Origin<'_> {
        let Self { topic, partition, offset, logged_at } = self;
        Origin { topic, partition: *partition, offset: *offset, logged_at: *logged_at }
    }
}

impl From<Origin<'_>> for FirstOrigin {
    fn from(Origin { topic, partition, offset, logged_at }: Origin<'_>) -> Self {
        Self { topic: topic.to_owned(), partition, offset, logged_at }
    }
}

/// Open alerts, and when each closes.
#[derive(Debug, Default)]
pub struct Windows {
    open: HashMap<Arc<Subject>, Window>,
    by_opening: BTreeSet<(Millis, Arc<Subject>)>,
}

impl Windows {
    pub fn get(&self, subject: &Subject) -> Option<&Window> {
        self.open.get(subject)
    }

    /// The tenants that have open alerts, each once an alert.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.open.keys().map(|subject| subject.tenant_id.as_str())
    }

    /// Opens an alert, or puts its next revision in its place. Returns the one before.
    pub fn put(&mut self, subject: Arc<Subject>, window: Window) -> Option<Window> {
        let opened_at = window.opened_at;
        let before = self.open.insert(Arc::clone(&subject), window);
        let before_at = before.as_ref().map(|before| before.opened_at);
        if before_at != Some(opened_at) {
            if let Some(before_at) = before_at {
                self.by_opening.remove(&(before_at, Arc::clone(&subject)));
            }
            self.by_opening.insert((opened_at, subject));
        }
        before
    }

    pub fn remove(&mut self, subject: &Subject) -> Option<Window> {
        let (subject, window) = self.open.remove_entry(subject)?;
        self.by_opening.remove(&(window.opened_at, subject));
        Some(window)
    }

    /// Closes and returns the alerts that were opened more than `length` before `now`. Called for each record, so that
    /// what is open depends on the records alone, not on how they came in batches.
    pub fn close_before(&mut self, now: Millis, length: Duration) -> Vec<(Arc<Subject>, Window)> {
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let mut closed = Vec::new();
        let is_over = |opened_at: Millis| now.0.saturating_sub(opened_at.0) > length;
        while self.by_opening.first().is_some_and(|(opened_at, _)| is_over(*opened_at)) {
            let Some((_, subject)) = self.by_opening.pop_first() else { break };
            closed.extend(self.open.remove_entry(&subject));
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(policy: &str) -> Arc<Subject> {
        Arc::new(Subject { tenant_id: "t".into(), session_id: "s".into(), policy: policy.into() })
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
    fn closes_what_is_older_than_its_length_and_nothing_else() {
        let mut windows = Windows::default();
        windows.put(subject("a"), window(100, 0));
        windows.put(subject("b"), window(200, 0));
        windows.put(subject("a"), window(100, 1));
        let length = Duration::from_millis(50);
        assert!(windows.close_before(Millis(150), length).is_empty(), "exactly at its end it is open");
        assert_eq!(windows.close_before(Millis(151), length), [(subject("a"), window(100, 1))]);
        assert!(windows.get(&subject("a")).is_none() && windows.get(&subject("b")).is_some());
        windows.put(subject("b"), window(300, 0));
        assert!(
            windows.close_before(Millis(330), length).is_empty(),
            "the new window counts, not the one it replaced"
        );
    }
}
