//! Hooks with decisions and a log of the tests.

use std::time::Duration;

use agentgov_authzen_client::{AskError, CallQuestion, Decision, PermittedTool};
use agentgov_sdk::{Event, Receipt, RecordError};

use super::reply::HookOutcome;
use super::*;
use crate::session::{Decider, Journal};
use crate::sessions::Journals;

const OWNER: Owner<'_> = Owner { tenant_id: "acme", environment: "test", agent_id: "dev-bot" };

/// Questions and events, in order, as `asked TOOL ID ARGUMENTS` and `SESSION TYPE ID CONTENT`.
type History = Arc<Mutex<Vec<String>>>;

struct FakeDecider(History);

impl Decider for FakeDecider {
    fn decide(&self, question: &CallQuestion<'_>, _: Duration) -> Result<Decision, AskError> {
        let (id, arguments) = (question.call_id.unwrap(), question.arguments);
        self.0.lock().unwrap().push(format!("asked {} {id} {arguments}", question.tool));
        let outcome = ["deny", "ask", "away"].into_iter().find(|outcome| arguments.contains(outcome));
        let outcome = outcome.unwrap_or("allow");
        if outcome == "away" {
            return Err(AskError::Away { url: "u".to_owned(), message: "refused".to_owned() });
        }
        let answer = json!({
            "decision": outcome == "allow",
            "context": {
                "outcome": outcome, "reason": "policy", "evaluation_id": "the-approval", "recorded": true,
                "token": "the-token", "policies": [{ "id": "rule", "title": "The rule" }],
            },
        });
        Ok(Decision::parse(&answer.to_string()).unwrap())
    }

    fn permitted_tools(&self, _: &CallQuestion<'_>) -> Result<Vec<PermittedTool>, AskError> {
        Ok(Vec::new())
    }
}

struct FakeJournal(History);

impl Journal for FakeJournal {
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        self.check(event)?;
        let mut history = self.0.lock().unwrap();
        let (id, content) = match (&event.tool, &event.result, &event.message) {
            (Some(tool), ..) => {
                assert_eq!(tool.decision_token, Some("the-token"));
                (format!("{} {}", tool.name, tool.call_id), tool.arguments.data)
            }
            (_, Some(result), _) => (result.call_id.to_owned(), result.content.data),
            (_, _, Some(message)) => (message.role.to_owned(), message.content.unwrap().data),
            _ => (String::new(), &b""[..]),
        };
        let content = String::from_utf8_lossy(content);
        history.push(format!("{} {} {id} {content}", event.session_id, event.r#type));
        Ok(Receipt { event_id: Uuid::nil(), sequence: i64::try_from(history.len()).unwrap() })
    }

    fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        let full = event.message.is_some_and(|message| message.content.unwrap().data == b"full");
        if full { Err(RecordError::Closed { source_id: "source".to_owned() }) } else { Ok(()) }
    }

    fn source_id(&self) -> &'static str {
        "source"
    }
}

struct FakeLog(History);

impl Journals for FakeLog {
    fn open(&self, _: &str, _: &str) -> Result<Arc<dyn Journal>, String> {
        Ok(Arc::new(FakeJournal(Arc::clone(&self.0))))
    }
}

fn hooks() -> (Hooks, History) {
    let history = History::default();
    let log = Arc::clone(&history);
    let sessions = Sessions::new(Arc::new(FakeDecider(Arc::clone(&log))), Box::new(FakeLog(log)));
    (Hooks::new(Arc::new(sessions)), history)
}

fn answer(hooks: &Hooks, agent: CodingAgent, body: &str) -> Result<HookReply, HookError> {
    hooks.answer(agent, &OWNER, body.as_bytes(), |server| server == "files")
}

/// Returns what was asked and recorded, without the note about the source.
fn steps(history: &History) -> Vec<String> {
    let steps = std::mem::take(&mut *history.lock().unwrap());
    steps.into_iter().filter(|step| !step.contains(HOOKS_ATTACHED)).collect()
}

