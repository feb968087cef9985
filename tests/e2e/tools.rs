//! Tools of an MCP server in the registry: a definition is held until a person accepts it, and a switch denies each call.

use std::process::Output;

use agentgov_schemas::Digest;
use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_sdk::{Content, Event, Recorder, ToolCall};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::decide::{Pdp, TOKEN, question};
use crate::stack::{AGENT, DEADLINE, Stack, describe, stack};

const TENANT: &str = "pinned";
const ENVIRONMENT: &str = "pinned";
const TOOL: &str = "files/look";
/// Answers the handshake and `tools/list`; fails if it sees a variable of agentgov's configuration.
const SERVER: &str = "if env | grep -q '^AGENTGOV_'; then exit 1; fi
read -r line; printf '%s\\n' '{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"protocolVersion\":\"2025-11-25\"}}'
read -r line; read -r line; printf '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":%s}}\\n' \"$(cat \"$1\")\"
";

/// Grants what reads. The bundle does not have the tool, so its effect is that of the registry.
const GRANT: &str =
    "@id(\"reads\") permit (principal in Role::\"airline-agent\", action, resource in Effect::\"read\");";

fn push_bundle(stack: &Stack) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!("name: pinned\nversion: \"1\"\nenvironments: [{ENVIRONMENT}]\n");
    let tools = "default: { effect: external }\ntools:\n  think: { effect: read }\n";
    for (file, text) in [("bundle.yaml", manifest.as_str()), ("tools.yaml", tools), ("reads.cedar", GRANT)] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let bundle = folder.path().to_str().unwrap();
    stack.run(&["policy", "check", "--write", bundle]);
    stack.run(&["policy", "push", bundle]);
}

/// An MCP server that lists the tools in a file.
struct Server(TempDir);

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("server.sh"), SERVER).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn list(&self, tools: &Value) {
        std::fs::write(self.file("tools.json"), tools.to_string()).unwrap();
    }

    /// Runs `agentgov registry …` with the command of the server.
    fn run(&self, stack: &Stack, arguments: &[&str], code: i32) -> Output {
        let (script, tools) = (self.file("server.sh"), self.file("tools.json"));
        let arguments = [arguments, &["--tenant", TENANT, "--json", "--", "sh", &script, &tools]].concat();
        let output = stack.command(&[&["registry"], &arguments[..]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", describe(&output));
        output
    }

    /// Returns how each tool differs, and the digest that the server lists.
    fn differences(&self, stack: &Stack, arguments: &[&str], code: i32) -> Vec<[Value; 3]> {
        let output: Value = serde_json::from_slice(&self.run(stack, arguments, code).stdout).unwrap();
        let difference = |tool: &Value| {
            let difference = &tool["difference"];
            ["/name", "/change", "/now/definition_digest"]
                .map(|path| difference.pointer(path).unwrap().clone())
        };
        output["tools"].as_array().unwrap().iter().map(difference).collect()
    }
}

struct Caller<'s> {
    stack: &'static Stack,
    pdp: &'s Pdp,
    recorder: &'s Recorder,
    calls: usize,
}

