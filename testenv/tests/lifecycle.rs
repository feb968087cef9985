//! Tests of native stacks: start, failures and cleanup.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for product code"
)]

mod owner;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use agentgov_testenv::{BackendKind, Error, Options, Part, TestEnv};
use owner::eventually;

fn native() -> Options {
    owner::options().backend(BackendKind::Native)
}

fn start(options: Options) -> TestEnv {
    TestEnv::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn is_running(pid: u32) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with('Z'))
}

#[test]
fn killed_owner_leaves_no_process_and_no_directory() {
    let mut child = owner::spawn("native", &[]);
    let (pids, folder) = owner::wait_for_start(&mut child);
    assert_eq!(pids.len(), Part::ALL.len());
    assert!(pids.iter().all(|pid| is_running(*pid)) && folder.is_dir());

    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    eventually("the parts are gone", || pids.iter().all(|pid| !is_running(*pid)));
    eventually("their directory is gone", || !folder.exists());
}

/// Returns process group, session and niceness of a process: fields of proc_pid_stat(5).
fn scheduling(pid: u32) -> [i64; 3] {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    [5, 6, 19].map(|number| fields[number - 3].parse().unwrap())
}

/// Returns the version of the kernel.
fn linux() -> [u32; 2] {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-']).map(|number| number.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

#[test]
fn engine_runs_at_low_priority_in_its_own_session() {
    let env = start(native());
    let [engine, broker] = [Part::Engine, Part::Broker].map(|part| env.pid(part).unwrap());
    let ([group, session, nice], [_, others, other]) = (scheduling(engine), scheduling(broker));
    assert_eq!([group, session], [i64::from(engine); 2]);
    assert_ne!(session, others);
    assert!(nice > other, "{nice} beside {other}");
    // With autogroups, niceness counts only within a session.
    if let Ok(autogroup) = std::fs::read_to_string(format!("/proc/{engine}/autogroup")) {
        assert!(autogroup.trim_end().ends_with(&format!("nice {nice}")), "{autogroup}");
    }
    // Kernels that report slices use nanoseconds; slices can be requested from Linux 6.12 on.
    let slice = |pid: u32| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/sched")).ok()?;
        text.lines().find(|line| line.starts_with("se.slice"))?.rsplit(' ').next()?.parse().ok()
    };
    if let (Some(long), Some(short), true) = (slice(engine), slice(broker), linux() >= [6, 12]) {
        assert!(long > short, "{long} ns beside {short}");
    }
    env.stop().unwrap();
}

#[test]
fn missing_programs_are_listed_with_alternatives() {
    let cache = tempfile::tempdir().unwrap();
    let child = owner::spawn(
        "native",
        &[("PATH", ""), ("JAVA_HOME", ""), ("XDG_CACHE_HOME", cache.path().to_str().unwrap())],
    );
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    for part in [
        "FAILED the native backend needs programs",
        "java, 17",
        "mvn,",
        "npm,",
        "Docker engine",
        "AGENTGOV_KAFKA",
    ] {
        assert!(output.contains(part), "{part} is missing in:\n{output}");
    }
}

#[test]
fn early_death_of_a_part_shows_the_end_of_its_log() {
    let error =
        TestEnv::start(native().broker_property("process.roles", "nonsense")).err().expect("a broken broker");
    assert!(matches!(error, Error::PartDied { part: Part::Broker, .. }), "{error}");
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[test]
fn restarted_parts_keep_their_data() {
    let stack = start(native());
    let engine = stack.addresses().clickhouse.clone();
    let sql = |sql: &str| post(&engine, sql);
    sql("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a").unwrap();
    sql("INSERT INTO t VALUES (1)").unwrap();
    for part in [Part::Broker, Part::Registry] {
        let pid = stack.pid(part).unwrap();
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let own_folder = format!("{}/tmp", part.name());
        assert!(
            arguments.split('\0').any(|a| a.starts_with("-Djava.io.tmpdir=") && a.ends_with(&own_folder)),
            "{part} unpacks libraries into a folder that is not removed: {arguments:?}"
        );
    }
    for part in Part::ALL {
        let before = stack.pid(part).unwrap();
        stack.kill(part).unwrap();
        assert!(!is_running(before), "{part}");
        stack.restart(part).unwrap();
        assert_ne!(stack.pid(part).unwrap(), before, "{part}");
    }
    assert_eq!(sql("SELECT count() FROM t").unwrap(), "1\n");

    stack.pause(Part::Engine).unwrap();
    let pending = std::thread::spawn({
        let engine = engine.clone();
        move || post(&engine, "SELECT 2")
    });
    assert_eq!(state(stack.pid(Part::Engine).unwrap()), 'T');
    assert!(!pending.is_finished());
    stack.resume(Part::Engine).unwrap();
    assert_eq!(pending.join().unwrap().unwrap(), "2\n");

    let pids = Part::ALL.map(|part| stack.pid(part).unwrap());
    stack.stop().unwrap();
    assert!(pids.iter().all(|pid| !is_running(*pid)));
}

#[test]
fn directory_keeps_its_data_and_serves_one_stack_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(native().data_dir(folder.path()));
    post(&first.addresses().clickhouse, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a").unwrap();
    let error = TestEnv::start(native().data_dir(folder.path())).err().expect("a second owner");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    first.stop().unwrap();
    let second = start(native().data_dir(folder.path()));
    assert_eq!(post(&second.addresses().clickhouse, "EXISTS t").unwrap(), "1\n");
    assert!(second.logs().join("broker.log").is_file());
}

fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?')
}

/// Runs a statement over plain HTTP and returns the body of the response.
fn post(engine: &str, sql: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(engine.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{sql}", sql.len())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    assert!(head.contains(" 200 "), "{sql}: {response}");
    Ok(body.to_owned())
}
