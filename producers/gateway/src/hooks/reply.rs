//! Answer to a hook.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::agent::CodingAgent;
use super::payload::HookEvent;

/// Media type of [`HookReply`], which `agentgov hook` accepts. Other clients get [`HookReply::output`] alone.
pub const HOOK_REPLY_TYPE: &str = "application/vnd.agentgov.hook+json";

/// Answer of the gateway to `agentgov hook`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HookReply {
    /// Whether the agent may go on.
    pub outcome: HookOutcome,
    /// Why not, for the model and for people.
    #[serde(default)]
    pub reason: String,
    /// JSON for the agent.
    #[serde(default)]
    pub output: Option<Value>,
}

/// Whether the agent may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookOutcome {
    /// It may.
    Allow,
    /// It must not.
    Deny,
}

impl HookReply {
    /// Creates an answer that lets the agent go on. It never replaces the agent's own question to its user.
    pub fn allowed(agent: CodingAgent, event: &HookEvent<'_>) -> Self {
        let output = match (agent, event) {
            (CodingAgent::Cursor, HookEvent::Before(_)) => Some(json!({ "permission": "allow" })),
            (CodingAgent::Cursor, HookEvent::Prompt(_)) => Some(json!({ "continue": true })),
            (CodingAgent::Cursor | CodingAgent::GeminiCli, _) => Some(json!({})),
            (CodingAgent::ClaudeCode | CodingAgent::Codex, _) => None,
        };
        Self { outcome: HookOutcome::Allow, reason: String::new(), output }
    }

    /// Creates an answer that stops a call.
    pub fn denied(agent: CodingAgent, event: &HookEvent<'_>, reason: String) -> Self {
        let output = match (agent, event) {
            (CodingAgent::ClaudeCode, HookEvent::Before(_)) => Some(json!({ "hookSpecificOutput": {
                "hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": reason,
            } })),
            (CodingAgent::Cursor, _) => {
                Some(json!({ "permission": "deny", "user_message": reason, "agent_message": reason }))
            }
            (CodingAgent::GeminiCli, _) => Some(json!({ "decision": "deny", "reason": reason })),
            _ => None,
        };
        Self { outcome: HookOutcome::Deny, reason, output }
    }

    /// Parses an answer.
    ///
    /// # Errors
    /// The expected and the found content. A denial without a reason is an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let reply: Self =
            serde_json::from_str(text).map_err(|error| format!("expected an answer to a hook: {error}"))?;
        if reply.outcome == HookOutcome::Deny && reply.reason.trim().is_empty() {
            return Err("expected a reason of the denial, found none".to_owned());
        }
        Ok(reply)
    }
}
