//! Tests of stages whose input is gone: retention was faster, or the topic was replaced. Each test has its own topology.
//! Tests of the sink are in log_sink.rs.

use std::sync::Arc;
use std::thread::JoinHandle;

use agentgov_connect::Endpoints;
use agentgov_evaluator::Evaluator;
use agentgov_runtime::processor;
use agentgov_schemas::subject;
use agentgov_schemas::topology::Topology;
use agentgov_service::lag::{self, Lag, LagReader};
use agentgov_service::{ExitCode, Health, ShutdownSignal, StageError};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::log_sink::{Log, Outcome, block_on, delete, short_retention, transact};
use crate::stack::{DEADLINE, root, stack};

/// Pipeline with its own topics and an evaluator.
struct OwnPipeline {
    topology: Arc<Topology>,
    actions: String,
    endpoints: Endpoints,
}

struct Running {
    health: Health,
    stop: ShutdownSignal,
    thread: JoinHandle<Result<(), StageError>>,
}

impl OwnPipeline {
    fn new(name: &str) -> Self {
        Self::of(name, &std::fs::read_to_string(root().join("topology.yaml")).unwrap())
    }

    fn of(name: &str, text: &str) -> Self {
        let stack = stack();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("topology.yaml");
        let text = text
            .replace("agent.", &format!("{name}."))
            .replace("governance.", &format!("{name}-governance."))
            .replace("agentgov.evaluator", &format!("{name}.evaluator"));
        std::fs::write(&file, &text).unwrap();
        let map = file.to_str().unwrap();
        stack.run(&["topology", "apply", "--topology", map]);
        let topology = Topology::parse(map, &text).unwrap();
        let actions = topology.topic_of(subject::ACTION_EVENT).unwrap().0.to_owned();
        Self { topology: Arc::new(topology), actions, endpoints: stack.endpoints.clone() }
    }

    fn start(&self, accept_gap: bool) -> Running {
        let (health, stop) = (Health::new("evaluator"), ShutdownSignal::default());
        let config = processor::Config {
            stage: "evaluator".into(),
            endpoints: self.endpoints.clone(),
            topology: Arc::clone(&self.topology),
            stop: stop.clone(),
            health: health.clone(),
            accept_gap,
        };
        let evaluator = Evaluator::new(&self.topology, self.topology.stage("evaluator").unwrap()).unwrap();
        let thread = std::thread::spawn(move || processor::run(config, evaluator));
        Running { health, stop, thread }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.endpoints.kafka.client_config().create().unwrap()
    }

    /// Writes records that the evaluator rejects to partition 0.
    fn produce(&self, count: usize) {
        self.produce_to(&self.actions, count);
    }

    fn produce_to(&self, topic: &str, count: usize) {
        let producer: BaseProducer =
            self.endpoints.kafka.client_config().set("enable.idempotence", "true").create().unwrap();
        for _ in 0..count {
            let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(b"k").payload(b"x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
    }

    /// Returns true if the topic of rejects contains this reason.
    fn has_reject(&self, reason: &str) -> bool {
        let rejects = self.values(subject::REJECT);
        rejects.iter().any(|value| value.windows(reason.len()).any(|window| window == reason.as_bytes()))
    }

    /// Returns the values on partition 0 of a subject's topic.
    fn values(&self, subject: subject::Subject) -> Vec<Vec<u8>> {
        let (topic, _) = self.topology.topic_of(subject).unwrap();
        let mut config = self.endpoints.kafka.client_config();
        config
            .set("group.id", "gone.test")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&from).unwrap();
        let mut values = Vec::new();
        loop {
            match consumer.poll(DEADLINE).unwrap() {
                Ok(message) => values.push(message.payload().unwrap_or_default().to_owned()),
                Err(KafkaError::PartitionEOF(_)) => return values,
                Err(error) => panic!("{topic}: {error}"),
            }
        }
    }

    /// Returns the evaluator's committed offset of partition 0 and its metadata.
    fn committed(&self) -> (Offset, String) {
        let mut config = self.endpoints.kafka.client_config();
        let group = &self.topology.stage("evaluator").unwrap().group.value;
        let consumer: BaseConsumer = config.set("group.id", group).create().unwrap();
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition(&self.actions, 0);
        let committed = consumer.committed_offsets(partitions, DEADLINE).unwrap();
        let found = committed.find_partition(&self.actions, 0).unwrap();
        (found.offset(), found.metadata().to_owned())
    }
}

impl Running {
    fn has_processed(&self, records: u64) {
        stack().eventually("the records are processed", || {
            assert!(!self.thread.is_finished(), "it ended: {:?}", self.health.snapshot());
            self.health.snapshot().records >= records
        });
    }

