//! Lag of a consumer group, measured from outside the group: the difference, for each partition, between the committed offset
//! and the records of the topic. It costs the stage nothing, and is correct in any state of the stage.
//!
//! Offsets alone are not enough. The last offset of a transactional topic is a transaction marker, and a group never commits an
//! offset after it. If a group seems to be behind, the reader therefore fetches the record that the group would read next. The age
//! of that record is the lag in seconds; without such a record there is no lag.
//!
//! An open transaction holds back all records after its first one from readers of committed records, so a group that waits there
//! has no lag. The last stable offset, where these readers end, is then lower than the high watermark. During a short transaction
//! of a processor this is so for a moment; the last stable offset of a long-running transaction does not move.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, spawn_reconnect_watchdog};
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::{Millis, NotReadyReason};
use chrono::{DateTime, SecondsFormat};
use metrics::gauge;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::metrics::{HELD_BACK, LAG_RECORDS, LAG_SECONDS, LAG_UPDATED, since_epoch};
use crate::{Health, ShutdownSignal, failpoint, logged_at};

/// Interval of the lag readings of a process.
const READ_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of one request to the brokers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum bytes of one fetch of a partition, if only the next record is needed.
const HEAD_FETCH_BYTES: &str = "65536";
/// Maximum bytes of one fetch of a partition in a long search.
const SEARCH_FETCH_BYTES: &str = "1048576";

/// Age from which an open transaction counts as long-running and is reported.
const LONG_RUNNING: Duration = Duration::from_secs(5);
/// Minimum time for which an open transaction must be observed. Its age by the clocks alone is not enough, since clocks differ.
const MIN_OBSERVED: Duration = Duration::from_secs(1);
/// Pause between two readings, if one reading does not decide.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Topic and partition.
pub type TopicPartition = (String, i32);

/// Lag of a group on a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Number of offsets from the next record to the end of the partition, including transaction markers; 0 if there is no
    /// record. An upper bound if `oldest` is `None`.
    pub records: i64,
    /// Append time of the next record. `None` if there is no record, or the brokers did not return it in time.
    pub oldest: Option<Millis>,
    /// Open transaction that holds records back, if there is one.
    pub open: Option<OpenTransaction>,
}

/// Open transaction, which holds back the records after its first one in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Last stable offset, which is the offset of the transaction's first record.
    pub offset: i64,
    /// Number of offsets from there to the end of the partition, including those of the transaction.
    pub records: i64,
    /// Append time of the first record by the broker's clock; if it is unknown, time of the first observation.
    pub since: Millis,
    /// Time for which the transaction has been observed.
    pub observed: Duration,
}

impl OpenTransaction {
    /// Returns true if the transaction is long-running.
    pub fn is_long_running(&self, now: Millis) -> bool {
        self.observed >= LONG_RUNNING || (self.observed >= MIN_OBSERVED && self.age(now) >= LONG_RUNNING)
    }

    /// Returns the age of the transaction at `now`.
    pub fn age(&self, now: Millis) -> Duration {
        since(self.since, now).max(self.observed)
    }

    /// Describes which partition is held back, and since when.
    pub fn describe(&self, (topic, partition): &TopicPartition) -> String {
        let since = DateTime::from_timestamp_millis(self.since.0).map_or_else(
            || format!("millisecond {} of the epoch", self.since.0),
            |since| since.to_rfc3339_opts(SecondsFormat::Secs, true),
        );
        format!(
            "{topic}/{partition} has waited since {since} for the transaction that is open at offset {}",
            self.offset
        )
    }
}

impl Lag {
    /// Returns the age of the next record at `now`; 0 if there is no record, `None` if it is unknown.
    pub fn age(&self, now: Millis) -> Option<Duration> {
        match self.oldest {
            Some(oldest) => Some(since(oldest, now)),
            None if self.records == 0 => Some(Duration::ZERO),
            None => None,
        }
    }
}

/// Reader of a group's lag. It never joins the group and commits nothing.
pub struct LagReader {
    /// Client that reads committed offsets and high watermarks. It reads uncommitted records, so an open transaction does not hold
    /// it back.
    uncommitted: Arc<BaseConsumer>,
    /// Client that reads last stable offsets and the next records, as the stage would see them.
    reader: Arc<BaseConsumer>,
    places: Vec<TopicPartition>,
    /// Open transactions of earlier readings.
    open: BTreeMap<TopicPartition, ObservedTransaction>,
    /// Ranges in which earlier readings found no record, so that they are not searched again.
    empty: EmptyRanges,
    /// Search for next records that one reading does not reach.
    search: Option<NextRecordSearch>,
    config: ClientConfig,
}

