//! `agentgov hook` with a gateway and a decision point on the log: a denied call exits with 2, an allowed one with 0, results are
//! facts for the next call, and nothing passes while the gateway is stopped or away.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentgov_schemas::Digest;
use serde_json::{Value, json};

use crate::bundles::Folder;
use crate::decide::{Pdp, TOKEN, question};
use crate::stack::{AGENT, DEADLINE, Stack, agentgov, root, stack};
use crate::status::{Process, get};

const TENANT: &str = "hooks";
const ENVIRONMENT: &str = "hooks";
const CALLER_TOKEN: &str = "token-of-the-laptop";

const TOOLS: &str = r#"
default: { effect: external }
tools:
  think: { effect: read }
  Bash:
    effect: external
    derived:
      removes: { type: Bool, value: input.command.startsWith("rm ") }
  Read:
    effect: read
    states:
      - { fact: file, when: type(result) == map, key: input.file_path }
  Write:
    effect: write
    derived:
      is_read: { type: Bool, value: input.file_path in facts.file }
  apply_patch: { effect: write }
"#;

const POLICIES: &str = r#"
@id("coding-grant")
permit (principal in Role::"airline-agent", action in Action::"act", resource)
when { [Tool::"think", Tool::"Bash", Tool::"Read", Tool::"Write", Tool::"apply_patch"].contains(resource) };

@id("no-removal")
@title("Nothing is removed")
@severity("high")
@remediation("Move the file to the trash.")
forbid (principal, action in Action::"act", resource == Tool::"Bash")
when { context has removes && context.removes };

@id("read-before-write")
@title("A file is read before it is written")
@severity("high")
forbid (principal, action in Action::"act", resource == Tool::"Write")
unless { context has is_read && context.is_read };

@id("patches-ask")
@title("A person approves each patch")
@severity("medium")
@effect("ask")
forbid (principal, action in Action::"act", resource == Tool::"apply_patch");
"#;

/// Starts `gateway serve` with this configuration.
fn serve(stack: &Stack, folder: &Path, config: &str) -> Process {
    let file = folder.join("gateway.yaml");
    std::fs::write(&file, config).unwrap();
    let gateway = Process::start(stack.command(&["gateway", "serve", "--config", file.to_str().unwrap()]));
    stack.eventually("the gateway is ready", || get(&gateway.url("readyz")).0 == 200);
    gateway
}

/// Runs the hooks of one session.
struct Hook {
    url: String,
    token: PathBuf,
    session: &'static str,
    calls: u32,
}

/// Exit code, stdout and stderr.
type End = (i32, String, String);

