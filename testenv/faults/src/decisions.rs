//! Compares the answers of the decision points with the decisions in the log, and with the suspensions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use agentgov_connect::Endpoints;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::verdict::{Decision, DecisionCause, DecisionFinding, Reason};
use agentgov_schemas::{Vocabulary as _, catalogue, subject};
use serde::Serialize;

use crate::callers::{AnsweredDecision, CallerReports};
use crate::decision_points::AGENT_PREFIX;
use crate::suspensions::SuspensionPeriod;
use crate::table::query;

/// Time until each decision point must deny the calls of a suspended agent, while it hears from Kafka.
const SUSPENSION_BOUND: Duration = Duration::from_secs(1);
/// The same if Kafka was away: a decision point that does not hear from Kafka denies by default after 10 s.
const STALENESS_BOUND: Duration = Duration::from_secs(11);
/// Time for the clients of a decision point to connect again after the broker responds.
const RECONNECT_TIME: Duration = Duration::from_secs(5);
/// Duration of the questions from which there must be a suspension: the first one begins within 4 s.
const SUSPENSION_EXPECTED_AFTER: Duration = Duration::from_secs(10);
/// Number of suspensions from which one must be known to a decision point. Each lasts a second at least, in which the agent's
/// caller asks, but a restart of the broker or of the decision points may fall into it.
const MIN_SUSPENSIONS: u64 = 5;
/// Maximum number of ids in a problem.
const MAX_IDS: usize = 3;

/// Time during which the broker did not respond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// Decisions that the callers got, and their comparison with the log.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DecisionReport {
    /// Answered questions by reason of the decision.
    pub answers: BTreeMap<String, u64>,
    /// Requests without an answer; the caller asked the next decision point.
    pub retries: u64,
    /// Calls that were recorded with the token of their decision.
    pub calls: u64,
    /// Decisions in the log, also those whose answer did not arrive.
    pub logged: u64,
    /// Rows that repeat a decision with the same source, number and content, as a spool does after a kill.
    pub repeats: u64,
    /// Verdicts on the calls by their relation to the decision, and its cause.
    pub verdicts: BTreeMap<String, u64>,
    /// Suspensions of an agent.
    pub suspensions: u64,
    /// Milliseconds from the acknowledgement of a suspension to the last question that was allowed nevertheless, at most.
    pub allowed_after_ms: u128,
    /// Questions within 11 s after a suspension that were allowed, since Kafka was away.
    pub allowed_during_outages: u64,
    /// Answered decisions that are not in the log.
    pub missing: Vec<String>,
    /// Decisions that are in the log as two different events.
    pub doubled: Vec<String>,
    /// Answered decisions that have another outcome in the log.
    pub altered: Vec<String>,
    /// Allowed decisions that were answered as not recorded.
    pub unrecorded: Vec<String>,
    /// Allowed decisions that were asked later than a second after the agent's suspension.
    pub late: Vec<String>,
    /// Calls whose verdict neither equals the answered decision nor names the input by which it differs.
    pub unexplained: Vec<String>,
    /// Errors of callers and decision points.
    pub failed: Vec<String>,
    #[serde(skip)]
    answered: Vec<AnsweredDecision>,
}

/// Source, number and digest of the event of a decision.
type DecisionEvent = (String, i64, String);

/// Decision in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LoggedDecision {
    id: String,
    outcome: String,
    event: DecisionEvent,
}

/// Verdict on a call of a caller.
#[derive(Clone, Debug, Default)]
struct CallVerdict {
    event: String,
    decision: String,
    finding: String,
    cause: String,
    decision_id: String,
}

impl DecisionReport {
    pub(crate) fn new(callers: CallerReports, suspensions: &[SuspensionPeriod], outages: &[Outage]) -> Self {
        let mut report = Self {
            retries: callers.retries,
            calls: callers.calls,
            suspensions: suspensions.len() as u64,
            failed: callers.failed,
            ..Self::default()
        };
        for answer in &callers.answers {
            *report.answers.entry(format!("{} {}", answer.outcome, answer.reason)).or_default() += 1;
            if answer.is_allow && !answer.is_recorded {
                report.unrecorded.push(answer.id.clone());
            }
            if answer.is_allow {
                report.check_suspensions(answer, suspensions, outages);
            }
        }
        report.answered = callers.answers;
        report
    }

