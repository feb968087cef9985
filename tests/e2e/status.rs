//! Tests of `agentgov status` and of a process's health and metrics, on their own topology and database: a process runs
//! every stage, recorded runs flow, then it is stopped.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use agentgov_service::metrics::{DECISION_POINT_ONLY, METRICS};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

use crate::stack::{AGENT, DEADLINE, describe, root, stack};

const DATABASE: &str = "status";

#[test]
fn status_shows_the_pipeline_and_a_process_serves_every_documented_metric() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("status.yaml");
    let text = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let text = text
        .replace("agent.", "status.")
        .replace("governance.", "status-governance.")
        .replace("agentgov.", "status.")
        .replace("partitions: 12", "partitions: 2");
    std::fs::write(&file, text).unwrap();
    let map = file.to_str().unwrap();
    let command = |args: &[&str]| {
        let mut command = stack.command(args);
        command.args(["--topology", map]).env("AGENTGOV_CLICKHOUSE_DATABASE", DATABASE);
        command
    };
    let done = |args: &[&str]| {
        let output = command(args).output().unwrap();
        assert!(output.status.success(), "agentgov {args:?}: {}", describe(&output));
    };
    let status = |args: &[&str]| {
        let output = command(&[&["status", "--json"], args].concat()).output().unwrap();
        let status: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", describe(&output)));
        (output.status.code().unwrap(), status)
    };

    // A watch ends once its reader is gone.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let watch = command(&["status", "--watch", "1"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert!(watch.status.success() && watch.stderr.is_empty(), "{}", describe(&watch));

    // Without any data the command reports that and does not fail.
    let (code, nothing) = status(&[]);
    assert_eq!((code, &nothing["health"]), (3, &"unhealthy".into()));
    assert!(!nothing["topology"]["known"]["differences"].as_array().unwrap().is_empty());

    done(&["topology", "apply"]);
    done(&["registry", "push", "examples/airline/registry.yaml"]);
    done(&["policy", "push", "examples/airline/bundle"]);
    let mut process = Process::start(command(&["run", "all", "--listen", "127.0.0.1:0"]));
    stack.eventually("every stage is ready", || get(&process.url("readyz")).0 == 200);
    let import = ["import", "chat-completions", "examples/airline/runs.jsonl", "--tenant", "airline"];
    done(&[&import[..], &["--agent", AGENT, "--environment", "production"]].concat());
    // One reject of the evaluator, to be counted.
    let producer: BaseProducer = stack.endpoints.kafka.client_config().create().unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to("status.actions").partition(0).payload(b"\x01")).unwrap();
    producer.flush(DEADLINE).unwrap();

    // Done when the process reports no waiting records and the rejected record is a row.
    let mut served = String::new();
    stack.eventually("the lag is seen and nothing waits", || {
        served = get(&process.url("metrics")).1;
        let waiting: f64 = samples(&served, "agentgov_lag_records").map(|(_, value)| value).sum();
        let mut rows = samples(&served, "agentgov_rows_inserted_total");
        rows.any(|(labels, rows)| labels.contains("table=\"rejects\"") && rows >= 1.0) && waiting == 0.0
    });
    for metric in METRICS.iter().filter(|metric| !DECISION_POINT_ONLY.contains(&metric.name)) {
        let name = metric.name;
        let kind = format!("# TYPE {name} {}\n", format!("{:?}", metric.kind).to_lowercase());
        assert!(served.contains(&kind), "/metrics has no {name}, or it is no {:?}:\n{served}", metric.kind);
        assert!(served.contains(&format!("# HELP {name} {}\n", metric.help)), "{name}: no help");
        let (labels, _) = samples(&served, name).next().unwrap_or_else(|| panic!("{name} has no sample"));
        let mut named: Vec<&str> = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0))
            .filter(|l| *l != "le")
            .collect();
        named.sort_unstable();
        let mut expected = metric.labels.to_vec();
        expected.sort_unstable();
        assert_eq!(named, expected, "labels of {name}");
    }
    for line in served.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let known = METRICS.iter().any(|metric| line.starts_with(metric.name));
        assert!(known, "consumers/service/src/metrics.rs does not know {line}");
    }
    let lags = samples(&served, "agentgov_lag_seconds").filter(|(labels, _)| labels.contains("log-sink"));
    assert_eq!(lags.count(), 5 * 2 + 4, "one for each partition that the sink reads");
    let ready: Value = serde_json::from_str(&get(&process.url("readyz?format=json")).1).unwrap();
    assert_eq!((&ready["ready"], ready["stages"].as_array().unwrap().len()), (&true.into(), 3));
    assert_eq!(get(&process.url("livez")), (200, "live\n".into()));

    let (code, healthy) = status(&["--health", &process.address]);
    assert_eq!(code, 0, "{healthy:#}");
    assert_eq!(healthy["health"], "healthy");
    for stage in healthy["stages"].as_array().unwrap() {
        let group = &stage["state"]["known"];
        assert_eq!((&group["state"], &group["members"]), (&"stable".into(), &1.into()), "{stage:#}");
        assert_eq!(group["held"], group["partitions"]);
        assert!(group["lag"].as_array().unwrap().iter().all(|lag| lag["records"] == 0), "{stage:#}");
    }
    let table = |name: &str| {
        healthy["tables"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone()
    };
    let rows = stack.number(&format!("SELECT count() FROM {DATABASE}.actions"));
    assert_eq!(table("actions")["rows"]["known"], rows);
    assert_eq!(healthy["rejects_last_hour"]["known"][0]["reason"], "wrong_magic_byte");
    assert_eq!(healthy["bundles"]["known"][0]["name"], "airline");
    assert_eq!(healthy["processes"][0]["stages"].as_array().unwrap().len(), 3);

    // The text has the same content.
    let screen = command(&["status"]).output().unwrap();
    let screen = String::from_utf8(screen.stdout).unwrap();
    for part in [
        "healthy",
        "the cluster matches the topology",
        "evaluator",
        "actions",
        "wrong_magic_byte of evaluator",
        "airline",
    ] {
        assert!(screen.contains(part), "`{part}` is missing in\n{screen}");
    }

    process.stop();
    producer.send(BaseRecord::<[u8], [u8]>::to("status.actions").partition(1).payload(b"\x01")).unwrap();
    producer.flush(DEADLINE).unwrap();
    let (code, stopped) = status(&["--health", &process.address]);
    assert_eq!((code, &stopped["health"]), (3, &"unhealthy".into()));
    let evaluator =
        stopped["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "evaluator").unwrap();
    let group = &evaluator["state"]["known"];
    assert_eq!((&group["state"], &group["lag"][0]["records"]), (&"empty".into(), &1.into()), "{evaluator:#}");
    let wrong: Vec<_> =
        stopped["wrong"].as_array().unwrap().iter().map(|w| w["what"].as_str().unwrap()).collect();
    assert!(wrong.iter().any(|what| what.contains("does not respond")), "{wrong:?}");
    assert!(wrong.iter().any(|what| what.contains("evaluator does not run")), "{wrong:?}");
}

#[test]
fn status_reports_each_unreachable_part() {
    let output = Command::new(crate::stack::agentgov())
        .args(["status", "--json", "--kafka", "127.0.0.1:1"])
        .args(["--schema-registry", "http://127.0.0.1:1", "--clickhouse", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", describe(&output));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["health"], "part_away");
    assert!(status["parts"].as_array().unwrap().iter().all(|part| part["answers"] == false));
    assert_eq!(status["topology"]["unknown"], "kafka is away");
    assert_eq!(status["tables"][0]["rows"]["unknown"], "clickhouse is away");
}

/// `agentgov run` in its own process, which ends with the test.
pub struct Process {
    child: Child,
    pub address: String,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split([' ', ',', '"', '\n']);
        let address = words.find(|word| word.starts_with("http://127.0.0.1:"));
        Self { child, address: address.unwrap_or_else(|| panic!("{line}")).to_owned() }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let signalled =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(signalled.unwrap().success());
    }

    /// Sends SIGTERM, so that the process leaves its groups.
    pub fn stop(&mut self) {
        let signalled = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(signalled.success() && self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns status and text of a response; status 0 without one.
pub fn get(url: &str) -> (u16, String) {
    match reqwest::blocking::get(url) {
        Ok(answer) => (answer.status().as_u16(), answer.text().unwrap()),
        Err(error) => (0, error.to_string()),
    }
}

/// Returns labels and value of each sample of a metric; for a histogram, those of its buckets and sums.
pub fn samples<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = (&'t str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let rest = ["_bucket", "_sum", "_count"].iter().find_map(|s| rest.strip_prefix(s)).unwrap_or(rest);
        let (labels, value) = rest.rsplit_once(' ')?;
        let labels = if labels.is_empty() { "" } else { labels.strip_prefix('{')?.strip_suffix('}')? };
        Some((labels, value.parse().ok()?))
    })
}
