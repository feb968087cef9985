//! The recorder with librdkafka's mock brokers: numbering, order, limits, and failed deliveries.

use std::collections::BTreeMap;

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, Agent};
use agentgov_schemas::subject::ACTION_EVENT;
use agentgov_schemas::wire::{self, SchemaId};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::*;
use crate::in_flight::InFlightWindow;
use crate::options::DEFAULT_LINGER;
use crate::queue::{DeliveryTarget, Queue};
use crate::{Content, Message, Producer, SourceOptions, SpoolOptions};

mod durable;
mod many_sources;
mod spooled;

const TOPIC: &str = "actions-of-a-test";
const PARTITIONS: i32 = 4;
const MAX_MESSAGE_BYTES: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(60);
const AGENT: Agent<'static> = Agent { id: "agent", name: None, version: None };

fn brokers() -> (MockCluster<'static, DefaultProducerContext>, String) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    (cluster, bootstrap)
}

fn target(bootstrap: &str) -> DeliveryTarget {
    DeliveryTarget {
        kafka: KafkaEndpoint::at(bootstrap),
        topic: TOPIC.to_owned(),
        max_message_bytes: MAX_MESSAGE_BYTES,
        schema_id: SchemaId(7),
    }
}

/// Creates a producer without a schema registry.
fn producer(bootstrap: &str, buffer_events: usize, spool: Option<SpoolOptions>) -> Producer {
    let target = target(bootstrap);
    let in_flight = Arc::new(InFlightWindow::new(buffer_events, 1 << 20));
    let queue = Queue::open(&target, DEFAULT_LINGER, Arc::clone(&in_flight)).unwrap();
    Producer::with_queue(queue, in_flight, target, spool).unwrap()
}

fn source(tenant_id: &str, when_full: WhenFull) -> SourceOptions {
    SourceOptions { when_full, ..SourceOptions::new(tenant_id, "test") }
}

fn recorder(bootstrap: &str, buffer_events: usize, when_full: WhenFull) -> Recorder {
    let source = SourceOptions { source_id: Some("source-1".to_owned()), ..source("acme", when_full) };
    producer(bootstrap, buffer_events, None).recorder(source).unwrap()
}

/// Creates a recorder without reachable brokers.
fn unconnected(buffer_events: usize, when_full: WhenFull) -> Recorder {
    recorder("127.0.0.1:1", buffer_events, when_full)
}

fn started(session_id: &str) -> Event<'_> {
    Event::new(catalogue::SESSION_STARTED, session_id, AGENT)
}

#[derive(Debug)]
struct Logged {
    tenant_id: String,
    partition: i32,
    session_id: String,
    r#type: String,
    source_id: String,
    sequence: i64,
    total: Option<i64>,
}

/// Reads the topic until it has `count` records, each partition in its order. Fails if there are more.
fn logged(bootstrap: &str, count: usize) -> Vec<Logged> {
    let logged = logged_until(bootstrap, |logged| logged.len() >= count);
    assert_eq!(logged.len(), count);
    logged
}

/// Reads the topic, each partition in its order, until `enough` returns true.
fn logged_until(bootstrap: &str, enough: impl Fn(&[Logged]) -> bool) -> Vec<Logged> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "test")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let until = Instant::now() + TIMEOUT;
    let mut logged = Vec::new();
    loop {
        assert!(Instant::now() < until, "timeout after {} records", logged.len());
        let Some(record) = consumer.poll(Duration::from_millis(200)) else {
            if enough(&logged) {
                return logged;
            }
            continue;
        };
        let record = record.unwrap();
        let (id, datum) = wire::split(record.payload().unwrap()).unwrap();
        assert_eq!(id, SchemaId(7));
        let event: ActionEvent<'_> = ACTION_EVENT.schema().unwrap().decode(id, datum).unwrap();
        let key = format!("{}/{}", event.tenant_id, event.session_id);
        assert_eq!(record.key().unwrap(), key.as_bytes());
        logged.push(Logged {
            tenant_id: event.tenant_id.to_owned(),
            partition: record.partition(),
            session_id: event.session_id.to_owned(),
            r#type: event.r#type.to_owned(),
            source_id: event.source.id.to_owned(),
            sequence: event.source.sequence,
            total: event.closing.map(|closing| closing.total),
        });
    }
}

