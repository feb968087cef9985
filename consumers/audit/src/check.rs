//! The check.

use std::collections::{BTreeMap, HashMap, HashSet};

use agentgov_connect::{Endpoints, RegistryError, SchemaRegistry, TlsError, describe};
use agentgov_schemas::catalogue;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use rdkafka::error::KafkaError;
use sha2::{Digest as _, Sha256};

use crate::counters::{self, Events};
use crate::kafka;
use crate::record::{Decoder, Fields};
use crate::report::{Kind, Report, SourceSeen};
use crate::rows::{Place, Tables};

/// Why an audit could not be done. What it found until then is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka did not answer, or refused.
    #[error("audit: reading {topic}: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// What Kafka said.
        source: KafkaError,
    },
    /// Kafka answered nothing at all for a while.
    #[error("audit: reading {topic}: expected records or the end of each partition, found silence")]
    Silent {
        /// The topic.
        topic: String,
    },
    /// The tables could not be read.
    #[error("audit: reading the tables: {}", describe(.0))]
    ClickHouse(#[from] clickhouse::error::Error),
    /// The TLS setting of the tables' server is wrong.
    #[error("audit: clickhouse: {0}")]
    Tls(#[from] TlsError),
    /// The registry did not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The map lacks a role.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// The system gave no socket.
    #[error("audit: {0}")]
    Io(#[from] std::io::Error),
}

/// Where an action stands: partition and offset of the topic of actions.
type At = (i32, i64);

/// What the records say, gathered partition by partition.
#[derive(Default)]
struct Told {
    /// Judged actions, and how many verdicts and rejects of the evaluator point at each.
    judged: BTreeMap<At, u32>,
    /// Policies that a verdict wants an alert for, by action, and how many alerts name them.
    wanted: HashMap<(At, String), u32>,
    /// Alerts that name what no verdict asks for.
    unwanted: Vec<(At, String)>,
    sources: BTreeMap<String, Source>,
    /// Highest sequence seen, by tenant, session and source.
    order: HashMap<(String, String, String), (i64, HashSet<i64>)>,
    /// What a session's events come to, by tenant and session.
    sessions: HashMap<counters::Name, Events>,
}

#[derive(Default)]
struct Source {
    seen: HashSet<i64>,
    total: Option<i64>,
}

/// Compares topics, tables and what the events say of themselves. Reads everything that the topics still hold.
///
/// Records that a stage has not reached yet are pending, not lost: how far it is, its group says.
pub fn completeness(topology: &Topology, endpoints: &Endpoints) -> Result<Report, AuditError> {
    let mut audit = Audit {
        topology,
        endpoints,
        decoder: Decoder::new(SchemaRegistry::new(&endpoints.registry)?),
        tables: Tables::new(&endpoints.clickhouse)?,
        report: Report::default(),
        told: Told::default(),
    };
    let actions = audit.topic(subject::ACTION_EVENT, Told::action)?;
    // How far a stage was before its outputs are read: what it does meanwhile is no gap.
    let judged = audit.passed("evaluator", &actions)?;
    let verdicts = audit.topic(subject::VERDICT, Told::verdict)?;
    let alerted = audit.passed("alerter", &verdicts)?;
    audit.topic(subject::REJECT, Told::reject)?;
    audit.topic(subject::ALERT, Told::alert)?;
    audit.judged(&actions, &judged);
    audit.alerted(&verdicts, &alerted, &judged);
    audit.sequences();
    audit.counters(&actions)?;
    Ok(audit.report)
}

struct Audit<'a> {
    topology: &'a Topology,
    endpoints: &'a Endpoints,
    decoder: Decoder,
    tables: Tables,
    report: Report,
    told: Told,
}

/// A topic that was read: its name, and of each partition the offset after its last record, if it holds any.
struct Topic {
    name: String,
    ends: BTreeMap<i32, Option<i64>>,
    lows: kafka::Lows,
}

impl Audit<'_> {
    /// Reads a topic, compares it with its table, and has `tell` take note of each record.
    fn topic(
        &mut self,
        subject: Subject,
        tell: fn(&mut Told, &mut Report, At, &str, &Fields),
    ) -> Result<Topic, AuditError> {
        let (name, _) = self.topology.topic_of(subject)?;
        let (_, table) = self.topology.table_from(name)?;
        let mut there: BTreeMap<i32, Vec<(i64, String)>> = BTreeMap::new();
        let (decoder, told, report) = (&mut self.decoder, &mut self.told, &mut self.report);
        let lows = kafka::read(&self.endpoints.kafka, name, |partition, offset, _key, value| {
            let value = value.unwrap_or_default();
            there.entry(partition).or_default().push((offset, hex(&Sha256::digest(value))));
            if let Some(fields) = decoder.decode(value) {
                tell(told, report, (partition, offset), name, &fields);
            }
        })?;
        let mut ends = BTreeMap::new();
        for (partition, low) in lows.clone() {
            let there = there.remove(&partition).unwrap_or_default();
            let rows = self.tables.places(table, name, partition)?;
            compare(&mut self.report, &format!("{name}/{partition}"), low, &there, &rows);
            ends.insert(partition, there.last().map(|(offset, _)| offset + 1));
        }
        Ok(Topic { name: name.to_owned(), ends, lows })
    }

    /// Each judged action that the evaluator has passed has one answer.
    fn judged(&mut self, actions: &Topic, passed: &BTreeMap<i32, i64>) {
        self.report.judged = self.told.judged.len() as u64;
        for ((partition, offset), answers) in &self.told.judged {
            let is_passed = passed.get(partition).is_some_and(|next| offset < next);
            if *answers == 0 && !is_passed {
                self.report.unanswered += 1;
            }
            if *answers != 1 && is_passed {
                self.report.add(Kind::Unjudged, || {
                    format!("{}/{partition}@{offset}: {answers} verdicts and rejects", actions.name)
                });
            }
        }
    }

    /// Each finding of a verdict that the alerter has passed has one alert. What is not passed is judged by whether the
    /// alerter has anything left to do at all: a verdict does not say where it stands itself. The verdict of an action that
    /// the evaluator had not passed may have been written, with its alert, after the verdicts were read.
    fn alerted(&mut self, verdicts: &Topic, passed: &BTreeMap<i32, i64>, judged: &BTreeMap<i32, i64>) {
        let behind = verdicts
            .ends
            .iter()
            .any(|(partition, end)| end.is_some_and(|end| passed.get(partition).copied().unwrap_or(0) < end));
        for (((partition, offset), policy), alerts) in &self.told.wanted {
            let place = || format!("{policy} at partition {partition} offset {offset}: {alerts} alerts");
            match alerts {
                1 => {}
                0 if behind => self.report.unanswered += 1,
                0 => self.report.add(Kind::AlertMissing, place),
                _ => self.report.add(Kind::AlertDoubled, place),
            }
        }
        for ((partition, offset), policy) in &self.told.unwanted {
            if judged.get(partition).is_none_or(|next| offset >= next) {
                continue;
            }
            self.report.add(Kind::AlertDoubled, || {
                format!(
                    "{policy} at partition {partition} offset {offset}: an alert that no verdict asks for"
                )
            });
        }
    }

    fn passed(&self, stage: &str, topic: &Topic) -> Result<BTreeMap<i32, i64>, AuditError> {
        let group = &self.topology.stage(stage)?.group.value;
        let partitions: Vec<i32> = topic.ends.keys().copied().collect();
        kafka::committed(&self.endpoints.kafka, group, &topic.name, &partitions)
    }

    /// Each session's counters are those of its events.
    fn counters(&mut self, actions: &Topic) -> Result<(), AuditError> {
        let Some(changelog) = &self.topology.stage("evaluator")?.state else { return Ok(()) };
        let counted = counters::read(&self.endpoints.kafka, &changelog.value, &mut self.decoder)?;
        for (name, counted) in counted {
            // Without its beginning, or with more than was read, there is nothing to compare with.
            let Some(events) = self.told.sessions.get(&name) else { continue };
            let partition = events.partition;
            let whole = actions.lows.get(&partition) == Some(&0);
            let end = actions.ends.get(&partition).copied().flatten().unwrap_or(0);
            if !whole || counted.applied_through >= end {
                continue;
            }
            self.report.sessions += 1;
            let expected = events.through(counted.applied_through);
            if !expected.equals(&counted) {
                self.report.add(Kind::Miscounted, || {
                    format!("tenant {}, session {}: expected {expected}, found {counted}", name.0, name.1)
                });
            }
        }
        Ok(())
    }

    /// Each source's sequence is gapless, and ends at its total if it has closed.
    fn sequences(&mut self) {
        self.report.sources = self.told.sources.len() as u64;
        for (id, source) in &self.told.sources {
            self.report.closed_sources += u64::from(source.total.is_some());
            let end = source.total.or_else(|| source.seen.iter().max().copied()).unwrap_or(-1);
            for missing in (0..=end).filter(|sequence| !source.seen.contains(sequence)) {
                self.report.add(Kind::SequenceGap, || format!("source {id}, sequence {missing}"));
            }
            let end = source.seen.iter().max().map_or(0, |highest| highest + 1);
            let gaps = u64::try_from(end).unwrap_or_default().saturating_sub(source.seen.len() as u64);
            let seen = SourceSeen { end, gaps, total: source.total };
            self.report.by_source.insert(id.clone(), seen);
        }
    }
}

