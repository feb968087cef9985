//! Test data: events recorded with the SDK, and records that the SDK would never write.

use agentgov_connect::SchemaRegistry;
use agentgov_schemas::event::{ActionEvent, Agent, Source, ToolCall, ToolResult};
use agentgov_schemas::topology::registry_subject;
use agentgov_schemas::{Micros, Record, RecordEncoder, SessionKey, catalogue};
use agentgov_sdk::{self as sdk, Content, Recorder};
pub use agentgov_test_support::payload;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, Stack};

/// Position of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub partition: i32,
    pub offset: i64,
}

/// Writes raw values to a topic. Idempotent, as producers of actions must be.
pub struct Writer<R> {
    topic: String,
    producer: FutureProducer,
    encoder: RecordEncoder<R>,
    runtime: tokio::runtime::Runtime,
}

impl<R: Record> Writer<R> {
    /// Creates a writer for the topic of records of type `R`.
    pub fn new(stack: &Stack) -> Self {
        let (topic, _) = stack.topology.topic_of(R::SUBJECT).unwrap();
        let schema = R::SUBJECT.schema().unwrap();
        let registry = SchemaRegistry::new(&stack.endpoints.schema_registry).unwrap();
        let id = registry.id_of(&registry_subject(topic), schema.text()).unwrap().unwrap();
        let mut config = stack.endpoints.kafka.client_config();
        // Exceeds the limit of every topic, so that the broker, not the client, rejects.
        config.set("enable.idempotence", "true").set("message.max.bytes", "16000000");
        Self {
            topic: topic.to_owned(),
            producer: config.create().unwrap(),
            encoder: RecordEncoder::new(id).unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    pub fn encode<T: Record<Static = R>>(&mut self, value: &T) -> Vec<u8> {
        self.encoder.encode(value).unwrap()
    }

    /// Writes a record; returns once it is durable or rejected. All records of a writer go to one partition, in order.
    pub fn try_write(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<At, KafkaError> {
        let record = FutureRecord::<[u8], [u8]> { key, payload: value, ..FutureRecord::to(&self.topic) };
        let sent = self.runtime.block_on(self.producer.send(record.partition(0), DEADLINE));
        sent.map(|sent| At { partition: sent.partition, offset: sent.offset }).map_err(|(error, _)| error)
    }

    pub fn write(&self, key: &[u8], value: Option<&[u8]>) -> At {
        self.try_write(Some(key), value).unwrap()
    }
}

impl Writer<ActionEvent<'static>> {
    /// Writes an event under its required key.
    pub fn write_event(&mut self, event: &ActionEvent<'_>) -> At {
        let value = self.encode(event);
        self.write(
            &SessionKey { tenant_id: event.tenant_id, session_id: event.session_id }.to_bytes(),
            Some(&value),
        )
    }
}

/// Returns an event without content, the first of a new source.
pub fn event<'a>(r#type: &'a str, tenant_id: &'a str, session_id: &'a str) -> ActionEvent<'a> {
    ActionEvent {
        environment: ENVIRONMENT,
        occurred_at: Micros(1_715_785_200_000_000),
        ..ActionEvent::new(
            "0192f0c1-0000-7000-8000-000000000000",
            r#type,
            SessionKey { tenant_id, session_id },
            Source { id: session_id, sequence: 0 },
            Agent::new(AGENT),
        )
    }
}

/// Returns `event` as a call with number `sequence` of its source.
pub fn call<'a>(
    event: &ActionEvent<'a>,
    sequence: i64,
    name: &'a str,
    call_id: &'a str,
    arguments: &'a [u8],
) -> ActionEvent<'a> {
    ActionEvent {
        r#type: catalogue::TOOL_INVOKED,
        source: Source { sequence, ..event.source },
        tool: Some(ToolCall::new(name, call_id, payload(arguments))),
        ..event.clone()
    }
}

/// Returns `event` as a result with number `sequence` of its source.
pub fn answer<'a>(
    event: &ActionEvent<'a>,
    sequence: i64,
    call_id: &'a str,
    content: &'a [u8],
) -> ActionEvent<'a> {
    ActionEvent {
        r#type: catalogue::TOOL_RESPONSE_RECEIVED,
        source: Source { sequence, ..event.source },
        result: Some(ToolResult { call_id, name: None, is_error: None, content: payload(content) }),
        ..event.clone()
    }
}

/// Records a session with `calls` harmless calls and their results. Every third call comes in a message with text, which
/// violates `one-thing-at-a-time`. Returns the number of events.
pub fn record_session(recorder: &Recorder, session_id: &str, calls: usize) -> usize {
    let agent = Agent { id: AGENT, name: None, version: None };
    let event = |r#type| sdk::Event::new(r#type, session_id, agent);
    let content = |data| Content { data, media_type: "application/json" };
    let record = |event: sdk::Event<'_>| {
        recorder.record(&event).unwrap();
    };
    record(event(catalogue::SESSION_STARTED));
    record(event(catalogue::USER_INPUT));
    for number in 0..calls {
        let call_id = number.to_string();
        let has_text = number % 3 == 2;
        let message =
            sdk::Message { id: &call_id, role: "assistant", has_text, tool_calls: 1, content: None };
        let tool = sdk::ToolCall::new("think", &call_id, content(b"{\"thought\":\"hm\"}"));
        record(sdk::Event { message: Some(message), tool: Some(tool), ..event(catalogue::TOOL_INVOKED) });
        let result =
            sdk::ToolResult { call_id: &call_id, name: None, is_error: None, content: content(b"null") };
        record(sdk::Event { result: Some(result), ..event(catalogue::TOOL_RESPONSE_RECEIVED) });
    }
    record(event(catalogue::SESSION_ENDED));
    2 * calls + 3
}
