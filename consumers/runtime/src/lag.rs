//! How far a consumer group is behind, as an onlooker sees it: of each partition, what the group has committed against what
//! the topic holds. It costs the stage nothing, and it is right whether the stage works, waits, stands still or is gone.
//!
//! Offsets alone do not say it: of a transactional topic the last offset is a transaction's marker, which nobody commits
//! behind. So where a group seems to be behind, the record that it would read next is looked for. Its age is the lag in
//! seconds; where there is none, there is no lag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, keep_reaching};
use agentgov_schemas::Millis;
use agentgov_schemas::topology::{MissingRole, Topology};
use metrics::gauge;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::metrics::{LAG_RECORDS, LAG_SECONDS, LAG_SEEN, since_epoch};
use crate::{Stop, failpoint};

/// How often a process looks.
const LOOK: Duration = Duration::from_secs(5);
/// How long the brokers may take to answer one question.
const CALL: Duration = Duration::from_secs(5);

/// A topic and one of its partitions.
pub type Place = (String, i32);

/// How far a group is behind on a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Offsets from the next record to the end of the partition. Transaction markers among them count; 0 if no record is
    /// there.
    pub records: i64,
    /// When the broker appended the next record. `None`: there is none, or it was not told in time.
    pub oldest: Option<Millis>,
}

impl Lag {
    /// How old the next record is at `now`; 0 if there is none, `None` if it is not known.
    pub fn age(&self, now: Millis) -> Option<Duration> {
        let millis = match self.oldest {
            Some(oldest) => (now.0 - oldest.0).max(0),
            None if self.records == 0 => 0,
            None => return None,
        };
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or_default()))
    }
}

/// Looks at one group. Never joins it, commits nothing.
pub struct LagReader {
    /// Asks what is committed: by a reader of uncommitted records, who need not wait for a transaction to end.
    committed: Arc<BaseConsumer>,
    /// Asks where partitions end and reads what is next, as the stage would see it.
    reader: Arc<BaseConsumer>,
    places: Vec<Place>,
    /// Where the last look found nothing between the two offsets: it need not look again.
    empty: BTreeMap<Place, (i64, i64)>,
}

/// The partitions that a stage reads, as the map has them.
pub fn places(topology: &Topology, stage: &str) -> Result<Vec<Place>, MissingRole> {
    let reads = topology.stage(stage)?.reads.iter();
    let topics = reads.filter_map(|topic| topology.topics.get_key_value(&topic.value));
    Ok(topics
        .flat_map(|(name, topic)| {
            (0..topic.value.partitions.value).map(|partition| (name.clone(), partition))
        })
        .collect())
}

impl LagReader {
    /// Connects on first use.
    ///
    /// # Errors
    /// If the client cannot be made.
    pub fn new(kafka: &KafkaEndpoint, group: &str, places: Vec<Place>) -> Result<Self, KafkaError> {
        let mut config = kafka.consumer_config(group);
        config
            .set("enable.auto.offset.store", "false")
            // What a group never committed, or retention took, it is behind on from the first record that is there.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            // Nothing is subscribed here, so nothing refreshes what a broker said of leaders as it woke: it expires.
            .set("metadata.max.age.ms", "10000")
            // One record of each partition is wanted.
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.message.max.bytes", "65536");
        let committed = Arc::new(config.clone().set("isolation.level", "read_uncommitted").create()?);
        let reader = Arc::new(config.set("isolation.level", "read_committed").create()?);
        if let Some((topic, _)) = places.first() {
            keep_reaching(kafka, topic, &committed);
            keep_reaching(kafka, topic, &reader);
        }
        Ok(Self { committed, reader, places, empty: BTreeMap::new() })
    }

    /// How far the group is behind on each partition.
    ///
    /// # Errors
    /// If the brokers do not say.
    pub fn look(&mut self) -> Result<BTreeMap<Place, Lag>, KafkaError> {
        if self.places.is_empty() {
            return Ok(BTreeMap::new());
        }
        // Committed first: what is committed meanwhile makes the lag look larger, never smaller.
        let committed = offsets(&self.committed.committed_offsets(self.list(Offset::Invalid)?, CALL)?);
        let ends = offsets(&self.reader.offsets_for_times(self.list(Offset::End)?, CALL)?);
        let mut lags = BTreeMap::new();
        let mut behind: BTreeMap<&str, BTreeMap<i32, (i64, i64)>> = BTreeMap::new();
        for place in &self.places {
            let Some(end) = ends.get(place).copied() else { continue };
            let next = committed.get(place).copied().unwrap_or(0);
            if next >= end || self.empty.get(place) == Some(&(next, end)) {
                lags.insert(place.clone(), Lag::default());
            } else {
                behind.entry(&place.0).or_default().insert(place.1, (next, end));
            }
        }
        let mut empty = Vec::new();
        for (topic, behind) in behind {
            // The end of a partition is told without the name of its topic: so one topic at a time.
            let heads = self.heads(topic, &behind)?;
            for (partition, (next, end)) in behind {
                let place = (topic.to_owned(), partition);
                let lag = match heads.get(&partition) {
                    Some(Head::Record(offset, logged_at)) => {
                        Lag { records: (end - offset).max(1), oldest: Some(*logged_at) }
                    }
                    Some(Head::None) => {
                        empty.push((place.clone(), (next, end)));
                        Lag::default()
                    }
                    None => Lag { records: end - next, oldest: None },
                };
                lags.insert(place, lag);
            }
        }
        self.empty.extend(empty);
        Ok(lags)
    }

