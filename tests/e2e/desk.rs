//! `agentgov demo --desk` with a small server for files: what a call changed, and that it was decided as it is judged.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::stack::{agentgov, describe, root, stack};

/// Environment of the bundle, since another one judges `production`.
const ENVIRONMENT: &str = "desk";

fn demo(server: &[&str]) -> Output {
    let args = ["demo", "--desk", "--json", "--environment", ENVIRONMENT, "--"];
    stack().command(&[&args[..], server].concat()).output().unwrap()
}

#[test]
fn desk_agent_is_held_before_the_server_and_its_approval_works_once() {
    let server = root().join("tests/e2e/desk_server.py");
    let output = demo(&["python3", server.to_str().unwrap()]);
    assert!(output.status.success(), "{}", describe(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["faults"], json!([]), "{report:#}");
    let outcomes: Vec<_> =
        report["steps"].as_array().unwrap().iter().map(|step| step["outcome"].as_str()).collect();
    let expected = ["allow", "deny", "allow", "allow", "deny", "deny", "ask", "allow", "ask"];
    assert_eq!(outcomes, expected.map(Some));
    for (count, expected) in
        [("prevented", 5), ("denied", 3), ("asked", 2), ("without_grant", 1), ("approved", 1)]
    {
        assert_eq!(report[count], expected, "{count}: {report:#}");
    }
    // The same by the rows of the log.
    let session = report["session"].as_str().unwrap();
    let verdicts = format!(
        "SELECT tool_name, decision, reason, arrayStringConcat(violations.policy, ' '), prior_decision_finding FROM verdicts
         WHERE tenant_id = 'desk' AND session_id = '{session}' ORDER BY call_index"
    );
    let verdict = |tool: &str, decision: &str, reason: &str, rule: &str| {
        [&format!("files/{tool}"), decision, reason, rule, "matched"].map(str::to_owned).to_vec()
    };
    let expected = [
        verdict("write_file", "deny", "policy", "read-before-write"),
        verdict("read_text_file", "allow", "granted", ""),
        verdict("write_file", "allow", "granted", ""),
        verdict("write_file", "deny", "policy", "read-before-write"),
        verdict("create_directory", "deny", "no_grant", ""),
        verdict("move_file", "ask", "policy", "moving-asks"),
        verdict("move_file", "allow", "approved", "moving-asks"),
        verdict("move_file", "ask", "policy", "moving-asks"),
    ];
    assert_eq!(stack().rows(&verdicts), expected);
    let alerts = format!(
        "SELECT count(), countIf(prevented) FROM alerts WHERE tenant_id = 'desk' AND session_id = '{session}' AND policy = 'read-before-write'"
    );
    assert_eq!(stack().rows(&alerts), [["2", "2"].map(str::to_owned).to_vec()]);
}

#[test]
fn server_that_does_not_start_is_named_before_a_stack_is_needed() {
    let demo = ["demo", "--desk", "--kafka", "127.0.0.1:1", "--", "agentgov-no-such-server"];
    let output = Command::new(agentgov()).args(demo).current_dir(root()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", describe(&output));
    assert!(describe(&output).contains("agentgov-no-such-server"), "{}", describe(&output));
}
