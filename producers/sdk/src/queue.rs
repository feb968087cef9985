//! Delivery to one topic through an idempotent librdkafka producer, with unlimited retries and a polling thread, for any number
//! of sources. A producer with a fatal error is replaced, and the records that it did not deliver are sent again, in the order of
//! their source, under the same sequence numbers.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, spawn_reconnect_watchdog};
use agentgov_schemas::wire::SchemaId;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};

use crate::StartError;
use crate::in_flight::{InFlightWindow, Ticket};
use crate::join::join;

/// Bounds of the pause between two polls while records are in flight, which is otherwise as long as a record waits for others.
/// It delays the handling of acknowledgements, not the sending of records.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(1);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Pause of the polling thread while nothing is in flight.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Timeout for purging a failed producer. A purge does no I/O.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of consecutive replacements without an acknowledgement. With more, the cause is not the producer.
const MAX_REPLACEMENTS: u32 = 5;

/// Topic to publish to, and the schema of its records.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryTarget {
    pub(crate) kafka: KafkaEndpoint,
    pub(crate) topic: String,
    /// The topic's limit for a batch.
    pub(crate) max_message_bytes: usize,
    /// Id of this build's schema.
    pub(crate) schema_id: SchemaId,
}

/// A producer with its polling thread. Reports each delivery to its [`InFlightWindow`].
pub(crate) struct Queue {
    shared: Arc<Shared>,
    polling: Option<JoinHandle<()>>,
}

/// State shared by callers and the polling thread.
struct Shared {
    kafka: KafkaEndpoint,
    topic: String,
    config: ClientConfig,
    poll_interval: Duration,
    deliveries: Arc<DeliveryState>,
    /// Locked while a record is enqueued and while the producer is replaced, so that records keep their order.
    producer: Mutex<Arc<BaseProducer<DeliveryContext>>>,
}

/// State shared with the delivery callback.
struct DeliveryState {
    in_flight: Arc<InFlightWindow>,
    /// Records that failed producers did not deliver.
    records: Mutex<Vec<UndeliveredRecord>>,
    /// Replacements since the last acknowledgement.
    replacements: AtomicU32,
    stop: AtomicBool,
}

/// A record that is not known to be in the topic.
struct UndeliveredRecord {
    ticket: Ticket,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A record that was not enqueued.
#[derive(Debug)]
pub(crate) enum EnqueueError {
    /// The queue is full.
    Full,
    /// The producer has failed and cannot be replaced.
    Failed(String),
}

impl Queue {
    /// Opens a queue to the target's topic. A record waits up to `linger` for other records of its partition. Connects
    /// in the background.
    pub(crate) fn open(
        target: &DeliveryTarget,
        linger: Duration,
        in_flight: Arc<InFlightWindow>,
    ) -> Result<Self, StartError> {
        let DeliveryTarget { kafka, topic, max_message_bytes, .. } = target;
        let mut config = kafka.client_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // docs/adr/0013-one-request-at-a-time.md
            .set("max.in.flight.requests.per.connection", "1")
            // Unlimited: an event with a sequence number must be delivered.
            .set("message.timeout.ms", "0")
            // The partitioner of the Java clients.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", linger_ms(linger))
            .set("message.max.bytes", max_message_bytes.to_string())
            .set("batch.size", (*max_message_bytes).min(1_000_000).to_string())
            // Unlimited: the in-flight window is the bound.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", i32::MAX.to_string())
            .set("allow.auto.create.topics", "false");
        let deliveries = Arc::new(DeliveryState {
            in_flight,
            records: Mutex::default(),
            replacements: AtomicU32::new(0),
            stop: AtomicBool::new(false),
        });
        let producer = create_producer(&config, &deliveries)
            .map_err(|source| kafka_error(kafka, "creating a producer", source))?;
        let producer = Arc::new(producer);
        spawn_reconnect_watchdog(kafka, topic, &producer);
        let producer = Mutex::new(producer);
        let (kafka, topic) = (kafka.clone(), topic.clone());
        let poll_interval = linger.clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL);
        let shared = Arc::new(Shared { kafka, topic, config, poll_interval, deliveries, producer });
        let polling = std::thread::Builder::new().name("agentgov-recorder".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.poll()
        })?;
        Ok(Self { shared, polling: Some(polling) })
    }

    /// Checks that the topic exists, by the brokers' metadata.
    pub(crate) fn check_topic(&self, kafka: &KafkaEndpoint, within: Duration) -> Result<(), StartError> {
        let (producer, topic) = (Arc::clone(&self.shared.producer()), &self.shared.topic);
        let metadata = producer
            .client()
            .fetch_metadata(Some(topic), within)
            .map_err(|source| kafka_error(kafka, "fetching the topic's metadata", source))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|topic| (topic.error(), topic.partitions().is_empty())) {
            Some((None, false)) => Ok(()),
            _ => Err(StartError::TopicMissing { topic: topic.clone() }),
        }
    }

    /// Copies a record into the queue; does no I/O. Its delivery is reported with `ticket`.
    pub(crate) fn send(&self, ticket: Ticket, key: &[u8], value: &[u8]) -> Result<(), EnqueueError> {
        let mut producer = self.shared.producer();
        loop {
            let record =
                BaseRecord::with_opaque_to(&self.shared.topic, ticket.to_opaque()).key(key).payload(value);
            let Err((error, _)) = producer.send(record) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => return Err(EnqueueError::Full),
                Some(RDKafkaErrorCode::Fatal) => {
                    self.shared.replace_producer(&mut producer).map_err(EnqueueError::Failed)?;
                }
                _ => return Err(EnqueueError::Failed(self.shared.describe(&error))),
            }
        }
    }

    /// Ends the idle pause of the polling thread, for a caller that waits for an acknowledgement.
    pub(crate) fn poll_soon(&self) {
        if let Some(polling) = &self.polling {
            polling.thread().unpark();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.deliveries.stop.store(true, Ordering::Release);
        if let Some(polling) = self.polling.take() {
            polling.thread().unpark();
            join(polling);
        }
    }
}

