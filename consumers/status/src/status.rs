//! Status of the pipeline and its faults.

use std::collections::BTreeMap;

use agentgov_log_reader::overview::{ActiveBundle, AlertCount, Gap, RejectCount, SkippedOffsets, StageStop};
use agentgov_schemas::NotReadyReason;
use serde::Serialize;

use crate::parts::is_out_of_files;
use crate::{Group, GroupState, HeldBack, Part, Process, TopicLag};

/// Action for an unknown item whose part responds to other requests.
const CHECK_AGAIN: &str =
    "check again in a few seconds; if it persists, check the logs of the part whose request failed";
/// Action for a process that has reached its limit of open files.
const RAISE_THE_LIMIT: &str =
    "raise this process's limit of open files (`ulimit -n`, or LimitNOFILE= of a systemd unit)";

/// Answer, or the reason for which it is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// The answer.
    Known(T),
    /// Reason for which the answer is unknown.
    Unknown(String),
}

impl<T> Answer<T> {
    /// Returns the answer, if it is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(answer) => Some(answer),
            Self::Unknown(_) => None,
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Answer<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(answer) => Self::Known(answer),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// Status of the pipeline at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Health of the pipeline.
    pub health: Health,
    /// Time of the status by this machine's clock, in milliseconds since the epoch.
    pub at: i64,
    /// Kafka, the schema registry and ClickHouse.
    pub parts: Vec<Part>,
    /// Comparison of topics and subjects with the topology.
    pub topology: Answer<TopologyState>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Processes whose addresses were given.
    pub processes: Vec<Process>,
    /// Decision points whose addresses are known.
    pub decision_points: Vec<Process>,
    /// The tables of the log.
    pub tables: Vec<Table>,
    /// Rejects of the last hour.
    pub rejects_last_hour: Answer<Vec<RejectCount>>,
    /// Alerts of the last hour.
    pub alerts_last_hour: Answer<Vec<AlertCount>>,
    /// Last stop of each stage in the last day, after a flood of rejects.
    pub stops_last_day: Answer<Vec<StageStop>>,
    /// Accepted gaps, the latest first.
    pub gaps: Answer<Vec<Gap>>,
    /// Skipped offsets of topics to which no client must write transactions.
    pub skipped: Answer<Vec<SkippedOffsets>>,
    /// Active bundle of each environment.
    pub bundles: Answer<Vec<ActiveBundle>>,
    /// Faults, the most urgent first.
    pub wrong: Vec<Fault>,
}

/// Health of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is known, and there are no faults.
    Healthy,
    /// There are faults, or an item is unknown although every part responds.
    Unhealthy,
    /// A part is unavailable, and the items that depend on it are unknown.
    PartAway,
}

/// Comparison of the topology with the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyState {
    /// Number of topics in the topology.
    pub topics: usize,
    /// Number of subjects in the topology.
    pub subjects: usize,
    /// Differences, as `topology plan` prints them.
    pub differences: Vec<String>,
}

/// Stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Name.
    pub name: String,
    /// Name of the consumer group.
    pub group: String,
    /// State of the consumer group.
    pub state: Answer<Group>,
}

/// Table of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Name.
    pub name: String,
    /// Number of rows.
    pub rows: Answer<u64>,
    /// logged_at of the newest row, in milliseconds since the epoch; `None` if the table is empty.
    pub newest: Option<i64>,
}

/// Fault that an operator must handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Description of the fault.
    pub what: String,
    /// Action to take.
    pub to_do: String,
}

/// Age of the oldest uncommitted record, in seconds, above which a stage is behind.
const MAX_RECORD_AGE: f64 = 60.0;
/// Age of skipped offsets, in milliseconds, up to which they are a fault: the client may still write transactions.
const RECENT: i64 = 3_600_000;
/// Age of the oldest uncommitted record, in seconds, from which a stage that stopped earlier is reported as not resumed.
const STOPPED_RECORD_AGE: f64 = 5.0;