impl Hook {
    fn run(&self, agent: &str, body: &str) -> End {
        let mut command = Command::new(agentgov());
        let options = ["--timeout", "3", "--url", &self.url, "--token-file"];
        command.args(["hook", agent]).args(options).arg(&self.token);
        // It needs no settings, no home and no stack.
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut hook = command.spawn().unwrap();
        // A hook that blocks at once reads nothing.
        let _ = hook.stdin.take().unwrap().write_all(body.as_bytes());
        let output = hook.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn event(&self, agent: &str, event: &str, more: &Value) -> End {
        let mut body = json!({
            "session_id": self.session, "cwd": "/work", "hook_event_name": event, "timestamp": "2026-11-30T06:11:00Z",
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.run(agent, &body.to_string())
    }

    fn before(&mut self, agent: &str, event: &str, tool: &str, input: &Value) -> End {
        self.calls += 1;
        let id = format!("c{}", self.calls);
        self.event(agent, event, &json!({ "tool_name": tool, "tool_input": input, "tool_use_id": id }))
    }
}

fn assert_blocked(end: &End, reason: &str) {
    assert!(end.0 == 2 && end.2.starts_with("agentgov: ") && end.2.contains(reason), "{reason}: {end:?}");
}

#[test]
fn denied_call_of_a_coding_agent_exits_with_2_and_an_allowed_one_with_0() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    stack.register(&[TENANT]);
    let bundle = Folder::with_policies("coding", ENVIRONMENT, TOOLS, POLICIES);
    stack.run(&["policy", "push", bundle.name()]);
    let pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    stack.eventually("the bundle decides", || {
        pdp.ask(&question("probe", "c", "think", "{}", None), TOKEN).1["decision"] == true
    });
    let recorder = stack.recorder(TENANT, ENVIRONMENT);
    pdp.wait_until_key_is_known(stack, TENANT, &recorder);
    recorder.close(DEADLINE).unwrap();

    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("pdp-token"), TOKEN).unwrap();
    std::fs::write(path("token"), format!("{CALLER_TOKEN}\n")).unwrap();
    let digest = Digest::of(CALLER_TOKEN.as_bytes());
    let (pdp_token, spool) = (path("pdp-token"), path("spool"));
    let config = format!(
        "listen: 127.0.0.1:0\npdp: {}\npdp_token_file: {}\nspool: {}\ncallers:\n  - {{ name: laptop, token_sha256: \"{digest}\", \
         tenant: {TENANT}, environment: {ENVIRONMENT}, agent: {AGENT} }}\n",
        pdp.url(),
        pdp_token.display(),
        spool.display(),
    );
    let mut gateway = serve(stack, folder.path(), &config);
    let hook = |session| Hook { url: gateway.address.clone(), token: path("token"), session, calls: 0 };

    let mut claude = hook("s-claude");
    let done = (0, String::new(), String::new());
    let file = |name: &str| json!({ "file_path": name });
    assert_eq!(claude.event("claude-code", "SessionStart", &json!({ "source": "startup" })), done);
    assert_eq!(claude.event("claude-code", "UserPromptSubmit", &json!({ "prompt": "write it" })), done);
    let denied = claude.before("claude-code", "PreToolUse", "Write", &file("a"));
    assert_blocked(&denied, "A file is read before it is written");
    for name in ["a", "b", "c"] {
        assert_eq!(claude.before("claude-code", "PreToolUse", "Read", &file(name)), done);
        let read = json!({
            "tool_name": "Read", "tool_input": file(name), "tool_use_id": format!("c{}", claude.calls), "tool_response": {},
        });
        assert_eq!(claude.event("claude-code", "PostToolUse", &read), done);
        assert_eq!(
            claude.before("claude-code", "PreToolUse", "Write", &file(name)),
            done,
            "right after the read"
        );
    }
    assert_eq!(claude.event("claude-code", "SessionEnd", &json!({ "reason": "exit" })), done);

    let mut codex = hook("s-codex");
    let command = |text: &str| json!({ "command": text });
    let removal = codex.before("codex", "PreToolUse", "Bash", &command("rm x"));
    assert_blocked(&removal, "Nothing is removed (no-removal)\nMove the file to the trash.");
    assert_eq!(codex.before("codex", "PreToolUse", "Bash", &command("ls")), done);
    let asks = codex.before("codex", "PreToolUse", "apply_patch", &command("*** Begin Patch"));
    let (_, id) = asks.2.split_once("needs the approval of a person: ").unwrap_or_else(|| panic!("{asks:?}"));
    assert!(asks.0 == 2 && id.split_once(".\n").is_some_and(|(id, _)| id.len() == 36), "{asks:?}");
    let gemini = hook("s-gemini").before("gemini-cli", "BeforeTool", "write_file", &file("a"));
    assert_blocked(&gemini, "no_grant");
    assert_eq!(serde_json::from_str::<Value>(&gemini.1).unwrap()["decision"], "deny");

    for (body, reason) in [
        (
            r#"{"session_id":"s","hook_event_name":"PreTool"}"#.to_owned(),
            ": 400: `hook_event_name`: expected",
        ),
        ("{".to_owned(), ": 400: expected JSON"),
        (r#"{"session_id":"s","hook_event_name":"SessionEnd","session_id":"t"}"#.to_owned(), "stands twice"),
        (" ".repeat(50 << 20), "expected at most 16777216 bytes"),
    ] {
        assert_blocked(&codex.run("codex", &body), reason);
    }
    let stranger = Hook { token: path("pdp-token"), ..hook("s-codex") };
    assert_blocked(&stranger.event("codex", "SessionStart", &json!({})), ": 401: ");
    gateway.signal("STOP");
    assert_blocked(&codex.before("codex", "PreToolUse", "Bash", &command("ls")), "within 3000 ms");
    gateway.signal("CONT");
    gateway.kill();
    assert_blocked(&codex.before("codex", "PreToolUse", "Bash", &command("ls")), "start it with");

    let verdicts = |session: &str| {
        format!(
            "SELECT tool_name, decision, reason, prior_decision_finding FROM verdicts \
             WHERE tenant_id = '{TENANT}' AND session_id = '{session}' ORDER BY call_index"
        )
    };
    let row = |tool: &str, decision: &str, reason: &str| {
        [tool, decision, reason, "matched"].map(str::to_owned).to_vec()
    };
    let mut expected = vec![row("Write", "deny", "policy")];
    for _ in 0..3 {
        expected.extend([row("Read", "allow", "granted"), row("Write", "allow", "granted")]);
    }
    stack.eventually("each call is judged", || stack.rows(&verdicts("s-claude")).len() == expected.len());
    assert_eq!(stack.rows(&verdicts("s-claude")), expected);
    let types = format!(
        "SELECT type, count() FROM actions WHERE tenant_id = '{TENANT}' AND session_id = 's-claude' \
         AND type != 'decision.made' GROUP BY type ORDER BY type"
    );
    let expected = [
        ("hooks.attached", "1"),
        ("session.ended", "1"),
        ("session.started", "1"),
        ("tool.invoked", "7"),
        ("tool.response_received", "3"),
        ("user.input", "1"),
    ];
    let expected = expected.map(|(r#type, count)| vec![r#type.to_owned(), count.to_owned()]);
    stack.eventually("each event is a row", || stack.rows(&types) == expected);
}

/// Returns the first block of this language below a heading of the page.
fn example(heading: &str, language: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/CONTROL.md")).unwrap();
    let (_, section) = page.split_once(&format!("## {heading}\n")).unwrap();
    let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
    let (example, _) = block.split_once("```\n").unwrap();
    assert!(example.lines().count() <= 12, "{example}");
    example.to_owned()
}

#[test]
fn example_of_the_page_installs_a_hook_and_asks() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("pdp-spool");
    let arguments = ["pdp", "--listen", "127.0.0.1:0", "--spool", spool.to_str().unwrap()];
    let pdp = Process::start(stack.command(&arguments));
    stack.eventually("the decision point is ready", || get(&pdp.url("readyz")).0 == 200);
    let config = example("Hooks of coding agents", "yaml").replace(":8282", ":0");
    let spool = folder.path().join("spool");
    let config = format!("pdp: {}\nspool: {}\n{config}", pdp.address, spool.display());
    let gateway = serve(stack, folder.path(), &config);
    std::fs::write(folder.path().join("token"), "secret\n").unwrap();

    let mut shell = Command::new("sh");
    let program = agentgov();
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    shell.args(["-e", "-c", &example("Hooks of coding agents", "sh")]).current_dir(folder.path());
    shell.env("PATH", path).env("AGENTGOV_GATEWAY", &gateway.address).env("HOME", folder.path());
    let output = shell.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("every call is asked") && text.ends_with("it may think\n"), "{text}");
    let settings = std::fs::read_to_string(folder.path().join(".claude/settings.json")).unwrap();
    assert!(settings.contains("\"onFailure\": \"block\""), "{settings}");
}