/// Search for the next record of some partitions of a topic that continues over several readings, since reading the records of a
/// long aborted transaction may take minutes. It has a client of its own, which also fetches between the readings.
struct NextRecordSearch {
    topic: String,
    reader: BaseConsumer,
    /// Range of each undecided partition, from the start of the search to the end of the partition at that time.
    pending: BTreeMap<i32, Range<i64>>,
}

impl NextRecordSearch {
    fn begin(
        config: &ClientConfig,
        topic: &str,
        pending: BTreeMap<i32, Range<i64>>,
    ) -> Result<Self, KafkaError> {
        let reader: BaseConsumer =
            config.clone().set("fetch.message.max.bytes", SEARCH_FETCH_BYTES).create()?;
        let mut list = TopicPartitionList::new();
        for (partition, range) in &pending {
            list.add_partition_offset(topic, *partition, Offset::Offset(range.start))?;
        }
        reader.assign(&list)?;
        Ok(Self { topic: topic.to_owned(), reader, pending })
    }

    /// Polls the client for a short time. Returns the ranges that it found to be empty.
    fn poll(&mut self) -> Vec<(TopicPartition, Range<i64>)> {
        let mut clear = Vec::new();
        let deadline = Instant::now() + RECHECK_INTERVAL;
        while !self.pending.is_empty() && Instant::now() < deadline {
            let (partition, record) = match self.reader.poll(Duration::ZERO) {
                Some(Ok(message)) => (message.partition(), Some(message.offset())),
                Some(Err(KafkaError::PartitionEOF(partition))) => (partition, None),
                Some(Err(_)) => continue,
                None => break,
            };
            if let Some(Range { start, end }) = self.pending.remove(&partition) {
                // The partition may have grown, but everything up to its end at the start of the search is empty.
                clear.push(((self.topic.clone(), partition), start..record.unwrap_or(end)));
            }
        }
        clear
    }

    fn includes(&self, topic: &str, partition: i32) -> bool {
        self.topic == topic && self.pending.contains_key(&partition)
    }
}

/// Ranges of offsets without a record, one for each partition.
#[derive(Debug, Default)]
struct EmptyRanges(BTreeMap<TopicPartition, Range<i64>>);

impl EmptyRanges {
    /// Adds a range without a record. It extends the known range of the partition if that ends at its start.
    fn add(&mut self, place: TopicPartition, range: Range<i64>) {
        let before = self.0.get(&place).filter(|before| before.end == range.start);
        let start = before.map_or(range.start, |before| before.start);
        self.0.insert(place, start..range.end);
    }

    /// Returns the first offset that may have a record, for a group that has committed `next`.
    fn first_unknown(&self, place: &TopicPartition, next: i64) -> i64 {
        self.0.get(place).filter(|clear| clear.contains(&next)).map_or(next, |clear| clear.end)
    }

    /// Removes the ranges of partitions that end before their range: their topic was recreated.
    fn remove_recreated(&mut self, ends: &BTreeMap<TopicPartition, i64>) {
        self.0.retain(|place, clear| ends.get(place).is_none_or(|end| clear.end <= *end));
    }
}

/// Open transaction of earlier readings.
struct ObservedTransaction {
    offset: i64,
    first_observed: Instant,
    /// Append time of the first record; `None` if it has not been read.
    since: Option<Millis>,
}

/// Returns the partitions that a stage reads, from the topology.
pub fn input_partitions(topology: &Topology, stage: &str) -> Result<Vec<TopicPartition>, MissingRole> {
    let reads = topology.stage(stage)?.reads.iter();
    let topics = reads.filter_map(|topic| topology.topics.get_key_value(&topic.value));
    Ok(topics
        .flat_map(|(name, topic)| {
            (0..topic.value.partitions.value).map(|partition| (name.clone(), partition))
        })
        .collect())
}

