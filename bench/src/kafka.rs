//! Kafka calls of the benchmark: end offsets, committed offsets and records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentgov_connect::KafkaEndpoint;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::BenchError;

const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Offsets by topic and partition.
pub(crate) type Offsets = BTreeMap<(String, i32), i64>;

/// Kafka client of the benchmark.
pub(crate) struct Kafka {
    endpoint: KafkaEndpoint,
    client: BaseConsumer,
}

/// Last entry of a topic's partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TailEntry {
    /// A record.
    Record,
    /// A transaction marker.
    Marker,
}

impl Kafka {
    pub(crate) fn new(endpoint: &KafkaEndpoint) -> Result<Self, BenchError> {
        Ok(Self { endpoint: endpoint.clone(), client: consumer(endpoint, "agentgov-bench")? })
    }

    /// Returns the end offset of each partition of a topic.
    pub(crate) fn end_offsets(&self, topic: &str) -> Result<Offsets, BenchError> {
        let metadata = self
            .client
            .fetch_metadata(Some(topic), CALL_TIMEOUT)
            .map_err(BenchError::kafka("reading a topic's metadata"))?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        partitions
            .map(|partition| {
                let high = self
                    .end_offset(topic, partition.id())
                    .map_err(BenchError::kafka("reading a topic's end offset"))?;
                Ok(((topic.to_owned(), partition.id()), high))
            })
            .collect()
    }

    /// Returns the end offset of a partition. After the creation of a topic, the broker may not know yet that it leads the
    /// partition.
    fn end_offset(&self, topic: &str, partition: i32) -> Result<i64, KafkaError> {
        let began = Instant::now();
        loop {
            match self.client.fetch_watermarks(topic, partition, CALL_TIMEOUT) {
                Ok((_, high)) => return Ok(high),
                Err(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotLeaderForPartition)
                        && began.elapsed() < CALL_TIMEOUT =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a client that reads the committed offsets of a group.
    pub(crate) fn group_client(&self, group: &str) -> Result<GroupClient, BenchError> {
        Ok(GroupClient { client: consumer(&self.endpoint, group)? })
    }

    /// Reads the committed records between two sets of offsets.
    pub(crate) fn read_records(
        &self,
        from: &Offsets,
        until: &Offsets,
    ) -> Result<Vec<OwnedMessage>, BenchError> {
        let mut list = TopicPartitionList::new();
        let mut open = 0;
        for ((topic, partition), end) in until {
            let start = from.get(&(topic.clone(), *partition)).copied().unwrap_or(0);
            if start < *end {
                open += 1;
                list.add_partition_offset(topic, *partition, Offset::Offset(start))
                    .map_err(BenchError::kafka("reading"))?;
            }
        }
        let reader: BaseConsumer = self
            .endpoint
            .consumer_config("agentgov-bench")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()
            .map_err(BenchError::kafka("creating a consumer"))?;
        reader.assign(&list).map_err(BenchError::kafka("reading"))?;
        let mut records = Vec::new();
        let began = Instant::now();
        while open > 0 {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(message.detach()),
                // No producer runs at this time, so the first end is final.
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => return Err(BenchError::kafka("reading")(error)),
                None if began.elapsed() > Duration::from_secs(120) => {
                    return Err(BenchError::kafka("reading")(KafkaError::Canceled));
                }
                None => {}
            }
        }
        Ok(records)
    }

    /// Creates topics with a number of partitions, whose records keep the producers' timestamps.
    pub(crate) fn create(&self, topics: &[String], partitions: i32) -> Result<(), BenchError> {
        let new: Vec<_> = topics
            .iter()
            .map(|topic| {
                NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
                    .set("message.timestamp.type", "CreateTime")
                    .set("max.message.bytes", "2097152")
            })
            .collect();
        self.admin(|admin, options| async move { admin.create_topics(&new, &options).await.map(drop) })
    }

    /// Deletes topics.
    pub(crate) fn delete(&self, topics: &[String]) -> Result<(), BenchError> {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        self.admin(|admin, options| async move { admin.delete_topics(&names, &options).await.map(drop) })
    }

    fn admin<F: Future<Output = Result<(), KafkaError>>>(
        &self,
        call: impl FnOnce(AdminClient<DefaultClientContext>, AdminOptions) -> F,
    ) -> Result<(), BenchError> {
        let failed = BenchError::kafka("changing topics");
        let admin = self.endpoint.client_config().create().map_err(BenchError::kafka("creating a client"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::io("starting a runtime"))?;
        let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
        runtime.block_on(call(admin, options)).map_err(failed)
    }
}

/// Client that reads the committed offsets of a group.
pub(crate) struct GroupClient {
    client: BaseConsumer,
}

impl GroupClient {
    /// Returns by how many offsets the group lags behind `ends`.
    pub(crate) fn lag(&self, ends: &Offsets, tail: TailEntry) -> Result<i64, BenchError> {
        let mut partitions = TopicPartitionList::new();
        for ((topic, partition), end) in ends {
            if *end > 0 {
                partitions.add_partition(topic, *partition);
            }
        }
        if partitions.count() == 0 {
            return Ok(0);
        }
        let committed = self
            .client
            .committed_offsets(partitions, CALL_TIMEOUT)
            .map_err(BenchError::kafka("reading committed offsets"))?;
        let marker = match tail {
            TailEntry::Record => 0,
            TailEntry::Marker => 1,
        };
        let elements = committed.elements();
        let lag = elements.iter().map(|at| {
            let end = ends.get(&(at.topic().to_owned(), at.partition())).copied().unwrap_or_default();
            let reached = if let Offset::Offset(offset) = at.offset() { offset } else { 0 };
            (end - marker - reached).max(0)
        });
        Ok(lag.sum())
    }
}

pub(crate) fn consumer(endpoint: &KafkaEndpoint, group: &str) -> Result<BaseConsumer, BenchError> {
    endpoint
        .consumer_config(group)
        .set("enable.auto.offset.store", "false")
        .create()
        .map_err(BenchError::kafka("creating a consumer"))
}
