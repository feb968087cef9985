//! The sessions of one partition, with an index by the time of their last event.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agentgov_enrichment::Session;
use agentgov_schemas::Millis;
use slab::Slab;

use crate::basis::RecordedBasis;

/// Tenant id and session id.
pub type SessionName = (Arc<str>, Arc<str>);

/// State of the evaluator for one partition.
#[derive(Debug)]
pub struct Sessions {
    /// The partition.
    pub partition: i32,
    /// Refused bundles before this offset of governance.bundles have an alert already.
    pub bundles_announced: i64,
    /// The last recorded evaluation basis.
    pub basis: RecordedBasis,
    stored: Slab<StoredSession>,
    /// Slots of `stored` by tenant, then session. Two levels, so that a lookup allocates no key.
    by_tenant: HashMap<Arc<str>, HashMap<Arc<str>, usize>>,
    /// Sessions by a lower bound of their last event's time. The bound is raised only when it would expire the session,
    /// so that an event does not update the index.
    by_last_seen: BTreeSet<(Millis, SessionName)>,
    dirty: DirtySessions,
}

/// A session in its slot.
#[derive(Debug)]
pub struct StoredSession {
    /// The session's state.
    pub session: Session,
    /// Tenant id and session id.
    pub name: SessionName,
    slot: usize,
    /// Its time in [`Sessions::by_last_seen`].
    bound: Millis,
    is_dirty: bool,
}

/// The session of the event in process, borrowed from [`Sessions`].
#[derive(Debug)]
pub struct SessionEntry<'s> {
    /// The session.
    pub stored: &'s mut StoredSession,
    /// Sessions whose header is not written yet.
    pub dirty: &'s mut DirtySessions,
    /// True if the lookup inserted the session.
    pub is_new: bool,
}

/// Slots of sessions whose header the changelog does not have yet. A header changes with every event and is written once
/// per batch.
#[derive(Debug, Default)]
pub struct DirtySessions(Vec<usize>);

impl DirtySessions {
    /// Marks the header of `stored` as not written.
    pub fn mark(&mut self, stored: &mut StoredSession) {
        if !std::mem::replace(&mut stored.is_dirty, true) {
            self.0.push(stored.slot);
        }
    }
}

impl Sessions {
    /// Creates the empty state of a partition.
    pub fn new(partition: i32) -> Self {
        Self {
            partition,
            bundles_announced: 0,
            basis: RecordedBasis::default(),
            stored: Slab::new(),
            by_tenant: HashMap::new(),
            by_last_seen: BTreeSet::new(),
            dirty: DirtySessions::default(),
        }
    }

