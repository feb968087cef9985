//! Establishes the claims of assigned or invalidated partitions and finds their resume positions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use agentgov_schemas::NotReadyReason;
use agentgov_service::metrics::timed;
use agentgov_service::{StageError, failpoint};
use rdkafka::consumer::CommitMode;
use rdkafka::error::KafkaError;
use serde::Deserialize;

use super::StoreError;
use super::group::{MembershipError, prove_membership};
use super::marker::Claims;
use super::position::{Position, RecordedRanges, ResumePoint, Watermarks, resume_position};
use super::protocol::{self, DrainOutcome, Identity, Tail};
use super::run::{Options, Sink};
use super::store::quote;
use super::{RowEncoder, TopicPartition};
use crate::hooks;

/// Number of conflicts in a row from which the other writer counts as outside the group. A member of an earlier
/// generation that has not noticed the rebalance takes a claim once or twice; membership is proven before each claim.
const MAX_CLAIM_CONFLICTS: u32 = 5;

/// Error of establishing claims.
enum EstablishError {
    Group(KafkaError),
    Kafka(KafkaError),
    Store(StoreError),
    Stopped,
    Fatal(StageError),
}

impl From<StoreError> for EstablishError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Table writers to establish, by index, with their partitions.
type DueWriters = BTreeMap<usize, Vec<TopicPartition>>;

/// A partition whose claim holds, with its resume position.
struct EstablishedPartition {
    /// Index of its table writer.
    writer: usize,
    at: TopicPartition,
    claim: u64,
    resume: ResumePoint,
}

impl<E: RowEncoder> Sink<E> {
    /// Establishes the table writers that are due. Failed ones are retried later; the others continue.
    pub(super) fn establish(&mut self) -> Result<(), StageError> {
        let now = Instant::now();
        let due: DueWriters = (self.writers.iter_mut().enumerate())
            .filter_map(|(index, writer)| {
                let due = writer.claim_at.is_some_and(|at| at <= now) && !writer.partitions.is_empty();
                let due = due && !writer.is_second_read_pending();
                due.then(|| (index, writer.partitions.values().map(|owned| owned.at.clone()).collect()))
            })
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let health = self.options.health.clone();
        match self.establish_claims(&due) {
            Ok(established) => {
                for EstablishedPartition { writer, at, claim, resume } in established {
                    let writer = self.writers.get_mut(writer);
                    if let Some(owned) = writer.and_then(|writer| writer.partitions.get_mut(&at.partition)) {
                        owned.set_claim(claim, resume);
                        tracing::info!(stage = self.options.stage, %at, offset = owned.fetch_position(), "resuming");
                    }
                }
                for index in due.keys() {
                    let Some(writer) = self.writers.get_mut(*index) else { continue };
                    if let Some(present) = writer.take_insert_resolution() {
                        self.metrics.resolved(&writer.route.table, present);
                        super::run::report_skipped(&self.options.stage, writer, &self.metrics);
                    }
                    writer.mark_claimed();
                }
                health.clear(NotReadyReason::Starting);
                health.clear(NotReadyReason::Group);
                self.outage.recovered(&health);
                if self.writers.iter().all(|writer| writer.consecutive_failures < 2) {
                    health.clear(NotReadyReason::Clickhouse);
                }
                self.commit(CommitMode::Async);
                return self.resume();
            }
            Err(EstablishError::Fatal(error)) => return Err(error),
            Err(EstablishError::Stopped) => {}
            Err(EstablishError::Group(error)) => {
                health.set_not_ready(NotReadyReason::Group, error.to_string())
            }
            Err(EstablishError::Kafka(error)) => {
                health.set_not_ready(NotReadyReason::Kafka, error.to_string())
            }
            Err(EstablishError::Store(error)) => {
                health.set_not_ready(NotReadyReason::Clickhouse, error.to_string())
            }
        }
        self.writers_of(&due).for_each(super::table_writer::TableWriter::invalidate);
        Ok(())
    }

