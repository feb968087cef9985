//! How long it takes from publishing an event to what comes of it: seen from outside, by a consumer and by queries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::alert::Alert;
use agentgov_schemas::{subject, wire};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::hops::{Hops, Judged, Origin};
use crate::kafka::Kafka;
use crate::store::Store;

/// How often the table is looked at: so exact are the latencies of rows.
const LOOK: Duration = Duration::from_millis(25);
/// How long a run warms up, in seconds: what is published in them is not counted. Connections and caches are made, and what has
/// waited meanwhile is worked off, which takes some seconds where cores are nearly busy.
pub const WARM_UP_SECONDS: u64 = 10;

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many were seen.
    pub count: usize,
    /// Half were at most this late.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
}

impl Percentiles {
    /// Of latencies in microseconds.
    pub(crate) fn of(mut micros: Vec<i64>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| {
            // Nearest rank.
            let rank = (share * micros.len() as f64).ceil() as usize;
            micros.get(rank.saturating_sub(1)).map_or(f64::NAN, |micros| *micros as f64 / 1e3)
        };
        Self { count: micros.len(), p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
    }
}

/// From publishing to what came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// To the alert, as its reader has it; in a floor to the last copy.
    Alert(Alerts),
    /// To the action's row, as a query finds it, to within 25 ms.
    Row(Percentiles),
}

/// How late alerts were.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Alerts {
    /// From publishing to the reader.
    #[serde(flatten)]
    pub late: Percentiles,
    /// Where the time went; a floor's copies do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops: Option<Hops>,
}

/// What is watched in a run of the pipeline. One thing at a time: looking costs what is looked at, rows above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Nothing: the run is about speed.
    Nothing,
    /// When alerts come.
    Alerts,
    /// When rows are there.
    Rows,
}

/// What is said of a record by itself.
struct Told {
    /// When it was published, in microseconds since 1970.
    published: i64,
    /// The action that an alert is about.
    origin: Option<Origin>,
}

/// A record of a watched topic; microseconds since 1970.
pub(crate) struct Seen {
    /// When the event was published that it is about.
    pub published: i64,
    /// When it was produced, to a millisecond.
    pub produced: i64,
    /// When the reader had it.
    pub seen: i64,
    /// The action that an alert is about.
    pub origin: Option<Origin>,
}

type Watching = JoinHandle<Result<Vec<Seen>, BenchError>>;

/// Watches a run.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    what: Looking,
}

enum Looking {
    /// And where its verdicts are, if it has any.
    Topic(Watching, Option<Box<Judged>>),
    Rows(Box<Rows>),
}

struct Rows {
    store: Store,
    table: String,
    /// The first offset of the run, by topic-partition.
    from: BTreeMap<String, i64>,
    looks: JoinHandle<Result<Vec<Look>, BenchError>>,
}

/// What the table held at a moment.
struct Look {
    at: i64,
    last: BTreeMap<String, i64>,
}

impl Watch {
    /// Of the pipeline's alerts, whose verdicts are in `judged` once the run is over.
    pub(crate) fn alerts(
        kafka: &Kafka,
        endpoint: &KafkaEndpoint,
        alerts: &str,
        judged: Judged,
    ) -> Result<Self, BenchError> {
        Self::topic(kafka, endpoint, alerts, Some(judged), |message, _| {
            let (id, datum) = wire::split(message).ok()?;
            let schema = subject::ALERT.schema().ok()?;
            let alert: Alert<'_> = schema.decode(id, datum).ok()?;
            let origin = Origin { partition: alert.origin.partition, offset: alert.origin.offset };
            Some(Told { published: alert.occurred_at.0, origin: Some(origin) })
        })
    }

    /// Of a floor: its last topic, whose records have the timestamps of the events.
    pub(crate) fn floor(kafka: &Kafka, endpoint: &KafkaEndpoint, topic: &str) -> Result<Self, BenchError> {
        let told = |_: &[u8], published| Some(Told { published, origin: None });
        Self::topic(kafka, endpoint, topic, None, told)
    }

