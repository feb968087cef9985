//! Definitions of the server's tools, as it listed them last. Each call states the digest of its tool's definition, so that a
//! definition that nobody has accepted is held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentgov_schemas::Digest;

/// Maximum number of tools whose definitions are kept.
const MAX_TOOLS: usize = 10_000;

/// Definitions by the names of the tools at their server.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    state: Mutex<State>,
    /// Held while the gateway lists the tools itself, so that it does so once.
    listing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    tools: BTreeMap<String, Listed>,
    /// Number of the current walk through the pages.
    walk: u64,
    /// Number of changes that the server has stated.
    generation: u64,
    /// Definitions that are recorded as not accepted.
    reported: BTreeSet<(String, Digest)>,
}

#[derive(Clone, Copy, Debug)]
struct Listed {
    digest: Digest,
    walk: u64,
}

impl Definitions {
    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other thread lists the tools.
    pub fn lock_listing(&self) -> MutexGuard<'_, ()> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the digest of a tool's definition, if the server has listed it.
    pub fn get(&self, name: &str) -> Option<Digest> {
        self.state().tools.get(name).map(|listed| listed.digest)
    }

    /// Returns the digest that stands for a tool which the server does not list, or lists in a form that no digest describes. Nobody
    /// can accept it, since it is of no JSON text.
    pub fn unknown() -> Digest {
        Digest::of(b"")
    }

    /// Begins a walk through the pages: the first page is next.
    pub fn begin_walk(&self) {
        self.state().walk += 1;
    }

    /// Returns the number of changes that the server has stated. A page that is asked for now has at least these.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Keeps the definition of a listed tool, unless its page was asked for in an earlier generation. Two definitions of a name in one walk leave none, since it is not known which tool a
    /// call would reach.
    pub fn put(&self, name: &str, digest: Digest, generation: u64) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        let walk = state.walk;
        let digest = match state.tools.get(name) {
            Some(listed) if listed.walk == walk && listed.digest != digest => Self::unknown(),
            None if state.tools.len() >= MAX_TOOLS => return,
            _ => digest,
        };
        state.tools.insert(name.to_owned(), Listed { digest, walk });
    }

    /// Forgets all definitions, since the server says that they have changed.
    pub fn clear(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.tools.clear();
    }

    /// Returns true if this definition was not reported before.
    pub fn report(&self, name: &str, digest: Digest) -> bool {
        let mut state = self.state();
        state.reported.len() < MAX_TOOLS && state.reported.insert((name.to_owned(), digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_definitions_of_a_name_in_one_walk_leave_none() {
        let definitions = Definitions::default();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        definitions.begin_walk();
        definitions.put("a", one, 0);
        definitions.put("a", one, 0);
        assert_eq!(definitions.get("a"), Some(one));
        definitions.put("a", two, 0);
        assert_eq!(definitions.get("a"), Some(Definitions::unknown()));
        definitions.begin_walk();
        definitions.put("a", two, 0);
        assert_eq!((definitions.get("a"), definitions.get("b")), (Some(two), None));
        assert!(
            definitions.report("a", two) && !definitions.report("a", two) && definitions.report("a", one)
        );
        definitions.clear();
        definitions.put("a", two, 0);
        assert_eq!(definitions.get("a"), None);
        definitions.put("a", two, definitions.generation());
        assert_eq!(definitions.get("a"), Some(two));
    }
}