impl LagReader {
    /// Creates a reader, which connects on first use.
    ///
    /// # Errors
    /// If a client cannot be created.
    pub fn new(kafka: &KafkaEndpoint, group: &str, places: Vec<TopicPartition>) -> Result<Self, KafkaError> {
        let mut config = kafka.consumer_config(group);
        config
            .set("enable.auto.offset.store", "false")
            // Without a valid committed offset, a group is behind from the first record of the partition.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            // Without a subscription librdkafka does not refresh leaders, so wrong ones of a broker that has just resumed must expire.
            .set("metadata.max.age.ms", "10000")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.message.max.bytes", HEAD_FETCH_BYTES);
        let uncommitted = Arc::new(config.clone().set("isolation.level", "read_uncommitted").create()?);
        config.set("isolation.level", "read_committed");
        let reader = Arc::new(config.create()?);
        if let Some((topic, _)) = places.first() {
            spawn_reconnect_watchdog(kafka, topic, &uncommitted);
            spawn_reconnect_watchdog(kafka, topic, &reader);
        }
        Ok(Self {
            uncommitted,
            reader,
            places,
            open: BTreeMap::new(),
            empty: EmptyRanges::default(),
            search: None,
            config,
        })
    }

    /// Returns the lag of each partition. If there are open transactions, it repeats the reading for a few seconds, until it is
    /// decided whether each is long-running.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn read_until_decided(&mut self) -> Result<BTreeMap<TopicPartition, Lag>, KafkaError> {
        let mut lags = self.read()?;
        let offset = |lag: &Lag| lag.open.map(|open| open.offset);
        let first: BTreeMap<TopicPartition, Option<i64>> =
            lags.iter().map(|(place, lag)| (place.clone(), offset(lag))).collect();
        // Transactions that begin during the readings are left to the next call.
        let undecided = |lags: &BTreeMap<TopicPartition, Lag>| {
            let now = Millis((since_epoch() * 1000.0) as i64);
            lags.iter().any(|(place, lag)| {
                lag.open.is_some_and(|open| {
                    first.get(place) == Some(&Some(open.offset)) && !open.is_long_running(now)
                })
            })
        };
        let deadline = Instant::now() + LONG_RUNNING + RECHECK_INTERVAL;
        while undecided(&lags) && Instant::now() < deadline {
            std::thread::sleep(RECHECK_INTERVAL);
            lags = self.read()?;
        }
        Ok(lags)
    }

    /// Returns the lag of each partition.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn read(&mut self) -> Result<BTreeMap<TopicPartition, Lag>, KafkaError> {
        if self.places.is_empty() {
            return Ok(BTreeMap::new());
        }
        // Committed offsets first: a commit between the requests makes the lag larger, never smaller.
        let committed =
            offsets(&self.uncommitted.committed_offsets(self.list(Offset::Invalid)?, REQUEST_TIMEOUT)?);
        // High watermarks before last stable offsets, which only grow: a last stable offset below the watermark proves an open
        // transaction.
        let watermarks =
            offsets(&self.uncommitted.offsets_for_times(self.list(Offset::End)?, REQUEST_TIMEOUT)?);
        let ends = offsets(&self.reader.offsets_for_times(self.list(Offset::End)?, REQUEST_TIMEOUT)?);
        // A group without a committed offset starts at 0.
        let next = |place: &TopicPartition| committed.get(place).copied().unwrap_or(0);
        if let Some(search) = &mut self.search {
            for (place, range) in search.poll() {
                self.empty.add(place, range);
            }
        }
        self.empty.remove_recreated(&ends);
        if let Some(search) = &mut self.search {
            // A partition whose group has passed the range, or was reset, leaves the search.
            let (topic, empty) = (&search.topic, &self.empty);
            search.pending.retain(|partition, range| {
                let place = (topic.clone(), *partition);
                range.contains(&empty.first_unknown(&place, next(&place)))
            });
        }
        self.search.take_if(|search| search.pending.is_empty());
        let mut lags = BTreeMap::new();
        let mut behind: BTreeMap<&str, BTreeMap<i32, (i64, i64)>> = BTreeMap::new();
        for place in &self.places {
            let Some(end) = ends.get(place).copied() else { continue };
            let from = self.empty.first_unknown(place, next(place));
            if from >= end {
                lags.insert(place.clone(), Lag::default());
            } else if self.search.as_ref().is_some_and(|search| search.includes(&place.0, place.1)) {
                lags.insert(place.clone(), Lag { records: end - from, ..Lag::default() });
            } else {
                behind.entry(&place.0).or_default().insert(place.1, (from, end));
            }
        }
        let mut empty = Vec::new();
        for (topic, behind) in behind {
            // The event for the end of a partition does not name the topic, so topics are read one at a time.
            let heads = heads(&self.reader, topic, &behind)?;
            let mut unknown = BTreeMap::new();
            for (partition, (from, end)) in behind {
                let place = (topic.to_owned(), partition);
                let lag = match heads.get(&partition) {
                    Some(Head::Record(offset, logged_at)) => {
                        Lag { records: (end - offset).max(1), oldest: *logged_at, open: None }
                    }
                    Some(Head::None) => {
                        empty.push((place.clone(), from..end));
                        Lag::default()
                    }
                    None => {
                        unknown.insert(partition, from..end);
                        Lag { records: end - from, oldest: None, open: None }
                    }
                };
                lags.insert(place, lag);
            }
            if !unknown.is_empty() && self.search.is_none() {
                self.search = Some(NextRecordSearch::begin(&self.config, topic, unknown)?);
            }
        }
        for (place, range) in empty {
            self.empty.add(place, range);
        }
        for (place, open) in self.update_open(&watermarks, &ends)? {
            if let Some(lag) = lags.get_mut(&place) {
                lag.open = Some(open);
            }
        }
        Ok(lags)
    }

    /// Returns the open transactions, and updates those of earlier readings.
    fn update_open(
        &mut self,
        watermarks: &BTreeMap<TopicPartition, i64>,
        ends: &BTreeMap<TopicPartition, i64>,
    ) -> Result<Vec<(TopicPartition, OpenTransaction)>, KafkaError> {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.open);
        let mut found = Vec::new();
        let mut without_time: BTreeMap<&str, BTreeMap<i32, (i64, i64)>> = BTreeMap::new();
        for (place, watermark) in watermarks {
            let Some(end) = ends.get(place).copied().filter(|end| end < watermark) else { continue };
            let seen = known.remove(place).filter(|seen| seen.offset == end);
            if seen.as_ref().is_some_and(|seen| seen.since.is_none()) {
                without_time.entry(&place.0).or_default().insert(place.1, (end, *watermark));
            }
            let seen = seen.unwrap_or(ObservedTransaction { offset: end, first_observed: now, since: None });
            self.open.insert(place.clone(), seen);
            found.push((place.clone(), end, *watermark));
        }
        // Reads the append time only of transactions that an earlier reading has observed: busy topics have a new one each time.
        for (topic, places) in without_time {
            let heads = heads(&self.uncommitted, topic, &places)?;
            for partition in places.keys() {
                let Some(seen) = self.open.get_mut(&(topic.to_owned(), *partition)) else { continue };
                if let Some(Head::Record(offset, logged_at)) = heads.get(partition)
                    && *offset == seen.offset
                {
                    seen.since = *logged_at;
                }
            }
        }
        let wall = since_epoch();
        let open = |(place, offset, watermark): (TopicPartition, i64, i64)| {
            let seen = self.open.get(&place)?;
            let lasted = now.saturating_duration_since(seen.first_observed);
            let since = seen.since.unwrap_or(Millis(((wall - lasted.as_secs_f64()) * 1000.0) as i64));
            Some((place, OpenTransaction { offset, records: watermark - offset, since, observed: lasted }))
        };
        Ok(found.into_iter().filter_map(open).collect())
    }

    fn list(&self, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &self.places {
            list.add_partition_offset(topic, *partition, offset)?;
        }
        Ok(list)
    }
}

