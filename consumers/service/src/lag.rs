//! How far a consumer group is behind, as an onlooker sees it: of each partition, what the group has committed against what
//! the topic holds. It costs the stage nothing, and it is right whether the stage works, waits, stands still or is gone.
//!
//! Offsets alone do not say it: of a transactional topic the last offset is a transaction's marker, which nobody commits
//! behind. So where a group seems to be behind, the record that it would read next is looked for. Its age is the lag in
//! seconds; where there is none, there is no lag.
//!
//! An open transaction holds back everything behind it: readers of committed records do not get past its first record, so a group
//! that waits there has no lag. The brokers tell it by two ends: the last stable offset, where those readers end, stays below the
//! high watermark. Each short transaction of a processor looks so for a moment; one that lasts does not move.

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

/// How often a process looks.
const LOOK: Duration = Duration::from_secs(5);
/// How long the brokers may take to answer one question.
const CALL: Duration = Duration::from_secs(5);

/// Bytes of one fetch of a partition: one record is wanted.
const FETCH: &str = "65536";
/// The same, of a search that goes far.
const FETCH_FAR: &str = "1048576";

/// An open transaction that holds a partition back for so long is worth a word.
const LASTS: Duration = Duration::from_secs(5);
/// By the clocks it may have lasted that long; so long it has been seen to last, as clocks differ.
const SEEN: Duration = Duration::from_secs(1);
/// Between two looks, where one look does not decide.
const AGAIN: Duration = Duration::from_millis(500);

/// A topic and one of its partitions.
pub type TopicPartition = (String, i32);

/// How far a group is behind on a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Offsets from the next record to the end of the partition. Transaction markers among them count; 0 if no record is
    /// there. Without `oldest`: at most so many.
    pub records: i64,
    /// When the broker appended the next record. `None`: there is none, or it was not told in time.
    pub oldest: Option<Millis>,
    /// An open transaction, if there is one.
    pub open: Option<OpenTransaction>,
}

/// An open transaction, which holds back what is behind it in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// The last stable offset: of its first record, where readers of committed records end.
    pub offset: i64,
    /// Offsets from there to the end of the partition, its own among them.
    pub records: i64,
    /// When its first record was appended, by the broker's clock; where that is not known, when it was first seen.
    pub since: Millis,
    /// How long it has been seen, so far.
    pub seen: Duration,
}

impl OpenTransaction {
    /// True if it has lasted for more than a moment.
    pub fn lasts(&self, now: Millis) -> bool {
        self.seen >= LASTS || (self.seen >= SEEN && self.age(now) >= LASTS)
    }

    /// How old it is at `now`.
    pub fn age(&self, now: Millis) -> Duration {
        since(self.since, now).max(self.seen)
    }

    /// Which partition waits, and since when.
    pub fn worded(&self, (topic, partition): &TopicPartition) -> String {
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
    /// How old the next record is at `now`; 0 if there is none, `None` if it is not known.
    pub fn age(&self, now: Millis) -> Option<Duration> {
        match self.oldest {
            Some(oldest) => Some(since(oldest, now)),
            None if self.records == 0 => Some(Duration::ZERO),
            None => None,
        }
    }
}

/// Looks at one group. Never joins it, commits nothing.
pub struct LagReader {
    /// Asks what is committed, and where partitions end with what is not: a reader of uncommitted records, who need not
    /// wait for a transaction to end.
    uncommitted: Arc<BaseConsumer>,
    /// Asks where partitions end and reads what is next, as the stage would see it.
    reader: Arc<BaseConsumer>,
    places: Vec<TopicPartition>,
    /// OpenTransaction transactions that earlier looks saw.
    open: BTreeMap<TopicPartition, Seen>,
    /// Where earlier looks found no record: they need not look again.
    clear: Clear,
    /// Looks further for the next records that one look does not reach.
    search: Option<Search>,
    config: ClientConfig,
}

/// Looks for the next record of some partitions of a topic for longer than a look lasts: what a long transaction has aborted may
/// take minutes to read. It has a client of its own, which reads between the looks too.
struct Search {
    topic: String,
    reader: BaseConsumer,
    /// Of each partition that is not decided: where the search began, and where the partition ended then.
    pending: BTreeMap<i32, Range<i64>>,
}

impl Search {
    fn begin(
        config: &ClientConfig,
        topic: &str,
        pending: BTreeMap<i32, Range<i64>>,
    ) -> Result<Self, KafkaError> {
        let reader: BaseConsumer = config.clone().set("fetch.message.max.bytes", FETCH_FAR).create()?;
        let mut list = TopicPartitionList::new();
        for (partition, range) in &pending {
            list.add_partition_offset(topic, *partition, Offset::Offset(range.start))?;
        }
        reader.assign(&list)?;
        Ok(Self { topic: topic.to_owned(), reader, pending })
    }

