//! The same sink with a consumer framework: sentry_arroyo decodes, batches, inserts and commits, each step as its own
//! strategies have it.
//!
//! At least once: offsets are committed after the insert, so a crash in between inserts a batch twice. An insert that fails ends
//! the process.

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
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(with = "serde_bytes")]
    data: &'a [u8],
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
    #[serde(borrow)]
    content: Payload<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    event_id: &'a str,
    r#type: &'a str,
    tenant_id: &'a str,
    environment: &'a str,
    session_id: &'a str,
    #[serde(borrow)]
    source: Source<'a>,
    occurred_at: i64,
    #[serde(borrow)]
    agent: Agent<'a>,
    #[serde(borrow)]
    message: Option<Spoken<'a>>,
    #[serde(borrow)]
    tool: Option<Tool<'a>>,
    #[serde(borrow)]
    result: Option<Answer<'a>>,
}

#[derive(Clone, Row, Serialize)]
struct ActionRow {
    topic_partition: String,
    topic: String,
    partition: i32,
    offset: i64,
    logged_at: i64,
    #[serde(with = "serde_bytes")]
    key: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    value: Option<Vec<u8>>,
    schema_id: u32,
    event_id: String,
    r#type: String,
    tenant_id: String,
    environment: String,
    session_id: String,
    source_id: String,
    source_sequence: i64,
    occurred_at: i64,
    occurred_at_micros: i64,
    agent_id: String,
    message_id: String,
    message_role: String,
    message_has_text: bool,
    message_tool_calls: i32,
    #[serde(with = "serde_bytes")]
    message_text: Vec<u8>,
    tool_name: String,
    call_id: String,
    #[serde(with = "serde_bytes")]
    arguments: Vec<u8>,
    #[serde(with = "serde_bytes")]
    result: Vec<u8>,
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("expected {name} in the environment"))
}

/// The writer's schema, asked once for each id.
fn schema(id: u32) -> Arc<Schema> {
    static KNOWN: LazyLock<Mutex<HashMap<u32, Arc<Schema>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().expect("nothing panics under it");
    Arc::clone(known.entry(id).or_insert_with(|| {
        #[derive(Deserialize)]
        struct Registered {
            schema: String,
        }
        let url = format!("{}/schemas/ids/{id}", env("AGENTGOV_REGISTRY"));
        // Not in the runtime's thread.
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
    let text = |payload: Option<&Payload<'_>>| payload.map(|payload| payload.data.to_vec()).unwrap_or_default();
    let (spoken, tool, result) = (event.message.as_ref(), event.tool.as_ref(), event.result.as_ref());
    let call_id = tool.map(|tool| tool.call_id).or(result.map(|result| result.call_id)).unwrap_or_default();
    ActionRow {
        topic_partition: format!("{}/{}", broker.partition.topic.as_str(), broker.partition.index),
        topic: broker.partition.topic.as_str().to_owned(),
        partition: broker.partition.index.into(),
        offset: broker.offset as i64,
        logged_at: broker.timestamp.timestamp_millis(),
        key: broker.payload.key().cloned(),
        value: Some(value.clone()),
        schema_id: id,
        event_id: event.event_id.to_owned(),
        r#type: event.r#type.to_owned(),
        tenant_id: event.tenant_id.to_owned(),
        environment: event.environment.to_owned(),
        session_id: event.session_id.to_owned(),
        source_id: event.source.id.to_owned(),
        source_sequence: event.source.sequence,
        occurred_at: event.occurred_at,
        occurred_at_micros: event.occurred_at,
        agent_id: event.agent.id.to_owned(),
        message_id: spoken.map_or("", |spoken| spoken.id).to_owned(),
        message_role: spoken.map_or("", |spoken| spoken.role).to_owned(),
        message_has_text: spoken.is_some_and(|spoken| spoken.has_text),
        message_tool_calls: spoken.map_or(0, |spoken| spoken.tool_calls),
        message_text: text(spoken.and_then(|spoken| spoken.content.as_ref())),
        tool_name: tool.map_or("", |tool| tool.name).to_owned(),
        call_id: call_id.to_owned(),
        arguments: text(tool.map(|tool| &tool.arguments)),
        result: text(result.map(|result| &result.content)),
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
        // Everything is on one machine: bytes cost less than their compression.
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
