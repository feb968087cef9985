//! Tests that the fault harness's variable has no effect on the product, independent of what was built beside it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use agentgov_service::failpoint::{PROCESSOR_EDGES, SINK_EDGES, THREAD_EDGES};
use rustix::process::{Pid, Signal, kill_process};

use crate::stack::{root, stack};

/// Child process, killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn failpoints_do_nothing_to_the_product() {
    let stack = stack();
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let text = text
        .replace("agent.", "failpoints.")
        .replace("governance.", "failpoints-governance.")
        .replace("agentgov.", "failpoints.")
        .replace("partitions: 12", "partitions: 2");
    std::fs::write(file.path(), text).unwrap();
    let topology = file.path().to_str().unwrap();
    stack.run(&["topology", "apply", "--topology", topology]);
    // In agentgov-bench each of these ends the process: bench/tests/harness/panics.rs.
    let edges = PROCESSOR_EDGES.iter().chain(&SINK_EDGES).chain(&THREAD_EDGES);
    let failpoints: Vec<_> = edges.map(|edge| format!("{edge}=panic(planted)")).collect();
    let mut process = Process(
        stack
            .command(&["run", "all", "--listen=127.0.0.1:0", "--topology", topology])
            .env("AGENTGOV_CLICKHOUSE_DATABASE", "failpoints")
            .env("FAILPOINTS", failpoints.join(";"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready = format!("{}/readyz", line.trim().rsplit(' ').next().unwrap());
    // A ready process has passed the failpoints of the start; a response passes that of the server.
    stack.eventually("the product is ready", || {
        assert_eq!(process.0.try_wait().unwrap(), None, "it ended by itself");
        reqwest::blocking::get(&ready).is_ok_and(|answer| answer.status().is_success())
    });
    kill_process(Pid::from_child(&process.0), Signal::TERM).unwrap();
    assert!(process.0.wait().unwrap().success());
}
