//! Decision tokens that calls of a session have used. Policies do not see them, so they change no decision.

use std::collections::BTreeSet;
use std::time::Duration;

use agentgov_schemas::Millis;
use agentgov_schemas::state::UsedToken;

use super::Change;

/// Maximum number of tokens that a session keeps.
const MAX_TOKENS: usize = 4096;
/// Time for which an expired token is kept, in milliseconds. Append times of a partition can decrease by the difference
/// of two brokers' clocks, and a token that is removed must stay expired.
const EXPIRY_MARGIN: i64 = 60_000;
/// Memory of a token besides its id, in bytes: an element of a B-tree whose nodes are at least half full.
const TOKEN_OVERHEAD: usize = 2 * size_of::<(Millis, Box<str>)>();

/// Result of [`UsedTokens::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// No earlier call of the session has used the token.
    First,
    /// An earlier call has used it.
    Repeated,
    /// The session has no room for the token, or may forget it while it is valid, so a later use would not be recognised.
    NotKept,
}

/// Used tokens by the end of their validity, then by id. A token is signed with both, so an id has one end.
#[derive(Clone, Debug, Default)]
pub(super) struct UsedTokens(BTreeSet<(Millis, Box<str>)>);

impl UsedTokens {
    /// Records the use of a token by a call logged at `now`, in a session that is forgotten `ttl` later. Removes tokens that
    /// expired before.
    pub fn insert(
        &mut self,
        token: &UsedToken<'_>,
        now: Millis,
        ttl: Duration,
        changes: &mut Vec<Change>,
    ) -> TokenUse {
        let is_expired = |(expires_at, _): &(Millis, Box<str>)| kept_until(*expires_at) <= now;
        while self.0.first().is_some_and(is_expired) {
            if let Some((expires_at, id)) = self.0.pop_first() {
                changes.push(Change::TokenRemoved { id: id.into(), expires_at });
            }
        }
        if self.0.contains(&(token.expires_at, token.id.into())) {
            return TokenUse::Repeated;
        }
        let forgotten_at = now.0.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        if self.0.len() >= MAX_TOKENS || kept_until(token.expires_at).0 > forgotten_at {
            return TokenUse::NotKept;
        }
        self.restore(token);
        changes.push(Change::Token { id: token.id.to_owned(), expires_at: token.expires_at });
        TokenUse::First
    }

    pub fn restore(&mut self, token: &UsedToken<'_>) {
        self.0.insert((token.expires_at, token.id.into()));
    }

    pub fn remove(&mut self, id: &str, expires_at: Millis) {
        self.0.remove(&(expires_at, id.into()));
    }

    /// Returns the estimated memory of the tokens, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.iter().map(|(_, id)| id.len() + TOKEN_OVERHEAD).sum()
    }

    /// Returns the token as the changelog has it.
    pub fn get(&self, id: &str, expires_at: Millis) -> Option<UsedToken<'_>> {
        let (expires_at, id) = self.0.get(&(expires_at, id.into()))?;
        Some(UsedToken { id, expires_at: *expires_at })
    }

    pub fn tombstones(&self) -> impl Iterator<Item = Change> {
        let removed = |(expires_at, id): &(Millis, Box<str>)| Change::TokenRemoved {
            id: id.to_string(),
            expires_at: *expires_at,
        };
        self.0.iter().map(removed)
    }
}

/// Returns the time from which on an expired token can be removed.
const fn kept_until(expires_at: Millis) -> Millis {
    Millis(expires_at.0.saturating_add(EXPIRY_MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_mins(10);

    fn token(id: &str, expires_at: i64) -> UsedToken<'_> {
        UsedToken { id, expires_at: Millis(expires_at) }
    }

    fn insert(tokens: &mut UsedTokens, id: &str, expires_at: i64, now: i64) -> (TokenUse, Vec<Change>) {
        let mut changes = Vec::new();
        (tokens.insert(&token(id, expires_at), Millis(now), TTL, &mut changes), changes)
    }

    #[test]
    fn second_use_of_a_token_is_repeated_and_changes_nothing() {
        let mut tokens = UsedTokens::default();
        let (first, changes) = insert(&mut tokens, "a", 1_000, 10);
        assert_eq!(first, TokenUse::First);
        assert_eq!(changes, [Change::Token { id: "a".into(), expires_at: Millis(1_000) }]);
        assert_eq!(insert(&mut tokens, "a", 1_000, 20), (TokenUse::Repeated, vec![]));
        assert_eq!(insert(&mut tokens, "b", 1_000, 20).0, TokenUse::First);
    }

    #[test]
    fn expired_token_is_removed_a_minute_later() {
        let mut tokens = UsedTokens::default();
        insert(&mut tokens, "a", 1_000, 10);
        assert_eq!(insert(&mut tokens, "b", 99_000, 60_999).1.len(), 1, "the margin has not passed");
        let removed = Change::TokenRemoved { id: "a".into(), expires_at: Millis(1_000) };
        assert_eq!(insert(&mut tokens, "c", 99_000, 61_000).1[0], removed);
        assert_eq!(tokens.tombstones().count(), 2);
        assert_eq!(tokens.get("a", Millis(1_000)), None);
    }

    #[test]
    fn full_session_has_no_room_until_tokens_expire() {
        let mut tokens = UsedTokens::default();
        let ids: Vec<String> = (0..MAX_TOKENS).map(|i| i.to_string()).collect();
        ids.iter().for_each(|id| tokens.restore(&token(id, 1_000)));
        assert_eq!(insert(&mut tokens, "more", 2_000, 10), (TokenUse::NotKept, vec![]));
        assert_eq!(insert(&mut tokens, "7", 1_000, 10).0, TokenUse::Repeated);
        assert_eq!(insert(&mut tokens, "more", 200_000, 100_000).0, TokenUse::First);
        assert_eq!(tokens.tombstones().count(), 1);
    }

    #[test]
    fn token_that_outlives_its_session_is_not_kept() {
        let mut tokens = UsedTokens::default();
        let last = 10 + 600_000 - EXPIRY_MARGIN;
        assert_eq!(insert(&mut tokens, "a", last + 1, 10), (TokenUse::NotKept, vec![]));
        assert_eq!(insert(&mut tokens, "b", i64::MAX, 10), (TokenUse::NotKept, vec![]));
        assert_eq!(insert(&mut tokens, "c", last, 10).0, TokenUse::First);
        assert_eq!(insert(&mut tokens, "c", last, 9).0, TokenUse::Repeated, "append times can decrease");
    }
}