fn assert_gapless_and_in_order(logged: &[Logged]) {
    let mut sequences: Vec<i64> = logged.iter().map(|event| event.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (0..logged.len() as i64).collect::<Vec<_>>());
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    let mut home: BTreeMap<&str, i32> = BTreeMap::new();
    for event in logged {
        let before = last.insert(event.partition, event.sequence);
        assert!(before.is_none_or(|before| before < event.sequence), "{before:?} before {event:?}");
        assert_eq!(*home.entry(&event.session_id).or_insert(event.partition), event.partition);
    }
}

#[test]
fn sequences_of_many_threads_are_gapless() {
    let (_cluster, bootstrap) = brokers();
    // A small buffer, so that callers wait for room most of the time.
    let recorder = recorder(&bootstrap, 50, WhenFull::Wait);
    let (threads, events) = (8, 400);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let recorder = &recorder;
            scope.spawn(move || {
                let session = format!("session-{thread}");
                let mut last = -1;
                for _ in 0..events {
                    let receipt = recorder.record(&started(&session)).unwrap();
                    assert!(receipt.sequence > last);
                    last = receipt.sequence;
                }
            });
        }
    });
    let total = threads * events;
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total }));
    let stats = recorder.stats();
    assert_eq!((stats.accepted, stats.durable_through), (total + 1, Some(total)));
    assert_eq!((stats.waiting_events, stats.waiting_bytes), (0, 0));

    let logged = logged(&bootstrap, total as usize + 1);
    assert_gapless_and_in_order(&logged);
    let closing: Vec<_> = logged.iter().filter(|event| event.total.is_some()).collect();
    assert_eq!(closing.len(), 1);
    assert_eq!(closing[0].total, Some(total));
    assert_eq!(closing[0].session_id, "source/source-1");
    assert_eq!(closing[0].r#type, catalogue::SOURCE_CLOSED);
}

#[test]
fn broker_errors_lose_and_repeat_no_event() {
    use RDKafkaRespErr::*;
    let (_cluster, bootstrap) = recorded_while(&[
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ]);
    assert_gapless_and_in_order(&logged(&bootstrap, 501));
}

/// Kafka accepts any sequence number in the first batch of a producer for a partition. If a broker rejects the first batch
/// temporarily and accepts the second, librdkafka assumes that the first was written and acknowledges lost events. So no batch
/// may be sent before the previous one is acknowledged.
#[test]
fn batch_rejected_once_is_not_acknowledged_by_a_later_one() {
    let (cluster, bootstrap) = brokers();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
    );
    let recorder = recorder(&bootstrap, 1_000, WhenFull::Wait);
    // A batch has room for only one.
    let text = vec![b'x'; MAX_MESSAGE_BYTES * 6 / 10];
    for i in 0..20 {
        let content = Some(Content { data: &text, media_type: "text/plain" });
        let id = i.to_string();
        let message = Some(Message { id: &id, role: "user", has_text: true, tool_calls: 0, content });
        let event = Event { message, ..Event::new(catalogue::USER_INPUT, "s", AGENT) };
        recorder.record(&event).unwrap();
    }
    assert_eq!(recorder.flush(TIMEOUT), Ok(Flushed { durable: 20 }));
    assert_gapless_and_in_order(&logged(&bootstrap, 20));
}

