//! Governance topics, folded into tables: to their end before the first record, then followed. The topic of controls is
//! among them: what operators tell the stage is for the loop, all else is for the stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, keep_reaching};
use agentgov_schemas::Millis;
use agentgov_schemas::governance::Control;
use agentgov_schemas::topology::{Stage, Topology};
use agentgov_schemas::{NotReadyReason, subject, wire};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::restore::reader;
use crate::assign::assign;
use crate::{SchemaCache, SchemaLookup};
use agentgov_processor::{Processor, RestoreValue, TableRecord};
use agentgov_service::stop::Parting;
use agentgov_service::{Health, NO_TIMESTAMP, StageError, Stop, logged_at};

/// A reader that has said nothing for so long, not even that it is at the end, is told again where to read: one whose first
/// request met a broker that was going away has been seen to wait for ever.
const QUIET: Duration = Duration::from_secs(5);

/// Readers of the stage's governance topics, one each: the end of a partition is told without the name of its topic.
pub(super) struct Tables {
    readers: Parting<Vec<Reader>>,
    stage: String,
    controls: Option<String>,
}

/// Reads one topic.
struct Reader {
    topic: String,
    consumer: Arc<BaseConsumer>,
    /// The offset after the last record that was read; 0 before the first.
    next: AtomicI64,
}

/// What folding needs beside the readers.
pub(super) struct Folding<'f, P> {
    pub processor: &'f mut P,
    pub topology: &'f Topology,
    pub schemas: &'f mut SchemaCache,
    pub health: &'f Health,
    pub stop: &'f Stop,
}

impl<P: Processor> Folding<'_, P> {
    /// Sets or clears the reasons that the processor knows.
    fn report_readiness(&self) {
        self.processor.readiness(&mut |reason, why| match why {
            Some(why) => self.health.not_ready(reason, why),
            None => self.health.clear(reason),
        });
    }
}

/// What following came to.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// An operator told the stage to resume.
    pub resume: bool,
    /// Kafka is in trouble. It is read on by itself when Kafka is back.
    pub trouble: Option<String>,
}

impl Tables {
    pub(super) fn new(
        kafka: &KafkaEndpoint,
        name: &str,
        stage: &Stage,
        topology: &Topology,
    ) -> Result<Self, StageError> {
        let mut readers = Vec::new();
        for topic in stage.global_tables.iter().map(|topic| topic.value.clone()) {
            let consumer = Arc::new(reader(kafka, name)?);
            keep_reaching(kafka, &topic, &consumer);
            let reader = Reader { topic, consumer, next: AtomicI64::new(0) };
            reader.start().map_err(StageError::kafka(format!("reading {}", reader.topic)))?;
            readers.push(reader);
        }
        let controls = topology.topic_of(subject::CONTROL).ok().map(|(topic, _)| topic.to_owned());
        Ok(Self { readers: Parting::other(readers), stage: name.to_owned(), controls })
    }

    /// Folds every table to its end. False if asked to stop meanwhile. What operators told earlier is over.
    pub(super) fn fold_to_end<P: Processor>(&self, mut folding: Folding<'_, P>) -> bool {
        for reader in self.readers.iter() {
            let mut quiet = Instant::now();
            loop {
                if folding.stop.is_asked() {
                    return false;
                }
                folding.health.alive();
                if quiet.elapsed() > QUIET {
                    reader.go_on();
                    quiet = Instant::now();
                }
                match reader.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => {
                        quiet = Instant::now();
                        self.fold(&reader.topic, &message, &mut folding);
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => break,
                    Some(Err(error)) => {
                        let topic = &reader.topic;
                        folding.health.not_ready(NotReadyReason::Tables, format!("reading {topic}: {error}"))
                    }
                    None => {}
                }
            }
        }
        folding.processor.tables_loaded();
        folding.report_readiness();
        folding.health.clear(NotReadyReason::Tables);
        true
    }

    /// Folds what has come since, without waiting.
    pub(super) fn follow<P: Processor>(&self, mut folding: Folding<'_, P>) -> Followed {
        let mut followed = Followed::default();
        for reader in self.readers.iter() {
            while let Some(event) = reader.poll(Duration::ZERO) {
                match event {
                    Ok(message) => followed.resume |= self.fold(&reader.topic, &message, &mut folding),
                    Err(KafkaError::PartitionEOF(_)) => {}
                    Err(error) => {
                        followed.trouble = Some(format!("reading {}: {error}", reader.topic));
                    }
                }
            }
        }
        followed
    }

    /// After an outage: has every reader go on where it is.
    pub(super) fn go_on(&self) {
        self.readers.iter().filter(|reader| reader.next.load(Ordering::Relaxed) > 0).for_each(Reader::go_on);
    }

