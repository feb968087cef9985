//! JSON that an agent sends to its hook.

use std::borrow::Cow;

use agentgov_schemas::bounds::MAX_ID_BYTES;

use super::agent::{CodingAgent, EventKind, ToolName};
use crate::json::{self, Members};

/// Depth up to which names that differ in case only count as the same: the payload itself. Names of arguments are the tool's.
const FOLDED_DEPTH: usize = 1;
/// Tool of Cursor's events about commands.
const CURSOR_SHELL: &str = "Shell";

/// What an agent sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// The agent's id of the session.
    pub session_id: Cow<'a, str>,
    /// The event.
    pub event: HookEvent<'a>,
}

/// Event of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookEvent<'a> {
    /// A session begins, or goes on if it is not new.
    SessionStarted {
        /// True if the session had no event before.
        is_new: bool,
    },
    /// A session ends.
    SessionEnded,
    /// A person sends a prompt.
    Prompt(Cow<'a, str>),
    /// A tool is about to be called.
    Before(HookCall<'a>),
    /// The call of a tool has ended.
    After(HookCall<'a>, HookResult<'a>),
}

/// Call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall<'a> {
    /// The tool, as policies name it.
    pub tool: String,
    /// Its MCP server, if it is certain.
    pub server: Option<String>,
    /// The agent's id of the call.
    pub call_id: Option<Cow<'a, str>>,
    /// What else distinguishes this call from others, if it has no id.
    pub stamp: Cow<'a, str>,
    /// The arguments, byte for byte.
    pub arguments: Cow<'a, str>,
}

/// Result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookResult<'a> {
    /// JSON of the result or of the error.
    pub content: Cow<'a, str>,
    /// True if the result is an error.
    pub is_error: bool,
    /// True if the call failed without a result.
    pub is_failure: bool,
}

impl<'a> Payload<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// The expected and the found content.
    pub fn read(agent: CodingAgent, text: &'a str) -> Result<Self, String> {
        json::check_folded(text, FOLDED_DEPTH)?;
        let members = Members::read(text)?;
        let reader = Reader { agent, members };
        let name = reader.text("hook_event_name")?;
        let Some(kind) = agent.event(&name) else {
            let expected: Vec<_> = agent.events().collect();
            return Err(format!(
                "`hook_event_name`: expected an event of {} ({}), found {name:?}",
                agent.name(),
                expected.join(", ")
            ));
        };
        let session_id = match agent {
            CodingAgent::Cursor => reader.first_text(&["conversation_id", "session_id"])?,
            _ => reader.text("session_id")?,
        };
        Ok(Self { session_id, event: reader.event(kind)? })
    }
}

struct Reader<'a> {
    agent: CodingAgent,
    members: Members<'a>,
}

