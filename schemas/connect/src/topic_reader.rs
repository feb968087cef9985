//! A reader of a topic from its start to its end, and on from there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::assign::assign;
use crate::{BrokerLiveness, KafkaEndpoint, spawn_reconnect_watchdog};

/// Reads partitions of one topic, outside any group's rebalancing. Committed records only.
///
/// It returns each record once. librdkafka may hand records over again: where a partition begins is asked of the broker, and an
/// answer that comes after the partition was moved makes it ask again and go there
/// (<https://github.com/confluentinc/librdkafka/issues/2256>).
pub struct TopicReader {
    topic: String,
    consumer: Arc<BaseConsumer>,
    /// Of each partition, the offset after the last record; 0 before the first.
    next: Mutex<BTreeMap<i32, i64>>,
}

/// An event of a reader.
pub enum TopicEvent<'r> {
    /// The next record of its partition.
    Record(BorrowedMessage<'r>),
    /// The reader is at the end of this partition.
    End(i32),
    /// An error. The reader goes on by itself once the broker is back.
    Error(KafkaError),
}

impl TopicReader {
    /// Creates a reader of `topic` that reads nothing yet. `group` is a name that librdkafka wants; nothing is committed.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn new(kafka: &KafkaEndpoint, topic: &str, group: &str) -> KafkaResult<Self> {
        let consumer = Arc::new(kafka.reader_config(group).create::<BaseConsumer>()?);
        let _: BrokerLiveness = spawn_reconnect_watchdog(kafka, topic, &consumer);
        Ok(Self { topic: topic.to_owned(), consumer, next: Mutex::default() })
    }

    /// Reads `partitions`, each from its start.
    ///
    /// # Errors
    /// If the client does not take the assignment.
    pub fn start(&self, partitions: impl IntoIterator<Item = i32>) -> KafkaResult<()> {
        *self.next() = partitions.into_iter().map(|partition| (partition, 0)).collect();
        self.restart()
    }

    /// Has the client fetch anew, from where each partition stands. A reader whose first request met a broker that was going away
    /// has been seen to wait for ever.
    ///
    /// # Errors
    /// If the client does not take the assignment.
    pub fn restart(&self) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (partition, next) in self.next().iter() {
            let offset = if *next > 0 { Offset::Offset(*next) } else { Offset::Beginning };
            list.add_partition_offset(&self.topic, *partition, offset)?;
        }
        // Nothing has moved to its start yet, so nothing would be waited for.
        if self.has_read() { assign(&self.consumer, &list) } else { self.consumer.assign(&list) }
    }

    /// Returns the next event, and waits for it for so long.
    pub fn poll(&self, wait: Duration) -> Option<TopicEvent<'_>> {
        loop {
            return Some(match self.consumer.poll(wait)? {
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

    /// Returns whether a record was read.
    pub fn has_read(&self) -> bool {
        self.next().values().any(|next| *next > 0)
    }

    /// Returns the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the client.
    pub fn consumer(&self) -> &BaseConsumer {
        &self.consumer
    }

    fn next(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn reader(bootstrap: String) -> TopicReader {
        TopicReader::new(&KafkaEndpoint::at(bootstrap), "table", "tables").unwrap()
    }

    #[test]
    fn each_record_is_read_once_though_the_client_hands_it_over_again() {
        // Librdkafka's own broker: a real one cannot be made to hand records over twice.
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
        // Both partitions to their ends.
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
        assert_eq!(read(), BTreeMap::from([(0, vec![5]), (1, vec![5])]), "from where each stands");
    }

    #[test]
    fn a_reader_may_be_restarted_again_and_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("table", 1, 1).unwrap();
        let reader = reader(cluster.bootstrap_servers());
        reader.next().insert(0, 1);
        for _ in 0..1_000 {
            reader.restart().unwrap();
        }
    }
}
