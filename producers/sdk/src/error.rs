//! What can go wrong, and what is and is not durable then.

use agentgov_connect::SchemaRegistryError;
use agentgov_schemas::key::InvalidTenantId;
use agentgov_schemas::topology::MissingRole;
use agentgov_schemas::wire::SchemaError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{Sequences, SpoolError};

/// Why a recorder did not start. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tenant cannot be part of a key.
    #[error(transparent)]
    Tenant(#[from] InvalidTenantId),
    /// An option that cannot work.
    #[error("recorder: {option}: expected {expected}, found {found}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What would work.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The map has no topic for actions.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// The build's own schema does not parse.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The registry did not answer as it should.
    #[error(transparent)]
    Registry(#[from] SchemaRegistryError),
    /// This build's schema is not there.
    #[error(
        "schema registry: subject {subject} does not have the schema that this build writes; run `agentgov topology apply`"
    )]
    SchemaNotRegistered {
        /// The subject.
        subject: String,
    },
    /// The topic is not there.
    #[error("kafka: topic {topic} does not exist; run `agentgov topology apply`")]
    TopicMissing {
        /// The topic.
        topic: String,
    },
    /// The brokers did not answer as they should.
    #[error("kafka at {bootstrap}: {doing}: {source}; is it running and reachable?")]
    Kafka {
        /// The brokers.
        bootstrap: String,
        /// What was tried.
        doing: &'static str,
        /// What the client said.
        source: KafkaError,
    },
    /// The spool cannot be used, or a dead source's is not whole.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The operating system gives no thread.
    #[error("recorder: cannot start its polling thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// True if the same start cannot succeed before somebody changes an option, a right or a setting.
    pub fn is_permanent(&self) -> bool {
        use RDKafkaErrorCode::{
            Authentication, ClusterAuthorizationFailed, SaslAuthenticationFailed, TopicAuthorizationFailed,
        };
        match self {
            Self::Registry(error) => !error.is_transient(),
            Self::Kafka { source, .. } => matches!(
                source.rdkafka_error_code(),
                Some(
                    Authentication
                        | ClusterAuthorizationFailed
                        | SaslAuthenticationFailed
                        | TopicAuthorizationFailed
                )
            ),
            Self::Thread(_) => false,
            Self::Tenant(_)
            | Self::Option { .. }
            | Self::Topology(_)
            | Self::Schema(_)
            | Self::SchemaNotRegistered { .. }
            | Self::TopicMissing { .. }
            | Self::Spool(_) => true,
        }
    }
}

/// Why an event was not taken. It has no number, and is not and will not be written: the caller still owns it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It says something that an event cannot say.
    #[error("event: {field}: expected {expected}, found {found}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What would do.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// Key and value together are too large for the topic.
    #[error(
        "event of session {session_id}: {found} bytes encoded, the topic takes at most {limit}; shorten or redact its payloads"
    )]
    TooLarge {
        /// Its session.
        session_id: String,
        /// Bytes of key and value.
        found: usize,
        /// Most bytes that the topic takes.
        limit: usize,
    },
    /// It does not encode.
    #[error("event of session {session_id} does not encode: {message}")]
    Unencodable {
        /// Its session.
        session_id: String,
        /// What the encoder said.
        message: String,
    },
    /// The buffer is full, and [`WhenFull`](crate::WhenFull) says not to wait, or not longer.
    #[error(
        "recorder is full: {events} events of {bytes} bytes wait for Kafka's acknowledgement; try again later, or slow down"
    )]
    Full {
        /// Events that wait.
        events: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The spool is full, and [`WhenFull`](crate::WhenFull) says not to wait, or not longer.
    #[error(
        "spool is full: {bytes} bytes wait for Kafka's acknowledgement, its bound is {limit}; try again later, or slow down"
    )]
    SpoolFull {
        /// Bytes of its files.
        bytes: u64,
        /// Its bound.
        limit: u64,
    },
    /// The spool did not take it, e.g. because the disk is full. The recorder goes on.
    #[error("event of session {session_id} is not recorded: {error}")]
    Spool {
        /// Its session.
        session_id: String,
        /// Why not.
        error: SpoolError,
    },
    /// `close` was called.
    #[error("recorder is closed: source {source_id} has written its closing event")]
    Closed {
        /// The source.
        source_id: String,
    },
    /// An earlier event could not be delivered. `flush` names every event that is not durable.
    #[error(
        "recorder of source {source_id} has stopped: {reason}; call flush to learn which events are not durable, and start a new recorder for what follows"
    )]
    Stopped {
        /// The source.
        source_id: String,
        /// What happened.
        reason: String,
    },
}

/// Why `flush` or `close` cannot say that everything is durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// Time is up. What is missing is still in the buffer and still being delivered: call again.
    #[error("recorder of source {source_id}: sequences {missing} are not acknowledged yet ({} events); still trying: call again to go on waiting", missing.count())]
    Unfinished {
        /// The source.
        source_id: String,
        /// What is not known to be durable.
        missing: Sequences,
    },
    /// Delivery failed for good. What is missing may or may not have reached the log; this recorder tries nothing more. With a
    /// spool, the next start on its folder publishes what is missing; without one, it is the caller's to record again.
    #[error("recorder of source {source_id} has stopped: {reason}; sequences {missing} were not acknowledged ({} events): {}", missing.count(), what_then(*spooled))]
    Stopped {
        /// The source.
        source_id: String,
        /// What happened.
        reason: String,
        /// What is not known to be durable.
        missing: Sequences,
        /// Whether it is in the spool.
        spooled: bool,
    },
    /// `close` only: the closing event could not be composed.
    #[error("recorder of source {source_id}: closing event: {error}")]
    Closing {
        /// The source.
        source_id: String,
        /// Why not.
        error: Box<RecordError>,
    },
}

/// Why dead sources are not all published and closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Time is up; still trying.
    #[error(
        "{left} dead sources of the spool are not published and closed yet; still trying: call again to go on waiting"
    )]
    Unfinished {
        /// How many.
        left: usize,
    },
    /// It will not be tried again before the next start. Nothing is lost: their files are still there.
    #[error(
        "{left} dead sources of the spool are not published and closed: {reason}; they are kept for the next start"
    )]
    Stopped {
        /// How many.
        left: usize,
        /// What happened to the first.
        reason: String,
    },
}

const fn what_then(spooled: bool) -> &'static str {
    if spooled {
        "they are in the spool, and the next start on its folder publishes them"
    } else {
        "record them again with a new recorder"
    }
}
