//! A panic in any thread of a process that runs stages ends the process, with a reason and its exit code.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentgov_service::{ExitCode, failpoint};

use crate::stack::{armed, endpoints, root};

/// Longer than a start takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A process that ends with this, at the latest.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < DEADLINE, "it looks alive");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_panic_in_any_thread_ends_the_process_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panics.yaml");
    let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let text = text
        .replace("agent.", "panics.")
        .replace("governance.", "panics-governance.")
        .replace("agentgov.", "panics.")
        .replace("partitions: 12", "partitions: 2");
    std::fs::write(&file, text).unwrap();
    let map = file.to_str().unwrap();
    let applied = armed(&["topology", "apply", "--topology", map], &endpoints("panics")).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let [onlooker, server, call] = failpoint::THREAD_EDGES;
    let listening = "--listen=127.0.0.1:0";
    // With no name of a thread it is whichever stage comes first.
    let cases: [(&[&str], &str, &str); 6] = [
        (&["up"], "processor::restored", ""),
        (&["run", "all"], "sink::claimed", "log-sink"),
        (&["run", "all"], "processor::restored", ""),
        (&["run", "alerter", listening], onlooker, "alerter-lag"),
        (&["run", "log-sink", listening], server, "health"),
        (&["run", "evaluator"], call, "call"),
    ];
    std::thread::scope(|scope| {
        for (number, (args, edge, thread)) in cases.into_iter().enumerate() {
            scope.spawn(move || {
                let mut command = armed(args, &endpoints(&format!("panics_{number}")));
                command
                    .args(["--topology", map])
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
                let ended = process.ended();
                let mut said = String::new();
                process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                assert_eq!(
                    ended.code(),
                    Some(ExitCode::Panicked as i32),
                    "{args:?}, {edge}: {ended}: {said}"
                );
                let reason = said.lines().last().unwrap_or_default();
                let begin = format!("agentgov: thread `{thread}");
                assert!(
                    reason.starts_with(&begin)
                        && reason.contains("` panicked at ")
                        && reason.contains("planted"),
                    "{args:?}, {edge}: {said}"
                );
            });
        }
    });
}