    fn stop(self) {
        self.stop.request();
        self.thread.join().unwrap().unwrap();
    }

    /// Waits until the evaluator ends by itself.
    fn end(self) -> StageError {
        stack().eventually(&format!("it ends: {:?}", self.health.snapshot()), || self.thread.is_finished());
        self.thread.join().unwrap().unwrap_err()
    }
}

#[test]
fn gap_stops_a_processor_until_it_is_accepted_and_recorded() {
    let own = OwnPipeline::new("overtaken");
    own.produce(10);
    let evaluator = own.start(false);
    evaluator.has_processed(10);
    evaluator.stop();
    own.produce(10);
    delete(&own.endpoints.kafka, [(own.actions.as_str(), 0, Offset::Offset(15))]);
    let error = own.start(false).end();
    assert_eq!(error.exit_code(), ExitCode::Overtaken, "{error}");
    assert!(error.to_string().contains("at offset 10, but the topic starts at 15"), "{error}");
    assert!(!own.has_reject("gap_accepted"));
    let evaluator = own.start(true);
    evaluator.has_processed(5);
    evaluator.stop();
    assert!(own.has_reject("gap_accepted"));
}

/// Retention deletes the remains of an aborted transaction at the end of a partition.
#[test]
fn deleted_empty_offsets_do_not_stop_a_processor() {
    let map = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let own = OwnPipeline::of("quiet", &short_retention(&map));
    let aborted = |count| transact(&own.endpoints.kafka, &own.actions, &[0], count, Outcome::Aborted);
    let delete_all = || delete(&own.endpoints.kafka, [(own.actions.as_str(), 0, Offset::End)]);
    let passed = |evaluator: &Running, offset| {
        stack().eventually(&format!("it passes to {offset}: {:?}", own.committed()), || {
            assert!(!evaluator.thread.is_finished(), "it ended: {:?}", evaluator.health.snapshot());
            own.committed().0 == Offset::Offset(offset)
        });
    };
    own.produce(2);
    aborted(3);
    let evaluator = own.start(false);
    evaluator.has_processed(2);
    passed(&evaluator, 6);
    evaluator.stop();
    delete_all();
    let evaluator = own.start(false);
    own.produce(1);
    evaluator.has_processed(1);
    assert_eq!(evaluator.health.snapshot().records, 1);
    aborted(1);
    passed(&evaluator, 9);
    evaluator.stop();
    assert!(!own.has_reject("gap_accepted"), "nothing was lost");
    assert_eq!(own.values(subject::REJECT).len(), 3);

    // A record after them that was deleted is a loss, although markers follow it.
    own.produce(1);
    aborted(1);
    delete_all();
    let error = own.start(false).end();
    assert_eq!(error.exit_code(), ExitCode::Overtaken, "{error}");
    assert!(error.to_string().contains("at offset 9, but the topic starts at 12"), "{error}");
}

/// A side output alone moves no offset; the metadata of the committed offset records it for a restore.
#[test]
fn side_output_without_a_record_is_committed_and_emitted_once() {
    let own = OwnPipeline::new("side_output");
    let bundles = own.topology.topic_of(subject::BUNDLE).unwrap().0;
    let alerts = |evaluator: &Running, count: usize| {
        stack().eventually(&format!("{count} alerts"), || {
            assert!(!evaluator.thread.is_finished(), "it ended: {:?}", evaluator.health.snapshot());
            own.values(subject::ALERT).len() == count
        });
    };
    let evaluator = own.start(false);
    own.produce(10);
    evaluator.has_processed(10);
    assert_eq!(own.committed(), (Offset::Offset(10), String::new()));
    own.produce_to(bundles, 1);
    alerts(&evaluator, 1);
    assert_eq!(own.committed(), (Offset::Offset(10), "1".to_owned()));
    evaluator.stop();
    let evaluator = own.start(false);
    own.produce_to(bundles, 1);
    alerts(&evaluator, 2);
    own.produce(1);
    evaluator.has_processed(1);
    assert_eq!(own.committed(), (Offset::Offset(11), String::new()));
    assert_eq!(own.values(subject::ALERT).len(), 2);
    evaluator.stop();
}

/// Deletes a topic and creates one of the same name.
fn recreate_topic(admin: &AdminClient<DefaultClientContext>, topic: &str, partitions: i32) {
    for deleted in block_on(admin.delete_topics(&[topic], &AdminOptions::new())).unwrap() {
        deleted.unwrap();
    }
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "LogAppendTime");
    stack().eventually("the topic is created again", || {
        block_on(admin.create_topics([&new], &AdminOptions::new()))
            .unwrap()
            .into_iter()
            .all(|created| created.is_ok())
    });
}