impl<'a> Reader<'a> {
    fn event(&self, kind: EventKind) -> Result<HookEvent<'a>, String> {
        Ok(match kind {
            EventKind::SessionStart => HookEvent::SessionStarted { is_new: self.is_new_session() },
            EventKind::SessionEnd => HookEvent::SessionEnded,
            EventKind::Prompt => {
                let prompt = self.members.text("prompt");
                HookEvent::Prompt(prompt.ok_or("`prompt`: expected a text")?)
            }
            EventKind::Before | EventKind::BeforeShell | EventKind::BeforeMcp => {
                HookEvent::Before(self.call(kind)?)
            }
            EventKind::After | EventKind::AfterShell | EventKind::AfterMcp | EventKind::Failed => {
                HookEvent::After(self.call(kind)?, self.result(kind)?)
            }
        })
    }

    /// A resumed session, or one whose history was shortened, goes on under its id.
    fn is_new_session(&self) -> bool {
        !matches!(self.members.text("source").as_deref(), Some("resume" | "compact"))
    }

    fn call(&self, kind: EventKind) -> Result<HookCall<'a>, String> {
        let tool = self.tool(kind)?;
        let has_id = self.agent != CodingAgent::GeminiCli
            && matches!(kind, EventKind::Before | EventKind::After | EventKind::Failed);
        let stamp = match self.agent {
            CodingAgent::GeminiCli => self.members.text("timestamp"),
            _ => self.members.text("generation_id"),
        };
        Ok(HookCall {
            tool: tool.name,
            server: tool.server,
            call_id: has_id.then(|| self.text("tool_use_id")).transpose()?,
            stamp: stamp.unwrap_or_default(),
            arguments: self.arguments(kind)?,
        })
    }

    fn tool(&self, kind: EventKind) -> Result<ToolName, String> {
        let of_name = |name: &str| self.agent.tool(name).map_err(|error| format!("`tool_name`: {error}"));
        match kind {
            EventKind::BeforeShell | EventKind::AfterShell => of_name(CURSOR_SHELL),
            EventKind::BeforeMcp | EventKind::AfterMcp => {
                let name = self.text("tool_name")?;
                of_name(&format!("MCP:{}", name.strip_prefix("MCP:").unwrap_or(&name)))
            }
            _ => match self.mcp_tool() {
                Some(tool) => Ok(tool),
                None => of_name(&self.text("tool_name")?),
            },
        }
    }

    /// Gemini CLI names the server of an MCP tool beside the tool's name, which does not separate the two.
    fn mcp_tool(&self) -> Option<ToolName> {
        let context = self.members.object("mcp_context").filter(|_| self.agent == CodingAgent::GeminiCli)?;
        let (server, tool) = (context.text("server_name")?, context.text("tool_name")?);
        let is_plain = !server.is_empty() && !tool.is_empty() && !server.contains('/');
        is_plain.then(|| ToolName { name: format!("{server}/{tool}"), server: Some(server.into_owned()) })
    }

    fn arguments(&self, kind: EventKind) -> Result<Cow<'a, str>, String> {
        if matches!(kind, EventKind::BeforeShell | EventKind::AfterShell) {
            let command = self.members.get("command").filter(|command| json::string(command).is_some());
            let command = command.ok_or("`command`: expected a text")?;
            return Ok(format!(r#"{{"command":{}}}"#, command.get()).into());
        }
        let given = self.members.get("tool_input").ok_or("`tool_input`: expected an object, found none")?;
        // Cursor sends the arguments of MCP tools as a text.
        let arguments = match json::string(given) {
            Some(text) if self.agent == CodingAgent::Cursor => {
                json::check(&text).map_err(|error| format!("`tool_input`: {error}"))?;
                text
            }
            _ => given.get().into(),
        };
        if arguments.starts_with('{') {
            Ok(arguments)
        } else {
            Err("`tool_input`: expected an object, found another value".to_owned())
        }
    }

    fn result(&self, kind: EventKind) -> Result<HookResult<'a>, String> {
        let is_failure = kind == EventKind::Failed;
        let names: &[&str] = match (kind, self.agent) {
            (EventKind::Failed, _) => &["error", "error_message"],
            (EventKind::AfterShell, _) => &["output"],
            (EventKind::AfterMcp, _) => &["result_json"],
            (_, CodingAgent::Cursor) => &["tool_output"],
            _ => &["tool_response"],
        };
        let found = names.iter().find_map(|name| self.members.get(name));
        let found =
            found.ok_or_else(|| format!("`{}`: expected a value, found none", names.join("` or `")))?;
        // Cursor sends results as texts; one that is JSON states facts.
        let text = json::string(found).filter(|text| {
            self.agent == CodingAgent::Cursor && kind != EventKind::AfterShell && json::check(text).is_ok()
        });
        let is_error = Members::read(found.get())
            .is_ok_and(|result| result.get("error").is_some_and(|error| error.get() != "null"));
        let is_error = is_failure || (self.agent == CodingAgent::GeminiCli && is_error);
        Ok(HookResult { content: text.unwrap_or_else(|| found.get().into()), is_error, is_failure })
    }

    fn text(&self, name: &str) -> Result<Cow<'a, str>, String> {
        self.first_text(&[name])
    }

    fn first_text(&self, names: &[&str]) -> Result<Cow<'a, str>, String> {
        let found = names.iter().find_map(|name| self.members.text(name));
        found.filter(|text| !text.is_empty() && text.len() <= MAX_ID_BYTES).ok_or_else(|| {
            format!("`{}`: expected a text of 1 to {MAX_ID_BYTES} bytes", names.join("` or `"))
        })
    }
}