    /// Counts an allowed decision that was asked while its agent was suspended.
    fn check_suspensions(
        &mut self,
        answer: &AnsweredDecision,
        suspensions: &[SuspensionPeriod],
        outages: &[Outage],
    ) {
        let of_agent = suspensions.iter().filter(|period| period.agent == answer.agent);
        for period in of_agent.filter(|period| answer.asked < period.ended) {
            let Some(after) = answer.asked.checked_duration_since(period.acknowledged) else { continue };
            self.allowed_after_ms = self.allowed_after_ms.max(after.as_millis());
            let was_away = outages.iter().any(|outage| {
                outage.began <= answer.asked && outage.ended + RECONNECT_TIME >= period.acknowledged
            });
            if after > if was_away { STALENESS_BOUND } else { SUSPENSION_BOUND } {
                self.late.push(format!("{} ({} ms)", answer.id, after.as_millis()));
            } else if after > SUSPENSION_BOUND {
                self.allowed_during_outages += 1;
            }
        }
    }

    /// Reads the decisions of the tenant, and the verdicts on the callers' calls, and compares them with the answers.
    pub(crate) fn compare_with_rows(
        &mut self,
        endpoints: &Endpoints,
        topology: &Topology,
        tenant: &str,
    ) -> Result<(), String> {
        let (topic, _) = topology.topic_of(subject::ACTION_EVENT).map_err(|e| e.to_string())?;
        let (_, table) = topology.table_from(topic).map_err(|e| e.to_string())?;
        let statement = format!(
            "SELECT decision_id, decision, source_id, source_sequence, hex(record_sha256) FROM {table} \
             WHERE type = '{}' AND tenant_id = '{tenant}' FORMAT TabSeparated",
            catalogue::DECISION_MADE
        );
        let answer = query(&endpoints.clickhouse, statement)?;
        let rows: Option<Vec<LoggedDecision>> = answer.lines().map(LoggedDecision::parse).collect();
        self.compare(&rows.ok_or("expected rows of five columns, found another one")?);
        let (topic, _) = topology.topic_of(subject::VERDICT).map_err(|e| e.to_string())?;
        let (_, table) = topology.table_from(topic).map_err(|e| e.to_string())?;
        let statement = format!(
            "SELECT event_id, decision, prior_decision_finding, prior_decision_cause, prior_decision_id FROM {table} \
             WHERE type = '{}' AND tenant_id = '{tenant}' AND startsWith(agent_id, '{AGENT_PREFIX}') \
             AND reason != 'duplicate' FORMAT TabSeparated",
            catalogue::TOOL_INVOKED
        );
        let answer = query(&endpoints.clickhouse, statement)?;
        let verdicts: Option<Vec<CallVerdict>> = answer.lines().map(CallVerdict::parse).collect();
        self.compare_verdicts(&verdicts.ok_or("expected rows of five columns, found another one")?);
        Ok(())
    }

    /// Compares each verdict on a call with the answered decision on it.
    fn compare_verdicts(&mut self, verdicts: &[CallVerdict]) {
        let outcomes: BTreeMap<&str, &str> =
            self.answered.iter().map(|answer| (answer.id.as_str(), answer.outcome.as_str())).collect();
        // The call after a decision without a token has none, either.
        let mut undecided = self.answered.iter().filter(|answer| !answer.has_token).count();
        (self.verdicts, self.unexplained) = (BTreeMap::new(), Vec::new());
        for verdict in verdicts {
            let CallVerdict { event, decision, finding, cause, decision_id } = verdict;
            let separator = if cause.is_empty() { "" } else { ": " };
            *self.verdicts.entry(format!("{finding}{separator}{cause}")).or_default() += 1;
            let outcome = outcomes.get(decision_id.as_str());
            let is_explained = match DecisionFinding::by_name(finding) {
                Some(DecisionFinding::Matched) => outcome == Some(&decision.as_str()),
                Some(DecisionFinding::Differs) => {
                    outcome.is_some_and(|outcome| outcome != decision) && !cause.is_empty()
                }
                Some(DecisionFinding::Undecided) if undecided > 0 => {
                    undecided -= 1;
                    true
                }
                // Kafka got the call more than a minute after the decision.
                Some(DecisionFinding::Forged) => *cause == DecisionCause::Expired.as_str(),
                Some(_) | None => false,
            };
            if !is_explained {
                self.unexplained.push(format!("{event} ({decision}, {finding}{separator}{cause})"));
            }
        }
    }

