//! The sessions of one partition, and when each expires.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agentgov_enrichment::Session;
use agentgov_schemas::Millis;
use slab::Slab;

/// Tenant and session.
pub type Name = (Arc<str>, Arc<str>);

/// What the evaluator knows of one partition.
#[derive(Debug)]
pub struct Sessions {
    /// The partition.
    pub partition: i32,
    /// Refused bundles before this offset of governance.bundles have been announced.
    pub bundles_announced: i64,
    kept: Slab<Kept>,
    /// Where in `kept`, by tenant, then session: looked up without building a key.
    by_tenant: HashMap<Arc<str>, HashMap<Arc<str>, usize>>,
    /// When each session was last seen, or earlier: looked at anew when its turn comes, so that a record costs nothing here.
    by_age: BTreeSet<(Millis, Name)>,
    unsaid: Unsaid,
}

/// A session, as it is kept.
#[derive(Debug)]
pub struct Kept {
    /// What is kept.
    pub session: Session,
    /// Tenant and session.
    pub name: Name,
    place: usize,
    is_unsaid: bool,
}

/// The session of a record in work.
#[derive(Debug)]
pub struct Stepped<'s> {
    /// The session.
    pub kept: &'s mut Kept,
    /// Sessions whose header is still to be written.
    pub unsaid: &'s mut Unsaid,
    /// True if nothing was known of it: this record makes it.
    pub is_new: bool,
}

/// Sessions whose header the changelog must still be told of. It changes with every event, and is said once a batch.
#[derive(Debug, Default)]
pub struct Unsaid(Vec<usize>);

impl Unsaid {
    /// The header of `kept` is to be said.
    pub fn add(&mut self, kept: &mut Kept) {
        if !std::mem::replace(&mut kept.is_unsaid, true) {
            self.0.push(kept.place);
        }
    }
}

impl Sessions {
    /// Of a partition of which nothing is known yet.
    pub fn new(partition: i32) -> Self {
        Self {
            partition,
            bundles_announced: 0,
            kept: Slab::new(),
            by_tenant: HashMap::new(),
            by_age: BTreeSet::new(),
            unsaid: Unsaid::default(),
        }
    }