impl Status {
    /// Derives health and faults from the other fields.
    pub(crate) fn derive_faults(&mut self) {
        let mut faults = Vec::new();
        let mut add = |what: String, to_do: &str| {
            let to_do = if is_out_of_files(&what) { RAISE_THE_LIMIT } else { to_do };
            faults.push(Fault { what, to_do: to_do.to_owned() });
        };
        for part in self.parts.iter().filter(|part| !part.answers) {
            let state = match is_out_of_files(&part.detail) {
                true => "received no request: this process cannot open another file or connection",
                false => "is away",
            };
            let what = format!("{} at {} {state}: {}", part.name, part.address, part.detail);
            add(what, "start it again; the stages wait for it and lose nothing");
        }
        for process in self.processes.iter().chain(&self.decision_points) {
            if let Some(why) = &process.away {
                let what = format!("the process at {} does not respond: {why}", process.url);
                add(what, "check its exit code, which has a section in docs/operations/runbook.md");
            }
            for stage in &process.stages {
                for (reason, why) in &stage.not_ready {
                    let what = format!("{} at {} is not ready: {reason}: {why}", stage.stage, process.url);
                    if *reason == NotReadyReason::RejectShare.as_str() {
                        add(what, &resume_command(&stage.stage));
                    } else {
                        add(what, "see the reason in docs/errors/README.md");
                    }
                }
                if let Some(why) = &stage.hangs {
                    let what = format!("{} at {} hangs: {why}", stage.stage, process.url);
                    add(what, "restart that process; nothing is lost");
                }
            }
        }
        let mut waiting: BTreeMap<(&str, i32), (&HeldBack, Vec<&str>)> = BTreeMap::new();
        for stage in &self.stages {
            for held in stage.state.known().into_iter().flat_map(|group| &group.held_back) {
                let place = (held.topic.as_str(), held.partition);
                waiting.entry(place).or_insert_with(|| (held, Vec::new())).1.push(&stage.name);
            }
        }
        for (held, stages) in waiting.into_values() {
            let HeldBack { description, records, .. } = held;
            add(
                format!("{description}; {records} offsets are held back from {}", stages.join(" and ")),
                "end that transaction, or its producer: docs/errors/held-back.md",
            );
        }
        for stage in &self.stages {
            let name = &stage.name;
            let group = match &stage.state {
                Answer::Known(group) => group,
                Answer::Unknown(why) if self.part_answers("kafka") => {
                    add(format!("the state of {name} is not known: {why}"), CHECK_AGAIN);
                    continue;
                }
                Answer::Unknown(_) => continue,
            };
            match group.state {
                GroupState::Empty => {
                    add(format!("{name} does not run: its group has no members"), "agentgov run");
                }
                GroupState::Rebalancing => {
                    add(format!("{name} is rebalancing"), "check again in a few seconds");
                }
                GroupState::Stable if group.held < group.partitions => add(
                    format!(
                        "{name}: {} of {} partitions have no owner",
                        group.partitions - group.held,
                        group.partitions
                    ),
                    "check again in a few seconds; if it persists, compare the topology: agentgov topology plan",
                ),
                GroupState::Stable => {}
            }
            if let Some(stop) = self.unresumed_stop(name, group) {
                let StageStop { stopped_at, message, .. } = stop;
                let ago = (self.at - stopped_at).max(0) / 1000;
                add(
                    format!("{name} stopped {ago} s ago, and records wait for it: {message}"),
                    &resume_command(name),
                );
            } else if let Some(oldest) = group.oldest_seconds().filter(|oldest| *oldest > MAX_RECORD_AGE) {
                add(
                    format!("{name} is behind: a record has waited for {oldest:.0} s"),
                    "check the /readyz of its process, and the table of alerts for `agentgov:stage-stopped`; if it runs and cannot keep up, start more processes",
                );
            }
            for lag in group.lag.iter().filter(|lag| lag.oldest_seconds.is_none()) {
                let TopicLag { topic, records, .. } = lag;
                add(
                    format!("{name}: how long up to {records} records of {topic} have waited is not known"),
                    CHECK_AGAIN,
                );
            }
        }
        match &self.topology {
            Answer::Known(state) if state.differences.is_empty() => {}
            Answer::Known(state) => add(
                format!("the cluster is not as the topology says: {} differences", state.differences.len()),
                "agentgov topology plan",
            ),
            Answer::Unknown(why) if self.part_answers("kafka") && self.part_answers("registry") => add(
                format!("whether the cluster is as the topology says is not known: {why}"),
                "agentgov topology plan",
            ),
            Answer::Unknown(_) => {}
        }
        if self.part_answers("clickhouse") {
            let mut unreadable: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for table in &self.tables {
                if let Answer::Unknown(why) = &table.rows {
                    unreadable.entry(why).or_default().push(&table.name);
                }
            }
            let is_readable = unreadable.is_empty();
            for (why, tables) in unreadable {
                let word = if tables.len() == 1 { "table" } else { "tables" };
                add(
                    format!("{word} {} cannot be read: {why}", tables.join(", ")),
                    "is this the log's database (AGENTGOV_CLICKHOUSE_DATABASE)? If it is, start the log-sink, which creates the tables",
                );
            }
            // Without readable tables each of these is unknown, too.
            for (what, why) in self.unknown_of_the_log().into_iter().filter(|_| is_readable) {
                add(format!("{what}: not known: {why}"), CHECK_AGAIN);
            }
        }
        let is_recent = |skipped: &&SkippedOffsets| self.at - skipped.logged_at < RECENT;
        for skipped in self.skipped.known().into_iter().flatten().filter(is_recent) {
            let SkippedOffsets { topic_partition, offsets, from, to, .. } = skipped;
            add(
                format!(
                    "{topic_partition}: {offsets} offsets have no record, the last of them {from} to {}: a client writes transactions, or cleanup.policy=compact removes records",
                    to - 1
                ),
                "check the topic's cleanup.policy (agentgov topology plan); if it is delete, no record is lost: make the producer non-transactional (docs/errors/offsets-skipped.md)",
            );
        }
        if self.bundles.known().is_some_and(Vec::is_empty) {
            add("no bundle judges: every verdict is indeterminate".to_owned(), "agentgov policy push BUNDLE");
        }
        self.health = if self.parts.iter().any(|part| !part.answers) {
            Health::PartAway
        } else if faults.is_empty() {
            Health::Healthy
        } else {
            Health::Unhealthy
        };
        self.wrong = faults;
    }

