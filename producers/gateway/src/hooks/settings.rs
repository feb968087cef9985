//! Settings of coding agents: adds the hooks of agentgov so that they fail closed, and reports calls that would not be asked.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::agent::CodingAgent;
use crate::json::{self, Members};

/// Time that an agent gives its hook. It is longer than the hook's own time-out, since a hook that the agent gives up lets the
/// call run in most agents.
const TIMEOUT_SECONDS: u64 = 30;
/// Ends the command with 2, whatever happened: the program is missing, was killed, or failed.
const FAIL_CLOSED: &str = " || { echo 'agentgov: blocked' >&2; exit 2; }";

/// Settings with the hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The whole file.
    pub text: String,
    /// False if the file had the hooks already.
    pub is_changed: bool,
}

/// Form of a file of settings.
struct Form {
    /// Events that are hooked.
    events: &'static [&'static str],
    /// True if an event has groups of hooks, each with a matcher.
    has_groups: bool,
}

impl CodingAgent {
    const fn form(self) -> Form {
        match self {
            Self::ClaudeCode => Form {
                events: &[
                    "SessionStart",
                    "UserPromptSubmit",
                    "PreToolUse",
                    "PostToolUse",
                    "PostToolUseFailure",
                    "SessionEnd",
                ],
                has_groups: true,
            },
            Self::Codex => Form {
                events: &["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse"],
                has_groups: true,
            },
            Self::Cursor => Form {
                events: &[
                    "sessionStart",
                    "beforeSubmitPrompt",
                    "preToolUse",
                    "postToolUse",
                    "postToolUseFailure",
                    "sessionEnd",
                ],
                has_groups: false,
            },
            Self::GeminiCli => Form {
                events: &["SessionStart", "BeforeAgent", "BeforeTool", "AfterTool", "SessionEnd"],
                has_groups: true,
            },
        }
    }

    /// Returns the file of a user's settings, below the home folder.
    pub const fn settings_file(self) -> &'static str {
        match self {
            Self::ClaudeCode => ".claude/settings.json",
            Self::Codex => ".codex/hooks.json",
            Self::Cursor => ".cursor/hooks.json",
            Self::GeminiCli => ".gemini/settings.json",
        }
    }

    /// Returns what no setting of this file can ensure.
    pub const fn caveats(self) -> &'static [&'static str] {
        match self {
            Self::ClaudeCode => &[
                "Claude Code before 2.1.295 ignores `onFailure`: a hook that it cannot start or gives up lets the call run",
                "settings of the project or of an administrator may turn hooks off (`disableAllHooks`)",
            ],
            Self::Codex => &[
                "Codex runs no hook that its user has not trusted, and says nothing: trust it once with /hooks, or manage it in \
                 requirements.toml",
                "`[features] hooks = false` in config.toml turns hooks off",
                "Codex reports no end of a session",
            ],
            Self::Cursor => &[
                "Cursor loads the hooks of Claude Code, too: a call is asked twice if both have agentgov's",
                "a tool of an MCP server is `mcp/TOOL`, since Cursor does not name the server",
            ],
            Self::GeminiCli => &[
                "Gemini CLI runs no hook of an untrusted folder, and `hooksConfig.enabled: false` turns hooks off",
            ],
        }
    }

    fn entry(self, event: &str, command: &str) -> Value {
        let command = format!("{command}{FAIL_CLOSED}");
        match self {
            Self::ClaudeCode if matches!(event, "PreToolUse" | "UserPromptSubmit") => json!({
                "type": "command", "command": command, "timeout": TIMEOUT_SECONDS, "onFailure": "block",
            }),
            Self::ClaudeCode | Self::Codex => {
                json!({ "type": "command", "command": command, "timeout": TIMEOUT_SECONDS })
            }
            Self::Cursor => json!({ "command": command, "timeout": TIMEOUT_SECONDS, "failClosed": true }),
            Self::GeminiCli => json!({
                "name": "agentgov", "type": "command", "command": command, "timeout": TIMEOUT_SECONDS * 1_000,
            }),
        }
    }

    /// Returns true for a command of ours for this agent.
    fn is_own(self, command: &str) -> bool {
        command.contains("agentgov") && command.contains(&format!(" hook {} ", self.name()))
    }

    /// Returns why a hook of ours may let a call run unasked.
    fn fault(self, event: &str, entry: &Value) -> Option<String> {
        let expected = self.entry(event, "");
        let command = entry.get("command").and_then(Value::as_str).unwrap_or_default();
        if !command.ends_with(FAIL_CLOSED) {
            return Some(format!("the command does not end with `{}`", FAIL_CLOSED.trim()));
        }
        let differs = |name: &&str| entry.get(name) != expected.get(name);
        let name = ["type", "onFailure", "failClosed"].into_iter().find(differs);
        if let Some(name) = name {
            let expected = expected.get(name).unwrap_or(&Value::Null);
            return Some(format!("`{name}`: expected {expected}, found another value"));
        }
        let (timeout, least) = (entry.get("timeout"), expected.get("timeout").and_then(Value::as_f64));
        if timeout.is_some_and(|timeout| timeout.as_f64() < least) {
            return Some(format!("`timeout`: expected at least {}, found less", least.unwrap_or_default()));
        }
        ["async", "disabled"]
            .into_iter()
            .find(|name| entry.get(name).is_some_and(|value| *value != Value::Bool(false)))
            .map(|name| format!("`{name}`: expected none, found a value"))
    }
}

