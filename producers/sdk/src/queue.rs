//! librdkafka's queue to one topic: idempotent, never giving up, and polled by a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use agentgov_connect::KafkaEndpoint;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::StartError;
use crate::ledger::Ledger;

/// How long the brokers may take to say that the topic is there.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the polling thread waits for an event of librdkafka: the longest that dropping an idle queue takes.
const POLL: Duration = Duration::from_millis(20);

/// The queue. Tells its ledger of every delivery.
pub(crate) struct Queue {
    topic: String,
    producer: Arc<BaseProducer<Deliveries>>,
    polling: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// Why a record was not enqueued.
pub(crate) enum NotEnqueued {
    /// No room now.
    Full,
    /// The producer takes no more.
    Failed(String),
}

impl Queue {
    /// Opens a queue to `topic`, which takes batches of at most `max_message_bytes`. Connects in the background.
    pub(crate) fn open(
        kafka: &KafkaEndpoint,
        topic: &str,
        max_message_bytes: usize,
        ledger: Arc<Ledger>,
    ) -> Result<Self, StartError> {
        let mut config = kafka.client_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A numbered event is never given up.
            .set("message.timeout.ms", "0")
            // As Java's clients place keys.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("message.max.bytes", max_message_bytes.to_string())
            .set("batch.size", max_message_bytes.min(1_000_000).to_string())
            // The ledger is the limit.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", i32::MAX.to_string())
            .set("allow.auto.create.topics", "false");
        let producer: BaseProducer<Deliveries> = config
            .create_with_context(Deliveries { ledger })
            .map_err(|source| unreachable_kafka(kafka, "creating a producer", source))?;
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let polling = std::thread::Builder::new().name("agentgov-recorder".into()).spawn({
            let (producer, stop) = (Arc::clone(&producer), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Acquire) {
                    producer.poll(POLL);
                }
            }
        })?;
        Ok(Self { topic: topic.to_owned(), producer, polling: Some(polling), stop })
    }

    /// Asks the brokers whether the topic is there.
    pub(crate) fn check_topic(&self, kafka: &KafkaEndpoint) -> Result<(), StartError> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(Some(&self.topic), METADATA_TIMEOUT)
            .map_err(|source| unreachable_kafka(kafka, "looking for the topic", source))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match found.map(|topic| (topic.error(), topic.partitions().is_empty())) {
            Some((None, false)) => Ok(()),
            _ => Err(StartError::TopicMissing { topic: self.topic.clone() }),
        }
    }

    /// Copies a record into the queue; does no I/O. Its delivery is reported under `sequence`.
    pub(crate) fn send(&self, sequence: i64, key: &[u8], value: &[u8]) -> Result<(), NotEnqueued> {
        // An opaque pointer holds any number that a source reaches on a 64-bit machine.
        let record = BaseRecord::with_opaque_to(&self.topic, sequence as usize).key(key).payload(value);
        self.producer.send(record).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => NotEnqueued::Full,
            _ => NotEnqueued::Failed(self.describe(&error)),
        })
    }

    fn describe(&self, error: &KafkaError) -> String {
        match self.producer.client().fatal_error() {
            Some((_, reason)) => format!("topic {}: {error}: {reason}", self.topic),
            None => format!("topic {}: {error}", self.topic),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(polling) = self.polling.take() {
            let _ = polling.join();
        }
    }
}

/// Receives the brokers' acknowledgements, in the polling thread.
struct Deliveries {
    ledger: Arc<Ledger>,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sequence: usize) {
        let (message, outcome) = match result {
            Ok(message) => (message, Ok(())),
            Err((error, message)) => {
                (message, Err(format!("Kafka did not take sequence {sequence}: {error}")))
            }
        };
        let bytes = message.key_len() + message.payload_len();
        self.ledger.delivered(sequence as i64, bytes, outcome);
    }
}

fn unreachable_kafka(kafka: &KafkaEndpoint, doing: &'static str, source: KafkaError) -> StartError {
    StartError::Kafka { bootstrap: kafka.bootstrap.clone(), doing, source }
}
