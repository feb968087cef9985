//! Tests that the fault harness finds planted mistakes; without them, its clean results would prove nothing. Each mistake
//! has its own topics, groups and tables on one stack, and only the faults that expose it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_audit::FindingKind;
use agentgov_connect::Endpoints;
use agentgov_faults::{
    DecisionReport, Failpoint, FailpointStop, Fault, InsertFault, Outcome, PLANT_ALTER_DECISION,
    PLANT_COMMIT_FIRST, PLANT_DOUBLE_DECISION, PLANT_FORGET_DECISION, PLANT_LATE_SUSPENSION, PLANT_NO_DRAIN,
    PLANT_NO_TAIL_READ, PLANT_REUSE_TOKEN, Setup, Step,
};
use agentgov_schemas::topology::Topology;

use crate::stack::{BENCH, STACK, armed_command, endpoints, root};

/// Session timeout, after which a silent member is removed from its group.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// A pipeline with its own topics, groups and tables.
struct Pipeline {
    endpoints: Endpoints,
    topology: Arc<Topology>,
    file: tempfile::NamedTempFile,
}

impl Pipeline {
    fn new(name: &str) -> Self {
        let endpoints = endpoints(name);
        let yaml = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
        let yaml = yaml
            .replace("agent.", &format!("{name}.agent."))
            .replace("governance.", &format!("{name}.governance."))
            .replace("group: agentgov.", &format!("group: {name}."))
            .replace("partitions: 12", "partitions: 3")
            // Short timeouts remove dead processes sooner.
            .replace("_timeout: 10s", &format!("_timeout: {}s", SESSION_TIMEOUT.as_secs()))
            .replace("heartbeat: 3s", "heartbeat: 1s");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &yaml).unwrap();
        let topology =
            Arc::new(Topology::parse(name, &yaml).unwrap_or_else(|problems| panic!("{problems:?}")));
        let pipeline = Self { endpoints, topology, file };
        pipeline.run(&["topology", "apply"]);
        pipeline.run(&["registry", "push", "examples/airline/registry.yaml"]);
        pipeline.run(&["policy", "push", "examples/airline/bundle"]);
        pipeline
    }

    fn topology_file(&self) -> String {
        self.file.path().display().to_string()
    }

    fn run(&self, args: &[&str]) {
        let output = armed_command(args, &self.endpoints)
            .args(["--topology", &self.topology_file()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns the stage's index in the topology.
    fn stage(&self, name: &str) -> usize {
        self.topology.stages.keys().position(|stage| stage == name).unwrap()
    }

    fn faults(&self, plant: Option<&'static str>, failpoint: &'static str, steps: Vec<Step>) -> Outcome {
        self.run_harness(&self.setup(plant.into_iter().collect(), failpoint, steps))
    }

    fn setup(&self, plants: Vec<&'static str>, failpoint: &'static str, steps: Vec<Step>) -> Setup<'_> {
        let failpoint = vec![Failpoint { name: failpoint, in_each_batch: true }];
        Setup {
            env: &STACK,
            endpoints: &self.endpoints,
            topology: &self.topology,
            stage_args: vec!["--topology".into(), self.topology_file()],
            tenant: "airline",
            agent: "airline-service",
            environment: "demo",
            program: BENCH.into(),
            failpoints: self
                .topology
                .stages
                .keys()
                .map(|name| (name.clone(), failpoint.clone()))
                .collect::<BTreeMap<_, _>>(),
            foreign_client: false,
            decision_points: false,
            steps,
            seed: 1,
            // With a mistake the pipeline may never finish; the findings by then suffice.
            settle: Duration::from_secs(if plants.is_empty() { 240 } else { 45 }),
            plants,
        }
    }

    fn run_harness(&self, setup: &Setup<'_>) -> Outcome {
        let name = self.endpoints.clickhouse.database.clone();
        agentgov_faults::run(setup, &|line| eprintln!("{name}: {line}")).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Makes inserts take longer, after they have passed the fence, than a claim and a tail read.
    fn slow_inserts(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let http = reqwest::blocking::Client::new();
        for table in ["actions", "verdicts"] {
            // The sink creates the table.
            loop {
                let answer = http
                    .post(&self.endpoints.clickhouse.url)
                    .query(&[("database", &self.endpoints.clickhouse.database)])
                    .body(format!("ALTER TABLE {table} ADD CONSTRAINT IF NOT EXISTS slow CHECK sleep(2) = 0"))
                    .send()
                    .unwrap();
                if answer.status().is_success() {
                    break;
                }
                let why = answer.text().unwrap();
                assert!(why.contains("UNKNOWN") && Instant::now() < deadline, "{why}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Repeats a fault at intervals that let the pipeline resume work.
fn repeat_fault(times: usize, fault: Fault) -> Vec<Step> {
    std::iter::repeat_n(Step { after: Duration::from_secs(2), fault }, times).collect()
}

/// Kills processes, and lets their successors end at the failpoint after their second batch.
fn kills_then_failpoint(stage: usize) -> Vec<Step> {
    let failpoint_stop = Some(FailpointStop { failpoint: 0, passes: 1, stop: None });
    let both = |after| {
        [(0, after), (1, Duration::ZERO)]
            .map(|(member, after)| Step { after, fault: Fault::KillStage { stage, member, failpoint_stop } })
    };
    // Killed processes keep their partitions until the session timeout; their successors must live longer to be assigned
    // any.
    [Duration::ZERO, 2 * SESSION_TIMEOUT, 2 * SESSION_TIMEOUT].into_iter().flat_map(both).collect()
}

/// Runs a harness until its audit finds `kind`, because faults may miss their moment on a busy machine. Each attempt has
/// its own pipeline, since a sink rejects a table with doubled rows.
fn assert_found(kind: FindingKind, name: &str, run: impl Fn(&Pipeline) -> Outcome) {
    let mut outcomes = Vec::new();
    for attempt in 1..=3 {
        let outcome = run(&Pipeline::new(&format!("{name}_{attempt}")));
        if outcome.audit.count(kind) > 0 {
            return;
        }
        outcomes.push(outcome);
    }
    panic!("{name}: expected the audit to find {}, found it in none of {outcomes:#?}", kind.as_str());
}

/// Returns true if more than two responses were lost.
fn has_lost_responses(outcome: &Outcome) -> bool {
    outcome.done.get("lose a response").is_some_and(|times| *times > 2)
}

#[test]
fn offsets_committed_before_outputs_are_found_as_unjudged() {
    assert_found(FindingKind::Unjudged, "commit_first", |pipeline| {
        let steps = kills_then_failpoint(pipeline.stage("evaluator"));
        pipeline.faults(Some(PLANT_COMMIT_FIRST), "processor::begun", steps)
    });
}

#[test]
fn resume_without_tail_read_is_found_as_doubled_rows() {
    assert_found(FindingKind::Doubled, "no_tail_read", |pipeline| {
        let steps = kills_then_failpoint(pipeline.stage("log-sink"));
        pipeline.faults(Some(PLANT_NO_TAIL_READ), "sink::inserted", steps)
    });
}

#[test]
fn missing_drain_is_found_as_doubled_rows() {
    let lost = Fault::DisturbInsert(InsertFault::LoseResponse { after_response: false });
    let run = |pipeline: &Pipeline, plant| {
        std::thread::scope(|scope| {
            scope.spawn(|| pipeline.slow_inserts());
            pipeline.faults(plant, "sink::drained", repeat_fault(6, lost))
        })
    };
    assert_found(FindingKind::Doubled, "no_drain", |pipeline| run(pipeline, Some(PLANT_NO_DRAIN)));
    let outcome = run(&Pipeline::new("with_drain"), None);
    assert!(has_lost_responses(&outcome), "{outcome:#?}");
    assert_eq!(outcome.audit.count(FindingKind::Doubled), 0, "{outcome:#?}");
    assert!(outcome.is_clean(), "{outcome:#?}");
}

#[test]
fn wrong_decisions_and_late_suspensions_are_found() {
    let plants = [
        PLANT_FORGET_DECISION,
        PLANT_DOUBLE_DECISION,
        PLANT_ALTER_DECISION,
        PLANT_LATE_SUSPENSION,
        PLANT_REUSE_TOKEN,
    ];
    let mut reports = Vec::new();
    for attempt in 1..=3 {
        let pipeline = Pipeline::new(&format!("decisions_{attempt}"));
        let kill = Fault::KillDecisionPoint { member: 0, failpoint_stop: None };
        let setup = Setup {
            decision_points: true,
            // These mistakes stop no stage.
            settle: Duration::from_secs(240),
            ..pipeline.setup(plants.to_vec(), "pdp::recorded", repeat_fault(10, kill))
        };
        let outcome = pipeline.run_harness(&setup);
        assert!(!outcome.is_clean(), "{outcome:#?}");
        let DecisionReport { missing, doubled, altered, late, unexplained, unrecorded, .. } =
            outcome.decisions.as_ref().unwrap();
        assert_eq!(unrecorded.len(), 0, "{outcome:#?}");
        if [missing, doubled, altered, late, unexplained].iter().all(|found| !found.is_empty()) {
            return;
        }
        reports.push(outcome.decisions);
    }
    panic!("expected every planted mistake to be found, found not all in {reports:#?}");
}
