//! Kafka transactions: outputs, state and input offsets are committed together, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use agentgov_connect::{KafkaEndpoint, spawn_reconnect_watchdog};
use agentgov_processor::Outgoing;
use agentgov_processor::Outputs;
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::topology::{Stage, Timing};
use agentgov_service::backoff::Backoff;
use agentgov_service::shutdown::{DropWithTimeout, SLOW_CALL_THRESHOLD};
use agentgov_service::{Health, ShutdownSignal, StageError, failpoint};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::first_record::FirstRecordBarrier;

/// Timeout of one call to the transaction coordinator, after which it is retried.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which a transaction that has not ended is abandoned with its producer.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of producers lost in a row, without a commit, after which the stage ends. Transactional ids are unique, so
/// only the coordinator fences one: after an outage or a pause that exceeds the transaction timeout. After this many, a
/// new producer does not solve the problem.
const MAX_LOST_PRODUCERS: u32 = 5;

pub(super) struct Transactions {
    producer: DropWithTimeout<BaseProducer<DeliveryContext>>,
    /// Barrier of this producer.
    barrier: FirstRecordBarrier,
    kafka: KafkaEndpoint,
    group: String,
    /// Topic that the producer writes.
    topic: String,
    stage: String,
    transaction_timeout: Duration,
    health: Health,
    stop: ShutdownSignal,
    /// Producers lost since the last committed transaction.
    lost: u32,
}

/// Outcome of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed,
    /// The transaction is aborted. The state in memory is ahead and must be restored.
    Aborted,
    /// The producer is unusable, and the coordinator decides the transaction: create a new producer and restore.
    Lost(LostProducer),
    /// Shutdown was requested, and the broker did not respond in time. The next owner reads the outcome.
    Abandoned,
}

/// Call of the producer that can be repeated.
trait Call: Fn(&BaseProducer<DeliveryContext>) -> Result<(), KafkaError> + Clone + Send + 'static {}
impl<F: Fn(&BaseProducer<DeliveryContext>) -> Result<(), KafkaError> + Clone + Send + 'static> Call for F {}

/// Outcome of replacing a producer.
pub(super) enum Replacement {
    /// The new producer is ready.
    Done,
    /// Shutdown was requested meanwhile.
    Stopped,
}

/// Error that made a producer unusable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LostProducer {
    what: &'static str,
    error: KafkaError,
}

impl LostProducer {
    const fn at(what: &'static str) -> impl FnOnce(KafkaError) -> Outcome {
        move |error| Outcome::Lost(Self { what, error })
    }
}

#[derive(Debug, Default)]
pub(super) struct DeliveryContext {
    failed: AtomicBool,
}

impl ClientContext for DeliveryContext {}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        // Only the first error is logged; thousands may follow it.
        if let Err((error, _)) = result
            && !self.failed.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(%error, "an output was not delivered; its transaction is aborted");
        }
    }
}

impl Transactions {
    /// Creates a producer with its own transactional id. Waits until the coordinator responds; returns `None` if `stop`
    /// is requested first.
    pub(super) fn start(
        kafka: &KafkaEndpoint,
        name: &str,
        stage: &Stage,
        timing: &Timing,
        health: &Health,
        stop: &ShutdownSignal,
    ) -> Result<Option<Self>, StageError> {
        let transaction_timeout = timing.transaction_timeout.0;
        let group = stage.group.value.clone();
        let topic = stage.state.as_ref().map(|topic| topic.value.clone()).ok_or_else(|| {
            StageError::Config(format!("topology: expected stage `{name}` to have a state topic, found none"))
        })?;
        let producer = create_producer(kafka, &group, &topic, name, transaction_timeout, health, stop)?;
        Ok(producer.map(|producer| Self {
            producer,
            barrier: FirstRecordBarrier::default(),
            kafka: kafka.clone(),
            group,
            topic,
            stage: name.to_owned(),
            transaction_timeout,
            health: health.clone(),
            stop: stop.clone(),
            lost: 0,
        }))
    }

