//! Tests that a panic in any thread of a stage process ends the process with the panic's message and exit code.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentgov_service::{ExitCode, failpoint};

use crate::stack::{armed_command, endpoints, root};

/// Exceeds the start time on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Child process, killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn wait_for_exit(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < DEADLINE, "expected the process to end within {DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn panic_in_any_thread_ends_the_process_with_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panics.yaml");
    let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let text = text
        .replace("agent.", "panics.")
        .replace("governance.", "panics-governance.")
        .replace("agentgov.", "panics.")
        .replace("partitions: 12", "partitions: 2");
    std::fs::write(&file, text).unwrap();
    let topology_file = file.to_str().unwrap();
    let applied = armed_command(&["topology", "apply", "--topology", topology_file], &endpoints("panics"))
        .output()
        .unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let [lag_watcher, server, call] = failpoint::THREAD_EDGES;
    let listen = "--listen=127.0.0.1:0";
    // Without a thread name, any stage may be the first to panic.
    let cases: [(&[&str], &str, &str); 6] = [
        (&["up"], "processor::restored", ""),
        (&["run", "all"], "sink::claimed", "log-sink"),
        (&["run", "all"], "processor::restored", ""),
        (&["run", "alerter", listen], lag_watcher, "alerter-lag"),
        (&["run", "log-sink", listen], server, "health"),
        (&["run", "evaluator"], call, "call"),
    ];
    std::thread::scope(|scope| {
        for (number, (args, edge, thread)) in cases.into_iter().enumerate() {
            scope.spawn(move || {
                let mut command = armed_command(args, &endpoints(&format!("panics_{number}")));
                command
                    .args(["--topology", topology_file])
                    .env("FAILPOINTS", format!("{edge}=panic(planted)"))
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let mut process = Process(command.spawn().unwrap());
                if edge == server {
                    let mut line = String::new();
                    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
                    let _ =
                        reqwest::blocking::get(format!("{}/readyz", line.trim().rsplit(' ').next().unwrap()));
                }
                let ended = process.wait_for_exit();
                let mut stderr = String::new();
                process.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                assert_eq!(
                    ended.code(),
                    Some(ExitCode::Panicked as i32),
                    "{args:?}, {edge}: {ended}: {stderr}"
                );
                let reason = stderr.lines().last().unwrap_or_default();
                let begin = format!("agentgov: thread `{thread}");
                assert!(
                    reason.starts_with(&begin)
                        && reason.contains("` panicked at ")
                        && reason.contains("planted"),
                    "{args:?}, {edge}: {stderr}"
                );
            });
        }
    });
}
