//! What an event does to the state.

use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, ToolCall, ToolResult};
use agentgov_schemas::state::Call;
use agentgov_schemas::topology::SessionLimits;
use agentgov_schemas::verdict::Origin;

use super::store::{DOUBT, FactValue, call_size, fact_size};
use super::{Change, SequenceCheck, Session};
use crate::tools::{Finding, Tools};

/// What [`Session::apply`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What the changelog must be told, in order.
    pub changes: Vec<Change>,
    /// Errors of expressions of tools.yaml that say what a result states. No verdict tells them.
    pub findings: Vec<Finding>,
}

impl Session {
    /// Takes in an event that is no repeat, standing at `origin`: `look` says so, which was taken of it just now. `tools` are
    /// those of the active bundle.
    pub fn apply(
        &mut self,
        event: &ActionEvent<'_>,
        check: &SequenceCheck,
        origin: &Origin<'_>,
        tools: Option<&Tools>,
        limits: &SessionLimits,
    ) -> Applied {
        let mut applied = Applied::default();
        if self.events == 0 || event.r#type == catalogue::SESSION_STARTED {
            self.started_at = event.occurred_at;
        }
        self.events = self.events.saturating_add(1);
        self.last_logged_at = origin.logged_at;
        self.applied_through = origin.offset;
        if let Some((source, block)) = self.seen.keep(event, check) {
            applied.changes.push(Change::Numbers { source, block });
        }
        if event.is_judged() {
            let call_index = self.index_of(event);
            if call_index == self.tool_calls {
                self.tool_calls = self.tool_calls.saturating_add(1);
            }
            if let Some(tool) = &event.tool {
                self.keep_call(tool, call_index, origin.offset, limits, &mut applied);
            }
        }
        if event.r#type == catalogue::SESSION_ENDED {
            self.ended = true;
            applied.changes.extend(self.store.tombstones());
            self.store = super::Store::default();
            self.seen.shrink();
        } else if let Some(result) = &event.result {
            self.take_result(event, result, origin.offset, tools, limits, &mut applied);
        }
        applied.changes.push(Change::Header);
        applied
    }

    /// The index of a call that is about to be applied. A retried call keeps the one of its id, if that is known.
    pub fn index_of(&self, event: &ActionEvent<'_>) -> i32 {
        let retried = (event.r#type == catalogue::TOOL_RETRIED).then_some(event.tool.as_ref()).flatten();
        let first = retried.and_then(|tool| self.store.call(tool.call_id));
        first.map_or(self.tool_calls, |call| call.call_index)
    }

    /// Keeps a call in place of the one of its id. If there is no room for it, that one goes all the same: a result must
    /// not be taken for the answer to an older call.
    fn keep_call(
        &mut self,
        tool: &ToolCall<'_>,
        call_index: i32,
        offset: i64,
        limits: &SessionLimits,
        applied: &mut Applied,
    ) {
        let call_id = tool.call_id;
        let gone = self.store.remove_call(call_id);
        let arguments = tool.arguments.data;
        if self.has_room(call_size(call_id, tool.name, arguments), limits) {
            let call = Call { call_id, tool: tool.name, call_index, arguments, offset, answered: false };
            self.store.put_call(&call);
            applied.changes.push(Change::Call { call_id: call_id.to_owned() });
        } else if gone {
            applied.changes.push(Change::CallRemoved { call_id: call_id.to_owned() });
        }
    }

    fn take_result(
        &mut self,
        event: &ActionEvent<'_>,
        result: &ToolResult<'_>,
        offset: i64,
        tools: Option<&Tools>,
        limits: &SessionLimits,
        applied: &mut Applied,
    ) {
        if self.store.answer(result.call_id) {
            applied.changes.push(Change::Call { call_id: result.call_id.to_owned() });
        }
        let says_something = event.r#type != catalogue::TOOL_FAILED && result.is_error != Some(true);
        let Some(tools) = tools.filter(|_| says_something) else { return };
        let stated = tools.state(self, event, result);
        applied.findings.extend(stated.findings);
        for kind in stated.outdated {
            self.forget_kind(&kind, applied);
        }
        for kind in stated.doubted {
            if self.store.fact(&kind, DOUBT).is_some() || self.has_room(fact_size(&kind, DOUBT, b""), limits)
            {
                self.store.put_fact(&kind, DOUBT, FactValue::parse(b""), offset);
                applied.changes.push(Change::Fact { kind, key: DOUBT.to_owned() });
            } else {
                self.forget_kind(&kind, applied);
            }
        }
        let Some(content) = stated.content else { return };
        for (kind, key) in stated.facts {
            let says = FactValue { bytes: result.content.data, json: content.clone() };
            self.keep_fact(kind, key, says, offset, limits, applied);
        }
    }

    /// Removes all facts of a kind. In a session at its limit, a missing fact is an error for its readers.
    fn forget_kind(&mut self, kind: &str, applied: &mut Applied) {
        for key in self.store.keys(kind) {
            self.store.remove_fact(kind, &key);
            applied.changes.push(Change::FactRemoved { kind: kind.to_owned(), key });
        }
    }

    /// Keeps a fact in place of what was known under its key. If there is no room for it, that goes all the same: it is not
    /// the latest word any more.
    fn keep_fact(
        &mut self,
        kind: String,
        key: String,
        says: FactValue<'_>,
        offset: i64,
        limits: &SessionLimits,
        applied: &mut Applied,
    ) {
        let gone = self.store.remove_fact(&kind, &key);
        if self.has_room(fact_size(&kind, &key, says.bytes), limits) {
            self.store.put_fact(&kind, &key, says, offset);
            applied.changes.push(Change::Fact { kind, key });
        } else if gone {
            applied.changes.push(Change::FactRemoved { kind, key });
        }
    }

    /// True if one more entry of `size` bytes may be kept; else the session is marked.
    fn has_room(&mut self, size: usize, limits: &SessionLimits) -> bool {
        let entries = u32::try_from(self.store.entries().saturating_add(1)).unwrap_or(u32::MAX);
        let bytes = u64::try_from(self.store.bytes().saturating_add(size)).unwrap_or(u64::MAX);
        let room = entries <= limits.max_facts && bytes <= limits.max_bytes;
        self.limited |= !room;
        room
    }
}