    fn compare(&mut self, rows: &[LoggedDecision]) {
        let mut logged: BTreeMap<&str, (&str, BTreeSet<&DecisionEvent>)> = BTreeMap::new();
        for row in rows {
            logged.entry(&row.id).or_insert((&row.outcome, BTreeSet::new())).1.insert(&row.event);
        }
        self.logged = logged.len() as u64;
        let events: usize = logged.values().map(|(_, events)| events.len()).sum();
        self.repeats = rows.len().saturating_sub(events) as u64;
        let doubled = logged.iter().filter(|(_, (_, events))| events.len() > 1);
        self.doubled = doubled.map(|(id, _)| (*id).to_owned()).collect();
        (self.missing, self.altered) = (Vec::new(), Vec::new());
        for answer in self.answered.iter().filter(|answer| answer.is_recorded) {
            match logged.get(answer.id.as_str()) {
                None => self.missing.push(answer.id.clone()),
                Some((outcome, _)) if *outcome != answer.outcome => self.altered.push(answer.id.clone()),
                Some(_) => {}
            }
        }
    }

    /// Returns the problems, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let found = [
            ("each answered decision in the log, found none for", &self.missing),
            ("each decision once in the log, found more than one event for", &self.doubled),
            ("each decision in the log with the answered outcome, found another for", &self.altered),
            ("each allowed decision recorded, found it not recorded for", &self.unrecorded),
            ("no allow later than a second after a suspension, found", &self.late),
            (
                "each verdict equal to the decision, or a cause of the difference, found neither for",
                &self.unexplained,
            ),
        ];
        let mut problems = self.failed.clone();
        for (expected, ids) in found.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            let first: Vec<&str> = ids.iter().take(MAX_IDS).map(String::as_str).collect();
            problems.push(format!("decisions: expected {expected} {}, e.g. {}", ids.len(), first.join(", ")));
        }
        problems.extend(self.idle_decision_points());
        problems
    }

    /// Returns problems of decision points that answer nothing, or know nothing: they allow nothing late, either.
    fn idle_decision_points(&self) -> Vec<String> {
        let asked = self.answered.iter().map(|answer| answer.asked);
        let length = asked.clone().max().zip(asked.min()).map(|(last, first)| last.duration_since(first));
        let is_any = |is_it: fn(&AnsweredDecision) -> bool| self.answered.iter().any(is_it);
        let is_suspension = |answer: &AnsweredDecision| {
            answer.outcome == Decision::Deny.as_str() && answer.reason == Reason::Suspended.as_str()
        };
        let Some(length) = length else {
            return vec!["decisions: expected answers of the decision points, found none".to_owned()];
        };
        let mut problems = Vec::new();
        if !is_any(|answer| answer.is_allow) {
            problems.push(format!("decisions: expected an allow, found none among {:?}", self.answers));
        }
        if self.suspensions == 0 && length > SUSPENSION_EXPECTED_AFTER {
            problems.push(format!("decisions: expected a suspension within {length:?}, found none"));
        }
        if self.suspensions >= MIN_SUSPENSIONS && !is_any(is_suspension) {
            problems.push(format!(
                "decisions: expected a denial of a suspended agent after {} suspensions, found none among {:?}",
                self.suspensions, self.answers
            ));
        }
        problems
    }
}

impl CallVerdict {
    fn parse(line: &str) -> Option<Self> {
        let mut cells = line.split('\t').map(str::to_owned);
        Some(Self {
            event: cells.next()?,
            decision: cells.next()?,
            finding: cells.next()?,
            cause: cells.next()?,
            decision_id: cells.next()?,
        })
    }
}

