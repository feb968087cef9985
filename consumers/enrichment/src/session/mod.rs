//! State of one session of one tenant: counters, facts, calls, sequence numbers.

mod apply;
mod approvals;
mod digest;
mod seen;
mod store;
mod tokens;

use std::time::Duration;

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::state::{Call, Fact, Numbers, SessionHeader, StoredApproval, UsedToken};
use agentgov_schemas::verdict::Decision;
use agentgov_schemas::{Micros, Millis};

pub use apply::{ApplyOutcome, RefusedCall};
use approvals::Approvals;
pub use approvals::{Approval, ApprovalFault, MAX_APPROVALS};
use seen::SeenSequences;
pub use seen::{InvalidEntry, SequenceCheck};
use store::{FactValue, Store};
pub(crate) use store::{Facts, FactsOfKind, StoredCall};
pub use tokens::TokenUse;
use tokens::UsedTokens;

/// In-memory state of a session. The caller stores it by tenant and session id, and writes an entry to the changelog for each
/// [`Change`].
#[derive(Clone, Debug, Default)]
pub struct Session {
    started_at: Micros,
    last_logged_at: Millis,
    applied_through: i64,
    events: i64,
    tool_calls: i32,
    seen: SeenSequences,
    ended: bool,
    limited: bool,
    store: Store,
    tokens: UsedTokens,
    approvals: Approvals,
}

/// Entry of a session that the caller must write to the changelog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The header, from [`Session::header`].
    Header,
    /// A new or changed fact, from [`Session::fact`].
    Fact {
        /// Kind of the fact.
        kind: String,
        /// Key of the fact.
        key: String,
    },
    /// A new or answered call, from [`Session::call`].
    Call {
        /// Id of the call.
        call_id: String,
    },
    /// A full block of 16 sequence numbers that moved out of the header, from [`Session::numbers`].
    Numbers {
        /// Id of the source.
        source: String,
        /// Index of the block, from 0.
        block: i32,
    },
    /// A used decision token, from [`Session::token`].
    Token {
        /// Id of the decision.
        id: String,
        /// End of the token's validity.
        expires_at: Millis,
    },
    /// A new or changed approval, from [`Session::approval_entry`].
    Approval {
        /// Id of the approval.
        id: String,
    },
    /// Tombstone of a fact.
    FactRemoved {
        /// Kind of the fact.
        kind: String,
        /// Key of the fact.
        key: String,
    },
    /// Tombstone of a call.
    CallRemoved {
        /// Id of the call.
        call_id: String,
    },
    /// Tombstone of a block of sequence numbers.
    NumbersRemoved {
        /// Id of the source.
        source: String,
        /// Index of the block, from 0.
        block: i32,
    },
    /// Tombstone of an approval.
    ApprovalRemoved {
        /// Id of the approval.
        id: String,
    },
    /// Tombstone of a used decision token.
    TokenRemoved {
        /// Id of the decision.
        id: String,
        /// End of the token's validity.
        expires_at: Millis,
    },
}

impl Session {
    /// Creates an empty session.
    pub fn new() -> Self {
        Self::default()
    }

    /// Restores the header from the changelog. Facts and calls are counted again as they are restored.
    ///
    /// # Errors
    /// If no version of this code writes such a header.
    pub fn restore_header(&mut self, header: &SessionHeader<'_>) -> Result<(), InvalidEntry> {
        self.started_at = header.started_at;
        self.last_logged_at = header.last_logged_at;
        self.applied_through = header.applied_through;
        self.events = header.events;
        self.tool_calls = header.tool_calls;
        self.seen.restore_header(&header.sources)?;
        self.ended = header.ended;
        self.limited = header.limited;
        Ok(())
    }

    /// Restores a fact from the changelog. A value that is unreadable now was unreadable when it was stored.
    pub fn restore_fact(&mut self, fact: &Fact<'_>) {
        self.store.put_fact(fact.kind, fact.key, FactValue::parse(fact.value), fact.offset);
    }

    /// Restores a call from the changelog.
    pub fn restore_call(&mut self, call: &Call<'_>) {
        self.store.put_call(call);
    }

    /// Restores the tombstone of a fact: removes the fact.
    pub fn restore_fact_tombstone(&mut self, kind: &str, key: &str) {
        self.store.remove_fact(kind, key);
    }

    /// Restores the tombstone of a call: removes the call.
    pub fn restore_call_tombstone(&mut self, call_id: &str) {
        self.store.remove_call(call_id);
    }

