//! Confirms the offsets that the group's consumer skips. Where a client writes transactions, their markers and aborted
//! records are offsets without a record; a consumer that skips a record by mistake looks the same. An offset therefore
//! counts as skipped only if a second reader, created for this read and without a position of its own, finds no record
//! there either.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use agentgov_connect::assign::assign;
use agentgov_service::ShutdownSignal;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use super::TopicPartition;
use super::group::list;
use crate::consumer::{is_connection_lost, is_offset_gone};
use crate::fresh_reader::{self, FreshReader, ProgressWatch, STALL_TIMEOUT};

/// Offsets of a topic by partition: ranges from the expected offset up to, not including, that of the next record.
pub(super) type Ranges = BTreeMap<i32, Vec<Range<i64>>>;

/// Time that the sink waits for the second reader before it invalidates the writer.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Ranges at most this far apart are read in one pass, as a new assignment costs more.
const MAX_RANGE_DISTANCE: i64 = 1_000;

/// Outcome of a second read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SecondReadOutcome {
    /// The ranges hold no record, and each is followed by the expected record.
    Empty,
    /// A range holds a record at this offset, which the first reader has skipped.
    FoundRecord(TopicPartition, i64),
    /// The topic differs from what the first reader saw, for this reason. The resume position must be read again.
    Mismatch(String),
    /// No result within the timeout, or an error: the read is repeated.
    NoAnswer(String),
}

/// Starts second reads.
pub(super) struct SecondReader {
    config: ClientConfig,
}

impl SecondReader {
    /// Takes the configuration of a reader.
    pub(super) fn new(config: ClientConfig) -> Self {
        Self { config: fresh_reader::settings(config) }
    }

    /// Starts a read in its own thread. Dropping the returned value ends it.
    pub(super) fn read(&self, topic: &str, ranges: Ranges) -> std::io::Result<SecondRead> {
        let (done, answer) = sync_channel(1);
        let stop = ShutdownSignal::default();
        let (config, topic, requested, reader_stop) =
            (self.config.clone(), topic.to_owned(), ranges.clone(), stop.clone());
        std::thread::Builder::new().name("second-reader".into()).spawn(move || {
            // Fails only if the read was dropped.
            let _ = done.send(read(&config, &topic, &requested, &reader_stop));
        })?;
        Ok(SecondRead { ranges, answer, stop })
    }
}

/// Second read in progress.
#[derive(Debug)]
pub(super) struct SecondRead {
    pub(super) ranges: Ranges,
    answer: Receiver<SecondReadOutcome>,
    stop: ShutdownSignal,
}

impl SecondRead {
    /// Waits briefly for the outcome. `None`: the read continues.
    pub(super) fn wait(&self, stop: &ShutdownSignal) -> Option<SecondReadOutcome> {
        let until = Instant::now() + WAIT_TIMEOUT;
        loop {
            match self.answer.recv_timeout(POLL_INTERVAL) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return Some(Self::thread_ended()),
                Err(RecvTimeoutError::Timeout) if stop.is_requested() || Instant::now() >= until => {
                    return None;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Returns the outcome, if there is one.
    pub(super) fn answer(&self) -> Option<SecondReadOutcome> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Self::thread_ended()),
        }
    }

    fn thread_ended() -> SecondReadOutcome {
        SecondReadOutcome::NoAnswer("the second reader ended without a result".into())
    }
}

impl Drop for SecondRead {
    fn drop(&mut self) {
        self.stop.request();
    }
}

fn read(config: &ClientConfig, topic: &str, ranges: &Ranges, stop: &ShutdownSignal) -> SecondReadOutcome {
    let reader = match fresh_reader::create(config) {
        Ok(reader) => reader,
        Err(error) => return SecondReadOutcome::NoAnswer(error.to_string()),
    };
    // Reads partition by partition: the end-of-partition event does not name its topic, and few partitions have ranges.
    for (partition, ranges) in ranges {
        let at = TopicPartition::new(topic, *partition);
        for near in ranges.chunk_by(|before, after| after.start - before.end <= MAX_RANGE_DISTANCE) {
            match read_ranges(&reader, &at, near, stop) {
                Ok(SecondReadOutcome::Empty) => {}
                Ok(other) => return other,
                Err(error) => return SecondReadOutcome::NoAnswer(format!("{at}: {error}")),
            }
        }
    }
    SecondReadOutcome::Empty
}

