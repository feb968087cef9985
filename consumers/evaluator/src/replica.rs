//! Replica of the evaluator's sessions of one partition, for processes that read sessions.
//!
//! ```text
//!   changelog, through its last progress entry ─► base: the sessions as the evaluator has them before action P
//!   actions from P on ──────────────────────────► ahead: the records that the evaluator has not processed yet
//!   question ─► the session of base, with its records of ahead applied to a copy
//! ```
//!
//! The caller applies the changelog entries of one transaction together: between them the sessions are inconsistent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use agentgov_enrichment::Session;
use agentgov_policy::Kernel;
use agentgov_processor::{RestoreError, RestoreValue};
use agentgov_schemas::Millis;
use agentgov_schemas::event::{ActionEvent, Through};
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::wire::{Schema, SchemaId, WireError};

use crate::evaluator::{check_event, restore_entry};
use crate::sessions::{SessionName, Sessions};
use crate::stepped::{SessionRef, SteppedSessions, TablePositions};

/// Memory of a record ahead besides its datum, in bytes.
const RECORD_OVERHEAD: usize = 200;

/// The sessions of one partition, through the last action that was read.
#[derive(Debug)]
pub struct Replica {
    topic: Arc<str>,
    base: Sessions,
    /// Offset of the first action that is not in `base`.
    progress: i64,
    /// Offset of the next action to read.
    next_offset: i64,
    ahead: VecDeque<AheadRecord>,
    /// Indexes of each session's records in `ahead`, counted from the first record that `ahead` ever held.
    by_session: HashMap<SessionName, VecDeque<u64>>,
    /// Number of records removed from `ahead`.
    removed: u64,
    ahead_bytes: usize,
    /// The greatest `logged_at` of the records in `ahead`.
    last_logged_at: Millis,
    stepped: SteppedSessions,
}

/// An action that the evaluator has not processed yet.
#[derive(Debug)]
struct AheadRecord {
    offset: i64,
    logged_at: Millis,
    name: SessionName,
    source_id: Box<str>,
    sequence: i64,
    schema_id: SchemaId,
    schema: Arc<Schema>,
    datum: Box<[u8]>,
}

/// An action as the topic has it.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its append time.
    pub logged_at: Millis,
    /// The id of its writer's schema.
    pub schema_id: SchemaId,
    /// Its writer's schema.
    pub schema: &'a Arc<Schema>,
    /// Its Avro datum.
    pub datum: &'a [u8],
}

/// A record ahead that was decoded before cannot be decoded again: a bug.
#[derive(Debug, thiserror::Error)]
#[error("offset {offset}: expected an action event, found {error}")]
pub struct UndecodableRecord {
    offset: i64,
    error: WireError,
}

