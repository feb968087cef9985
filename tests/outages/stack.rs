//! The stack that the tests of this binary share, one after the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_connect::Endpoints;
use agentgov_registry::{Agent, AgentState, RegistryContext};
use agentgov_schemas::topology::Topology;
use agentgov_testenv::{BackendKind, Options, TestEnv};

use crate::stage::Stage;

/// Longer than anything here takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// The tenant, and the agent that acts in it.
pub const TENANT: &str = "outages";
pub const AGENT: &str = "airline-service";
pub const ENVIRONMENT: &str = "production";

pub struct Stack {
    pub env: TestEnv,
    pub endpoints: Endpoints,
    pub topology: Arc<Topology>,
    /// What the parts keep.
    pub data: tempfile::TempDir,
}

/// The stack, for this test alone until it is dropped. `None`: there is none on this backend, and a person has allowed to skip the test.
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
        };
        let context = RegistryContext { endpoints: &stack.endpoints, topology: &stack.topology };
        agentgov_registry::push_agents(context, &[agent], "tests").unwrap();
        stack
    }

    /// `agentgov`, on this stack, in the workspace's root.
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

    /// Runs `agentgov ARGS`. Panics unless it ends with 0.
    pub fn run(&self, args: &[&str]) {
        let output = self.command().args(args).output().unwrap();
        assert!(output.status.success(), "agentgov {args:?}: {}", told(&output));
    }

    /// Waits until every record has its row and every judged action its verdict, once, by the audit.
    pub fn is_whole(&self, stages: &[Stage]) {
        let began = Instant::now();
        loop {
            // An audit looks how far the stages are when it begins, and takes minutes on a machine that is overloaded: one that began
            // while they still caught up shows nothing, however late it ends.
            let audit_began = began.elapsed();
            let output = self.command().args(["audit", "completeness"]).output().unwrap();
            let last = told(&output);
            eprintln!(
                "an audit that began after {audit_began:.0?} took {:.0?}",
                began.elapsed() - audit_began
            );
            let settled =
                last.contains(" 0 records not yet reached") && last.contains(" 0 answers not yet given");
            assert!(output.status.success() || !settled, "{last}");
            if output.status.success() && settled {
                eprintln!("the log is whole: {last}");
                return;
            }
            if audit_began >= DEADLINE {
                // The state of each stage, and the last that it logged, say where a record waits.
                let words = stages.iter().map(|stage| {
                    let log = stage.told();
                    let last: Vec<&str> = log.lines().rev().take(60).collect();
                    let last: Vec<&str> = last.into_iter().rev().collect();
                    format!("{}: {}\n{}", stage.name, stage.troubles(), last.join("\n"))
                });
                panic!("expected the log to be whole: {last}\n{}", words.collect::<Vec<_>>().join("\n\n"));
            }
        }
    }
}

/// Waits for a condition. Panics after [`DEADLINE`].
pub fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < DEADLINE, "expected: {what}; still not so after {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a command printed, for a message.
pub fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}
