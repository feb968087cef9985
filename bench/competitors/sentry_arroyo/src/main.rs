//! A log-sink on a consumer framework: strategies of sentry_arroyo decode, batch, insert and commit.
//!
//! At least once: offsets are committed after the insert, so that a crash in between inserts a batch twice. A failed insert
//! ends the process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use clickhouse::{Client, Compression, Row};
use sentry_arroyo::backends::kafka::InitialOffset;
use sentry_arroyo::backends::kafka::config::KafkaConfig;
use sentry_arroyo::backends::kafka::types::KafkaPayload;
use sentry_arroyo::processing::StreamProcessor;
use sentry_arroyo::processing::strategies::commit_offsets::CommitOffsets;
use sentry_arroyo::processing::strategies::reduce::Reduce;
use sentry_arroyo::processing::strategies::run_task::RunTask;
use sentry_arroyo::processing::strategies::run_task_in_threads::{
    ConcurrencyConfig, RunTaskError, RunTaskFunc, RunTaskInThreads,
};
use sentry_arroyo::processing::strategies::{ProcessingStrategy, ProcessingStrategyFactory, SubmitError};
use sentry_arroyo::types::{InnerMessage, Message, Topic};
use serde::{Deserialize, Serialize};
use serde_avro_fast::Schema;
use serde_bytes::{ByteArray, ByteBuf};
use sha2::{Digest as _, Sha256};

const BATCH_ROWS: usize = 50_000;
const BATCH_TIME: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Source<'a> {
    id: &'a str,
    sequence: i64,
}

#[derive(Deserialize)]
struct Agent<'a> {
    id: &'a str,
    name: Option<&'a str>,
    version: Option<&'a str>,
}

#[derive(Deserialize)]
struct Actor<'a> {
    id: &'a str,
    r#type: &'a str,
}

#[derive(Deserialize)]
struct Trace<'a> {
    trace_id: &'a str,
    span_id: &'a str,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(with = "serde_bytes")]
    data: &'a [u8],
    sha256: ByteArray<32>,
    redacted: bool,
}

#[derive(Deserialize)]
struct Spoken<'a> {
    id: &'a str,
    role: &'a str,
    has_text: bool,
    tool_calls: i32,
    #[serde(borrow)]
    content: Option<Payload<'a>>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    name: &'a str,
    call_id: &'a str,
    #[serde(borrow)]
    arguments: Payload<'a>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    call_id: &'a str,
    name: Option<&'a str>,
    is_error: Option<bool>,
    #[serde(borrow)]
    content: Payload<'a>,
}

#[derive(Deserialize)]
struct Llm<'a> {
    provider_name: &'a str,
    request_model: &'a str,
    response_model: Option<&'a str>,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    finish_reason: Option<&'a str>,
    error_type: Option<&'a str>,
}

#[derive(Deserialize)]
struct Decision<'a> {
    by: &'a str,
    decision: &'a str,
    reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct Approval<'a> {
    id: &'a str,
    approver: Option<&'a str>,
    granted: Option<bool>,
    comment: Option<&'a str>,
}

#[derive(Deserialize)]
struct Closing {
    total: i64,
}

#[derive(Deserialize)]
struct Event<'a> {
    event_id: &'a str,
    r#type: &'a str,
    tenant_id: &'a str,
    environment: &'a str,
    session_id: &'a str,
    session_label: Option<&'a str>,
    #[serde(borrow)]
    source: Source<'a>,
    occurred_at: i64,
    #[serde(borrow)]
    agent: Agent<'a>,
    #[serde(borrow)]
    actor: Option<Actor<'a>>,
    #[serde(borrow)]
    trace: Option<Trace<'a>>,
    #[serde(borrow)]
    message: Option<Spoken<'a>>,
    #[serde(borrow)]
    tool: Option<Tool<'a>>,
    #[serde(borrow)]
    result: Option<Answer<'a>>,
    #[serde(borrow)]
    llm: Option<Llm<'a>>,
    #[serde(borrow)]
    decision: Option<Decision<'a>>,
    #[serde(borrow)]
    approval: Option<Approval<'a>>,
    closing: Option<Closing>,
}