    fn writers_of<'s>(
        &'s mut self,
        due: &'s DueWriters,
    ) -> impl Iterator<Item = &'s mut super::table_writer::TableWriter> {
        self.writers
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| due.contains_key(index))
            .map(|(_, writer)| writer)
    }

    fn establish_claims(&mut self, due: &DueWriters) -> Result<Vec<EstablishedPartition>, EstablishError> {
        let partitions: Vec<_> = due.values().flatten().cloned().collect();
        let Options { stop, health, .. } = &self.options;
        prove_membership(&self.consumer, &partitions, stop, health).map_err(|not| match not {
            MembershipError::NotMember(error) => EstablishError::Group(error),
            MembershipError::Unknown(error) => EstablishError::Kafka(error),
            MembershipError::Stopped => EstablishError::Stopped,
        })?;
        failpoint::edge("sink::proven");
        let health = self.options.health.clone();
        health.heartbeat();
        self.detect_foreign_writer(due)?;
        let names = partitions.iter().map(|at| at.name().to_owned());
        let claim = || protocol::claim(&self.store, &self.options.claims_table, names);
        let claims = timed(&self.metrics.claim, claim)?;
        failpoint::edge("sink::claimed");
        health.heartbeat();
        match timed(&self.metrics.drain, || protocol::drain(&self.store, &claims, &self.options.stop))? {
            DrainOutcome::Done => {}
            DrainOutcome::Stopped => return Err(EstablishError::Stopped),
        }
        failpoint::edge("sink::drained");
        let mut established = Vec::new();
        for (index, partitions) in due {
            health.heartbeat();
            let Some(writer) = self.writers.get(*index) else { continue };
            let read = || self.read_tail(*index, partitions, &claims, &mut established);
            self.metrics.time_tail_read(&writer.route.table, read)?;
        }
        failpoint::edge("sink::tail-read");
        Ok(established)
    }

    /// Detects a process outside the group that writes the same tables: it replaces the claims of proven members
    /// repeatedly.
    fn detect_foreign_writer(&mut self, due: &DueWriters) -> Result<(), EstablishError> {
        #[derive(Deserialize)]
        struct Claim {
            topic_partition: String,
            claim: u64,
        }
        let own_claims: Claims = due
            .keys()
            .filter_map(|index| self.writers.get(*index))
            .flat_map(|writer| writer.partitions.values())
            .filter(|owned| owned.claim != 0)
            .map(|owned| (owned.at.name().to_owned(), owned.claim))
            .collect();
        let listed: Vec<_> = own_claims.iter().map(|(name, _)| quote(name)).collect();
        if listed.is_empty() {
            return Ok(());
        }
        let claims = &self.options.claims_table;
        let found: Vec<Claim> = self.store.select(&format!(
            "SELECT topic_partition, claim FROM {claims} WHERE topic_partition IN ({})",
            listed.join(",")
        ))?;
        let taken = found
            .into_iter()
            .find(|row| own_claims.get(&row.topic_partition).is_some_and(|own| own != row.claim));
        let Some(taken) = taken else {
            self.claim_conflicts = 0;
            return Ok(());
        };
        self.claim_conflicts += 1;
        tracing::warn!(
            stage = self.options.stage,
            at = taken.topic_partition,
            "another process has claimed the partition"
        );
        if self.claim_conflicts < MAX_CLAIM_CONFLICTS {
            return Ok(());
        }
        Err(EstablishError::Fatal(StageError::Fenced {
            stage: self.options.stage.clone(),
            message: format!(
                "expected the claim of {} to hold, but a process outside the group {} replaces it repeatedly",
                taken.topic_partition, self.options.group
            ),
        }))
    }

    /// Reads the tail of a writer's partitions and compares it with Kafka.
    fn read_tail(
        &self,
        index: usize,
        partitions: &[TopicPartition],
        claims: &Claims,
        established: &mut Vec<EstablishedPartition>,
    ) -> Result<(), EstablishError> {
        let Some(writer) = self.writers.get(index) else { return Ok(()) };
        let names: BTreeSet<_> = partitions.iter().map(|at| at.name().to_owned()).collect();
        let tails = protocol::read_tails(&self.store, &writer.route.table, writer.route.gapless, &names)?;
        let gaps = self.recorded_ranges(&self.options.gaps_table, &names)?;
        let empty = self.recorded_ranges(&self.options.empty_ranges_table, &names)?;
        let mut compare = BTreeMap::new();
        for at in partitions {
            let tail = tails.get(at.name());
            let marks = self.probe.watermarks(at).map_err(EstablishError::Kafka)?;
            let of = |ranges: &BTreeMap<_, Vec<_>>| ranges.get(at.name()).cloned().unwrap_or_default();
            let (gaps, empty) = (of(&gaps), of(&empty));
            let recorded = RecordedRanges { gaps: &gaps, empty: &empty };
            let claim = claims.get(at.name()).ok_or_else(|| {
                EstablishError::Fatal(StageError::Internal(format!(
                    "{at}: expected a claim with the others of its table, found none"
                )))
            })?;
            let (resume, to_compare) = match resume_position(tail, marks, recorded, writer.route.gapless) {
                Position::Continue { resume, compare } => (resume, compare),
                Position::Overtaken { from, to, compare } => {
                    self.handle_overtaken(at, from..to, claim)?;
                    (ResumePoint::at(to), compare)
                }
                Position::Shorter { expected } => return Err(self.topic_shorter_error(at, expected, marks)),
                Position::Hole { expected } => {
                    return Err(self.missing_rows_error(&writer.route.table, at, tail, &expected));
                }
            };
            if let Some((tail, offset)) = tail.zip(to_compare) {
                compare.insert(at.clone(), (offset, tail.identity));
            }
            let next =
                hooks::resume_offset(&self.consumer, at, resume.next).map_err(EstablishError::Kafka)?;
            let resume = if next == resume.next { resume } else { ResumePoint::at(next) };
            established.push(EstablishedPartition { writer: index, at: at.clone(), claim, resume });
        }
        self.compare_last_records(&writer.route.table, &compare)
    }

    /// Compares the record at the table's last offset with the record that Kafka holds there.
    fn compare_last_records(
        &self,
        table: &str,
        expected: &BTreeMap<TopicPartition, (i64, Identity)>,
    ) -> Result<(), EstablishError> {
        let offsets = expected.iter().map(|(at, (offset, _))| (at.clone(), *offset)).collect();
        let records = self.probe.records(&offsets).map_err(EstablishError::Kafka)?;
        for (at, (offset, identity)) in expected {
            let Some(found) = records.get(at) else { continue };
            if found.offset == *offset && found.identity == Some(*identity) {
                continue;
            }
            // Retention may have deleted it since the watermarks were read.
            if self.probe.watermarks(at).map_err(EstablishError::Kafka)?.low > *offset {
                continue;
            }
            return Err(EstablishError::Fatal(self.other_cluster(
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

    /// Returns the ranges of offsets that a table records, by topic-partition.
    fn recorded_ranges(
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

    /// Handles deleted offsets that were never read. Ends the stage, unless the gap is accepted: then it is recorded
    /// before fetching resumes.
    fn handle_overtaken(
        &self,
        at: &TopicPartition,
        lost: Range<i64>,
        claim: u64,
    ) -> Result<(), EstablishError> {
        if !self.options.accept_gap {
            return Err(EstablishError::Fatal(StageError::Overtaken {
                stage: self.options.stage.clone(),
                topic: at.topic.to_string(),
                partition: at.partition,
                expected: lost.start,
                found: lost.end,
            }));
        }
        tracing::warn!(stage = self.options.stage, %at, from = lost.start, to = lost.end, "resuming after an accepted gap");
        let marker = Claims::from_iter([(at.name().to_owned(), claim)]).marker();
        self.store.execute(&format!(
            "{marker} INSERT INTO {} (topic_partition, from_offset, to_offset, claim) VALUES ({}, {}, {}, {claim})",
            self.options.gaps_table,
            quote(at.name()),
            lost.start,
            lost.end
        ))?;
        Ok(())
    }

    fn topic_shorter_error(&self, at: &TopicPartition, expected: i64, marks: Watermarks) -> EstablishError {
        EstablishError::Fatal(self.other_cluster(
            at,
            format!(
                "expected to resume at offset {expected}, but the topic ends at {}: it is another topic of the same name, or it \
                 has lost records that the store still has",
                marks.high
            ),
        ))
    }

    fn missing_rows_error(
        &self,
        table: &str,
        at: &TopicPartition,
        tail: Option<&Tail>,
        expected: &Range<u64>,
    ) -> EstablishError {
        #[derive(Deserialize)]
        struct Anomaly {
            offset: i64,
            count: u64,
        }
        let Some(tail) = tail else {
            return EstablishError::Fatal(StageError::Internal(format!(
                "{at}: missing rows in a table without rows"
            )));
        };
        let name = quote(at.name());
        // Finds the first offset that occurs twice or has no successor.
        let anomaly: Result<Vec<Anomaly>, _> = self.store.select(&format!(
            "SELECT offset, count FROM (SELECT offset, count() AS count, leadInFrame(offset - max(skipped), 1, offset + 1) OVER \
             (ORDER BY offset ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS following \
             FROM {table} WHERE topic_partition = {name} GROUP BY offset) WHERE count > 1 OR following != offset + 1 \
             ORDER BY offset LIMIT 1"
        ));
        let detail = match anomaly {
            Ok(anomaly) => anomaly.first().map_or_else(String::new, |anomaly| match anomaly.count {
                1 => format!("; the first missing offset is {}", anomaly.offset + 1),
                count => format!("; offset {} occurs {count} times", anomaly.offset),
            }),
            Err(error) => return EstablishError::Store(error),
        };
        let expected = match expected.end.saturating_sub(1) {
            most if most == expected.start => most.to_string(),
            most => format!("{} to {most}", expected.start),
        };
        EstablishError::Fatal(StageError::Internal(format!(
            "{}: table {table}: expected {expected} rows of {at} for offsets {} to {}, {} of which have no record, found {}{detail}; rows \
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
