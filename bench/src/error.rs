//! What a run ends with when it does not end well.

use rdkafka::error::KafkaError;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A process could not be started, or did not answer.
    #[error("process {name}: {source}; its log is in the stack's folder, kept with --data")]
    Process {
        /// Its name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A process ended that should not have.
    #[error("process {name} ended by itself: {status}; its log is in the stack's folder, kept with --data")]
    Ended {
        /// Its name.
        name: String,
        /// How.
        status: std::process::ExitStatus,
    },
    /// Kafka.
    #[error("{what}: {source}")]
    Kafka {
        /// What was being done.
        what: &'static str,
        /// What Kafka said.
        source: KafkaError,
    },
    /// ClickHouse.
    #[error("clickhouse: {what}: {message}")]
    Store {
        /// What was being done.
        what: &'static str,
        /// What ClickHouse said.
        message: String,
    },
    /// The recorder.
    #[error("the recorder: {0}")]
    Recorder(String),
    /// It took too long.
    #[error("{what} is not done after {seconds} s: {state}")]
    Late {
        /// What.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// How it stands.
        state: String,
    },
    /// A table has more rows than there are records.
    #[error("{table}: expected {records} rows, one a record, found {rows}: somebody inserted records twice")]
    Doubled {
        /// Which.
        table: String,
        /// Its rows.
        rows: u64,
        /// The records.
        records: u64,
    },
    /// A rival wrote other rows than the log sink.
    #[error(
        "{who}: expected the rows that the log sink wrote, with checksum {expected}, found others, with {found}: its work is not the same"
    )]
    Rows {
        /// Who.
        who: String,
        /// The log sink's.
        expected: u64,
        /// The rival's.
        found: u64,
    },
    /// A plot cannot be drawn.
    #[error("plot `{title}`: {error}")]
    Plot {
        /// Its title.
        title: String,
        /// Why.
        error: String,
    },
    /// Tapes and pipes.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The topology lacks something.
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

    pub(crate) fn store(what: &'static str) -> impl FnOnce(reqwest::Error) -> Self {
        move |error| Self::Store { what, message: error.to_string() }
    }
}