/// Returns `text` as one word of a shell.
///
/// # Errors
/// If it has a control character.
pub fn shell_word(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err(format!("expected a text without control characters, found {text:?}"));
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// A hook of ours in the settings.
struct Own<'a> {
    entry: &'a RawValue,
    /// Matcher of its group, if it has one.
    matcher: Option<String>,
}

/// Returns the hooks of ours in the array of an event.
fn own<'a>(agent: CodingAgent, array: &'a RawValue) -> Result<Vec<Own<'a>>, String> {
    let elements = |value: &'a RawValue| {
        serde_json::from_str::<Vec<&'a RawValue>>(value.get())
            .map_err(|error| format!("expected a list of hooks: {error}"))
    };
    let mut found = Vec::new();
    for element in elements(array)? {
        let group = Members::read(element.get())?;
        let entries = match (agent.form().has_groups, group.get("hooks")) {
            (true, Some(hooks)) => elements(hooks)?,
            (true, None) => Vec::new(),
            (false, _) => vec![element],
        };
        for entry in entries {
            let command = Members::read(entry.get())?.text("command");
            if command.is_some_and(|command| agent.is_own(&command)) {
                let matcher = group.text("matcher").filter(|matcher| !matches!(&**matcher, "" | "*"));
                found.push(Own { entry, matcher: matcher.map(std::borrow::Cow::into_owned) });
            }
        }
    }
    Ok(found)
}

/// Adds the hooks to the settings, which run `command` for each event. Everything else keeps its bytes.
///
/// # Errors
/// If the settings cannot be read, or have hooks of ours that only a person can correct.
pub fn install(agent: CodingAgent, text: &str, command: &str) -> Result<Installed, String> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    json::check_folded(text, 0)?;
    let mut settings = text.to_owned();
    if agent == CodingAgent::Cursor && Members::read(text)?.get("version").is_none() {
        settings = with_member(&settings, "version", "1", 1)?;
    }
    let mut hooks = match Members::read(text)?.get("hooks") {
        Some(hooks) => hooks.get().to_owned(),
        None => "{}".to_owned(),
    };
    for event in agent.form().events {
        let at = |error: String| format!("`hooks.{event}`: {error}");
        let entry = agent.entry(event, command);
        let group = if agent.form().has_groups { json!({ "hooks": [entry] }) } else { entry.clone() };
        let members = Members::read(&hooks).map_err(|error| format!("`hooks`: {error}"))?;
        let Some(array) = members.get(event) else {
            hooks = with_member(&hooks, event, &pretty(&json!([group]), 2), 2)?;
            continue;
        };
        let own = own(agent, array).map_err(at)?;
        let changed = match own.as_slice() {
            [] => with_element(array.get(), &pretty(&group, 3), 3),
            [Own { entry: old, matcher: None }] => {
                let is_same = serde_json::from_str::<Value>(old.get()).is_ok_and(|old| old == entry);
                let depth = if agent.form().has_groups { 5 } else { 3 };
                let new = if is_same { old.get().to_owned() } else { pretty(&entry, depth) };
                json::splice(array.get(), old.get(), &new)
                    .ok_or("a bug in agentgov")
                    .map_err(|e| at(e.to_owned()))?
            }
            [Own { matcher: Some(matcher), .. }] => {
                return Err(at(format!(
                    "agentgov is asked for {matcher:?} only; remove the matcher or this hook"
                )));
            }
            _ => return Err(at("agentgov stands there several times; remove all but one".to_owned())),
        };
        hooks = with_member(&hooks, event, &changed, 2)?;
    }
    let text_with = with_member(&settings, "hooks", &hooks, 1)?;
    json::check_folded(&text_with, 0)?;
    Ok(Installed { is_changed: text_with != text, text: text_with })
}

