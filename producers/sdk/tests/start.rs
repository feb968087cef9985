//! Starting a recorder, and the errors if something is missing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy treats helpers of tests as product code"
)]

mod fake;

use std::time::Duration;

use agentgov_connect::SchemaRegistryEndpoint;
use agentgov_schemas::topology::Topology;
use agentgov_sdk::{Producer, ProducerOptions, Recorder, RecorderOptions, SourceOptions, StartError};
use rdkafka::types::RDKafkaRespErr;

use fake::{brokers, options, registry, registry_with_every_schema, topic};

#[test]
fn each_start_is_a_new_source_unless_named() {
    let (_cluster, kafka) = brokers();
    let ids: Vec<String> = (0..2)
        .map(|_| Recorder::start(options(&kafka, registry_with_every_schema())).unwrap())
        .map(|recorder| recorder.source_id().to_owned())
        .collect();
    assert_ne!(ids[0], ids[1]);
    let named =
        RecorderOptions { source_id: Some("mine".into()), ..options(&kafka, registry_with_every_schema()) };
    assert_eq!(Recorder::start(named).unwrap().source_id(), "mine");
}

#[test]
fn start_without_a_prerequisite_fails_with_advice() {
    let (cluster, kafka) = brokers();
    let unreachable = SchemaRegistryEndpoint::at("http://127.0.0.1:1");
    let good = || options(&kafka, registry_with_every_schema());
    for (options, expected) in [
        (
            options(
                &kafka,
                registry("404 Not Found", r#"{"error_code":40401,"message":"Subject not found"}"#),
            ),
            "run `agentgov topology apply`",
        ),
        (options(&kafka, registry("500 Oops", "{}")), "500"),
        (options(&kafka, unreachable), "is it running and reachable?"),
        (RecorderOptions { tenant_id: "a/b".into(), ..good() }, "tenant id `a/b`"),
        (RecorderOptions { environment: String::new(), ..good() }, "environment: expected a name"),
        (RecorderOptions { buffer_events: 0, ..good() }, "buffer_events: expected at least 1, found 0"),
        (
            RecorderOptions { linger: Duration::from_secs(901), ..good() },
            "linger: expected at most 900 s, found 901s",
        ),
        (RecorderOptions { buffer_bytes: 9, ..good() }, "buffer_bytes: expected at least 1048576, found 9"),
    ] {
        let error = Recorder::start(options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    cluster.topic_error(&topic(), RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let error = Recorder::start(good()).unwrap_err();
    assert!(matches!(&error, StartError::TopicMissing { .. }), "{error:?}");
    assert!(error.to_string().contains("run `agentgov topology apply`"), "{error}");
}

#[test]
fn producer_opens_a_recorder_for_each_valid_source() {
    let (_cluster, kafka) = brokers();
    let topology = Topology::embedded().unwrap().into();
    let options = ProducerOptions::new(kafka, registry_with_every_schema(), topology);
    let producer = Producer::start(ProducerOptions { linger: Duration::ZERO, ..options }).unwrap();
    let recorders = ["acme", "globex", "acme"]
        .map(|tenant_id| producer.recorder(SourceOptions::new(tenant_id, "test")).unwrap());
    assert_ne!(recorders[0].source_id(), recorders[2].source_id());
    for (source, expected) in [
        (SourceOptions::new("a/b", "test"), "tenant id `a/b`"),
        (SourceOptions::new("acme", ""), "environment: expected a name"),
    ] {
        let error = producer.recorder(source).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for recorder in recorders {
        recorder.close(Duration::from_secs(60)).unwrap();
    }
}