    /// Returns the last stop of a stage that records wait for. A stage that was resumed leaves no record waiting for long.
    fn unresumed_stop(&self, stage: &str, group: &Group) -> Option<&StageStop> {
        let stop = self.stops_last_day.known()?.iter().find(|stop| stop.stage == stage)?;
        let oldest = group.oldest_seconds().filter(|_| group.records() > 0)?;
        let since_stop = (self.at - stop.stopped_at) as f64 / 1000.0;
        (oldest >= STOPPED_RECORD_AGE || oldest + 1.0 >= since_stop).then_some(stop)
    }

    /// Returns the unknown items of the log, each with the reason.
    fn unknown_of_the_log(&self) -> Vec<(&'static str, &str)> {
        fn why<T>(answer: &Answer<T>) -> Option<&str> {
            match answer {
                Answer::Known(_) => None,
                Answer::Unknown(why) => Some(why),
            }
        }
        let answers = [
            ("rejects of the last hour", why(&self.rejects_last_hour)),
            ("alerts of the last hour", why(&self.alerts_last_hour)),
            ("stops of the last day", why(&self.stops_last_day)),
            ("accepted gaps", why(&self.gaps)),
            ("skipped offsets", why(&self.skipped)),
            ("active bundles", why(&self.bundles)),
        ];
        answers.into_iter().filter_map(|(what, why)| Some((what, why?))).collect()
    }

    /// Returns true if the part responded.
    pub(crate) fn part_answers(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.name == name && part.answers)
    }
}