/// Returns the next record of each of these partitions of a topic, as `reader` sees it. Partitions that the brokers do not return
/// in time are absent.
fn heads(
    reader: &BaseConsumer,
    topic: &str,
    from: &BTreeMap<i32, (i64, i64)>,
) -> Result<BTreeMap<i32, Head>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, (next, _)) in from {
        list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    reader.assign(&list)?;
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut open: BTreeSet<i32> = from.keys().copied().collect();
    let mut heads = BTreeMap::new();
    while !open.is_empty() && Instant::now() < deadline {
        let (partition, head) = match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => (message.partition(), Head::Record(message.offset(), logged_at(&message))),
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, Head::None),
            // Errors of broken connections may still be queued after an outage.
            Some(Err(_)) | None => continue,
        };
        if open.remove(&partition) {
            heads.insert(partition, head);
        }
    }
    reader.unassign()?;
    Ok(heads)
}

/// Returns the time from `then` to `now`; zero if `then` is later.
fn since(then: Millis, now: Millis) -> Duration {
    Duration::from_millis(now.0.saturating_sub(then.0).max(0).unsigned_abs())
}

/// Next record of a partition.
enum Head {
    /// Offset and append time, if the record has a timestamp.
    Record(i64, Option<Millis>),
    /// The partition has no further record.
    None,
}

fn offsets(list: &TopicPartitionList) -> BTreeMap<TopicPartition, i64> {
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset()
    {
        Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
        _ => None,
    };
    list.elements().iter().filter_map(offset).collect()
}

