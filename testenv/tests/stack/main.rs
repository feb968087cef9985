//! Tests of properties that the parts of a stack must have on every backend. All tests share one stack.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for product code"
)]

mod broker;
mod engine;
mod fence;
mod http;
mod registry;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use agentgov_testenv::{Addresses, Options, TestEnv};

/// Ends with this process.
static STACK: LazyLock<TestEnv> = LazyLock::new(|| {
    let options = Options::new(env!("CARGO_BIN_EXE_testenv-helper"));
    TestEnv::start(options).unwrap_or_else(|error| panic!("{error}"))
});

fn addresses() -> &'static Addresses {
    STACK.addresses()
}

/// Returns a client in a database of its own, which isolates tests.
async fn database(name: &str) -> clickhouse::Client {
    let addresses = addresses();
    let client = clickhouse::Client::default()
        .with_url(&addresses.clickhouse)
        .with_user(&addresses.clickhouse_user)
        .with_password(&addresses.clickhouse_password);
    client.query(&format!("CREATE DATABASE {name}")).execute().await.unwrap();
    client.with_database(name)
}

/// Waits for a condition. The deadline is long because other tests share the cores.
async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "expected: {what}; not met before the deadline");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
