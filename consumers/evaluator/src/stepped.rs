//! Copies of sessions with their records ahead applied, so that each question applies only the records that are new since
//! the last one. A pure cache, of bounded size.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use agentgov_enrichment::Session;

use crate::sessions::SessionName;

/// Maximum size of the copies of a partition. Facts that a copy shares with the evaluator's session count as well.
const MAX_BYTES: usize = 8 << 20;
/// Size of a copy besides its facts, calls, sequence numbers and used tokens, in bytes.
const COPY_OVERHEAD: usize = 1_000;

/// A session that a replica returns.
#[derive(Debug)]
pub enum SessionRef<'r> {
    /// It has no records ahead.
    Base(&'r Session),
    /// A copy with its records ahead, or a new session.
    Copy(Arc<Session>),
}

impl Deref for SessionRef<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        match self {
            Self::Base(session) => session,
            Self::Copy(session) => session,
        }
    }
}

/// Cached copies of a partition's sessions.
#[derive(Debug, Default)]
pub(crate) struct SteppedSessions {
    cache: Mutex<Cache>,
    /// Records applied to copies.
    applied: AtomicU64,
}

#[derive(Debug, Default)]
struct Cache {
    copies: HashMap<SessionName, SteppedCopy>,
    bytes: usize,
}

#[derive(Debug)]
struct SteppedCopy {
    session: Arc<Session>,
    /// Position of the table of bundles by whose tools the records were applied.
    bundles: i64,
    /// Number of the first record that is not applied.
    next: u64,
    bytes: usize,
}

impl SteppedSessions {
    /// Returns the copy of a session, with the number of the first record that is not applied to it.
    pub fn get(&self, name: &SessionName, bundles: i64) -> Option<(Arc<Session>, u64)> {
        let cache = self.cache()?;
        let copy = cache.copies.get(name).filter(|copy| copy.bundles == bundles)?;
        Some((Arc::clone(&copy.session), copy.next))
    }

    /// Keeps the copy of a session, after `applied` records were applied to it. Drops all others if there is no room.
    pub fn put(&self, name: SessionName, bundles: i64, session: &Arc<Session>, next: u64, applied: u64) {
        self.applied.fetch_add(applied, Ordering::Relaxed);
        let bytes = session.copied_bytes().saturating_add(COPY_OVERHEAD);
        let Some(mut cache) = self.cache() else { return };
        if bytes > MAX_BYTES {
            return;
        }
        if cache.bytes.saturating_add(bytes) > MAX_BYTES {
            *cache = Cache::default();
        }
        let copy = SteppedCopy { session: Arc::clone(session), bundles, next, bytes };
        if let Some(replaced) = cache.copies.insert(name, copy) {
            cache.bytes = cache.bytes.saturating_sub(replaced.bytes);
        }
        cache.bytes = cache.bytes.saturating_add(bytes);
    }

    /// Drops all copies, since the evaluator's sessions have changed.
    pub fn clear(&mut self) {
        // A poisoned cache is not used any more.
        if let Ok(cache) = self.cache.get_mut()
            && !cache.copies.is_empty()
        {
            *cache = Cache::default();
        }
    }

    /// Returns the number of records that were applied to copies.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    fn cache(&self) -> Option<MutexGuard<'_, Cache>> {
        self.cache.lock().ok()
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Millis;
    use agentgov_schemas::state::{Numbers, UsedToken};

    use super::*;

    fn name(session_id: &str) -> SessionName {
        ("acme".into(), session_id.into())
    }

    #[test]
    fn copy_counts_for_its_bundles_until_it_is_dropped() {
        let mut copies = SteppedSessions::default();
        let session = Arc::new(Session::new());
        copies.put(name("a"), 3, &session, 7, 2);
        assert_eq!(copies.get(&name("a"), 3).map(|(_, next)| next), Some(7));
        assert!(copies.get(&name("a"), 4).is_none() && copies.get(&name("b"), 3).is_none());
        assert_eq!(copies.applied(), 2);
        copies.clear();
        assert!(copies.get(&name("a"), 3).is_none());
    }

    #[test]
    fn copies_are_bounded() {
        let copies = SteppedSessions::default();
        let session = Arc::new(Session::new());
        for number in 0..20_000 {
            copies.put(name(&number.to_string()), 0, &session, 0, 0);
            let cache = copies.cache().unwrap();
            assert!(cache.bytes <= MAX_BYTES && cache.copies.len() <= MAX_BYTES / COPY_OVERHEAD);
        }
        assert!(copies.get(&name("19999"), 0).is_some());
        copies.put(name("19999"), 0, &session, 5, 0);
        let cache = copies.cache().unwrap();
        assert_eq!(cache.bytes, cache.copies.len() * COPY_OVERHEAD, "a replaced copy is not counted");
    }

    #[test]
    fn sequence_numbers_and_used_tokens_count() {
        let mut numbers = Session::new();
        // A block restores the room of all blocks before it.
        numbers.restore_numbers(&Numbers { source: "p", block: 4_000, numbers: &[0; 16 * 24] }).unwrap();
        let mut tokens = Session::new();
        for id in 0..4_000 {
            tokens.restore_token(&UsedToken { id: &format!("{id:036}"), expires_at: Millis(1) });
        }
        for (session, least) in [(numbers, 4_000 * 16 * 24), (tokens, 4_000 * (36 + 24))] {
            let copies = SteppedSessions::default();
            let session = Arc::new(session);
            for number in 0..100 {
                copies.put(name(&number.to_string()), 0, &session, 0, 0);
                let cache = copies.cache().unwrap();
                assert!(cache.bytes <= MAX_BYTES && cache.bytes >= cache.copies.len() * least);
            }
        }
    }
}
