//! From "assigned" or "in doubt" to "the claims hold, and fetching goes on where the table ends".

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use agentgov_schemas::NotReadyReason;
use agentgov_service::metrics::timed;
use agentgov_service::{StageError, failpoint};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use serde::Deserialize;

use super::StoreError;
use super::group::{NotProven, list, prove_membership};
use super::marker::Claims;
use super::position::{Position, Recorded, Resume, Watermarks, position};
use super::protocol::{self, Drained, Identity, Tail};
use super::run::{Options, Sink};
use super::store::quote;
use super::{TopicPartition, Writer};

/// A claim may be taken once or twice by a member of an earlier generation that had not noticed. So often, with
/// membership proven in between, it is someone outside the group.
const SURELY_ROBBED: u32 = 5;

/// Why the claims do not hold yet.
enum NotYet {
    Group(KafkaError),
    Kafka(KafkaError),
    Store(StoreError),
    Stopped,
    Fatal(StageError),
}

impl From<StoreError> for NotYet {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The lanes that are being established, by their place, with their partitions.
type Due = BTreeMap<usize, Vec<TopicPartition>>;

/// Where each partition goes on, under which claim.
type Established = Vec<(usize, TopicPartition, u64, Resume)>;

impl<W: Writer> Sink<W> {
    /// Establishes the lanes whose time has come. What does not work is tried again later; the other lanes go on.
    pub(super) fn establish(&mut self) -> Result<(), StageError> {
        let now = Instant::now();
        let due: Due = (self.lanes.iter_mut().enumerate())
            .filter_map(|(place, lane)| {
                let due = lane.claim_at.is_some_and(|at| at <= now) && !lane.shares.is_empty();
                let due = due && !lane.reads_again();
                due.then(|| (place, lane.shares.values().map(|share| share.at.clone()).collect()))
            })
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let health = self.options.health.clone();
        match self.steps(&due) {
            Ok(established) => {
                for (place, at, claim, resume) in established {
                    let lane = self.lanes.get_mut(place);
                    if let Some(share) = lane.and_then(|lane| lane.shares.get_mut(&at.partition)) {
                        share.claimed(claim, resume);
                        tracing::info!(stage = self.options.stage, %at, offset = share.fetch_position(), "goes on");
                    }
                }
                for place in due.keys() {
                    let Some(lane) = self.lanes.get_mut(*place) else { continue };
                    if let Some(present) = lane.doubt_resolved() {
                        self.metrics.resolved(&lane.route.table, present);
                        super::run::note_passed_over(&self.options.stage, lane, &self.metrics);
                    }
                    lane.claimed();
                }
                health.clear(NotReadyReason::Starting);
                health.clear(NotReadyReason::Group);
                self.outage.recovered(&health);
                if self.lanes.iter().all(|lane| lane.strikes < 2) {
                    health.clear(NotReadyReason::Clickhouse);
                }
                self.commit(CommitMode::Async);
                return self.resume();
            }
            Err(NotYet::Fatal(error)) => return Err(error),
            Err(NotYet::Stopped) => {}
            Err(NotYet::Group(error)) => health.not_ready(NotReadyReason::Group, error.to_string()),
            Err(NotYet::Kafka(error)) => health.not_ready(NotReadyReason::Kafka, error.to_string()),
            Err(NotYet::Store(error)) => health.not_ready(NotReadyReason::Clickhouse, error.to_string()),
        }
        self.lanes_of(&due).for_each(super::lane::Lane::doubt);
        Ok(())
    }

    fn lanes_of<'s>(&'s mut self, due: &'s Due) -> impl Iterator<Item = &'s mut super::lane::Lane> {
        self.lanes.iter_mut().enumerate().filter(|(place, _)| due.contains_key(place)).map(|(_, lane)| lane)
    }

    fn steps(&mut self, due: &Due) -> Result<Established, NotYet> {
        let partitions: Vec<_> = due.values().flatten().cloned().collect();
        let Options { stop, health, .. } = &self.options;
        prove_membership(&self.consumer, &partitions, stop, health).map_err(|not| match not {
            NotProven::NotMember(error) => NotYet::Group(error),
            NotProven::Unknown(error) => NotYet::Kafka(error),
            NotProven::Stopped => NotYet::Stopped,
        })?;
        failpoint::edge("sink::proven");
        let health = self.options.health.clone();
        health.alive();
        self.refuse_a_robber(due)?;
        let names = partitions.iter().map(|at| at.name().to_owned());
        let claim = || protocol::claim(&self.store, &self.options.claims, names);
        let claims = timed(&self.metrics.claim, claim)?;
        failpoint::edge("sink::claimed");
        health.alive();
        match timed(&self.metrics.drain, || protocol::drain(&self.store, &claims, &self.options.stop))? {
            Drained::Done => {}
            Drained::Stopped => return Err(NotYet::Stopped),
        }
        failpoint::edge("sink::drained");
        let mut established = Vec::new();
        for (place, partitions) in due {
            health.alive();
            let Some(lane) = self.lanes.get(*place) else { continue };
            let look = || self.look(*place, partitions, &claims, &mut established);
            self.metrics.look(&lane.route.table, look)?;
        }
        failpoint::edge("sink::looked");
        if failpoint::is_planted(failpoint::PLANT_NO_LOOK) {
            self.go_on_as_committed(&mut established)?;
        }
        Ok(established)
    }