    fn topic(
        kafka: &Kafka,
        endpoint: &KafkaEndpoint,
        topic: &str,
        judged: Option<Judged>,
        told: fn(&[u8], i64) -> Option<Told>,
    ) -> Result<Self, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let what = Looking::Topic(watch_topic(kafka, endpoint, topic, &stop, told)?, judged.map(Box::new));
        Ok(Self { stop, what })
    }

    /// Of the pipeline's table of actions.
    pub(crate) fn rows(store: &Store, table: &str) -> Result<Self, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let from = tails(store, table)?;
        let looks = {
            let (stop, store, table) = (Arc::clone(&stop), store.clone(), table.to_owned());
            std::thread::spawn(move || {
                let mut looks = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let last = tails(&store, &table)?;
                    looks.push(Look { at: now(), last });
                    std::thread::sleep(LOOK);
                }
                Ok(looks)
            })
        };
        let what =
            Looking::Rows(Box::new(Rows { store: store.clone(), table: table.to_owned(), from, looks }));
        Ok(Self { stop, what })
    }

    /// Ends it.
    pub(crate) fn end(self) -> Result<Latency, BenchError> {
        self.stop.store(true, Ordering::Release);
        match self.what {
            Looking::Topic(watching, judged) => {
                let mut seen = joined(watching)?;
                let warm = warm(seen.iter().map(|record| record.published));
                seen.retain(|record| record.published >= warm);
                let late =
                    Percentiles::of(seen.iter().map(|record| record.seen - record.published).collect());
                let hops = judged.map(|judged| judged.hops(&seen)).transpose()?;
                Ok(Latency::Alert(Alerts { late, hops }))
            }
            Looking::Rows(rows) => rows.latencies().map(Latency::Row),
        }
    }
}

impl Rows {
    fn latencies(self) -> Result<Percentiles, BenchError> {
        let looks = joined(self.looks)?;
        let mut late = Vec::new();
        let mut published: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        let rows = self.store.lines(format!(
            "SELECT topic_partition, offset, occurred_at_micros FROM {} ORDER BY topic_partition, offset",
            self.table
        ))?;
        for row in rows {
            let [at, offset, micros] = row.as_slice() else { continue };
            let (Ok(offset), Ok(micros)) = (offset.parse::<i64>(), micros.parse::<i64>()) else { continue };
            if offset > self.from.get(at).copied().unwrap_or(-1) {
                published.entry(at.clone()).or_default().push((offset, micros));
            }
        }
        let warm = warm(published.values().flatten().map(|(_, micros)| *micros));
        for (at, rows) in published {
            let mut looks = looks.iter().peekable();
            for (offset, micros) in rows {
                let there = |look: &Look| look.last.get(&at).is_some_and(|last| *last >= offset);
                while looks.peek().is_some_and(|look| !there(look)) {
                    looks.next();
                }
                if let Some(look) = looks.peek()
                    && micros >= warm
                {
                    late.push(look.at - micros);
                }
            }
        }
        Ok(Percentiles::of(late))
    }
}

/// From when on what was published is counted.
fn warm(published: impl Iterator<Item = i64>) -> i64 {
    published.min().unwrap_or_default() + WARM_UP_SECONDS as i64 * 1_000_000
}

fn joined<T>(thread: JoinHandle<Result<T, BenchError>>) -> Result<T, BenchError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The last offset of each topic-partition in a table; its projection answers.
fn tails(store: &Store, table: &str) -> Result<BTreeMap<String, i64>, BenchError> {
    let rows =
        store.lines(format!("SELECT topic_partition, max(offset) FROM {table} GROUP BY topic_partition"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let [at, last] = <[String; 2]>::try_from(row).ok()?;
            Some((at, last.parse().ok()?))
        })
        .collect())
}

/// Reads what comes to a topic, and notes when.
fn watch_topic(
    kafka: &Kafka,
    endpoint: &KafkaEndpoint,
    topic: &str,
    stop: &Arc<AtomicBool>,
    told: fn(&[u8], i64) -> Option<Told>,
) -> Result<Watching, BenchError> {
    let reader: BaseConsumer = endpoint
        .consumer_config("agentgov-bench")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .create()
        .map_err(BenchError::kafka("creating a consumer"))?;
    let mut list = TopicPartitionList::new();
    for ((topic, partition), end) in kafka.ends(topic)? {
        list.add_partition_offset(&topic, partition, Offset::Offset(end))
            .map_err(BenchError::kafka("reading"))?;
    }
    reader.assign(&list).map_err(BenchError::kafka("reading"))?;
    let stop = Arc::clone(stop);
    Ok(std::thread::spawn(move || {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Acquire) {
            match reader.poll(Duration::from_millis(20)) {
                Some(Ok(message)) => {
                    let produced = message.timestamp().to_millis().unwrap_or_default() * 1_000;
                    let told = told(message.payload().unwrap_or_default(), produced);
                    if let Some(Told { published, origin }) = told {
                        seen.push(Seen { published, produced, seen: now(), origin });
                    }
                }
                Some(Err(error)) => return Err(BenchError::kafka("watching")(error)),
                None => {}
            }
        }
        Ok(seen)
    }))
}

/// Microseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let Percentiles { count, p50_ms, p99_ms, p999_ms } = Percentiles::of((1..=1_000).rev().collect());
        assert_eq!((count, p50_ms, p99_ms, p999_ms), (1_000, 0.5, 0.99, 0.999));
        assert!(Percentiles::of(Vec::new()).p50_ms.is_nan());
    }
}