/// A connection may end after a batch was appended and before it was acknowledged. The producer sends the batch again with the
/// same sequence number, and Kafka discards the repeat. librdkafka's mock checks sequence numbers only of transactional
/// producers (`rd_kafka_mock_validate_records`), so this test does not check for repeats.
#[test]
fn lost_connections_lose_no_event() {
    let (_cluster, bootstrap) = recorded_while(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT; 3]);
    let all = |logged: &[Logged]| is_whole(logged, "source-1", 501);
    assert_whole_and_in_order(&logged_until(&bootstrap, all), "source-1", 501);
}

/// Records 500 events and closes, while the brokers return `errors` for produce requests.
fn recorded_while(errors: &[RDKafkaRespErr]) -> (MockCluster<'static, DefaultProducerContext>, String) {
    let (cluster, bootstrap) = brokers();
    cluster.request_errors(RDKafkaApiKey::Produce, errors);
    let recorder = recorder(&bootstrap, 1_000, WhenFull::Wait);
    for i in 0..500 {
        recorder.record(&started(&format!("session-{}", i % 7))).unwrap();
    }
    assert_eq!(recorder.flush(TIMEOUT), Ok(Flushed { durable: 500 }));
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 500 }));
    (cluster, bootstrap)
}

#[test]
fn permanent_failure_names_the_missing_sequences() {
    let (cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 1_000, WhenFull::Wait);
    for _ in 0..3 {
        recorder.record(&started("s")).unwrap();
    }
    recorder.flush(TIMEOUT).unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 20],
    );
    for _ in 0..2 {
        recorder.record(&started("s")).unwrap();
    }
    let error = recorder.flush(TIMEOUT).unwrap_err();
    let FlushError::Stopped { missing, .. } = &error else { panic!("{error:?}") };
    assert_eq!(missing.ranges(), [3..=4]);
    assert!(error.to_string().contains("sequences 3-4 were not acknowledged (2 events)"), "{error}");
    assert!(matches!(recorder.record(&started("s")), Err(RecordError::Stopped { .. })));
    assert!(matches!(recorder.close(TIMEOUT), Err(FlushError::Stopped { .. })));
    assert_eq!(recorder.stats().accepted, 5);
}

/// Returns true if `end` different sequence numbers of the source are logged.
fn is_whole(logged: &[Logged], source_id: &str, end: usize) -> bool {
    let of_source = logged.iter().filter(|event| event.source_id == source_id);
    of_source.map(|event| event.sequence).collect::<std::collections::BTreeSet<_>>().len() >= end
}

/// Asserts that all sequence numbers below `end` are logged, and that each session has them in order, apart from repeats.
fn assert_whole_and_in_order(logged: &[Logged], source_id: &str, end: i64) {
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for event in logged.iter().filter(|event| event.source_id == source_id) {
        let last = last.entry(&event.session_id).or_insert(-1);
        assert!(event.sequence > *last || seen.contains(&event.sequence), "{event:?} after {last}");
        *last = event.sequence.max(*last);
        seen.insert(event.sequence);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..end).collect::<Vec<_>>(), "{source_id}");
}

#[test]
fn failed_producer_is_replaced_and_no_event_is_lost() {
    let (cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 1_000, WhenFull::Wait);
    let record = |count| {
        for i in 0..count {
            recorder.record(&started(&format!("session-{}", i % 7))).unwrap();
        }
    };
    record(50);
    recorder.flush(TIMEOUT).unwrap();
    // The producer fails with nothing in flight, then with many events.
    recorder.producer.queue.fail_producer();
    record(50);
    cluster.broker_down(1).unwrap();
    record(50);
    recorder.producer.queue.fail_producer();
    record(50);
    cluster.broker_up(1).unwrap();
    recorder.flush(TIMEOUT).unwrap();
    // The broker reports a fatal error.
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
    record(100);
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 300 }));
    let all = |logged: &[Logged]| is_whole(logged, "source-1", 301);
    assert_whole_and_in_order(&logged_until(&bootstrap, all), "source-1", 301);
}

