//! Copies of sessions with their records ahead applied, so that each question applies only the records that are new since
//! the last one. A pure cache, of bounded size.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use agentgov_enrichment::Session;
use agentgov_policy::Kernel;

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

/// Positions of the tables by which records are applied: tools extract facts, and approvals count by their keys and agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TablePositions {
    bundles: i64,
    keys: i64,
    agents: i64,
}

impl TablePositions {
    pub const fn of(kernel: &Kernel<'_>) -> Self {
        Self {
            bundles: kernel.bundles.next_offset(),
            keys: kernel.keys.next_offset(),
            agents: kernel.agents.next_offset(),
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
    /// Positions of the tables by which the records were applied.
    tables: TablePositions,
    /// Number of the first record that is not applied.
    next: u64,
    bytes: usize,
}

impl SteppedSessions {
    /// Returns the copy of a session, with the number of the first record that is not applied to it.
    pub fn get(&self, name: &SessionName, tables: TablePositions) -> Option<(Arc<Session>, u64)> {
        let cache = self.cache()?;
        let copy = cache.copies.get(name).filter(|copy| copy.tables == tables)?;
        Some((Arc::clone(&copy.session), copy.next))
    }

    /// Keeps the copy of a session, after `applied` records were applied to it. Drops all others if there is no room.
    pub fn put(
        &self,
        name: SessionName,
        tables: TablePositions,
        session: &Arc<Session>,
        next: u64,
        applied: u64,
    ) {
        self.applied.fetch_add(applied, Ordering::Relaxed);
        let bytes = session.copied_bytes().saturating_add(COPY_OVERHEAD);
        let Some(mut cache) = self.cache() else { return };
        if bytes > MAX_BYTES {
            return;
        }
        if cache.bytes.saturating_add(bytes) > MAX_BYTES {
            *cache = Cache::default();
        }
        let copy = SteppedCopy { session: Arc::clone(session), tables, next, bytes };
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

    const fn at(bundles: i64) -> TablePositions {
        TablePositions { bundles, keys: 0, agents: 0 }
    }

    fn name(session_id: &str) -> SessionName {
        ("acme".into(), session_id.into())
    }

    #[test]
    fn copy_counts_for_its_tables_until_it_is_dropped() {
        let mut copies = SteppedSessions::default();
        let session = Arc::new(Session::new());
        copies.put(name("a"), at(3), &session, 7, 2);
        assert_eq!(copies.get(&name("a"), at(3)).map(|(_, next)| next), Some(7));
        assert!(copies.get(&name("a"), at(4)).is_none() && copies.get(&name("b"), at(3)).is_none());
        for other in [TablePositions { keys: 1, ..at(3) }, TablePositions { agents: 1, ..at(3) }] {
            assert!(copies.get(&name("a"), other).is_none());
        }
        assert_eq!(copies.applied(), 2);
        copies.clear();
        assert!(copies.get(&name("a"), at(3)).is_none());
    }

    #[test]
    fn copies_are_bounded() {
        let copies = SteppedSessions::default();
        let session = Arc::new(Session::new());
        for number in 0..20_000 {
            copies.put(name(&number.to_string()), at(0), &session, 0, 0);
            let cache = copies.cache().unwrap();
            assert!(cache.bytes <= MAX_BYTES && cache.copies.len() <= MAX_BYTES / COPY_OVERHEAD);
        }
        assert!(copies.get(&name("19999"), at(0)).is_some());
        copies.put(name("19999"), at(0), &session, 5, 0);
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
                copies.put(name(&number.to_string()), at(0), &session, 0, 0);
                let cache = copies.cache().unwrap();
                assert!(cache.bytes <= MAX_BYTES && cache.bytes >= cache.copies.len() * least);
            }
        }
    }
}
