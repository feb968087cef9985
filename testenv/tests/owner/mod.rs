//! A process that owns a stack. Tests can kill it or give it another environment. It is this test executable, run with
//! only the ignored test below.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentgov_testenv::{BackendKind, Options, Part, TestEnv};

/// Returns the options of every stack of these tests.
pub fn options() -> Options {
    Options::new(env!("CARGO_BIN_EXE_testenv-helper"))
}

/// Starts the owner with a backend and additional variables.
pub fn spawn(backend: &str, environment: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner::owns_a_stack", "--ignored", "--nocapture"])
        .env("AGENTGOV_TEST_OWNER", "1")
        .env("AGENTGOV_BACKEND", backend)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for the owner's stack. Returns the pids of its parts (native only) and its directory.
pub fn wait_for_start(child: &mut Child) -> (Vec<u32>, PathBuf) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let text = lines.find(|line| line.starts_with("STARTED ") || line.starts_with("FAILED "));
    let text = text.expect("the owner prints the outcome of its start");
    let mut words = text.split(' ').skip(1).collect::<Vec<_>>();
    assert!(text.starts_with("STARTED "), "{text}");
    let folder = Path::new(words.pop().unwrap()).parent().unwrap().to_path_buf();
    (words.iter().map(|pid| pid.parse().unwrap()).collect(), folder)
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn owns_a_stack() {
    if std::env::var_os("AGENTGOV_TEST_OWNER").is_none() {
        return;
    }
    match TestEnv::start(options()) {
        Ok(stack) => {
            let native = stack.backend() == BackendKind::Native;
            let parts = Part::ALL.iter().filter(|_| native);
            let pids: Vec<String> = parts.map(|part| format!("{} ", stack.pid(*part).unwrap())).collect();
            println!("\nSTARTED {}{}", pids.concat(), stack.logs().display());
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        Err(error) => println!("\nFAILED {error}"),
    }
}

/// Waits for a condition. The deadline is long because other tests share the cores.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "expected: {what}; not met before the deadline");
        std::thread::sleep(Duration::from_millis(10));
    }
}
