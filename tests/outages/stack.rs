//! The stack that tests of this binary share, one after another.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_connect::Endpoints;
use agentgov_registry::{Agent, AgentState, RegistryContext};
use agentgov_schemas::topology::Topology;
use agentgov_testenv::{BackendKind, Options, TestEnv};

use crate::stage::Stage;

/// Exceeds every wait on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Tenant and agent of the tests.
pub const TENANT: &str = "outages";
pub const AGENT: &str = "airline-service";
pub const ENVIRONMENT: &str = "production";

pub struct Stack {
    pub env: TestEnv,
    pub endpoints: Endpoints,
    pub topology: Arc<Topology>,
    /// Data of the parts.
    pub data: tempfile::TempDir,
}

/// Returns exclusive access to the stack. `None` if the backend has none and skipping is allowed.
pub fn stack() -> Option<MutexGuard<'static, Stack>> {
    static STACK: LazyLock<Result<Mutex<Stack>, String>> = LazyLock::new(|| {
        let named = std::env::var("AGENTGOV_BACKEND").unwrap_or_default();
        if named.is_empty() || named == "native" {
            Ok(Mutex::new(Stack::start()))
        } else {
            Err(format!("parts are killed and stopped on the native backend only, this is {named}"))
        }
    });
    match &*STACK {
        Ok(stack) => Some(stack.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(why) => {
            agentgov_test_support::skip("outages", why);
            None
        }
    }
}

pub fn agentgov() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_agentgov"))
}

impl Stack {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let options = Options::new(agentgov()).backend(BackendKind::Native).data_dir(data.path());
        let env = TestEnv::start(options).unwrap_or_else(|e| panic!("{e}"));
        let endpoints = Endpoints::from(env.addresses());
        let topology = Arc::new(Topology::embedded().unwrap());
        let stack = Self { env, endpoints, topology, data };
        stack.run(&["topology", "apply"]);
        stack.run(&["registry", "push", "examples/airline/registry.yaml"]);
        stack.run(&["policy", "push", "examples/airline/bundle"]);
        let agent = Agent {
            tenant_id: TENANT.into(),
            agent_id: AGENT.into(),
            name: AGENT.into(),
            owner: "tests".into(),
            roles: vec!["airline-agent".into()],
            state: AgentState::Active,
            description: None,
            sponsor: None,
            version: None,
            environments: vec![],
        };
        let context = RegistryContext { endpoints: &stack.endpoints, topology: &stack.topology };
        agentgov_registry::push_agents(context, &[agent], "tests").unwrap();
        stack
    }

    /// Returns a command of `agentgov` on this stack, in the workspace's root.
    pub fn command(&self) -> Command {
        let mut command = Command::new(agentgov());
        let clickhouse = &self.endpoints.clickhouse;
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .env("AGENTGOV_KAFKA", &self.endpoints.kafka.bootstrap)
            .env("AGENTGOV_SCHEMA_REGISTRY", &self.endpoints.schema_registry.url)
            .env("AGENTGOV_CLICKHOUSE", &clickhouse.url)
            .env("AGENTGOV_CLICKHOUSE_USER", &clickhouse.user)
            .env("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose())
            .env("AGENTGOV_CLICKHOUSE_DATABASE", &clickhouse.database);
        command
    }

    /// Runs `agentgov ARGS`; panics unless it exits with 0.
    pub fn run(&self, args: &[&str]) {
        let output = self.command().args(args).output().unwrap();
        assert!(output.status.success(), "agentgov {args:?}: {}", describe(&output));
    }

    /// Waits until the audit finds a row for every record and one verdict for every judged action.
    pub fn wait_for_complete_log(&self, stages: &[Stage]) {
        let began = Instant::now();
        loop {
            // The audit reads the stages' progress at its start and takes minutes on an overloaded machine. An audit that
            // began before they caught up proves nothing, however late it ends.
            let audit_began = began.elapsed();
            let output = self.command().args(["audit", "completeness"]).output().unwrap();
            let last = describe(&output);
            eprintln!(
                "an audit that began after {audit_began:.0?} took {:.0?}",
                began.elapsed() - audit_began
            );
            let settled =
                last.contains(" 0 records not yet reached") && last.contains(" 0 answers not yet given");
            assert!(output.status.success() || !settled, "{last}");
            if output.status.success() && settled {
                eprintln!("the log is complete: {last}");
                return;
            }
            if audit_began >= DEADLINE {
                // State and last log lines of each stage show where a record waits.
                let words = stages.iter().map(|stage| {
                    let log = stage.log();
                    let last: Vec<&str> = log.lines().rev().take(60).collect();
                    let last: Vec<&str> = last.into_iter().rev().collect();
                    format!("{}: {}\n{}", stage.name, stage.not_ready_reasons(), last.join("\n"))
                });
                panic!("expected a complete log: {last}\n{}", words.collect::<Vec<_>>().join("\n\n"));
            }
        }
    }
}

/// Waits for a condition. Panics after [`DEADLINE`].
pub fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < DEADLINE, "expected: {what}; not met within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Formats a command's status and output for a message.
pub fn describe(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}