    /// What [`failpoint::PLANT_NO_LOOK`] does.
    fn go_on_as_committed(&self, established: &mut Established) -> Result<(), NotYet> {
        let partitions = established.iter().map(|(_, at, ..)| (at, Offset::Invalid));
        let asked = list(partitions).map_err(NotYet::Kafka)?;
        let committed =
            self.consumer.committed_offsets(asked, Duration::from_secs(10)).map_err(NotYet::Kafka)?;
        for (_, at, _, resume) in established {
            let found = committed.find_partition(&at.topic, at.partition).map(|found| found.offset());
            *resume = Resume::at(if let Some(Offset::Offset(offset)) = found { offset } else { 0 });
        }
        Ok(())
    }

    /// Someone who takes the claims of proven members again and again writes the same tables from another group.
    fn refuse_a_robber(&mut self, due: &Due) -> Result<(), NotYet> {
        #[derive(Deserialize)]
        struct Claim {
            topic_partition: String,
            claim: u64,
        }
        let ours: Claims = due
            .keys()
            .filter_map(|place| self.lanes.get(*place))
            .flat_map(|lane| lane.shares.values())
            .filter(|share| share.claim != 0)
            .map(|share| (share.at.name().to_owned(), share.claim))
            .collect();
        let listed: Vec<_> = ours.iter().map(|(name, _)| quote(name)).collect();
        if listed.is_empty() {
            return Ok(());
        }
        let claims = &self.options.claims;
        let found: Vec<Claim> = self.store.select(&format!(
            "SELECT topic_partition, claim FROM {claims} WHERE topic_partition IN ({})",
            listed.join(",")
        ))?;
        let taken =
            found.into_iter().find(|row| ours.get(&row.topic_partition).is_some_and(|our| our != row.claim));
        let Some(taken) = taken else {
            self.robbed = 0;
            return Ok(());
        };
        self.robbed += 1;
        tracing::warn!(stage = self.options.stage, at = taken.topic_partition, "someone else has claimed it");
        if self.robbed < SURELY_ROBBED {
            return Ok(());
        }
        Err(NotYet::Fatal(StageError::Fenced {
            stage: self.options.stage.clone(),
            message: format!(
                "{} is claimed again and again by a process outside the group {}",
                taken.topic_partition, self.options.group
            ),
        }))
    }

    /// Looks what the table holds of a lane's partitions, and compares it with what Kafka holds.
    fn look(
        &self,
        place: usize,
        partitions: &[TopicPartition],
        claims: &Claims,
        established: &mut Established,
    ) -> Result<(), NotYet> {
        let Some(lane) = self.lanes.get(place) else { return Ok(()) };
        let names: BTreeSet<_> = partitions.iter().map(|at| at.name().to_owned()).collect();
        let tails = protocol::look(&self.store, &lane.route.table, lane.route.gapless, &names)?;
        let gaps = self.ranges(&self.options.gaps, &names)?;
        let empty = self.ranges(&self.options.empty, &names)?;
        let mut compare = BTreeMap::new();
        for at in partitions {
            let tail = tails.get(at.name());
            let marks = self.probe.watermarks(at).map_err(NotYet::Kafka)?;
            let of = |ranges: &BTreeMap<_, Vec<_>>| ranges.get(at.name()).cloned().unwrap_or_default();
            let (gaps, empty) = (of(&gaps), of(&empty));
            let recorded = Recorded { gaps: &gaps, empty: &empty };
            let claim = claims.get(at.name()).ok_or_else(|| {
                NotYet::Fatal(StageError::Internal(format!("{at} was not claimed with its table")))
            })?;
            let (resume, to_compare) = match position(tail, marks, recorded, lane.route.gapless) {
                Position::GoOn { resume, compare } => (resume, compare),
                Position::Overtaken { from, to, compare } => {
                    self.overtaken(at, from..to, claim)?;
                    (Resume::at(to), compare)
                }
                Position::Shorter { expected } => return Err(self.shorter(at, expected, marks)),
                Position::Hole { expected } => return Err(self.hole(&lane.route.table, at, tail, &expected)),
            };
            if let Some((tail, offset)) = tail.zip(to_compare) {
                compare.insert(at.clone(), (offset, tail.identity));
            }
            established.push((place, at.clone(), claim, resume));
        }
        self.compare(&lane.route.table, &compare)
    }

