//! librdkafka's queue to one topic: idempotent, never giving up, and polled by a thread of its own. A producer that Kafka
//! ends for good is replaced: what it gives back is sent again, in order, under the same numbers.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, spawn_reconnect_watchdog};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};

use crate::StartError;
use crate::ledger::Ledger;

/// How long the polling thread rests between two looks at what librdkafka has to tell, if it has something to deliver. An
/// acknowledgement is heard so much later; no record waits for that.
const REST: Duration = Duration::from_millis(5);
/// How long otherwise.
const IDLE: Duration = Duration::from_millis(20);
/// How long a record waits for others of its partition, in milliseconds: what `flush` waits as well. Each wait that ends is a request
/// to the broker, so librdkafka's own 5 ms make a steady trickle over many partitions dear (ADR 0030).
const LINGER_MS: &str = "40";
/// How long an ended producer may take to give back what it holds; it does no I/O for that.
const GIVE_BACK: Duration = Duration::from_secs(10);
/// Producers in a row that end without one acknowledgement: then it is not the producer's fault.
const MOST_IN_A_ROW: u32 = 5;

/// The queue. Tells its ledger of every delivery.
pub(crate) struct Queue {
    link: Arc<Link>,
    polling: Option<JoinHandle<()>>,
}

/// What callers and the polling thread share.
struct Link {
    kafka: KafkaEndpoint,
    topic: String,
    config: ClientConfig,
    returns: Arc<Returns>,
    /// Locked while a record is enqueued, and while the producer is replaced: what comes later is enqueued later.
    producer: Mutex<Arc<BaseProducer<Deliveries>>>,
}

/// What ended producers gave back.
struct Returns {
    ledger: Arc<Ledger>,
    records: Mutex<Vec<Returned>>,
    /// Producers that were replaced since the last acknowledgement.
    replaced: AtomicU32,
    stop: AtomicBool,
}

/// A record that is not known to be in the log.
struct Returned {
    sequence: usize,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Why a record was not enqueued.
#[derive(Debug)]
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
            // docs/adr/0013-one-request-at-a-time.md
            .set("max.in.flight.requests.per.connection", "1")
            // A numbered event is never given up.
            .set("message.timeout.ms", "0")
            // As Java's clients place keys.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", LINGER_MS)
            .set("message.max.bytes", max_message_bytes.to_string())
            .set("batch.size", max_message_bytes.min(1_000_000).to_string())
            // The ledger is the limit.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", i32::MAX.to_string())
            .set("allow.auto.create.topics", "false");
        let returns = Arc::new(Returns {
            ledger,
            records: Mutex::default(),
            replaced: AtomicU32::new(0),
            stop: AtomicBool::new(false),
        });
        let producer = create(&config, &returns)
            .map_err(|source| unreachable_kafka(kafka, "creating a producer", source))?;
        let producer = Arc::new(producer);
        spawn_reconnect_watchdog(kafka, topic, &producer);
        let producer = Mutex::new(producer);
        let kafka = kafka.clone();
        let link = Arc::new(Link { kafka, topic: topic.to_owned(), config, returns, producer });
        let polling = std::thread::Builder::new().name("agentgov-recorder".into()).spawn({
            let link = Arc::clone(&link);
            move || link.poll()
        })?;
        Ok(Self { link, polling: Some(polling) })
    }

    /// Asks the brokers whether the topic is there.
    pub(crate) fn check_topic(&self, kafka: &KafkaEndpoint, within: Duration) -> Result<(), StartError> {
        let (producer, topic) = (Arc::clone(&self.link.producer()), &self.link.topic);
        let metadata = producer
            .client()
            .fetch_metadata(Some(topic), within)
            .map_err(|source| unreachable_kafka(kafka, "looking for the topic", source))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|topic| (topic.error(), topic.partitions().is_empty())) {
            Some((None, false)) => Ok(()),
            _ => Err(StartError::TopicMissing { topic: topic.clone() }),
        }
    }

    /// Copies a record into the queue; does no I/O. Its delivery is reported under `sequence`.
    pub(crate) fn send(&self, sequence: i64, key: &[u8], value: &[u8]) -> Result<(), NotEnqueued> {
        let mut producer = self.link.producer();
        loop {
            // An opaque pointer holds any number that a source reaches on a 64-bit machine.
            let record =
                BaseRecord::with_opaque_to(&self.link.topic, sequence as usize).key(key).payload(value);
            let Err((error, _)) = producer.send(record) else { return Ok(()) };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => return Err(NotEnqueued::Full),
                Some(RDKafkaErrorCode::Fatal) => {
                    self.link.replace(&mut producer).map_err(NotEnqueued::Failed)?;
                }
                _ => return Err(NotEnqueued::Failed(self.link.describe(&error))),
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.link.returns.stop.store(true, Ordering::Release);
        if let Some(polling) = self.polling.take() {
            polling.thread().unpark();
            let _ = polling.join();
        }
    }
}

impl Link {
    fn poll(&self) {
        while !self.returns.stop.load(Ordering::Acquire) {
            let polled = Arc::clone(&self.producer());
            let left = report(&polled);
            if polled.client().fatal_error().is_none() && self.returns.lock().is_empty() {
                drop(polled);
                std::thread::park_timeout(if left > 0 { REST } else { IDLE });
                continue;
            }
            let mut producer = self.producer();
            // A caller may have been faster.
            if Arc::ptr_eq(&polled, &producer)
                && let Err(reason) = self.replace(&mut producer)
            {
                self.returns.ledger.fail(reason);
            }
        }
    }

