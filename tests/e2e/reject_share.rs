//! Tests of the reject share: a flood of rejects from most tenants stops a stage until an operator resumes it; a flood from
//! few tenants is an alert. Each test has its own topology and evaluator.

use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::SchemaRegistry;
use agentgov_evaluator::Evaluator;
use agentgov_runtime::processor;
use agentgov_schemas::alert::Alert;
use agentgov_schemas::event::{ActionEvent, Source};
use agentgov_schemas::topology::{Topology, registry_subject};
use agentgov_schemas::verdict::Severity;
use agentgov_schemas::{NotReadyReason, RecordEncoder, catalogue, subject, wire};
use agentgov_service::{Health, ShutdownSignal, StageError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::Offset;

use crate::actions::event;
use crate::stack::{DEADLINE, Stack, root, stack};

const WINDOW: usize = 20;

#[test]
fn flood_of_rejects_stops_the_stage_until_an_operator_resumes_it() {
    let flood = Flood::start("flood");
    let Flood { stack, health, .. } = &flood;
    // Once a tenant is known, only known tenants count.
    flood.write("flood/s", &flood.judged_event(0));
    for _ in 0..WINDOW {
        flood.write("flood/s", b"\x01 not in the wire format");
    }
    stack.eventually("the evaluator stands still", || {
        health.snapshot().not_ready.contains_key(&NotReadyReason::RejectShare)
    });

    // A judged event arrives while the stage is paused; its verdict must wait for the control.
    flood.write("flood/s", &flood.judged_event(1));
    let map = flood.file.path().to_str().unwrap();
    stack.run(&["rejects", "resume", "evaluator", "--topology", map, "--reason", "the test's flood is over"]);
    stack.eventually("the evaluator is ready again", || health.snapshot().not_ready.is_empty());

    let word = flood.read(subject::CONTROL, 1)[0].0;
    let alert = flood.read(subject::ALERT, 1).remove(0).1;
    let (id, datum) = wire::split(&alert).unwrap();
    let alert: Alert<'_> = subject::ALERT.schema().unwrap().decode(id, datum).unwrap();
    assert_eq!((alert.policy, alert.severity.known()), ("agentgov:stage-stopped", Some(Severity::Critical)));
    let parts = [
        "tenant `flood` (key `flood/s`, partition 0, ",
        "wrong_magic_byte ",
        "rejects resume evaluator --reason",
    ];
    assert!(parts.iter().all(|part| alert.message.contains(part)), "{}", alert.message);
    let verdict = flood.read(subject::VERDICT, 2)[1].0;
    assert!(verdict >= word, "judged at {verdict}, before the word at {word}");
    flood.end();
}

#[test]
fn flood_of_one_tenants_rejects_is_an_alert_and_stops_no_stage() {
    let flood = Flood::start("lonely");
    let stack = flood.stack;
    flood.write("flood/s", &flood.judged_event(0));
    flood.write("quiet/s", &flood.judged_event(1));
    // Rejects of its own tenant and of invented tenants, over several windows each.
    for number in 0..WINDOW * 3 {
        flood.write("flood/s", b"\x01 not in the wire format");
        flood.write(&format!("made-up-{number}/s"), b"");
    }
    flood.write("quiet/s", &flood.judged_event(2));
    assert_eq!(flood.read(subject::VERDICT, 3).len(), 3, "it is judged, whatever the others send");
    assert!(!flood.health.snapshot().not_ready.contains_key(&NotReadyReason::RejectShare));
    let alerts = flood.read(subject::ALERT, 6);
    let schema = subject::ALERT.schema().unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for (number, (_, value)) in alerts.iter().enumerate() {
        let (id, datum) = wire::split(value).unwrap();
        let alert: Alert<'_> = schema.decode(id, datum).unwrap();
        assert_eq!(alert.policy, "agentgov:reject-flood");
        assert_eq!(alert.severity, Severity::Critical);
        let parts = [
            "of the 2 tenants",
            "tenant `flood` (key `flood/s`, partition 0, from offset ",
            "wrong_magic_byte ",
        ];
        assert!(parts.iter().all(|part| alert.message.contains(part)), "{}", alert.message);
        assert_eq!(alert.revision, i32::try_from(number).unwrap(), "one a window");
        ids.insert(alert.alert_id);
    }
    assert_eq!(ids.len(), 1, "all windows revise one alert");
    let rejects = flood.read(subject::REJECT, WINDOW * 6).len();
    assert_eq!(rejects, WINDOW * 6);
    stack.eventually("nothing waits", || flood.health.snapshot().not_ready.is_empty());
    flood.end();
}

/// Evaluator on its own topology.
struct Flood {
    stack: &'static Stack,
    file: tempfile::NamedTempFile,
    topology: Arc<Topology>,
    health: Health,
    stop: ShutdownSignal,
    running: std::thread::JoinHandle<Result<(), StageError>>,
    producer: BaseProducer,
    id: wire::SchemaId,
}

impl Flood {
    fn start(name: &str) -> Self {
        let stack = stack();
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
        let text = text
            .replace("agent.", &format!("{name}."))
            .replace("governance.", &format!("{name}-governance."))
            .replace("agentgov.evaluator", &format!("{name}.evaluator"))
            .replace("window: 1000", &format!("window: {WINDOW}"));
        std::fs::write(file.path(), &text).unwrap();
        let map = file.path().to_str().unwrap();
        stack.run(&["topology", "apply", "--topology", map]);
        let topology = Arc::new(Topology::parse(map, &text).unwrap());
        let (stop, health) = (ShutdownSignal::default(), Health::new("evaluator"));
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
        let producer: BaseProducer =
            stack.endpoints.kafka.client_config().set("enable.idempotence", "true").create().unwrap();
        let registry = SchemaRegistry::new(&stack.endpoints.schema_registry).unwrap();
        let schema = subject::ACTION_EVENT.schema().unwrap();
        let (actions, _) = topology.topic_of(subject::ACTION_EVENT).unwrap();
        let id = registry.id_of(&registry_subject(actions), schema.text()).unwrap().unwrap();
        Self { stack, file, topology, health, stop, running, producer, id }
    }

    /// Writes to partition 0 of the actions.
    fn write(&self, key: &str, value: &[u8]) {
        let (actions, _) = self.topology.topic_of(subject::ACTION_EVENT).unwrap();
        self.producer
            .send(BaseRecord::<str, [u8]>::to(actions).partition(0).key(key).payload(value))
            .unwrap();
        self.producer.flush(DEADLINE).unwrap();
    }

    /// Returns a judged event.
    fn judged_event(&self, sequence: i64) -> Vec<u8> {
        let event = event(catalogue::TOOL_INVOKED, "flood", "s");
        let event = ActionEvent { source: Source { sequence, ..event.source }, ..event };
        RecordEncoder::<ActionEvent<'static>>::new(self.id).unwrap().encode(&event).unwrap()
    }

    /// Waits for `count` records of partition 0 of a subject's topic. Returns their times and values.
    fn read(&self, subject: subject::Subject, count: usize) -> Vec<(i64, Vec<u8>)> {
        let (topic, _) = self.topology.topic_of(subject).unwrap();
        let consumer: BaseConsumer = self
            .stack
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
        let mut found = Vec::new();
        self.stack.eventually(&format!("{count} records of {topic}"), || {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let value = message.payload().unwrap_or_default().to_vec();
                found.push((message.timestamp().to_millis().unwrap(), value));
            }
            found.len() >= count
        });
        found
    }

    fn end(self) {
        self.stop.request();
        self.running.join().unwrap().unwrap();
    }
}