/// Merges what a partition holds with what the table holds of it, both in order of their offsets.
fn compare(report: &mut Report, name: &str, low: i64, there: &[(i64, String)], rows: &[Place]) {
    report.records += there.len() as u64;
    report.rows += rows.len() as u64;
    let last_row = rows.last().map_or(-1, |row| row.offset);
    for pair in rows.windows(2) {
        if let [a, b] = pair
            && a.offset == b.offset
        {
            report.add(Kind::Doubled, || format!("{name}@{}", a.offset));
        }
    }
    let by_offset: HashMap<i64, &str> = rows.iter().map(|row| (row.offset, row.sha256.as_str())).collect();
    for (offset, digest) in there {
        match by_offset.get(offset) {
            None if *offset > last_row => report.pending += 1,
            None => report.add(Kind::Lost, || format!("{name}@{offset}")),
            Some(found) if *found != digest => report.add(Kind::Different, || format!("{name}@{offset}")),
            Some(_) => {}
        }
    }
    let held: HashSet<i64> = there.iter().map(|(offset, _)| *offset).collect();
    let end = there.last().map_or(low, |(offset, _)| offset + 1);
    for row in rows.iter().filter(|row| row.offset >= low && row.offset < end && !held.contains(&row.offset))
    {
        report
            .add(Kind::Different, || format!("{name}@{}: a row of what the topic does not hold", row.offset));
    }
}

