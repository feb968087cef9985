//! Tests that each command with a result prints one JSON document with `--json` and nothing else.

use std::process::{Command, Output};

use serde_json::Value;

use crate::bundles::Folder;
use crate::stack::{AGENT, ENVIRONMENT, agentgov, describe, root, stack};

/// Commands whose JSON other tests read: they start their own stack or run until they are stopped.
const ELSEWHERE: [&str; 20] = [
    "demo",
    "up",
    "run",
    "pdp",
    "gateway stdio",
    "gateway serve",
    // Answer in the words of the agent that runs them.
    "hook claude-code",
    "hook codex",
    "hook cursor",
    "hook gemini-cli",
    // Change or read the settings of an agent: tests/e2e/hooks.rs.
    "hook install",
    "hook check",
    // Need the request of a decision point.
    "approvals show",
    "approvals approve",
    "approvals deny",
    // Downloads the stack's parts.
    "testenv lock",
    // Processes of a local stack, which print no result.
    "testenv supervisor run",
    "testenv supervisor parts",
    "testenv supervisor become",
    "testenv engine",
];

/// An MCP server without tools.
const NO_TOOLS: &str = r#"read -r line; echo '{"jsonrpc":"2.0","id":0,"result":{}}'; read -r line; read -r line
    echo '{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}'"#;

/// Returns every command, from the help texts.
fn commands(path: &[&str]) -> Vec<String> {
    let output = Command::new(agentgov()).args(path).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return vec![path.join(" ")] };
    let names = list.lines().take_while(|line| line.starts_with("  "));
    let names =
        names.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").flat_map(|name| commands(&[path, &[name]].concat())).collect()
}

fn object(arguments: &[&str], output: &Output) -> Value {
    let found: Result<Value, _> = serde_json::from_slice(&output.stdout);
    let value = found.unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", describe(output)));
    assert!(value.is_object() || value.is_array(), "{arguments:?}: {value}");
    value
}

#[test]
fn every_command_prints_its_result_as_one_json_document() {
    let idle = Folder::new("json", "json");
    let runs = "examples/airline/runs.jsonl";
    let import =
        ["chat-completions", runs, "--tenant", "json", "--agent", AGENT, "--environment", ENVIRONMENT];
    let stack = stack();
    stack.register(&["json-agents"]);
    let keys = tempfile::tempdir().unwrap();
    let out = |name: &str| keys.path().join(name).to_str().unwrap().to_owned();
    let (first, second) = (out("first"), out("second"));
    let new_key = |out| ["--kind", "pdp", "--name", "json", "--out", out];
    let kid = stack.run(&[&["registry", "key", "new"][..], &new_key(&first)].concat()).trim().to_owned();
    let new_key = new_key(&second);
    // Arguments after the command, and a field of its result.
    let cases: [(&str, &[&str], &str); 25] = [
        ("status", &[], "/health"),
        ("topology check", &[], "/topics"),
        ("topology graph", &[], "/mermaid"),
        ("topology render acls", &[], "/0/principal"),
        ("topology render grants", &[], "/0"),
        ("topology plan", &[], "/differences"),
        ("topology apply", &[], "/removed"),
        ("import", &import, "/source_id"),
        ("registry push", &["examples/airline/registry.yaml"], "/agents/unchanged"),
        ("registry list", &[], "/agents/0/reason"),
        ("registry show", &["--tenant", "airline"], "/agents/0/offset"),
        ("registry history", &["--tenant", "airline"], "/agents/0/pushed_by"),
        ("registry diff", &["files", "--tenant", "json"], "/tools"),
        ("registry pin", &["files", "--tenant", "json", "--", "sh", "-c", NO_TOOLS], "/tools"),
        // The agent is active, and no command publishes anything about it.
        ("registry resume", &[AGENT, "--tenant", "airline", "--reason", "a test"], "/outcome"),
        ("registry suspend", &[AGENT, "--tenant", "json-agents", "--reason", "a test"], "/outcome"),
        ("registry key new", &new_key, "/kid"),
        ("registry key list", &[], "/keys/0/public_key/x"),
        ("registry key revoke", &[&kid, "--reason", "a test"], "/outcome"),
        ("policy check", &["examples/airline/bundle"], "/bundle/digest"),
        ("policy test", &["examples/airline/bundle"], "/tests/cases/0/name"),
        ("policy push", &[idle.name()], "/outcome"),
        ("rejects resume", &["alerter", "--reason", "a test"], "/stage"),
        ("approvals list", &[], "/approvals"),
        ("audit completeness", &[], "/findings"),
    ];
    for (command, following, field) in &cases {
        let arguments: Vec<&str> =
            ["--json"].into_iter().chain(command.split(' ')).chain(following.iter().copied()).collect();
        let output = stack.command(&arguments).output().unwrap();
        assert!([Some(0), Some(3)].contains(&output.status.code()), "{arguments:?}: {}", describe(&output));
        let value = object(&arguments, &output);
        assert!(value.pointer(field).is_some(), "{arguments:?}: {field} is missing in {value}");
    }
    // session_show.rs tests `session show`; here it fails.
    let known: Vec<&str> = cases.iter().map(|case| case.0).chain(ELSEWHERE).chain(["session show"]).collect();
    for command in commands(&[]) {
        assert!(known.contains(&command.as_str()), "no case shows the JSON of `{command}`");
    }

    for (arguments, code) in
        [(&["session", "show", "no-such-session"][..], 1), (&["policy", "check", "no-such-folder"], 78)]
    {
        let output = stack.command(arguments).arg("--json").current_dir(root()).output().unwrap();
        let value = object(arguments, &output);
        assert_eq!((output.status.code(), &value["error"]["exit_code"]), (Some(code), &code.into()));
        let message = value["error"]["message"].as_str().unwrap();
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(message),
            "{message}: {}",
            describe(&output)
        );
    }
}