    /// Restores a block of sequence numbers from the changelog.
    ///
    /// # Errors
    /// If no version of this code writes such numbers.
    pub fn restore_numbers(&mut self, numbers: &Numbers<'_>) -> Result<(), InvalidEntry> {
        self.seen.restore_block(numbers)
    }

    /// Restores the tombstone of a block of sequence numbers: removes the block.
    ///
    /// # Errors
    /// If no version of this code writes such a header.
    pub fn restore_numbers_tombstone(&mut self, source: &str, block: i32) -> Result<(), InvalidEntry> {
        self.seen.restore_block_tombstone(source, block)
    }

    /// Restores a used decision token from the changelog.
    pub fn restore_token(&mut self, token: &UsedToken<'_>) {
        self.tokens.restore(token);
    }

    /// Restores the tombstone of a used decision token: removes the token.
    pub fn restore_token_tombstone(&mut self, id: &str, expires_at: Millis) {
        self.tokens.remove(id, expires_at);
    }

    /// Restores an approval from the changelog.
    pub fn restore_approval(&mut self, approval: &StoredApproval<'_>) {
        self.approvals.restore(approval);
    }

    /// Restores the tombstone of an approval: removes the approval.
    pub fn restore_approval_tombstone(&mut self, id: &str) {
        self.approvals.remove(id);
    }

    /// Adds a request for an approval, logged at `now`. Returns the changed entries; none for a known id, an expired request, or
    /// in a session with [`MAX_APPROVALS`].
    pub fn ask_approval(&mut self, id: &str, approval: Approval, now: Millis) -> Vec<Change> {
        self.change_approvals(now, |approvals, changes| approvals.add(id, approval, now, changes))
    }

    /// Changes an approval by a decision about it, logged at `now`. Returns the changed entries; none for an unknown id.
    pub fn decide_approval(
        &mut self,
        id: &str,
        now: Millis,
        decide: impl FnOnce(&mut Approval),
    ) -> Vec<Change> {
        self.change_approvals(now, |approvals, changes| approvals.update(id, decide, changes))
    }

    /// Marks an approval as used by the call at `offset`, unless an earlier call has used it. Appends the changed entry. The call
    /// itself changes the header.
    pub fn use_approval(&mut self, id: &str, offset: i64, changes: &mut Vec<Change>) {
        if self.approvals.get(id).is_some_and(|approval| approval.used_at.is_none()) {
            self.approvals.update(id, |approval| approval.used_at = Some(offset), changes);
        }
    }

    /// Changes approvals. A session with approvals lives on from their records, but they count as no events of it.
    fn change_approvals(
        &mut self,
        now: Millis,
        change: impl FnOnce(&mut Approvals, &mut Vec<Change>),
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        change(&mut self.approvals, &mut changes);
        if !changes.is_empty() {
            self.last_logged_at = self.last_logged_at.max(now);
            changes.push(Change::Header);
        }
        changes
    }

    /// Returns an approval.
    pub fn approval(&self, id: &str) -> Option<&Approval> {
        self.approvals.get(id)
    }

    /// Iterates over the approvals, in order of their ids.
    pub fn approvals(&self) -> impl Iterator<Item = (&str, &Approval)> {
        self.approvals.iter()
    }

    /// Returns true if the session has approvals.
    pub fn has_approvals(&self) -> bool {
        !self.approvals.is_empty()
    }

    /// Returns for how many requests for approvals, logged at `now`, the session has room.
    pub fn room_for_approvals(&self, now: Millis) -> usize {
        self.approvals.room(now)
    }