impl Told {
    fn action(&mut self, report: &mut Report, at: At, topic: &str, event: &Fields) {
        let text = |name| event.text(name).unwrap_or_default().to_owned();
        let Some(source) = event.record("source") else { return };
        let (id, sequence) = (source.text("id").unwrap_or_default(), source.number("sequence").unwrap_or(-1));
        let known = self.sources.entry(id.to_owned()).or_default();
        known.seen.insert(sequence);
        if let Some(closing) = event.record("closing") {
            known.total = closing.number("total");
        }
        if catalogue::is_judged(event.text("type").unwrap_or_default()) {
            self.judged.insert(at, 0);
        }
        let key = (text("tenant_id"), text("session_id"), id.to_owned());
        let session = (key.0.clone(), key.1.clone());
        let (highest, seen) = self.order.entry(key).or_insert((-1, HashSet::new()));
        if sequence > *highest {
            *highest = sequence;
            let events = self.sessions.entry(session).or_insert_with(|| Events::new(at.0));
            events.add(at.1, event.text("type").unwrap_or_default());
        } else if !seen.contains(&sequence) {
            // Below what came before, and for the first time: not sent again, but out of order.
            report.add(Kind::Reordered, || format!("{topic}/{}@{}", at.0, at.1));
        }
        seen.insert(sequence);
    }

