//! Do the parts answer, how fast, and which are they?

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentgov_connect::{Endpoints, SchemaRegistry};
use agentgov_log_reader::LogReader;
use agentgov_schemas::topology::Topology;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use serde::Serialize;

/// How long a part may take to say that it is there.
pub(crate) const WITHIN: Duration = Duration::from_secs(4);

/// A part of the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// kafka, registry or clickhouse.
    pub name: String,
    /// Where it was asked.
    pub address: String,
    /// True if it answered.
    pub answers: bool,
    /// What it said of itself, or why it did not.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub answer_ms: u64,
}

/// How systems name the limit of open files in an error.
const OUT_OF_FILES: [&str; 2] = ["Too many open files", "os error 24"];

/// True of an error because this process may not open another file or connection.
pub(crate) fn is_out_of_files(error: &str) -> bool {
    OUT_OF_FILES.iter().any(|text| error.contains(text))
}

/// A client of Kafka that logs nothing. Its errors do not say why a connection failed, but its log does.
#[derive(Default)]
pub(crate) struct Quiet {
    out_of_files: AtomicBool,
}

impl Quiet {
    fn look_at(&self, text: &str) {
        if is_out_of_files(text) {
            self.out_of_files.store(true, Ordering::Relaxed);
        }
    }
}

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        self.look_at(message);
    }
    fn error(&self, _: rdkafka::error::KafkaError, reason: &str) {
        self.look_at(reason);
    }
}
impl ConsumerContext for Quiet {}

/// A Kafka client for questions.
pub(crate) fn client(endpoints: &Endpoints) -> Result<BaseConsumer<Quiet>, String> {
    let mut config = endpoints.kafka.client_config();
    config.set("group.id", "agentgov.status").create_with_context(Quiet::default()).map_err(|e| e.to_string())
}

/// Asks all of them at once.
pub(crate) fn parts(endpoints: &Endpoints, topology: &Topology) -> Vec<Part> {
    std::thread::scope(|scope| {
        let asked = [
            ("kafka", endpoints.kafka.bootstrap.as_str(), scope.spawn(|| timed(|| kafka(endpoints)))),
            (
                "registry",
                &endpoints.schema_registry.url,
                scope.spawn(|| timed(|| registry(endpoints, topology))),
            ),
            (
                "clickhouse",
                &endpoints.clickhouse.url,
                scope.spawn(|| timed(|| clickhouse(endpoints, topology))),
            ),
        ];
        asked
            .into_iter()
            .map(|(name, address, answer)| {
                let (said, took) =
                    answer.join().unwrap_or_else(|_| (Err("asking it panicked".to_owned()), Duration::ZERO));
                Part {
                    name: name.to_owned(),
                    address: address.to_owned(),
                    answers: said.is_ok(),
                    detail: said.unwrap_or_else(|why| why),
                    answer_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect()
    })
}

fn timed<T>(ask: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let answer = ask();
    (answer, began.elapsed())
}

fn kafka(endpoints: &Endpoints) -> Result<String, String> {
    let client = client(endpoints)?;
    let metadata = client.fetch_metadata(None, WITHIN).map_err(|e| {
        match client.context().out_of_files.load(Ordering::Relaxed) {
            true => format!("{e}: {}", OUT_OF_FILES.join(", ")),
            false => e.to_string(),
        }
    })?;
    Ok(match metadata.brokers().len() {
        1 => "1 broker".to_owned(),
        brokers => format!("{brokers} brokers"),
    })
}

fn registry(endpoints: &Endpoints, topology: &Topology) -> Result<String, String> {
    let registry = SchemaRegistry::new(&endpoints.schema_registry).map_err(|e| e.to_string())?;
    let subject =
        topology.topics.keys().next().map(|topic| agentgov_schemas::topology::registry_subject(topic));
    // Any answer will do, also that it has none, or that there is no subject without a name.
    registry.compatibility(&subject.unwrap_or_default()).map_err(|e| e.to_string())?;
    Ok("answers".to_owned())
}

fn clickhouse(endpoints: &Endpoints, topology: &Topology) -> Result<String, String> {
    let reader = LogReader::new(&endpoints.clickhouse, topology).map_err(|e| e.to_string())?;
    let version = reader.with_timeout(WITHIN).version().map_err(|e| e.to_string())?;
    Ok(version.map_or_else(|| "has no such database".to_owned(), |version| format!("version {version}")))
}
