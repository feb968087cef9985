//! How a stage ends when it does not end well. Each kind has an exit code of its own and a page in docs/errors.

use agentgov_schemas::Digest;
use rdkafka::error::KafkaError;

/// What a process says when it ends. Codes from 64 on follow sysexits(3) where it has one; 80 to 82 are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Failed; the message says why.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Drift or findings: the command worked, and found something.
    Findings = 3,
    /// A thread panicked: a mistake of ours, or of a library.
    Panicked = 70,
    /// A dependency is away: try again.
    TryAgain = 75,
    /// A configuration, topology or bundle is wrong.
    Config = 78,
    /// Another process took over this one's work: nothing is lost, do not restart in a tight loop.
    Fenced = 80,
    /// Records were deleted by retention before this stage read them: someone must accept the gap.
    Overtaken = 81,
    /// Behind the address is another cluster, or a re-created topic.
    OtherCluster = 82,
}

/// Why a stage stopped.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A dependency did not come back before the stage gave up starting.
    #[error("{what}: {message}; is it running and reachable?")]
    Unavailable {
        /// What was asked.
        what: String,
        /// What it answered.
        message: String,
    },
    /// The topology, or the cluster, does not fit the stage.
    #[error("{0}")]
    Config(String),
    /// Another process took over.
    #[error(
        "{stage}: another process has taken over this one's work ({message}); what was not committed will be done there"
    )]
    Fenced {
        /// The stage.
        stage: String,
        /// What the broker, or the store, said.
        message: String,
    },
    /// Retention was faster than the stage.
    #[error(
        "{stage}: {topic}/{partition}: expected to go on at offset {expected}, but the topic starts at {found}: retention deleted \
         {} records before they were read; see docs/errors/overtaken.md, then start with --accept-gap to go on and record the gap",
        found - expected
    )]
    Overtaken {
        /// The stage.
        stage: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where the stage stands.
        expected: i64,
        /// Where the topic starts.
        found: i64,
    },
    /// What the store or the changelog holds does not come from this topic.
    #[error("{stage}: {topic}/{partition}: {message}; see docs/errors/other-cluster.md")]
    OtherCluster {
        /// The stage.
        stage: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What was expected and found.
        message: String,
    },
    /// A schema id means something else than it did.
    #[error(
        "{stage}: schema id {id}: expected the schema with fingerprint {known}, which the registry gave when the id was first met, \
         found one with fingerprint {found}: it is another registry, or has lost its data; records that were written since may have \
         been misread; see docs/errors/other-cluster.md"
    )]
    OtherRegistry {
        /// The stage.
        stage: String,
        /// The id.
        id: u32,
        /// The fingerprint of the schema that it meant.
        known: Digest,
        /// The fingerprint of the schema that it means now.
        found: Digest,
    },
    /// Kafka said something that retrying does not help.
    #[error("{what}: {source}")]
    Kafka {
        /// What was being done.
        what: String,
        /// What Kafka said.
        source: KafkaError,
    },
    /// A thread of the process panicked; the reason says which, where and why.
    #[error("{0}; what was not committed is done again after a restart; see docs/errors/panicked.md")]
    Panicked(String),
    /// A mistake of ours: the message says where.
    #[error("{0}")]
    Internal(String),
}

impl StageError {
    /// The exit code of a process that ends with this error.
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

    /// For `map_err`: a Kafka error with what was being done.
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