impl Caller<'_> {
    /// Asks and records calls that state `definition`, until decision and verdict have this outcome and reason.
    fn call_until(&mut self, definition: Option<&str>, expected: [&str; 2]) {
        let what = format!("a call that states {definition:?} is {expected:?}");
        let mut found = Vec::new();
        self.stack.eventually(&what, || {
            self.calls += 1;
            let session = format!("call-{}", self.calls);
            let mut question = question(&session, "c1", TOOL, "{}", None);
            if let Some(definition) = definition {
                question["context"]["definition"] = json!(definition);
            }
            let (status, answer) = self.pdp.ask(&question, TOKEN);
            assert_eq!(status, 200, "{answer}");
            let context = &answer["context"];
            let decided = [&context["outcome"], &context["reason"]].map(|text| text.as_str().unwrap().to_owned());
            let call = Event::new(catalogue::TOOL_INVOKED, &session, Agent::new(AGENT));
            let tool = ToolCall {
                decision_token: context["token"].as_str(),
                definition: definition.map(|definition| definition.parse().unwrap()),
                ..ToolCall::new(TOOL, "c1", Content { data: b"{}", media_type: "application/json" })
            };
            self.recorder.record(&Event { tool: Some(tool), ..call }).unwrap();
            let verdict = format!(
                "SELECT decision, reason, prior_decision_finding FROM verdicts WHERE tenant_id = '{TENANT}' AND session_id = '{session}'"
            );
            self.stack.eventually("the call is judged", || {
                found = self.stack.rows(&verdict);
                !found.is_empty()
            });
            decided == expected && found[0][..2] == expected
        });
        assert_eq!(found[0][2], "matched", "decision and verdict agree once both know the entry");
    }

    /// Returns the tools that the agent may call, with the accepted definitions.
    fn permitted(&self) -> Vec<(Value, Value)> {
        let search = json!({
            "subject": { "type": "agent", "id": AGENT },
            "action": { "name": "tools/call" },
            "resource": { "type": "tool" },
            "context": { "session": "search" },
        });
        let (status, answer) = self.pdp.post("access/v1/search/resource", &search, TOKEN);
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().unwrap().iter();
        results.map(|tool| (tool["id"].clone(), tool["properties"]["definition"].clone())).collect()
    }
}

