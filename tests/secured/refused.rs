//! Tests of requests that brokers, registry and ClickHouse refuse, and of the resulting messages.

use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DefaultProducerContext, FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::cluster::{Cluster, PASSWORD, describe};

/// Exceeds every wait on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Wrong passwords, authorities and names are refused, and the message names the cause.
pub fn logins(cluster: &Cluster) {
    let (wrong, another) = (cluster.file("wrong"), cluster.file("another.pem"));
    let kafka = cluster.endpoints("deployer", &[]).kafka.bootstrap;
    let by_name = kafka.replace("127.0.0.1", "localhost");
    type Case<'a> = (&'a [(&'a str, &'a str)], i32, &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
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
            &[("AGENTGOV_SCHEMA_REGISTRY_PASSWORD_FILE", &wrong)],
            75,
            &["401", "user `member` with the password that is set"],
        ),
        (&[("AGENTGOV_SCHEMA_REGISTRY_CA_FILE", &another)], 75, &["certificate verify failed"]),
        (&[("AGENTGOV_KAFKA_USER", "")], 78, &["AGENTGOV_KAFKA_USER: expected a value"]),
        (
            &[("AGENTGOV_SCHEMA_REGISTRY_CA_FILE", "/nowhere")],
            78,
            &["AGENTGOV_SCHEMA_REGISTRY_CA_FILE: /nowhere: No such file"],
        ),
    ];
    for (more, code, expected) in cases {
        let output = cluster.command_with("deployer", more, &["topology", "plan"]).output().unwrap();
        let output_text = describe(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {output_text}");
        assert!(
            expected.iter().all(|part| output_text.contains(part)),
            "{more:?}: expected {expected:?} in {output_text}"
        );
        assert!(!output_text.contains(PASSWORD) && !output_text.contains("not it"), "{output_text}");
    }
    // Commands that read ClickHouse with the `clickhouse` crate.
    for (more, expected) in [
        (("AGENTGOV_CLICKHOUSE_PASSWORD_FILE", &wrong), "401"),
        (("AGENTGOV_CLICKHOUSE_CA_FILE", &another), "certificate verify failed"),
    ] {
        let output = cluster
            .command_with("auditors", &[(more.0, more.1)], &["session", "show", "4/0"])
            .output()
            .unwrap();
        let output_text = describe(&output);
        assert!(!output.status.success() && output_text.contains(expected), "{more:?}: {output_text}");
    }
}

/// A user without rights sees, reads and writes nothing.
pub fn user_without_rights(cluster: &Cluster) {
    let kafka = cluster.endpoints("stranger", &[]).kafka;
    let client: BaseConsumer = kafka.client_config().set("group.id", "stranger").create().unwrap();
    let metadata = client.fetch_metadata(None, TIMEOUT).unwrap();
    let seen: Vec<_> = metadata.topics().iter().map(|topic| topic.name().to_owned()).collect();
    assert!(seen.is_empty(), "expected nothing visible, found {seen:?}");
    let all: Vec<&str> = cluster.topology.topics.keys().map(String::as_str).collect();
    assert_cannot_write("a user without rights", &kafka, &all);
    for topic in all {
        assert_cannot_see("a user without rights", &client, topic);
    }
    assert_cannot_join("a user without rights", &kafka, "agentgov.evaluator");
    assert_eq!(
        transact(&kafka, "agentgov.evaluator-1"),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    );
    let output = cluster.command("stranger", &["topology", "apply"]).output().unwrap();
    assert!(
        !output.status.success() && describe(&output).contains("TopicAuthorizationFailed"),
        "{}",
        describe(&output)
    );
}