fn body(agent: CodingAgent, event: &str, more: &str) -> String {
    let common = match agent {
        CodingAgent::ClaudeCode | CodingAgent::Codex => {
            r#""session_id":"s","transcript_path":"/t","cwd":"/w","permission_mode":"default""#
        }
        CodingAgent::Cursor => {
            r#""conversation_id":"s","generation_id":"g","cursor_version":"3.0","workspace_roots":["/w"]"#
        }
        CodingAgent::GeminiCli => r#""session_id":"s","cwd":"/w","timestamp":"2026-11-30T06:11:00.535Z""#,
    };
    format!(r#"{{{common},"hook_event_name":"{event}"{more}}}"#)
}

#[test]
fn each_event_of_each_agent_is_decided_and_recorded() {
    use CodingAgent::{ClaudeCode, Codex, Cursor, GeminiCli};
    let bash = r#","tool_name":"Bash","tool_input":{ "command":"ls \u0041" , "n":1.0},"tool_use_id":"c1""#;
    let asked = r#"asked Bash c1 { "command":"ls \u0041" , "n":1.0}"#;
    let invoked = r#"s tool.invoked Bash c1 { "command":"ls \u0041" , "n":1.0}"#;
    let shell = r#","tool_name":"Shell","tool_input":{"command":"ls"},"tool_use_id":"c2""#;
    let mcp = r#","tool_name":"mcp__web__get","tool_input":{"a":1,"A":2},"tool_use_id":"c3""#;
    let calls: [&str; 2] = [asked, invoked];
    for (agent, event, more, expected) in [
        (ClaudeCode, "SessionStart", r#","source":"startup""#.to_owned(), &["s session.started  "][..]),
        (ClaudeCode, "SessionStart", r#","source":"resume""#.to_owned(), &[]),
        (ClaudeCode, "SessionStart", r#","source":"compact""#.to_owned(), &[]),
        (ClaudeCode, "SessionEnd", String::new(), &["s session.ended  "]),
        (ClaudeCode, "UserPromptSubmit", r#","prompt":"h\u0069""#.to_owned(), &["s user.input user hi"]),
        (ClaudeCode, "PreToolUse", bash.to_owned(), &calls),
        (
            ClaudeCode,
            "PostToolUse",
            format!(r#"{bash},"tool_response":{{"stdout": "x" }}"#),
            &[r#"s tool.response_received c1 {"stdout": "x" }"#],
        ),
        (ClaudeCode, "PostToolUseFailure", format!(r#"{bash},"error":"no""#), &[r#"s tool.failed c1 "no""#]),
        (
            ClaudeCode,
            "PreToolUse",
            mcp.to_owned(),
            &[r#"asked web/get c3 {"a":1,"A":2}"#, r#"s tool.invoked web/get c3 {"a":1,"A":2}"#],
        ),
        (Codex, "SessionStart", r#","source":"startup","model":"m""#.to_owned(), &["s session.started  "]),
        (Codex, "UserPromptSubmit", r#","turn_id":"t","prompt":"hi""#.to_owned(), &["s user.input user hi"]),
        (Codex, "PreToolUse", format!(r#"{bash},"turn_id":"t""#), &calls),
        (Codex, "PreToolUse", bash.replace("Bash", "exec_command"), &calls),
        (
            Codex,
            "PostToolUse",
            format!(r#"{bash},"tool_response":"out""#),
            &[r#"s tool.response_received c1 "out""#],
        ),
        (Cursor, "sessionStart", String::new(), &["s session.started  "]),
        (Cursor, "sessionEnd", String::new(), &["s session.ended  "]),
        (
            Cursor,
            "beforeSubmitPrompt",
            r#","prompt":"hi","attachments":[]"#.to_owned(),
            &["s user.input user hi"],
        ),
        (
            Cursor,
            "preToolUse",
            shell.to_owned(),
            &[r#"asked Shell c2 {"command":"ls"}"#, r#"s tool.invoked Shell c2 {"command":"ls"}"#],
        ),
        (
            Cursor,
            "postToolUse",
            format!(r#"{shell},"tool_output":"{{\"exitCode\":0}}""#),
            &[r#"s tool.response_received c2 {"exitCode":0}"#],
        ),
        (
            Cursor,
            "postToolUseFailure",
            format!(r#"{shell},"error_message":"late""#),
            &[r#"s tool.failed c2 "late""#],
        ),
        (GeminiCli, "SessionStart", r#","source":"startup""#.to_owned(), &["s session.started  "]),
        (GeminiCli, "SessionEnd", r#","reason":"exit""#.to_owned(), &["s session.ended  "]),
        (GeminiCli, "BeforeAgent", r#","prompt":"hi""#.to_owned(), &["s user.input user hi"]),
    ] {
        let (hooks, history) = hooks();
        let reply = answer(&hooks, agent, &body(agent, event, &more)).unwrap();
        assert_eq!(reply.outcome, HookOutcome::Allow, "{agent:?} {event}");
        assert_eq!(steps(&history), expected, "{agent:?} {event} {more}");
    }
}

#[test]
fn call_without_an_id_gets_one_that_its_result_has_too() {
    let before = r#","tool_name":"run_shell_command","tool_input":{"command":"ls"}"#;
    let after = format!(r#"{before},"tool_response":{{"llmContent":"x"}}"#);
    for (agent, begin, before, end, after) in [
        (CodingAgent::GeminiCli, "BeforeTool", before, "AfterTool", after.as_str()),
        (
            CodingAgent::Cursor,
            "beforeShellExecution",
            r#","command":"ls","cwd":"/w""#,
            "afterShellExecution",
            r#","command":"ls","output":"x","duration":1"#,
        ),
        (
            CodingAgent::Cursor,
            "beforeMCPExecution",
            r#","tool_name":"MCP:get","tool_input":"{\"command\":\"ls\"}","url":"http://x""#,
            "afterMCPExecution",
            r#","tool_name":"get","tool_input":"{\"command\":\"ls\"}","result_json":"{}","duration":1"#,
        ),
    ] {
        let (hooks, history) = hooks();
        // Two equal calls in a row, then their results.
        for (event, more) in [(begin, before), (begin, before), (end, after), (end, after)] {
            answer(&hooks, agent, &body(agent, event, more)).unwrap();
        }
        let steps = steps(&history);
        let id = |step: usize, part: usize| steps[step].split(' ').nth(part).unwrap().to_owned();
        assert!(steps[0].ends_with(r#"{"command":"ls"}"#), "{steps:?}");
        assert_eq!(steps.len(), 6, "{steps:?}");
        assert_eq!((id(0, 2), id(2, 2)), (id(1, 3), id(3, 3)), "asked and recorded: {steps:?}");
        assert_ne!(id(0, 2), id(2, 2), "two calls: {steps:?}");
        assert_eq!(
            (id(0, 2), id(2, 2)),
            (id(4, 2), id(5, 2)),
            "results in the order of the calls: {steps:?}"
        );
        // A result whose call another process of the gateway saw.
        answer(&hooks, agent, &body(agent, end, after)).unwrap();
        // The same hooks in the same order have the same ids.
        let (again, other) = self::hooks();
        answer(&again, agent, &body(agent, begin, before)).unwrap();
        assert_eq!(self::steps(&other)[0], steps[0]);
    }
}

#[test]
fn denied_call_leaves_no_open_call_behind() {
    let (hooks, history) = hooks();
    let call = r#","tool_name":"run_shell_command","tool_input":{"command":"deny"}"#;
    let agent = CodingAgent::GeminiCli;
    let denied = answer(&hooks, agent, &body(agent, "BeforeTool", call)).unwrap();
    assert_eq!(denied.outcome, HookOutcome::Deny);
    let result = format!(r#"{call},"tool_response":{{"error":"e"}}"#);
    answer(&hooks, agent, &body(agent, "AfterTool", &result)).unwrap();
    let steps = steps(&history);
    let (denied, result) = (steps[0].split(' ').nth(2).unwrap(), steps[2].split(' ').nth(2).unwrap());
    assert_ne!(denied, result, "{steps:?}");
}

#[test]
fn deny_and_ask_deny_in_the_words_of_the_agent() {
    for (agent, event, pointer) in [
        (CodingAgent::ClaudeCode, "PreToolUse", "/hookSpecificOutput/permissionDecisionReason"),
        (CodingAgent::Codex, "PreToolUse", ""),
        (CodingAgent::Cursor, "preToolUse", "/agent_message"),
        (CodingAgent::GeminiCli, "BeforeTool", "/reason"),
    ] {
        for (command, expected) in [("deny", "The rule (rule)"), ("ask", "the-approval")] {
            let (hooks, history) = hooks();
            let more = format!(r#","tool_name":"t","tool_input":{{"x":"{command}"}},"tool_use_id":"c""#);
            let reply = answer(&hooks, agent, &body(agent, event, &more)).unwrap();
            assert_eq!(reply.outcome, HookOutcome::Deny);
            assert!(reply.reason.contains(expected), "{}", reply.reason);
            let reason = reply.output.map(|output| output.pointer(pointer).unwrap().clone());
            assert_eq!(reason, (agent != CodingAgent::Codex).then(|| json!(reply.reason)));
            assert!(steps(&history)[1].starts_with("s tool.invoked "), "recorded with its token");
        }
    }
}

#[test]
fn doubt_is_an_error_and_never_an_answer() {
    let agent = CodingAgent::ClaudeCode;
    let call = |tool: &str, input: &str| {
        body(agent, "PreToolUse", &format!(r#","tool_name":{tool},"tool_input":{input},"tool_use_id":"c""#))
    };
    for (given, expected) in [
        (String::new(), "expected JSON"),
        ("[]".to_owned(), "expected an object"),
        ("{}".to_owned(), "`hook_event_name`"),
        (call(r#""Bash""#, "{}").replace('}', ""), "expected JSON"),
        (call(r#""Bash""#, "{}") + "{}", "expected JSON"),
        (body(agent, "BeforeTool", ""), "expected an event of claude-code (SessionStart, "),
        (body(agent, "PreToolUse", r#","hook_event_name":"SessionEnd""#), "`hook_event_name` stands twice"),
        (body(agent, "SessionEnd", r#","Session_ID":"t""#), "`Session_ID` stands twice"),
        (call(r#""Bash""#, r#"{"a":{"b":1,"b":2}}"#), "`b` stands twice"),
        (body(agent, "SessionEnd", "").replace("\"s\"", "\"\""), "`session_id`"),
        (body(agent, "SessionEnd", "").replace("\"s\"", "7"), "`session_id`"),
        (body(agent, "SessionEnd", "").replace("\"s\"", &format!("{:?}", "x".repeat(4097))), "`session_id`"),
        (body(agent, "UserPromptSubmit", ""), "`prompt`"),
        (call("7", "{}"), "`tool_name`"),
        (call(r#""a/b""#, "{}"), "`tool_name`"),
        (call(r#""mcp__files""#, "{}"), "`tool_name`"),
        (call(r#""Bash""#, "[]"), "`tool_input`"),
        (call(r#""Bash""#, r#""{}""#), "`tool_input`"),
        (call(r#""Bash""#, "{}").replace("tool_use_id", "id"), "`tool_use_id`"),
        (call(r#""Bash""#, "{}").replace("PreToolUse", "PostToolUse"), "`tool_response`"),
        ("\u{feff}{}".to_owned(), "expected JSON"),
        ("[".repeat(100_000), "expected JSON"),
    ] {
        let (hooks, history) = hooks();
        let error = answer(&hooks, agent, &given).unwrap_err();
        let HookError::Malformed(message) = &error else { panic!("{given}: {error}") };
        assert!(message.contains(expected), "{given}: {message}");
        assert!(steps(&history).is_empty(), "{given}");
    }
    let (hooks, _) = hooks();
    let malformed = hooks.answer(agent, &OWNER, b"{\"a\":\"\xff\"}", |_| false);
    assert!(matches!(malformed, Err(HookError::Malformed(_))), "{malformed:?}");
    for given in
        [call(r#""Bash""#, r#"{"x":"away"}"#), body(agent, "UserPromptSubmit", r#","prompt":"full""#)]
    {
        let failed = answer(&hooks, agent, &given);
        assert!(matches!(failed, Err(HookError::Failed(_))), "{given}: {failed:?}");
    }
}

#[test]
fn calls_of_the_gateways_own_servers_are_left_to_it() {
    let (hooks, history) = hooks();
    let call = |name: &str| format!(r#","tool_name":"{name}","tool_input":{{"deny":1}},"tool_use_id":"c""#);
    let agent = CodingAgent::ClaudeCode;
    let outcome =
        |name: &str| answer(&hooks, agent, &body(agent, "PreToolUse", &call(name))).unwrap().outcome;
    assert_eq!(outcome("mcp__files__write_file"), HookOutcome::Allow);
    let after = format!(r#"{},"tool_response":1"#, call("mcp__files__write_file"));
    answer(&hooks, agent, &body(agent, "PostToolUse", &after)).unwrap();
    assert!(steps(&history).is_empty());
    // The server may be `files__x`, which is another one.
    for name in ["mcp__files__x__write_file", "mcp__web__write_file", "files"] {
        assert_eq!(outcome(name), HookOutcome::Deny, "{name}");
    }
    let more = format!(r#"{},"mcp_context":{{"server_name":"files","tool_name":"x"}}"#, call("mcp_files_x"));
    let gemini = CodingAgent::GeminiCli;
    let reply = answer(&hooks, gemini, &body(gemini, "BeforeTool", &more)).unwrap();
    assert_eq!(reply.outcome, HookOutcome::Allow);
}

#[test]
fn session_of_another_agent_is_refused() {
    let (hooks, history) = hooks();
    let agent = CodingAgent::Codex;
    let prompt = body(agent, "UserPromptSubmit", r#","prompt":"hi""#);
    answer(&hooks, agent, &prompt).unwrap();
    steps(&history);
    let other = Owner { agent_id: "other-bot", ..OWNER };
    let refused = hooks.answer(agent, &other, prompt.as_bytes(), |_| false);
    assert!(matches!(refused, Err(HookError::Forbidden(_))), "{refused:?}");
    // Tenants are kept apart.
    hooks.answer(agent, &Owner { tenant_id: "t", ..other }, prompt.as_bytes(), |_| false).unwrap();
    assert_eq!(steps(&history), ["s user.input user hi"]);
}

#[test]
fn source_of_the_calls_is_recorded_once_per_session() {
    let (hooks, history) = hooks();
    let agent = CodingAgent::Codex;
    for _ in 0..2 {
        answer(&hooks, agent, &body(agent, "SessionStart", "")).unwrap();
        answer(&hooks, agent, &body(agent, "UserPromptSubmit", r#","prompt":"hi""#)).unwrap();
    }
    let other = body(agent, "UserPromptSubmit", r#","prompt":"hi""#).replace("\"s\"", "\"t\"");
    answer(&hooks, agent, &other).unwrap();
    let history = history.lock().unwrap();
    let notes: Vec<_> = history.iter().filter(|step| step.contains(HOOKS_ATTACHED)).collect();
    assert_eq!(notes.len(), 2, "{history:?}");
    assert!(notes[0].starts_with("s ") && notes[0].contains(r#""client":"codex""#), "{notes:?}");
    assert_eq!(history[0], "s session.started  ", "the first event of the session");
}
