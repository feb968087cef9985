//! Proof that a partition ends with skipped offsets: transaction markers and records of aborted transactions.
//!
//! A stage resumes after its last record. If retention deletes the offsets from there on, nothing shows any longer
//! whether they held a record, and the stage ends as overtaken. Therefore, while the offsets can still be read, a fresh
//! reader reads each quiet partition from the stage's position to the last stable offset of the previous round. If it
//! delivers no record, the stage stores the range durably (ADR 0022). The end may move meanwhile, so a client that
//! aborts all the time does not prevent the proof.
//!
//! The proof stays valid: an offset below the last stable offset is decided, and no record can appear there later.
//!
//! If a fresh reader finds a record although the stage has been idle, the stage's own consumer does not return that
//! record. A processor then assigns the partitions to its consumer again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use agentgov_connect::assign::assign;
use agentgov_schemas::topology::Retention;
use agentgov_service::ShutdownSignal;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use crate::consumer::is_connection_lost;
use crate::fresh_reader::{self, FreshReader, ProgressWatch};

/// Timeout of a request for the start or end offsets of partitions.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Bounds of the interval between rounds.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Number of rounds within the shortest retention.
const ROUNDS_PER_RETENTION: u32 = 1_000;

/// Resume positions by topic and partition.
pub(crate) type Positions = BTreeMap<String, BTreeMap<i32, i64>>;

/// Offsets of a partition, from a resume position on, that hold no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EmptyTail {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offsets: Range<i64>,
}

/// Record at or after the resume position of a quiet partition: the stage's own consumer has not returned it for a
/// round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnreadRecord {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) position: i64,
    pub(crate) offset: i64,
}

/// Result of fresh readers in quiet partitions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct QuietPartitions {
    pub(crate) empty: Vec<EmptyTail>,
    pub(crate) unread: Vec<UnreadRecord>,
}

/// Returns the interval between rounds for topics with these retentions.
pub(crate) fn interval(retentions: impl IntoIterator<Item = Retention>) -> Duration {
    let lengths = retentions.into_iter().filter_map(|retention| match retention {
        Retention::For(length) => Some(length / ROUNDS_PER_RETENTION),
        Retention::Forever => None,
    });
    lengths.fold(MAX_INTERVAL, Duration::min).max(MIN_INTERVAL)
}

/// Proves empty tails. Runs one round at a time, each in its own thread.
pub(crate) struct TailProver {
    settings: ClientConfig,
    interval: Duration,
    next_round: Instant,
    /// Positions and ends of the last round. A partition is quiet if its position has not moved since.
    seen: Ranges,
    round: Option<Round>,
}

/// Offsets from a position to the last stable offset, by topic and partition.
type Ranges = BTreeMap<String, BTreeMap<i32, Range<i64>>>;

/// Result of a round.
#[derive(Debug, Default)]
struct RoundResult {
    seen: Ranges,
    quiet: QuietPartitions,
}

struct Round {
    found: Receiver<KafkaResult<RoundResult>>,
    stop: ShutdownSignal,
}

impl Drop for Round {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl TailProver {
    /// Takes a `config` with a group, which an assignment requires; no reader joins the group.
    pub(crate) fn new(config: ClientConfig, interval: Duration) -> Self {
        Self {
            settings: fresh_reader::settings(config),
            interval,
            next_round: Instant::now(),
            seen: Ranges::new(),
            round: None,
        }
    }

    /// Starts a round if one is due. Returns each tail that the last round has proven once.
    pub(crate) fn poll(&mut self, positions: impl FnOnce() -> Positions) -> QuietPartitions {
        let Some(round) = &self.round else {
            if Instant::now() >= self.next_round {
                self.next_round = Instant::now() + self.interval;
                self.start_round(positions());
            }
            return QuietPartitions::default();
        };
        let found = match round.found.try_recv() {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not read whether quiet partitions end without a record; retrying");
                RoundResult::default()
            }
            Err(TryRecvError::Disconnected) => RoundResult::default(),
            Err(TryRecvError::Empty) => return QuietPartitions::default(),
        };
        self.round = None;
        self.seen = found.seen;
        found.quiet
    }

    fn start_round(&mut self, positions: Positions) {
        if positions.values().all(BTreeMap::is_empty) {
            return;
        }
        let (done, found) = sync_channel(1);
        let stop = ShutdownSignal::default();
        let (settings, seen, round_stop) =
            (self.settings.clone(), std::mem::take(&mut self.seen), stop.clone());
        let spawned = std::thread::Builder::new().name("tail-prover".into()).spawn(move || {
            // Fails only if the prover was dropped.
            let _ = done.send(prove(&settings, &positions, &seen, &round_stop));
        });
        match spawned {
            Ok(_) => self.round = Some(Round { found, stop }),
            Err(error) => {
                tracing::warn!(%error, "could not start a thread that reads quiet partitions; retrying")
            }
        }
    }
}

