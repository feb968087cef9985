//! State and lag of the stages' consumer groups.

use std::collections::BTreeMap;
use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_schemas::Millis;
use agentgov_schemas::topology::Topology;
use agentgov_service::lag::{Lag, LagReader, TopicPartition, input_partitions};
use rdkafka::consumer::Consumer as _;
use serde::Serialize;

use crate::Answer;
use crate::parts::client;

/// Timeout of a request to the brokers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// Consumer group of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// State of the group.
    pub state: GroupState,
    /// Number of members; each is a process of the stage.
    pub members: usize,
    /// Number of partitions that a member owns.
    pub held: usize,
    /// Number of partitions of the stage's topics.
    pub partitions: usize,
    /// Lag by topic.
    pub lag: Vec<TopicLag>,
    /// Partitions in which an open transaction holds records back.
    pub held_back: Vec<HeldBack>,
}

/// State of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// The group has assigned its partitions.
    Stable,
    /// The group assigns its partitions.
    Rebalancing,
    /// The group has no members.
    Empty,
}

/// Lag of a group on a topic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopicLag {
    /// The topic.
    pub topic: String,
    /// Number of uncommitted records in all partitions, including transaction markers between them.
    pub records: i64,
    /// Age of the oldest uncommitted record in seconds; 0 if there is none, `None` if it is unknown.
    pub oldest_seconds: Option<f64>,
}

/// Partition in which an open transaction holds records back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldBack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// First offset of the transaction.
    pub offset: i64,
    /// Number of offsets from `offset` to the end of the partition, including those of the transaction.
    pub records: i64,
    /// Start of the transaction, in milliseconds since the epoch.
    pub since: i64,
    /// Age of the transaction in seconds.
    pub seconds: f64,
    /// Description for people.
    #[serde(skip)]
    pub description: String,
}

impl Group {
    /// Returns the number of uncommitted records of all topics.
    pub fn records(&self) -> i64 {
        self.lag.iter().map(|lag| lag.records).sum()
    }

    /// Returns the age of the oldest uncommitted record, in seconds.
    pub fn oldest_seconds(&self) -> Option<f64> {
        self.lag.iter().filter_map(|lag| lag.oldest_seconds).reduce(f64::max)
    }
}

/// Reads the state of every stage's group, in parallel.
pub(crate) fn groups(
    endpoints: &Endpoints,
    topology: &Topology,
    now: Millis,
) -> BTreeMap<String, Answer<Group>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = topology
            .stages
            .keys()
            .map(|name| (name, scope.spawn(move || group(endpoints, topology, name, now))))
            .collect();
        let panicked = || Err("reading it panicked".to_owned());
        threads
            .into_iter()
            .map(|(name, group)| (name.clone(), group.join().unwrap_or_else(|_| panicked()).into()))
            .collect()
    })
}

fn group(endpoints: &Endpoints, topology: &Topology, stage: &str, now: Millis) -> Result<Group, String> {
    let name = &topology.stage(stage).map_err(|e| e.to_string())?.group.value;
    let mut places = input_partitions(topology, stage).map_err(|e| e.to_string())?;
    let client = client(endpoints).map_err(|e| e.to_string())?;
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| e.to_string())?;
    let there = |topic: &str, partition: i32| {
        let topic = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        topic.is_some_and(|topic| topic.partitions().iter().any(|p| p.id() == partition))
    };
    // The comparison with the topology reports missing topics.
    places.retain(|(topic, partition)| there(topic, *partition));
    let list = client.fetch_group_list(Some(name), REQUEST_TIMEOUT).map_err(|e| e.to_string())?;
    let info = list.groups().iter().find(|group| group.name() == name);
    // The brokers list every group that has members.
    let members = info.map(|info| info.members()).unwrap_or_default();
    let state = match info.map(|info| info.state()).unwrap_or_default() {
        "Stable" => GroupState::Stable,
        "Empty" | "Dead" | "" => GroupState::Empty,
        _ => GroupState::Rebalancing,
    };
    let held = members.iter().filter_map(|member| count_assigned(member.assignment()?)).sum();
    let lags = LagReader::new(&endpoints.kafka, name, places.clone())
        .and_then(|mut reader| reader.read_until_decided());
    let lags = lags.map_err(|e| format!("reading its lag: {e}"))?;
    let (lag, held_back) = (by_topic(&lags, now), held_back(&lags));
    Ok(Group { state, members: members.len(), held, partitions: places.len(), lag, held_back })
}

