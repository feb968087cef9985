//! Errors that end a stage. Each kind has an exit code and a page in docs/errors.

use agentgov_schemas::Digest;
use rdkafka::error::KafkaError;

/// Exit code of a process. Codes from 64 follow sysexits(3) where it defines one; 80 to 82 are specific to agentgov.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Success.
    Done = 0,
    /// Failure; the message has the reason.
    Failed = 1,
    /// Invalid command line.
    Usage = 2,
    /// The command succeeded and found drift or faults.
    Findings = 3,
    /// A thread panicked: a bug in agentgov or in a library.
    Panicked = 70,
    /// A dependency is unavailable; a retry may succeed.
    TryAgain = 75,
    /// Invalid configuration, topology or bundle.
    Config = 78,
    /// Another process took over the work. Nothing is lost; a supervisor must not restart the process in a tight loop.
    Fenced = 80,
    /// Retention deleted records before the stage read them; a person must accept the gap.
    Overtaken = 81,
    /// The address belongs to another cluster, or the topic was recreated.
    OtherCluster = 82,
}

/// Error that ends a stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A dependency was unavailable until the stage's start timed out.
    #[error("{what}: {message}; is it running and reachable?")]
    Unavailable {
        /// Dependency, and the operation.
        what: String,
        /// Error of the dependency.
        message: String,
    },
    /// The topology or the cluster does not match the stage.
    #[error("{0}")]
    Config(String),
    /// Another process took over the stage's work.
    #[error(
        "{stage}: another process has taken over the work ({message}); it continues from the last commit"
    )]
    Fenced {
        /// The stage.
        stage: String,
        /// Error of the broker or the store.
        message: String,
    },
    /// Retention deleted records before the stage read them.
    #[error(
        "{stage}: {topic}/{partition}: expected to resume at offset {expected}, but the topic starts at {found}: retention deleted \
         {} records before they were read; see docs/errors/overtaken.md, then start with --accept-gap to record the gap and continue",
        found - expected
    )]
    Overtaken {
        /// The stage.
        stage: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Offset at which the stage resumes.
        expected: i64,
        /// First offset of the topic.
        found: i64,
    },
    /// The store or the changelog has data of another topic.
    #[error("{stage}: {topic}/{partition}: {message}; see docs/errors/other-cluster.md")]
    OtherCluster {
        /// The stage.
        stage: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Expected and actual state.
        message: String,
    },
    /// A schema id refers to another schema than before.
    #[error(
        "{stage}: schema id {id}: expected the schema with fingerprint {known}, which the schema registry returned at first, \
         found one with fingerprint {found}: it is another schema registry, or has lost its data; records written since may have \
         been misread; see docs/errors/other-cluster.md"
    )]
    OtherRegistry {
        /// The stage.
        stage: String,
        /// Schema id.
        id: u32,
        /// Fingerprint of the first schema with this id.
        known: Digest,
        /// Fingerprint of the current schema with this id.
        found: Digest,
    },
    /// Kafka returned an error that a retry does not resolve.
    #[error("{what}: {source}")]
    Kafka {
        /// Operation that failed.
        what: String,
        /// Error of Kafka.
        source: KafkaError,
    },
    /// A thread of the process panicked. The text names the thread, the location and the panic message.
    #[error("{0}; a restart continues from the last commit; see docs/errors/panicked.md")]
    Panicked(String),
    /// A bug in agentgov. The message names the place.
    #[error("{0}")]
    Internal(String),
}

impl StageError {
    /// Returns the exit code of a process that ends with this error.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unavailable { .. } => ExitCode::TryAgain,
            Self::Config(_) => ExitCode::Config,
            Self::Fenced { .. } => ExitCode::Fenced,
            Self::Overtaken { .. } => ExitCode::Overtaken,
            Self::OtherCluster { .. } | Self::OtherRegistry { .. } => ExitCode::OtherCluster,
            Self::Panicked(_) => ExitCode::Panicked,
            Self::Kafka { .. } | Self::Internal(_) => ExitCode::Failed,
        }
    }

    /// Returns a function for `map_err` that adds the failed operation to a Kafka error.
    pub fn kafka(what: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let what = what.into();
        move |source| Self::Kafka { what, source }
    }
}

impl From<agentgov_schemas::topology::MissingRole> for StageError {
    fn from(missing: agentgov_schemas::topology::MissingRole) -> Self {
        Self::Config(missing.to_string())
    }
}