/// Runs one round: reads the end offsets, then the partitions that are quiet since the last round.
fn prove(
    settings: &ClientConfig,
    positions: &Positions,
    before: &Ranges,
    stop: &ShutdownSignal,
) -> KafkaResult<RoundResult> {
    let mut found = RoundResult::default();
    let reader = fresh_reader::create(settings)?;
    for (topic, positions) in positions {
        let before = before.get(topic).cloned().unwrap_or_default();
        let proven = tail_ranges(&reader, topic, positions).and_then(|now| {
            let quiet = unmoved(&before, &now);
            Ok((now, prove_quiet(settings, &reader, topic, quiet, stop)?))
        });
        match proven {
            Ok((now, quiet)) => {
                found.quiet.empty.extend(quiet.empty);
                found.quiet.unread.extend(quiet.unread);
                found.seen.insert(topic.clone(), now);
            }
            Err(error) => {
                tracing::debug!(topic, %error, "could not read whether its quiet partitions end without a record; retrying");
                found.seen.insert(topic.clone(), before);
            }
        }
    }
    Ok(found)
}

/// Returns the offsets from each position to the last stable offset, without empty ranges.
fn tail_ranges(
    reader: &FreshReader,
    topic: &str,
    positions: &BTreeMap<i32, i64>,
) -> KafkaResult<BTreeMap<i32, Range<i64>>> {
    let ends = offsets(reader, topic, positions.keys(), Offset::End)?;
    let range = |(partition, position): (&i32, &i64)| {
        let end = ends.get(partition)?;
        (end > position).then_some((*partition, *position..*end))
    };
    Ok(positions.iter().filter_map(range).collect())
}

/// Reads the `quiet` ranges of a topic.
fn prove_quiet(
    settings: &ClientConfig,
    reader: &FreshReader,
    topic: &str,
    mut quiet: BTreeMap<i32, Range<i64>>,
    stop: &ShutdownSignal,
) -> KafkaResult<QuietPartitions> {
    // A deleted offset cannot be read, and would fail the reading of the other partitions.
    let beginnings = offsets(reader, topic, quiet.keys(), Offset::Beginning)?;
    quiet.retain(|partition, range| beginnings.get(partition).is_some_and(|first| *first <= range.start));
    if quiet.is_empty() {
        return Ok(QuietPartitions::default());
    }
    // The end-of-partition event does not name its topic, so each reader reads one topic.
    read(&fresh_reader::create(settings)?, topic, quiet, stop)
}

/// Returns the partitions whose position has not moved, with the offsets up to the end in the previous round.
fn unmoved(before: &BTreeMap<i32, Range<i64>>, now: &BTreeMap<i32, Range<i64>>) -> BTreeMap<i32, Range<i64>> {
    let is_unmoved = |(partition, now): (&i32, &Range<i64>)| {
        let before = before.get(partition)?;
        (before.start == now.start && before.end <= now.end).then(|| (*partition, before.clone()))
    };
    now.iter().filter_map(is_unmoved).collect()
}

/// Returns log start offsets or last stable offsets of partitions of a topic. A partition that the brokers do not
/// return is absent.
fn offsets<'p>(
    reader: &FreshReader,
    topic: &str,
    partitions: impl Iterator<Item = &'p i32>,
    which: Offset,
) -> KafkaResult<BTreeMap<i32, i64>> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, *partition, which)?;
    }
    if list.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let found = reader.offsets_for_times(list, OFFSETS_TIMEOUT)?;
    let offset = |element: &TopicPartitionListElem<'_>| match (element.offset(), element.error()) {
        (Offset::Offset(offset), Ok(())) => Some((element.partition(), offset)),
        _ => None,
    };
    Ok(found.elements().iter().filter_map(offset).collect())
}