    /// The next record of each of these partitions of a topic; those that are not told in time are absent.
    fn heads(
        &self,
        topic: &str,
        behind: &BTreeMap<i32, (i64, i64)>,
    ) -> Result<BTreeMap<i32, Head>, KafkaError> {
        let mut from = TopicPartitionList::new();
        for (partition, (next, _)) in behind {
            from.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        self.reader.assign(&from)?;
        let deadline = Instant::now() + CALL;
        let mut open: BTreeSet<i32> = behind.keys().copied().collect();
        let mut heads = BTreeMap::new();
        while !open.is_empty() && Instant::now() < deadline {
            let (partition, head) = match self.reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let logged_at = Millis(message.timestamp().to_millis().unwrap_or_default());
                    (message.partition(), Head::Record(message.offset(), logged_at))
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => (partition, Head::None),
                // Of an outage that is over each broken connection has left one of these.
                Some(Err(_)) | None => continue,
            };
            if open.remove(&partition) {
                heads.insert(partition, head);
            }
        }
        self.reader.unassign()?;
        Ok(heads)
    }

    fn list(&self, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &self.places {
            list.add_partition_offset(topic, *partition, offset)?;
        }
        Ok(list)
    }
}

enum Head {
    Record(i64, Millis),
    None,
}

fn offsets(list: &TopicPartitionList) -> BTreeMap<Place, i64> {
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset()
    {
        Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
        _ => None,
    };
    list.elements().iter().filter_map(offset).collect()
}

/// Looks at a group until `stop` is asked, and tells what it sees as metrics of `stage`. In a thread of its own, so that
/// lag is told while the stage waits.
///
/// # Errors
/// If the thread cannot be started.
pub fn watch(
    kafka: KafkaEndpoint,
    stage: String,
    group: String,
    places: Vec<Place>,
    stop: Stop,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("{stage}-lag")).spawn(move || {
        let mut reader = match LagReader::new(&kafka, &group, places) {
            Ok(reader) => reader,
            Err(error) => return tracing::error!(stage, %error, "lag is not told"),
        };
        let mut seen = BTreeMap::new();
        loop {
            failpoint::edge("lag::look");
            match reader.look() {
                Ok(lags) => {
                    seen = lags;
                    gauge!(LAG_SEEN, "stage" => stage.clone()).set(since_epoch());
                }
                Err(error) => tracing::warn!(stage, %error, "lag was not seen"),
            }
            tell(&stage, &seen);
            if stop.wait(LOOK) {
                return;
            }
        }
    })
}

/// What the last look that succeeded saw waiting waits still, and is older now: a broker that is away stops no clock.
fn tell(stage: &str, seen: &BTreeMap<Place, Lag>) {
    let now = Millis((since_epoch() * 1000.0) as i64);
    for ((topic, partition), lag) in seen {
        let labels =
            [("stage", stage.to_owned()), ("topic", topic.clone()), ("partition", partition.to_string())];
        gauge!(LAG_RECORDS, &labels).set(lag.records as f64);
        if let Some(age) = lag.age(now) {
            gauge!(LAG_SECONDS, &labels).set(age.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_in_seconds_is_the_age_of_what_waits() {
        let waits = Lag { records: 3, oldest: Some(Millis(1_000)) };
        assert_eq!(waits.age(Millis(3_500)), Some(Duration::from_millis(2_500)));
        assert_eq!(waits.age(Millis(900)), Some(Duration::ZERO), "the broker's clock is ahead of ours");
        assert_eq!(Lag::default().age(Millis(3_500)), Some(Duration::ZERO), "nothing waits");
        assert_eq!(Lag { records: 3, oldest: None }.age(Millis(3_500)), None, "not told in time");
    }

    #[test]
    fn a_stage_reads_every_partition_of_its_topics() {
        let topology = Topology::embedded().unwrap();
        assert_eq!(places(&topology, "evaluator").unwrap().len(), 12);
        assert_eq!(places(&topology, "log-sink").unwrap().len(), 4 * 12 + 3);
        assert!(places(&topology, "nobody").is_err());
    }
}