    /// Returns the session, and inserts it if it is new. `None` means that the index points to an empty slot, which is a
    /// bug.
    pub fn get_or_insert(
        &mut self,
        tenant_id: &str,
        session_id: &str,
        now: Millis,
    ) -> Option<SessionEntry<'_>> {
        let known = self.slot(tenant_id, session_id);
        let slot = known.unwrap_or_else(|| self.insert(tenant_id, session_id, now));
        let stored = self.stored.get_mut(slot)?;
        Some(SessionEntry { stored, dirty: &mut self.dirty, is_new: known.is_none() })
    }

    /// Empties the session's slot and leaves the index, so that [`Self::get_or_insert`] returns `None`.
    #[cfg(test)]
    pub fn corrupt(&mut self, tenant_id: &str, session_id: &str) {
        let slot = self.slot(tenant_id, session_id).unwrap();
        self.stored.remove(slot);
    }

    /// Inserts a session again that [`Self::take_expired`] returned.
    pub fn reinsert(&mut self, mut stored: StoredSession) {
        stored.slot = self.stored.vacant_key();
        self.index(&stored.name, stored.slot);
        stored.bound = stored.session.header().last_logged_at;
        self.by_last_seen.insert((stored.bound, stored.name.clone()));
        if stored.is_dirty {
            self.dirty.0.push(stored.slot);
        }
        self.stored.insert(stored);
    }

    /// Returns how many sessions there are.
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Returns whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Returns the session.
    pub fn get(&self, tenant_id: &str, session_id: &str) -> Option<&Session> {
        let slot = self.slot(tenant_id, session_id)?;
        self.stored.get(slot).map(|stored| &stored.session)
    }

    /// Returns the tenants that have sessions in this partition.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.by_tenant.keys().map(AsRef::as_ref)
    }

    fn slot(&self, tenant_id: &str, session_id: &str) -> Option<usize> {
        self.by_tenant.get(tenant_id)?.get(session_id).copied()
    }

    fn insert(&mut self, tenant_id: &str, session_id: &str, now: Millis) -> usize {
        let name: SessionName = (tenant_id.into(), session_id.into());
        let slot = self.stored.vacant_key();
        self.stored.insert(StoredSession {
            session: Session::new(),
            name: name.clone(),
            slot,
            bound: now,
            is_dirty: false,
        });
        self.index(&name, slot);
        self.by_last_seen.insert((now, name));
        slot
    }

    fn index(&mut self, (tenant_id, session_id): &SessionName, slot: usize) {
        self.by_tenant.entry(Arc::clone(tenant_id)).or_default().insert(Arc::clone(session_id), slot);
    }

    /// Calls `write` with each session whose header is not written, in the order in which they were marked.
    pub fn flush_headers<E>(
        &mut self,
        mut write: impl FnMut(&str, &str, &Session) -> Result<(), E>,
    ) -> Result<(), E> {
        for slot in self.dirty.0.drain(..) {
            // A session that was removed after it was marked has tombstones instead. Another session may use its slot:
            // write that one only if its own `is_dirty` is set.
            if let Some(stored) = self.stored.get_mut(slot).filter(|stored| stored.is_dirty) {
                stored.is_dirty = false;
                write(&stored.name.0, &stored.name.1, &stored.session)?;
            }
        }
        Ok(())
    }

    /// Returns the session, if it exists.
    pub fn get_mut(&mut self, tenant_id: &str, session_id: &str) -> Option<&mut Session> {
        let slot = self.slot(tenant_id, session_id)?;
        self.stored.get_mut(slot).map(|stored| &mut stored.session)
    }

    /// Removes and returns the session.
    pub fn remove(&mut self, tenant_id: &str, session_id: &str) -> Option<StoredSession> {
        let slots = self.by_tenant.get_mut(tenant_id)?;
        let slot = slots.remove(session_id)?;
        if slots.is_empty() {
            self.by_tenant.remove(tenant_id);
        }
        let stored = self.stored.try_remove(slot)?;
        let bound = (stored.bound, stored.name);
        self.by_last_seen.remove(&bound);
        Some(StoredSession { name: bound.1, ..stored })
    }

    /// Removes and returns one session that has expired by `now`. The evaluator calls this before each event until it
    /// returns `None`, so that the state depends on the records alone and not on the batches.
    pub fn take_expired(&mut self, now: Millis, ttl: Duration) -> Option<StoredSession> {
        let ttl_millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        loop {
            let (seen, _) = self.by_last_seen.first()?;
            if now.0.saturating_sub(seen.0) <= ttl_millis {
                return None;
            }
            let (seen, name) = self.by_last_seen.pop_first()?;
            let slot = self.slot(&name.0, &name.1);
            let Some(stored) = slot.and_then(|slot| self.stored.get_mut(slot)) else { continue };
            let session = &stored.session;
            let last = session.header().last_logged_at;
            // A vacant session, restored from leftover entries, has no time of its own and expires at once.
            if session.is_expired(now, ttl) || last <= seen && session.is_vacant() {
                return self.remove(&name.0, &name.1);
            }
            stored.bound = last;
            self.by_last_seen.insert((last, name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_millis(100);

    fn see(sessions: &mut Sessions, session: &str, at: i64) {
        sessions.get_or_insert("t", session, Millis(at));
        let header = agentgov_schemas::state::SessionHeader {
            started_at: Default::default(),
            last_logged_at: Millis(at),
            applied_through: 0,
            events: 1,
            tool_calls: 0,
            sources: vec![],
            facts: 0,
            bytes: 0,
            ended: false,
            limited: false,
        };
        sessions.get_mut("t", session).unwrap().restore_header(&header).unwrap();
    }

    fn expired(sessions: &mut Sessions, now: i64) -> Vec<String> {
        std::iter::from_fn(|| sessions.take_expired(Millis(now), TTL))
            .map(|stored| stored.name.1.to_string())
            .collect()
    }

    #[test]
    fn session_older_than_the_ttl_expires() {
        let mut sessions = Sessions::new(0);
        see(&mut sessions, "a", 0);
        see(&mut sessions, "b", 10);
        see(&mut sessions, "a", 50);
        assert!(expired(&mut sessions, 100).is_empty());
        assert_eq!(expired(&mut sessions, 111), ["b"], "a has a later event");
        assert!(expired(&mut sessions, 150).is_empty(), "an age of exactly the ttl is not expired");
        assert_eq!(expired(&mut sessions, 151), ["a"]);
        assert!(sessions.get_mut("t", "a").is_none() && sessions.get_mut("t", "b").is_none());
    }

    #[test]
    fn header_marked_twice_is_written_once_and_a_removed_session_not_at_all() {
        let mut sessions = Sessions::new(0);
        let mut mark = |name: &str| {
            let SessionEntry { stored, dirty, .. } = sessions.get_or_insert("t", name, Millis(0)).unwrap();
            dirty.mark(stored);
        };
        for name in ["a", "b", "a", "c"] {
            mark(name);
        }
        sessions.remove("t", "b");
        // This session takes the slot of the removed one.
        sessions.get_or_insert("t", "d", Millis(0));
        let mut flush = || {
            let mut written = Vec::new();
            let write = |_: &str, session_id: &str, _: &Session| {
                written.push(session_id.to_owned());
                Ok::<_, ()>(())
            };
            sessions.flush_headers(write).unwrap();
            written
        };
        assert_eq!(flush(), ["a", "c"]);
        assert!(flush().is_empty());
    }

    #[test]
    fn undone_step_leaves_the_sessions_as_they_were() {
        let mut sessions = Sessions::new(0);
        see(&mut sessions, "a", 0);
        let SessionEntry { stored, dirty, is_new } = sessions.get_or_insert("t", "a", Millis(0)).unwrap();
        assert!(!is_new);
        dirty.mark(stored);
        let expired = sessions.take_expired(Millis(200), TTL).unwrap();
        assert!(sessions.get_or_insert("t", "b", Millis(200)).unwrap().is_new);
        sessions.remove("t", "b");
        assert_eq!((sessions.tenants().count(), sessions.by_last_seen.len()), (0, 0));
        sessions.reinsert(expired);
        assert!(!sessions.get_or_insert("t", "a", Millis(200)).unwrap().is_new);
        let mut written = 0;
        sessions
            .flush_headers(|_, _, _| {
                written += 1;
                Ok::<_, ()>(())
            })
            .unwrap();
        assert_eq!(written, 1, "the header is still marked");
        assert_eq!(self::expired(&mut sessions, 200), ["a"]);
    }

    #[test]
    fn tenant_without_sessions_is_removed() {
        let mut sessions = Sessions::new(0);
        for (tenant_id, session_id) in [("t", "a"), ("t", "b"), ("u", "a")] {
            sessions.get_or_insert(tenant_id, session_id, Millis(0));
        }
        let mut tenants_without = |tenant_id: &str, session_id: &str| {
            sessions.remove(tenant_id, session_id);
            let mut tenants: Vec<_> = sessions.tenants().map(str::to_owned).collect();
            tenants.sort();
            tenants
        };
        assert_eq!(tenants_without("t", "a"), ["t", "u"]);
        assert_eq!(tenants_without("u", "a"), ["t"]);
        assert!(tenants_without("t", "b").is_empty());
    }

    #[test]
    fn removed_session_leaves_no_entry_in_the_index_of_times() {
        let mut sessions = Sessions::new(0);
        see(&mut sessions, "a", 0);
        see(&mut sessions, "b", 0);
        see(&mut sessions, "a", 50);
        assert_eq!(expired(&mut sessions, 120), ["b"], "the bound of the other session is raised");
        sessions.remove("t", "a");
        assert_eq!((sessions.len(), sessions.by_last_seen.len()), (0, 0));
    }

    #[test]
    fn session_without_events_expires() {
        let mut sessions = Sessions::new(0);
        sessions.get_or_insert("t", "left over", Millis(0));
        assert_eq!(expired(&mut sessions, 1000), ["left over"]);
    }
}
