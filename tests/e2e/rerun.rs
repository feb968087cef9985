//! Tests that repeated and interrupted imports count once.

use std::process::Stdio;
use std::time::Duration;

use agentgov_schemas::subject;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::Value;

use crate::checks;
use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, Stack, root, stack};

fn import<'a>(file: &'a str, tenant: &'a str) -> Vec<&'a str> {
    let import = ["--json", "import", "chat-completions", file, "--tenant", tenant, "--agent", AGENT];
    [&import[..], &["--environment", ENVIRONMENT, "--start-time", "2024-05-15T15:00:00"]].concat()
}

/// Runs an import to its end. Returns its events, including the closing one, and its tool calls.
fn run(stack: &Stack, file: &str, tenant: &str) -> (i64, i64) {
    let summary: Value = serde_json::from_str(&stack.run(&import(file, tenant))).unwrap();
    (summary["events"].as_i64().unwrap() + 1, summary["tool_calls"].as_i64().unwrap())
}

#[test]
fn repeated_import_counts_once() {
    const TENANT: &str = "twice";
    let stack = stack();
    let violations = format!(
        "SELECT session_label, call_index, tool_name, policy FROM verdicts ARRAY JOIN violations.policy AS policy
         WHERE tenant_id = '{TENANT}' ORDER BY ALL"
    );
    let alerts =
        format!("SELECT policy, alert_id, revision FROM alerts WHERE tenant_id = '{TENANT}' ORDER BY ALL");
    let (events, calls) = run(stack, "examples/airline/runs.jsonl", TENANT);
    checks::assert_complete(stack, TENANT, events);
    let first = (stack.sql(&violations), stack.sql(&alerts));
    assert!(!first.0.is_empty() && !first.1.is_empty());

    assert_eq!(run(stack, "examples/airline/runs.jsonl", TENANT), (events, calls));
    let rows = format!(
        "SELECT count(), uniqExact(source_sequence), uniqExact(source_id) FROM actions WHERE tenant_id = '{TENANT}'"
    );
    let expected = [[(2 * events).to_string(), events.to_string(), "1".to_owned()]];
    stack.eventually("twice the rows", || stack.rows(&rows) == expected);
    checks::assert_each_judged_action_has_one_verdict(stack, TENANT);
    let verdicts = format!(
        "SELECT count(), countIf(decision = 'duplicate'), countIf(notEmpty(findings)) FROM verdicts WHERE tenant_id = '{TENANT}'"
    );
    assert_eq!(stack.rows(&verdicts), [[(2 * calls).to_string(), calls.to_string(), "0".to_owned()]]);
    checks::assert_alerts_match_findings(stack, TENANT);
    assert_eq!((stack.sql(&violations), stack.sql(&alerts)), first);
}

#[test]
fn killed_import_is_completed_by_a_repeat() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runs.jsonl");
    let path = file.to_str().unwrap();
    // A fast machine may publish the shorter file before the kill.
    for (tenant, copies) in [("killed-1", 100), ("killed-2", 1_000)] {
        std::fs::write(&file, generated_runs(copies)).unwrap();
        let arrived = format!("SELECT count() FROM actions WHERE tenant_id = '{tenant}'");
        let published = Published::of(stack, tenant);
        let mut killed = stack.command(&import(path, tenant)).stdout(Stdio::null()).spawn().unwrap();
        stack.eventually("the first record in the topic", || published.any());
        killed.kill().unwrap();
        let hit = killed.wait().unwrap().code().is_none();

        let (events, calls) = run(stack, path, tenant);
        let distinct = format!(
            "SELECT uniqExact(source_sequence), uniqExact(event_id) FROM actions WHERE tenant_id = '{tenant}'"
        );
        let expected = [[events.to_string(), events.to_string()]];
        stack.eventually("every distinct event", || stack.rows(&distinct) == expected);
        let total = stack.number(&arrived);
        checks::assert_every_offset_is_one_row(stack);
        checks::assert_each_judged_action_has_one_verdict(stack, tenant);
        let by_event = format!(
            "SELECT count(), countIf(first != 1) FROM
               (SELECT event_id, countIf(decision != 'duplicate') AS first FROM verdicts WHERE tenant_id = '{tenant}' GROUP BY event_id)"
        );
        assert_eq!(stack.rows(&by_event), [[calls.to_string(), "0".to_owned()]]);
        checks::assert_alerts_match_findings(stack, tenant);
        if hit && total < 2 * events {
            assert!(total > events, "{total} rows of {events} events: what came before the kill came again");
            return;
        }
    }
    panic!("no import was hit midway");
}

/// Reads new records of the topic of actions, which arrive there seconds before their rows.
struct Published {
    consumer: BaseConsumer,
    key_prefix: String,
}

impl Published {
    fn of(stack: &Stack, tenant: &str) -> Self {
        let (topic, settings) = stack.topology.topic_of(subject::ACTION_EVENT).unwrap();
        let mut config = stack.endpoints.kafka.client_config();
        let consumer: BaseConsumer = config.set("group.id", "tests.rerun").create().unwrap();
        let mut ends = TopicPartitionList::new();
        for partition in 0..settings.partitions.value {
            let (_, end) = consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap();
            ends.add_partition_offset(topic, partition, Offset::Offset(end)).unwrap();
        }
        consumer.assign(&ends).unwrap();
        Self { consumer, key_prefix: format!("{tenant}/") }
    }

    /// Returns true once a record of the tenant was read. Each record is read once.
    fn any(&self) -> bool {
        while let Some(record) = self.consumer.poll(Duration::from_millis(100)) {
            if record.unwrap().key().is_some_and(|key| key.starts_with(self.key_prefix.as_bytes())) {
                return true;
            }
        }
        false
    }
}

/// Returns copies of the sample runs with different task ids.
fn generated_runs(copies: i64) -> String {
    let samples = std::fs::read_to_string(root().join("examples/airline/runs.jsonl")).unwrap();
    let mut lines = String::new();
    for copy in 0..copies {
        for sample in samples.lines() {
            let mut run: Value = serde_json::from_str(sample).unwrap();
            run["task_id"] = (1_000 * (copy + 1) + run["task_id"].as_i64().unwrap()).into();
            lines.push_str(&format!("{run}\n"));
        }
    }
    lines
}
