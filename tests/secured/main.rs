//! The pipeline as a bank would run it: each process logs in as its own principal, over TLS, with exactly the rights that
//! `topology render acls` gives; and what nobody may do is refused. A stack of its own, since its broker asks who one is.
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

use cluster::{Cluster, told};

#[test]
fn each_has_its_rights_and_no_other() {
    if let Some(why) = cluster::not_here() {
        return agentgov_test_support::skip("secured", &why);
    }
    let cluster = Cluster::start();
    let topology = cluster.run("deployer", &["topology", "apply"]);
    assert!(topology.contains("agent.actions"), "{topology}");
    // Ends with 0: nothing differs.
    cluster.run("deployer", &["topology", "plan"]);
    cluster.run("security", &["registry", "push", "examples/airline/registry.yaml"]);
    cluster.run("security", &["policy", "push", "examples/airline/bundle"]);

    refused::logins(&cluster);
    refused::strangers(&cluster);
    refused::stages(&cluster);

    // Nothing that was refused has left a trace: what follows finds the log whole.
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
    assert!(audit.status.success(), "{}", told(&audit));
    let audit = String::from_utf8(audit.stdout).unwrap();
    assert!(audit.contains("39 judged actions"), "{audit}");
    assert!(cluster.run("auditors", &["session", "show", "4/0"]).contains("no-certificate-for-change"));
    cluster.run("operators", &["rejects", "resume", "evaluator", "--reason", "a test"]);
    for stage in stages {
        stage.end();
    }
    cluster.nothing_was_shown();
}
