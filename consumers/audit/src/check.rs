//! Completeness check of topics and tables.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use agentgov_connect::{Endpoints, SchemaRegistry, SchemaRegistryError, TlsError, describe};
use agentgov_schemas::Vocabulary;
use agentgov_schemas::alert::REFUSED_POLICY;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::verdict::{Decision, DecisionCause, DecisionFinding, Reason};
use rdkafka::error::KafkaError;
use sha2::{Digest as _, Sha256};

use crate::bases::{Bases, NamedPositions};
use crate::events::{Events, Expected, RecordPosition};
use crate::kafka::{self, Partitions, Reader, Record};
use crate::record::{self, Decoder, Fields};
use crate::report::{FindingKind, Interval, Report};
use crate::rows::{RowDigest, Tables};
use crate::{headers, sessions, sources};

/// Error that ends an audit. Findings up to the error are discarded.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A request to Kafka failed.
    #[error("audit: reading {topic}: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// Error of Kafka.
        source: KafkaError,
    },
    /// Kafka sent no response within the timeout.
    #[error(
        "audit: reading {topic}: expected records or the end of each partition, found no response in time"
    )]
    Timeout {
        /// The topic.
        topic: String,
    },
    /// A record has no timestamp, so the expiry of its session is unknown.
    #[error(
        "audit: {topic}/{partition} offset {offset}: expected the time at which the broker appended the record, found none; \
         see docs/errors/no_timestamp.md"
    )]
    NoTimestamp {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// A query of the tables failed.
    #[error("audit: reading the tables: {}", describe(.0))]
    ClickHouse(#[from] clickhouse::error::Error),
    /// The TLS settings for ClickHouse are invalid.
    #[error("audit: clickhouse: {0}")]
    Tls(#[from] TlsError),
    /// A request to the schema registry failed.
    #[error(transparent)]
    Registry(#[from] SchemaRegistryError),
    /// The topology lacks a role.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// The asynchronous runtime cannot start.
    #[error("audit: {0}")]
    Io(#[from] std::io::Error),
}

/// Number of the evaluator's answers to a record that requires one.
#[derive(Clone, Copy, Debug)]
struct AnswerCount {
    expected: Expected,
    /// Number of verdicts and rejects.
    found: u32,
}

/// Content of verdicts, rejects and alerts about the actions.
#[derive(Default)]
struct StageOutputs {
    answers: BTreeMap<RecordPosition, AnswerCount>,
    /// Actions with a duplicate verdict.
    duplicates: BTreeSet<RecordPosition>,
    /// Records of the topic of actions that the evaluator rejected.
    rejected: BTreeSet<RecordPosition>,
    sent_again: u64,
    named_positions: NamedPositions,
    bases: Bases,
    /// Number of alerts for each action and policy that require one.
    required: BTreeMap<(RecordPosition, String), u32>,
    /// Alerts that no verdict requires.
    unexpected: Vec<(RecordPosition, String)>,
}

/// Compares topics and tables, and checks the events' sequence numbers, the evaluator's counters and its evaluation bases.
/// Reads all records that the topics still hold.
///
/// Records after the committed offset of a stage are pending, not lost.
pub fn completeness(topology: &Topology, endpoints: &Endpoints) -> Result<Report, AuditError> {
    let mut audit = Audit {
        topology,
        endpoints,
        decoder: Decoder::new(SchemaRegistry::new(&endpoints.schema_registry)?),
        tables: Tables::new(&endpoints.clickhouse)?,
        report: Report::default(),
        answered: StageOutputs::default(),
    };
    let (actions, events) = audit.actions()?;
    // Reads a stage's committed offsets before its outputs, so that concurrent work is not reported as missing.
    let judged = audit.committed("evaluator", &actions)?;
    let verdicts = audit.topic(subject::VERDICT, StageOutputs::verdict)?;
    let alerted = audit.committed("alerter", &verdicts)?;
    audit.topic(subject::REJECT, StageOutputs::reject)?;
    audit.topic(subject::ALERT, StageOutputs::alert)?;
    // Read after the verdicts: a verdict and its basis are committed together.
    audit.topic(subject::EVALUATION_BASIS, StageOutputs::basis)?;
    audit.answered.bases.check(&audit.answered.named_positions, &mut audit.report);
    audit.report.sent_again = audit.answered.sent_again;
    audit.check_verdicts(&actions, &judged);
    audit.check_alerts(&verdicts, &alerted, &judged);
    events.misplaced(&mut audit.report);
    sources::examine(&events, actions.horizon(), &mut audit.report);
    audit.check_sessions(&actions, &events)?;
    Ok(audit.report)
}

/// Runs the checks of the topic of actions on records alone, as if no stage had processed them. `schema` is the writer's schema of
/// every value in the wire format. The records of a partition must be in order.
pub fn examine<'a>(schema: &str, partitions: usize, records: impl IntoIterator<Item = Record<'a>>) -> Report {
    let schema = record::parse(schema);
    let (mut events, mut bounds, mut report) =
        (Events::new("actions", partitions), Partitions::new(), Report::default());
    for record in records {
        let event = match record.value {
            Some([0, _, _, _, _, datum @ ..]) => {
                schema.as_ref().and_then(|schema| record::decode(schema, datum))
            }
            _ => None,
        };
        report.records += 1;
        if events.add(&record, event.as_ref().map(record::Record::fields)) == Some(Expected::Answer) {
            report.judged += 1;
        }
        let end = record.offset.saturating_add(1);
        bounds.entry(record.partition).or_insert(kafka::Bounds { low: 0, end }).end = end;
    }
    events.misplaced(&mut report);
    sources::examine(&events, None, &mut report);
    let context = sessions::Context {
        partitions: &bounds,
        rejected: &BTreeSet::new(),
        duplicates: &BTreeSet::new(),
        headers: &headers::Headers::new(),
        ttl: i64::MAX,
    };
    sessions::examine(&events, &context, &mut report);
    report
}

/// State of a running audit.
struct Audit<'a> {
    topology: &'a Topology,
    endpoints: &'a Endpoints,
    decoder: Decoder,
    tables: Tables,
    report: Report,
    answered: StageOutputs,
}

/// Content of a topic.
struct Topic {
    name: String,
    partitions: Partitions,
    /// Records by partition, in the order of their offsets.
    held: BTreeMap<i32, Vec<RecordDigest>>,
}

/// Offset, append time and digest of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordDigest {
    offset: i64,
    logged_at: i64,
    sha256: [u8; 32],
}

impl Topic {
    /// Returns the offset after the last record of each non-empty partition.
    fn ends(&self) -> impl Iterator<Item = (i32, i64)> {
        let last = |(partition, held): (&i32, &Vec<RecordDigest>)| {
            Some((*partition, held.last()?.offset.saturating_add(1)))
        };
        self.held.iter().filter_map(last)
    }

    /// Returns the append time up to which retention may have deleted records; `None` if it has deleted none.
    fn horizon(&self) -> Option<i64> {
        let gone = self.partitions.iter().filter(|(_, bounds)| bounds.low > 0);
        gone.map(|(partition, _)| {
            self.held.get(partition).and_then(|held| held.first()).map_or(i64::MAX, |first| first.logged_at)
        })
        .max()
    }
}

impl Audit<'_> {
    /// Reads the topic of actions.
    fn actions(&mut self) -> Result<(Topic, Events), AuditError> {
        let (name, _) = self.topology.topic_of(subject::ACTION_EVENT)?;
        // Reads high watermarks before the last stable offsets, so that records appended in between do not count as held back.
        let highs = kafka::high_watermarks(&self.endpoints.kafka, name)?;
        let reader = Reader::open(&self.endpoints.kafka, name)?;
        let mut events = Events::new(name, reader.bounds().len());
        let (decoder, answers) = (&mut self.decoder, &mut self.answered.answers);
        let topic = read(reader, name, |record| {
            let event = decoder.decode(record.value.unwrap_or_default())?;
            if let Some(expected) = events.add(record, event.as_ref().map(|event| event.fields())) {
                answers.insert((record.partition, record.offset), AnswerCount { expected, found: 0 });
            }
            Ok(())
        })?;
        self.compare_with_table(subject::ACTION_EVENT, &topic)?;
        report_transactions(&mut self.report, &topic);
        self.report.held_back = count_held_back(&topic.partitions, &highs);
        Ok((topic, events))
    }

    /// Reads an output topic of a stage, and adds each record with `add`.
    fn topic(
        &mut self,
        subject: Subject,
        add: fn(&mut StageOutputs, Fields<'_>),
    ) -> Result<Topic, AuditError> {
        let (name, _) = self.topology.topic_of(subject)?;
        let (decoder, answered) = (&mut self.decoder, &mut self.answered);
        let topic = read(Reader::open(&self.endpoints.kafka, name)?, name, |record| {
            if let Some(fields) = decoder.decode(record.value.unwrap_or_default())? {
                add(answered, fields.fields());
            }
            Ok(())
        })?;
        self.compare_with_table(subject, &topic)?;
        Ok(topic)
    }

    /// Compares a topic with its table.
    fn compare_with_table(&mut self, subject: Subject, topic: &Topic) -> Result<(), AuditError> {
        let (name, _) = self.topology.topic_of(subject)?;
        let (_, table) = self.topology.table_from(name)?;
        let mut rows = self.tables.rows(table, name)?;
        for (partition, bounds) in &topic.partitions {
            let held = topic.held.get(partition).map_or(&[][..], Vec::as_slice);
            let rows = rows.of_partition(*partition)?;
            let place = format!("{name}/{partition}");
            compare(&mut self.report, &place, bounds.low, held, &rows);
            if subject == subject::ACTION_EVENT {
                compare_skipped(&mut self.report, &place, bounds.low, held, &rows);
            }
        }
        Ok(())
    }

    /// Checks that each action before the evaluator's committed offset has exactly one verdict or reject.
    fn check_verdicts(&mut self, actions: &Topic, passed: &BTreeMap<i32, i64>) {
        for ((partition, offset), AnswerCount { expected, found }) in &self.answered.answers {
            self.report.judged += u64::from(*expected == Expected::Answer);
            let is_passed = passed.get(partition).is_some_and(|next| offset < next);
            if *found == 0 && !is_passed {
                self.report.unanswered += 1;
            }
            if *found != 1 && is_passed {
                self.report.add_in(FindingKind::Unjudged, *partition, || {
                    let place = format!("{}/{partition}@{offset}", actions.name);
                    match expected {
                        Expected::Answer => format!("{place}: {found} verdicts and rejects"),
                        Expected::Reject(why) => format!("{place}, with {why}: {found} verdicts and rejects"),
                    }
                });
            }
        }
    }

    /// Checks that each finding of a verdict has exactly one alert. A verdict does not contain its own position, so a missing alert
    /// is pending if the alerter has any uncommitted verdict. For an action after the evaluator's committed offset, verdict and
    /// alert may have been written after the verdicts were read; an unexpected alert is then ignored.
    fn check_alerts(&mut self, verdicts: &Topic, passed: &BTreeMap<i32, i64>, judged: &BTreeMap<i32, i64>) {
        let behind =
            verdicts.ends().any(|(partition, end)| passed.get(&partition).copied().unwrap_or(0) < end);
        for (((partition, offset), policy), alerts) in &self.answered.required {
            let place = || format!("{policy} at partition {partition} offset {offset}: {alerts} alerts");
            match alerts {
                1 => {}
                0 if behind => self.report.unanswered += 1,
                0 => self.report.add_in(FindingKind::AlertMissing, *partition, place),
                _ => self.report.add_in(FindingKind::AlertDoubled, *partition, place),
            }
        }
        self.answered.unexpected.sort();
        for ((partition, offset), policy) in &self.answered.unexpected {
            if judged.get(partition).is_none_or(|next| offset >= next) {
                continue;
            }
            self.report.add_in(FindingKind::AlertDoubled, *partition, || {
                format!(
                    "{policy} at partition {partition} offset {offset}: an alert that no verdict requires"
                )
            });
        }
    }

    /// Returns the offsets that a stage has committed.
    fn committed(&self, stage: &str, topic: &Topic) -> Result<BTreeMap<i32, i64>, AuditError> {
        let group = &self.topology.stage(stage)?.group.value;
        let partitions: Vec<i32> = topic.partitions.keys().copied().collect();
        kafka::committed(&self.endpoints.kafka, group, &topic.name, &partitions)
    }

    /// Checks each session's sequence numbers, and its counters in the evaluator's changelog.
    fn check_sessions(&mut self, actions: &Topic, events: &Events) -> Result<(), AuditError> {
        let stage = self.topology.stage("evaluator")?;
        let headers = match &stage.state {
            Some(changelog) => headers::read(&self.endpoints.kafka, &changelog.value, &mut self.decoder)?,
            None => headers::Headers::new(),
        };
        let ttl = stage
            .session
            .as_ref()
            .map_or(i64::MAX, |limits| i64::try_from(limits.value.ttl.0.as_millis()).unwrap_or(i64::MAX));
        let context = sessions::Context {
            partitions: &actions.partitions,
            rejected: &self.answered.rejected,
            duplicates: &self.answered.duplicates,
            headers: &headers,
            ttl,
        };
        sessions::examine(events, &context, &mut self.report);
        Ok(())
    }
}

/// Reads a topic and returns position and digest of each record.
fn read(
    reader: Reader<'_>,
    name: &str,
    mut each: impl FnMut(&Record<'_>) -> Result<(), AuditError>,
) -> Result<Topic, AuditError> {
    let mut held: BTreeMap<i32, Vec<RecordDigest>> = BTreeMap::new();
    let partitions = reader.read(|record| {
        let Record { partition, offset, logged_at, value, .. } = *record;
        let sha256 = Sha256::digest(value.unwrap_or_default()).into();
        held.entry(partition).or_default().push(RecordDigest { offset, logged_at, sha256 });
        each(record)
    })?;
    Ok(Topic { name: name.to_owned(), partitions, held })
}

/// Reports offsets of the topic of actions without a record, which transactions took. This includes markers at the end of a
/// partition, which the sink will never write.
fn report_transactions(report: &mut Report, actions: &Topic) {
    for (partition, bounds) in &actions.partitions {
        let held = actions.held.get(partition).map_or(&[][..], Vec::as_slice);
        let ends = held.iter().map(|held| held.offset).chain([bounds.end]);
        let mut next = bounds.low;
        for offset in ends {
            if next < offset {
                let of = format!("{}/{partition}", actions.name);
                let interval = Interval { of, first: next, last: offset - 1 };
                report.add_interval(FindingKind::Transactional, next.abs_diff(offset), interval);
            }
            next = offset.saturating_add(1);
        }
    }
}

/// Returns the number of offsets that open transactions hold back from readers of committed records.
fn count_held_back(partitions: &Partitions, highs: &BTreeMap<i32, i64>) -> u64 {
    let behind = partitions.iter().filter_map(|(partition, bounds)| {
        let high = highs.get(partition)?;
        u64::try_from(high.saturating_sub(bounds.end)).ok()
    });
    behind.fold(0, u64::saturating_add)
}

/// Compares the records of a partition with its rows, both in the order of their offsets.
fn compare(report: &mut Report, name: &str, low: i64, held: &[RecordDigest], rows: &[RowDigest]) {
    report.records += held.len() as u64;
    report.rows += rows.len() as u64;
    let last_row = rows.last().map_or(-1, |row| row.offset);
    for pair in rows.windows(2) {
        if let [a, b] = pair
            && a.offset == b.offset
        {
            report.add(FindingKind::Doubled, || format!("{name}@{}", a.offset));
        }
    }
    let row_at = |offset: i64| {
        let at = rows.partition_point(|row| row.offset < offset);
        rows.get(at).filter(|row| row.offset == offset)
    };
    for RecordDigest { offset, sha256, .. } in held {
        match row_at(*offset) {
            None if *offset > last_row => report.pending += 1,
            None => report.add(FindingKind::Lost, || format!("{name}@{offset}")),
            Some(found) if found.sha256 != *sha256 => {
                report.add(FindingKind::Different, || format!("{name}@{offset}"));
            }
            Some(_) => {}
        }
    }
    let offsets: HashSet<i64> = held.iter().map(|held| held.offset).collect();
    let end = held.last().map_or(low, |held| held.offset.saturating_add(1));
    for row in
        rows.iter().filter(|row| row.offset >= low && row.offset < end && !offsets.contains(&row.offset))
    {
        report.add(FindingKind::Different, || {
            format!("{name}@{}: a row without a record in the topic", row.offset)
        });
    }
}

/// Compares the skipped offsets that each row counts with those between its record and the previous one.
fn compare_skipped(report: &mut Report, name: &str, low: i64, held: &[RecordDigest], rows: &[RowDigest]) {
    for row in rows {
        report.skipped = report.skipped.saturating_add(row.skipped);
        let Ok(at) = held.binary_search_by_key(&row.offset, |held| held.offset) else { continue };
        let before = match at.checked_sub(1).and_then(|before| held.get(before)) {
            Some(before) => before.offset.saturating_add(1),
            None if low == 0 => 0,
            // Retention has deleted the previous records.
            None => continue,
        };
        let expected = before.abs_diff(row.offset);
        if row.skipped != expected {
            report.add(FindingKind::Different, || {
                format!(
                    "{name}@{}: the row counts {} offsets without a record before it, the topic has {expected}",
                    row.offset, row.skipped
                )
            });
        }
    }
}

impl StageOutputs {
    fn verdict(&mut self, verdict: Fields<'_>) {
        let Some(action) = origin(verdict, "origin") else { return };
        if let Some(answers) = self.answers.get_mut(&action) {
            answers.found = answers.found.saturating_add(1);
        }
        self.named_positions.add(action, verdict);
        if verdict.has("duplicate_of") {
            self.sent_again += 1;
            self.duplicates.insert(action);
            return;
        }
        let mut require = |policy: &str| self.required.insert((action, policy.to_owned()), 0);
        let is_approved = verdict.text("reason") == Some(Reason::Approved.as_str());
        for violation in verdict.records("violations") {
            if is_approved && violation.text("mode") == Some("enforce") {
                continue;
            }
            require(violation.text("policy").unwrap_or_default());
        }
        let approval = verdict.record("approval");
        if let Some("forged" | "altered" | "own" | "unknown") =
            approval.and_then(|approval| approval.text("finding"))
        {
            require("agentgov:approval");
        }
        let decision = verdict.text("decision").and_then(Decision::by_name);
        match (decision, verdict.text("reason").and_then(Reason::by_name)) {
            (Some(Decision::Deny), Some(reason)) if reason != Reason::Policy => {
                require(&format!("agentgov:{}", reason.as_str().replace('_', "-")));
            }
            (Some(Decision::Indeterminate), _) => drop(require("agentgov:indeterminate")),
            _ => {}
        }
        if let Some(prior) = verdict.record("prior_decision") {
            match prior.text("finding").and_then(DecisionFinding::by_name) {
                Some(DecisionFinding::Undecided) if prior.plain("required").as_deref() != Some(b"1") => {}
                Some(DecisionFinding::Matched) | None => {}
                Some(finding) => drop(require(&format!("agentgov:{finding}"))),
            }
            let is_genuine = match prior.text("finding").and_then(DecisionFinding::by_name) {
                Some(DecisionFinding::Matched | DecisionFinding::Differs) => true,
                Some(DecisionFinding::Forged) => prior.text("cause") == Some(DecisionCause::Expired.as_str()),
                _ => false,
            };
            if is_genuine
                && prior.has("unavailable")
                && prior.text("outcome") == Some(Decision::Allow.as_str())
            {
                require("agentgov:unavailable");
            }
        }
    }

    fn basis(&mut self, basis: Fields<'_>) {
        self.bases.add(basis);
    }

    fn reject(&mut self, reject: Fields<'_>) {
        let Some(action) = origin(reject, "origin") else { return };
        // A reject of another stage refers to another topic.
        if reject.text("stage") != Some("evaluator") {
            return;
        }
        self.rejected.insert(action);
        if let Some(answers) = self.answers.get_mut(&action) {
            answers.found = answers.found.saturating_add(1);
        }
    }

    fn alert(&mut self, alert: Fields<'_>) {
        let policy = alert.text("policy").unwrap_or_default();
        // Alerts about agentgov itself, which no verdict requires.
        if ["agentgov:bundle-refused", "agentgov:reject-flood", "agentgov:stage-stopped"].contains(&policy) {
            return;
        }
        let Some(action) = origin(alert, "origin") else { return };
        // The evaluator emits these with the result of a call. No verdict requires them, and each result has at most one.
        if policy == REFUSED_POLICY {
            let alerts = self.required.entry((action, policy.to_owned())).or_default();
            *alerts = alerts.saturating_add(1);
            return;
        }
        match self.required.get_mut(&(action, policy.to_owned())) {
            Some(alerts) => *alerts = alerts.saturating_add(1),
            None => self.unexpected.push((action, policy.to_owned())),
        }
    }
}

fn origin(record: Fields<'_>, name: &str) -> Option<RecordPosition> {
    let origin = record.record(name)?;
    Some((i32::try_from(origin.number("partition")?).ok()?, origin.number("offset")?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::testing::Event;

    fn digest(of: &str) -> [u8; 32] {
        Sha256::digest(of).into()
    }

    fn held(offsets: &[i64]) -> Vec<RecordDigest> {
        let held = |offset: &i64| RecordDigest {
            offset: *offset,
            logged_at: 0,
            sha256: digest(&format!("d{offset}")),
        };
        offsets.iter().map(held).collect()
    }

    fn report(there: &[i64], rows: &[(i64, &str)], low: i64) -> Report {
        let rows: Vec<_> = rows
            .iter()
            .map(|(offset, d)| RowDigest { offset: *offset, sha256: digest(d), skipped: 0 })
            .collect();
        let mut report = Report::default();
        compare(&mut report, "t/0", low, &held(there), &rows);
        report
    }

    #[test]
    fn each_kind_of_difference_is_reported_with_its_position() {
        let whole = report(&[3, 4, 6], &[(1, "d1"), (3, "d3"), (4, "d4"), (6, "d6")], 3);
        assert_eq!(
            (whole.findings.len(), whole.records, whole.rows),
            (0, 3, 4),
            "older rows outlive the topic"
        );
        let behind = report(&[0, 1, 2], &[(0, "d0")], 0);
        assert_eq!((behind.findings.len(), behind.pending), (0, 2));
        for (there, rows, kind, first) in [
            (&[0, 1, 2][..], &[(0, "d0"), (2, "d2")][..], FindingKind::Lost, "t/0@1"),
            (&[0, 1], &[(0, "d0"), (1, "d1"), (1, "d1")], FindingKind::Doubled, "t/0@1"),
            (&[0, 1], &[(0, "d0"), (1, "dX")], FindingKind::Different, "t/0@1"),
            (
                &[0, 2],
                &[(0, "d0"), (1, "d1"), (2, "d2")],
                FindingKind::Different,
                "t/0@1: a row without a record in the topic",
            ),
        ] {
            let found = report(there, rows, 0).findings;
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].kind, found[0].count, found[0].first.as_str()), (kind, 1, first));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// For any bytes, keys and partitions, the checks return, and their result does not depend on the order of partitions.
        #[test]
        fn any_records_can_be_examined(
            changes in prop::collection::vec((0..4_i32, 0..9_i64, any::<(u8, u16, u8)>(), any::<Option<[u8; 3]>>()), 0..40),
        ) {
            let schema = subject::ACTION_EVENT.schema().unwrap().text();
            let values: Vec<_> = changes.iter().map(|(_, sequence, (kind, at, byte), _)| {
                let event = match kind % 4 {
                    0 => Event::closing("a", *sequence, i64::from(*byte)),
                    _ => Event::of(["a", "b"][usize::from(kind % 2)], *sequence),
                };
                let mut value = [vec![0, 0, 0, 0, 1], event.encode()].concat();
                let at = usize::from(*at) % value.len();
                match kind % 5 {
                    0 => value[at] = *byte,
                    1 => value.truncate(at),
                    2 => value.insert(at, *byte),
                    _ => {}
                }
                value
            }).collect();
            let mut next = [0; 4];
            let mut records: Vec<_> = changes.iter().zip(&values).map(|((partition, _, (kind, ..), key), value)| {
                let at = usize::try_from(*partition).unwrap();
                let offset = next[at];
                next[at] += 1;
                let value = (kind % 7 > 0).then_some(value.as_slice());
                Record { partition: *partition, offset, logged_at: 0, key: key.as_ref().map(|key| &key[..]), value }
            }).collect();
            let report = examine(schema, 4, records.iter().copied());
            prop_assert_eq!(report.records, records.len() as u64);
            records.sort_by_key(|record| std::cmp::Reverse(record.partition));
            prop_assert_eq!(examine(schema, 4, records.iter().copied()), report);
        }
    }

    /// Returns the alerts that the verdict of an action with this prior decision requires, after `alerts` of each policy.
    /// The decision is `finding, cause, outcome, unavailable`; the later ones can be absent.
    fn required(prior: &str, alerts: &[&str]) -> Vec<(String, u32)> {
        let schema = |name: &str, fields: &str| {
            let origin = r#"{"name":"origin","type":{"type":"record","name":"O","fields":[{"name":"partition","type":"int"},{"name":"offset","type":"long"}]}}"#;
            record::parse(&format!(r#"{{"type":"record","name":"{name}","fields":[{origin},{fields}]}}"#))
                .unwrap()
        };
        let text = |text: &str| [&[u8::try_from(2 * text.len()).unwrap()], text.as_bytes()].concat();
        let texts = ["finding", "cause", "outcome", "unavailable"];
        let fields = texts.map(|name| format!(r#"{{"name":"{name}","type":["null","string"]}}"#)).join(",");
        let prior_type = format!(
            r#"{{"type":"record","name":"P","fields":[{fields},{{"name":"required","type":"boolean"}}]}}"#
        );
        let verdict = schema("V", &format!(r#"{{"name":"prior_decision","type":["null",{prior_type}]}}"#));
        let (prior, is_required) = prior.strip_suffix(" required").map_or((prior, 0), |prior| (prior, 1));
        let mut values: Vec<&str> = prior.split(", ").collect();
        values.resize(texts.len(), "");
        let optional = |value: &str| if value.is_empty() { vec![0] } else { [vec![2], text(value)].concat() };
        let values = values.into_iter().map(optional).collect::<Vec<_>>().concat();
        let datum = [vec![0, 0, 2], values, vec![is_required]].concat();
        let mut outputs = StageOutputs::default();
        outputs.verdict(record::decode(&verdict, &datum).unwrap().fields());
        let alert = schema("A", r#"{"name":"policy","type":"string"}"#);
        for policy in alerts {
            let datum = [vec![0, 0], text(policy)].concat();
            outputs.alert(record::decode(&alert, &datum).unwrap().fields());
        }
        assert!(outputs.unexpected.is_empty(), "{:?}", outputs.unexpected);
        outputs.required.into_iter().map(|((_, policy), alerts)| (policy, alerts)).collect()
    }

    #[test]
    fn finding_about_a_decision_requires_its_alert_and_an_answer_may_have_one() {
        for (prior, policy) in [
            ("undecided required", "agentgov:undecided"),
            ("forged", "agentgov:forged"),
            ("altered", "agentgov:altered"),
            ("reused", "agentgov:reused"),
            ("differs required", "agentgov:differs"),
        ] {
            assert_eq!(required(prior, &[]), [(policy.to_owned(), 0)], "{prior}");
            assert_eq!(required(prior, &[policy]), [(policy.to_owned(), 1)], "{prior}");
        }
        for prior in ["undecided", "matched", "matched required", "of a later version"] {
            assert_eq!(required(prior, &[]), [], "{prior}");
        }
        let unseen = "agentgov:unavailable".to_owned();
        for (prior, policy, is_unseen) in [
            ("differs, unavailable, allow, stale", "agentgov:differs", true),
            ("forged, expired, allow, stale", "agentgov:forged", true),
            ("forged, expired, deny, stale", "agentgov:forged", false),
            ("forged, expired, allow", "agentgov:forged", false),
            ("reused, , allow, stale", "agentgov:reused", false),
        ] {
            let found: Vec<_> = required(prior, &[]).into_iter().map(|(policy, _)| policy).collect();
            let expected = std::iter::once(policy.to_owned()).chain(is_unseen.then(|| unseen.clone()));
            assert_eq!(found, expected.collect::<Vec<_>>(), "{prior}");
        }
        let refused = |alerts| [(REFUSED_POLICY.to_owned(), alerts)];
        assert_eq!(required("matched", &[REFUSED_POLICY]), refused(1));
        assert_eq!(required("matched", &[REFUSED_POLICY; 2]), refused(2), "doubled");
    }

    #[test]
    fn offsets_held_back_by_open_transactions_are_counted() {
        let partitions =
            Partitions::from([0, 1, 2].map(|partition| (partition, kafka::Bounds { low: 0, end: 5 })));
        let held_back = |highs: [i64; 3]| count_held_back(&partitions, &(0..).zip(highs).collect());
        assert_eq!(held_back([5, 5, 5]), 0);
        assert_eq!(held_back([9, 5, 6]), 5);
        assert_eq!(held_back([4, 0, 5]), 0, "records were appended between the requests");
        assert_eq!(held_back([i64::MAX; 3]), u64::MAX);
    }

    #[test]
    fn wrong_number_of_skipped_offsets_is_a_finding() {
        for (what, low, offsets, rows, wrong, skipped) in [
            ("no transaction", 0, &[0, 1, 2][..], &[(0, 0), (1, 0), (2, 0)][..], None, 0),
            ("a marker between", 0, &[0, 1, 3], &[(0, 0), (1, 0), (3, 1)], None, 1),
            ("transactions at the beginning", 0, &[4], &[(4, 4)], None, 4),
            ("a marker that no row counts", 0, &[0, 2], &[(0, 0), (2, 0)], Some("t/0@2"), 0),
            ("a record that a row passes over", 0, &[0, 1, 2], &[(0, 0), (2, 1)], Some("t/0@2"), 1),
            ("a claim", 0, &[0, 1], &[(0, u64::MAX), (1, u64::MAX)], Some("t/0@0"), u64::MAX),
            ("retention has deleted what came before", 7, &[7, 9], &[(5, 2), (7, 1), (9, 1)], None, 4),
            ("the sink is behind", 0, &[0, 2, 4], &[(0, 0), (2, 1)], None, 1),
        ] {
            let place = |(offset, skipped): &(i64, u64)| RowDigest {
                offset: *offset,
                sha256: digest(&format!("d{offset}")),
                skipped: *skipped,
            };
            let rows: Vec<_> = rows.iter().map(place).collect();
            let mut report = Report::default();
            compare_skipped(&mut report, "t/0", low, &held(offsets), &rows);
            let first = report
                .finding(FindingKind::Different)
                .map(|found| found.first.split(':').next().unwrap().to_owned());
            assert_eq!(first.as_deref(), wrong, "{what}");
            assert_eq!(report.skipped, skipped, "{what}");
        }
    }

    #[test]
    fn offsets_of_transactions_are_a_finding_without_loss() {
        for (what, bounds, offsets, expected) in [
            ("no transaction", (0, 3), &[0, 1, 2][..], &[][..]),
            ("retention, and no transaction", (5, 7), &[5, 6], &[]),
            ("a marker between", (0, 4), &[0, 1, 3], &[(2, 2)]),
            ("a marker at the end", (0, 3), &[0, 1], &[(2, 2)]),
            ("an aborted transaction alone", (0, 3), &[], &[(0, 2)]),
            ("aborted records and markers", (0, 9), &[2, 3, 7], &[(0, 1), (4, 6), (8, 8)]),
            ("a claim", (0, i64::MAX), &[0], &[(1, i64::MAX - 1)]),
            ("nothing", (4, 4), &[], &[]),
        ] {
            let partitions = Partitions::from([(3, kafka::Bounds { low: bounds.0, end: bounds.1 })]);
            let topic =
                Topic { name: "actions".into(), partitions, held: BTreeMap::from([(3, held(offsets))]) };
            let mut report = Report::default();
            report_transactions(&mut report, &topic);
            let found = report.finding(FindingKind::Transactional);
            let intervals: Vec<_> =
                found.iter().flat_map(|f| &f.intervals).map(|i| (i.first, i.last)).collect();
            assert_eq!(intervals, expected, "{what}");
            assert!(found.is_none_or(|found| found.first.starts_with("actions/3: ")), "{what}");
        }
    }
}
