//! The shared stack.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use agentgov_alerter::Alerter;
use agentgov_connect::Endpoints;
use agentgov_evaluator::Evaluator;
use agentgov_registry::{Agent, AgentState, RegistryContext};
use agentgov_runtime::processor;
use agentgov_schemas::topology::Topology;
use agentgov_sdk::{Recorder, RecorderOptions};
use agentgov_service::{Health, ShutdownSignal, StageError};
use agentgov_testenv::{Options, TestEnv};

/// Exceeds every wait on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Agent of the tests. It gets its grants in a tenant once it is registered there.
pub const AGENT: &str = "airline-service";
/// Environment in which the airline's bundle is active.
pub const ENVIRONMENT: &str = "production";
/// Tenants whose agent is registered before the stages start, so that their first verdict already has the grants. Each
/// belongs to one test.
const TENANTS: [&str; 8] =
    ["bad-input", "complete", "twice", "killed-1", "killed-2", "restarted", "shown", "questions"];

/// Running pipeline.
pub struct Stack {
    pub endpoints: Endpoints,
    pub topology: Arc<Topology>,
    /// Health of each stage, by name.
    pub health: Vec<(String, Health)>,
    #[expect(dead_code, reason = "held: it ends with this process, whose end its supervisor sees")]
    env: TestEnv,
}

/// Returns the pipeline that all tests share.
pub fn stack() -> &'static Stack {
    static STACK: LazyLock<Stack> = LazyLock::new(Stack::start);
    &STACK
}

/// Returns the executable under test.
pub fn agentgov() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_agentgov"))
}

/// Returns the workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a file of the recorded runs beside the project, if it exists.
pub fn shared(file: &str) -> Option<PathBuf> {
    agentgov_test_support::shared(&format!("airline-agent-runs/{file}"))
}

impl Stack {
    fn start() -> Self {
        let env = TestEnv::start(Options::new(agentgov())).unwrap_or_else(|e| panic!("{e}"));
        let endpoints = Endpoints::from(env.addresses());
        let topology = Arc::new(Topology::embedded().unwrap());
        agentgov_topology::apply(&topology, &endpoints, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let mut stack = Self { endpoints, topology, health: Vec::new(), env };
        stack.run(&["registry", "push", "examples/airline/registry.yaml"]);
        stack.run(&["policy", "push", "examples/airline/bundle"]);
        stack.register(&TENANTS);
        for name in stack.topology.stages.keys() {
            let health = Health::new(name.as_str());
            stack.health.push((name.clone(), health.clone()));
            let (stage, endpoints, topology) =
                (name.clone(), stack.endpoints.clone(), Arc::clone(&stack.topology));
            let config = processor::Config {
                stage,
                endpoints,
                topology,
                stop: ShutdownSignal::default(),
                health,
                accept_gap: false,
            };
            std::thread::spawn(move || {
                let name = config.stage.clone();
                if let Err(error) = run_stage(config) {
                    eprintln!("stage {name} ended: {error}");
                }
            });
        }
        stack.eventually("every stage is ready", || {
            stack.health.iter().all(|(_, health)| health.snapshot().not_ready.is_empty())
        });
        stack
    }

    /// Returns `agentgov ARGS` on this stack, in the workspace's root.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(agentgov());
        let clickhouse = &self.endpoints.clickhouse;
        command
            .args(args)
            .current_dir(root())
            // For the command, it is an external stack.
            .env("AGENTGOV_BACKEND", "external")
            .env("AGENTGOV_KAFKA", &self.endpoints.kafka.bootstrap)
            .env("AGENTGOV_SCHEMA_REGISTRY", &self.endpoints.schema_registry.url)
            .env("AGENTGOV_CLICKHOUSE", &clickhouse.url)
            .env("AGENTGOV_CLICKHOUSE_USER", &clickhouse.user)
            .env("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose())
            .env("AGENTGOV_CLICKHOUSE_DATABASE", &clickhouse.database);
        command
    }

    /// Runs `agentgov ARGS` on this stack, panics unless it exits with 0, and returns stdout.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "agentgov {args:?}: {}", describe(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Registers [`AGENT`] with the airline's role in each tenant, so that its actions have grants.
    pub fn register(&self, tenants: &[&str]) {
        let agents: Vec<Agent> = tenants
            .iter()
            .map(|tenant_id| Agent {
                tenant_id: (*tenant_id).into(),
                agent_id: AGENT.into(),
                name: AGENT.into(),
                owner: "tests".into(),
                roles: vec!["airline-agent".into()],
                state: AgentState::Active,
                description: None,
                sponsor: None,
                version: None,
                environments: vec![],
            })
            .collect();
        let context = RegistryContext { endpoints: &self.endpoints, topology: &self.topology };
        agentgov_registry::push_agents(context, &agents, "tests").unwrap();
    }

    /// Starts a recorder of a new source.
    pub fn recorder(&self, tenant_id: &str, environment: &str) -> Recorder {
        let Endpoints { kafka, schema_registry, .. } = self.endpoints.clone();
        let options =
            RecorderOptions::new(kafka, schema_registry, Arc::clone(&self.topology), tenant_id, environment);
        Recorder::start(options).unwrap()
    }

    /// Runs `sql` and returns the response: one row per line, tab separated.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_with(sql, &[])
    }

    /// Runs `sql` with values for its `{name:Type}`.
    pub fn sql_with(&self, sql: &str, parameters: &[(&str, &str)]) -> String {
        let clickhouse = &self.endpoints.clickhouse;
        let mut request = reqwest::blocking::Client::new()
            .post(&clickhouse.url)
            .query(&[("database", clickhouse.database.as_str())])
            .query(
                &parameters.iter().map(|(name, value)| (format!("param_{name}"), *value)).collect::<Vec<_>>(),
            )
            .body(sql.to_owned());
        if !clickhouse.user.is_empty() {
            request = request.basic_auth(&clickhouse.user, Some(clickhouse.password.expose()));
        }
        let answer = request.send().unwrap();
        let status = answer.status();
        let text = answer.text().unwrap();
        assert!(status.is_success(), "{sql}\n{status}: {text}");
        text
    }

    /// Runs `sql` and returns rows of columns.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.sql(sql).lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// Runs `sql` and returns its only number.
    pub fn number(&self, sql: &str) -> i64 {
        let answer = self.sql(sql);
        answer.trim().parse().unwrap_or_else(|e| panic!("{sql}\nexpected a number, found {answer:?}: {e}"))
    }

    /// Waits for a condition. Panics after [`DEADLINE`].
    pub fn eventually(&self, what: &str, mut met: impl FnMut() -> bool) {
        let began = Instant::now();
        while !met() {
            let stages: Vec<_> = self.health.iter().map(|(_, health)| health.snapshot()).collect();
            assert!(
                began.elapsed() < DEADLINE,
                "expected: {what}; not met within {DEADLINE:?}. Stages: {stages:#?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Formats a command's status and output for a message.
pub fn describe(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn run_stage(config: processor::Config) -> Result<(), StageError> {
    let topology = Arc::clone(&config.topology);
    let stage = topology.stage(&config.stage)?;
    match config.stage.as_str() {
        "evaluator" => processor::run(config, Evaluator::new(&topology, stage)?),
        "alerter" => processor::run(config, Alerter::new(stage.alert_window.as_ref().unwrap().value.0)),
        "log-sink" => agentgov_log_sink::run(agentgov_log_sink::Config {
            endpoints: config.endpoints,
            topology: config.topology,
            stop: config.stop,
            health: config.health,
            accept_gap: config.accept_gap,
        }),
        other => panic!("{other} is no stage"),
    }
}
