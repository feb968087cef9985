//! Availability, latency and version of the parts of the stack.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentgov_connect::{Endpoints, SchemaRegistry};
use agentgov_log_reader::LogReader;
use agentgov_schemas::topology::Topology;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;
use serde::Serialize;

/// Timeout of a request to a part.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Part of the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Name: kafka, registry (the schema registry) or clickhouse.
    pub name: String,
    /// Address of the part.
    pub address: String,
    /// True if the part responded.
    pub answers: bool,
    /// Version or size that the part reported, or the error of the request.
    #[serde(rename = "said")]
    pub detail: String,
    /// Time until the response, in milliseconds.
    pub answer_ms: u64,
}

/// Error texts of operating systems for the limit of open files.
const OUT_OF_FILES: [&str; 2] = ["Too many open files", "os error 24"];

/// Returns true if this process has reached its limit of open files.
pub(crate) fn is_out_of_files(error: &str) -> bool {
    OUT_OF_FILES.iter().any(|text| error.contains(text))
}

/// Client context that suppresses log lines. It searches them for the limit of open files, which the errors do not mention.
#[derive(Default)]
pub(crate) struct SilentContext {
    out_of_files: AtomicBool,
}

impl SilentContext {
    fn search(&self, text: &str) {
        if is_out_of_files(text) {
            self.out_of_files.store(true, Ordering::Relaxed);
        }
    }
}

impl ClientContext for SilentContext {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        self.search(message);
    }
    fn error(&self, _: rdkafka::error::KafkaError, reason: &str) {
        self.search(reason);
    }
}
impl ConsumerContext for SilentContext {}

/// Creates a Kafka client for requests.
pub(crate) fn client(endpoints: &Endpoints) -> KafkaResult<BaseConsumer<SilentContext>> {
    let mut config = endpoints.kafka.client_config();
    config.set("group.id", "agentgov.status").create_with_context(SilentContext::default())
}

/// Sends a request to every part, in parallel.
pub(crate) fn parts(endpoints: &Endpoints, topology: &Topology) -> Vec<Part> {
    std::thread::scope(|scope| {
        let threads = [
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
        threads
            .into_iter()
            .map(|(name, address, answer)| {
                let (outcome, took) = answer
                    .join()
                    .unwrap_or_else(|_| (Err("the request panicked".to_owned()), Duration::ZERO));
                Part {
                    name: name.to_owned(),
                    address: address.to_owned(),
                    answers: outcome.is_ok(),
                    detail: outcome.unwrap_or_else(|why| why),
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
    let client = client(endpoints).map_err(|e| e.to_string())?;
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| {
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
    // Any response proves that the schema registry is available, including one about an unknown subject.
    registry.compatibility(&subject.unwrap_or_default()).map_err(|e| e.to_string())?;
    Ok("answers".to_owned())
}

fn clickhouse(endpoints: &Endpoints, topology: &Topology) -> Result<String, String> {
    let reader = LogReader::new(&endpoints.clickhouse, topology).map_err(|e| e.to_string())?;
    let version = reader.with_timeout(REQUEST_TIMEOUT).version().map_err(|e| e.to_string())?;
    let no_database = || format!("has no database {}", endpoints.clickhouse.database);
    Ok(version.map_or_else(no_database, |version| format!("version {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `status --json` has the key `said`, on which scripts depend.
    #[test]
    fn detail_of_a_part_is_said_in_json() {
        let part = Part {
            name: "kafka".to_owned(),
            address: "here".to_owned(),
            answers: true,
            detail: "1 broker".to_owned(),
            answer_ms: 1,
        };
        assert_eq!(serde_json::to_value(&part).unwrap()["said"], "1 broker");
    }
}