/// Starts a thread that reads the lag of a stage's group until `stop` is requested. It records the lag as metrics of the stage, and
/// sets a reason for not being ready while a long-running transaction holds a partition back.
///
/// # Errors
/// If the thread cannot be started.
pub fn spawn_monitor(
    kafka: KafkaEndpoint,
    health: Health,
    group: String,
    places: Vec<TopicPartition>,
    stop: ShutdownSignal,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let stage = health.snapshot().stage;
    std::thread::Builder::new().name(format!("{stage}-lag")).spawn(move || {
        let mut reader = match LagReader::new(&kafka, &group, places) {
            Ok(reader) => reader,
            Err(error) => {
                return tracing::error!(stage, %error, "cannot create the clients; lag is not measured");
            }
        };
        let mut seen = BTreeMap::new();
        loop {
            failpoint::edge("lag::read");
            match reader.read() {
                Ok(lags) => {
                    seen = lags;
                    gauge!(LAG_UPDATED, "stage" => stage.clone()).set(since_epoch());
                }
                Err(error) => tracing::warn!(stage, %error, "cannot read the lag; keeping the last reading"),
            }
            record_lag(&stage, &seen);
            report_held_back(&health, &seen);
            if stop.wait(READ_INTERVAL) {
                return;
            }
        }
    })
}

/// Records the metrics of the last successful reading. Ages grow while the brokers are unavailable.
fn record_lag(stage: &str, seen: &BTreeMap<TopicPartition, Lag>) {
    let now = Millis((since_epoch() * 1000.0) as i64);
    for ((topic, partition), lag) in seen {
        let labels =
            [("stage", stage.to_owned()), ("topic", topic.clone()), ("partition", partition.to_string())];
        gauge!(LAG_RECORDS, &labels).set(lag.records as f64);
        if let Some(age) = lag.age(now) {
            gauge!(LAG_SECONDS, &labels).set(age.as_secs_f64());
        }
        let held =
            lag.open.filter(|open| open.is_long_running(now)).map_or(Duration::ZERO, |open| open.age(now));
        gauge!(HELD_BACK, &labels).set(held.as_secs_f64());
    }
}

