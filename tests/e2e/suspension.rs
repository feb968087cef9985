//! Suspension of an agent: its calls are denied and alerted until it is resumed.

use serde_json::Value;

use crate::bundles::call_until;
use crate::checks;
use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, Stack, describe, stack};

const TENANT: &str = "suspension";
/// Environment for which no bundle is pushed.
const UNJUDGED: &str = "suspension-unjudged";
const ALLOWED: [&str; 4] = ["allow", "granted", "airline", "1"];

fn listed(stack: &Stack) -> [Value; 2] {
    let listing: Value = serde_json::from_str(&stack.run(&["registry", "list", "--json"])).unwrap();
    let agents = listing["agents"].as_array().unwrap();
    let agent = agents.iter().find(|agent| agent["tenant_id"] == TENANT).unwrap();
    ["state", "reason"].map(|field| agent[field].clone())
}

#[test]
fn suspended_agent_is_denied_until_it_is_resumed() {
    let stack = stack();
    stack.register(&[TENANT]);
    let (recorder, unjudged) = (stack.recorder(TENANT, ENVIRONMENT), stack.recorder(TENANT, UNJUDGED));
    let change = |command, reason| {
        let arguments = ["registry", command, AGENT, "--tenant", TENANT, "--reason", reason, "--json"];
        let outcome: Value = serde_json::from_str(&stack.run(&arguments)).unwrap();
        outcome["outcome"].clone()
    };
    let mut calls = call_until(stack, &recorder, TENANT, "registered", &ALLOWED);
    assert_eq!(change("resume", "a test"), "unchanged");
    assert_eq!(listed(stack), ["active", ""]);

    assert_eq!(change("suspend", "it is a test"), "changed");
    assert_eq!(change("suspend", "again"), "unchanged");
    assert_eq!(listed(stack), ["suspended", "it is a test"]);
    // A push of the agent as active appends nothing.
    stack.register(&[TENANT]);
    assert_eq!(listed(stack), ["suspended", "it is a test"]);
    calls += call_until(stack, &recorder, TENANT, "suspended", &["deny", "suspended", "airline", "1"]);
    calls += call_until(stack, &unjudged, TENANT, "unjudged", &["deny", "suspended", "", ""]);
    let alerts = format!(
        "SELECT DISTINCT policy, decision, severity FROM alerts
         WHERE tenant_id = '{TENANT}' AND startsWith(session_id, 'suspended')"
    );
    stack.eventually("an alert", || {
        stack.rows(&alerts).contains(&["agentgov:suspended", "deny", "high"].map(String::from).to_vec())
    });

    assert_eq!(change("resume", "fixed"), "changed");
    assert_eq!(listed(stack), ["active", "fixed"]);
    calls += call_until(stack, &recorder, TENANT, "resumed", &ALLOWED);

    let rows = format!(
        "SELECT state, reason, owner, roles FROM agents WHERE tenant_id = '{TENANT}' ORDER BY offset"
    );
    let expected = [["active", ""], ["suspended", "it is a test"], ["active", "fixed"]]
        .map(|[state, reason]| [state, reason, "tests", "['airline-agent']"].map(String::from).to_vec());
    stack.eventually("each entry is a row", || stack.rows(&rows).len() >= 3);
    assert_eq!(stack.rows(&rows), expected);
    for recorder in [recorder, unjudged] {
        recorder.close(DEADLINE).unwrap();
    }
    // Each source also records its end.
    checks::assert_complete(stack, TENANT, calls + 2);
}

#[test]
fn agent_that_cannot_be_suspended_or_resumed_is_an_error_and_publishes_nothing() {
    const RETIRED: &str = "suspension-retired";
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.yaml");
    let agent = format!("{{ tenant_id: {RETIRED}, agent_id: old, name: Old, owner: tests, state: retired }}");
    std::fs::write(&file, format!("agents:\n  - {agent}\n")).unwrap();
    stack.run(&["registry", "push", file.to_str().unwrap()]);
    let agents = || stack.run(&["registry", "list"]);
    let before = agents();
    for (agent, tenant, reason, code, message) in [
        ("old", RETIRED, "a test", 1, "found a retired one"),
        ("-nobody", RETIRED, "a test", 1, "found `suspension-retired/-nobody`"),
        ("old", "suspension-no-tenant", "a test", 1, "found `suspension-no-tenant/old`"),
        ("old", RETIRED, " ", 2, "--reason: expected a text"),
    ] {
        for command in ["suspend", "resume"] {
            let arguments = ["registry", command, agent, "--tenant", tenant, "--reason", reason];
            let output = stack.command(&arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", describe(&output));
            assert!(describe(&output).contains(message), "{arguments:?}: {}", describe(&output));
        }
    }
    let old = |text: &str| text.lines().find(|line| line.contains(RETIRED)).map(str::to_owned);
    assert_eq!(old(&agents()), old(&before));
    // A push does not make it active either.
    for state in ["active", "suspended"] {
        std::fs::write(
            &file,
            format!("agents:\n  - {}\n", agent.replace("state: retired", &format!("state: {state}"))),
        )
        .unwrap();
        let output = stack.command(&["registry", "push", file.to_str().unwrap(), "--json"]).output().unwrap();
        assert!(
            describe(&output).contains("suspension-retired/old: retired, and stays retired"),
            "{}",
            describe(&output)
        );
        assert_eq!(old(&agents()), old(&before));
    }
}
