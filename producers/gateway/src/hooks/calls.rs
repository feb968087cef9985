//! Ids of calls whose agent gives them none.

use std::collections::VecDeque;

use agentgov_schemas::Digest;

use super::agent::CodingAgent;
use super::payload::HookCall;

/// Maximum number of calls of a session that wait for their result. Beyond it, the oldest one is forgotten.
const MAX_OPEN: usize = 1_024;

/// Calls of one session that have no id of their own. A call's id is a digest of what its hook states (agent, time, tool and
/// arguments) and of its number within the session, so two equal calls are two. The result belongs to the oldest open call with
/// the same tool and arguments.
#[derive(Debug, Default)]
pub struct OpenCalls {
    number: u64,
    open: VecDeque<(Digest, String)>,
}

impl OpenCalls {
    /// Returns the id of the session's next call.
    pub fn derive(&mut self, agent: CodingAgent, call: &HookCall<'_>) -> String {
        let number = self.number.to_be_bytes();
        self.number += 1;
        let digest = Digest::of_parts([
            call.stamp.as_bytes(),
            &[0],
            call.tool.as_bytes(),
            &[0],
            call.arguments.as_bytes(),
            &[0],
            &number,
        ]);
        let hex = digest.to_string();
        format!("{}-{}", agent.name(), hex.get(..32).unwrap_or(&hex))
    }

    /// Adds a call that may be made.
    pub fn open(&mut self, call: &HookCall<'_>, call_id: String) {
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((content(call), call_id));
    }

    /// Returns the id of the open call that a result belongs to.
    pub fn close(&mut self, call: &HookCall<'_>) -> Option<String> {
        let content = content(call);
        let at = self.open.iter().position(|(other, _)| *other == content)?;
        self.open.remove(at).map(|(_, call_id)| call_id)
    }
}

fn content(call: &HookCall<'_>) -> Digest {
    Digest::of_parts([call.tool.as_bytes(), &[0], call.arguments.as_bytes()])
}
