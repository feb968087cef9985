//! A producer that publishes a tape.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use serde::{Deserialize, Serialize};

use super::serve;
use crate::BenchError;
use crate::part::{Pace, Places, Published, done, ready};
use crate::tape;

/// What it publishes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BarePublish {
    /// The tape's name. It is repeated.
    pub tape: String,
    /// Where to.
    pub topic: String,
    /// How many events.
    pub events: u64,
    /// Events a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
}

/// Publishes, with the SDK's settings of the client but for how long it gathers, 20 ms, as the SDK did at first, not 40; and that
/// it has five requests on its way, not one: it is a floor, and may lose what Kafka refused for a moment.
pub(crate) fn publish(what: &BarePublish, places: &Places) -> Result<(), BenchError> {
    let records = tape::read(&places.tapes.join(&what.tape))?;
    let producer: BaseProducer<DefaultProducerContext> = places
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
    ready()?;
    let pace = Pace::new(what.rate);
    let began = Instant::now();
    for (event, record) in (0..what.events).zip(records.iter().cycle()) {
        pace.wait(event);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut outgoing = BaseRecord::to(&what.topic)
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
    done(&Published { events: what.events, seconds: began.elapsed().as_secs_f64() })
}