#[test]
fn pinned_tool_is_held_when_it_changes_and_suspended_at_once() {
    let stack = stack();
    stack.register(&[TENANT]);
    push_bundle(stack);
    let pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    stack.eventually("the bundle decides", || {
        pdp.ask(&question("first", "c1", "think", "{}", None), TOKEN).1["decision"] == true
    });
    let recorder = stack.recorder(TENANT, ENVIRONMENT);
    pdp.wait_until_key_is_known(stack, TENANT, &recorder);
    let mut caller = Caller { stack, pdp: &pdp, recorder: &recorder, calls: 0 };
    let server = Server::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();

    // The effect of the registry counts.
    caller.call_until(None, ["deny", "no_grant"]);
    let file = server.file("registry.yaml");
    let tool = format!("{{ tenant_id: {TENANT}, server: files, name: look, owner: tests, effect: read }}");
    std::fs::write(&file, format!("tools:\n  - {tool}\n")).unwrap();
    stack.run(&["registry", "push", &file]);
    caller.call_until(None, ["allow", "granted"]);

    // A new definition is held until a person accepts it.
    server.list(&json!([{ "name": "look", "description": "Looks.", "inputSchema": { "type": "object" } }]));
    let found = server.differences(stack, &["pin", "files"], 3);
    let first = text(&found[0][2]);
    assert_eq!(found, [[json!(TOOL), json!("new"), json!(first)]]);
    caller.call_until(Some(&first), ["deny", "unpinned"]);
    server.run(stack, &["pin", "files", "--accept", "--reason", "reviewed"], 0);
    caller.call_until(Some(&first), ["allow", "granted"]);
    assert_eq!(server.differences(stack, &["pin", "files"], 0)[0][1], "unchanged");

    // So is a changed one.
    server.list(
        &json!([{ "name": "look", "description": "Looks, and tells.", "inputSchema": { "type": "object" } }]),
    );
    let found = server.differences(stack, &["diff", "files"], 3);
    let second = text(&found[0][2]);
    assert_eq!((&found[0][1], first == second), (&json!("changed"), false));
    caller.call_until(Some(&second), ["deny", "definition_changed"]);
    server.run(stack, &["pin", "files", "--accept", "--reason", "reviewed again"], 0);
    caller.call_until(Some(&second), ["allow", "granted"]);
    caller.call_until(Some(&first), ["deny", "definition_changed"]);
    assert!(caller.permitted().contains(&(json!(TOOL), json!(second))));

    // The former definition stays visible, and any past state can be shown.
    let diff = stack.run(&["registry", "diff", "files", "--tenant", TENANT]);
    for shown in [&first, &second, "- \"Looks.\"", "+ \"Looks, and tells.\""] {
        assert!(diff.contains(shown), "{shown}: {diff}");
    }
    let entries = |arguments: &[&str]| -> Vec<Value> {
        let arguments = [&["registry"], arguments, &["--tool", TOOL, "--tenant", TENANT, "--json"]].concat();
        let output: Value = serde_json::from_str(&stack.run(&arguments)).unwrap();
        output["tools"].as_array().unwrap().clone()
    };
    let history = entries(&["history"]);
    let of =
        |entries: &[Value], field: &str| entries.iter().map(|entry| text(&entry[field])).collect::<Vec<_>>();
    let digests: Vec<&Value> = history.iter().map(|entry| &entry["definition_digest"]).collect();
    assert_eq!(digests, [&Value::Null, &json!(first), &json!(second)]);
    assert_eq!(of(&history, "reason"), ["", "reviewed", "reviewed again"]);
    assert!(of(&history, "pushed_by").iter().all(|author| !author.is_empty()));
    let offset = history[2]["offset"].to_string();
    assert_eq!(of(&entries(&["show", "--as-of", &offset]), "definition_digest"), [first.as_str()]);
    let digest = Digest::of(history[2]["definition"].as_str().unwrap().as_bytes());
    assert_eq!(digest.to_string(), second);

    // Another list than the one with the digest is not accepted.
    let pin = server.run(stack, &["pin", "files"], 0).stdout;
    let list = text(&serde_json::from_slice::<Value>(&pin).unwrap()["list_digest"]);
    let other = format!("--accept={first}");
    let refused = server.run(stack, &["pin", "files", &other, "--reason", "a test"], 1);
    assert!(describe(&refused).contains(&list), "{}", describe(&refused));
    server.run(stack, &["pin", "files", &format!("--accept={list}"), "--reason", "a test"], 0);

    // A mistyped name is refused, since its suspension would stop nothing.
    let mistyped = ["registry", "suspend", "--tool", "look", "--tenant", TENANT, "--reason", "a test"];
    let refused = stack.command(&mistyped).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
    assert!(describe(&refused).contains(TOOL), "{}", describe(&refused));
    stack.run(&[&mistyped[..], &["--unregistered"]].concat());

    // Switches act on decisions and verdicts, with or without a definition.
    for (target, name, reason) in
        [("--tool", TOOL, "tool_suspended"), ("--server", "files", "server_suspended")]
    {
        let change = |command| {
            let arguments =
                ["registry", command, target, name, "--tenant", TENANT, "--reason", "a test", "--json"];
            let outcome: Value = serde_json::from_str(&stack.run(&arguments)).unwrap();
            outcome["outcome"].clone()
        };
        assert_eq!((change("suspend"), change("suspend")), (json!("changed"), json!("unchanged")));
        caller.call_until(None, ["deny", reason]);
        caller.call_until(Some(&second), ["deny", reason]);
        assert!(caller.permitted().iter().all(|(id, _)| id != TOOL));
        assert_eq!(change("resume"), "changed");
        caller.call_until(Some(&second), ["allow", "granted"]);
    }
    recorder.close(DEADLINE).unwrap();
    let alerts = format!("SELECT DISTINCT policy FROM alerts WHERE tenant_id = '{TENANT}' ORDER BY policy");
    let expected = ["definition-changed", "server-suspended", "tool-suspended", "unpinned"]
        .map(|name| format!("agentgov:{name}"));
    stack.eventually("each held call is alerted", || {
        let found = stack.rows(&alerts);
        expected.iter().all(|policy| found.contains(&vec![policy.clone()]))
    });
}