    fn verdict(&mut self, report: &mut Report, _at: At, _topic: &str, verdict: &Fields) {
        let Some(action) = origin(verdict, "origin") else { return };
        if let Some(answers) = self.judged.get_mut(&action) {
            *answers += 1;
        }
        if verdict.has("duplicate_of") {
            report.sent_again += 1;
            return;
        }
        let mut want = |policy: &str| self.wanted.insert((action, policy.to_owned()), 0);
        for violation in verdict.records("violations") {
            want(violation.text("policy").unwrap_or_default());
        }
        match (verdict.text("decision"), verdict.text("reason")) {
            (Some("deny"), Some("no_grant")) => drop(want("agentgov:no-grant")),
            (Some("indeterminate"), _) => drop(want("agentgov:indeterminate")),
            _ => {}
        }
    }

    fn reject(&mut self, _report: &mut Report, _at: At, _topic: &str, reject: &Fields) {
        let Some(action) = origin(reject, "origin") else { return };
        // A reject of another stage points into another topic.
        let of_evaluator = reject.text("stage") == Some("evaluator");
        if of_evaluator {
            self.sessions.values_mut().for_each(|events| events.remove(action));
        }
        if let (true, Some(answers)) = (of_evaluator, self.judged.get_mut(&action)) {
            *answers += 1;
        }
    }

    fn alert(&mut self, _report: &mut Report, _at: At, _topic: &str, alert: &Fields) {
        let policy = alert.text("policy").unwrap_or_default();
        if policy == "agentgov:bundle-refused" {
            return;
        }
        let Some(action) = origin(alert, "origin") else { return };
        match self.wanted.get_mut(&(action, policy.to_owned())) {
            Some(alerts) => *alerts += 1,
            None => self.unwanted.push((action, policy.to_owned())),
        }
    }
}

fn origin(record: &Fields, name: &str) -> Option<At> {
    let origin = record.record(name)?;
    Some((i32::try_from(origin.number("partition")?).ok()?, origin.number("offset")?))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(there: &[i64], rows: &[(i64, &str)], low: i64) -> Report {
        let there: Vec<_> = there.iter().map(|offset| (*offset, format!("d{offset}"))).collect();
        let rows: Vec<_> =
            rows.iter().map(|(offset, d)| Place { offset: *offset, sha256: (*d).to_owned() }).collect();
        let mut report = Report::default();
        compare(&mut report, "t/0", low, &there, &rows);
        report
    }

    #[test]
    fn each_kind_of_difference_is_told_with_its_place() {
        let whole = report(&[3, 4, 6], &[(1, "d1"), (3, "d3"), (4, "d4"), (6, "d6")], 3);
        assert_eq!(
            (whole.findings.len(), whole.records, whole.rows),
            (0, 3, 4),
            "older rows outlive the topic"
        );
        let behind = report(&[0, 1, 2], &[(0, "d0")], 0);
        assert_eq!((behind.findings.len(), behind.pending), (0, 2));
        for (there, rows, kind, first) in [
            (&[0, 1, 2][..], &[(0, "d0"), (2, "d2")][..], Kind::Lost, "t/0@1"),
            (&[0, 1], &[(0, "d0"), (1, "d1"), (1, "d1")], Kind::Doubled, "t/0@1"),
            (&[0, 1], &[(0, "d0"), (1, "dX")], Kind::Different, "t/0@1"),
            (
                &[0, 2],
                &[(0, "d0"), (1, "d1"), (2, "d2")],
                Kind::Different,
                "t/0@1: a row of what the topic does not hold",
            ),
        ] {
            let found = report(there, rows, 0).findings;
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].kind, found[0].count, found[0].first.as_str()), (kind, 1, first));
        }
    }
}