    /// Takes what the client has reached since the last call, for a moment at most: ranges without a record.
    fn reached(&mut self) -> Vec<(TopicPartition, Range<i64>)> {
        let mut clear = Vec::new();
        let deadline = Instant::now() + AGAIN;
        while !self.pending.is_empty() && Instant::now() < deadline {
            let (partition, record) = match self.reader.poll(Duration::ZERO) {
                Some(Ok(message)) => (message.partition(), Some(message.offset())),
                Some(Err(KafkaError::PartitionEOF(partition))) => (partition, None),
                Some(Err(_)) => continue,
                None => break,
            };
            if let Some(Range { start, end }) = self.pending.remove(&partition) {
                // The partition may have grown since: its end is at least where it was when the search began.
                clear.push(((self.topic.clone(), partition), start..record.unwrap_or(end)));
            }
        }
        clear
    }

    fn searches(&self, topic: &str, partition: i32) -> bool {
        self.topic == topic && self.pending.contains_key(&partition)
    }
}

/// Ranges of offsets in which no record stands, one of each partition.
#[derive(Debug, Default)]
struct Clear(BTreeMap<TopicPartition, Range<i64>>);

impl Clear {
    /// No record stands in `range`. What is clear right before it stays so.
    fn add(&mut self, place: TopicPartition, range: Range<i64>) {
        let before = self.0.get(&place).filter(|before| before.end == range.start);
        let start = before.map_or(range.start, |before| before.start);
        self.0.insert(place, start..range.end);
    }

    /// Where the next record is to be looked for by a group that has committed `next`.
    fn first_unknown(&self, place: &TopicPartition, next: i64) -> i64 {
        self.0.get(place).filter(|clear| clear.contains(&next)).map_or(next, |clear| clear.end)
    }

