//! Publishing an import through a recorder, with librdkafka's mock brokers: all events once, or none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy takes helpers of tests for product code"
)]

#[path = "../../sdk/tests/fake/mod.rs"]
mod fake;

use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use agentgov_importers::{
    CallDecider, Import, ImportOptions, PublishError, chat_completions, publish, publish_decided,
};
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::{ActionEvent, ToolCall};
use agentgov_schemas::subject::ACTION_EVENT;
use agentgov_schemas::{Micros, catalogue, wire};
use agentgov_sdk::{Event, Receipt, Recorder, RecorderOptions};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

fn run(text: &str) -> String {
    format!(r#"{{"task_id":1,"trial":0,"messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

fn import(bytes: &[u8]) -> Import<'_> {
    let options = ImportOptions {
        tenant_id: "acme".into(),
        environment: "test".into(),
        agent_id: "agent".into(),
        agent_version: None,
        start_time: None,
        now: Micros(0),
        label: None,
        skip_bad: false,
    };
    chat_completions::parse("runs.jsonl", bytes, options).unwrap()
}

fn recorder(kafka: &KafkaEndpoint, source_id: String) -> Recorder {
    let options = fake::options(kafka, fake::registry_with_every_schema());
    Recorder::start(RecorderOptions { source_id: Some(source_id), ..options }).unwrap()
}

/// Reads `count` records. Returns what `read` takes of each, sorted.
fn read_records<T: Ord>(kafka: &KafkaEndpoint, count: usize, read: impl Fn(&ActionEvent<'_>) -> T) -> Vec<T> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.bootstrap)
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..3 {
        assignment.add_partition_offset(&fake::topic(), partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let mut logged = Vec::new();
    while logged.len() < count {
        assert!(Instant::now() < until, "expected {count} records, found {}", logged.len());
        let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
        let record = record.unwrap();
        let (id, datum) = wire::split(record.payload().unwrap()).unwrap();
        let event: ActionEvent<'_> = ACTION_EVENT.schema().unwrap().decode(id, datum).unwrap();
        logged.push(read(&event));
    }
    logged.sort();
    logged
}

/// Reads `count` records. Returns their sequence, session, event id and type, sorted.
fn logged(kafka: &KafkaEndpoint, count: usize) -> Vec<(i64, String, String, String)> {
    read_records(kafka, count, |event| {
        let texts = [event.session_id, event.event_id, event.r#type].map(str::to_owned);
        let [session_id, event_id, r#type] = texts;
        (event.source.sequence, session_id, event_id, r#type)
    })
}

/// Reads `count` records. Returns the sequence and the token of those that have a token.
fn tokens(kafka: &KafkaEndpoint, count: usize) -> Vec<(i64, String)> {
    let token = |event: &ActionEvent<'_>| {
        event.tool.and_then(|tool| tool.decision_token).map(|token| (event.source.sequence, token.to_owned()))
    };
    read_records(kafka, count, token).into_iter().flatten().collect()
}

#[test]
fn repeated_import_writes_the_same_events() {
    let (_cluster, kafka) = fake::brokers();
    let file = format!("{}\n{}", run("a"), run("b"));
    let import = import(file.as_bytes());
    for _ in 0..2 {
        let mut seen = Vec::new();
        let summary =
            publish(&import, &recorder(&kafka, import.source_id()), &mut |done, of| seen.push((done, of)))
                .unwrap();
        assert_eq!(summary, import.summary());
        assert_eq!(seen, [(3, 6), (6, 6)]);
    }
    let logged = logged(&kafka, 14);
    let (first, second): (Vec<_>, Vec<_>) = logged.chunks(2).map(|pair| (&pair[0], &pair[1])).unzip();
    assert_eq!(first, second);
    assert_eq!(first.iter().map(|event| event.0).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    assert_eq!(first[6].3, catalogue::SOURCE_CLOSED);
}

#[test]
fn oversized_events_are_reported_and_nothing_is_published() {
    let (_cluster, kafka) = fake::brokers();
    let file = format!("{}\n{}\n{}", run("a"), run(&"x".repeat(1 << 20)), run("b"));
    let import = import(file.as_bytes());
    let recorder = recorder(&kafka, import.source_id());
    let error = publish(&import, &recorder, &mut |_, _| {}).unwrap_err();
    assert!(error.is_permanent());
    assert_eq!(recorder.stats().accepted, 0);
    let PublishError::Refused(refused) = error else { panic!("{error:?}") };
    assert_eq!(refused.problems.count(), 1);
    let text = refused.problems.to_string();
    assert!(text.starts_with("runs.jsonl:2: messages[0]: user.input: event of session"), "{text}");

    // Without it, the others are an import of their own.
    let (source, summary) = (import.source_id(), import.summary());
    let import = import.without(refused);
    assert_ne!(import.source_id(), source);
    assert_eq!(
        (import.summary().sessions, import.summary().events),
        (summary.sessions - 1, summary.events - 3)
    );
    let recorder = self::recorder(&kafka, import.source_id());
    assert_eq!(publish(&import, &recorder, &mut |_, _| {}).unwrap(), import.summary());
    assert_eq!(logged(&kafka, 7).len(), 7);
}

#[test]
fn names_beyond_the_limit_are_reported_and_nothing_is_published() {
    let (_cluster, kafka) = fake::brokers();
    let called = |name: &str, id: &str| {
        let call = format!(r#"{{"id":"{id}","function":{{"name":"{name}","arguments":"{{}}"}}}}"#);
        format!(
            r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","tool_calls":[{call}]}}]}}"#
        )
    };
    let (longest, long) = ("n".repeat(MAX_ID_BYTES), "n".repeat(MAX_ID_BYTES + 1));
    let file = [called(&longest, &longest), called(&long, "c"), called("t", &long)].join("\n");
    let import = import(file.as_bytes());
    let recorder = recorder(&kafka, import.source_id());
    let error = publish(&import, &recorder, &mut |_, _| {}).unwrap_err();
    assert!(error.is_permanent());
    assert_eq!(recorder.stats().accepted, 0);
    let PublishError::Refused(refused) = error else { panic!("{error:?}") };
    let expected = |line, field| {
        format!(
            "runs.jsonl:{line}: messages[1]: tool.invoked: event: {field}: expected at most 4096 bytes, found 4097; put long \
             texts into the arguments or the message"
        )
    };
    assert_eq!(refused.problems.lines(), [expected(2, "tool.name"), expected(3, "tool.call_id")]);
    assert_eq!(refused.rest.sessions, 1, "--skip-bad imports the others");
}

#[test]
fn recorder_of_another_or_a_used_source_is_refused() {
    let (_cluster, kafka) = fake::brokers();
    let file = run("a");
    let import = import(file.as_bytes());
    let other = recorder(&kafka, "other".into());
    assert!(matches!(publish(&import, &other, &mut |_, _| {}), Err(PublishError::OtherSource { .. })));
    let used = recorder(&kafka, import.source_id());
    publish(&import, &used, &mut |_, _| {}).unwrap();
    assert!(matches!(publish(&import, &used, &mut |_, _| {}), Err(PublishError::OtherSource { .. })));
}

/// Decider that returns a token for each call with an even number, and fails at the call `last`.
struct Numbered<'a> {
    recorder: &'a Recorder,
    asked: Vec<(String, Option<i64>)>,
    last: usize,
}

impl CallDecider for Numbered<'_> {
    const MAX_TOKEN_BYTES: usize = 8192;

    fn decide(
        &mut self,
        call: &Event<'_>,
        after: Option<Receipt>,
    ) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
        let number = self.asked.len();
        let sequence = after.map(|receipt| receipt.sequence);
        assert_eq!(self.recorder.stats().accepted, sequence.unwrap_or_default() + 1, "asked, then recorded");
        self.asked.push((call.tool.unwrap().call_id.to_owned(), sequence));
        if number == self.last {
            return Err("the decision point is away".into());
        }
        Ok(number.is_multiple_of(2).then(|| format!("token-{number}")))
    }
}

fn run_with_calls(ids: [&str; 2], arguments: &str) -> String {
    let call = |id: &str| {
        format!(
            r#"{{"id":"{id}","type":"function","function":{{"name":"think","arguments":"{arguments}"}}}}"#
        )
    };
    let [first, second] = ids;
    format!(
        r#"{{"messages":[{{"role":"assistant","content":null,"tool_calls":[{},{}]}},{{"role":"tool","tool_call_id":"{first}","content":"1"}},{{"role":"tool","tool_call_id":"{second}","content":"2"}}]}}"#,
        call(first),
        call(second)
    )
}

#[test]
fn decided_import_has_the_same_events_with_tokens() {
    let file = format!("{}\n{}", run_with_calls(["a", "b"], "{}"), run_with_calls(["c", "d"], "{}"));
    let import = import(file.as_bytes());
    let (_plain_cluster, plain) = fake::brokers();
    publish(&import, &recorder(&plain, import.source_id()), &mut |_, _| {}).unwrap();
    let (_decided_cluster, decided) = fake::brokers();
    let recorder = recorder(&decided, import.source_id());
    let mut decider = Numbered { recorder: &recorder, asked: Vec::new(), last: usize::MAX };
    let summary = publish_decided(&import, &recorder, &mut decider, &mut |_, _| {}).unwrap();
    assert_eq!(summary, import.summary());
    // Each call is decided after the event before it in its session was recorded.
    let asked: Vec<_> = decider.asked.iter().map(|(id, after)| (id.as_str(), *after)).collect();
    assert_eq!(asked, [("a", Some(0)), ("b", Some(1)), ("c", Some(6)), ("d", Some(7))]);
    let without_token = |event: &ActionEvent<'_>| {
        let tool = event.tool.map(|tool| ToolCall { decision_token: None, ..tool });
        // The closing event has the time of the import.
        let occurred_at = if event.closing.is_some() { Micros(0) } else { event.occurred_at };
        (event.source.sequence, format!("{:?}", ActionEvent { tool, occurred_at, ..event.clone() }))
    };
    assert_eq!(read_records(&decided, 13, without_token), read_records(&plain, 13, without_token));
    assert_eq!(tokens(&decided, 13), [(1, "token-0".to_owned()), (7, "token-2".to_owned())]);
    assert!(tokens(&plain, 13).is_empty());
}

#[test]
fn call_that_cannot_be_decided_is_not_recorded() {
    let (_cluster, kafka) = fake::brokers();
    let file = run_with_calls(["a", "b"], "{}");
    let import = import(file.as_bytes());
    let recorder = recorder(&kafka, import.source_id());
    let mut decider = Numbered { recorder: &recorder, asked: Vec::new(), last: 1 };
    let error = publish_decided(&import, &recorder, &mut decider, &mut |_, _| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "import of runs.jsonl, line 1: the decision point is away; earlier events are published, so repeat the import with another start time"
    );
    assert_eq!(recorder.stats().accepted, 2);
}

#[test]
fn call_without_room_for_a_token_is_refused_before_anything_is_published() {
    let (_cluster, kafka) = fake::brokers();
    let file = run_with_calls(["a", "b"], &"1".repeat((1 << 20) - 6_000));
    let import = import(file.as_bytes());
    let first = recorder(&kafka, import.source_id());
    let mut decider = Numbered { recorder: &first, asked: Vec::new(), last: usize::MAX };
    let error = publish_decided(&import, &first, &mut decider, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, PublishError::Refused(_)), "{error}");
    assert_eq!((first.stats().accepted, decider.asked.len()), (0, 0));
    assert_eq!(
        publish(&import, &recorder(&kafka, import.source_id()), &mut |_, _| {}).unwrap(),
        import.summary()
    );
}