/// Returns what would not be asked, or would run although the hook failed.
///
/// # Errors
/// If the settings cannot be read.
pub fn check(agent: CodingAgent, text: &str) -> Result<Vec<String>, String> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    json::check_folded(text, 0)?;
    let settings = Members::read(text)?;
    let mut faults = Vec::new();
    let is_set =
        |value: Option<&RawValue>, expected: &str| value.is_some_and(|value| value.get() == expected);
    if agent == CodingAgent::ClaudeCode && !is_set(settings.get("disableAllHooks"), "false") {
        let disabled = settings.get("disableAllHooks").map(|_| "`disableAllHooks`: hooks are turned off");
        faults.extend(disabled.map(str::to_owned));
    }
    if agent == CodingAgent::GeminiCli
        && let Some(config) = settings.object("hooksConfig")
    {
        if config.get("enabled").is_some() && !is_set(config.get("enabled"), "true") {
            faults.push("`hooksConfig.enabled`: hooks are turned off".to_owned());
        }
        if config.get("disabled").is_some_and(|disabled| disabled.get().contains("agentgov")) {
            faults.push("`hooksConfig.disabled`: the hooks of agentgov are turned off".to_owned());
        }
    }
    let hooks = match settings.get("hooks") {
        Some(hooks) => Members::read(hooks.get()).map_err(|error| format!("`hooks`: {error}"))?,
        None => Members::default(),
    };
    for event in agent.form().events {
        let own = match hooks.get(event) {
            Some(array) => own(agent, array).map_err(|error| format!("`hooks.{event}`: {error}"))?,
            None => Vec::new(),
        };
        let mut fault = |fault: &str| faults.push(format!("`hooks.{event}`: {fault}"));
        match own.as_slice() {
            [] => fault("agentgov is not asked"),
            [one] => {
                if let Some(matcher) = &one.matcher {
                    fault(&format!("agentgov is asked for {matcher:?} only"));
                }
                let entry = serde_json::from_str(one.entry.get()).unwrap_or(Value::Null);
                if let Some(text) = agent.fault(event, &entry) {
                    fault(&text);
                }
            }
            _ => fault("agentgov is asked several times"),
        }
    }
    Ok(faults)
}

/// Returns a value as indented JSON, as a part of a file at this depth.
fn pretty(value: &Value, depth: usize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.replace('\n', &format!("\n{}", "  ".repeat(depth)))
}

/// Returns the object with a member, at the end if it is new.
fn with_member(object: &str, name: &str, value: &str, depth: usize) -> Result<String, String> {
    let members = Members::read(object)?;
    if let Some(old) = members.get(name) {
        return json::splice(object, old.get(), value).ok_or_else(|| "a bug in agentgov".to_owned());
    }
    Ok(with_last(object, '}', &format!("{}: {value}", json::quoted(name)), depth))
}

/// Returns the array with one more element at its end.
fn with_element(array: &str, value: &str, depth: usize) -> String {
    with_last(array, ']', value, depth)
}