fn by_topic(lags: &BTreeMap<TopicPartition, Lag>, now: Millis) -> Vec<TopicLag> {
    let mut topics: Vec<TopicLag> = Vec::new();
    for ((topic, _), lag) in lags {
        let age = lag.age(now).map(|age| age.as_secs_f64());
        match topics.last_mut().filter(|last| last.topic == *topic) {
            Some(last) => {
                last.records += lag.records;
                last.oldest_seconds = last.oldest_seconds.zip(age).map(|(last, age)| last.max(age));
            }
            None => topics.push(TopicLag { topic: topic.clone(), records: lag.records, oldest_seconds: age }),
        }
    }
    topics
}

fn held_back(lags: &BTreeMap<TopicPartition, Lag>) -> Vec<HeldBack> {
    let now = crate::collect::now();
    let lasting = lags.iter().filter_map(|(place, lag)| {
        let open = lag.open.filter(|open| open.is_long_running(now))?;
        Some(HeldBack {
            topic: place.0.clone(),
            partition: place.1,
            offset: open.offset,
            records: open.records,
            since: open.since.0,
            seconds: open.age(now).as_secs_f64(),
            description: open.describe(place),
        })
    });
    lasting.collect()
}

/// Returns the number of partitions in an assignment of Kafka's consumer protocol: a version (2 bytes), then topics. Topics are a
/// count (4 bytes), and for each a name (its length as 2 bytes, and its bytes) and partitions (a count of 4 bytes, and 4 bytes
/// each). `None` if `bytes` is not an assignment.
fn count_assigned(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.get(2..)?;
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(taken)
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |number, byte| (number << 8) | usize::from(*byte));
    let mut partitions = 0;
    for _ in 0..number(take(4)?) {
        let name = number(take(2)?);
        take(name)?;
        let count = number(take(4)?);
        take(count.checked_mul(4)?)?;
        partitions += count;
    }
    Some(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignment_is_counted_and_other_bytes_are_rejected() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (name, partitions) in [("a", 2_u8), ("bc", 3)] {
            bytes.extend([0, name.len() as u8]);
            bytes.extend(name.as_bytes());
            bytes.extend([0, 0, 0, partitions]);
            bytes.extend((0..partitions).flat_map(|p| [0, 0, 0, p]));
        }
        assert_eq!(count_assigned(&bytes), Some(5));
        assert_eq!(count_assigned(&[0, 1, 0, 0, 0, 0]), Some(0));
        for cut in 0..bytes.len() {
            assert_eq!(count_assigned(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(count_assigned(&[0, 1, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn topic_has_the_largest_age_of_its_partitions() {
        let place = |topic: &str, partition| (topic.to_owned(), partition);
        let lags = BTreeMap::from([
            (place("a", 0), Lag { records: 2, oldest: Some(Millis(9_000)), open: None }),
            (place("a", 1), Lag { records: 3, oldest: Some(Millis(4_000)), open: None }),
            (place("b", 0), Lag::default()),
            (place("c", 0), Lag { records: 1, ..Lag::default() }),
        ]);
        let topics = by_topic(&lags, Millis(10_000));
        let found: Vec<_> = topics.iter().map(|t| (t.topic.as_str(), t.records, t.oldest_seconds)).collect();
        assert_eq!(found, [("a", 5, Some(6.0)), ("b", 0, Some(0.0)), ("c", 1, None)]);
    }
}
