//! `agentgov gateway stdio` with a decision point on the log: calls are decided before the server sees them, results are facts
//! for the next call, and each verdict equals its decision.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::bundles::Folder;
use crate::decide::{Pdp, TOKEN, question};
use crate::stack::{AGENT, DEADLINE, Stack, root, stack};

const TENANT: &str = "gateway";
const ENVIRONMENT: &str = "gateway";

const TOOLS: &str = r#"
default: { effect: external }
tools:
  think: { effect: read }
  files/read_file:
    effect: read
    states:
      - { fact: file, when: type(result) == map, key: input.path }
  files/write_file:
    effect: write
    derived:
      is_read: { type: Bool, value: input.path in facts.file }
  files/move_file: { effect: write }
"#;

const POLICIES: &str = r#"
@id("files-grant")
permit (principal in Role::"airline-agent", action in Action::"act", resource)
when { [Tool::"think", Tool::"files/read_file", Tool::"files/write_file", Tool::"files/move_file"].contains(resource) };

@id("read-before-write")
@title("A file is read before it is written")
@severity("high")
@remediation("Read the file first.")
forbid (principal, action in Action::"act", resource == Tool::"files/write_file")
unless { context has is_read && context.is_read };

@id("moving-asks")
@title("A person approves each move")
@severity("medium")
@effect("ask")
forbid (principal, action in Action::"act", resource == Tool::"files/move_file");
"#;

/// A gateway, as its client sees it.
struct Gateway {
    process: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    calls: u32,
}

impl Gateway {
    fn start(stack: &Stack, pdp: &Pdp, folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
        let (url, token, spool, seen) = (pdp.url(), path("token"), path("spool"), path("seen"));
        let script = root().join("producers/gateway/tests/server.py");
        let agent = ["--tenant", TENANT, "--agent", AGENT, "--environment", ENVIRONMENT];
        let options = ["--pdp", &url, "--token-file", &token, "--spool", &spool, "--approval-wait", "0"];
        let server = ["--", "python3", script.to_str().unwrap(), &seen];
        let whole = [&["gateway", "stdio", "--server", "files"][..], &agent, &options, &server].concat();
        let mut process = stack.command(&whole);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = process.spawn().unwrap();
        let (to, from) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, to, from, calls: 0 }
    }

    fn request(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.calls, "method": method, "params": params });
        self.to.as_mut().unwrap().write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(answer["id"], self.calls, "{answer}");
        answer
    }

    /// Calls a tool. Returns `isError` and the text of its result.
    fn call(&mut self, tool: &str, path: &str) -> (bool, String) {
        let answer = self.request("tools/call", &json!({ "name": tool, "arguments": { "path": path } }));
        let text = answer["result"]["content"][0]["text"].as_str();
        (answer["result"]["isError"] == true, text.unwrap_or_else(|| panic!("{answer}")).to_owned())
    }

    /// Ends the client's stream. Returns the session.
    fn end(mut self) -> String {
        self.to = None;
        let output = self.process.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{}: {stderr}", output.status);
        let (_, session) = stderr.split_once("agentgov: session ").unwrap();
        session.split_once(' ').unwrap().0.to_owned()
    }
}

#[test]
fn call_is_decided_before_the_server_sees_it_and_a_result_is_a_fact_for_the_next_call() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    stack.register(&[TENANT]);
    let bundle = Folder::with_policies("files", ENVIRONMENT, TOOLS, POLICIES);
    stack.run(&["policy", "push", bundle.name()]);
    let pdp = Pdp::start(stack, TENANT, ENVIRONMENT);
    let script = root().join("producers/gateway/tests/server.py");
    let pin = ["registry", "pin", "files", "--tenant", TENANT, "--reason", "a test", "--accept", "--"];
    stack.run(&[&pin[..], &["python3", script.to_str().unwrap(), "/dev/null"]].concat());
    stack.eventually("the bundle decides", || {
        pdp.ask(&question("probe", "c", "think", "{}", None), TOKEN).1["decision"] == true
    });
    let definition = || {
        let search = json!({
            "subject": { "type": "agent", "id": AGENT }, "action": { "name": "tools/list" },
            "resource": { "type": "tool" }, "context": { "session": "probe" },
        });
        let found = pdp.search(&search);
        let tools = found["results"].as_array().unwrap().iter();
        tools.filter(|tool| tool["properties"]["definition"].is_string()).count()
    };
    stack.eventually("the accepted definitions are known", || definition() == 3);
    let recorder = stack.recorder(TENANT, ENVIRONMENT);
    pdp.wait_until_key_is_known(stack, TENANT, &recorder);
    recorder.close(DEADLINE).unwrap();

    let mut gateway = Gateway::start(stack, &pdp, folder.path());
    let seen = || std::fs::read_to_string(folder.path().join("seen")).unwrap();
    gateway.request("initialize", &json!({ "protocolVersion": "2025-11-25" }));
    // A tool that asks, and one that the session may not use yet, are listed; one without a grant is not.
    let page = gateway.request("tools/list", &json!({}));
    let names = page["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["read_file", "write_file", "move_file"]);
    let (denied, text) = gateway.call("write_file", "a");
    assert!(
        denied
            && text.contains("A file is read before it is written")
            && text.contains("Read the file first."),
        "{text}"
    );
    assert!(!seen().contains("write_file"), "{}", seen());
    for round in 0..5 {
        let path = format!("a{round}");
        assert_eq!(gateway.call("read_file", &path), (false, "read_file".to_owned()));
        assert_eq!(
            gateway.call("write_file", &path),
            (false, "write_file".to_owned()),
            "right after the read"
        );
    }
    let (denied, _) = gateway.call("write_file", "b");
    let (not_granted, _) = gateway.call("delete_file", "a0");
    let (asks, text) = gateway.call("move_file", "a0");
    assert!(denied && not_granted && asks && text.contains("A person approves each move"), "{text}");
    assert!(!seen().contains("move_file") && !seen().contains("delete_file"), "{}", seen());
    assert_eq!(seen().matches("write_file").count(), 5);
    let session = gateway.end();

    let of_session = format!("tenant_id = '{TENANT}' AND session_id = '{session}'");
    let verdicts = format!(
        "SELECT tool_name, decision, reason, prior_decision_finding, prior_decision_outcome FROM verdicts WHERE {of_session} ORDER BY call_index"
    );
    stack.eventually("each call is judged", || stack.rows(&verdicts).len() == 14);
    let row = |tool: &str, decision: &str, reason: &str| {
        [tool, decision, reason, "matched", decision].map(str::to_owned).to_vec()
    };
    let mut expected = vec![row("files/write_file", "deny", "policy")];
    for _ in 0..5 {
        expected.push(row("files/read_file", "allow", "granted"));
        expected.push(row("files/write_file", "allow", "granted"));
    }
    expected.push(row("files/write_file", "deny", "policy"));
    expected.push(row("files/delete_file", "deny", "no_grant"));
    expected.push(row("files/move_file", "ask", "policy"));
    assert_eq!(stack.rows(&verdicts), expected);
    let types = format!(
        "SELECT type, count() FROM actions WHERE {of_session} AND type NOT IN ('decision.made', 'approval.asked') GROUP BY type ORDER BY type"
    );
    let expected = [
        ("session.ended", "1"),
        ("session.started", "1"),
        ("tool.invoked", "14"),
        ("tool.response_received", "10"),
    ];
    let expected = expected.map(|(r#type, count)| vec![r#type.to_owned(), count.to_owned()]);
    stack.eventually("each event is a row", || stack.rows(&types) == expected);
}
