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
    let (runs, violations) = (runs.to_str().unwrap(), found.to_str().unwrap());
    let args = ["demo", "--inline", "--json", "--input", runs, "--violations", violations];
    let report: serde_json::Value = serde_json::from_str(&stack.run(&args)).unwrap();

    assert_eq!(std::fs::read_to_string(found).unwrap(), std::fs::read_to_string(expected).unwrap());
    assert_eq!(report["counts"]["tool_calls"], 621);
    assert_eq!(report["violations"], 72);
    assert_eq!(report["alerted"], 72, "the alerts name the same between them");
    assert_decided_as_judged(&report, 621);
    // Every published event is one row at its own offset, and each judged action has one verdict.
    assert_eq!(report["counts"]["rows"], report["counts"]["events"]);
    let judged = "SELECT count() FROM actions WHERE tenant_id = 'airline' AND type = 'tool.invoked' AND environment = 'demo'";
    let verdicts = "SELECT count() FROM verdicts WHERE tenant_id = 'airline' AND environment = 'demo'";
    stack.eventually("each judged action has one verdict", || stack.number(judged) == stack.number(verdicts));
}

/// Checks that each of the `calls` of a demo was decided as it was judged, by the report and by the rows of the log.
fn assert_decided_as_judged(report: &serde_json::Value, calls: i64) {
    let inline = &report["inline"];
    for (name, expected) in [("asked", calls), ("differed", 0)] {
        assert_eq!(inline[name], expected, "{name}: {inline:#}");
    }
    assert_eq!((&inline["errors"], &inline["differences"]), (&serde_json::json!([]), &serde_json::json!([])));
    let outcomes = ["allowed", "denied", "asked_a_person", "indeterminate"];
    let outcomes = outcomes.map(|name| inline[name].as_i64().unwrap());
    assert_eq!(outcomes.iter().sum::<i64>(), calls, "{inline:#}");
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{inline:#}");
    assert_eq!(report["counts"]["allowed"], outcomes[0]);

    let source = source_of(report);
    let equal = "SELECT uniqExact(v.topic_partition, v.offset)
         FROM verdicts AS v
         INNER JOIN actions AS c ON c.topic = v.origin_topic AND c.partition = v.origin_partition AND c.offset = v.origin_offset
         INNER JOIN actions AS d ON d.session_id = c.session_id AND d.call_id = c.call_id AND d.tool_name = c.tool_name
         WHERE v.tenant_id = 'airline' AND v.environment = 'demo' AND c.source_id = '{source}' AND c.decision_token != '' AND d.type = 'decision.made'
             AND d.decision = v.decision AND d.decision_reason = v.reason AND d.decision_known_digest = v.known_digest
             AND d.decision_policies = v.determining_policies
             AND arrayZip(d.decision_violations.policy, d.decision_violations.severity, d.decision_violations.mode, d.decision_violations.effect)
                 = arrayZip(v.violations.policy, v.violations.severity, v.violations.mode, v.violations.effect)";
    assert_eq!(stack().number(&equal.replace("{source}", &source)), calls);
}

/// Returns the source that recorded the runs of a demo: another demo records sessions of the same tenant concurrently.
fn source_of(report: &serde_json::Value) -> String {
    let session = report["findings"][0]["session_id"].as_str().unwrap();
    let sources = stack().rows(&format!(
        "SELECT DISTINCT source_id FROM actions WHERE tenant_id = 'airline' AND session_id = '{session}' AND type = 'tool.invoked'"
    ));
    assert_eq!(sources.len(), 1, "{sources:?}");
    sources[0][0].clone()
}

#[test]
fn samples_asked_inline_are_decided_as_they_are_judged() {
    let stack = stack();
    let args = ["demo", "--inline", "--json"];
    let report: serde_json::Value = serde_json::from_str(&stack.run(&args)).unwrap();
    assert_decided_as_judged(&report, report["counts"]["tool_calls"].as_i64().unwrap());
    assert_eq!(
        report["counts"]["rows"], report["counts"]["events"],
        "decisions are not among the demo's events"
    );
    // Each call of a session has its decision above its verdict.
    let source = source_of(&report);
    let session = stack.rows(&format!(
        "SELECT session_id FROM actions WHERE source_id = '{source}' AND decision_token != '' LIMIT 1"
    ));
    let show = ["session", "show", &session[0][0], "--tenant", "airline"];
    let shown: serde_json::Value =
        serde_json::from_str(&stack.run(&[&show[..], &["--json"]].concat())).unwrap();
    let entries = shown["entries"].as_array().unwrap().iter();
    let calls: Vec<_> = entries.filter(|entry| entry["verdict"].is_object()).collect();
    assert!(!calls.is_empty());
    for call in &calls {
        assert!(call["decision"]["id"].is_string(), "{call:#}");
        assert_eq!(call["decision"]["id"], call["event"]["token_decision_id"], "{call:#}");
        assert_eq!(call["decision"]["outcome"], call["verdict"]["decision"], "{call:#}");
        assert!(call["disagreement"].is_null(), "{call:#}");
    }
    let text = stack.run(&show);
    let count = |word: &str| text.matches(&format!("\n  {word} ")).count();
    assert_eq!((count("decided"), count("verdict")), (calls.len(), calls.len()), "{text}");
    // Runs that the log has already cannot be asked about: a decision would know its own call.
    let again = stack.command(&args).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "{}", describe(&again));
    assert!(describe(&again).contains("give another --start-time"), "{}", describe(&again));
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