    /// A partition that ends before what was seen of it is another one.
    fn end(&mut self, ends: &BTreeMap<TopicPartition, i64>) {
        self.0.retain(|place, clear| ends.get(place).is_none_or(|end| clear.end <= *end));
    }
}

/// An open transaction as earlier looks saw it.
struct Seen {
    offset: i64,
    first: Instant,
    /// When its first record was appended, or else when it was first seen; not yet asked: none.
    since: Option<Millis>,
}

/// The partitions that a stage reads, as the topology has them.
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
    /// Connects on first use.
    ///
    /// # Errors
    /// If the client cannot be made.
    pub fn new(kafka: &KafkaEndpoint, group: &str, places: Vec<TopicPartition>) -> Result<Self, KafkaError> {
        let mut config = kafka.consumer_config(group);
        config
            .set("enable.auto.offset.store", "false")
            // What a group never committed, or retention took, it is behind on from the first record that is there.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            // Nothing is subscribed here, so nothing refreshes what a broker said of leaders as it woke: it expires.
            .set("metadata.max.age.ms", "10000")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.message.max.bytes", FETCH);
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
            clear: Clear::default(),
            search: None,
            config,
        })
    }

    /// How far the group is behind on each partition, with a decision of each open transaction whether it lasts: a few seconds
    /// longer where there is one.
    ///
    /// # Errors
    /// If the brokers do not say.
    pub fn read_until_decided(&mut self) -> Result<BTreeMap<TopicPartition, Lag>, KafkaError> {
        let mut lags = self.read()?;
        let offset = |lag: &Lag| lag.open.map(|open| open.offset);
        let first: BTreeMap<TopicPartition, Option<i64>> =
            lags.iter().map(|(place, lag)| (place.clone(), offset(lag))).collect();
        // What is opened meanwhile is of the next look.
        let undecided = |lags: &BTreeMap<TopicPartition, Lag>| {
            let now = Millis((since_epoch() * 1000.0) as i64);
            lags.iter().any(|(place, lag)| {
                lag.open.is_some_and(|open| first.get(place) == Some(&Some(open.offset)) && !open.lasts(now))
            })
        };
        let deadline = Instant::now() + LASTS + AGAIN;
        while undecided(&lags) && Instant::now() < deadline {
            std::thread::sleep(AGAIN);
            lags = self.read()?;
        }
        Ok(lags)
    }

    /// How far the group is behind on each partition.
    ///
    /// # Errors
    /// If the brokers do not say.
    pub fn read(&mut self) -> Result<BTreeMap<TopicPartition, Lag>, KafkaError> {
        if self.places.is_empty() {
            return Ok(BTreeMap::new());
        }
        // Committed first: what is committed meanwhile makes the lag look larger, never smaller.
        let committed = offsets(&self.uncommitted.committed_offsets(self.list(Offset::Invalid)?, CALL)?);
        // High watermarks before the last stable offsets, which only grow: so one is below the other if a transaction is open.
        let watermarks = offsets(&self.uncommitted.offsets_for_times(self.list(Offset::End)?, CALL)?);
        let ends = offsets(&self.reader.offsets_for_times(self.list(Offset::End)?, CALL)?);
        // A group that has committed nothing has everything before it.
        let next = |place: &TopicPartition| committed.get(place).copied().unwrap_or(0);
        if let Some(search) = &mut self.search {
            for (place, range) in search.reached() {
                self.clear.add(place, range);
            }
        }
        self.clear.end(&ends);
        if let Some(search) = &mut self.search {
            // Where the group has got past the search, or was set back, a look begins anew.
            let (topic, clear) = (&search.topic, &self.clear);
            search.pending.retain(|partition, range| {
                let place = (topic.clone(), *partition);
                range.contains(&clear.first_unknown(&place, next(&place)))
            });
        }
        self.search.take_if(|search| search.pending.is_empty());
        let mut lags = BTreeMap::new();
        let mut behind: BTreeMap<&str, BTreeMap<i32, (i64, i64)>> = BTreeMap::new();
        for place in &self.places {
            let Some(end) = ends.get(place).copied() else { continue };
            let from = self.clear.first_unknown(place, next(place));
            if from >= end {
                lags.insert(place.clone(), Lag::default());
            } else if self.search.as_ref().is_some_and(|search| search.searches(&place.0, place.1)) {
                lags.insert(place.clone(), Lag { records: end - from, ..Lag::default() });
            } else {
                behind.entry(&place.0).or_default().insert(place.1, (from, end));
            }
        }
        let mut clear = Vec::new();
        for (topic, behind) in behind {
            // The end of a partition is told without the name of its topic: so one topic at a time.
            let heads = heads(&self.reader, topic, &behind)?;
            let mut unknown = BTreeMap::new();
            for (partition, (from, end)) in behind {
                let place = (topic.to_owned(), partition);
                let lag = match heads.get(&partition) {
                    Some(Head::Record(offset, logged_at)) => {
                        Lag { records: (end - offset).max(1), oldest: *logged_at, open: None }
                    }
                    Some(Head::None) => {
                        clear.push((place.clone(), from..end));
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
                self.search = Some(Search::begin(&self.config, topic, unknown)?);
            }
        }
        for (place, range) in clear {
            self.clear.add(place, range);
        }
        for (place, open) in self.look_for_open(&watermarks, &ends)? {
            if let Some(lag) = lags.get_mut(&place) {
                lag.open = Some(open);
            }
        }
        Ok(lags)
    }

    /// The open transactions, of which each is where it was at an earlier look or is seen for the first time.
    fn look_for_open(
        &mut self,
        watermarks: &BTreeMap<TopicPartition, i64>,
        ends: &BTreeMap<TopicPartition, i64>,
    ) -> Result<Vec<(TopicPartition, OpenTransaction)>, KafkaError> {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.open);
        let mut found = Vec::new();
        let mut unasked: BTreeMap<&str, BTreeMap<i32, (i64, i64)>> = BTreeMap::new();
        for (place, watermark) in watermarks {
            let Some(end) = ends.get(place).copied().filter(|end| end < watermark) else { continue };
            let seen = known.remove(place).filter(|seen| seen.offset == end);
            if seen.as_ref().is_some_and(|seen| seen.since.is_none()) {
                unasked.entry(&place.0).or_default().insert(place.1, (end, *watermark));
            }
            let seen = seen.unwrap_or(Seen { offset: end, first: now, since: None });
            self.open.insert(place.clone(), seen);
            found.push((place.clone(), end, *watermark));
        }
        // Only of those that last: the busy topics of processors have a new one at each look.
        for (topic, places) in unasked {
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
            let lasted = now.saturating_duration_since(seen.first);
            let since = seen.since.unwrap_or(Millis(((wall - lasted.as_secs_f64()) * 1000.0) as i64));
            Some((place, OpenTransaction { offset, records: watermark - offset, since, seen: lasted }))
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

/// The next record of each of these partitions of a topic, as the reader sees it; those that are not told in time are absent.
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
    let deadline = Instant::now() + CALL;
    let mut open: BTreeSet<i32> = from.keys().copied().collect();
    let mut heads = BTreeMap::new();
    while !open.is_empty() && Instant::now() < deadline {
        let (partition, head) = match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => (message.partition(), Head::Record(message.offset(), logged_at(&message))),
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, Head::None),
            // Of an outage that is over each broken connection has left one of these.
            Some(Err(_)) | None => continue,
        };
        if open.remove(&partition) {
            heads.insert(partition, head);
        }
    }
    reader.unassign()?;
    Ok(heads)
}