#[test]
fn failure_that_persists_with_a_new_producer_stops_the_recorder() {
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
    ] {
        let (cluster, bootstrap) = brokers();
        let key = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED {
            RDKafkaApiKey::InitProducerId
        } else {
            RDKafkaApiKey::Produce
        };
        cluster.request_errors(key, &[error; 50]);
        let recorder = recorder(&bootstrap, 1_000, WhenFull::Wait);
        for _ in 0..3 {
            recorder.record(&started("s")).unwrap();
        }
        let stopped = recorder.flush(TIMEOUT).unwrap_err();
        let FlushError::Stopped { missing, spooled: false, .. } = &stopped else { panic!("{stopped:?}") };
        assert_eq!(missing.ranges(), [0..=2], "{stopped}");
        assert!(matches!(recorder.record(&started("s")), Err(RecordError::Stopped { .. })));
    }
}

#[test]
fn event_without_room_is_an_error_and_uses_no_sequence() {
    for (when_full, min_wait) in [
        (WhenFull::Fail, Duration::ZERO),
        (WhenFull::WaitFor(Duration::from_millis(60)), Duration::from_millis(60)),
    ] {
        let recorder = unconnected(2, when_full);
        recorder.record(&started("s")).unwrap();
        recorder.record(&started("s")).unwrap();
        let start = Instant::now();
        let error = recorder.record(&started("s")).unwrap_err();
        assert!(matches!(error, RecordError::Full { events: 2, .. }), "{error:?}");
        assert!(start.elapsed() >= min_wait);
        assert_eq!(recorder.stats().accepted, 2);
        let error = recorder.flush(Duration::from_millis(10)).unwrap_err();
        let FlushError::Unfinished { missing, .. } = &error else { panic!("{error:?}") };
        assert_eq!(missing.ranges(), [0..=1]);
        // There is no room for the closing event either, so its sequence is missing as well.
        let error = recorder.close(Duration::from_millis(10)).unwrap_err();
        let FlushError::Unfinished { missing, .. } = &error else { panic!("{error:?}") };
        assert_eq!(missing.ranges(), [0..=2]);
        // Dropping it would wait for the unreachable brokers.
        std::mem::forget(recorder);
    }
}

#[test]
fn rejected_event_uses_no_sequence() {
    let (_cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 10, WhenFull::Wait);
    let data = vec![b'x'; MAX_MESSAGE_BYTES];
    let content = Content { data: &data, media_type: "text/plain" };
    let large = crate::ToolCall::new("t", "c", content);
    let large = Event { tool: Some(large), ..Event::new(catalogue::TOOL_INVOKED, "s", AGENT) };
    for _ in 0..3 {
        assert!(matches!(recorder.record(&large), Err(RecordError::TooLarge { .. })));
        assert!(matches!(recorder.check(&large), Err(RecordError::TooLarge { .. })));
        assert!(matches!(recorder.record(&started("")), Err(RecordError::Invalid { .. })));
        recorder.record(&started("s")).unwrap();
    }
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 3 }));
    assert_gapless_and_in_order(&logged(&bootstrap, 4));
}

#[test]
fn close_is_final_and_may_be_repeated() {
    let (_cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 10, WhenFull::Wait);
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 0 }));
    assert_eq!(recorder.close(TIMEOUT), Ok(Closed { total: 0 }));
    assert_eq!(recorder.record(&started("s")), Err(RecordError::Closed { source_id: "source-1".into() }));
    let logged = logged(&bootstrap, 1);
    assert_eq!((logged[0].sequence, logged[0].total), (0, Some(0)));
}

#[test]
fn recorder_dropped_without_close_delivers_its_events() {
    let (_cluster, bootstrap) = brokers();
    let recorder = recorder(&bootstrap, 100, WhenFull::Wait);
    for _ in 0..20 {
        recorder.record(&started("s")).unwrap();
    }
    drop(recorder);
    assert_gapless_and_in_order(&logged(&bootstrap, 20));
}