    /// Replaces a lost producer. This is safe whatever happened to its transaction, as after a kill: the caller
    /// restores, which waits until the coordinator has ended that transaction (ADR 0006).
    pub(super) fn replace(&mut self, lost: LostProducer) -> Result<Replacement, StageError> {
        self.lost += 1;
        if self.lost >= MAX_LOST_PRODUCERS {
            return Err(self.fatal_error(lost));
        }
        let LostProducer { what, error } = lost;
        tracing::warn!(stage = self.stage, what, %error, "the producer is lost; creating a new one");
        let Self { kafka, group, topic, stage, health, stop, .. } = self;
        let new = create_producer(kafka, group, topic, stage, self.transaction_timeout, health, stop)?;
        match new {
            Some(new) => self.producer = new,
            None => return Ok(Replacement::Stopped),
        }
        Ok(Replacement::Done)
    }

    /// Sends `outputs` and `offsets` in one transaction. `group` was read when the batch was polled: the coordinator
    /// refuses the offsets if the group has rebalanced since.
    pub(super) fn run(
        &mut self,
        outputs: &Outputs,
        offsets: &TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) -> Outcome {
        // Partitions count as written only once the transaction has committed.
        let mut barrier = std::mem::take(&mut self.barrier);
        let outcome = match self.transaction(outputs, &mut barrier, offsets, group) {
            Ok(()) => {
                self.barrier = barrier;
                self.lost = 0;
                Outcome::Committed
            }
            Err(outcome) => outcome,
        };
        if let Outcome::Committed | Outcome::Aborted = outcome {
            // The coordinator has responded.
            self.health.clear(NotReadyReason::Transaction);
        }
        outcome
    }

    fn transaction(
        &self,
        outputs: &Outputs,
        barrier: &mut FirstRecordBarrier,
        offsets: &TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) -> Result<(), Outcome> {
        self.producer.context().failed.store(false, Ordering::Release);
        self.producer.begin_transaction().map_err(LostProducer::at("beginning a transaction"))?;
        failpoint::edge("processor::begun");
        let send = |record: &Outgoing<'_>| {
            self.send(record).map_err(|error| {
                tracing::warn!(%error, topic = record.topic, "the producer refused an output; aborting");
                self.abort()
            })
        };
        barrier.send(SystemTime::now(), outputs, send, || self.await_acks())?;
        // rust-rdkafka's commit flushes in steps of 100 ms. After `await_acks` it has nothing to wait for.
        self.await_acks()?;
        failpoint::edge("processor::produced");
        let request = Arc::new((offsets.clone(), group));
        self.retry("sending offsets", move |producer| {
            let (offsets, group) = &*request;
            producer.send_offsets_to_transaction(offsets, group, CALL_TIMEOUT)
        })?;
        failpoint::edge("processor::offsets-sent");
        self.retry("committing a transaction", |producer| producer.commit_transaction(CALL_TIMEOUT))
    }

    /// Waits until all sent records are acknowledged.
    fn await_acks(&self) -> Result<(), Outcome> {
        let began = Instant::now();
        while self.producer.in_flight_count() > 0 {
            poll_producer(&self.producer);
            if self.stop.is_grace_over() {
                return Err(Outcome::Abandoned);
            }
            if began.elapsed() > SLOW_CALL_THRESHOLD {
                self.report_waiting("the broker does not acknowledge the outputs of a transaction");
            }
        }
        if self.producer.context().failed.load(Ordering::Acquire) { Err(self.abort()) } else { Ok(()) }
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
                Err((full @ KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    if self.stop.is_grace_over() {
                        return Err(full);
                    }
                    outgoing = back;
                    poll_producer(&self.producer);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Repeats a retriable call, aborts where the transaction is lost, and gives up where the producer is.
    fn retry(&self, what: &'static str, call: impl Call) -> Result<(), Outcome> {
        let mut backoff = Backoff::default();
        let deadline = Instant::now() + RETRY_TIMEOUT;
        loop {
            match self.call_cancellable(what, &call).ok_or(Outcome::Abandoned)? {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                    tracing::warn!(error = %e, what, "transaction lost; aborting");
                    return Err(self.abort());
                }
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                    self.report_waiting(format!("{what}: {error}"));
                    if self.pause(&mut backoff) {
                        return Err(Outcome::Abandoned);
                    }
                }
                Err(error) => return Err(LostProducer::at(what)(error)),
            }
        }
    }

    fn abort(&self) -> Outcome {
        let what = "aborting a transaction";
        let mut backoff = Backoff::default();
        let deadline = Instant::now() + RETRY_TIMEOUT;
        loop {
            let abort = |producer: &BaseProducer<DeliveryContext>| producer.abort_transaction(CALL_TIMEOUT);
            let Some(answer) = self.call_cancellable(what, &abort) else { return Outcome::Abandoned };
            match answer {
                Ok(()) => return Outcome::Aborted,
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                    self.report_waiting(format!("{what}: {error}"));
                    if self.pause(&mut backoff) {
                        return Outcome::Abandoned;
                    }
                }
                Err(error) => return LostProducer::at(what)(error),
            }
        }
    }

    /// Makes a call that librdkafka may extend to the transaction timeout, whatever timeout it is given. Returns `None`
    /// if shutdown is requested and the call does not end.
    fn call_cancellable(&self, what: &'static str, call: &impl Call) -> Option<Result<(), KafkaError>> {
        let (producer, call) = (self.producer.share(), call.clone());
        let late = || self.report_waiting(format!("{what}: the transaction coordinator does not respond"));
        self.stop.run_cancellable(late, move || call(&producer))
    }

    fn report_waiting(&self, why: impl Into<String>) {
        self.health.set_not_ready(NotReadyReason::Transaction, why);
    }

    /// Pauses before a retry. Returns true if shutdown was requested and its grace period is over.
    fn pause(&self, backoff: &mut Backoff) -> bool {
        if self.stop.wait(backoff.pause()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.stop.is_grace_over()
    }

    fn fatal_error(&self, LostProducer { what, error }: LostProducer) -> StageError {
        let fenced = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
                    | RDKafkaErrorCode::FencedInstanceId
            )
        );
        if fenced {
            let message = format!(
                "{what}: {error}; {MAX_LOST_PRODUCERS} producers in a row were lost without a commit"
            );
            StageError::Fenced { stage: self.stage.clone(), message }
        } else {
            StageError::Kafka { what: format!("{}: {what}", self.stage), source: error }
        }
    }
}