/// The time from `then` to `now`; zero while a clock is behind.
fn since(then: Millis, now: Millis) -> Duration {
    Duration::from_millis(now.0.saturating_sub(then.0).max(0).unsigned_abs())
}

enum Head {
    /// Its offset and when it was appended, if it has a timestamp.
    Record(i64, Option<Millis>),
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

/// Looks at a stage's group until `stop` is asked, and tells what it sees as metrics of the stage, and as a reason why it is
/// not ready where a transaction holds a partition back. In a thread of its own, so that lag is told while the stage waits.
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
            Err(error) => return tracing::error!(stage, %error, "lag is not told"),
        };
        let mut seen = BTreeMap::new();
        loop {
            failpoint::edge("lag::read");
            match reader.read() {
                Ok(lags) => {
                    seen = lags;
                    gauge!(LAG_UPDATED, "stage" => stage.clone()).set(since_epoch());
                }
                Err(error) => tracing::warn!(stage, %error, "lag was not seen"),
            }
            tell(&stage, &seen);
            tell_open(&health, &seen);
            if stop.wait(LOOK) {
                return;
            }
        }
    })
}

/// What the last look that succeeded saw waiting waits still, and is older now: a broker that is away stops no clock.
fn tell(stage: &str, seen: &BTreeMap<TopicPartition, Lag>) {
    let now = Millis((since_epoch() * 1000.0) as i64);
    for ((topic, partition), lag) in seen {
        let labels =
            [("stage", stage.to_owned()), ("topic", topic.clone()), ("partition", partition.to_string())];
        gauge!(LAG_RECORDS, &labels).set(lag.records as f64);
        if let Some(age) = lag.age(now) {
            gauge!(LAG_SECONDS, &labels).set(age.as_secs_f64());
        }
        let held = lag.open.filter(|open| open.lasts(now)).map_or(Duration::ZERO, |open| open.age(now));
        gauge!(HELD_BACK, &labels).set(held.as_secs_f64());
    }
}

