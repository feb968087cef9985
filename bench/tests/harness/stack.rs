//! Stack and executable of these tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use agentgov_connect::Endpoints;
use agentgov_testenv::{BackendKind, Options, TestEnv};

/// The executable under test.
pub const BENCH: &str = env!("CARGO_BIN_EXE_agentgov-bench");

/// Native, so that its parts can be killed.
pub static STACK: LazyLock<TestEnv> = LazyLock::new(|| {
    let mut options = Options::new(PathBuf::from(BENCH));
    options.backend = Some(BackendKind::Native);
    TestEnv::start(options).unwrap_or_else(|e| panic!("{e}"))
});

/// Returns the endpoints of the stack with another database.
pub fn endpoints(database: &str) -> Endpoints {
    let mut endpoints = Endpoints::from(STACK.addresses());
    endpoints.clickhouse.database = database.to_owned();
    endpoints
}

/// Returns a command of the product in a process that obeys FAILPOINTS, on the stack, in the workspace's root.
pub fn armed_command(args: &[&str], endpoints: &Endpoints) -> Command {
    let mut command = Command::new(BENCH);
    let clickhouse = &endpoints.clickhouse;
    command
        .arg("armed")
        .args(args)
        .current_dir(root())
        // For the command, it is an external stack.
        .env("AGENTGOV_BACKEND", "external")
        .env("AGENTGOV_KAFKA", &endpoints.kafka.bootstrap)
        .env("AGENTGOV_SCHEMA_REGISTRY", &endpoints.schema_registry.url)
        .env("AGENTGOV_CLICKHOUSE", &clickhouse.url)
        .env("AGENTGOV_CLICKHOUSE_USER", &clickhouse.user)
        .env("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose())
        .env("AGENTGOV_CLICKHOUSE_DATABASE", &clickhouse.database);
    command
}

/// Returns the workspace's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
