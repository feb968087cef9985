//! Tests approvals: a call for which the policies ask, the person's decision by the commands of docs/CONTROL.md, and the call that
//! is allowed once.

use std::process::Command;

use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_sdk::{Content, Event, Recorder, ToolCall};
use serde_json::{Value, json};

use crate::bundles::Folder;
use crate::checks;
use crate::decide::{Pdp, TOKEN, question};
use crate::stack::{AGENT, DEADLINE, Stack, agentgov, describe, root, stack};

const TENANT: &str = "approvals";
/// Environment of a bundle that asks.
const PLACE: &str = "approvals";
const TOOL: &str = "transfer_to_human_agents";
const ARGUMENTS: &str = r#"{"summary":  "a wish"}"#;
const RULE: &str = "@id(\"transfer-asks\") @title(\"A transfer needs an approval\") @severity(\"low\")\n\
                    @effect(\"ask\") forbid (principal, action, resource == Tool::\"transfer_to_human_agents\");\n";

/// Returns the commands of the page, in a folder of their own.
fn page_commands(stack: &Stack, folder: &std::path::Path, id: &str) -> Command {
    let page = std::fs::read_to_string(root().join("docs/CONTROL.md")).unwrap();
    let (_, section) = page.split_once("## Approvals\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (commands, _) = block.split_once("```\n").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", commands]).current_dir(folder).env("id", id);
    for (name, value) in stack.command(&[]).get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let binaries = agentgov().parent().unwrap().to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([binaries].into_iter().chain(std::env::split_paths(&path))).unwrap();
    shell.env("PATH", path);
    shell
}

/// Records the call, with the token of its decision.
fn record(recorder: &Recorder, token: &str) {
    let arguments = Content { data: ARGUMENTS.as_bytes(), media_type: "application/json" };
    let tool = ToolCall { decision_token: Some(token), ..ToolCall::new(TOOL, "c1", arguments) };
    let call = Event::new(catalogue::TOOL_INVOKED, "s", Agent::new(AGENT));
    recorder.record(&Event { tool: Some(tool), ..call }).unwrap();
}

#[test]
fn approved_call_is_allowed_once_and_survives_restarts() {
    let stack = stack();
    stack.register(&[TENANT]);
    let bundle = Folder::new("approvals", PLACE);
    bundle.write("ask.cedar", RULE);
    stack.run(&["policy", "push", bundle.name()]);
    let mut pdp = Pdp::start(stack, TENANT, PLACE);
    let recorder = stack.recorder(TENANT, PLACE);
    let asked = |pdp: &Pdp| {
        let (status, answer) = pdp.ask(&question("s", "c1", TOOL, ARGUMENTS, None), TOKEN);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let request = |answer: &Value| answer["context"]["access_request"].clone();
    let mut answer = Value::Null;
    stack.eventually("the bundle asks", || {
        answer = asked(&pdp);
        answer["context"]["outcome"] == "ask"
    });
    pdp.wait_until_key_is_known(stack, TENANT, &recorder);
    let first = request(&answer);
    let id = first["evaluation_id"].as_str().unwrap().to_owned();
    assert_eq!((&answer["decision"], &first["state"]), (&json!(false), &json!("open")), "{answer}");
    assert_eq!(request(&asked(&pdp))["evaluation_id"], id, "the same call has one request");
    pdp.restart(stack);
    stack.eventually("the log shows the request", || request(&asked(&pdp))["evaluation_id"] == id);

    let listed = |more: &[&str]| -> Vec<Value> {
        let list = ["approvals", "list", "--tenant", TENANT, "--json"];
        let listing: Value = serde_json::from_str(&stack.run(&[&list, more].concat())).unwrap();
        listing["approvals"].as_array().unwrap().clone()
    };
    stack.eventually("the request is listed", || listed(&[]).iter().any(|found| found["id"] == *id));
    let [found] = &listed(&[])[..] else { panic!("one request") };
    assert_eq!((&found["arguments"], &found["tool"]), (&json!(ARGUMENTS), &json!(TOOL)));
    assert_eq!(found["comment"], "A transfer needs an approval");

    let folder = tempfile::tempdir().unwrap();
    let output = page_commands(stack, folder.path(), &id).output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(&format!("approved {id} as grace")), "{printed}");
    stack.eventually("the call is allowed", || {
        answer = asked(&pdp);
        answer["decision"] == true
    });
    let context = &answer["context"];
    assert_eq!((&context["reason"], &context["approval"]["id"]), (&json!("approved"), &json!(id)));
    assert_eq!(context["approval"]["approver"], "grace");
    let decision = context["evaluation_id"].as_str().unwrap().to_owned();
    let token = context["token"].as_str().unwrap().to_owned();

    // Before the call is recorded, and afterwards.
    let second = request(&asked(&pdp))["evaluation_id"].as_str().unwrap().to_owned();
    assert_ne!(second, id);
    record(&recorder, &token);
    pdp.restart(stack);
    let verdicts = format!(
        "SELECT decision, reason, approval_id, approval_finding, approver, prior_decision_finding,
                known_digest = (SELECT any(decision_known_digest) FROM actions WHERE decision_id = '{decision}' AND decision_approval_id = '{id}')
         FROM verdicts WHERE tenant_id = '{TENANT}' AND session_id = 's' ORDER BY origin_offset"
    );
    let used = ["allow", "approved", &id, "granted", "grace", "matched", "1"].map(String::from).to_vec();
    stack.eventually("the call is judged", || stack.rows(&verdicts).first() == Some(&used));
    stack.eventually("the next call asks again", || request(&asked(&pdp))["evaluation_id"] == second);
    stack.eventually("the approval is listed as used", || {
        listed(&["--all"]).iter().any(|found| found["id"] == *id && found["state"] == "used")
    });

    let values = [("tenant", TENANT), ("session", "s")];
    let approved =
        crate::queries::answer_of("17", &values).into_iter().find(|row| row["approval_id"] == *id).unwrap();
    assert_eq!(
        (&approved["approver"], &approved["counted_for"]),
        (&json!("grace"), &json!("grace")),
        "{approved}"
    );
    assert_eq!(approved["reason"], "agreed with the owner of the file");
    assert_eq!((&approved["granted"], &approved["used_by_call"]), (&json!(true), &json!(0)), "{approved}");

    record(&recorder, &token);
    stack.eventually("the second use is judged", || stack.rows(&verdicts).len() == 2);
    assert_eq!(
        stack.rows(&verdicts)[1][..6],
        ["ask", "policy", &id, "reused", "grace", "reused"].map(String::from)
    );

    let key = folder.path().join("grace.jwk");
    let decide = |command: &str, id: &str, reason: &str| {
        let key = key.to_str().unwrap();
        stack
            .command(&["approvals", command, id, "--reason", reason, "--key", key, "--json"])
            .output()
            .unwrap()
    };
    for (id, reason, code) in [(id.as_str(), "again", 1), ("no-such-approval", "x", 1), (&second, " ", 2)] {
        let refused = decide("approve", id, reason);
        assert_eq!(refused.status.code(), Some(code), "{}", describe(&refused));
    }
    let denied = decide("deny", &second, "no more");
    assert!(denied.status.success(), "{}", describe(&denied));
    stack.eventually("the refusal is known", || request(&asked(&pdp))["state"] == "refused");
    let answer = asked(&pdp);
    assert_eq!((&answer["decision"], &answer["context"]["outcome"]), (&json!(false), &json!("ask")));
    assert_eq!(request(&answer)["evaluation_id"], second);
    stack.eventually("the refusal is listed", || {
        let shown: Value =
            serde_json::from_str(&stack.run(&["approvals", "show", &second, "--json"])).unwrap();
        shown["state"] == "refused" && shown["decision"]["reason"] == "no more"
    });
    recorder.close(DEADLINE).unwrap();
    // The approved call has no alert, and the second use has.
    checks::assert_alerts_match_findings(stack, TENANT);
    let asked =
        format!("SELECT count() FROM alerts WHERE tenant_id = '{TENANT}' AND policy = 'transfer-asks'");
    assert_eq!(stack.number(&asked), 1);
}

#[test]
fn nobody_approves_what_is_done_for_them() {
    const SESSION: &str = "own";
    let stack = stack();
    stack.register(&["approvals-own"]);
    let bundle = Folder::new("approvals-own", "approvals-own");
    bundle.write("ask.cedar", RULE);
    stack.run(&["policy", "push", bundle.name()]);
    let pdp = Pdp::start(stack, "approvals-own", "approvals-own");
    let mut asking = question(SESSION, "c1", TOOL, ARGUMENTS, None);
    asking["context"]["actor"] = json!({ "id": "Eve", "type": "human" });
    let mut id = String::new();
    stack.eventually("the bundle asks", || {
        let (_, answer) = pdp.ask(&asking, TOKEN);
        let request = &answer["context"]["access_request"]["evaluation_id"];
        id = request.as_str().unwrap_or_default().to_owned();
        !id.is_empty()
    });
    stack.eventually("the request is logged", || {
        stack.number(&format!("SELECT count() FROM actions WHERE approval_id = '{id}'")) > 0
    });
    let folder = tempfile::tempdir().unwrap();
    // The agent's owner is `tests`.
    for name in ["eve", AGENT, "tests"] {
        let key = folder.path().join(name);
        let key = key.to_str().unwrap();
        stack.run(&["registry", "key", "new", "--kind", "approver", "--name", name, "--out", key]);
        let refused =
            stack.command(&["approvals", "approve", &id, "--reason", "mine", "--key", key]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
        assert!(describe(&refused).contains("expected another approver"), "{}", describe(&refused));
    }
}