/// Adds an element before the bracket that ends `whole`.
fn with_last(whole: &str, bracket: char, element: &str, depth: usize) -> String {
    let Some((before, after)) = whole.rsplit_once(bracket) else { return whole.to_owned() };
    let kept = before.trim_end();
    let separator = if kept.ends_with(['{', '[']) { "" } else { "," };
    let (inner, outer) = ("  ".repeat(depth), "  ".repeat(depth.saturating_sub(1)));
    format!("{kept}{separator}\n{inner}{element}\n{outer}{bracket}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: &str = "'/opt/agentgov' hook AGENT --url http://127.0.0.1:8282";

    fn command(agent: CodingAgent) -> String {
        COMMAND.replace("AGENT", agent.name())
    }

    fn installed(agent: CodingAgent, text: &str) -> Installed {
        install(agent, text, &command(agent)).unwrap()
    }

    #[test]
    fn hooks_are_installed_once_and_pass_the_check() {
        for agent in CodingAgent::ALL {
            for text in ["", "{}", "{\"hooks\":{}}", "{\n  \"model\": \"m\"\n}\n"] {
                let first = installed(agent, text);
                assert!(first.is_changed, "{agent:?}");
                assert_eq!(check(agent, &first.text), Ok(Vec::new()), "{agent:?} {}", first.text);
                let again = installed(agent, &first.text);
                assert_eq!(again, Installed { text: first.text.clone(), is_changed: false }, "{agent:?}");
                let value: Value = serde_json::from_str(&first.text).unwrap();
                assert_eq!(value["hooks"].as_object().unwrap().len(), agent.form().events.len());
                for event in agent.form().events {
                    assert!(agent.event(event).is_some(), "{agent:?} {event}");
                }
            }
            assert_eq!(check(agent, "").unwrap().len(), agent.form().events.len());
        }
    }

    #[test]
    fn other_settings_keep_their_bytes_and_their_order() {
        let text = "{ \"z\":1.0,  \"hooks\": {\"PreToolUse\": [ {\"matcher\":\"Bash\",\"hooks\":[{\"type\":\"command\",\"command\":\"lint\"}]} ],\n\
                    \"Stop\":[]},\t\"a\": 12345678901234567890123 }\r\n";
        let Installed { text: with, .. } = installed(CodingAgent::ClaudeCode, text);
        for part in [
            "{ \"z\":1.0,  \"hooks\": {\"PreToolUse\": [ {\"matcher\":\"Bash\",\"hooks\":[{\"type\":\"command\",\"command\":\"lint\"}]},",
            "\"Stop\":[]",
            ",\t\"a\": 12345678901234567890123 }\r\n",
        ] {
            assert!(with.contains(part), "{part}: {with}");
        }
        assert_eq!(check(CodingAgent::ClaudeCode, &with), Ok(Vec::new()));
    }

    #[test]
    fn earlier_hook_of_ours_is_replaced() {
        for agent in CodingAgent::ALL {
            let old = installed(agent, "{}").text.replace("8282", "9999").replace(FAIL_CLOSED, "");
            assert!(!check(agent, &old).unwrap().is_empty());
            let new = installed(agent, &old);
            assert!(new.is_changed && !new.text.contains("9999"), "{}", new.text);
            assert_eq!(check(agent, &new.text), Ok(Vec::new()));
        }
    }

    #[test]
    fn check_names_what_would_not_be_asked() {
        use CodingAgent::{ClaudeCode, Codex, Cursor, GeminiCli};
        let with = |agent, from: &str, to: &str| {
            let text = installed(agent, "{}").text;
            assert!(text.contains(from), "{text}");
            text.replacen(from, to, 1)
        };
        for (agent, text, expected) in [
            (
                ClaudeCode,
                with(ClaudeCode, "\"PreToolUse\"", "\"PreTool\""),
                "`hooks.PreToolUse`: agentgov is not asked",
            ),
            (
                ClaudeCode,
                with(ClaudeCode, "\"onFailure\": \"block\"", "\"x\": 1"),
                "`onFailure`: expected \"block\"",
            ),
            (
                ClaudeCode,
                with(ClaudeCode, "\"timeout\": 30", "\"timeout\": 5"),
                "`timeout`: expected at least 30",
            ),
            (
                ClaudeCode,
                with(ClaudeCode, "\"hooks\": [", "\"matcher\": \"Bash\", \"hooks\": ["),
                "asked for \"Bash\" only",
            ),
            (ClaudeCode, with(ClaudeCode, "{", "{\"disableAllHooks\": true,"), "`disableAllHooks`"),
            (Codex, with(Codex, FAIL_CLOSED, ""), "the command does not end with"),
            (
                Codex,
                with(Codex, "\"type\": \"command\"", "\"type\": \"prompt\""),
                "`type`: expected \"command\"",
            ),
            (Codex, with(Codex, "\"timeout\": 30", "\"async\": true"), "`async`: expected none"),
            (
                Cursor,
                with(Cursor, "\"failClosed\": true", "\"failClosed\": false"),
                "`failClosed`: expected true",
            ),
            (
                GeminiCli,
                with(GeminiCli, "{", "{\"hooksConfig\": {\"enabled\": false},"),
                "`hooksConfig.enabled`",
            ),
            (
                GeminiCli,
                with(GeminiCli, "{", "{\"hooksConfig\": {\"disabled\": [\"agentgov\"]},"),
                "`hooksConfig.disabled`",
            ),
        ] {
            let faults = check(agent, &text).unwrap();
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        }
    }

    #[test]
    fn settings_that_cannot_be_read_or_corrected_are_refused() {
        let agent = CodingAgent::ClaudeCode;
        let twice = installed(agent, "{}").text.replacen(
            "\"hooks\": [",
            "\"hooks\": [{\"command\": \"agentgov hook claude-code x\"},",
            1,
        );
        let matched =
            installed(agent, "{}").text.replacen("\"hooks\": [", "\"matcher\": \"Bash\", \"hooks\": [", 1);
        for text in [
            "[]",
            "{",
            "// comment\n{}",
            "{\"hooks\": 1}",
            "{\"hooks\": {\"PreToolUse\": {}}}",
            "{\"hooks\": {\"PreToolUse\": [1]}}",
            "{\"a\": 1, \"a\": 2}",
            &twice,
            &matched,
        ] {
            let refused = install(agent, text, &command(agent));
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
        assert!(check(agent, "// comment\n{}").is_err());
    }

    #[test]
    fn path_is_one_word_of_a_shell() {
        assert_eq!(shell_word("/a b/$x'y").unwrap(), r"'/a b/$x'\''y'");
        assert!(shell_word("a\nb").is_err());
    }
}