impl Shared {
    fn poll(&self) {
        while !self.deliveries.stop.load(Ordering::Acquire) {
            let polled = Arc::clone(&self.producer());
            let left = poll_deliveries(&polled);
            if polled.client().fatal_error().is_none() && self.deliveries.lock().is_empty() {
                drop(polled);
                std::thread::park_timeout(if left > 0 { self.poll_interval } else { IDLE_POLL_INTERVAL });
                continue;
            }
            let mut producer = self.producer();
            // A caller may have replaced the producer since then.
            if Arc::ptr_eq(&polled, &producer)
                && let Err(reason) = self.replace_producer(&mut producer)
            {
                // `replace_producer` has stopped every source. A caller may still wait for the last deliveries.
                tracing::debug!(reason, "the failed producer is not replaced");
                drop(producer);
                std::thread::park_timeout(IDLE_POLL_INTERVAL);
            }
        }
    }

    /// Replaces a failed producer, and sends its undelivered records again, in order and before newer ones. A record whose
    /// acknowledgement was lost is sent twice, under the same sequence number. If that fails, every source stops.
    fn replace_producer(
        &self,
        producer: &mut MutexGuard<'_, Arc<BaseProducer<DeliveryContext>>>,
    ) -> Result<(), String> {
        let replaced = self.try_replace_producer(producer);
        if let Err(reason) = &replaced {
            self.deliveries.in_flight.fail(reason);
            for record in self.deliveries.take() {
                self.deliveries.give_up(&record, reason.clone());
            }
        }
        replaced
    }

    fn try_replace_producer(
        &self,
        producer: &mut MutexGuard<'_, Arc<BaseProducer<DeliveryContext>>>,
    ) -> Result<(), String> {
        let reason = match producer.client().fatal_error() {
            Some((code, reason)) if !is_producer_error(code) => {
                return Err(format!("topic {}: {code}: {reason}", self.topic));
            }
            Some((code, reason)) => format!("{code}: {reason}"),
            None => "it did not deliver all records".to_owned(),
        };
        if let Some(reason) = self.deliveries.in_flight.failure() {
            return Err(reason);
        }
        if self.deliveries.replacements.fetch_add(1, Ordering::AcqRel) >= MAX_REPLACEMENTS {
            return Err(format!(
                "topic {}: {MAX_REPLACEMENTS} producers in a row failed without an acknowledgement, the last with {reason}",
                self.topic
            ));
        }
        let until = Instant::now() + PURGE_TIMEOUT;
        while producer.in_flight_count() > 0 {
            producer.purge(PurgeConfig::default().queue().inflight());
            producer.poll(Duration::from_millis(1));
            if Instant::now() > until {
                return Err(format!(
                    "topic {}: {reason}; the failed producer did not return its records within {} s",
                    self.topic,
                    PURGE_TIMEOUT.as_secs()
                ));
            }
        }
        let new = create_producer(&self.config, &self.deliveries).map_err(|error| self.describe(&error))?;
        let records = self.deliveries.take_of_running_sources();
        tracing::warn!(topic = self.topic, reason, records = records.len(), "replaced a failed producer");
        let mut left = records.into_iter();
        while let Some(undelivered) = left.next() {
            let UndeliveredRecord { ticket, key, value } = &undelivered;
            let record = BaseRecord::with_opaque_to(&self.topic, ticket.to_opaque()).key(key).payload(value);
            if let Err((error, _)) = new.send(record) {
                let reason = self.describe(&error);
                self.deliveries.lock().extend([undelivered].into_iter().chain(left));
                return Err(reason);
            }
        }
        let new = Arc::new(new);
        spawn_reconnect_watchdog(&self.kafka, &self.topic, &new);
        **producer = new;
        Ok(())
    }

