//! Facts and calls of a session, and their size.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_schemas::OpenEnum;
use agentgov_schemas::state::{Call, Fact};
use agentgov_schemas::verdict::Decision;
use cel::common::types::CelString;

use super::Change;
use crate::json::{Json, PayloadError};

/// Facts by kind.
pub(crate) type Facts = BTreeMap<String, FactsOfKind>;

/// Facts of one kind, by key. A clone is shallow.
#[derive(Clone, Debug, Default)]
pub(crate) struct FactsOfKind(BTreeMap<String, Arc<StoredFact>>);

/// Stored fact. Its value is parsed once.
#[derive(Debug)]
pub(crate) struct StoredFact {
    key: CelString<'static>,
    bytes: Box<[u8]>,
    json: Result<Json, PayloadError>,
    offset: i64,
}

/// Value of a fact.
pub(super) struct FactValue<'a> {
    /// Bytes of the result.
    pub(super) bytes: &'a [u8],
    /// Parsed value, or the reason why it is unreadable.
    pub(super) json: Result<Json, PayloadError>,
}

impl<'a> FactValue<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Self {
        Self { bytes, json: Json::result(bytes) }
    }
}

/// Key of the entry that marks the last unreadable result which may have changed facts of a kind. No fact has this key (see
/// `is_key`).
pub(super) const UNCERTAIN_KEY: &str = "\u{fffd}";

impl StoredFact {
    pub(crate) const fn json(&self) -> Result<&Json, &PayloadError> {
        self.json.as_ref()
    }

    /// Offset of the event that carried the fact.
    pub(crate) const fn offset(&self) -> i64 {
        self.offset
    }
}

impl FactsOfKind {
    pub(crate) const fn empty() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn get_fact(&self, key: &str) -> Option<&StoredFact> {
        self.0.get(key).filter(|_| key != UNCERTAIN_KEY).map(Arc::as_ref)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &CelString<'static>> {
        self.0.iter().filter(|(key, _)| *key != UNCERTAIN_KEY).map(|(_, fact)| &fact.key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len() - usize::from(self.last_unreadable_at().is_some())
    }

    /// Returns the offset of the last unreadable result that may have changed facts of this kind. Older facts may be outdated.
    pub(crate) fn last_unreadable_at(&self) -> Option<i64> {
        self.0.get(UNCERTAIN_KEY).map(|mark| mark.offset)
    }
}

/// Latest call of an id.
#[derive(Clone, Debug)]
pub(crate) struct StoredCall {
    call_id: String,
    pub(crate) tool: String,
    pub(crate) call_index: i32,
    pub(crate) arguments: Box<[u8]>,
    offset: i64,
    answered: bool,
    /// Outcome of the decision before the call, if a valid token on it says another than allow.
    pub(super) refused: Option<Decision>,
}

impl StoredCall {
    pub(super) fn as_entry(&self) -> Call<'_> {
        Call {
            call_id: &self.call_id,
            tool: &self.tool,
            call_index: self.call_index,
            arguments: &self.arguments,
            offset: self.offset,
            answered: self.answered,
            refused: self.refused.map(OpenEnum::from),
        }
    }
}

/// Facts and calls of a session, with their number and size.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    facts: Facts,
    calls: BTreeMap<String, StoredCall>,
    entries: usize,
    bytes: usize,
}

/// Size of a fact for the limits, in bytes.
pub(super) const fn fact_size(kind: &str, key: &str, value: &[u8]) -> usize {
    kind.len() + key.len() + value.len()
}

/// Size of a call for the limits, in bytes.
pub(super) const fn call_size(call_id: &str, tool: &str, arguments: &[u8]) -> usize {
    call_id.len() + tool.len() + arguments.len()
}

