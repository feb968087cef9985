//! What one session of one tenant knows: counters, facts, calls.

mod apply;
mod digest;
mod seen;
mod store;

use std::time::Duration;

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::state::{Call, Fact, Numbers, SessionHeader};
use agentgov_schemas::{Micros, Millis};

pub use apply::Applied;
use seen::Seen;
pub use seen::{InvalidEntry, SequenceCheck};
use store::{FactValue, Store};
pub(crate) use store::{Facts, FactsOfKind, StoredCall};

/// The state of one (tenant, session), in memory. The caller keeps it under that key, and writes to the changelog what
/// each [`Change`] names.
#[derive(Clone, Debug, Default)]
pub struct Session {
    started_at: Micros,
    last_logged_at: Millis,
    applied_through: i64,
    events: i64,
    tool_calls: i32,
    seen: Seen,
    ended: bool,
    limited: bool,
    store: Store,
}

/// An entry of the session that the changelog must be told of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The header: see [`Session::header`].
    Header,
    /// A fact that is new or says something else: see [`Session::fact`].
    Fact {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
    },
    /// A call that is new, or was answered: see [`Session::call`].
    Call {
        /// Its id.
        call_id: String,
    },
    /// Sixteen numbers of a source that stand in the header no more: see [`Session::numbers`].
    Numbers {
        /// The source.
        source: String,
        /// Which sixteen, from 0.
        block: i32,
    },
    /// A fact that is not known any more: a tombstone.
    FactRemoved {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
    },
    /// A call that is not known any more: a tombstone.
    CallRemoved {
        /// Its id.
        call_id: String,
    },
    /// Numbers of a session that is dropped: a tombstone.
    NumbersRemoved {
        /// The source.
        source: String,
        /// Which sixteen, from 0.
        block: i32,
    },
}

impl Session {
    /// A session of which nothing was seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over the header from the changelog. What the session keeps is counted anew, as it is restored.
    ///
    /// # Errors
    /// In words, if it cannot be ours.
    pub fn restore_header(&mut self, header: &SessionHeader<'_>) -> Result<(), InvalidEntry> {
        self.started_at = header.started_at;
        self.last_logged_at = header.last_logged_at;
        self.applied_through = header.applied_through;
        self.events = header.events;
        self.tool_calls = header.tool_calls;
        self.seen.restore(&header.sources)?;
        self.ended = header.ended;
        self.limited = header.limited;
        Ok(())
    }

    /// Takes over a fact from the changelog. One that cannot be read could not be read when it was stated.
    pub fn restore_fact(&mut self, fact: &Fact<'_>) {
        self.store.put_fact(fact.kind, fact.key, FactValue::parse(fact.value), fact.offset);
    }

    /// Takes over a call from the changelog.
    pub fn restore_call(&mut self, call: &Call<'_>) {
        self.store.put_call(call);
    }

    /// Takes over the tombstone of a fact.
    pub fn restore_fact_tombstone(&mut self, kind: &str, key: &str) {
        self.store.remove_fact(kind, key);
    }

    /// Takes over the tombstone of a call.
    pub fn restore_call_tombstone(&mut self, call_id: &str) {
        self.store.remove_call(call_id);
    }

    /// Takes over numbers from the changelog.
    ///
    /// # Errors
    /// In words, if they cannot be ours.
    pub fn restore_numbers(&mut self, numbers: &Numbers<'_>) -> Result<(), InvalidEntry> {
        self.seen.restore_block(numbers)
    }

    /// Takes over the tombstone of numbers.
    ///
    /// # Errors
    /// In words, if it cannot be ours.
    pub fn restore_numbers_tombstone(&mut self, source: &str, block: i32) -> Result<(), InvalidEntry> {
        self.seen.restore_block_tombstone(source, block)
    }

    /// The header as the changelog must say it.
    pub fn header(&self) -> SessionHeader<'_> {
        SessionHeader {
            started_at: self.started_at,
            last_logged_at: self.last_logged_at,
            applied_through: self.applied_through,
            events: self.events,
            tool_calls: self.tool_calls,
            sources: self.seen.said(),
            // Both are for people: a restored session counts what it keeps.
            facts: i32::try_from(self.store.entries()).unwrap_or(i32::MAX),
            bytes: i64::try_from(self.store.bytes()).unwrap_or(i64::MAX),
            ended: self.ended,
            limited: self.limited,
        }
    }

    /// The header takes no more bytes than that in Avro.
    pub fn max_header_bytes(&self) -> usize {
        self.seen.most_bytes() + 128
    }

    /// A fact as the changelog must say it.
    pub fn fact(&self, kind: &str, key: &str) -> Option<Fact<'_>> {
        self.store.fact(kind, key)
    }

    /// A call as the changelog must say it: the latest one of its id.
    pub fn call(&self, call_id: &str) -> Option<Call<'_>> {
        self.store.call(call_id).map(StoredCall::as_entry)
    }

    /// Numbers of a source as the changelog must say them.
    pub fn numbers(&self, source: &str, block: i32) -> Option<Numbers<'_>> {
        self.seen.block(source, block)
    }

    /// Every entry but the header as a tombstone: what the changelog must be told, beside the header's, when the session
    /// is dropped.
    pub fn tombstones(&self) -> Vec<Change> {
        let mut gone = self.store.tombstones();
        gone.extend(self.seen.blocks().map(|(source, block)| Change::NumbersRemoved { source, block }));
        gone
    }

    /// True if a record logged at `now` comes too late for this session: the caller then drops it, and begins anew.
    pub fn is_expired(&self, now: Millis, ttl: Duration) -> bool {
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.events > 0 && now.0.saturating_sub(self.last_logged_at.0) > ttl
    }

    /// What to make of the number of an event that is not applied yet: a repeat is not applied at all.
    pub fn check_sequence(&mut self, event: &ActionEvent<'_>) -> SequenceCheck {
        self.seen.check(event)
    }

    /// When it began, as its producer says; `None` before the first event.
    pub fn started_at(&self) -> Option<Micros> {
        (self.events > 0).then_some(self.started_at)
    }

    /// How many events were applied, duplicates not counted.
    pub const fn events(&self) -> i64 {
        self.events
    }

    /// How many tool calls were applied.
    pub const fn tool_calls(&self) -> i32 {
        self.tool_calls
    }

    /// True once something was not kept because of the limits.
    pub const fn limited(&self) -> bool {
        self.limited
    }

    /// True if something that was known may be forgotten: for want of room, or since the session ended.
    pub(crate) const fn forgets(&self) -> bool {
        self.limited || self.ended
    }

    pub(crate) fn stored_call(&self, call_id: &str) -> Option<&StoredCall> {
        self.store.call(call_id)
    }

    pub(crate) const fn facts(&self) -> &Facts {
        self.store.facts()
    }
}
