//! The fault harness finds a mistake when one is planted: else that it finds none would say nothing. Each mistake gets
//! topics, groups and tables of its own on one stack, and just the faults under which it shows.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_audit::FindingKind;
use agentgov_connect::Endpoints;
use agentgov_faults::{AtEdge, Edge, Fault, Meddling, Outcome, PLANT_NO_DRAIN, Setup, Step};
use agentgov_schemas::topology::Topology;
use agentgov_service::failpoint;

use crate::stack::{BENCH, STACK, armed, endpoints, root};

/// After what a process that says nothing is out of its group.
const SESSION: Duration = Duration::from_secs(6);

/// A pipeline of its own on the stack.
struct Place {
    endpoints: Endpoints,
    topology: Arc<Topology>,
    file: tempfile::NamedTempFile,
}

impl Place {
    fn new(name: &str) -> Self {
        let endpoints = endpoints(name);
        let map = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
        let map = map
            .replace("agent.", &format!("{name}.agent."))
            .replace("governance.", &format!("{name}.governance."))
            .replace("group: agentgov.", &format!("group: {name}."))
            .replace("partitions: 12", "partitions: 3")
            // Dead processes are out of the way sooner: less to wait for.
            .replace("_timeout: 10s", &format!("_timeout: {}s", SESSION.as_secs()))
            .replace("heartbeat: 3s", "heartbeat: 1s");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &map).unwrap();
        let topology =
            Arc::new(Topology::parse(name, &map).unwrap_or_else(|problems| panic!("{problems:?}")));
        let place = Self { endpoints, topology, file };
        place.run(&["topology", "apply"]);
        place.run(&["registry", "push", "examples/airline/registry.yaml"]);
        place.run(&["policy", "push", "examples/airline/bundle"]);
        place
    }

    fn topology_file(&self) -> String {
        self.file.path().display().to_string()
    }

    fn run(&self, args: &[&str]) {
        let output =
            armed(args, &self.endpoints).args(["--topology", &self.topology_file()]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The stage's index in the topology.
    fn stage(&self, name: &str) -> usize {
        self.topology.stages.keys().position(|stage| stage == name).unwrap()
    }

    fn faults(&self, plant: Option<&'static str>, edge: &'static str, steps: Vec<Step>) -> Outcome {
        let edge = vec![Edge { name: edge, in_each_batch: true }];
        let setup = Setup {
            env: &STACK,
            endpoints: &self.endpoints,
            topology: &self.topology,
            stage_args: vec!["--topology".into(), self.topology_file()],
            tenant: "airline",
            agent: "airline-service",
            environment: "demo",
            program: BENCH.into(),
            edges: self
                .topology
                .stages
                .keys()
                .map(|name| (name.clone(), edge.clone()))
                .collect::<BTreeMap<_, _>>(),
            plants: plant.into_iter().collect(),
            strangers: false,
            steps,
            seed: 1,
            // With a mistake it may never be done, and what was found by then is enough.
            settle: Duration::from_secs(if plant.is_some() { 45 } else { 240 }),
        };
        let name = self.endpoints.clickhouse.database.clone();
        agentgov_faults::run(&setup, &|line| eprintln!("{name}: {line}")).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Lets inserts take longer after they have passed the fence than a sink takes to claim and look.
    fn slow_inserts(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let http = reqwest::blocking::Client::new();
        for table in ["actions", "verdicts"] {
            // The sink makes the table.
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

/// The same fault several times, far enough apart that the pipeline is at work each time.
fn repeated(times: usize, fault: Fault) -> Vec<Step> {
    std::iter::repeat_n(Step { after: Duration::from_secs(2), fault }, times).collect()
}

/// Processes that are killed, and after them some that end by themselves at the edge, after their second batch.
fn killed_at_the_edge(stage: usize) -> Vec<Step> {
    let then = Some(AtEdge { edge: 0, passes: 1, stop: None });
    let both = |after| {
        [(0, after), (1, Duration::ZERO)]
            .map(|(member, after)| Step { after, fault: Fault::KillStage { stage, member, then } })
    };
    // The dead keep their partitions until their session is over. Who follows them must live longer than that to get at any.
    [Duration::ZERO, 2 * SESSION, 2 * SESSION].into_iter().flat_map(both).collect()
}

/// Runs it, each time at a place of its own, until the audit finds this: on a busy machine the faults may miss their moment.
/// Not at the same place again: a sink refuses a table in which rows are doubled.
fn found(kind: FindingKind, name: &str, run: impl Fn(&Place) -> Outcome) {
    let mut outcomes = Vec::new();
    for attempt in 1..=3 {
        let outcome = run(&Place::new(&format!("{name}_{attempt}")));
        if outcome.audit.count(kind) > 0 {
            return;
        }
        outcomes.push(outcome);
    }
    panic!("{name}: expected the audit to find {}, found it in none of {outcomes:#?}", kind.as_str());
}

/// An answer was lost more than twice.
fn answers_were_lost(outcome: &Outcome) -> bool {
    outcome.done.get("lose an answer").is_some_and(|times| *times > 2)
}

#[test]
fn offsets_committed_before_outputs_are_found_as_loss() {
    found(FindingKind::Unjudged, "commit_first", |place| {
        let steps = killed_at_the_edge(place.stage("evaluator"));
        place.faults(Some(failpoint::PLANT_COMMIT_FIRST), "processor::begun", steps)
    });
}

#[test]
fn going_on_without_a_look_is_found_as_doubled_rows() {
    found(FindingKind::Doubled, "no_look", |place| {
        let steps = killed_at_the_edge(place.stage("log-sink"));
        place.faults(Some(failpoint::PLANT_NO_TAIL_READ), "sink::inserted", steps)
    });
}

#[test]
fn a_drain_left_out_is_found_as_doubled_rows_and_only_then() {
    let lost = Fault::Meddle(Meddling::LoseAnswer { answered: false });
    let run = |place: &Place, plant| {
        std::thread::scope(|scope| {
            scope.spawn(|| place.slow_inserts());
            place.faults(plant, "sink::drained", repeated(6, lost))
        })
    };
    found(FindingKind::Doubled, "no_drain", |place| run(place, Some(PLANT_NO_DRAIN)));
    let outcome = run(&Place::new("with_drain"), None);
    assert!(answers_were_lost(&outcome), "{outcome:#?}");
    assert_eq!(outcome.audit.count(FindingKind::Doubled), 0, "{outcome:#?}");
    assert!(outcome.is_clean(), "{outcome:#?}");
}