/// Polls the producer and yields the CPU to the sending threads for a moment. rust-rdkafka's poll with a timeout spins
/// through the last millisecond of that timeout.
fn poll_producer(producer: &BaseProducer<DeliveryContext>) {
    producer.poll(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(1));
}

/// Creates a producer with a transactional id that was never used. Returns `None` if shutdown is requested.
fn create_producer(
    kafka: &KafkaEndpoint,
    group: &str,
    topic: &str,
    stage: &str,
    transaction_timeout: Duration,
    health: &Health,
    stop: &ShutdownSignal,
) -> Result<Option<DropWithTimeout<BaseProducer<DeliveryContext>>>, StageError> {
    let transactional_id = format!("{group}-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let timeout = transaction_timeout.as_millis().to_string();
    let config = kafka
        .client_config()
        .set("transactional.id", &transactional_id)
        .set("transaction.timeout.ms", &timeout)
        .set("message.timeout.ms", &timeout)
        .set("acks", "all")
        // Only failures are reported; a failure aborts the transaction.
        .set("delivery.report.only.error", "true")
        .set("compression.type", "zstd")
        // The records of a transaction are all available at once.
        .set("linger.ms", "1")
        .set("batch.num.messages", "100000")
        .set("batch.size", "1000000")
        .set("message.max.bytes", "16777216")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "262144")
        .set("reconnect.backoff.max.ms", "2000")
        .clone();
    let producer = BaseProducer::from_config_and_context(&config, DeliveryContext::default())
        .map_err(StageError::kafka("creating the producer"))?;
    let producer = DropWithTimeout::new(producer);
    spawn_reconnect_watchdog(kafka, topic, &producer.share());
    let mut backoff = Backoff::default();
    loop {
        // A repeated call continues the one before.
        match producer.init_transactions(CALL_TIMEOUT) {
            Ok(()) => {
                health.clear(NotReadyReason::Transaction);
                tracing::info!(stage, transactional_id, "created a transactional producer");
                return Ok(Some(producer));
            }
            Err(error) if is_retriable(&error) => {
                health.set_not_ready(
                    NotReadyReason::Transaction,
                    format!("waiting for the transaction coordinator: {error}"),
                );
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