/// Reads `ranges` of a topic, each to its first record or its end.
fn read(
    reader: &FreshReader,
    topic: &str,
    ranges: BTreeMap<i32, Range<i64>>,
    stop: &ShutdownSignal,
) -> KafkaResult<QuietPartitions> {
    let mut found = QuietPartitions::default();
    let tail = |(partition, offsets)| EmptyTail { topic: topic.to_owned(), partition, offsets };
    let mut list = TopicPartitionList::new();
    for (partition, range) in &ranges {
        list.add_partition_offset(topic, *partition, Offset::Offset(range.start))?;
    }
    assign(reader, &list)?;
    let mut pending = ranges;
    let mut ended = BTreeMap::new();
    let mut empty_polls = 0;
    let mut progress = ProgressWatch::new(reader.context());
    while pending.len() + ended.len() > 0 && !stop.is_requested() && !progress.is_stalled(reader.context()) {
        // A newly elected leader may briefly report an end that is too low. Only the fetch position proves a range, and
        // only once no fetched record is queued. One empty poll may have served a statistics report instead, so a
        // second one is required.
        let reached =
            |partition: &i32, range: &mut Range<i64>| reader.context().offset(*partition) >= range.end;
        let decides = ended.iter_mut().any(|(partition, range)| reached(partition, range));
        let polled = reader.poll(if decides { Duration::ZERO } else { POLL_INTERVAL });
        empty_polls = if polled.is_none() { empty_polls + 1 } else { 0 };
        match polled {
            None if empty_polls > 1 => found.empty.extend(ended.extract_if(.., reached).map(tail)),
            None => {}
            Some(Ok(message)) => {
                progress.record_progress();
                let partition = message.partition();
                let Some(range) = pending.get(&partition).or_else(|| ended.get(&partition)) else { continue };
                if message.topic() != topic || message.offset() < range.start {
                    continue;
                }
                if message.offset() >= range.end {
                    found.empty.push(tail((partition, range.clone())));
                } else {
                    let (position, offset) = (range.start, message.offset());
                    found.unread.push(UnreadRecord { topic: topic.to_owned(), partition, position, offset });
                }
                pending.remove(&partition);
                ended.remove(&partition);
                // The other partitions may take longer.
                let mut read = TopicPartitionList::new();
                read.add_partition(topic, partition);
                reader.pause(&read)?;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                progress.record_progress();
                ended.extend(pending.remove_entry(&partition));
            }
            Some(Err(error)) if is_connection_lost(&error) => {}
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use agentgov_connect::KafkaEndpoint;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn round_interval_is_a_fraction_of_the_shortest_retention() {
        let days = |days: u64| Retention::For(Duration::from_secs(days * 86_400));
        let hour = Retention::For(Duration::from_secs(3_600));
        for (retentions, expected) in [
            (&[days(30), days(90), Retention::Forever][..], 60_000),
            (&[Retention::Forever], 60_000),
            (&[], 60_000),
            (&[days(30), hour], 3_600),
            (&[Retention::For(Duration::ZERO)], 1_000),
        ] {
            assert_eq!(
                interval(retentions.iter().copied()),
                Duration::from_millis(expected),
                "{retentions:?}"
            );
        }
    }

    #[test]
    fn partition_with_an_unmoved_position_is_read_to_the_previous_end() {
        let ranges = |ranges: &[(i32, Range<i64>)]| ranges.iter().cloned().collect::<BTreeMap<_, _>>();
        let before = ranges(&[(0, 5..9), (1, 5..9), (2, 5..9), (4, 5..9)]);
        let now = ranges(&[(0, 5..9), (1, 6..9), (2, 5..10), (3, 5..9), (4, 5..8)]);
        assert_eq!(
            unmoved(&before, &now),
            ranges(&[(0, 5..9), (2, 5..9)]),
            "an end that moved back proves nothing"
        );
        assert_eq!(unmoved(&BTreeMap::new(), &now), BTreeMap::new(), "the first round");
    }

    #[test]
    fn partition_with_a_record_after_the_position_is_not_proven() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 3, 1).unwrap();
        let mut config = ClientConfig::new();
        let producer: BaseProducer =
            config.set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        for partition in [0, 1] {
            for _ in 0..30 {
                producer.send(BaseRecord::<(), str>::to("a").partition(partition).payload("x")).unwrap();
            }
        }
        producer.flush(DEADLINE).unwrap();
        let config = KafkaEndpoint::at(cluster.bootstrap_servers()).reader_config("sink");
        // The group has not read the last records of partition 0; it is at the end of the other two.
        let positions = || Positions::from([("a".to_owned(), BTreeMap::from([(0, 28), (1, 30), (2, 0)]))]);
        let settings = fresh_reader::settings(config.clone());
        let first = prove(&settings, &positions(), &Ranges::new(), &ShutdownSignal::default()).unwrap();
        assert_eq!(first.seen, Ranges::from([("a".to_owned(), BTreeMap::from([(0, 28..30)]))]));
        let second = prove(&settings, &positions(), &first.seen, &ShutdownSignal::default()).unwrap();
        let unread = UnreadRecord { topic: "a".to_owned(), partition: 0, position: 28, offset: 28 };
        let quiet = QuietPartitions { empty: vec![], unread: vec![unread] };
        assert_eq!((&second.seen, &second.quiet), (&first.seen, &quiet));
        let reader = fresh_reader::create(&settings).unwrap();
        let found = read(&reader, "a", BTreeMap::from([(0, 28..30)]), &ShutdownSignal::default());
        assert_eq!(found.as_ref(), Ok(&quiet), "the range was read and holds a record");

        let mut prover = TailProver::new(config, MIN_INTERVAL);
        let began = Instant::now();
        let mut rounds = 0;
        let mut unread = Vec::new();
        while rounds < 3 || unread.is_empty() {
            assert!(began.elapsed() < DEADLINE);
            let found = prover.poll(|| {
                rounds += 1;
                positions()
            });
            assert_eq!(found.empty, vec![]);
            unread.extend(found.unread);
            std::thread::yield_now();
        }
        assert_eq!(unread.first(), quiet.unread.first());
    }
}
