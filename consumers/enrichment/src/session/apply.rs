//! Applies an event to the state of its session.

use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, ToolCall, ToolResult};
use agentgov_schemas::state::Call;
use agentgov_schemas::topology::SessionLimits;
use agentgov_schemas::verdict::{Decision, Origin};

use super::store::{FactValue, UNCERTAIN_KEY, call_size, fact_size};
use super::{Change, SequenceCheck, Session};
use crate::tools::{Finding, Tools};

/// Result of [`Session::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyOutcome {
    /// Entries to write to the changelog, in order.
    pub changes: Vec<Change>,
    /// Errors of fact rules in tools.yaml. No verdict carries them, since a result has no verdict.
    pub findings: Vec<Finding>,
    /// The call of the result, if it was refused and this is its first result.
    pub refused: Option<RefusedCall>,
}

/// Call whose valid token has another outcome than allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCall {
    /// Name of the tool.
    pub tool: String,
    /// Index of the call in its session.
    pub call_index: Option<i32>,
    /// Outcome of the decision.
    pub outcome: Decision,
}

impl Session {
    /// Applies the event at `origin`. `check` is the result of [`Session::check_sequence`] for this event and must not be a
    /// repeat. `tools` belong to the active bundle.
    pub fn apply(
        &mut self,
        event: &ActionEvent<'_>,
        check: &SequenceCheck,
        origin: &Origin<'_>,
        tools: Option<&Tools>,
        limits: &SessionLimits,
    ) -> ApplyOutcome {
        let mut applied = ApplyOutcome::default();
        if self.events == 0 || event.r#type == catalogue::SESSION_STARTED {
            self.started_at = event.occurred_at;
        }
        self.events = self.events.saturating_add(1);
        // Append times can decrease. The index of sessions by time needs a time that does not.
        self.last_logged_at = self.last_logged_at.max(origin.logged_at);
        self.applied_through = origin.offset;
        if let Some((source, block)) = self.seen.record(event, check) {
            applied.changes.push(Change::Numbers { source, block });
        }
        if event.is_judged() {
            let call_index = self.call_index(event);
            if call_index == self.tool_calls {
                self.tool_calls = self.tool_calls.saturating_add(1);
            }
            // A session that ends here keeps nothing, so an entry of the call would have no content.
            if let Some(tool) = event.tool.as_ref().filter(|_| event.r#type != catalogue::SESSION_ENDED) {
                self.store_call(tool, call_index, origin.offset, limits, &mut applied);
            }
        }
        if event.r#type == catalogue::SESSION_ENDED {
            self.ended = true;
            applied.changes.extend(self.store.tombstones());
            self.store = super::Store::default();
            self.seen.shrink_to_fit();
        } else if let Some(result) = &event.result {
            self.apply_result(event, result, origin.offset, tools, limits, &mut applied);
        }
        applied.changes.push(Change::Header);
        applied
    }

    /// Returns the index of a call before it is applied. A retried call keeps the index of the stored call with the same id.
    pub fn call_index(&self, event: &ActionEvent<'_>) -> i32 {
        let retried = (event.r#type == catalogue::TOOL_RETRIED).then_some(event.tool.as_ref()).flatten();
        let first = retried.and_then(|tool| self.store.call(tool.call_id));
        first.map_or(self.tool_calls, |call| call.call_index)
    }

    /// Replaces the stored call with the same id. Without room for the new call, the old one is still removed, so that a
    /// result is never attributed to it.
    fn store_call(
        &mut self,
        tool: &ToolCall<'_>,
        call_index: i32,
        offset: i64,
        limits: &SessionLimits,
        applied: &mut ApplyOutcome,
    ) {
        let call_id = tool.call_id;
        let is_replaced = self.store.remove_call(call_id);
        let arguments = tool.arguments.data;
        if self.has_room(call_size(call_id, tool.name, arguments), limits) {
            let call = Call {
                call_id,
                tool: tool.name,
                call_index,
                arguments,
                offset,
                answered: false,
                refused: None,
            };
            self.store.put_call(&call);
            applied.changes.push(Change::Call { call_id: call_id.to_owned() });
        } else if is_replaced {
            applied.changes.push(Change::CallRemoved { call_id: call_id.to_owned() });
        }
    }

    fn apply_result(
        &mut self,
        event: &ActionEvent<'_>,
        result: &ToolResult<'_>,
        offset: i64,
        tools: Option<&Tools>,
        limits: &SessionLimits,
        applied: &mut ApplyOutcome,
    ) {
        if let Some(call) = self.store.mark_answered(result.call_id) {
            applied.refused = call.refused.map(|outcome| RefusedCall {
                tool: call.tool.clone(),
                call_index: Some(call.call_index),
                outcome,
            });
            applied.changes.push(Change::Call { call_id: result.call_id.to_owned() });
        }
        let is_success = event.r#type != catalogue::TOOL_FAILED && result.is_error != Some(true);
        let Some(tools) = tools.filter(|_| is_success) else { return };
        let extracted = tools.extract_facts(self, event, result);
        applied.findings.extend(extracted.findings);
        for kind in extracted.stale_kinds {
            self.remove_kind(&kind, applied);
        }
        for kind in extracted.uncertain_kinds {
            if self.store.fact(&kind, UNCERTAIN_KEY).is_some()
                || self.has_room(fact_size(&kind, UNCERTAIN_KEY, b""), limits)
            {
                self.store.put_fact(&kind, UNCERTAIN_KEY, FactValue::parse(b""), offset);
                applied.changes.push(Change::Fact { kind, key: UNCERTAIN_KEY.to_owned() });
            } else {
                self.remove_kind(&kind, applied);
            }
        }
        let Some(content) = extracted.content else { return };
        for (kind, key) in extracted.facts {
            let value = FactValue { bytes: result.content.data, json: content.clone() };
            self.store_fact(kind, key, value, offset, limits, applied);
        }
    }

    /// Removes all facts of a kind. In a session at its limit, reading a missing fact is an error.
    fn remove_kind(&mut self, kind: &str, applied: &mut ApplyOutcome) {
        for key in self.store.keys(kind) {
            self.store.remove_fact(kind, &key);
            applied.changes.push(Change::FactRemoved { kind: kind.to_owned(), key });
        }
    }

    /// Replaces the fact under the same key. Without room for the new fact, the old one is still removed, since it is outdated.
    fn store_fact(
        &mut self,
        kind: String,
        key: String,
        value: FactValue<'_>,
        offset: i64,
        limits: &SessionLimits,
        applied: &mut ApplyOutcome,
    ) {
        let is_replaced = self.store.remove_fact(&kind, &key);
        if self.has_room(fact_size(&kind, &key, value.bytes), limits) {
            self.store.put_fact(&kind, &key, value, offset);
            applied.changes.push(Change::Fact { kind, key });
        } else if is_replaced {
            applied.changes.push(Change::FactRemoved { kind, key });
        }
    }

    /// Returns true if the limits allow one more entry of `size` bytes. Otherwise marks the session as limited.
    fn has_room(&mut self, size: usize, limits: &SessionLimits) -> bool {
        let entries = u32::try_from(self.store.entries().saturating_add(1)).unwrap_or(u32::MAX);
        let bytes = u64::try_from(self.store.bytes().saturating_add(size)).unwrap_or(u64::MAX);
        let room = entries <= limits.max_facts && bytes <= limits.max_bytes;
        self.limited |= !room;
        room
    }
}
