//! A producer that publishes a recording.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use serde::{Deserialize, Serialize};

use super::serve;
use crate::BenchError;
use crate::recording;
use crate::worker::{PublishResult, RateLimiter, WorkerContext, await_start, report_result};

/// Task of a publishing baseline worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BarePublish {
    /// Name of the recording; it is repeated.
    pub recording: String,
    /// Target topic.
    pub topic: String,
    /// Number of events.
    pub events: u64,
    /// Events per second; `None` for full speed.
    pub rate: Option<f64>,
}

/// Publishes with the SDK's client settings, with two differences: it lingers 20 ms, as the SDK did at first, and keeps
/// five requests in flight. A baseline may lose records that Kafka temporarily rejects.
pub(crate) fn publish(task: &BarePublish, context: &WorkerContext) -> Result<(), BenchError> {
    let records = recording::read(&context.recordings.join(&task.recording))?;
    let producer: BaseProducer<DefaultProducerContext> = context
        .kafka
        .client_config()
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("delivery.report.only.error", "true")
        .set("batch.size", "1000000")
        .set("message.max.bytes", "1048576")
        .set("queue.buffering.max.messages", "100000")
        .create_with_context(DefaultProducerContext)
        .map_err(BenchError::kafka("creating a producer"))?;
    await_start()?;
    let limiter = RateLimiter::new(task.rate);
    let began = Instant::now();
    for (event, record) in (0..task.events).zip(records.iter().cycle()) {
        limiter.wait(event);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut outgoing = BaseRecord::to(&task.topic)
            .partition(record.partition)
            .timestamp(i64::try_from(now.as_millis()).unwrap_or_default())
            .key(&record.key)
            .payload(record.value.as_deref().unwrap_or_default());
        while let Err((error, back)) = producer.send(outgoing) {
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                    outgoing = back;
                    serve(&producer);
                }
                error => return Err(BenchError::kafka("publishing")(error)),
            }
        }
        if event % 1024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    while producer.in_flight_count() > 0 {
        serve(&producer);
    }
    report_result(&PublishResult { events: task.events, seconds: began.elapsed().as_secs_f64() })
}
