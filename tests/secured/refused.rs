//! What the brokers, registry and ClickHouse refuse, and what is said of it.

use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DefaultProducerContext, FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::cluster::{Cluster, PASSWORD, told};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Wrong passwords, authorities and names get nobody in, and the message says which it was.
pub fn logins(cluster: &Cluster) {
    let (wrong, another) = (cluster.file("wrong"), cluster.file("another.pem"));
    let kafka = cluster.endpoints("deployer", &[]).kafka.bootstrap;
    let by_name = kafka.replace("127.0.0.1", "localhost");
    let cases: [(&[(&str, &str)], i32, &[&str]); 8] = [
        (
            &[("AGENTGOV_KAFKA_PASSWORD_FILE", &wrong)],
            78,
            &["user `deployer` with the password that is set", "Authentication failed"],
        ),
        (
            &[("AGENTGOV_KAFKA_USER", "nobody")],
            78,
            &["user `nobody` with the password that is set", "Authentication failed"],
        ),
        (&[("AGENTGOV_KAFKA_CA_FILE", &another)], 78, &["certificate verify failed"]),
        (&[("AGENTGOV_KAFKA", &by_name)], 78, &["certificate verify failed"]),
        (
            &[("AGENTGOV_REGISTRY_PASSWORD_FILE", &wrong)],
            75,
            &["401", "user `member` with the password that is set"],
        ),
        (&[("AGENTGOV_REGISTRY_CA_FILE", &another)], 75, &["certificate verify failed"]),
        (&[("AGENTGOV_KAFKA_USER", "")], 78, &["AGENTGOV_KAFKA_USER: expected a value"]),
        (
            &[("AGENTGOV_REGISTRY_CA_FILE", "/nowhere")],
            78,
            &["AGENTGOV_REGISTRY_CA_FILE: /nowhere: No such file"],
        ),
    ];
    for (more, code, expected) in cases {
        let output = cluster.command_with("deployer", more, &["topology", "plan"]).output().unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {told}");
        assert!(expected.iter().all(|part| told.contains(part)), "{more:?}: expected {expected:?} in {told}");
        assert!(!told.contains(PASSWORD) && !told.contains("not it"), "{told}");
    }
    // What reads ClickHouse with the `clickhouse` crate.
    for (more, expected) in [
        (("AGENTGOV_CLICKHOUSE_PASSWORD_FILE", &wrong), "401"),
        (("AGENTGOV_CLICKHOUSE_CA_FILE", &another), "certificate verify failed"),
    ] {
        let output = cluster
            .command_with("auditors", &[(more.0, more.1)], &["session", "show", "4/0"])
            .output()
            .unwrap();
        let told = told(&output);
        assert!(!output.status.success() && told.contains(expected), "{more:?}: {told}");
    }
}

/// One with a login and no rights sees nothing, reads nothing, writes nothing.
pub fn strangers(cluster: &Cluster) {
    let kafka = cluster.endpoints("stranger", &[]).kafka;
    let client: BaseConsumer = kafka.client_config().set("group.id", "stranger").create().unwrap();
    let metadata = client.fetch_metadata(None, TIMEOUT).unwrap();
    let seen: Vec<_> = metadata.topics().iter().map(|topic| topic.name().to_owned()).collect();
    assert!(seen.is_empty(), "a stranger sees {seen:?}");
    for topic in cluster.topology.topics.keys() {
        assert_eq!(write(&kafka, topic), RDKafkaErrorCode::TopicAuthorizationFailed, "{topic}");
        assert_eq!(read(&kafka, topic), RDKafkaErrorCode::TopicAuthorizationFailed, "{topic}");
    }
    assert_eq!(committed(&kafka, "agentgov.evaluator"), RDKafkaErrorCode::GroupAuthorizationFailed);
    assert_eq!(
        transact(&kafka, "agentgov.evaluator-1"),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    );
    let output = cluster.command("stranger", &["topology", "apply"]).output().unwrap();
    assert!(
        !output.status.success() && told(&output).contains("TopicAuthorizationFailed"),
        "{}",
        told(&output)
    );
}

