//! A flood of rejects stops a stage until an operator tells it to resume. On a map of its own, beside the shared one, so
//! that only its own evaluator stands still.

use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::SchemaRegistry;
use agentgov_evaluator::Evaluator;
use agentgov_runtime::{Health, Stop, processor};
use agentgov_schemas::topology::{Topology, registry_subject};
use agentgov_schemas::{catalogue, subject, wire};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::Offset;

use crate::actions::event;
use crate::stack::{DEADLINE, root, stack};

const WINDOW: usize = 20;

#[test]
fn a_flood_of_rejects_stops_the_stage_until_it_is_told_to_resume() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flood.yaml");
    let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let text = text
        .replace("agent.", "flood.")
        .replace("governance.", "flood-governance.")
        .replace("agentgov.evaluator", "flood.evaluator")
        .replace("window: 1000", &format!("window: {WINDOW}"));
    std::fs::write(&file, &text).unwrap();
    let map = file.to_str().unwrap();
    stack.run(&["topology", "apply", "--topology", map]);
    let topology = Arc::new(Topology::parse(map, &text).unwrap());

    let (stop, health) = (Stop::default(), Health::new("evaluator"));
    let config = processor::Config {
        stage: "evaluator".into(),
        endpoints: stack.endpoints.clone(),
        topology: Arc::clone(&topology),
        stop: stop.clone(),
        health: health.clone(),
        accept_gap: false,
    };
    let evaluator = Evaluator::new(&topology, topology.stage("evaluator").unwrap()).unwrap();
    let running = std::thread::spawn(move || processor::run(config, evaluator));
    stack.eventually("the evaluator is ready", || health.snapshot().not_ready.is_empty());

    let (actions, _) = topology.topic_of(subject::ACTION_EVENT).unwrap();
    let producer: BaseProducer =
        stack.endpoints.kafka.client_config().set("enable.idempotence", "true").create().unwrap();
    let write = |value: &[u8]| {
        producer.send(BaseRecord::<[u8], [u8]>::to(actions).partition(0).key(b"k").payload(value)).unwrap();
        producer.flush(DEADLINE).unwrap();
    };
    for _ in 0..WINDOW {
        write(b"\x01 not in the wire format");
    }
    stack.eventually("the evaluator stands still", || {
        health.snapshot().not_ready.contains_key("reject_share")
    });

    // A judged event comes while it stands still: its verdict must wait for the word.
    let registry = SchemaRegistry::new(&stack.endpoints.registry).unwrap();
    let schema = subject::ACTION_EVENT.schema().unwrap();
    let id = registry.id_of(&registry_subject(actions), schema.text()).unwrap().unwrap();
    let good = wire::Encoder::new(id, schema).encode(&event(catalogue::TOOL_INVOKED, "flood", "s")).unwrap();
    write(&good);
    stack.run(&["rejects", "resume", "evaluator", "--topology", map, "--reason", "the test's flood is over"]);
    stack.eventually("the evaluator is ready again", || health.snapshot().not_ready.is_empty());

    let word = logged_at(subject::CONTROL, &topology);
    let verdict = logged_at(subject::VERDICT, &topology);
    assert!(verdict >= word, "judged at {verdict}, before the word at {word}");
    stop.ask();
    running.join().unwrap().unwrap();
}

/// When the first record of partition 0 of a subject's topic was logged; waits for it.
fn logged_at(subject: subject::Subject, topology: &Topology) -> i64 {
    let stack = stack();
    let (topic, _) = topology.topic_of(subject).unwrap();
    let consumer: BaseConsumer = stack
        .endpoints
        .kafka
        .client_config()
        .set("group.id", "flood.test")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut from = rdkafka::TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut found = None;
    stack.eventually("a record is there", || {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            found = message.timestamp().to_millis();
        }
        found.is_some()
    });
    found.unwrap()
}