/// Columns of the table without those of the log-sink's protocol.
#[derive(Clone, Row, Serialize)]
struct ActionRow {
    topic_partition: String,
    topic: String,
    partition: i32,
    offset: i64,
    logged_at: i64,
    key: Option<ByteBuf>,
    #[serde(rename = "headers.name")]
    header_names: Vec<String>,
    #[serde(rename = "headers.value")]
    header_values: Vec<Option<ByteBuf>>,
    value: Option<ByteBuf>,
    record_sha256: [u8; 32],
    schema_id: u32,
    event_id: String,
    r#type: String,
    tenant_id: String,
    environment: String,
    session_id: String,
    session_label: String,
    source_id: String,
    source_sequence: i64,
    occurred_at: i64,
    occurred_at_micros: i64,
    agent_id: String,
    agent_name: String,
    agent_version: String,
    actor_id: String,
    actor_type: String,
    trace_id: String,
    span_id: String,
    message_id: String,
    message_role: String,
    message_has_text: bool,
    message_tool_calls: i32,
    message_text: ByteBuf,
    message_sha256: [u8; 32],
    message_redacted: bool,
    tool_name: String,
    call_id: String,
    arguments: ByteBuf,
    arguments_sha256: [u8; 32],
    arguments_redacted: bool,
    result: ByteBuf,
    result_sha256: [u8; 32],
    result_redacted: bool,
    result_is_error: Option<bool>,
    llm_provider_name: String,
    llm_request_model: String,
    llm_response_model: String,
    llm_input_tokens: Option<i64>,
    llm_output_tokens: Option<i64>,
    llm_finish_reason: String,
    llm_error_type: String,
    decided_by: String,
    decision: String,
    decision_reason: String,
    approval_id: String,
    approver: String,
    approval_granted: Option<bool>,
    approval_comment: String,
    closing_total: Option<i64>,
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("expected {name} in the environment"))
}

/// Returns the writer's schema, which is requested once per id.
fn schema(id: u32) -> Arc<Schema> {
    static KNOWN: LazyLock<Mutex<HashMap<u32, Arc<Schema>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().expect("nothing panics under it");
    Arc::clone(known.entry(id).or_insert_with(|| {
        #[derive(Deserialize)]
        struct Registered {
            schema: String,
        }
        let url = format!("{}/schemas/ids/{id}", env("AGENTGOV_SCHEMA_REGISTRY"));
        // Blocking calls must not run in the runtime's thread.
        let text = std::thread::spawn(move || {
            reqwest::blocking::get(url).expect("the registry answers").json::<Registered>().expect("a schema")
        });
        Arc::new(text.join().expect("the registry answers").schema.parse().expect("a schema"))
    }))
}

