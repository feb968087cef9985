//! Tests of container stacks: failures and cleanup. They need a Docker engine, so `tests/parties/run containers` runs them
//! under `testenv/docker/run-local-images`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy takes helpers of tests for product code"
)]

mod owner;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use agentgov_testenv::{BackendKind, Error, Part, TestEnv};
use owner::eventually;
use testcontainers::bollard::query_parameters::ListContainersOptionsBuilder;
use testcontainers::core::client::docker_client_instance;

/// Serialises the tests, since they count containers.
static SERIAL: Mutex<()> = Mutex::new(());

/// Returns the ids of the containers of all stacks, running or not.
fn containers() -> BTreeSet<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let docker = docker_client_instance().await.unwrap();
        let filters = HashMap::from([("label", vec!["agentgov.testenv"])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = docker.list_containers(Some(options)).await.unwrap();
        listed.into_iter().filter_map(|container| container.id).collect()
    })
}

#[test]
#[ignore = "needs a Docker engine: tests/parties/run containers"]
fn killed_owner_leaves_no_container() {
    let _turn = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let before = containers();
    let mut child = owner::spawn("docker", &[]);
    let (_, folder) = owner::wait_for_start(&mut child);
    assert_eq!(containers().difference(&before).count(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the containers are gone", || containers().is_subset(&before));
    eventually("their directory is gone", || !folder.exists());
}

#[test]
#[ignore = "needs a Docker engine: tests/parties/run containers"]
fn early_death_of_a_container_shows_its_log_and_removes_the_others() {
    let _turn = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let before = containers();
    let options = owner::options().backend(BackendKind::Docker).broker_property("process.roles", "nonsense");
    let error = TestEnv::start(options).err().expect("a broken broker");
    assert!(matches!(error, Error::Docker { .. }), "{error}");
    assert!(error.to_string().contains("nonsense"), "{error}");
    eventually("no container remains", || containers().is_subset(&before));
}

#[test]
#[ignore = "needs a Docker engine: tests/parties/run containers"]
fn stop_returns_after_everything_is_removed() {
    let _turn = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let before = containers();
    let stack = TestEnv::start(owner::options().backend(BackendKind::Docker))
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(stack.kill(Part::Broker), Err(Error::NativeOnly { .. })));
    let logs = stack.logs().to_path_buf();
    assert!(std::fs::read_to_string(logs.join("broker.log")).unwrap().contains("Kafka Server started"));
    stack.stop().unwrap();
    assert!(containers().is_subset(&before));
    assert!(!logs.exists());
}