    /// Folds a record. A tombstone is an empty value, which no entry is. True if the record tells this stage to resume.
    fn fold<P: Processor>(
        &self,
        topic: &str,
        message: &BorrowedMessage<'_>,
        folding: &mut Folding<'_, P>,
    ) -> bool {
        let offset = message.offset();
        let logged_at = logged_at(message);
        let parsed;
        let unreadable;
        let value = match wire::split(message.payload().unwrap_or_default()) {
            Err(error) => {
                unreadable = error.to_string();
                Err(unreadable.as_str())
            }
            Ok((id, datum)) => match folding.schemas.get(id, folding.health, folding.stop) {
                SchemaLookup::Known(schema) => {
                    parsed = schema;
                    Ok(RestoreValue::new(id, &parsed, datum))
                }
                SchemaLookup::Unknown(why) => {
                    unreadable = why;
                    Err(unreadable.as_str())
                }
                SchemaLookup::Stopped => return false,
            },
        };
        // When an entry was logged is part of what it says.
        let value = if logged_at.is_some() { value } else { Err(NO_TIMESTAMP) };
        let logged_at = logged_at.unwrap_or(Millis(0));
        if self.controls.as_deref() != Some(topic) {
            let record = TableRecord { topic, offset, logged_at, value };
            folding.processor.update_table(folding.topology, &record);
            folding.report_readiness();
            return false;
        }
        let control = value
            .map_err(str::to_owned)
            .and_then(|value| value.decode::<Control<'_>>().map_err(|e| e.to_string()));
        match control {
            Ok(control) if control.stage == self.stage && control.command == Control::RESUME => true,
            Ok(_) => false,
            Err(error) => {
                tracing::error!(topic, offset, error, "a control that cannot be read is passed over");
                false
            }
        }
    }
}

impl Reader {
    /// What comes next: each record once, though the consumer may hand it over again.
    fn poll(&self, wait: Duration) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        loop {
            let event = self.consumer.poll(wait)?;
            if let Ok(message) = &event {
                if message.offset() < self.next.load(Ordering::Relaxed) {
                    continue;
                }
                self.next.store(message.offset() + 1, Ordering::Relaxed);
            }
            return Some(event);
        }
    }

    /// Reads where it is, from a new start of the fetcher.
    fn start(&self) -> KafkaResult<()> {
        let next = self.next.load(Ordering::Relaxed);
        let mut from = TopicPartitionList::new();
        if next > 0 {
            from.add_partition_offset(&self.topic, 0, Offset::Offset(next))?;
            assign(&self.consumer, &from)
        } else {
            from.add_partition_offset(&self.topic, 0, Offset::Beginning)?;
            self.consumer.assign(&from)
        }
    }

    fn go_on(&self) {
        if let Err(error) = self.start() {
            tracing::warn!(topic = self.topic, %error, "reading on");
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn reader_at(bootstrap: &str, next: i64) -> Reader {
        let consumer = KafkaEndpoint::at(bootstrap).consumer_config("tables").create();
        Reader { topic: "table".into(), consumer: Arc::new(consumer.unwrap()), next: AtomicI64::new(next) }
    }

    #[test]
    fn a_record_that_is_handed_over_again_is_passed_once() {
        // Librdkafka's own broker: a real one cannot be made to hand records over twice.
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("table", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        let produce = |records| {
            for _ in 0..records {
                producer.send(BaseRecord::<(), str>::to("table").partition(0).payload("x")).unwrap();
            }
            producer.flush(DEADLINE).unwrap();
        };
        let reader = reader_at(&cluster.bootstrap_servers(), 0);
        reader.start().unwrap();
        let read_to = |end: i64| {
            let (mut seen, began) = (Vec::new(), Instant::now());
            while seen.last() != Some(&(end - 1)) {
                assert!(began.elapsed() < DEADLINE, "expected to come to {end}: {seen:?}");
                if let Some(Ok(message)) = reader.poll(Duration::from_millis(50)) {
                    seen.push(message.offset());
                }
            }
            seen
        };
        produce(3);
        assert_eq!(read_to(3), [0, 1, 2]);
        produce(2);
        reader.consumer.seek("table", 0, Offset::Offset(1), DEADLINE).unwrap();
        assert_eq!(read_to(5), [3, 4]);
    }

    #[test]
    fn a_reader_may_start_again_and_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("table", 1, 1).unwrap();
        let reader = reader_at(&cluster.bootstrap_servers(), 1);
        for _ in 0..1_000 {
            reader.go_on();
        }
    }
}