/// Sets or clears the reason for held-back partitions: the stage receives none of their records, so it is not ready.
fn report_held_back(health: &Health, seen: &BTreeMap<TopicPartition, Lag>) {
    let now = Millis((since_epoch() * 1000.0) as i64);
    let lasting = seen.iter().filter_map(|(place, lag)| {
        let open = lag.open.filter(|open| open.is_long_running(now))?;
        Some(open.describe(place))
    });
    let lasting: Vec<_> = lasting.collect();
    health.set_monitored(NotReadyReason::HeldBack, (!lasting.is_empty()).then(|| lasting.join("; ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_in_seconds_is_the_age_of_the_next_record() {
        let waits = Lag { records: 3, oldest: Some(Millis(1_000)), open: None };
        assert_eq!(waits.age(Millis(3_500)), Some(Duration::from_millis(2_500)));
        assert_eq!(waits.age(Millis(900)), Some(Duration::ZERO), "the broker's clock is ahead of ours");
        assert_eq!(Lag::default().age(Millis(3_500)), Some(Duration::ZERO), "no record waits");
        assert_eq!(
            Lag { records: 3, ..Lag::default() }.age(Millis(3_500)),
            None,
            "the next record is unknown"
        );
    }

    #[test]
    fn open_transaction_is_reported_once_it_is_long_running() {
        let open = |seen, since| OpenTransaction {
            offset: 7,
            records: 3,
            since: Millis(since),
            observed: Duration::from_millis(seen),
        };
        let now = Millis(100_000);
        let cases = [
            (open(0, 40_000), false, "old by the clocks, first observation: clocks differ"),
            (open(999, 40_000), false, "observed for less than a second"),
            (open(1_000, 40_000), true, "old, and still there"),
            (open(1_000, 95_001), false, "young"),
            (open(4_999, 200_000), false, "young, by a clock that is ahead"),
            (open(5_000, 200_000), true, "observed for long enough, whatever the clocks show"),
        ];
        for (open, is_long_running, why) in cases {
            assert_eq!(open.is_long_running(now), is_long_running, "{why}: {open:?}");
        }
        let place = ("agent.actions".to_owned(), 3);
        assert_eq!(
            open(0, 1_700_000_000_000).describe(&place),
            "agent.actions/3 has waited since 2023-11-14T22:13:20Z for the transaction that is open at offset 7"
        );
        assert_eq!(open(9_000, 200_000).age(now), Duration::from_secs(9));
    }

    #[test]
    fn stage_with_a_held_back_partition_is_not_ready() {
        let health = Health::new("alerter");
        health.clear(NotReadyReason::Starting);
        let place = ("agent.verdicts".to_owned(), 1);
        let open = OpenTransaction { offset: 7, records: 3, since: Millis(0), observed: LONG_RUNNING };
        let mut seen = BTreeMap::from([(place, Lag { open: Some(open), ..Lag::default() })]);
        report_held_back(&health, &seen);
        assert!(health.snapshot().not_ready[&NotReadyReason::HeldBack].contains("agent.verdicts/1"));
        seen.values_mut().for_each(|lag| {
            lag.open = Some(OpenTransaction { observed: Duration::ZERO, since: Millis(i64::MAX), ..open })
        });
        report_held_back(&health, &seen);
        assert!(health.snapshot().not_ready.is_empty(), "a short one");
    }

    #[test]
    fn empty_ranges_are_not_searched_again() {
        let place = ("a".to_owned(), 0);
        let mut clear = EmptyRanges::default();
        let at = |clear: &EmptyRanges, next| clear.first_unknown(&place, next);
        assert_eq!(at(&clear, 5), 5);
        clear.add(place.clone(), 5..40);
        clear.add(place.clone(), 40..90);
        let cases = [(5, 90), (50, 90), (89, 90), (90, 90), (4, 4), (120, 120)];
        for (next, from) in cases {
            assert_eq!(at(&clear, next), from, "committed {next}");
        }
        clear.remove_recreated(&BTreeMap::from([(place.clone(), 90)]));
        assert_eq!(at(&clear, 5), 90);
        clear.remove_recreated(&BTreeMap::from([(place.clone(), 89)]));
        assert_eq!(at(&clear, 5), 5, "the topic was recreated");
        clear.add(place.clone(), 5..40);
        clear.add(place.clone(), 60..90);
        assert_eq!((at(&clear, 5), at(&clear, 60)), (5, 90), "there may be records between the ranges");
    }

    #[test]
    fn search_continues_over_several_readings() {
        use rdkafka::mocking::MockCluster;
        use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
        let deadline = Duration::from_secs(60);
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 2, 1).unwrap();
        let mut config = ClientConfig::new();
        let producer: BaseProducer =
            config.set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        for _ in 0..30 {
            producer.send(BaseRecord::<(), str>::to("a").partition(0).payload("x")).unwrap();
        }
        producer.flush(deadline).unwrap();
        let place = ("a".to_owned(), 0);
        let kafka = KafkaEndpoint::at(cluster.bootstrap_servers());
        let mut reader = LagReader::new(&kafka, "sink", vec![place.clone()]).unwrap();
        // The state after a reading that reached offset 10 without finding a record.
        reader.empty.add(place.clone(), 0..10);
        reader.search =
            Some(NextRecordSearch::begin(&reader.config, "a", BTreeMap::from([(0, 10..30)])).unwrap());
        let (lags, began) = (reader.read().unwrap(), Instant::now());
        assert!(
            lags[&place] == Lag { records: 20, ..Lag::default() } || lags[&place].oldest.is_some(),
            "{lags:?}"
        );
        while reader.read().unwrap()[&place].oldest.is_none() {
            assert!(began.elapsed() < deadline);
        }
        assert_eq!(reader.read().unwrap()[&place].records, 20, "the search found the record at offset 10");
        assert!(reader.search.is_none(), "no partition is left to search");

        // The partition ended at 7 when the search began.
        let mut search = NextRecordSearch::begin(&reader.config, "a", BTreeMap::from([(1, 0..7)])).unwrap();
        let clear = loop {
            assert!(began.elapsed() < deadline);
            let clear = search.poll();
            if !clear.is_empty() {
                break clear;
            }
        };
        assert_eq!(clear, [(("a".to_owned(), 1), 0..7)]);
    }

    #[test]
    fn input_partitions_are_those_of_every_topic_that_the_stage_reads() {
        let topology = Topology::embedded().unwrap();
        assert_eq!(input_partitions(&topology, "evaluator").unwrap().len(), 12);
        assert_eq!(input_partitions(&topology, "log-sink").unwrap().len(), 5 * 12 + 4);
        assert!(input_partitions(&topology, "nobody").is_err());
    }
}