impl Replica {
    /// Creates the empty replica of `partition` of `topic`, the topic of actions.
    pub fn new(topic: &str, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            base: Sessions::new(partition),
            progress: 0,
            next_offset: 0,
            ahead: VecDeque::new(),
            by_session: HashMap::new(),
            removed: 0,
            ahead_bytes: 0,
            last_logged_at: Millis(i64::MIN),
            stepped: SteppedSessions::default(),
        }
    }

    /// Applies an entry of the changelog; `None` is a tombstone. A progress entry removes the actions that the evaluator has
    /// processed.
    ///
    /// # Errors
    /// If the evaluator cannot have written the entry.
    pub fn apply_entry(&mut self, key: &[u8], value: Option<RestoreValue<'_>>) -> Result<(), RestoreError> {
        self.stepped.clear();
        if let Some(progress) = restore_entry(&mut self.base, key, value)? {
            self.progress = progress;
            self.next_offset = self.next_offset.max(progress);
            self.drop_processed();
        }
        Ok(())
    }

    /// Adds the next action. Skips actions that the evaluator has processed already or will reject.
    ///
    /// # Errors
    /// If the datum cannot be decoded by its schema. The evaluator rejects such a record, so the replica skips it too.
    pub fn push(&mut self, action: &Action<'_>) -> Result<(), WireError> {
        if action.offset < self.next_offset {
            return Ok(());
        }
        self.next_offset = action.offset.saturating_add(1);
        let event: ActionEvent<'_> = action.schema.decode(action.schema_id, action.datum)?;
        if check_event(&event).is_err() {
            return Ok(());
        }
        self.last_logged_at = self.last_logged_at.max(action.logged_at);
        if !event.is_applied() && !event.is_approval() {
            return Ok(());
        }
        let name: SessionName = (event.tenant_id.into(), event.session_id.into());
        let number = self.removed.saturating_add(self.ahead.len() as u64);
        self.by_session.entry(name.clone()).or_default().push_back(number);
        self.ahead_bytes =
            self.ahead_bytes.saturating_add(action.datum.len().saturating_add(RECORD_OVERHEAD));
        self.ahead.push_back(AheadRecord {
            offset: action.offset,
            logged_at: action.logged_at,
            name,
            source_id: event.source.id.into(),
            sequence: event.source.sequence,
            schema_id: action.schema_id,
            schema: Arc::clone(action.schema),
            datum: action.datum.into(),
        });
        Ok(())
    }

    /// Skips an offset whose record has no schema, or is no action.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    /// Returns the position of the last known action.
    pub fn through(&self) -> Through {
        Through { partition: self.base.partition, next_offset: self.next_offset }
    }

    /// Returns the offset of the first action that the evaluator has not processed, according to the changelog read so
    /// far.
    pub const fn progress(&self) -> i64 {
        self.progress
    }

    /// Returns the memory of the records ahead, in bytes.
    pub const fn ahead_bytes(&self) -> usize {
        self.ahead_bytes
    }

    /// Returns the number of sessions that the evaluator has.
    pub fn base_sessions(&self) -> usize {
        self.base.len()
    }

    /// Returns true if the partition has records of the session.
    pub fn contains(&self, tenant_id: &str, session_id: &str) -> bool {
        self.base(tenant_id, session_id).is_some() || self.numbers_ahead(tenant_id, session_id).is_some()
    }

    /// Returns false if the current session has not seen the source's sequence number. Cheaper than [`Self::session`],
    /// since it applies no record.
    pub fn may_have_seen(&self, tenant_id: &str, session_id: &str, source_id: &str, sequence: i64) -> bool {
        let is_of_record =
            |record: &AheadRecord| record.sequence >= sequence && *record.source_id == *source_id;
        self.base(tenant_id, session_id).is_some_and(|session| session.has_seen(source_id, sequence))
            || self.records_ahead(tenant_id, session_id, 0).any(is_of_record)
    }

    /// Returns the current session, empty if it is new or expired. Copies it only if it has records ahead, and then applies
    /// each of them once, as long as the copy is kept.
    ///
    /// # Errors
    /// If a record ahead cannot be decoded.
    pub fn session(
        &self,
        kernel: &Kernel<'_>,
        tenant_id: &str,
        session_id: &str,
    ) -> Result<SessionRef<'_>, UndecodableRecord> {
        let ttl = kernel.limits.ttl.0;
        let base = self.base(tenant_id, session_id);
        let new = || SessionRef::Copy(Arc::new(Session::new()));
        let Some(last) = self.numbers_ahead(tenant_id, session_id).and_then(VecDeque::back) else {
            let session = base.filter(|session| !session.is_expired(self.last_logged_at, ttl));
            return Ok(session.map_or_else(new, SessionRef::Base));
        };
        let name: SessionName = (tenant_id.into(), session_id.into());
        let end = last.saturating_add(1);
        let tables = TablePositions::of(kernel);
        let (mut session, from) = match self.stepped.get(&name, tables) {
            Some(copy) => copy,
            None => (Arc::new(base.cloned().unwrap_or_default()), 0),
        };
        if from < end {
            let applied = self.step(kernel, Arc::make_mut(&mut session), &name, from)?;
            self.stepped.put(name, tables, &session, end, applied);
        }
        Ok(if session.is_expired(self.last_logged_at, ttl) { new() } else { SessionRef::Copy(session) })
    }

    /// Applies the records ahead of a session, from the number `from` on. Returns how many there were.
    fn step(
        &self,
        kernel: &Kernel<'_>,
        session: &mut Session,
        (tenant_id, session_id): &SessionName,
        from: u64,
    ) -> Result<u64, UndecodableRecord> {
        let mut applied = 0;
        for record in self.records_ahead(tenant_id, session_id, from) {
            if session.is_expired(record.logged_at, kernel.limits.ttl.0) {
                *session = Session::new();
            }
            let event: ActionEvent<'_> = record
                .schema
                .decode(record.schema_id, &record.datum)
                .map_err(|error| UndecodableRecord { offset: record.offset, error })?;
            let origin = Origin {
                topic: &self.topic,
                partition: self.base.partition,
                offset: record.offset,
                logged_at: record.logged_at,
            };
            kernel.apply(session, &event, &origin);
            applied += 1;
        }
        Ok(applied)
    }

    /// Returns the number of records that were applied to copies of sessions.
    pub fn applied_ahead(&self) -> u64 {
        self.stepped.applied()
    }

    /// Returns the session as the evaluator has it. A vacant session is left over from a removed one, and the
    /// evaluator drops it before its next step.
    fn base(&self, tenant_id: &str, session_id: &str) -> Option<&Session> {
        self.base.get(tenant_id, session_id).filter(|session| !session.is_vacant())
    }

    fn records_ahead(
        &self,
        tenant_id: &str,
        session_id: &str,
        from: u64,
    ) -> impl Iterator<Item = &AheadRecord> {
        let numbers = self.numbers_ahead(tenant_id, session_id).into_iter().flatten();
        numbers.filter(move |number| **number >= from).filter_map(|number| {
            let index = usize::try_from(number.saturating_sub(self.removed)).ok()?;
            self.ahead.get(index)
        })
    }

    fn numbers_ahead(&self, tenant_id: &str, session_id: &str) -> Option<&VecDeque<u64>> {
        if self.by_session.is_empty() {
            return None;
        }
        // Two allocations, only while the evaluator is behind.
        self.by_session.get(&(tenant_id.into(), session_id.into()))
    }

    /// Removes the records that the evaluator has processed.
    fn drop_processed(&mut self) {
        while let Some(record) = self.ahead.pop_front_if(|record| record.offset < self.progress) {
            self.removed = self.removed.saturating_add(1);
            self.ahead_bytes =
                self.ahead_bytes.saturating_sub(record.datum.len().saturating_add(RECORD_OVERHEAD));
            if let Some(numbers) = self.by_session.get_mut(&record.name) {
                numbers.pop_front();
                if numbers.is_empty() {
                    self.by_session.remove(&record.name);
                }
            }
        }
    }
}