    /// Takes a new producer in the place of one that Kafka has ended, and sends again what that had not delivered: before
    /// anything newer, and in order. What was delivered without our knowing is sent twice, under the same number.
    fn replace(&self, producer: &mut MutexGuard<'_, Arc<BaseProducer<Deliveries>>>) -> Result<(), String> {
        let replaced = self.try_replace(producer);
        if let Err(reason) = &replaced {
            for Returned { sequence, key, value } in self.returns.take() {
                self.returns.ledger.delivered(sequence as i64, key.len() + value.len(), Err(reason.clone()));
            }
        }
        replaced
    }

    fn try_replace(
        &self,
        producer: &mut MutexGuard<'_, Arc<BaseProducer<Deliveries>>>,
    ) -> Result<(), String> {
        let reason = match producer.client().fatal_error() {
            Some((code, reason)) if !is_of_the_producer(code) => {
                return Err(format!("topic {}: {code}: {reason}", self.topic));
            }
            Some((code, reason)) => format!("{code}: {reason}"),
            None => "it gave records back".to_owned(),
        };
        if let Some(reason) = self.returns.ledger.failure() {
            return Err(reason);
        }
        if self.returns.replaced.fetch_add(1, Ordering::AcqRel) >= MOST_IN_A_ROW {
            return Err(format!(
                "topic {}: {MOST_IN_A_ROW} producers in a row ended without an acknowledgement, the last with {reason}",
                self.topic
            ));
        }
        let until = Instant::now() + GIVE_BACK;
        while producer.in_flight_count() > 0 {
            producer.purge(PurgeConfig::default().queue().inflight());
            producer.poll(Duration::from_millis(1));
            if Instant::now() > until {
                return Err(format!("topic {}: {reason}, and its producer gives nothing back", self.topic));
            }
        }
        let new = create(&self.config, &self.returns).map_err(|error| self.describe(&error))?;
        let mut records = self.returns.take();
        records.sort_unstable_by_key(|record| record.sequence);
        tracing::warn!(
            topic = self.topic,
            reason,
            records = records.len(),
            "a new producer goes on where one was ended"
        );
        let mut left = records.into_iter();
        while let Some(Returned { sequence, key, value }) = left.next() {
            let record = BaseRecord::with_opaque_to(&self.topic, sequence).key(&key).payload(&value);
            if let Err((error, _)) = new.send(record) {
                let reason = self.describe(&error);
                self.returns.lock().extend([Returned { sequence, key, value }].into_iter().chain(left));
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

    fn producer(&self) -> MutexGuard<'_, Arc<BaseProducer<Deliveries>>> {
        // Nothing panics while it holds the lock.
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Returns {
    fn lock(&self) -> MutexGuard<'_, Vec<Returned>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Returned> {
        std::mem::take(&mut *self.lock())
    }
}

/// Has the producer report what it has to tell, and returns how many records it still has. rust-rdkafka's poll with a timeout is not
/// used: it asks again and again through what is left of its last millisecond, which kept a twentieth of a core busy.
fn report(producer: &BaseProducer<Deliveries>) -> i32 {
    let mut left = i32::MAX;
    loop {
        // One report, of many records.
        producer.poll(Duration::ZERO);
        let now = producer.in_flight_count();
        if now >= left {
            return now;
        }
        left = now;
    }
}

/// Receives the brokers' acknowledgements, in the polling thread, and what an ended producer gives back.
struct Deliveries {
    returns: Arc<Returns>,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sequence: usize) {
        let returns = &self.returns;
        let (message, outcome) = match result {
            Ok(message) => {
                returns.replaced.store(0, Ordering::Release);
                (message, Ok(()))
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                if code.is_some_and(is_of_the_producer) && !returns.stop.load(Ordering::Acquire) {
                    let bytes = |part: Option<&[u8]>| part.unwrap_or_default().to_vec();
                    let (key, value) = (bytes(message.key()), bytes(message.payload()));
                    returns.lock().push(Returned { sequence, key, value });
                    return;
                }
                (message, Err(format!("Kafka did not take sequence {sequence}: {error}")))
            }
        };
        let bytes = message.key_len() + message.payload_len();
        returns.ledger.delivered(sequence as i64, bytes, outcome);
    }
}

/// True if the producer is at its end, not the record: another producer can deliver it.
const fn is_of_the_producer(code: RDKafkaErrorCode) -> bool {
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

fn create(config: &ClientConfig, returns: &Arc<Returns>) -> Result<BaseProducer<Deliveries>, KafkaError> {
    config.create_with_context(Deliveries { returns: Arc::clone(returns) })
}

fn unreachable_kafka(kafka: &KafkaEndpoint, doing: &'static str, source: KafkaError) -> StartError {
    StartError::Kafka { bootstrap: kafka.bootstrap.clone(), doing, source }
}

#[cfg(test)]
impl Queue {
    /// Has librdkafka believe that Kafka has ended the producer.
    #[allow(unsafe_code, reason = "librdkafka's own test function has no safe wrapper")]
    pub(crate) fn end_producer(&self) {
        let producer = self.link.producer();
        let code = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID;
        // SAFETY: the handle is alive for as long as the producer is, and the text ends with a zero.
        unsafe {
            rdkafka::bindings::rd_kafka_test_fatal_error(
                producer.client().native_ptr(),
                code,
                c"a test".as_ptr(),
            )
        };
    }
}