/// Stages, services and people are refused access to each other's resources.
pub fn stages(cluster: &Cluster) {
    let as_user = |user: &str| cluster.endpoints(user, &[]).kafka;
    let all: Vec<&str> = cluster.topology.topics.keys().map(String::as_str).collect();
    let but = |own: &[&str]| all.iter().filter(|topic| !own.contains(topic)).copied().collect::<Vec<_>>();
    for (user, own) in [
        ("log-sink", &[][..]),
        ("auditors", &[]),
        ("deployer", &[]),
        ("services", &["agent.actions"]),
        ("pdp", &["agent.actions"]),
        ("gateways", &["agent.actions"]),
        ("approvers", &["agent.actions"]),
        ("operators", &["governance.controls"]),
        ("security", &["governance.agents", "governance.bundles", "governance.keys", "governance.tools"]),
        (
            "evaluator",
            &["agent.verdicts", "agent.alerts", "agent.rejects", "agent.evaluation-bases", "agent.sessions"],
        ),
        ("alerter", &["agent.alerts", "agent.rejects", "agent.alert-windows"]),
    ] {
        assert_cannot_write(user, &as_user(user), &but(own));
    }
    for user in ["services", "gateways", "approvers"] {
        assert_cannot_read(user, &as_user(user), "agent.actions");
        assert_cannot_see(user, &as_user(user).client_config().create().unwrap(), "agent.sessions");
    }
    assert_cannot_see("operators", &as_user("operators").client_config().create().unwrap(), "agent.actions");
    let alerter = as_user("alerter");
    assert_eq!(
        transact(&alerter, "agentgov.evaluator-1"),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    );
    // Recording principals get no transactional id, since their transactions could hold back everybody's records.
    for user in ["services", "security", "operators", "pdp", "gateways", "approvers"] {
        for id in [user, "service-1", "agentgov.evaluator-1"] {
            let came = transact(&as_user(user), id);
            assert_eq!(came, RDKafkaErrorCode::TransactionalIdAuthorizationFailed, "{user} takes {id}");
        }
    }
    assert_cannot_join("the alerter", &alerter, "agentgov.evaluator");
}

/// Writes a record to each topic and expects a refusal.
fn assert_cannot_write(who: &str, kafka: &KafkaEndpoint, topics: &[&str]) {
    let producer: FutureProducer = kafka.client_config().set("message.timeout.ms", "60000").create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Sends all before waiting for the first.
    let send = |topic: &&str| {
        let record = FutureRecord::<[u8], [u8]>::to(topic).payload(b"forged").partition(0);
        producer.send_result(record).map_err(|(error, _)| error)
    };
    let sent: Vec<_> = topics.iter().map(send).collect();
    for (topic, sent) in topics.iter().zip(sent) {
        let came = match sent {
            Ok(delivery) => runtime.block_on(delivery).unwrap().map(|_| ()).map_err(|(error, _)| error),
            Err(error) => Err(error),
        };
        let came = came.map_or_else(|error| code(&error), |()| RDKafkaErrorCode::NoError);
        assert_eq!(came, RDKafkaErrorCode::TopicAuthorizationFailed, "{who} writes {topic}");
    }
}

/// Requests a topic's metadata, without which it cannot be read either, and expects a refusal.
fn assert_cannot_see(who: &str, client: &BaseConsumer, topic: &str) {
    let metadata = client.fetch_metadata(Some(topic), TIMEOUT).unwrap();
    let error = metadata.topics().iter().find_map(|topic| topic.error());
    let refused = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    assert_eq!(error, Some(refused), "{who} sees {topic}");
}

/// Reads a visible topic from its start and expects a refusal.
fn assert_cannot_read(who: &str, kafka: &KafkaEndpoint, topic: &str) {
    let mut config = kafka.client_config();
    let consumer: BaseConsumer =
        config.set("group.id", "nobody").set("enable.partition.eof", "true").create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Err(error)) if code(&error) == RDKafkaErrorCode::TopicAuthorizationFailed => return,
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => panic!("{who} reads {topic}"),
            // A refusal of the group says nothing about the topic.
            Some(Err(_)) | None => {}
        }
    }
    panic!("{who}: {topic} was not refused within {TIMEOUT:?}");
}

/// Joins a group and expects a refusal.
fn assert_cannot_join(who: &str, kafka: &KafkaEndpoint, group: &str) {
    let consumer: BaseConsumer = kafka.client_config().set("group.id", group).create().unwrap();
    consumer.subscribe(&["agent.actions"]).unwrap();
    let refused = |error: &KafkaError| code(error) == RDKafkaErrorCode::GroupAuthorizationFailed;
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if consumer
            .poll(Duration::from_millis(100))
            .is_some_and(|polled| polled.is_err_and(|error| refused(&error)))
        {
            return;
        }
    }
    panic!("{who}: group {group} was not refused within {TIMEOUT:?}");
}

/// Returns the outcome of claiming a transactional id.
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
