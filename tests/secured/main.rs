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
    for stage in stages {
        stage.end();
    }
    cluster.assert_no_password_in_logs();
}
