//! Tests of the demo, on the samples and on the recorded runs beside the project.

use std::process::Command;

use crate::stack::{agentgov, describe, root, shared, stack};

#[test]
fn recorded_runs_have_exactly_the_expected_violations() {
    let (Some(runs), Some(expected)) = (shared("runs.jsonl"), shared("expected-violations.tsv")) else {
        return;
    };
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let found = folder.path().join("violations.tsv");
    let args = ["demo", "--json", "--input", runs.to_str().unwrap(), "--violations", found.to_str().unwrap()];
    let report: serde_json::Value = serde_json::from_str(&stack.run(&args)).unwrap();

    assert_eq!(std::fs::read_to_string(found).unwrap(), std::fs::read_to_string(expected).unwrap());
    assert_eq!(report["counts"]["tool_calls"], 621);
    assert_eq!(report["violations"], 72);
    assert_eq!(report["alerted"], 72, "the alerts name the same between them");
    // Every published event is one row at its own offset, and each judged action has one verdict.
    assert_eq!(report["counts"]["rows"], report["counts"]["events"]);
    let judged = "SELECT count() FROM actions WHERE tenant_id = 'airline' AND type = 'tool.invoked' AND environment = 'demo'";
    let verdicts = "SELECT count() FROM verdicts WHERE tenant_id = 'airline' AND environment = 'demo'";
    stack.eventually("each judged action has one verdict", || stack.number(judged) == stack.number(verdicts));
}

#[test]
fn demo_fires_every_rule_and_leaves_nothing_running() {
    let output = Command::new(agentgov())
        .args(["demo", "--json"])
        .current_dir(root())
        .env_remove("AGENTGOV_KAFKA")
        .env_remove("AGENTGOV_SCHEMA_REGISTRY")
        .env_remove("AGENTGOV_CLICKHOUSE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let by_policy = report["by_policy"].as_array().unwrap();
    assert_eq!(by_policy.len(), 12);
    for rule in by_policy {
        assert!(rule["violations"].as_u64().unwrap() > 0, "{} is violated by no sample run", rule["policy"]);
    }
    assert_eq!(report["violations"], report["alerted"]);
    assert_eq!(report["counts"]["without_grant"], 0);
    // The audit, which shares no code with the stages, finds the log complete.
    let audit = &report["audit"];
    assert_eq!(audit["findings"], serde_json::json!([]));
    assert_eq!((&audit["records"], &audit["pending"]), (&audit["rows"], &serde_json::json!(0)));
    assert_eq!(audit["judged"], report["counts"]["tool_calls"]);
    assert_eq!((&audit["sources"], &audit["closed_sources"]), (&serde_json::json!(1), &serde_json::json!(1)));
}