    /// The session, made if it is new, and where to note that its header is to be said. `None` if it is not where it is known
    /// to be: an error of ours.
    pub fn to_step(&mut self, tenant_id: &str, session_id: &str, now: Millis) -> Option<Stepped<'_>> {
        let known = self.place(tenant_id, session_id);
        let place = known.unwrap_or_else(|| self.insert(tenant_id, session_id, now));
        let kept = self.kept.get_mut(place)?;
        Some(Stepped { kept, unsaid: &mut self.unsaid, is_new: known.is_none() })
    }

    /// Breaks what [`Self::to_step`] relies on.
    #[cfg(test)]
    pub fn lose(&mut self, tenant_id: &str, session_id: &str) {
        let place = self.place(tenant_id, session_id).unwrap();
        self.kept.remove(place);
    }

    /// Takes back a session that [`Self::to_step`] made at `now`.
    pub fn take_back_new(&mut self, tenant_id: &str, session_id: &str, now: Millis) {
        if let Some(Kept { name, .. }) = self.remove(tenant_id, session_id) {
            self.by_age.remove(&(now, name));
        }
    }

    /// Puts back a session that [`Self::take_expired`] gave.
    pub fn put_back(&mut self, mut kept: Kept) {
        kept.place = self.kept.vacant_key();
        self.register(&kept.name, kept.place);
        self.by_age.insert((kept.session.header().last_logged_at, kept.name.clone()));
        if kept.is_unsaid {
            self.unsaid.0.push(kept.place);
        }
        self.kept.insert(kept);
    }

    /// The tenants that have sessions here.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.by_tenant.keys().map(AsRef::as_ref)
    }

    fn place(&self, tenant_id: &str, session_id: &str) -> Option<usize> {
        self.by_tenant.get(tenant_id)?.get(session_id).copied()
    }

    fn insert(&mut self, tenant_id: &str, session_id: &str, now: Millis) -> usize {
        let name: Name = (tenant_id.into(), session_id.into());
        let place = self.kept.vacant_key();
        self.kept.insert(Kept { session: Session::new(), name: name.clone(), place, is_unsaid: false });
        self.register(&name, place);
        self.by_age.insert((now, name));
        place
    }

    fn register(&mut self, (tenant_id, session_id): &Name, place: usize) {
        self.by_tenant.entry(Arc::clone(tenant_id)).or_default().insert(Arc::clone(session_id), place);
    }

    /// Calls `say` with each session whose header is to be said, in the order in which they were noted.
    pub fn say_headers<E>(
        &mut self,
        mut say: impl FnMut(&str, &str, &Session) -> Result<(), E>,
    ) -> Result<(), E> {
        for place in self.unsaid.0.drain(..) {
            // One that has been forgotten meanwhile has its tombstone. What was put into its place says for itself whether it
            // is to be said.
            if let Some(kept) = self.kept.get_mut(place).filter(|kept| kept.is_unsaid) {
                kept.is_unsaid = false;
                say(&kept.name.0, &kept.name.1, &kept.session)?;
            }
        }
        Ok(())
    }

    /// The session, if it is kept.
    pub fn get_mut(&mut self, tenant_id: &str, session_id: &str) -> Option<&mut Session> {
        let place = self.place(tenant_id, session_id)?;
        self.kept.get_mut(place).map(|kept| &mut kept.session)
    }

    /// Forgets the session.
    pub fn remove(&mut self, tenant_id: &str, session_id: &str) -> Option<Kept> {
        let of_tenant = self.by_tenant.get_mut(tenant_id)?;
        let place = of_tenant.remove(session_id)?;
        if of_tenant.is_empty() {
            self.by_tenant.remove(tenant_id);
        }
        self.kept.try_remove(place)
    }

    /// Removes and returns one session that has expired by `now`. Called for each record until it returns `None`: what
    /// is known depends on the records alone, not on how they came in batches.
    pub fn take_expired(&mut self, now: Millis, ttl: Duration) -> Option<Kept> {
        let ttl_millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        loop {
            let (seen, _) = self.by_age.first()?;
            if now.0.saturating_sub(seen.0) <= ttl_millis {
                return None;
            }
            let (seen, name) = self.by_age.pop_first()?;
            let Some(session) = self.get_mut(&name.0, &name.1) else { continue };
            let last = session.header().last_logged_at;
            // A session that no event was applied to, restored from leftovers, has no time of its own.
            if session.is_expired(now, ttl) || last <= seen && session.events() == 0 {
                return self.remove(&name.0, &name.1);
            }
            self.by_age.insert((last, name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_millis(100);

    fn seen(sessions: &mut Sessions, session: &str, at: i64) {
        sessions.to_step("t", session, Millis(at));
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
            .map(|kept| kept.name.1.to_string())
            .collect()
    }

    #[test]
    fn a_session_expires_once_its_last_record_is_older_than_the_ttl() {
        let mut sessions = Sessions::new(0);
        seen(&mut sessions, "a", 0);
        seen(&mut sessions, "b", 10);
        seen(&mut sessions, "a", 50);
        assert!(expired(&mut sessions, 100).is_empty());
        assert_eq!(expired(&mut sessions, 111), ["b"], "a was seen since");
        assert!(expired(&mut sessions, 150).is_empty(), "exactly the ttl is not later");
        assert_eq!(expired(&mut sessions, 151), ["a"]);
        assert!(sessions.get_mut("t", "a").is_none() && sessions.get_mut("t", "b").is_none());
    }

    #[test]
    fn a_header_is_said_once_and_that_of_a_forgotten_session_is_not() {
        let mut sessions = Sessions::new(0);
        let mut note = |name: &str| {
            let Stepped { kept, unsaid, .. } = sessions.to_step("t", name, Millis(0)).unwrap();
            unsaid.add(kept);
        };
        for name in ["a", "b", "a", "c"] {
            note(name);
        }
        sessions.remove("t", "b");
        // It takes the place of the one that was forgotten.
        sessions.to_step("t", "d", Millis(0));
        let mut said = || {
            let mut said = Vec::new();
            let say = |_: &str, session_id: &str, _: &Session| {
                said.push(session_id.to_owned());
                Ok::<_, ()>(())
            };
            sessions.say_headers(say).unwrap();
            said
        };
        assert_eq!(said(), ["a", "c"]);
        assert!(said().is_empty());
    }

    #[test]
    fn a_step_that_is_taken_back_leaves_nothing_behind() {
        let mut sessions = Sessions::new(0);
        seen(&mut sessions, "a", 0);
        let Stepped { kept, unsaid, is_new } = sessions.to_step("t", "a", Millis(0)).unwrap();
        assert!(!is_new);
        unsaid.add(kept);
        let expired = sessions.take_expired(Millis(200), TTL).unwrap();
        assert!(sessions.to_step("t", "b", Millis(200)).unwrap().is_new);
        sessions.take_back_new("t", "b", Millis(200));
        assert_eq!((sessions.tenants().count(), sessions.by_age.len()), (0, 0));
        sessions.put_back(expired);
        assert!(!sessions.to_step("t", "a", Millis(200)).unwrap().is_new);
        let mut said = 0;
        sessions
            .say_headers(|_, _, _| {
                said += 1;
                Ok::<_, ()>(())
            })
            .unwrap();
        assert_eq!(said, 1, "its header is still to be said");
        assert_eq!(self::expired(&mut sessions, 200), ["a"]);
    }

    #[test]
    fn a_tenant_is_forgotten_with_its_last_session() {
        let mut sessions = Sessions::new(0);
        for (tenant_id, session_id) in [("t", "a"), ("t", "b"), ("u", "a")] {
            sessions.to_step(tenant_id, session_id, Millis(0));
        }
        let mut left = |tenant_id: &str, session_id: &str| {
            sessions.remove(tenant_id, session_id);
            let mut left: Vec<_> = sessions.tenants().map(str::to_owned).collect();
            left.sort();
            left
        };
        assert_eq!(left("t", "a"), ["t", "u"]);
        assert_eq!(left("u", "a"), ["t"]);
        assert!(left("t", "b").is_empty());
    }

    #[test]
    fn what_no_event_was_applied_to_does_not_stay_for_ever() {
        let mut sessions = Sessions::new(0);
        sessions.to_step("t", "left over", Millis(0));
        assert_eq!(expired(&mut sessions, 1000), ["left over"]);
    }
}