/// Reads from the first of `ranges`, which are in order, to the record after the last.
fn read_ranges(
    reader: &FreshReader,
    at: &TopicPartition,
    ranges: &[Range<i64>],
    stop: &ShutdownSignal,
) -> Result<SecondReadOutcome, KafkaError> {
    let Some(first) = ranges.first() else { return Ok(SecondReadOutcome::Empty) };
    assign(reader, &list([(at, Offset::Offset(first.start))])?)?;
    let mut ranges = ExpectedRecords(ranges);
    let mut progress = ProgressWatch::new(reader.context());
    loop {
        if stop.is_requested() || progress.is_stalled(reader.context()) {
            return Ok(SecondReadOutcome::NoAnswer(format!(
                "{at}: expected a record or the end of the partition within {STALL_TIMEOUT:?}, found neither"
            )));
        }
        let message = match reader.poll(POLL_INTERVAL) {
            None => continue,
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => {
                return Ok(SecondReadOutcome::Mismatch(format!(
                    "{at}: expected the record after a skipped range, found the end of the partition: it ends before it"
                )));
            }
            Some(Err(error)) if is_connection_lost(&error) => continue,
            // Retention has deleted the offset meanwhile.
            Some(Err(error)) if is_offset_gone(&error) => {
                return Ok(SecondReadOutcome::Mismatch(format!("{at}: {error}")));
            }
            Some(Err(error)) => return Err(error),
        };
        if message.partition() != at.partition || message.offset() < first.start {
            continue;
        }
        progress.record_progress();
        match ranges.take(message.offset()) {
            Step::Next => {}
            Step::Done => return Ok(SecondReadOutcome::Empty),
            Step::FoundRecord => return Ok(SecondReadOutcome::FoundRecord(at.clone(), message.offset())),
            Step::MissedRecord => {
                return Ok(SecondReadOutcome::Mismatch(format!(
                    "{at}: expected a record that the first reader delivered, found offset {} after it",
                    message.offset()
                )));
            }
        }
    }
}

/// Expected records: ranges in order, each followed by the record that the first reader delivered.
struct ExpectedRecords<'r>(&'r [Range<i64>]);

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The record is as expected; more are expected.
    Next,
    /// The record is as expected, and the last one.
    Done,
    /// The record is within a range that should be empty.
    FoundRecord,
    /// The record is after the expected one.
    MissedRecord,
}