/// Stages, services and people: each is refused what is another's.
pub fn stages(cluster: &Cluster) {
    let as_user = |user: &str| cluster.endpoints(user, &[]).kafka;
    let refused = RDKafkaErrorCode::TopicAuthorizationFailed;
    let (evaluator, alerter, sink, services) =
        (as_user("evaluator"), as_user("alerter"), as_user("log-sink"), as_user("services"));
    for topic in cluster.topology.topics.keys() {
        assert_eq!(write(&sink, topic), refused, "the log-sink writes {topic}");
        if topic != "agent.actions" {
            assert_eq!(write(&services, topic), refused, "a service writes {topic}");
        }
    }
    for topic in ["agent.actions", "agent.alert-windows", "governance.bundles", "governance.controls"] {
        assert_eq!(write(&evaluator, topic), refused, "the evaluator writes {topic}");
    }
    for topic in ["agent.actions", "agent.verdicts", "agent.sessions"] {
        assert_eq!(write(&alerter, topic), refused, "the alerter writes {topic}");
    }
    for topic in ["agent.actions", "governance.bundles"] {
        assert_eq!(write(&as_user("auditors"), topic), refused, "an auditor writes {topic}");
        assert_eq!(write(&as_user("operators"), topic), refused, "an operator writes {topic}");
        assert_eq!(read(&services, topic), refused, "a service reads {topic}");
    }
    assert_eq!(write(&as_user("security"), "agent.actions"), refused);
    assert_eq!(write(&as_user("deployer"), "agent.actions"), refused);
    assert_eq!(
        transact(&alerter, "agentgov.evaluator-1"),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    );
    assert_eq!(committed(&alerter, "agentgov.evaluator"), RDKafkaErrorCode::GroupAuthorizationFailed);
}

/// What comes of writing a record to `topic`.
fn write(kafka: &KafkaEndpoint, topic: &str) -> RDKafkaErrorCode {
    let producer: FutureProducer = kafka.client_config().set("message.timeout.ms", "20000").create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let record = FutureRecord::<[u8], [u8]>::to(topic).payload(b"forged").partition(0);
    let sent = runtime.block_on(producer.send(record, TIMEOUT));
    sent.map(|_| RDKafkaErrorCode::NoError).unwrap_or_else(|(error, _)| code(&error))
}

/// What comes of reading `topic` from its start.
fn read(kafka: &KafkaEndpoint, topic: &str) -> RDKafkaErrorCode {
    let consumer: BaseConsumer =
        kafka.client_config().set("group.id", "nobody").set("enable.partition.eof", "true").create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return RDKafkaErrorCode::NoError,
            // That the group is not its either says nothing of the topic.
            Some(Err(error)) if code(&error) != RDKafkaErrorCode::GroupAuthorizationFailed => {
                return code(&error);
            }
            Some(Err(_)) | None => {}
        }
    }
    RDKafkaErrorCode::OperationTimedOut
}

/// What comes of asking how far a group is.
fn committed(kafka: &KafkaEndpoint, group: &str) -> RDKafkaErrorCode {
    let consumer: BaseConsumer = kafka.client_config().set("group.id", group).create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition("agent.actions", 0);
    consumer
        .committed_offsets(all, TIMEOUT)
        .map(|_| RDKafkaErrorCode::NoError)
        .unwrap_or_else(|error| code(&error))
}

/// What comes of taking a transactional id.
fn transact(kafka: &KafkaEndpoint, id: &str) -> RDKafkaErrorCode {
    let producer: BaseProducer<DefaultProducerContext> =
        kafka.client_config().set("transactional.id", id).create().unwrap();
    producer
        .init_transactions(TIMEOUT)
        .map(|()| RDKafkaErrorCode::NoError)
        .unwrap_or_else(|error| code(&error))
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or_else(|| panic!("{error}"))
}
