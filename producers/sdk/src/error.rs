//! Errors of a recorder. Each says which events are durable.

use agentgov_connect::SchemaRegistryError;
use agentgov_schemas::key::InvalidTenantId;
use agentgov_schemas::topology::MissingRole;
use agentgov_schemas::wire::SchemaError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{Sequences, SpoolError};

/// A producer or recorder that did not start. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tenant id is invalid in a record key.
    #[error(transparent)]
    Tenant(#[from] InvalidTenantId),
    /// An option has an invalid value.
    #[error("recorder: {option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Valid values.
        expected: String,
        /// The given value.
        found: String,
    },
    /// The topology has no topic for actions.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// The schema compiled into this build does not parse.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The schema registry cannot be reached, or its response is an error.
    #[error(transparent)]
    SchemaRegistry(#[from] SchemaRegistryError),
    /// The schema of this build is not registered.
    #[error(
        "schema registry: subject {subject} does not have the schema of this build; run `agentgov topology apply`"
    )]
    SchemaNotRegistered {
        /// The subject.
        subject: String,
    },
    /// The topic does not exist.
    #[error("kafka: topic {topic} does not exist; run `agentgov topology apply`")]
    TopicMissing {
        /// The topic.
        topic: String,
    },
    /// The brokers cannot be reached, or their response is an error.
    #[error("kafka at {bootstrap}: {operation}: {source}; is it running and reachable?")]
    Kafka {
        /// The brokers.
        bootstrap: String,
        /// The failed operation.
        operation: &'static str,
        /// Error of the client.
        source: KafkaError,
    },
    /// The spool cannot be used, or the files of a dead source are damaged.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The producer has stopped, or has as many sources as it can have. A new producer is needed.
    #[error("producer: cannot open a recorder: {reason}; start another producer")]
    ProducerStopped {
        /// Cause.
        reason: String,
    },
    /// The operating system cannot start a thread.
    #[error("producer: cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// Returns true if the same call cannot succeed before a person changes an option, a permission or a setting, or the caller
    /// starts another producer.
    pub fn is_permanent(&self) -> bool {
        use RDKafkaErrorCode::{
            Authentication, ClusterAuthorizationFailed, SaslAuthenticationFailed, TopicAuthorizationFailed,
        };
        match self {
            Self::SchemaRegistry(error) => !error.is_transient(),
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
            | Self::Spool(_)
            | Self::ProducerStopped { .. } => true,
        }
    }
}

/// An event that was rejected. It has no sequence number and is not written: the caller still owns it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A field has an invalid value.
    #[error("event: {field}: expected {expected}, found {found}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Valid values.
        expected: &'static str,
        /// The given value.
        found: String,
    },
    /// An id or a name is longer than the evaluator accepts: it would reject the event.
    #[error(
        "event: {field}: expected at most {limit} bytes, found {found}; put long texts into the arguments or the message"
    )]
    IdTooLong {
        /// The field.
        field: &'static str,
        /// Bytes of the field.
        found: usize,
        /// Maximum bytes.
        limit: usize,
    },
    /// Key and value together are too large for the topic.
    #[error(
        "event of session {session_id}: expected at most {limit} bytes encoded, found {found}; shorten or redact its payloads"
    )]
    TooLarge {
        /// Session of the event.
        session_id: String,
        /// Bytes of key and value.
        found: usize,
        /// Maximum bytes that the topic accepts.
        limit: usize,
    },
    /// The event cannot be encoded.
    #[error("event of session {session_id} cannot be encoded: {message}")]
    Unencodable {
        /// Session of the event.
        session_id: String,
        /// Error of the encoder.
        message: String,
    },
    /// The buffer is full, and [`WhenFull`](crate::WhenFull) does not allow to wait, or not longer.
    #[error(
        "recorder is full: {events} events of {bytes} bytes are not acknowledged by Kafka; retry later, or record more slowly"
    )]
    Full {
        /// Events in flight.
        events: usize,
        /// Bytes in flight.
        bytes: usize,
    },
    /// The spool is full, and [`WhenFull`](crate::WhenFull) does not allow to wait, or not longer.
    #[error(
        "spool is full: {bytes} of at most {limit} bytes are not acknowledged by Kafka; retry later, or record more slowly"
    )]
    SpoolFull {
        /// Bytes of the spool's files.
        bytes: u64,
        /// Maximum bytes of the spool.
        limit: u64,
    },
    /// The event could not be written to the spool, e.g. because the disk is full. The recorder stays usable.
    #[error("event of session {session_id} is not recorded: {error}")]
    Spool {
        /// Session of the event.
        session_id: String,
        /// Cause.
        error: SpoolError,
    },
    /// [`Recorder::close`](crate::Recorder::close) was called before.
    #[error("recorder is closed: source {source_id} has written its closing event")]
    Closed {
        /// Id of the source.
        source_id: String,
    },
    /// An earlier event could not be delivered. [`Recorder::flush`](crate::Recorder::flush) returns the sequence numbers that
    /// are not durable.
    #[error(
        "recorder of source {source_id} has stopped: {reason}; call flush for the sequences that are not durable, and start a new recorder for further events"
    )]
    Stopped {
        /// Id of the source.
        source_id: String,
        /// Cause.
        reason: String,
    },
}

/// A `flush` or `close` after which some events may not be durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The timeout has passed. The missing events are in the buffer and delivery continues: call again.
    #[error("recorder of source {source_id}: sequences {missing} are not acknowledged yet ({} events); delivery continues: call again to keep waiting", missing.count())]
    Unfinished {
        /// Id of the source.
        source_id: String,
        /// Sequence numbers that are not known to be durable.
        missing: Sequences,
    },
    /// Delivery failed permanently. The missing events may or may not be in the topic; this recorder does not retry them.
    /// With a spool, the next start on its folder publishes them; without one, the caller has to record them again.
    #[error("recorder of source {source_id} has stopped: {reason}; sequences {missing} were not acknowledged ({} events): {}", missing.count(), advice(*spooled))]
    Stopped {
        /// Id of the source.
        source_id: String,
        /// Cause.
        reason: String,
        /// Sequence numbers that are not known to be durable.
        missing: Sequences,
        /// Whether the missing events are in the spool.
        spooled: bool,
    },
    /// The closing event could not be encoded. Only `close` returns this.
    #[error("recorder of source {source_id}: closing event: {error}")]
    Closing {
        /// Id of the source.
        source_id: String,
        /// Cause.
        error: Box<RecordError>,
    },
}

/// Dead sources that are not published and closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The timeout has passed; publishing continues.
    #[error(
        "{left} dead sources of the spool are not published and closed yet; publishing continues: call again to keep waiting"
    )]
    Unfinished {
        /// Number of these dead sources.
        left: usize,
    },
    /// Publishing has failed and is retried by the next start. Nothing is lost: the files are kept.
    #[error(
        "{left} dead sources of the spool are not published and closed: {reason}; they are kept for the next start"
    )]
    Stopped {
        /// Number of these dead sources.
        left: usize,
        /// Cause of the first failure.
        reason: String,
    },
}

const fn advice(spooled: bool) -> &'static str {
    if spooled {
        "they are in the spool, and the next start on its folder publishes them"
    } else {
        "record them again with a new recorder"
    }
}
