//! Kafka, as the bench asks it: where topics end, how far groups are, what is in between.

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

const CALL: Duration = Duration::from_secs(30);

/// Offsets by topic and partition.
pub(crate) type Offsets = BTreeMap<(String, i32), i64>;

/// Whoever asks.
pub(crate) struct Kafka {
    endpoint: KafkaEndpoint,
    client: BaseConsumer,
}

/// How a topic's offsets end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// With the last record.
    Gapless,
    /// With the marker of a transaction.
    Markers,
}

impl Kafka {
    pub(crate) fn new(endpoint: &KafkaEndpoint) -> Result<Self, BenchError> {
        Ok(Self { endpoint: endpoint.clone(), client: consumer(endpoint, "agentgov-bench")? })
    }

    /// Where each partition of a topic ends.
    pub(crate) fn ends(&self, topic: &str) -> Result<Offsets, BenchError> {
        let metadata =
            self.client.fetch_metadata(Some(topic), CALL).map_err(BenchError::kafka("asking for a topic"))?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        partitions
            .map(|partition| {
                let high =
                    self.end(topic, partition.id()).map_err(BenchError::kafka("asking for a topic's end"))?;
                Ok(((topic.to_owned(), partition.id()), high))
            })
            .collect()
    }

    /// Where a partition ends. Of a topic that was just made, the broker may not know yet that it leads it.
    fn end(&self, topic: &str, partition: i32) -> Result<i64, KafkaError> {
        let began = Instant::now();
        loop {
            match self.client.fetch_watermarks(topic, partition, CALL) {
                Ok((_, high)) => return Ok(high),
                Err(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotLeaderForPartition)
                        && began.elapsed() < CALL =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A client that asks what a group has committed.
    pub(crate) fn group(&self, group: &str) -> Result<Group, BenchError> {
        Ok(Group { client: consumer(&self.endpoint, group)? })
    }

    /// The records between, as a reader of committed records sees them.
    pub(crate) fn records(&self, from: &Offsets, until: &Offsets) -> Result<Vec<OwnedMessage>, BenchError> {
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
                // Nobody writes meanwhile.
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

    /// Creates topics of so many partitions, whose records keep their producers' timestamps.
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
        let options = AdminOptions::new().operation_timeout(Some(CALL));
        runtime.block_on(call(admin, options)).map_err(failed)
    }
}

/// Asks what a group has committed.
pub(crate) struct Group {
    client: BaseConsumer,
}

impl Group {
    /// How many offsets the group is behind `ends`.
    pub(crate) fn behind(&self, ends: &Offsets, how: Ends) -> Result<i64, BenchError> {
        let mut asked = TopicPartitionList::new();
        for ((topic, partition), end) in ends {
            if *end > 0 {
                asked.add_partition(topic, *partition);
            }
        }
        if asked.count() == 0 {
            return Ok(0);
        }
        let committed = self
            .client
            .committed_offsets(asked, CALL)
            .map_err(BenchError::kafka("asking what is committed"))?;
        let marker = match how {
            Ends::Gapless => 0,
            Ends::Markers => 1,
        };
        let elements = committed.elements();
        let behind = elements.iter().map(|at| {
            let end = ends.get(&(at.topic().to_owned(), at.partition())).copied().unwrap_or_default();
            let reached = if let Offset::Offset(offset) = at.offset() { offset } else { 0 };
            (end - marker - reached).max(0)
        });
        Ok(behind.sum())
    }
}

pub(crate) fn consumer(endpoint: &KafkaEndpoint, group: &str) -> Result<BaseConsumer, BenchError> {
    endpoint
        .consumer_config(group)
        .set("enable.auto.offset.store", "false")
        .create()
        .map_err(BenchError::kafka("creating a consumer"))
}
