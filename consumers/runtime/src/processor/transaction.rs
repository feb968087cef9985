//! One Kafka transaction: outputs, state and input offsets together, or none of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentgov_schemas::topology::{Stage, Timing};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::Outputs;
use super::outputs::Outgoing;
use crate::backoff::Backoff;
use crate::{Health, StageError, Stop, failpoint};

/// How long one call to the transaction coordinator may take before it is tried again.
const CALL: Duration = Duration::from_secs(5);

pub(super) struct Transactions {
    producer: BaseProducer<Deliveries>,
    stage: String,
    health: Health,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    /// Nothing of it counts: what is in memory is ahead, and must be read again.
    Aborted,
}

#[derive(Debug, Default)]
pub(super) struct Deliveries {
    failed: AtomicBool,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if let Err((error, _)) = result {
            tracing::warn!(%error, "an output was not delivered; its transaction is aborted");
            self.failed.store(true, Ordering::Release);
        }
    }
}

impl Transactions {
    /// A producer with a transactional id of its own. Waits until the coordinator answers, or `stop` is asked (`None`).
    pub(super) fn start(
        kafka: &agentgov_connect::KafkaEndpoint,
        name: &str,
        stage: &Stage,
        timing: &Timing,
        health: &Health,
        stop: &Stop,
    ) -> Result<Option<Self>, StageError> {
        let unique = format!("{}-{}-{:016x}", stage.group.value, std::process::id(), fastrand::u64(..));
        let config = kafka
            .client_config()
            .set("transactional.id", unique)
            .set("transaction.timeout.ms", timing.transaction_timeout.0.as_millis().to_string())
            .set("message.timeout.ms", timing.transaction_timeout.0.as_millis().to_string())
            .set("acks", "all")
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            .set("batch.num.messages", "100000")
            .set("batch.size", "1000000")
            .set("message.max.bytes", "16777216")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "262144")
            .clone();
        let mut backoff = Backoff::default();
        loop {
            let producer = BaseProducer::from_config_and_context(&config, Deliveries::default())
                .map_err(StageError::kafka("creating the producer"))?;
            match producer.init_transactions(CALL) {
                Ok(()) => {
                    health.clear("broker");
                    return Ok(Some(Self { producer, stage: name.to_owned(), health: health.clone() }));
                }
                Err(error) if is_retriable(&error) => {
                    health.not_ready("broker", format!("waiting for the transaction coordinator: {error}"));
                    if stop.wait(backoff.pause()) {
                        return Ok(None);
                    }
                }
                Err(source) => {
                    return Err(StageError::Kafka { what: "preparing for transactions".into(), source });
                }
            }
        }
    }

    /// Sends `outputs` and `offsets` in one transaction. `group` was taken when the batch was polled: if the group has
    /// gone on without us since, the coordinator refuses.
    pub(super) fn run(
        &self,
        outputs: &Outputs,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<Outcome, StageError> {
        self.producer.context().failed.store(false, Ordering::Release);
        self.producer.begin_transaction().map_err(|e| self.fatal("beginning a transaction", e))?;
        failpoint::edge("processor::begun");
        for record in outputs.iter() {
            if let Err(error) = self.send(&record) {
                tracing::warn!(%error, topic = record.topic, "output refused; aborting");
                return self.abort();
            }
        }
        // rust-rdkafka's commit flushes in steps of 100 ms: drained first, it has nothing to wait for.
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
        }
        if self.producer.context().failed.load(Ordering::Acquire) {
            return self.abort();
        }
        failpoint::edge("processor::produced");
        let sent = self
            .retry("sending offsets", || self.producer.send_offsets_to_transaction(offsets, group, CALL))?;
        if sent == Outcome::Aborted {
            return Ok(Outcome::Aborted);
        }
        failpoint::edge("processor::offsets-sent");
        self.retry("committing a transaction", || self.producer.commit_transaction(CALL))
    }

    fn send(&self, record: &Outgoing<'_>) -> Result<(), KafkaError> {
        let mut outgoing =
            BaseRecord::<[u8], [u8]>::to(record.topic).partition(record.partition).key(record.key);
        if let Some(value) = record.value {
            outgoing = outgoing.payload(value);
        }
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    outgoing = back;
                    self.producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Repeats a call that may be repeated, aborts where the transaction is lost, and ends where the producer is.
    fn retry(&self, what: &str, call: impl Fn() -> Result<(), KafkaError>) -> Result<Outcome, StageError> {
        let mut backoff = Backoff::default();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match call() {
                Ok(()) => {
                    self.health.clear("broker");
                    return Ok(Outcome::Committed);
                }
                Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                    tracing::warn!(error = %e, what, "transaction lost; aborting");
                    return self.abort();
                }
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                    self.health.not_ready("broker", format!("{what}: {error}"));
                    std::thread::sleep(backoff.pause());
                }
                Err(error) => return Err(self.fatal(what, error)),
            }
        }
    }

    fn abort(&self) -> Result<Outcome, StageError> {
        let mut backoff = Backoff::default();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.producer.abort_transaction(CALL) {
                Ok(()) => return Ok(Outcome::Aborted),
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                    self.health.not_ready("broker", format!("aborting a transaction: {error}"));
                    std::thread::sleep(backoff.pause());
                }
                Err(error) => return Err(self.fatal("aborting a transaction", error)),
            }
        }
    }

    fn fatal(&self, what: &str, source: KafkaError) -> StageError {
        let fenced = matches!(
            source.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
                    | RDKafkaErrorCode::FencedInstanceId
            )
        );
        if fenced {
            StageError::Fenced { stage: self.stage.clone(), message: format!("{what}: {source}") }
        } else {
            StageError::Kafka { what: format!("{}: {what}", self.stage), source }
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(e) => e.is_retriable(),
        other => matches!(
            other.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::RequestTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
            )
        ),
    }
}
