//! Coding agents: their events, and the names of their tools.

/// Coding agent with hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CodingAgent {
    /// Claude Code.
    ClaudeCode,
    /// Codex CLI.
    Codex,
    /// Cursor.
    Cursor,
    /// Gemini CLI.
    GeminiCli,
}

/// Kind of an event. The variants differ in the members that the payload has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A session begins or goes on.
    SessionStart,
    /// A session ends.
    SessionEnd,
    /// A person sends a prompt.
    Prompt,
    /// A tool is about to be called.
    Before,
    /// A tool has answered.
    After,
    /// The call of a tool has failed.
    Failed,
    /// A command is about to run (Cursor).
    BeforeShell,
    /// A command has ended (Cursor).
    AfterShell,
    /// A tool of an MCP server is about to be called (Cursor).
    BeforeMcp,
    /// A tool of an MCP server has answered (Cursor).
    AfterMcp,
}

/// Events that each agent sends. Others are refused, so that nothing passes that nobody looks at.
const EVENTS: &[(CodingAgent, &str, EventKind)] = {
    use CodingAgent::{ClaudeCode, Codex, Cursor, GeminiCli};
    use EventKind::*;
    &[
        (ClaudeCode, "SessionStart", SessionStart),
        (ClaudeCode, "SessionEnd", SessionEnd),
        (ClaudeCode, "UserPromptSubmit", Prompt),
        (ClaudeCode, "PreToolUse", Before),
        (ClaudeCode, "PostToolUse", After),
        (ClaudeCode, "PostToolUseFailure", Failed),
        (Codex, "SessionStart", SessionStart),
        (Codex, "SessionEnd", SessionEnd),
        (Codex, "UserPromptSubmit", Prompt),
        (Codex, "PreToolUse", Before),
        (Codex, "PostToolUse", After),
        (Cursor, "sessionStart", SessionStart),
        (Cursor, "sessionEnd", SessionEnd),
        (Cursor, "beforeSubmitPrompt", Prompt),
        (Cursor, "preToolUse", Before),
        (Cursor, "postToolUse", After),
        (Cursor, "postToolUseFailure", Failed),
        (Cursor, "beforeShellExecution", BeforeShell),
        (Cursor, "afterShellExecution", AfterShell),
        (Cursor, "beforeMCPExecution", BeforeMcp),
        (Cursor, "afterMCPExecution", AfterMcp),
        (GeminiCli, "SessionStart", SessionStart),
        (GeminiCli, "SessionEnd", SessionEnd),
        (GeminiCli, "BeforeAgent", Prompt),
        (GeminiCli, "BeforeTool", Before),
        (GeminiCli, "AfterTool", After),
    ]
};

/// Names that one tool has elsewhere (telemetry, transcripts, older versions), and its name in hooks, which policies use.
const TOOL_NAMES: &[(CodingAgent, &str, &str)] = &[
    (CodingAgent::Codex, "exec_command", "Bash"),
    (CodingAgent::Codex, "shell", "Bash"),
    (CodingAgent::Codex, "shell_command", "Bash"),
    (CodingAgent::Codex, "local_shell", "Bash"),
    (CodingAgent::Codex, "local_shell_call", "Bash"),
    (CodingAgent::Codex, "container.exec", "Bash"),
];

/// Server of MCP tools whose agent does not name their server.
const UNNAMED_SERVER: &str = "mcp";

/// A tool as policies name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolName {
    /// The name; with the server for a tool of an MCP server.
    pub name: String,
    /// The MCP server, if the name in the hook leaves no doubt about it.
    pub server: Option<String>,
}

impl CodingAgent {
    /// Every agent.
    pub const ALL: [Self; 4] = [Self::ClaudeCode, Self::Codex, Self::Cursor, Self::GeminiCli];

