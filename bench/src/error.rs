//! Errors of the benchmarks.

use rdkafka::error::KafkaError;

/// Error of a benchmark.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A process could not be started, or its output could not be read.
    #[error("process {name}: {source}; its log is in the stack's folder, kept with --data")]
    Process {
        /// Process name.
        name: String,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A process ended unexpectedly.
    #[error(
        "process {name} ended unexpectedly: {status}; its log is in the stack's folder, kept with --data"
    )]
    Ended {
        /// Process name.
        name: String,
        /// Exit status.
        status: std::process::ExitStatus,
    },
    /// A Kafka call failed.
    #[error("{what}: {source}")]
    Kafka {
        /// Failed operation.
        what: &'static str,
        /// Error of Kafka.
        source: KafkaError,
    },
    /// A ClickHouse request failed.
    #[error("clickhouse: {what}: {message}")]
    Store {
        /// Failed operation.
        what: &'static str,
        /// Message of ClickHouse.
        message: String,
    },
    /// The SDK's recorder failed.
    #[error("the recorder: {0}")]
    Recorder(String),
    /// A condition did not hold before its deadline.
    #[error("expected {what} within {seconds} s, found: {state}")]
    Late {
        /// Awaited condition.
        what: String,
        /// Timeout in seconds.
        seconds: u64,
        /// State at the deadline.
        state: String,
    },
    /// A table has more rows than its topic has records.
    #[error("{table}: expected {records} rows, one per record, found {rows}: records were inserted twice")]
    Doubled {
        /// Table name.
        table: String,
        /// Rows of the table.
        rows: u64,
        /// Records of the topic.
        records: u64,
    },
    /// A competitor wrote other rows than the log-sink.
    #[error(
        "{name}: expected the rows of the log-sink with checksum {expected}, found rows with checksum {found}"
    )]
    Rows {
        /// Name of the competitor.
        name: String,
        /// Checksum of the log-sink's rows.
        expected: u64,
        /// Checksum of the competitor's rows.
        found: u64,
    },
    /// A plot cannot be drawn.
    #[error("plot `{title}`: {error}")]
    Plot {
        /// Title of the plot.
        title: String,
        /// Reason.
        error: String,
    },
    /// Reading or writing a recording or a pipe failed.
    #[error("{what}: {source}")]
    Io {
        /// Failed operation.
        what: &'static str,
        /// Error of the system.
        source: std::io::Error,
    },
    /// An HTTP request of the benchmark failed, or its response is not the expected one.
    #[error("{what}: {message}")]
    Http {
        /// Failed operation.
        what: &'static str,
        /// Reason.
        message: String,
    },
    /// A bundle or policy of the benchmark is invalid.
    #[error("the generated policies: {0}")]
    Policies(String),
    /// The topology lacks a required entry.
    #[error("topology: {0}")]
    Topology(String),
}

impl BenchError {
    pub(crate) const fn kafka(what: &'static str) -> impl FnOnce(KafkaError) -> Self {
        move |source| Self::Kafka { what, source }
    }

    pub(crate) const fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    pub(crate) fn http(what: &'static str) -> impl FnOnce(hyper::Error) -> Self {
        move |error| Self::Http { what, message: error.to_string() }
    }

    pub(crate) fn store(what: &'static str) -> impl FnOnce(reqwest::Error) -> Self {
        move |error| Self::Store { what, message: error.to_string() }
    }
}
