//! Tests of a secured deployment: each process logs in over TLS as its own principal, with exactly the rights of `topology
//! render acls`, and everything else is refused. It has its own stack, since its broker requires authentication.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing loudly"
)]

mod admin;
mod authority;
mod cluster;
mod gate;
mod refused;

use cluster::{Cluster, describe};

#[test]
fn each_principal_has_its_rights_and_no_others() {
    if let Some(why) = cluster::skip_reason() {
        return agentgov_test_support::skip("secured", &why);
    }
    let cluster = Cluster::start();
    let topology = cluster.run("deployer", &["topology", "apply"]);
    assert!(topology.contains("agent.actions"), "{topology}");
    // Exits with 0 if nothing differs.
    cluster.run("deployer", &["topology", "plan"]);
    cluster.run("security", &["registry", "push", "examples/airline/registry.yaml"]);
    cluster.run("security", &["policy", "push", "examples/airline/bundle"]);

    refused::logins(&cluster);
    refused::user_without_rights(&cluster);
    refused::stages(&cluster);

    // Refused requests leave no trace: the audit below finds the log complete.
    let stages = ["evaluator", "alerter", "log-sink"].map(|stage| cluster.stage(stage));
    let runs = ["import", "chat-completions", "examples/airline/runs.jsonl", "--tenant", "airline"];
    let of = ["--agent", "airline-service", "--environment", "demo", "--start-time", "2024-05-15T15:00:00"];
    cluster.run("services", &[&runs[..], &of[..]].concat());
    cluster.eventually("every event, verdict and alert is a row", || {
        [("actions", 151), ("verdicts", 39), ("alerts", 15)]
            .iter()
            .all(|(table, rows)| cluster.count(table) == *rows)
    });
    let audit = cluster.command("auditors", &["audit", "completeness"]).output().unwrap();
    assert!(audit.status.success(), "{}", describe(&audit));
    let audit = String::from_utf8(audit.stdout).unwrap();
    assert!(audit.contains("39 judged actions"), "{audit}");
    assert!(cluster.run("auditors", &["session", "show", "4/0"]).contains("no-certificate-for-change"));
    cluster.run("operators", &["rejects", "resume", "evaluator", "--reason", "a test"]);
    decisions(&cluster);
    for stage in stages {
        stage.end();
    }
    cluster.assert_no_password_in_logs();
}

/// A decision point works with the rights of `decide`. With those of `enforce` it cannot read the state, so it allows
/// nothing.
fn decisions(cluster: &Cluster) {
    let key = cluster.file("pdp.jwk");
    cluster.run("security", &["registry", "key", "new", "--kind", "pdp", "--name", "pdp", "--out", &key]);
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let ready = |url: &str| client.get(format!("{url}/readyz")).send().unwrap().text().unwrap();
    let ask = |url: &str| -> serde_json::Value {
        let question = serde_json::json!({
            "subject": { "type": "agent", "id": "airline-service" },
            "action": { "name": "tools/call" },
            "resource": { "type": "tool", "id": "think" },
            "context": { "tenant": "airline", "environment": "production", "session": "secured" },
        });
        client.post(format!("{url}/access/v1/evaluation")).json(&question).send().unwrap().json().unwrap()
    };
    let (deciding, url) = cluster.pdp("pdp", &key);
    cluster.eventually("the decision point is ready", || ready(&url) == "ready\n");
    let before = cluster.count("actions");
    let answer = ask(&url);
    assert_eq!(
        (&answer["decision"], &answer["context"]["recorded"]),
        (&true.into(), &true.into()),
        "{answer}"
    );
    assert!(answer["context"]["token"].is_string(), "{answer}");
    cluster.eventually("the decision is a row", || cluster.count("actions") > before);
    deciding.end();

    let (enforcing, url) = cluster.pdp("gateways", &key);
    // The broker refuses the group first; refused.rs asks for the topic alone.
    cluster.eventually("the refusal is a reason", || {
        let reasons = ready(&url);
        reasons.contains("reading agent.sessions: ") && reasons.contains("AuthorizationFailed")
    });
    assert_eq!(ask(&url)["decision"], false);
    assert!(!cluster.run("security", &["registry", "key", "list"]).is_empty());
    enforcing.end();
}