    /// Returns the name in commands and paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Cursor => "cursor",
            Self::GeminiCli => "gemini-cli",
        }
    }

    /// Returns the agent of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|agent| agent.name() == name)
    }

    /// Returns the kind of an event; `None` if the agent's hooks are not for it.
    pub fn event(self, name: &str) -> Option<EventKind> {
        EVENTS.iter().find(|(agent, event, _)| *agent == self && *event == name).map(|(_, _, kind)| *kind)
    }

    /// Returns the names of the events.
    pub fn events(self) -> impl Iterator<Item = &'static str> {
        EVENTS.iter().filter(move |(agent, _, _)| *agent == self).map(|(_, event, _)| *event)
    }

    /// Returns the tool of a name in a hook, in telemetry or in a transcript: `mcp__s__t` is `s/t`.
    ///
    /// # Errors
    /// If no tool of the agent has such a name.
    pub fn tool(self, name: &str) -> Result<ToolName, String> {
        if name.is_empty() || name.contains('/') {
            return Err(format!("expected the name of a tool, not empty and without `/`, found {name:?}"));
        }
        if let Some(rest) = name.strip_prefix("mcp__") {
            let (server, tool) = rest.split_once("__").unwrap_or_default();
            if server.is_empty() || tool.is_empty() {
                return Err(format!("expected mcp__SERVER__TOOL, found {name:?}"));
            }
            // A server's name may contain the separator, too.
            let is_certain = !tool.contains("__") && !tool.starts_with('_') && !server.ends_with('_');
            let server_of = |server: &str| is_certain.then(|| server.to_owned());
            return Ok(ToolName { name: format!("{server}/{tool}"), server: server_of(server) });
        }
        if self == Self::Cursor
            && let Some(tool) = name.strip_prefix("MCP:")
        {
            if tool.trim().is_empty() {
                return Err(format!("expected MCP:TOOL, found {name:?}"));
            }
            return Ok(ToolName { name: format!("{UNNAMED_SERVER}/{}", tool.trim()), server: None });
        }
        let known = TOOL_NAMES.iter().find(|(agent, other, _)| *agent == self && *other == name);
        Ok(ToolName { name: known.map_or(name, |(_, _, hook)| hook).to_owned(), server: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_has_one_name_in_hook_telemetry_and_transcript() {
        for (agent, names, expected) in [
            (CodingAgent::Codex, &["Bash", "exec_command", "shell", "local_shell"][..], "Bash"),
            (CodingAgent::ClaudeCode, &["shell"], "shell"),
            (CodingAgent::Cursor, &["Shell"], "Shell"),
            (CodingAgent::Cursor, &["MCP:search", "MCP: search"], "mcp/search"),
            (CodingAgent::GeminiCli, &["run_shell_command"], "run_shell_command"),
            (CodingAgent::GeminiCli, &["MCP:search"], "MCP:search"),
        ] {
            for name in names {
                assert_eq!(agent.tool(name).unwrap(), ToolName { name: expected.to_owned(), server: None });
            }
        }
    }

    #[test]
    fn mcp_tool_has_its_server_only_where_the_name_is_certain() {
        for (name, tool, server) in [
            ("mcp__files__read_file", "files/read_file", Some("files")),
            ("mcp__files__x__y", "files/x__y", None),
            ("mcp__files___y", "files/_y", None),
        ] {
            let expected = ToolName { name: tool.to_owned(), server: server.map(str::to_owned) };
            assert_eq!(CodingAgent::ClaudeCode.tool(name).unwrap(), expected, "{name}");
        }
        for name in ["", "mcp__", "mcp__files", "mcp__files__", "mcp____t", "files/read_file"] {
            assert!(CodingAgent::ClaudeCode.tool(name).is_err(), "{name}");
        }
        assert!(CodingAgent::Cursor.tool("MCP:").is_err());
    }

    #[test]
    fn events_are_known_by_the_agent_that_sends_them() {
        for agent in CodingAgent::ALL {
            assert_eq!(CodingAgent::by_name(agent.name()), Some(agent));
            let kinds: Vec<_> = agent.events().filter_map(|event| agent.event(event)).collect();
            for kind in [EventKind::Before, EventKind::After, EventKind::Prompt, EventKind::SessionStart] {
                assert!(kinds.contains(&kind), "{agent:?} {kind:?}");
            }
        }
        assert_eq!(CodingAgent::Codex.event("BeforeTool"), None);
        assert_eq!(CodingAgent::ClaudeCode.event("pretooluse"), None);
    }
}