    fn describe(&self, error: &KafkaError) -> String {
        format!("topic {}: {error}", self.topic)
    }

    fn producer(&self) -> MutexGuard<'_, Arc<BaseProducer<DeliveryContext>>> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliveryState {
    fn lock(&self) -> MutexGuard<'_, Vec<UndeliveredRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<UndeliveredRecord> {
        std::mem::take(&mut *self.lock())
    }

    /// Removes and returns the records that are sent again, in the order of their sources. No event follows a failed one, so the
    /// records of a stopped source have failed as well.
    fn take_of_running_sources(&self) -> Vec<UndeliveredRecord> {
        let mut running = Vec::new();
        for record in self.take() {
            match self.in_flight.resolve(record.ticket) {
                (_, Some(reason)) => self.give_up(&record, reason),
                (sequence, None) => running.push((sequence, record)),
            }
        }
        // The order between sources is free, and the sequences of one source are its order.
        running.sort_unstable_by_key(|(sequence, _)| *sequence);
        running.into_iter().map(|(_, record)| record).collect()
    }

    fn give_up(&self, record: &UndeliveredRecord, reason: String) {
        self.in_flight.complete(record.ticket, record.key.len() + record.value.len(), Err(reason));
    }
}

/// Formats a duration for librdkafka, which takes fractions of a millisecond.
fn linger_ms(linger: Duration) -> String {
    format!("{}", linger.as_micros() as f64 / 1_000.0)
}

/// Runs the delivery callbacks that are due, and returns the number of records in flight. Polls without a timeout:
/// rust-rdkafka's poll with a timeout spins during its last millisecond, which used a twentieth of a core.
fn poll_deliveries(producer: &BaseProducer<DeliveryContext>) -> i32 {
    let mut left = i32::MAX;
    loop {
        // One event of librdkafka, with the deliveries of many records.
        producer.poll(Duration::ZERO);
        let now = producer.in_flight_count();
        if now >= left {
            return now;
        }
        left = now;
    }
}

/// Delivery callback, called in the polling thread: handles acknowledgements, and collects the records that a failed
/// producer did not deliver.
struct DeliveryContext {
    deliveries: Arc<DeliveryState>,
}

impl ClientContext for DeliveryContext {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client error");
    }
}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (deliveries, ticket) = (&self.deliveries, Ticket::from_opaque(opaque));
        let (message, outcome) = match result {
            Ok(message) => {
                deliveries.replacements.store(0, Ordering::Release);
                (message, Ok(()))
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                if code.is_some_and(is_producer_error) && !deliveries.stop.load(Ordering::Acquire) {
                    let bytes = |part: Option<&[u8]>| part.unwrap_or_default().to_vec();
                    let (key, value) = (bytes(message.key()), bytes(message.payload()));
                    deliveries.lock().push(UndeliveredRecord { ticket, key, value });
                    return;
                }
                let (sequence, _) = deliveries.in_flight.resolve(ticket);
                (message, Err(format!("sequence {sequence} was not delivered: {error}")))
            }
        };
        let bytes = message.key_len() + message.payload_len();
        deliveries.in_flight.complete(ticket, bytes, outcome);
    }
}

/// Returns true if the producer has failed and not the record, so that another producer can deliver the record.
const fn is_producer_error(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::OutOfOrderSequenceNumber
            | RDKafkaErrorCode::UnknownProducerId
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::InvalidProducerIdMapping
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::Inconsistent
            | RDKafkaErrorCode::GaplessGuarantee
    )
}

fn create_producer(
    config: &ClientConfig,
    deliveries: &Arc<DeliveryState>,
) -> Result<BaseProducer<DeliveryContext>, KafkaError> {
    config.create_with_context(DeliveryContext { deliveries: Arc::clone(deliveries) })
}

fn kafka_error(kafka: &KafkaEndpoint, operation: &'static str, source: KafkaError) -> StartError {
    StartError::Kafka { bootstrap: kafka.bootstrap.clone(), operation, source }
}

#[cfg(test)]
impl Queue {
    /// Returns a setting of the client.
    pub(crate) fn setting(&self, name: &str) -> Option<String> {
        self.shared.config.get(name).map(str::to_owned)
    }

    /// Raises a fatal error in librdkafka, as if the broker had reported an unknown producer id.
    #[allow(unsafe_code, reason = "librdkafka's own test function has no safe wrapper")]
    pub(crate) fn fail_producer(&self) {
        let producer = self.shared.producer();
        let code = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID;
        // SAFETY: the handle is valid while `producer` is locked, and the string is terminated by a zero.
        unsafe {
            rdkafka::bindings::rd_kafka_test_fatal_error(
                producer.client().native_ptr(),
                code,
                c"a test".as_ptr(),
            )
        };
    }
}
