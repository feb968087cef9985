//! Time from the record of a result until a decision point knows it, beside a bare producer and consumer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agentgov_sdk::{Event, Recorder};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::http::Client;
use super::report::Pair;
use crate::latency::Percentiles;
use crate::sessions::{InterruptedSession, Scripts};
use crate::{Bench, BenchError};

const EVALUATION: &str = "/access/v1/evaluation";
/// Bytes of a bare record: those of an average event.
const RECORD_BYTES: usize = 558;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Measures how soon a decision point knows a recorded result.
pub struct KnownProbe<'a> {
    names: [&'a str; 3],
    recorder: Recorder,
    client: Client,
    bare: BareLoop,
    next_session: usize,
}

/// A producer and a consumer of one topic.
struct BareLoop {
    topic: String,
    producer: BaseProducer<DefaultProducerContext>,
    consumer: BaseConsumer,
}

impl<'a> KnownProbe<'a> {
    /// Creates the clients, and a topic for the bare ones.
    ///
    /// # Errors
    /// If Kafka or the decision point cannot be reached.
    pub fn new(bench: &Bench<'a>, pdp: SocketAddr) -> Result<Self, BenchError> {
        let setup = bench.setup;
        Ok(Self {
            names: [setup.tenant, setup.environment, setup.agent],
            recorder: bench.recorder()?,
            client: Client::connect(pdp)?,
            bare: BareLoop::new(bench)?,
            next_session: 0,
        })
    }

    /// Measures `samples` of each contender. Returns their medians, in ms.
    ///
    /// # Errors
    /// If an event cannot be recorded, or the decision point does not know a result in time.
    pub fn round(&mut self, scripts: &Scripts, samples: usize) -> Result<Pair, BenchError> {
        let mut ours = Vec::new();
        let name = format!("known-{}", self.recorder.source_id());
        let sessions: Vec<_> = scripts.interrupted(&name).skip(self.next_session).collect();
        for session in &sessions {
            if ours.len() >= samples {
                break;
            }
            self.next_session += 1;
            self.follow(session, samples, &mut ours)?;
        }
        let other = (0..samples).map(|_| self.bare.pass()).collect::<Result<Vec<_>, _>>()?;
        Ok(Pair { ours: median_ms(ours), other: median_ms(other) })
    }

    /// Records a session, and asks after each result.
    fn follow(
        &mut self,
        session: &InterruptedSession<'_>,
        samples: usize,
        latencies: &mut Vec<Duration>,
    ) -> Result<(), BenchError> {
        let [tenant, environment, agent] = self.names;
        let mut question = session.question(tenant, environment, agent);
        session.record(agent, |event| {
            if latencies.len() >= samples {
                return Ok(());
            }
            if event.result.is_none() {
                self.record(event)?;
                // The result of a call comes later than the call.
                return self.recorder.flush(TIMEOUT).map(drop).map_err(recorder_error);
            }
            let began = Instant::now();
            let sequence = self.record(event)?;
            if let Some(Value::Object(context)) = question.get_mut("context") {
                let after = json!({ "source": self.recorder.source_id(), "sequence": sequence });
                context.insert("after".to_owned(), after);
            }
            let answer = self.client.ask_json(EVALUATION, &question.to_string())?;
            latencies.push(began.elapsed());
            if answer.pointer("/context/known_through").is_none() {
                let message = format!("expected a decision that knows the result, found {answer}");
                return Err(BenchError::Http { what: "asking", message });
            }
            self.recorder.flush(TIMEOUT).map(drop).map_err(recorder_error)
        })
    }

    fn record(&self, event: &Event<'_>) -> Result<i64, BenchError> {
        self.recorder.record(event).map(|receipt| receipt.sequence).map_err(recorder_error)
    }
}

impl BareLoop {
    fn new(bench: &Bench<'_>) -> Result<Self, BenchError> {
        let topic = format!("bench-known-{}", std::process::id());
        bench.kafka.create(std::slice::from_ref(&topic), 1)?;
        let kafka = &bench.setup.endpoints.kafka;
        // The settings of the SDK and of a decision point.
        let producer = kafka
            .client_config()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "1")
            .set("compression.type", "lz4")
            .set("linger.ms", "0")
            .create_with_context(DefaultProducerContext)
            .map_err(BenchError::kafka("creating a producer"))?;
        let consumer: BaseConsumer = kafka
            .reader_config("agentgov-bench")
            .create()
            .map_err(BenchError::kafka("creating a consumer"))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(0)).map_err(BenchError::kafka("reading"))?;
        consumer.assign(&list).map_err(BenchError::kafka("reading"))?;
        let bare = Self { topic, producer, consumer };
        // The first one connects.
        bare.pass()?;
        Ok(bare)
    }

    /// Produces a record and consumes it.
    fn pass(&self) -> Result<Duration, BenchError> {
        let payload = [b'x'; RECORD_BYTES];
        let began = Instant::now();
        self.producer
            .send(BaseRecord::<[u8], [u8]>::to(&self.topic).partition(0).payload(&payload))
            .map_err(|(error, _)| BenchError::kafka("publishing")(error))?;
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(_)) => break,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(BenchError::kafka("reading")(error)),
                None if began.elapsed() > TIMEOUT => {
                    return Err(BenchError::kafka("reading")(KafkaError::Canceled));
                }
                None => {}
            }
        }
        let elapsed = began.elapsed();
        self.producer.flush(TIMEOUT).map_err(BenchError::kafka("publishing"))?;
        Ok(elapsed)
    }
}

fn recorder_error(error: impl std::fmt::Display) -> BenchError {
    BenchError::Recorder(error.to_string())
}

fn median_ms(latencies: Vec<Duration>) -> f64 {
    let nanos = latencies.iter().map(|latency| i64::try_from(latency.as_nanos()).unwrap_or(i64::MAX));
    Percentiles::of_nanos(nanos.collect()).p50_ms
}