impl LoggedDecision {
    fn parse(line: &str) -> Option<Self> {
        let mut cells = line.split('\t').map(str::to_owned);
        let (id, outcome) = (cells.next()?, cells.next()?);
        let event = (cells.next()?, cells.next()?.parse().ok()?, cells.next()?);
        Some(Self { id, outcome, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, outcome: &str, asked: Instant) -> AnsweredDecision {
        AnsweredDecision {
            id: id.to_owned(),
            agent: "a".to_owned(),
            outcome: outcome.to_owned(),
            reason: "r".to_owned(),
            is_allow: outcome == "allow",
            is_recorded: true,
            has_token: true,
            asked,
        }
    }

    fn row(id: &str, outcome: &str, source: &str, sequence: i64) -> LoggedDecision {
        let digest = format!("{id}{outcome}");
        LoggedDecision {
            id: id.to_owned(),
            outcome: outcome.to_owned(),
            event: (source.to_owned(), sequence, digest),
        }
    }

    #[test]
    fn answers_and_rows_that_differ_are_found() {
        let lists = |report: &DecisionReport| {
            let lists = [&report.missing, &report.doubled, &report.altered];
            (lists.map(|ids| ids.join(" ")), report.repeats)
        };
        for (what, rows, expected, repeats) in [
            ("equal", vec![row("1", "allow", "s", 0), row("2", "deny", "s", 1)], ["", "", ""], 0),
            (
                "unanswered ones",
                vec![row("1", "allow", "s", 0), row("2", "deny", "s", 1), row("3", "deny", "t", 0)],
                ["", "", ""],
                0,
            ),
            (
                "a repeat",
                vec![row("1", "allow", "s", 0), row("1", "allow", "s", 0), row("2", "deny", "s", 1)],
                ["", "", ""],
                1,
            ),
            ("one missing", vec![row("2", "deny", "s", 1)], ["1", "", ""], 0),
            (
                "two numbers",
                vec![row("1", "allow", "s", 0), row("1", "allow", "s", 2), row("2", "deny", "s", 1)],
                ["", "1", ""],
                0,
            ),
            (
                "two sources",
                vec![row("1", "allow", "s", 0), row("1", "allow", "t", 0), row("2", "deny", "s", 1)],
                ["", "1", ""],
                0,
            ),
            (
                "two contents",
                vec![row("1", "allow", "s", 0), row("1", "deny", "s", 0), row("2", "deny", "s", 1)],
                ["", "1", ""],
                0,
            ),
            (
                "unanswered, doubled",
                vec![
                    row("1", "allow", "s", 0),
                    row("2", "deny", "s", 1),
                    row("3", "deny", "s", 2),
                    row("3", "deny", "t", 0),
                ],
                ["", "3", ""],
                0,
            ),
            ("another outcome", vec![row("1", "deny", "s", 0), row("2", "deny", "s", 1)], ["", "", "1"], 0),
        ] {
            let now = Instant::now();
            let answers = vec![answer("1", "allow", now), answer("2", "deny", now)];
            let callers = CallerReports { answers, ..CallerReports::default() };
            let mut report = DecisionReport::new(callers, &[], &[]);
            report.compare(&rows);
            assert_eq!(lists(&report), (expected.map(str::to_owned), repeats), "{what}");
            assert_eq!(report.problems().is_empty(), expected == ["", "", ""], "{what}");
        }
    }

    #[test]
    fn verdict_that_neither_equals_its_decision_nor_names_a_cause_is_found() {
        for (decision, finding, cause, id, is_explained) in [
            ("allow", "matched", "", "1", true),
            ("deny", "matched", "", "1", false),
            ("allow", "matched", "", "9", false),
            ("deny", "differs", "records", "1", true),
            ("deny", "differs", "", "1", false),
            ("allow", "differs", "records", "1", false),
            ("deny", "differs", "records", "9", false),
            ("allow", "forged", "expired", "", true),
            ("allow", "forged", "bad_signature", "", false),
            ("allow", "altered", "args", "1", false),
            ("allow", "reused", "", "1", false),
            ("allow", "undecided", "", "", false),
            ("allow", "", "", "", false),
        ] {
            let answers = vec![answer("1", "allow", Instant::now())];
            let mut report =
                DecisionReport::new(CallerReports { answers, ..CallerReports::default() }, &[], &[]);
            let row = ["event", decision, finding, cause, id].join("\t");
            report.compare_verdicts(&[CallVerdict::parse(&row).unwrap()]);
            assert_eq!(report.unexplained.is_empty(), is_explained, "{row}");
            assert_eq!(report.problems().is_empty(), is_explained, "{row}");
        }
        let unsigned = AnsweredDecision { has_token: false, ..answer("1", "deny", Instant::now()) };
        let callers = CallerReports { answers: vec![unsigned], ..CallerReports::default() };
        let mut report = DecisionReport::new(callers, &[], &[]);
        let row = CallVerdict { finding: "undecided".to_owned(), ..CallVerdict::default() };
        report.compare_verdicts(std::slice::from_ref(&row));
        assert_eq!(report.unexplained.len(), 0, "its call has no token");
        report.compare_verdicts(&[row.clone(), row]);
        assert_eq!(report.unexplained.len(), 1);
    }

    #[test]
    fn allow_that_is_not_recorded_is_found() {
        let allow = AnsweredDecision { is_recorded: false, ..answer("1", "allow", Instant::now()) };
        let deny = AnsweredDecision { is_recorded: false, ..answer("2", "deny", Instant::now()) };
        let callers = CallerReports { answers: vec![allow, deny], ..CallerReports::default() };
        let mut report = DecisionReport::new(callers, &[], &[]);
        report.compare(&[]);
        assert_eq!((report.unrecorded.as_slice(), report.missing.len()), (&["1".to_owned()][..], 0));
        assert_eq!(report.problems().len(), 1);
    }

    #[test]
    fn decision_points_that_know_nothing_are_found() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let asked = |reason: &str, after: u32, answered: AnsweredDecision| AnsweredDecision {
            reason: reason.to_owned(),
            asked: start + second * after,
            ..answered
        };
        let allow = |after| asked("granted", after, answer("1", "allow", start));
        let stale = |after| asked("unavailable: stale", after, answer("2", "deny", start));
        let suspended = |after| asked("suspended", after, answer("3", "deny", start));
        let period = SuspensionPeriod { agent: "b".to_owned(), acknowledged: start, ended: start };
        for (what, answers, suspensions, is_found) in [
            ("no answer", vec![], 0, true),
            ("a short run", vec![allow(0), stale(9)], 0, false),
            ("no allow", vec![stale(0), suspended(1)], 5, true),
            ("no suspension", vec![allow(0), stale(11)], 0, true),
            ("few suspensions", vec![allow(0), stale(11)], 4, false),
            ("no suspension is known", vec![allow(0), stale(11)], 5, true),
            ("one is known", vec![allow(0), stale(11), suspended(12)], 5, false),
        ] {
            let callers = CallerReports { answers, ..CallerReports::default() };
            let report = DecisionReport::new(callers, &vec![period.clone(); suspensions], &[]);
            assert_eq!(!report.problems().is_empty(), is_found, "{what}: {:?}", report.problems());
        }
    }

    #[test]
    fn allows_of_a_suspended_agent_are_late_after_a_second_or_after_the_staleness_if_kafka_was_away() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let period = |agent: &str| SuspensionPeriod {
            agent: agent.to_owned(),
            acknowledged: at(10_000),
            ended: at(40_000),
        };
        let outage = |began, ended| vec![Outage { began: at(began), ended: at(ended) }];
        for (what, outcome, asked, agent, outages, late, excused) in [
            ("before", "allow", 9_000, "a", vec![], 0, 0),
            ("within a second", "allow", 11_000, "a", vec![], 0, 0),
            ("later", "allow", 11_001, "a", vec![], 1, 0),
            ("denied", "deny", 20_000, "a", vec![], 0, 0),
            ("after the end", "allow", 40_000, "a", vec![], 0, 0),
            ("of another agent", "allow", 20_000, "b", vec![], 0, 0),
            ("Kafka away", "allow", 20_000, "a", outage(10_500, 19_000), 0, 1),
            ("Kafka just back", "allow", 12_000, "a", outage(2_000, 6_000), 0, 1),
            ("Kafka long back", "allow", 12_000, "a", outage(1_000, 4_000), 1, 0),
            ("Kafka away later", "allow", 12_000, "a", outage(12_500, 14_000), 1, 0),
            ("Kafka away for too long", "allow", 21_001, "a", outage(10_500, 30_000), 1, 0),
        ] {
            let callers =
                CallerReports { answers: vec![answer("1", outcome, at(asked))], ..CallerReports::default() };
            let report = DecisionReport::new(callers, &[period(agent)], &outages);
            assert_eq!((report.late.len(), report.allowed_during_outages), (late, excused), "{what}");
        }
    }
}