fn row(message: &Message<KafkaPayload>) -> ActionRow {
    let InnerMessage::BrokerMessage(broker) = &message.inner_message else { panic!("expected a broker's message") };
    let value = broker.payload.payload().expect("a value");
    let id = u32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
    let schema = schema(id);
    let event: Event<'_> = serde_avro_fast::from_datum_slice(&value[5..], &schema).expect("an event");
    let (spoken, tool, result) = (event.message.as_ref(), event.tool.as_ref(), event.result.as_ref());
    let message = Content::of(spoken.and_then(|spoken| spoken.content.as_ref()));
    let arguments = Content::of(tool.map(|tool| &tool.arguments));
    let content = Content::of(result.map(|result| &result.content));
    let call_id = tool.map(|tool| tool.call_id).or(result.map(|result| result.call_id));
    let tool_name = tool.map(|tool| tool.name).or(result.and_then(|result| result.name));
    let (llm, decision, approval) = (event.llm.as_ref(), event.decision.as_ref(), event.approval.as_ref());
    let (mut header_names, mut header_values) = (Vec::new(), Vec::new());
    for header in broker.payload.headers().into_iter().flat_map(|headers| headers.iter()) {
        header_names.push(header.key.to_owned());
        header_values.push(header.value.map(|value| ByteBuf::from(value.to_vec())));
    }
    ActionRow {
        topic_partition: format!("{}/{}", broker.partition.topic.as_str(), broker.partition.index),
        topic: broker.partition.topic.as_str().to_owned(),
        partition: broker.partition.index.into(),
        offset: broker.offset as i64,
        logged_at: broker.timestamp.timestamp_millis(),
        key: broker.payload.key().cloned().map(ByteBuf::from),
        header_names,
        header_values,
        value: Some(ByteBuf::from(value.clone())),
        record_sha256: Sha256::digest(value).into(),
        schema_id: id,
        event_id: event.event_id.to_owned(),
        r#type: event.r#type.to_owned(),
        tenant_id: event.tenant_id.to_owned(),
        environment: event.environment.to_owned(),
        session_id: event.session_id.to_owned(),
        session_label: text(event.session_label),
        source_id: event.source.id.to_owned(),
        source_sequence: event.source.sequence,
        occurred_at: event.occurred_at,
        occurred_at_micros: event.occurred_at,
        agent_id: event.agent.id.to_owned(),
        agent_name: text(event.agent.name),
        agent_version: text(event.agent.version),
        actor_id: text(event.actor.as_ref().map(|actor| actor.id)),
        actor_type: text(event.actor.as_ref().map(|actor| actor.r#type)),
        trace_id: text(event.trace.as_ref().map(|trace| trace.trace_id)),
        span_id: text(event.trace.as_ref().map(|trace| trace.span_id)),
        message_id: text(spoken.map(|spoken| spoken.id)),
        message_role: text(spoken.map(|spoken| spoken.role)),
        message_has_text: spoken.is_some_and(|spoken| spoken.has_text),
        message_tool_calls: spoken.map_or(0, |spoken| spoken.tool_calls),
        message_text: message.data,
        message_sha256: message.sha256,
        message_redacted: message.redacted,
        tool_name: text(tool_name),
        call_id: text(call_id),
        arguments: arguments.data,
        arguments_sha256: arguments.sha256,
        arguments_redacted: arguments.redacted,
        result: content.data,
        result_sha256: content.sha256,
        result_redacted: content.redacted,
        result_is_error: result.and_then(|result| result.is_error),
        llm_provider_name: text(llm.map(|llm| llm.provider_name)),
        llm_request_model: text(llm.map(|llm| llm.request_model)),
        llm_response_model: text(llm.and_then(|llm| llm.response_model)),
        llm_input_tokens: llm.and_then(|llm| llm.input_tokens),
        llm_output_tokens: llm.and_then(|llm| llm.output_tokens),
        llm_finish_reason: text(llm.and_then(|llm| llm.finish_reason)),
        llm_error_type: text(llm.and_then(|llm| llm.error_type)),
        decided_by: text(decision.map(|decision| decision.by)),
        decision: text(decision.map(|decision| decision.decision)),
        decision_reason: text(decision.and_then(|decision| decision.reason)),
        approval_id: text(approval.map(|approval| approval.id)),
        approver: text(approval.and_then(|approval| approval.approver)),
        approval_granted: approval.and_then(|approval| approval.granted),
        approval_comment: text(approval.and_then(|approval| approval.comment)),
        closing_total: event.closing.as_ref().map(|closing| closing.total),
    }
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// Returns the three columns of a payload.
#[derive(Default)]
struct Content {
    data: ByteBuf,
    sha256: [u8; 32],
    redacted: bool,
}

impl Content {
    fn of(payload: Option<&Payload<'_>>) -> Self {
        payload.map_or_else(Self::default, |payload| Self {
            data: ByteBuf::from(payload.data),
            sha256: *payload.sha256,
            redacted: payload.redacted,
        })
    }
}

struct Factory {
    client: Client,
    table: String,
    concurrency: ConcurrencyConfig,
}

impl ProcessingStrategyFactory<KafkaPayload> for Factory {
    fn create(&self) -> Box<dyn ProcessingStrategy<KafkaPayload>> {
        let (client, table) = (self.client.clone(), self.table.clone());
        let insert = move |message: Message<Vec<ActionRow>>| -> RunTaskFunc<(), String> {
            let (client, table) = (client.clone(), table.clone());
            Box::pin(async move {
                let (message, rows) = message.take();
                let written = async {
                    let mut insert = client.insert::<ActionRow>(&table).await?;
                    for row in &rows {
                        insert.write(row).await?;
                    }
                    insert.end().await
                };
                written.await.map_err(|error: clickhouse::error::Error| RunTaskError::Other(error.to_string()))?;
                Ok(message)
            })
        };
        let commit = CommitOffsets::new(Duration::from_secs(1));
        let inserting = RunTaskInThreads::new(commit, insert, &self.concurrency, None);
        let batching = Reduce::new(
            inserting,
            Arc::new(|mut rows: Vec<ActionRow>, message: Message<ActionRow>| {
                rows.push(message.into_payload());
                Ok::<_, (SubmitError<ActionRow>, Vec<ActionRow>)>(rows)
            }),
            Arc::new(Vec::new),
            BATCH_ROWS,
            BATCH_TIME,
            |_| 1,
        );
        Box::new(RunTask::new(
            |message: Message<KafkaPayload>| {
                let row = row(&message);
                Ok(message.replace(row))
            },
            batching,
        ))
    }
}

fn main() {
    let client = Client::default()
        .with_url(env("AGENTGOV_CLICKHOUSE"))
        .with_user(env("AGENTGOV_CLICKHOUSE_USER"))
        .with_password(env("AGENTGOV_CLICKHOUSE_PASSWORD"))
        .with_database(env("AGENTGOV_CLICKHOUSE_DATABASE"))
        // On a single machine, compression costs more than it saves.
        .with_compression(Compression::None)
        .with_setting("async_insert", "0")
        .with_validation(false);
    let config = KafkaConfig::new_consumer_config(
        vec![env("AGENTGOV_KAFKA")],
        env("BENCH_GROUP"),
        InitialOffset::Earliest,
        false,
        30_000,
        None,
    );
    let factory = Factory { client, table: env("BENCH_TABLE"), concurrency: ConcurrencyConfig::new(1) };
    let processor = StreamProcessor::with_kafka(config, factory, Topic::new(&env("BENCH_TOPIC")), None);
    processor.run().expect("it runs until it is killed");
}
