//! The gateway as a client and a server of MCP see it: the server is a process, the decision point and the log are the tests'.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing loudly"
)]

mod support;

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentgov_gateway::process::StartError;
use agentgov_gateway::proxy::ProxyConfig;
use agentgov_gateway::session::Session;
use agentgov_gateway::stdio::{Ended, StdioOptions, run};
use serde_json::{Value, json};
use support::{AllowAll, Types, identity, script};

/// Exceeds every wait on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A gateway in a thread, with its client's streams.
struct Running {
    to_gateway: Option<PipeWriter>,
    from_gateway: BufReader<PipeReader>,
    types: Types,
    log: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    seen: PathBuf,
    gateway: JoinHandle<Result<Ended, StartError>>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let mut command = vec!["python3".into(), script().into_os_string(), seen.clone().into_os_string()];
        command.extend(flags.iter().map(Into::into));
        let (from_client, to_gateway) = std::io::pipe().unwrap();
        let (from_gateway, to_client) = std::io::pipe().unwrap();
        let (types, log) = (Types::default(), Arc::new(Mutex::new(Vec::new())));
        let session = Arc::new(Session::new(identity(), Box::new(AllowAll), Box::new(types.clone())));
        let lines = Arc::clone(&log);
        let options = StdioOptions {
            server: "files".into(),
            command,
            proxy: ProxyConfig::default(),
            from_client: Box::new(from_client),
            to_client: Box::new(to_client),
            print_log: Arc::new(move |line| lines.lock().unwrap().push(line.to_owned())),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let gateway = std::thread::spawn(move || run(options, session, || stopped.load(Ordering::Relaxed)));
        let from_gateway = BufReader::new(from_gateway);
        Self { to_gateway: Some(to_gateway), from_gateway, types, log, stop, seen, gateway, _folder: folder }
    }

    fn send(&mut self, frame: &str) {
        self.to_gateway.as_mut().unwrap().write_all(format!("{frame}\n").as_bytes()).unwrap();
    }

    fn call(&mut self, id: u32, name: &str, arguments: &Value) {
        let params = json!({ "name": name, "arguments": arguments });
        self.send(
            &json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string(),
        );
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.from_gateway.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn seen(&self) -> String {
        std::fs::read_to_string(&self.seen).unwrap_or_default()
    }

    fn eventually(&self, what: &str, met: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !met(self) {
            assert!(began.elapsed() < DEADLINE, "expected: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the end, and the types of the recorded events.
    fn ended(self) -> (Ended, Vec<String>) {
        let ended = self.gateway.join().unwrap().unwrap();
        (ended, self.types.0.lock().unwrap().clone())
    }
}

#[test]
fn client_that_ends_its_stream_ends_the_server() {
    let mut running = Running::start(&[]);
    running
        .send(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#);
    assert_eq!(running.receive()["result"]["protocolVersion"], "2025-11-25");
    running.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    running.call(1, "read_file", &json!({ "path": "a" }));
    assert_eq!(running.receive()["result"]["content"][0]["text"], "read_file");
    running.to_gateway = None;
    let (ended, types) = running.ended();
    assert_eq!(ended, Ended::Client);
    assert_eq!(types, ["tool.invoked", "tool.response_received"]);
}

#[test]
fn list_is_reduced_on_each_page() {
    let mut running = Running::start(&[]);
    running.send(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let page = running.receive();
    let names = |page: &Value| -> Vec<String> {
        page["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!((names(&page), &page["result"]["nextCursor"]), (vec!["read_file".to_owned()], &json!("2")));
    running.send(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"2"}}"#);
    assert_eq!(names(&running.receive()), ["two_pages"]);
    running.to_gateway = None;
    running.ended();
}

#[test]
fn server_that_dies_in_a_call_ends_the_call_and_the_gateway() {
    let mut running = Running::start(&[]);
    running.call(1, "die", &json!({}));
    assert_eq!(running.receive()["error"]["code"], -32603);
    let (ended, types) = running.ended();
    let Ended::Server(status) = ended else { panic!("{ended:?}") };
    assert_eq!((status.code(), types), (Some(7), ["tool.invoked", "tool.failed"].map(String::from).to_vec()));
}

#[test]
fn endless_line_of_the_server_ends_it() {
    let mut running = Running::start(&[]);
    running.call(1, "endless", &json!({}));
    let answer = running.receive();
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    let (ended, types) = running.ended();
    assert!(matches!(ended, Ended::Server(_)), "{ended:?}");
    assert_eq!(types, ["tool.invoked", "gateway.refused", "tool.failed"]);
}

#[test]
fn garbage_of_the_server_is_dropped_and_its_log_is_escaped() {
    let mut running = Running::start(&[]);
    running.call(1, "garbage", &json!({}));
    assert_eq!(running.receive()["id"], 1);
    running.call(2, "log", &json!({}));
    assert_eq!(running.receive()["id"], 2);
    running.eventually("the log is printed", |running| running.log.lock().unwrap().len() >= 4);
    let log = running.log.lock().unwrap().clone();
    assert_eq!(log[0], r"a \u{1b}[2Jline");
    assert!(log[1..].iter().all(|line| line.len() <= 8 << 10 && line.starts_with('y')), "{log:?}");
    running.to_gateway = None;
    let (_, types) = running.ended();
    assert!(types.contains(&"gateway.refused".to_owned()), "{types:?}");
}

#[test]
fn server_that_never_reads_its_input_stops_neither_the_gateway_nor_its_end() {
    let mut running = Running::start(&["deaf"]);
    let padding = "x".repeat(50_000);
    // More than a pipe holds.
    for id in 0..3 {
        running.send(
            &json!({ "jsonrpc": "2.0", "id": id, "method": "ping", "params": { "x": padding } }).to_string(),
        );
    }
    running.to_gateway = None;
    running.eventually("the gateway ends", |running| running.gateway.is_finished());
    assert_eq!(running.receive()["error"]["code"], -32603);
    assert_eq!(running.ended().0, Ended::Client);
}

#[test]
fn stop_ends_a_server_that_ignores_the_end_of_its_input_and_signals() {
    let mut running = Running::start(&["stubborn"]);
    running.call(1, "slow", &json!({ "seconds": 600 }));
    running.eventually("the server has the call", |running| running.seen().contains("tools/call"));
    running.stop.store(true, Ordering::Relaxed);
    let answer = running.receive();
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    let (ended, types) = running.ended();
    assert_eq!((ended, types), (Ended::Client, ["tool.invoked", "tool.failed"].map(String::from).to_vec()));
}

#[test]
fn command_that_cannot_be_started_is_an_error() {
    let session = Arc::new(Session::new(identity(), Box::new(AllowAll), Box::new(Types::default())));
    let options = |command: &[&str]| StdioOptions {
        server: "files".into(),
        command: command.iter().map(Into::into).collect(),
        proxy: ProxyConfig::default(),
        from_client: Box::new(std::io::empty()),
        to_client: Box::new(std::io::sink()),
        print_log: Arc::new(|_| {}),
    };
    let started = run(options(&[]), Arc::clone(&session), || false);
    assert!(matches!(started, Err(StartError::NoCommand)), "{started:?}");
    let started = run(options(&["/nowhere/server"]), session, || false);
    assert!(matches!(started, Err(StartError::Start { .. })), "{started:?}");
}