impl Store {
    /// Stores a fact; replaces the one with the same kind and key.
    pub(super) fn put_fact(&mut self, kind: &str, key: &str, value: FactValue<'_>, offset: i64) {
        self.entries += 1;
        self.bytes += fact_size(kind, key, value.bytes);
        let FactValue { bytes, json } = value;
        let fact = StoredFact { key: CelString::from(key.to_owned()), bytes: bytes.into(), json, offset };
        let facts = match self.facts.get_mut(kind) {
            Some(facts) => facts,
            None => self.facts.entry(kind.to_owned()).or_default(),
        };
        if let Some(replaced) = facts.0.insert(key.to_owned(), Arc::new(fact)) {
            self.entries -= 1;
            self.bytes -= fact_size(kind, key, &replaced.bytes);
        }
    }

    /// Stores a call; replaces the one with the same id.
    pub(super) fn put_call(&mut self, call: &Call<'_>) {
        self.entries += 1;
        self.bytes += call_size(call.call_id, call.tool, call.arguments);
        let stored = StoredCall {
            call_id: call.call_id.to_owned(),
            tool: call.tool.to_owned(),
            call_index: call.call_index,
            arguments: call.arguments.into(),
            offset: call.offset,
            answered: call.answered,
            // An outcome that this build does not know is not allow.
            refused: call.refused.map(|outcome| outcome.known().unwrap_or(Decision::Deny)),
        };
        if let Some(replaced) = self.calls.insert(call.call_id.to_owned(), stored) {
            self.entries -= 1;
            self.bytes -= call_size(call.call_id, &replaced.tool, &replaced.arguments);
        }
    }

    /// Removes a fact. Returns true if it existed.
    pub(super) fn remove_fact(&mut self, kind: &str, key: &str) -> bool {
        let Some(facts) = self.facts.get_mut(kind) else { return false };
        let Some(fact) = facts.0.remove(key) else { return false };
        self.entries -= 1;
        self.bytes -= fact_size(kind, key, &fact.bytes);
        if facts.0.is_empty() {
            self.facts.remove(kind);
        }
        true
    }

    /// Removes a call. Returns true if it existed.
    pub(super) fn remove_call(&mut self, call_id: &str) -> bool {
        let Some(call) = self.calls.remove(call_id) else { return false };
        self.entries -= 1;
        self.bytes -= call_size(call_id, &call.tool, &call.arguments);
        true
    }

    /// Marks a call as answered. Returns the call if that changed it.
    pub(super) fn mark_answered(&mut self, call_id: &str) -> Option<&StoredCall> {
        let call = self.calls.get_mut(call_id)?;
        let was_answered = std::mem::replace(&mut call.answered, true);
        (!was_answered).then_some(&*call)
    }

    /// Marks the call at `offset` as refused.
    pub(super) fn refuse(&mut self, call_id: &str, offset: i64, outcome: Decision) {
        if let Some(call) = self.calls.get_mut(call_id).filter(|call| call.offset == offset) {
            call.refused = Some(outcome);
        }
    }

    pub(super) fn fact(&self, kind: &str, key: &str) -> Option<Fact<'_>> {
        let (kind, facts) = self.facts.get_key_value(kind)?;
        let (key, fact) = facts.0.get_key_value(key)?;
        Some(Fact { kind, key, value: &fact.bytes, offset: fact.offset })
    }

    /// Returns the keys of all facts of a kind.
    pub(super) fn keys(&self, kind: &str) -> Vec<String> {
        self.facts.get(kind).into_iter().flat_map(|facts| facts.0.keys().cloned()).collect()
    }

    pub(super) fn call(&self, call_id: &str) -> Option<&StoredCall> {
        self.calls.get(call_id)
    }

    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the number of facts and calls.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    /// Returns the size of facts and calls in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn tombstones(&self) -> Vec<Change> {
        let facts = self.facts.iter().flat_map(|(kind, facts)| {
            facts.0.keys().map(|key| Change::FactRemoved { kind: kind.clone(), key: key.clone() })
        });
        facts
            .chain(self.calls.keys().map(|call_id| Change::CallRemoved { call_id: call_id.clone() }))
            .collect()
    }
}