/// The stage gets nothing of a partition that is held back: it is not ready, although it waits for nothing by itself.
fn tell_open(health: &Health, seen: &BTreeMap<TopicPartition, Lag>) {
    let now = Millis((since_epoch() * 1000.0) as i64);
    let lasting = seen.iter().filter_map(|(place, lag)| {
        let open = lag.open.filter(|open| open.lasts(now))?;
        Some(open.worded(place))
    });
    let lasting: Vec<_> = lasting.collect();
    health.seen(NotReadyReason::HeldBack, (!lasting.is_empty()).then(|| lasting.join("; ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_in_seconds_is_the_age_of_what_waits() {
        let waits = Lag { records: 3, oldest: Some(Millis(1_000)), open: None };
        assert_eq!(waits.age(Millis(3_500)), Some(Duration::from_millis(2_500)));
        assert_eq!(waits.age(Millis(900)), Some(Duration::ZERO), "the broker's clock is ahead of ours");
        assert_eq!(Lag::default().age(Millis(3_500)), Some(Duration::ZERO), "nothing waits");
        assert_eq!(Lag { records: 3, ..Lag::default() }.age(Millis(3_500)), None, "not told in time");
    }

    #[test]
    fn an_open_transaction_is_told_when_it_lasts() {
        let open = |seen, since| OpenTransaction {
            offset: 7,
            records: 3,
            since: Millis(since),
            seen: Duration::from_millis(seen),
        };
        let now = Millis(100_000);
        let cases = [
            (open(0, 40_000), false, "old by the clocks, but seen for the first time: clocks differ"),
            (open(999, 40_000), false, "a moment"),
            (open(1_000, 40_000), true, "old, and still there"),
            (open(1_000, 95_001), false, "young"),
            (open(4_999, 200_000), false, "young, by a clock that is ahead"),
            (open(5_000, 200_000), true, "seen for long enough, whatever the clocks say"),
        ];
        for (open, lasts, why) in cases {
            assert_eq!(open.lasts(now), lasts, "{why}: {open:?}");
        }
        let place = ("agent.actions".to_owned(), 3);
        assert_eq!(
            open(0, 1_700_000_000_000).worded(&place),
            "agent.actions/3 has waited since 2023-11-14T22:13:20Z for the transaction that is open at offset 7"
        );
        assert_eq!(open(9_000, 200_000).age(now), Duration::from_secs(9));
    }

    #[test]
    fn a_stage_that_gets_nothing_of_a_partition_is_not_ready_but_lives() {
        let health = Health::new("alerter");
        health.clear(NotReadyReason::Starting);
        let place = ("agent.verdicts".to_owned(), 1);
        let open = OpenTransaction { offset: 7, records: 3, since: Millis(0), seen: LASTS };
        let mut seen = BTreeMap::from([(place, Lag { open: Some(open), ..Lag::default() })]);
        tell_open(&health, &seen);
        assert!(health.snapshot().not_ready[&NotReadyReason::HeldBack].contains("agent.verdicts/1"));
        seen.values_mut().for_each(|lag| {
            lag.open = Some(OpenTransaction { seen: Duration::ZERO, since: Millis(i64::MAX), ..open })
        });
        tell_open(&health, &seen);
        assert!(health.snapshot().not_ready.is_empty(), "a short one");
    }

    #[test]
    fn offsets_without_a_record_are_looked_at_once() {
        let place = ("a".to_owned(), 0);
        let mut clear = Clear::default();
        let at = |clear: &Clear, next| clear.first_unknown(&place, next);
        assert_eq!(at(&clear, 5), 5);
        clear.add(place.clone(), 5..40);
        clear.add(place.clone(), 40..90);
        let cases = [(5, 90), (50, 90), (89, 90), (90, 90), (4, 4), (120, 120)];
        for (next, from) in cases {
            assert_eq!(at(&clear, next), from, "committed {next}");
        }
        clear.end(&BTreeMap::from([(place.clone(), 90)]));
        assert_eq!(at(&clear, 5), 90);
        clear.end(&BTreeMap::from([(place.clone(), 89)]));
        assert_eq!(at(&clear, 5), 5, "the topic was made anew");
        clear.add(place.clone(), 5..40);
        clear.add(place.clone(), 60..90);
        assert_eq!((at(&clear, 5), at(&clear, 60)), (5, 90), "records may stand between them");
    }

    #[test]
    fn a_search_goes_on_from_look_to_look() {
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
        // As a look leaves it that reached the offset 10 and no record.
        reader.clear.add(place.clone(), 0..10);
        reader.search = Some(Search::begin(&reader.config, "a", BTreeMap::from([(0, 10..30)])).unwrap());
        let (lags, began) = (reader.read().unwrap(), Instant::now());
        assert!(
            lags[&place] == Lag { records: 20, ..Lag::default() } || lags[&place].oldest.is_some(),
            "{lags:?}"
        );
        while reader.read().unwrap()[&place].oldest.is_none() {
            assert!(began.elapsed() < deadline);
        }
        assert_eq!(reader.read().unwrap()[&place].records, 20, "the search has found the record at 10");
        assert!(reader.search.is_none(), "it has found all");

        // The end of a partition: it was at least at 7 when the search began.
        let mut search = Search::begin(&reader.config, "a", BTreeMap::from([(1, 0..7)])).unwrap();
        let clear = loop {
            assert!(began.elapsed() < deadline);
            let clear = search.reached();
            if !clear.is_empty() {
                break clear;
            }
        };
        assert_eq!(clear, [(("a".to_owned(), 1), 0..7)]);
    }

    #[test]
    fn a_stage_reads_every_partition_of_its_topics() {
        let topology = Topology::embedded().unwrap();
        assert_eq!(input_partitions(&topology, "evaluator").unwrap().len(), 12);
        assert_eq!(input_partitions(&topology, "log-sink").unwrap().len(), 4 * 12 + 3);
        assert!(input_partitions(&topology, "nobody").is_err());
    }
}
