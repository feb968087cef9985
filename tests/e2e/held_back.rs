//! Tests that status, readiness and a metric report an open transaction, which holds back later records without any lag.
//! The test has its own topology, since it holds a partition back.

use std::time::{Duration, Instant};

use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::{catalogue, subject};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

use crate::actions::{Writer, event};
use crate::stack::{DEADLINE, root, stack};
use crate::status::{Process, get, samples};

const METRIC: &str = "agentgov_held_back_seconds";

#[test]
fn open_transaction_is_reported_until_it_ends() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("held.yaml");
    let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let text = text
        .replace("agent.", "held.")
        .replace("governance.", "held-governance.")
        .replace("agentgov.", "held.")
        .replace("partitions: 12", "partitions: 2");
    std::fs::write(&file, &text).unwrap();
    let map = file.to_str().unwrap();
    stack.run(&["topology", "apply", "--topology", map]);
    stack.run(&["registry", "push", "examples/airline/registry.yaml", "--topology", map]);
    stack.run(&["policy", "push", "examples/airline/bundle", "--topology", map]);
    let topology = Topology::parse(map, &text).unwrap();
    let (actions, _) = topology.topic_of(subject::ACTION_EVENT).unwrap();
    let mut process = Process::start({
        let mut command = stack.command(&["run", "evaluator", "alerter", "--listen", "127.0.0.1:0"]);
        command.args(["--topology", map]);
        command
    });
    let readiness =
        || -> Value { serde_json::from_str(&get(&process.url("readyz?format=json")).1).unwrap_or_default() };
    let held_back = |readiness: &Value, stage: usize| {
        let why = &readiness["stages"][stage]["not_ready"]["held_back"];
        why.as_str().unwrap_or_default().to_owned()
    };
    let status = || -> Value {
        let output = stack.command(&["status", "--json", "--topology", map]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let evaluator = |status: &Value| {
        let stages = status["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["name"] == "evaluator").unwrap()["state"]["known"].clone()
    };
    let wrong = |status: &Value| {
        let message = status["wrong"].as_array().unwrap().iter();
        message
            .filter_map(|wrong| wrong["what"].as_str())
            .filter(|what| what.contains("has waited since"))
            .count()
    };
    stack.eventually("every stage is ready", || get(&process.url("readyz")).0 == 200);

    let value =
        Writer::<ActionEvent<'static>>::new(stack).encode(&event(catalogue::TOOL_INVOKED, "airline", "s"));
    let mut config = stack.endpoints.kafka.client_config();
    let plain: BaseProducer = config.create().unwrap();
    let other: BaseProducer = config.set("transactional.id", "held.stranger").create().unwrap();
    other.init_transactions(DEADLINE).unwrap();
    let write = |producer: &BaseProducer, key: &str| {
        let record = BaseRecord::to(actions).partition(1).key(key).payload(&value);
        producer.send(record).unwrap();
        producer.flush(DEADLINE).unwrap();
    };
    other.begin_transaction().unwrap();
    write(&other, "airline/held");
    write(&plain, "airline/behind");

    // Two stages and two partitions; only one of each is affected.
    let place = format!("{actions}/1");
    let begun = Instant::now();
    let mut readiness_body = Value::Null;
    stack.eventually("readiness names the partition", || {
        readiness_body = readiness();
        !held_back(&readiness_body, 1).is_empty() || !held_back(&readiness_body, 0).is_empty()
    });
    assert!(begun.elapsed() > Duration::from_secs(4), "no moment, but one that lasts");
    let names: Vec<_> =
        readiness_body["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    let at = names.iter().position(|name| *name == "evaluator").unwrap();
    let why = held_back(&readiness_body, at);
    assert!(
        why.starts_with(&format!("{place} has waited since 20")) && why.contains("open at offset 0"),
        "{readiness_body:#}"
    );
    assert_eq!(held_back(&readiness_body, 1 - at), "", "the alerter reads another topic");
    let served = get(&process.url("metrics")).1;
    let held: Vec<_> = samples(&served, METRIC).filter(|(_, seconds)| *seconds > 0.0).collect();
    assert!(held.len() == 1 && held[0].0.contains("partition=\"1\"") && held[0].1 >= 5.0, "{held:?}");
    assert!(held[0].0.contains(&format!("topic=\"{actions}\"")), "{held:?}");
    assert_eq!(get(&process.url("livez")).0, 200, "it waits");
    let seen = status();
    assert_eq!((wrong(&seen), &seen["health"]), (1, &"unhealthy".into()), "{seen:#}");
    let group = evaluator(&seen);
    assert_eq!(group["lag"][0]["records"], 0, "nobody could work it off");
    let held = &group["held_back"][0];
    assert_eq!(
        (&held["topic"], &held["partition"], &held["offset"], &held["records"]),
        (&actions.into(), &1.into(), &0.into(), &2.into()),
        "{group:#}"
    );
    assert!(held["seconds"].as_f64().unwrap() >= 5.0 && held["since"].as_i64().unwrap() > 1_700_000_000_000);

    // The records after it are judged, and the marker at the end is no lag.
    other.abort_transaction(DEADLINE).unwrap();
    stack.eventually("the stage is ready again", || get(&process.url("readyz")).0 == 200);
    other.begin_transaction().unwrap();
    write(&other, "airline/committed");
    other.commit_transaction(DEADLINE).unwrap();
    stack.eventually("nothing is held back and nothing waits", || {
        let served = get(&process.url("metrics")).1;
        let sum = |name| samples(&served, name).map(|(_, value)| value).sum::<f64>();
        let done = samples(&served, "agentgov_records_total")
            .any(|(labels, n)| labels.contains("evaluator") && n >= 2.0);
        done && sum(METRIC) == 0.0 && sum("agentgov_lag_records") == 0.0
    });
    let seen = status();
    assert_eq!((wrong(&seen), &evaluator(&seen)["lag"][0]["records"]), (0, &0.into()), "{seen:#}");
    process.stop();
}