#[test]
fn recreated_topic_ends_the_stages_that_read_it() {
    let (own, log) = (OwnPipeline::new("recreated"), Log::new("recreated"));
    own.produce(10);
    log.produce(10, &[]);
    let (evaluator, sink) = (own.start(false), log.start(false));
    evaluator.has_processed(10);
    log.wait_for(10);
    let partitions = own.topology.topic_of(subject::ACTION_EVENT).unwrap().1.partitions.value;
    recreate_topic(&own.admin(), &own.actions, partitions);
    recreate_topic(&own.admin(), &log.actions, 2);
    // More records than before, so that offsets alone cannot distinguish the topics.
    own.produce(20);
    log.produce(40, &[]);
    let error = evaluator.end();
    assert_eq!(error.exit_code(), ExitCode::OtherCluster, "{error}");
    let mut error = sink.thread.join().unwrap().unwrap_err();
    // A deletion during a rebalance can cost the claims. The sink then ends as fenced, and its next start finds the topic.
    if error.exit_code() == ExitCode::Fenced {
        error = log.start(false).thread.join().unwrap().unwrap_err();
    }
    assert_eq!(error.exit_code(), ExitCode::OtherCluster, "{error}");
    assert_eq!(log.count("count()"), 10);
}

#[test]
fn foreign_transactions_are_neither_input_nor_lag_of_a_processor() {
    let own = OwnPipeline::new("passed-by");
    let foreign_transaction = |outcome| transact(&own.endpoints.kafka, &own.actions, &[0], 3, outcome);
    let nothing_waits = || {
        let group = &own.topology.stage("evaluator").unwrap().group.value;
        let places = lag::input_partitions(&own.topology, "evaluator").unwrap();
        let mut reader = LagReader::new(&own.endpoints.kafka, group, places).unwrap();
        stack().eventually("nothing waits", || {
            reader.read().unwrap().values().all(|lag| *lag == Lag::default())
        });
    };
    foreign_transaction(Outcome::Aborted);
    let evaluator = own.start(false);
    own.produce(2);
    foreign_transaction(Outcome::Committed);
    own.produce(1);
    foreign_transaction(Outcome::Aborted);
    evaluator.has_processed(6);
    nothing_waits();
    assert_eq!(evaluator.health.snapshot().records, 6, "what was aborted is no work");
    evaluator.stop();
    // The end is no record. The stage resumes before it and continues after it.
    foreign_transaction(Outcome::Committed);
    foreign_transaction(Outcome::Aborted);
    let evaluator = own.start(false);
    evaluator.has_processed(3);
    evaluator.stop();
    let evaluator = own.start(false);
    nothing_waits();
    own.produce(1);
    evaluator.has_processed(1);
    assert_eq!(evaluator.health.snapshot().records, 1, "nothing is done twice");
    evaluator.stop();
    assert_eq!(own.values(subject::REJECT).len(), 10);
}