    /// The record at the table's last offset must be the one that Kafka holds there.
    fn compare(
        &self,
        table: &str,
        expected: &BTreeMap<TopicPartition, (i64, Identity)>,
    ) -> Result<(), NotYet> {
        let offsets = expected.iter().map(|(at, (offset, _))| (at.clone(), *offset)).collect();
        let held = self.probe.records(&offsets).map_err(NotYet::Kafka)?;
        for (at, (offset, identity)) in expected {
            let Some(found) = held.get(at) else { continue };
            if found.offset == *offset && found.identity == Some(*identity) {
                continue;
            }
            // Retention may have taken it since the watermarks were read.
            if self.probe.watermarks(at).map_err(NotYet::Kafka)?.low > *offset {
                continue;
            }
            return Err(NotYet::Fatal(self.other_cluster(
                at,
                format!(
                    "the last row of table {table} is the record at offset {offset}, {identity}, but the topic has at offset \
                     {} a record {}: it is another topic of the same name",
                    found.offset,
                    found.identity.map_or_else(|| "without a timestamp".to_owned(), |found| found.to_string())
                ),
            )));
        }
        Ok(())
    }

    /// Ranges of offsets that a table has on record, by topic-partition.
    fn ranges(
        &self,
        table: &str,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Vec<Range<i64>>>, StoreError> {
        #[derive(Deserialize)]
        struct Recorded {
            topic_partition: String,
            from: i64,
            to: i64,
        }
        let listed: Vec<_> = names.iter().map(|name| quote(name)).collect();
        let rows: Vec<Recorded> = self.store.select(&format!(
            "SELECT topic_partition, from_offset AS from, to_offset AS to FROM {table} WHERE topic_partition IN ({})",
            listed.join(",")
        ))?;
        let mut ranges: BTreeMap<String, Vec<Range<i64>>> = BTreeMap::new();
        for row in rows {
            ranges.entry(row.topic_partition).or_default().push(row.from..row.to);
        }
        Ok(ranges)
    }

    /// Retention was faster. Ends the stage, unless the gap is accepted: then it is recorded before fetching goes on.
    fn overtaken(&self, at: &TopicPartition, lost: Range<i64>, claim: u64) -> Result<(), NotYet> {
        if !self.options.accept_gap {
            return Err(NotYet::Fatal(StageError::Overtaken {
                stage: self.options.stage.clone(),
                topic: at.topic.to_string(),
                partition: at.partition,
                expected: lost.start,
                found: lost.end,
            }));
        }
        tracing::warn!(stage = self.options.stage, %at, from = lost.start, to = lost.end, "gap accepted");
        let marker = Claims::from_iter([(at.name().to_owned(), claim)]).marker();
        self.store.execute(&format!(
            "{marker} INSERT INTO {} (topic_partition, from_offset, to_offset, claim) VALUES ({}, {}, {}, {claim})",
            self.options.gaps,
            quote(at.name()),
            lost.start,
            lost.end
        ))?;
        Ok(())
    }

    fn shorter(&self, at: &TopicPartition, expected: i64, marks: Watermarks) -> NotYet {
        NotYet::Fatal(self.other_cluster(
            at,
            format!(
                "expected to go on at offset {expected}, but the topic ends at {}: it is another topic of the same name, or it \
                 has lost records that the store still has",
                marks.high
            ),
        ))
    }

    fn hole(&self, table: &str, at: &TopicPartition, tail: Option<&Tail>, expected: &Range<u64>) -> NotYet {
        #[derive(Deserialize)]
        struct Odd {
            offset: i64,
            count: u64,
        }
        let Some(tail) = tail else {
            return NotYet::Fatal(StageError::Internal(format!("{at}: a hole in a table without rows")));
        };
        let name = quote(at.name());
        // The first offset that is there twice, or has no successor.
        let odd: Result<Vec<Odd>, _> = self.store.select(&format!(
            "SELECT offset, count FROM (SELECT offset, count() AS count, leadInFrame(offset - max(skipped), 1, offset + 1) OVER \
             (ORDER BY offset ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS following \
             FROM {table} WHERE topic_partition = {name} GROUP BY offset) WHERE count > 1 OR following != offset + 1 \
             ORDER BY offset LIMIT 1"
        ));
        let place = match odd {
            Ok(odd) => odd.first().map_or_else(String::new, |odd| match odd.count {
                1 => format!("; the first missing offset is {}", odd.offset + 1),
                count => format!("; offset {} is there {count} times", odd.offset),
            }),
            Err(error) => return NotYet::Store(error),
        };
        let expected = match expected.end.saturating_sub(1) {
            most if most == expected.start => most.to_string(),
            most => format!("{} to {most}", expected.start),
        };
        NotYet::Fatal(StageError::Internal(format!(
            "{}: table {table}: expected {expected} rows of {at} for offsets {} to {}, {} of which have no record, found {}{place}; rows \
             were changed from outside, or lost by the store: see docs/errors/hole.md",
            self.options.stage, tail.first, tail.last, tail.skipped, tail.count
        )))
    }

    pub(super) fn other_cluster(&self, at: &TopicPartition, message: String) -> StageError {
        StageError::OtherCluster {
            stage: self.options.stage.clone(),
            topic: at.topic.to_string(),
            partition: at.partition,
            message,
        }
    }
}
