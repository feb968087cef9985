//! Latency from the publication of an event to its alert or row, observed from outside by a consumer or by queries.

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
use crate::kafka::Kafka;
use crate::stage_latency::{Origin, StageLatencies, VerdictTable};
use crate::store::Store;

/// Interval of the queries; the resolution of row latencies.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Seconds of warm-up. Events published in them are not counted: connections and caches are being set up, and the backlog
/// of the start drains, which takes some seconds on nearly busy cores.
pub const WARM_UP_SECONDS: u64 = 10;

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// Number of observations.
    pub count: usize,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
}

impl Percentiles {
    /// Computes percentiles of latencies in microseconds.
    pub(crate) fn of(micros: Vec<i64>) -> Self {
        Self::of_units(micros, 1e3)
    }

    /// Computes percentiles of latencies in nanoseconds.
    pub(crate) fn of_nanos(nanos: Vec<i64>) -> Self {
        Self::of_units(nanos, 1e6)
    }

    fn of_units(mut units: Vec<i64>, per_ms: f64) -> Self {
        units.sort_unstable();
        let at = |share: f64| {
            // Nearest rank.
            let rank = (share * units.len() as f64).ceil() as usize;
            units.get(rank.saturating_sub(1)).map_or(f64::NAN, |units| *units as f64 / per_ms)
        };
        Self { count: units.len(), p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
    }
}

/// Latency from publication to the observed result.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// To the alert at its reader; for the baseline, to the last copy.
    Alert(Alerts),
    /// To the action's row as a query finds it, with a resolution of 25 ms.
    Row(Percentiles),
}

/// Latencies of alerts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Alerts {
    /// From publication to the reader.
    #[serde(flatten)]
    pub latencies: Percentiles,
    /// Latencies by stage; `None` for the baseline, whose copies do not carry them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<StageLatencies>,
}

/// Observed result of a pipeline run. Only one kind at a time, since the observation costs time too, rows above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedResult {
    /// Nothing, for throughput runs.
    Nothing,
    /// Arrival of alerts.
    Alerts,
    /// Visibility of rows.
    Rows,
}

/// Content of a record that the probe needs.
struct RecordContent {
    /// Time of publication, in microseconds since 1970.
    published: i64,
    /// The alert's action.
    origin: Option<Origin>,
}

/// Observed record of a topic; times in microseconds since 1970.
pub(crate) struct ObservedRecord {
    /// Publication of the event behind it.
    pub published: i64,
    /// Production of the record, with millisecond resolution.
    pub produced: i64,
    /// Arrival at the reader.
    pub seen: i64,
    /// The alert's action.
    pub origin: Option<Origin>,
}

type ObserverThread = JoinHandle<Result<Vec<ObservedRecord>, BenchError>>;

/// Observes the latencies of a run.
pub(crate) struct LatencyProbe {
    stop: Arc<AtomicBool>,
    observation: Observation,
}

enum Observation {
    /// With the table of its verdicts, if the run has one.
    Topic(ObserverThread, Option<Box<VerdictTable>>),
    Rows(Box<Rows>),
}

struct Rows {
    store: Store,
    table: String,
    /// First offset of the run, by topic-partition.
    from: BTreeMap<String, i64>,
    samples: JoinHandle<Result<Vec<TailSample>, BenchError>>,
}

/// Last offsets of the table at a moment.
struct TailSample {
    at: i64,
    last: BTreeMap<String, i64>,
}

impl LatencyProbe {
    /// Observes alerts. Their verdicts are in `verdicts` once the run is over.
    pub(crate) fn alerts(
        kafka: &Kafka,
        endpoint: &KafkaEndpoint,
        alerts: &str,
        verdicts: VerdictTable,
    ) -> Result<Self, BenchError> {
        Self::topic(kafka, endpoint, alerts, Some(verdicts), |message, _| {
            let (id, datum) = wire::split(message).ok()?;
            let schema = subject::ALERT.schema().ok()?;
            let alert: Alert<'_> = schema.decode(id, datum).ok()?;
            let origin = Origin { partition: alert.origin.partition, offset: alert.origin.offset };
            Some(RecordContent { published: alert.occurred_at.0, origin: Some(origin) })
        })
    }

    /// Observes the baseline's last topic, whose records carry the timestamps of the events.
    pub(crate) fn baseline(kafka: &Kafka, endpoint: &KafkaEndpoint, topic: &str) -> Result<Self, BenchError> {
        let content_of = |_: &[u8], published| Some(RecordContent { published, origin: None });
        Self::topic(kafka, endpoint, topic, None, content_of)
    }