impl ExpectedRecords<'_> {
    /// Takes the next record of the second reader.
    fn take(&mut self, offset: i64) -> Step {
        let Some((range, rest)) = self.0.split_first() else { return Step::Done };
        if range.contains(&offset) {
            return Step::FoundRecord;
        }
        if offset > range.end {
            return Step::MissedRecord;
        }
        if offset == range.end {
            self.0 = rest;
            if rest.is_empty() {
                return Step::Done;
            }
        }
        Step::Next
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges that have one")]
mod tests {
    use agentgov_connect::KafkaEndpoint;
    use agentgov_schemas::Millis;
    use agentgov_schemas::topology::Retention;
    use proptest::prelude::*;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::super::native::{Block, Column, Int64};
    use super::super::position::ResumePoint;
    use super::super::table_writer::{PushOutcome, TableWriter};
    use super::super::{EncodeOutcome, Headers, Record, Route, RowEncoder, Store, WriteError};
    use super::*;
    use agentgov_service::StageError;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// A mock broker of librdkafka. Partition 0 of topic "a" has this many records from offset 0 on.
    fn cluster(records: usize) -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("a", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        let producer: BaseProducer =
            config.set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        for _ in 0..records {
            producer.send(BaseRecord::<(), str>::to("a").partition(0).payload("x")).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
        cluster
    }

    fn second_reader(bootstrap: impl Into<String>) -> SecondReader {
        SecondReader::new(KafkaEndpoint::at(bootstrap).reader_config("sink"))
    }

    fn answer(reading: &SecondRead) -> SecondReadOutcome {
        let began = Instant::now();
        loop {
            if let Some(answer) = reading.wait(&ShutdownSignal::default()) {
                return answer;
            }
            assert!(began.elapsed() < DEADLINE);
        }
    }

    #[test]
    fn skipped_record_is_found() {
        let cluster = cluster(30);
        let second = second_reader(cluster.bootstrap_servers());
        let read = |ranges| answer(&second.read("a", Ranges::from([(0, ranges)])).unwrap());
        let at = TopicPartition::new("a", 0);
        assert_eq!(read(vec![5..7, 9..10]), SecondReadOutcome::FoundRecord(at, 5));
        // An empty range skips nothing.
        assert_eq!(read(vec![5..5, 29..29]), SecondReadOutcome::Empty);
        for (ranges, says) in [(vec![30..40], "ends"), (vec![90..91], "a/0")] {
            let SecondReadOutcome::Mismatch(why) = read(ranges.clone()) else { panic!("{ranges:?}") };
            assert!(why.contains(says), "{ranges:?}: {why}");
        }
    }

    #[test]
    fn second_read_ends_when_it_is_stopped() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let second = second_reader(silent.local_addr().unwrap().to_string());
        let reading = second.read("a", Ranges::from([(0, vec![1..2])])).unwrap();
        let stop = ShutdownSignal::default();
        stop.request();
        assert_eq!(reading.wait(&stop), None, "shutdown was requested");
        assert_eq!(reading.answer(), None);
        let SecondRead { answer, stop, .. } = &reading;
        stop.request();
        assert!(matches!(answer.recv_timeout(DEADLINE).unwrap(), SecondReadOutcome::NoAnswer(_)));
    }

    /// Encodes offsets only.
    struct Offsets;

    impl RowEncoder for Offsets {
        fn block(&self, _topic: &str) -> Result<Block, StageError> {
            Ok(Block::new(vec![Column::new::<Int64>("offset"), Column::new::<Int64>("skipped")]))
        }

        fn push(
            &mut self,
            block: &mut Block,
            record: &Record<'_>,
            _claim: u64,
        ) -> Result<EncodeOutcome, StageError> {
            let mut cells = block.row();
            cells.put::<Int64>(record.offset);
            cells.put::<Int64>(i64::try_from(record.skipped).unwrap());
            Ok(EncodeOutcome::Row)
        }

        fn before_insert(&mut self, _store: &Store) -> Result<(), WriteError> {
            Ok(())
        }
    }

    /// Returns a writer that owns `at` and has not claimed it yet.
    fn assigned(at: &TopicPartition) -> TableWriter {
        let mut writer = TableWriter::new(Route {
            topic: "a".into(),
            table: "a".into(),
            gapless: true,
            retention: Retention::Forever,
        });
        writer.assign(std::slice::from_ref(at));
        writer
    }

    #[test]
    fn writer_reads_again_the_records_that_its_consumer_skipped() {
        let cluster = cluster(30);
        let second = second_reader(cluster.bootstrap_servers());
        let at = TopicPartition::new("a", 0);
        let mut writer = assigned(&at);
        writer.claim_at = None;
        let take = |writer: &mut TableWriter, offset| {
            let (key, value, headers, skipped) = (None, None, Headers::none(), 0);
            let record = Record { at: &at, offset, logged_at: Millis(0), key, value, headers, skipped };
            assert_eq!(writer.push(&mut Offsets, &record).unwrap(), PushOutcome::Buffered);
        };
        take(&mut writer, 0);
        take(&mut writer, 1);
        assert!(writer.confirm_skips(&second, &ShutdownSignal::default()), "no offset was skipped");
        take(&mut writer, 4);
        assert!(!writer.confirm_skips(&second, &ShutdownSignal::default()));
        let why = writer.skip_problem.clone().unwrap();
        assert!(why.contains("a/0") && why.contains("offset 2"), "{why}");
        assert!(writer.claim_at.is_some(), "the table decides where to resume");
        assert_eq!(writer.time_until_insert(true), None, "no rows are left to insert");
        // The tail read finds an empty table, and now all records arrive.
        (writer.claim_at, writer.partitions.get_mut(&0).unwrap().next) = (None, 0);
        (0..5).for_each(|offset| take(&mut writer, offset));
        assert!(writer.confirm_skips(&second, &ShutdownSignal::default()));
    }

    #[test]
    fn proven_deleted_offsets_are_counted_and_not_read_again() {
        let at = TopicPartition::new("a", 0);
        let mut writer = assigned(&at);
        assert_eq!(writer.quiet_positions(), BTreeMap::new(), "nothing is claimed");
        writer.partitions.get_mut(&0).unwrap().set_claim(7, ResumePoint { next: 9, fetch: 12, empty_to: 14 });
        assert_eq!(writer.quiet_positions(), BTreeMap::new(), "invalidated");
        writer.claim_at = None;
        let owned = &writer.partitions[&0];
        assert_eq!(owned.fetch_position(), 12);
        let contradicts: Vec<_> = (0..20).filter(|offset| owned.is_proven_empty(*offset)).collect();
        assert_eq!(contradicts, [9, 10, 11, 12, 13]);
        assert_eq!(writer.quiet_positions(), BTreeMap::from([(0, 14)]));
        assert_eq!(
            writer.empty_tail_row(0, &(14..16)),
            Some(("a/0".to_owned(), 7, 9..16)),
            "from the next row on"
        );
        assert_eq!(writer.empty_tail_row(0, &(13..16)), None, "of another position");
        assert_eq!(writer.empty_tail_row(1, &(14..16)), None, "of another partition");
        writer.mark_empty(0, 16);
        assert_eq!(writer.quiet_positions(), BTreeMap::from([(0, 16)]));
        let (key, value, headers, skipped) = (None, None, Headers::none(), 0);
        let record = Record { at: &at, offset: 20, logged_at: Millis(0), key, value, headers, skipped };
        assert_eq!(writer.push(&mut Offsets, &record).unwrap(), PushOutcome::Buffered);
        assert_eq!(writer.quiet_positions(), BTreeMap::new(), "a row is buffered");
        assert_eq!(
            writer.unconfirmed_skips_of_gathered(),
            Ranges::from([(0, vec![12..20])]),
            "existing offsets are read again"
        );
        writer.partitions.get_mut(&0).unwrap().durable = 21;
        writer.note_unconfirmed();
        writer.invalidate();
        writer.partitions.get_mut(&0).unwrap().set_claim(8, ResumePoint::at(9));
        writer.claim_at = None;
        let record = Record { offset: 11, ..record };
        assert_eq!(writer.push(&mut Offsets, &record).unwrap(), PushOutcome::Buffered);
        assert_eq!(writer.unconfirmed_skips_of_gathered(), Ranges::from([(0, vec![9..11])]));
    }

    #[test]
    fn skipped_offsets_are_reported_once_their_rows_are_durable() {
        for (durable, present, noted) in
            [(5, true, Ranges::from([(0, vec![2..4])])), (0, false, Ranges::new())]
        {
            let at = TopicPartition::new("a", 0);
            let mut writer = assigned(&at);
            writer.claim_at = None;
            // The last record is of another month, so it goes into a block of its own after the unconfirmed one.
            for (offset, day) in [(0, 0), (1, 0), (4, 0), (9, 40)] {
                let (key, value, headers, skipped) = (None, None, Headers::none(), 0);
                let logged_at = Millis(day * 86_400_000);
                let record = Record { at: &at, offset, logged_at, key, value, headers, skipped };
                assert_eq!(writer.push(&mut Offsets, &record).unwrap(), PushOutcome::Buffered);
            }
            writer.note_unconfirmed();
            writer.invalidate();
            assert_eq!(writer.take_durable_skips(), Ranges::new(), "the outcome is unknown");
            writer.partitions.get_mut(&0).unwrap().durable = durable;
            assert_eq!(writer.take_insert_resolution(), Some(present));
            assert_eq!(writer.take_durable_skips(), noted, "durable up to {durable}");
            assert_eq!(writer.take_durable_skips(), Ranges::new(), "once");
        }
    }

    fn last(ranges: &[Range<i64>], offsets: &[i64]) -> Step {
        let mut expected = ExpectedRecords(ranges);
        let mut last = Step::Next;
        for offset in offsets {
            last = expected.take(*offset);
            if last != Step::Next {
                break;
            }
        }
        last
    }

    #[test]
    fn second_reader_confirms_only_the_records_of_the_first() {
        let ranges = [5..7, 8..11, 20..21];
        for (offsets, expected) in [
            (&[7, 11, 12, 19, 21][..], Step::Done),
            (&[7, 11, 21], Step::Done),
            (&[5], Step::FoundRecord),
            (&[6, 7], Step::FoundRecord),
            (&[7, 10], Step::FoundRecord),
            (&[8], Step::MissedRecord),
            (&[7, 12], Step::MissedRecord),
            (&[7, 11, 20], Step::FoundRecord),
            (&[7, 11, 12, 22], Step::MissedRecord),
            (&[7, 11, 19], Step::Next),
            (&[], Step::Next),
        ] {
            assert_eq!(last(&ranges, offsets), expected, "{offsets:?}");
        }
    }

    proptest! {
        /// For any log and any records that the first reader misses, the second reader agrees if none of them is within
        /// a range.
        #[test]
        fn second_reader_finds_every_record_that_the_first_skips(
            holds in prop::collection::vec(any::<bool>(), 1..40),
            misses in prop::collection::vec(any::<bool>(), 40),
        ) {
            let there: Vec<i64> = (0..).zip(&holds).filter(|(_, holds)| **holds).map(|(at, _)| at).collect();
            let seen = there.iter().zip(&misses).filter(|(_, misses)| !**misses).map(|(at, _)| *at);
            let mut next = 0;
            let mut ranges = Vec::new();
            let mut missed = false;
            for offset in seen {
                if offset > next {
                    ranges.push(next..offset);
                    missed |= there.iter().any(|at| (next..offset).contains(at));
                }
                next = offset + 1;
            }
            prop_assume!(!ranges.is_empty());
            let found = last(&ranges, &there[there.partition_point(|at| *at < ranges[0].start)..]);
            prop_assert_eq!(found == Step::Done, !missed, "{:?} of {:?}", found, ranges);
        }
    }
}
