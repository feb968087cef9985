//! Reader of a topic from its start, which reports the ends of partitions and continues after them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::assign::assign;
use crate::{BrokerLiveness, KafkaEndpoint, spawn_reconnect_watchdog};

/// Reader of committed records of one topic's partitions, outside of any consumer group.
///
/// It returns each record once. librdkafka may deliver records again: it requests the start of a partition from the broker, and a
/// response that arrives after a seek makes it repeat the request and move there
/// (<https://github.com/confluentinc/librdkafka/issues/2256>).
pub struct TopicReader {
    topic: String,
    consumer: Arc<BaseConsumer>,
    /// Offset after the last returned record of each partition; 0 before the first.
    next: Mutex<BTreeMap<i32, i64>>,
    empty_at: Mutex<Option<Instant>>,
}

/// Event of a [`TopicReader`].
pub enum TopicEvent<'r> {
    /// Next record of its partition.
    Record(BorrowedMessage<'r>),
    /// The reader has reached the end of this partition.
    End(i32),
    /// Error of the client. The reader continues without intervention once the broker is available.
    Error(KafkaError),
}

impl TopicReader {
    /// Creates a reader of `topic` without partitions. librdkafka requires a `group`; the reader commits nothing.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn new(kafka: &KafkaEndpoint, topic: &str, group: &str) -> KafkaResult<Self> {
        let consumer = Arc::new(kafka.reader_config(group).create::<BaseConsumer>()?);
        let _: BrokerLiveness = spawn_reconnect_watchdog(kafka, topic, &consumer);
        Ok(Self { topic: topic.to_owned(), consumer, next: Mutex::default(), empty_at: Mutex::default() })
    }

    /// Starts reading `partitions` from their starts.
    ///
    /// # Errors
    /// If the client rejects the assignment.
    pub fn start(&self, partitions: impl IntoIterator<Item = i32>) -> KafkaResult<()> {
        self.start_at(partitions.into_iter().map(|partition| (partition, 0)).collect())
    }

    /// Starts reading partitions at these offsets; 0 means the first available offset of the partition.
    ///
    /// # Errors
    /// If the client rejects the assignment.
    pub fn start_at(&self, offsets: BTreeMap<i32, i64>) -> KafkaResult<()> {
        *self.next() = offsets;
        self.assign_positions(false)
    }

    /// Assigns the partitions again, each at its next offset. A client whose first request reached a broker that was shutting down
    /// may otherwise wait forever.
    ///
    /// # Errors
    /// If the client rejects the assignment.
    pub fn restart(&self) -> KafkaResult<()> {
        self.assign_positions(self.has_read())
    }

    /// Assigns the partitions at their next offsets. `is_assigned`: the client has partitions whose seek may not have
    /// ended.
    fn assign_positions(&self, is_assigned: bool) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (partition, next) in self.next().iter() {
            let offset = if *next > 0 { Offset::Offset(*next) } else { Offset::Beginning };
            list.add_partition_offset(&self.topic, *partition, offset)?;
        }
        // Before the first record the offsets are not numbers, so `assign` could not wait for a seek.
        if is_assigned {
            assign(&self.consumer, &list)?
        } else {
            self.consumer.assign(&list)?
        }
        // The client drops the events of the previous assignment.
        self.set_empty_at(Instant::now());
        Ok(())
    }

    /// Returns the next event, or `None` after `wait`.
    pub fn poll(&self, wait: Duration) -> Option<TopicEvent<'_>> {
        loop {
            let began = Instant::now();
            let Some(event) = self.consumer.poll(wait) else {
                self.set_empty_at(began);
                return None;
            };
            return Some(match event {
                Ok(record) => {
                    let mut next = self.next();
                    let next = next.entry(record.partition()).or_default();
                    if record.offset() < *next {
                        continue;
                    }
                    *next = record.offset() + 1;
                    TopicEvent::Record(record)
                }
                Err(KafkaError::PartitionEOF(partition)) => TopicEvent::End(partition),
                Err(error) => TopicEvent::Error(error),
            });
        }
    }

    /// Returns a time: the client received each later event after it. It is the start of the last [`Self::poll`] that
    /// returned nothing, or the last assignment. An end of partition has no offset, so only this time shows which records
    /// precede it.
    pub fn empty_at(&self) -> Option<Instant> {
        *self.empty_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_empty_at(&self, at: Instant) {
        *self.empty_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Returns true if the reader has returned a record.
    pub fn has_read(&self) -> bool {
        self.next().values().any(|next| *next > 0)
    }

    /// Returns the name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the Kafka client.
    pub fn consumer(&self) -> &BaseConsumer {
        &self.consumer
    }

    fn next(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn reader(bootstrap: String) -> TopicReader {
        TopicReader::new(&KafkaEndpoint::at(bootstrap), "table", "tables").unwrap()
    }

    #[test]
    fn record_is_returned_once_if_the_client_delivers_it_again() {
        // librdkafka's mock broker, since a real one cannot be made to deliver records twice.
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("table", 2, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        let produce = |records| {
            for _ in 0..records {
                for partition in 0..2 {
                    let record = BaseRecord::<(), str>::to("table").partition(partition).payload("x");
                    producer.send(record).unwrap();
                }
            }
            producer.flush(DEADLINE).unwrap();
        };
        let reader = reader(cluster.bootstrap_servers());
        // Reads both partitions to their ends.
        let read = || {
            let (mut seen, mut ended, began) = (BTreeMap::<i32, Vec<i64>>::new(), Vec::new(), Instant::now());
            while ended.len() < 2 {
                assert!(began.elapsed() < DEADLINE, "{seen:?}");
                match reader.poll(Duration::from_millis(50)) {
                    Some(TopicEvent::Record(record)) => {
                        seen.entry(record.partition()).or_default().push(record.offset());
                    }
                    Some(TopicEvent::End(partition)) if !ended.contains(&partition) => ended.push(partition),
                    _ => {}
                }
            }
            seen
        };
        produce(3);
        reader.start([0, 1]).unwrap();
        assert!(!reader.has_read());
        assert_eq!(read(), BTreeMap::from([(0, vec![0, 1, 2]), (1, vec![0, 1, 2])]));
        assert!(reader.has_read());
        produce(2);
        reader.consumer().seek("table", 0, Offset::Offset(1), DEADLINE).unwrap();
        assert_eq!(read(), BTreeMap::from([(0, vec![3, 4]), (1, vec![3, 4])]));
        produce(1);
        reader.restart().unwrap();
        assert_eq!(read(), BTreeMap::from([(0, vec![5]), (1, vec![5])]), "from the next offset of each");
    }

    #[test]
    fn queue_counts_as_empty_from_an_assignment_and_from_a_poll_without_an_event() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("table", 1, 1).unwrap();
        let reader = reader(cluster.bootstrap_servers());
        assert_eq!(reader.empty_at(), None);
        reader.start([0]).unwrap();
        let assigned = reader.empty_at().unwrap();
        let began = Instant::now();
        while !matches!(reader.poll(DEADLINE), Some(TopicEvent::End(0))) {
            assert!(began.elapsed() < DEADLINE);
        }
        assert_eq!(reader.empty_at(), Some(assigned), "an event is no evidence");
        let polled = Instant::now();
        while reader.poll(Duration::from_millis(1)).is_some() {
            assert!(began.elapsed() < DEADLINE);
        }
        assert!(reader.empty_at().unwrap() >= polled);
    }

    #[test]
    fn reader_survives_repeated_restarts() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("table", 1, 1).unwrap();
        let reader = reader(cluster.bootstrap_servers());
        reader.next().insert(0, 1);
        for _ in 0..1_000 {
            reader.restart().unwrap();
        }
    }
}