    /// Returns an approval for the changelog.
    pub fn approval_entry(&self, id: &str) -> Option<StoredApproval<'_>> {
        self.approvals.entry(id)
    }

    /// Returns true if no record has changed the session.
    pub fn is_vacant(&self) -> bool {
        self.events == 0 && self.approvals.is_empty()
    }

    /// Records the use of a valid decision token by the call that was applied last, logged at `now`. Removes tokens that
    /// expired before. Appends the changed entries. Changes no input of a decision. A session without records for `ttl` is
    /// forgotten.
    pub fn use_token(
        &mut self,
        token: &UsedToken<'_>,
        now: Millis,
        ttl: Duration,
        changes: &mut Vec<Change>,
    ) -> TokenUse {
        self.tokens.insert(token, now, ttl, changes)
    }

    /// Marks the call at `offset` as refused: a valid token on it has this outcome, which is not allow. Does nothing if the
    /// session has no room for the call. The caller writes the call's entry afterwards.
    pub fn refuse_call(&mut self, call_id: &str, offset: i64, outcome: Decision) {
        self.store.refuse(call_id, offset, outcome);
    }

    /// Returns the header for the changelog.
    pub fn header(&self) -> SessionHeader<'_> {
        SessionHeader {
            started_at: self.started_at,
            last_logged_at: self.last_logged_at,
            applied_through: self.applied_through,
            events: self.events,
            tool_calls: self.tool_calls,
            sources: self.seen.header_entries(),
            // Informational: a restore counts entries and bytes again.
            facts: i32::try_from(self.store.entries()).unwrap_or(i32::MAX),
            bytes: i64::try_from(self.store.bytes()).unwrap_or(i64::MAX),
            ended: self.ended,
            limited: self.limited,
        }
    }

    /// Returns an upper bound for the bytes of the header in Avro.
    pub fn max_header_bytes(&self) -> usize {
        self.seen.max_header_bytes() + 128
    }

    /// Returns the estimated memory of a copy, in bytes. Facts that copies share count as well.
    pub fn copied_bytes(&self) -> usize {
        let parts = [self.seen.memory_bytes(), self.tokens.memory_bytes(), self.approvals.memory_bytes()];
        parts.into_iter().fold(self.store.bytes(), usize::saturating_add)
    }

    /// Returns a fact for the changelog.
    pub fn fact(&self, kind: &str, key: &str) -> Option<Fact<'_>> {
        self.store.fact(kind, key)
    }

    /// Returns the latest call of an id for the changelog.
    pub fn call(&self, call_id: &str) -> Option<Call<'_>> {
        self.store.call(call_id).map(StoredCall::as_entry)
    }

    /// Returns a block of sequence numbers for the changelog.
    pub fn numbers(&self, source: &str, block: i32) -> Option<Numbers<'_>> {
        self.seen.block(source, block)
    }

    /// Returns a used decision token for the changelog.
    pub fn token(&self, id: &str, expires_at: Millis) -> Option<UsedToken<'_>> {
        self.tokens.get(id, expires_at)
    }

    /// Returns a tombstone for each entry except the header. The caller writes them, and the header's, when it removes the
    /// session.
    pub fn tombstones(&self) -> Vec<Change> {
        let mut tombstones = self.store.tombstones();
        tombstones.extend(self.seen.blocks().map(|(source, block)| Change::NumbersRemoved { source, block }));
        tombstones.extend(self.tokens.tombstones());
        tombstones.extend(self.approvals.tombstones());
        tombstones
    }

    /// Returns true if the session has expired for a record logged at `now`. The caller then starts a new session.
    pub fn is_expired(&self, now: Millis, ttl: Duration) -> bool {
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        !self.is_vacant() && now.0.saturating_sub(self.last_logged_at.0) > ttl
    }

    /// Returns true if the session has seen the source's sequence number. If the session has no room for more numbers,
    /// a higher number of the source counts as well.
    pub fn has_seen(&self, source_id: &str, sequence: i64) -> bool {
        self.seen.contains(source_id, sequence)
    }

    /// Checks the sequence number of an event before it is applied. A repeat must not be applied.
    pub fn check_sequence(&mut self, event: &ActionEvent<'_>) -> SequenceCheck {
        self.seen.check(event)
    }

    /// Returns the start of the session by the producer's clock, or `None` before the first event.
    pub fn started_at(&self) -> Option<Micros> {
        (self.events > 0).then_some(self.started_at)
    }

    /// Returns the offset of the last applied event, or `None` before the first.
    pub fn applied_through(&self) -> Option<i64> {
        (self.events > 0).then_some(self.applied_through)
    }

    /// Returns the number of applied events; repeats are not applied.
    pub const fn events(&self) -> i64 {
        self.events
    }

    /// Returns the number of applied tool calls.
    pub const fn tool_calls(&self) -> i32 {
        self.tool_calls
    }

    /// Returns true once an entry was dropped because of the limits.
    pub const fn limited(&self) -> bool {
        self.limited
    }

    /// Returns true if facts or calls may have been dropped: at a limit, or at the end of the session.
    pub(crate) const fn is_incomplete(&self) -> bool {
        self.limited || self.ended
    }

    pub(crate) fn stored_call(&self, call_id: &str) -> Option<&StoredCall> {
        self.store.call(call_id)
    }

    pub(crate) const fn facts(&self) -> &Facts {
        self.store.facts()
    }
}