/// Action for a stage that stopped after a flood of rejects.
fn resume_command(stage: &str) -> String {
    format!(
        "fix the cause; then, unless it was resumed since: agentgov rejects resume {stage} --reason REASON"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentgov_service::serve::StageReadiness;

    use crate::TopicLag;

    fn healthy() -> Status {
        let part = |name: &str| Part {
            name: name.into(),
            address: "here".into(),
            answers: true,
            detail: String::new(),
            answer_ms: 1,
        };
        let lag = TopicLag { topic: "t".into(), records: 0, oldest_seconds: Some(0.0) };
        let group = Group {
            state: GroupState::Stable,
            members: 1,
            held: 12,
            partitions: 12,
            lag: vec![lag],
            held_back: vec![],
        };
        Status {
            health: Health::Unhealthy,
            at: 0,
            parts: vec![part("kafka"), part("registry"), part("clickhouse")],
            topology: Answer::Known(TopologyState { topics: 1, subjects: 1, differences: vec![] }),
            stages: vec![Stage { name: "evaluator".into(), group: "g".into(), state: Answer::Known(group) }],
            processes: vec![],
            decision_points: vec![],
            tables: vec![Table { name: "actions".into(), rows: Answer::Known(0), newest: None }],
            rejects_last_hour: Answer::Known(vec![]),
            alerts_last_hour: Answer::Known(vec![]),
            stops_last_day: Answer::Known(vec![]),
            gaps: Answer::Known(vec![]),
            skipped: Answer::Known(vec![]),
            bundles: Answer::Known(vec![ActiveBundle {
                environment: "demo".into(),
                name: "b".into(),
                version: "1".into(),
                digest: "00".into(),
                pushed_at: 0,
                pushed_by: "us".into(),
            }]),
            wrong: vec![],
        }
    }

    fn group(status: &mut Status) -> &mut Group {
        match &mut status.stages[0].state {
            Answer::Known(group) => group,
            Answer::Unknown(why) => panic!("{why}"),
        }
    }

    #[test]
    fn stop_of_a_stage_is_a_fault_at_once_and_until_no_record_waits() {
        let stopped = |ago: i64, oldest: f64, records: i64| {
            let mut status = healthy();
            status.at = 100_000;
            let stop = |stage: &str| StageStop {
                stage: stage.into(),
                stopped_at: 100_000 - ago * 1000,
                message: "2,000 of tenant `a`".into(),
            };
            status.stops_last_day = Answer::Known(vec![stop("alerter"), stop("evaluator")]);
            group(&mut status).lag[0] = TopicLag { topic: "t".into(), records, oldest_seconds: Some(oldest) };
            status.derive_faults();
            status.wrong
        };
        for (ago, oldest) in [(1, 1.5), (2, 1.5), (50, 49.0), (90, 6.0), (90, 80.0)] {
            let wrong = stopped(ago, oldest, 5);
            assert_eq!(wrong.len(), 1, "{ago} {oldest}: {wrong:?}");
            let what = format!("evaluator stopped {ago} s ago, and records wait for it: 2,000 of tenant `a`");
            assert_eq!(wrong[0].what, what);
            assert!(
                wrong[0].to_do.ends_with("agentgov rejects resume evaluator --reason REASON"),
                "{wrong:?}"
            );
        }
        assert_eq!(stopped(50, 0.5, 5), [], "it was resumed, and records arrive");
        assert_eq!(stopped(1, 0.0, 0), [], "nothing waits");
    }

    #[test]
    fn tables_that_cannot_be_read_for_one_reason_are_one_fault() {
        let mut status = healthy();
        let table = |name: &str, why: &str| Table {
            name: name.into(),
            rows: Answer::Unknown(why.into()),
            newest: None,
        };
        status.tables = vec![table("a", "no database x"), table("b", "refused"), table("c", "no database x")];
        status.derive_faults();
        let found: Vec<&str> = status.wrong.iter().map(|fault| fault.what.as_str()).collect();
        assert_eq!(found, ["tables a, c cannot be read: no database x", "table b cannot be read: refused"]);
        assert!(status.wrong[0].to_do.contains("AGENTGOV_CLICKHOUSE_DATABASE"), "{:?}", status.wrong);
    }

    #[test]
    fn reason_of_a_process_that_stands_still_names_the_command() {
        let mut status = healthy();
        let not_ready =
            BTreeMap::from([(NotReadyReason::RejectShare.as_str().to_owned(), "a flood".to_owned())]);
        let stage = "alerter".to_owned();
        let stage = StageReadiness { stage, not_ready, hangs: None, progress_age_seconds: 0.0 };
        status.processes =
            vec![Process { url: "u".into(), away: None, version: String::new(), stages: vec![stage] }];
        status.derive_faults();
        assert!(
            status.wrong[0].to_do.ends_with("agentgov rejects resume alerter --reason REASON"),
            "{:?}",
            status.wrong
        );
    }

    #[test]
    fn each_fault_is_reported_once_and_a_healthy_pipeline_has_none() {
        let mut status = healthy();
        status.derive_faults();
        assert_eq!((status.health, &status.wrong), (Health::Healthy, &vec![]));
        type Breaks = fn(&mut Status);
        let cases: [(&str, Health, Breaks); 24] = [
            ("is away", Health::PartAway, |s| s.parts[0].answers = false),
            ("received no request: this process cannot open another file", Health::PartAway, |s| {
                s.parts[0].answers = false;
                s.parts[0].detail = "connecting: Too many open files (os error 24)".into();
            }),
            ("does not run", Health::Unhealthy, |s| group(s).state = GroupState::Empty),
            ("rebalancing", Health::Unhealthy, |s| group(s).state = GroupState::Rebalancing),
            ("2 of 12 partitions have no owner", Health::Unhealthy, |s| group(s).held = 10),
            ("waited for 61 s", Health::Unhealthy, |s| group(s).lag[0].oldest_seconds = Some(61.0)),
            ("t/3 waits; 5 offsets are held back from evaluator and log-sink", Health::Unhealthy, |s| {
                let held = HeldBack {
                    topic: "t".into(),
                    partition: 3,
                    offset: 7,
                    records: 5,
                    since: 0,
                    seconds: 6.0,
                    description: "t/3 waits".into(),
                };
                group(s).held_back = vec![held];
                let second = Stage { name: "log-sink".into(), ..s.stages[0].clone() };
                s.stages.push(second);
            }),
            ("1 differences", Health::Unhealthy, |s| {
                let differences = vec!["+ create".into()];
                s.topology = Answer::Known(TopologyState { topics: 1, subjects: 1, differences });
            }),
            ("cannot be read", Health::Unhealthy, |s| s.tables[0].rows = Answer::Unknown("no".into())),
            ("agent.actions/3: 4 offsets have no record", Health::Unhealthy, |s| {
                let skipped = |logged_at| SkippedOffsets {
                    topic_partition: "agent.actions/3".into(),
                    offsets: 4,
                    from: 7,
                    to: 9,
                    logged_at,
                };
                // Old skipped offsets are displayed, and are not a fault.
                s.at = RECENT;
                s.skipped = Answer::Known(vec![skipped(1), skipped(0)]);
            }),
            ("no bundle", Health::Unhealthy, |s| s.bundles = Answer::Known(vec![])),
            ("the state of evaluator is not known: timed out", Health::Unhealthy, |s| {
                s.stages[0].state = Answer::Unknown("timed out".into());
            }),
            ("how long up to 5 records of t have waited is not known", Health::Unhealthy, |s| {
                group(s).lag[0] = TopicLag { topic: "t".into(), records: 5, oldest_seconds: None };
            }),
            ("as the topology says is not known: refused", Health::Unhealthy, |s| {
                s.topology = Answer::Unknown("refused".into());
            }),
            ("rejects of the last hour: not known: no", Health::Unhealthy, |s| {
                s.rejects_last_hour = Answer::Unknown("no".into());
            }),
            ("alerts of the last hour: not known: no", Health::Unhealthy, |s| {
                s.alerts_last_hour = Answer::Unknown("no".into());
            }),
            ("stops of the last day: not known: no", Health::Unhealthy, |s| {
                s.stops_last_day = Answer::Unknown("no".into());
            }),
            ("accepted gaps: not known: no", Health::Unhealthy, |s| s.gaps = Answer::Unknown("no".into())),
            ("skipped offsets: not known: no", Health::Unhealthy, |s| {
                s.skipped = Answer::Unknown("no".into())
            }),
            ("active bundles: not known: no", Health::Unhealthy, |s| {
                s.bundles = Answer::Unknown("no".into())
            }),
            ("table actions cannot be read", Health::Unhealthy, |s| {
                s.tables[0].rows = Answer::Unknown("no such table".into());
                s.bundles = Answer::Unknown("no such table".into());
            }),
            ("is away", Health::PartAway, |s| {
                s.parts[0].answers = false;
                s.stages[0].state = Answer::Unknown("kafka is away".into());
                s.topology = Answer::Unknown("kafka is away".into());
            }),
            ("does not respond: refused", Health::Unhealthy, |s| {
                let away = Some("refused".into());
                s.processes = vec![Process { url: "u".into(), away, version: String::new(), stages: vec![] }];
            }),
            ("pdp at u is not ready: stale: old", Health::Unhealthy, |s| {
                let not_ready = BTreeMap::from([("stale".to_owned(), "old".to_owned())]);
                let stage = "pdp".to_owned();
                let pdp = StageReadiness { stage, not_ready, hangs: None, progress_age_seconds: 0.0 };
                s.decision_points =
                    vec![Process { url: "u".into(), away: None, version: String::new(), stages: vec![pdp] }];
            }),
        ];
        for (description, health, breaks) in cases {
            let mut status = healthy();
            breaks(&mut status);
            status.derive_faults();
            assert_eq!(status.health, health, "{description}");
            assert!(
                status.wrong.len() == 1 && status.wrong[0].what.contains(description),
                "{description}: {:?}",
                status.wrong
            );
        }
    }
}