    fn topic(
        kafka: &Kafka,
        endpoint: &KafkaEndpoint,
        topic: &str,
        verdicts: Option<VerdictTable>,
        content_of: fn(&[u8], i64) -> Option<RecordContent>,
    ) -> Result<Self, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let observation = Observation::Topic(
            observe_topic(kafka, endpoint, topic, &stop, content_of)?,
            verdicts.map(Box::new),
        );
        Ok(Self { stop, observation })
    }

    /// Observes the pipeline's table of actions.
    pub(crate) fn rows(store: &Store, table: &str) -> Result<Self, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let from = read_tails(store, table)?;
        let samples = {
            let (stop, store, table) = (Arc::clone(&stop), store.clone(), table.to_owned());
            std::thread::spawn(move || {
                let mut samples = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let last = read_tails(&store, &table)?;
                    samples.push(TailSample { at: now(), last });
                    std::thread::sleep(POLL_INTERVAL);
                }
                Ok(samples)
            })
        };
        let observation = Observation::Rows(Box::new(Rows {
            store: store.clone(),
            table: table.to_owned(),
            from,
            samples,
        }));
        Ok(Self { stop, observation })
    }

    /// Stops observing and returns the latencies.
    pub(crate) fn stop(self) -> Result<Latency, BenchError> {
        self.stop.store(true, Ordering::Release);
        match self.observation {
            Observation::Topic(thread, verdicts) => {
                let mut seen = join(thread)?;
                let warm_up_end = warm_up_end(seen.iter().map(|record| record.published));
                seen.retain(|record| record.published >= warm_up_end);
                let latencies =
                    Percentiles::of(seen.iter().map(|record| record.seen - record.published).collect());
                let stages = verdicts.map(|verdicts| verdicts.stage_latencies(&seen)).transpose()?;
                Ok(Latency::Alert(Alerts { latencies, stages }))
            }
            Observation::Rows(rows) => rows.latencies().map(Latency::Row),
        }
    }
}

impl Rows {
    fn latencies(self) -> Result<Percentiles, BenchError> {
        let samples = join(self.samples)?;
        let mut latencies = Vec::new();
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
        let warm_up_end = warm_up_end(published.values().flatten().map(|(_, micros)| *micros));
        for (at, rows) in published {
            let mut samples = samples.iter().peekable();
            for (offset, micros) in rows {
                let there = |sample: &TailSample| sample.last.get(&at).is_some_and(|last| *last >= offset);
                while samples.peek().is_some_and(|sample| !there(sample)) {
                    samples.next();
                }
                if let Some(sample) = samples.peek()
                    && micros >= warm_up_end
                {
                    latencies.push(sample.at - micros);
                }
            }
        }
        Ok(Percentiles::of(latencies))
    }
}

/// Returns the end of the warm-up.
fn warm_up_end(published: impl Iterator<Item = i64>) -> i64 {
    published.min().unwrap_or_default() + WARM_UP_SECONDS as i64 * 1_000_000
}

fn join<T>(thread: JoinHandle<Result<T, BenchError>>) -> Result<T, BenchError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads the last offset of each topic-partition of a table, which a projection answers.
fn read_tails(store: &Store, table: &str) -> Result<BTreeMap<String, i64>, BenchError> {
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

/// Reads new records of a topic and records their arrival times.
fn observe_topic(
    kafka: &Kafka,
    endpoint: &KafkaEndpoint,
    topic: &str,
    stop: &Arc<AtomicBool>,
    content_of: fn(&[u8], i64) -> Option<RecordContent>,
) -> Result<ObserverThread, BenchError> {
    let reader: BaseConsumer = endpoint
        .consumer_config("agentgov-bench")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .create()
        .map_err(BenchError::kafka("creating a consumer"))?;
    let mut list = TopicPartitionList::new();
    for ((topic, partition), end) in kafka.end_offsets(topic)? {
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
                    let content = content_of(message.payload().unwrap_or_default(), produced);
                    if let Some(RecordContent { published, origin }) = content {
                        seen.push(ObservedRecord { published, produced, seen: now(), origin });
                    }
                }
                Some(Err(error)) => return Err(BenchError::kafka("observing a topic")(error)),
                None => {}
            }
        }
        Ok(seen)
    }))
}

/// Returns the current time in microseconds since 1970.
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
