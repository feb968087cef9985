//! How the stages' consumer groups are, and how far behind.

use std::collections::BTreeMap;
use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_schemas::Millis;
use agentgov_schemas::topology::Topology;
use agentgov_service::lag::{Lag, LagReader, TopicPartition, input_partitions};
use rdkafka::consumer::Consumer as _;
use serde::Serialize;

use crate::parts::client;

const WITHIN: Duration = Duration::from_secs(6);

/// A stage's consumer group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// How it is.
    pub state: GroupState,
    /// Its members: processes of the stage.
    pub members: usize,
    /// Partitions that a member owns.
    pub held: usize,
    /// Partitions that there are to own.
    pub partitions: usize,
    /// How far behind, by topic.
    pub lag: Vec<TopicLag>,
    /// Partitions that an open transaction holds back: no reader gets at what is behind it.
    pub held_back: Vec<HeldBack>,
}

/// How a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// It works.
    Stable,
    /// It is deciding who owns what.
    Rebalancing,
    /// It has no members.
    Empty,
}

/// How far a group is behind on a topic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopicLag {
    /// The topic.
    pub topic: String,
    /// Records not yet finished, all partitions together. Transaction markers between them count.
    pub records: i64,
    /// Age of the oldest of them in seconds; 0 if there are none, `None` if it is not known.
    pub oldest_seconds: Option<f64>,
}

/// A partition that an open transaction holds back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldBack {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where the transaction begins.
    pub offset: i64,
    /// Offsets from there to the end of the partition, the transaction's own among them.
    pub records: i64,
    /// When it began, in milliseconds since the epoch.
    pub since: i64,
    /// How long that is, in seconds.
    pub seconds: f64,
    /// All that in words.
    #[serde(skip)]
    pub description: String,
}

impl Group {
    /// Records not yet finished, all topics together.
    pub fn records(&self) -> i64 {
        self.lag.iter().map(|lag| lag.records).sum()
    }

    /// Age of the oldest record not yet finished, in seconds.
    pub fn oldest_seconds(&self) -> Option<f64> {
        self.lag.iter().filter_map(|lag| lag.oldest_seconds).reduce(f64::max)
    }
}

/// Asks for every stage's group at once.
pub(crate) fn groups(
    endpoints: &Endpoints,
    topology: &Topology,
    now: Millis,
) -> BTreeMap<String, Result<Group, String>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = topology
            .stages
            .keys()
            .map(|name| (name, scope.spawn(move || group(endpoints, topology, name, now))))
            .collect();
        let panicked = || Err("asking for it panicked".to_owned());
        asked
            .into_iter()
            .map(|(name, group)| (name.clone(), group.join().unwrap_or_else(|_| panicked())))
            .collect()
    })
}

fn group(endpoints: &Endpoints, topology: &Topology, stage: &str, now: Millis) -> Result<Group, String> {
    let name = &topology.stage(stage).map_err(|e| e.to_string())?.group.value;
    let mut places = input_partitions(topology, stage).map_err(|e| e.to_string())?;
    let client = client(endpoints)?;
    let metadata = client.fetch_metadata(None, WITHIN).map_err(|e| e.to_string())?;
    let there = |topic: &str, partition: i32| {
        let topic = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        topic.is_some_and(|topic| topic.partitions().iter().any(|p| p.id() == partition))
    };
    // Topics that are not there are the topology's to tell.
    places.retain(|(topic, partition)| there(topic, *partition));
    let list = client.fetch_group_list(Some(name), WITHIN).map_err(|e| e.to_string())?;
    let info = list.groups().iter().find(|group| group.name() == name);
    // A group that the brokers do not list has no members.
    let members = info.map(|info| info.members()).unwrap_or_default();
    let state = match info.map(|info| info.state()).unwrap_or_default() {
        "Stable" => GroupState::Stable,
        "Empty" | "Dead" | "" => GroupState::Empty,
        _ => GroupState::Rebalancing,
    };
    let held = members.iter().filter_map(|member| assigned(member.assignment()?)).sum();
    let lags = LagReader::new(&endpoints.kafka, name, places.clone())
        .and_then(|mut reader| reader.read_until_decided());
    let lags = lags.map_err(|e| format!("how far it is behind: {e}"))?;
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

/// How many partitions an assignment names. Kafka's consumer protocol: version (2 bytes), then topics: a count (4), and for
/// each its name (2 and so many bytes) and its partitions: a count (4) and 4 bytes each. `None`: it is none of these.
fn assigned(bytes: &[u8]) -> Option<usize> {
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
    fn an_assignment_is_counted_and_what_is_none_is_refused() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (name, partitions) in [("a", 2_u8), ("bc", 3)] {
            bytes.extend([0, name.len() as u8]);
            bytes.extend(name.as_bytes());
            bytes.extend([0, 0, 0, partitions]);
            bytes.extend((0..partitions).flat_map(|p| [0, 0, 0, p]));
        }
        assert_eq!(assigned(&bytes), Some(5));
        assert_eq!(assigned(&[0, 1, 0, 0, 0, 0]), Some(0));
        for cut in 0..bytes.len() {
            assert_eq!(assigned(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(assigned(&[0, 1, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_topic_is_as_far_behind_as_its_partition_that_is_most() {
        let place = |topic: &str, partition| (topic.to_owned(), partition);
        let lags = BTreeMap::from([
            (place("a", 0), Lag { records: 2, oldest: Some(Millis(9_000)), open: None }),
            (place("a", 1), Lag { records: 3, oldest: Some(Millis(4_000)), open: None }),
            (place("b", 0), Lag::default()),
            (place("c", 0), Lag { records: 1, ..Lag::default() }),
        ]);
        let topics = by_topic(&lags, Millis(10_000));
        let told: Vec<_> = topics.iter().map(|t| (t.topic.as_str(), t.records, t.oldest_seconds)).collect();
        assert_eq!(told, [("a", 5, Some(6.0)), ("b", 0, Some(0.0)), ("c", 1, None)]);
    }
}
