use std::time::Duration;

use agentgov_schemas::Digest;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::topology::MissingRole;
use rdkafka::error::KafkaError;

/// A failed push or list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topology has no topic for the records.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// A request to Kafka failed.
    #[error("kafka {bootstrap}: topic {topic}: {operation}: {source}")]
    Kafka {
        /// The bootstrap servers.
        bootstrap: String,
        /// The topic.
        topic: String,
        /// The failed operation.
        operation: &'static str,
        /// Error of the client.
        source: Box<KafkaError>,
    },
    /// The topic does not exist.
    #[error("kafka {bootstrap}: topic {topic} does not exist; run `agentgov topology apply`")]
    NoTopic {
        /// The bootstrap servers.
        bootstrap: String,
        /// The topic.
        topic: String,
    },
    /// The schema of this build is not registered.
    #[error(
        "schema registry: subject {subject} does not have the schema of this build; run `agentgov topology apply`"
    )]
    NotRegistered {
        /// The subject.
        subject: String,
    },
    /// A request to the schema registry failed.
    #[error(transparent)]
    SchemaRegistry(#[from] agentgov_connect::SchemaRegistryError),
    /// Reading the topic made no progress.
    #[error("kafka {bootstrap}: topic {topic}: expected to reach its end, found no record for {} s; is Kafka reachable?", waited.as_secs())]
    Stalled {
        /// The bootstrap servers.
        bootstrap: String,
        /// The topic.
        topic: String,
        /// Time without a record.
        waited: Duration,
    },
    /// An entry is above the size limit of its topic.
    #[error(
        "{key}: expected at most {limit} bytes (max_message_bytes of topic {topic} in topology.yaml), found {size}"
    )]
    TooLarge {
        /// Key of the entry.
        key: String,
        /// Encoded size.
        size: usize,
        /// The topic.
        topic: String,
        /// The limit.
        limit: usize,
    },
    /// A tool's name in calls is above the limit of an id.
    #[error("expected a tool whose name with its server has at most {MAX_ID_BYTES} bytes, found {size}")]
    NameTooLong {
        /// Bytes of the name.
        size: usize,
    },
    /// An entry cannot be encoded. This is a bug, since tests compare the types with the schemas.
    #[error("{key}: {message}")]
    Encode {
        /// Key of the entry.
        key: String,
        /// Error of the encoder.
        message: String,
    },
    /// Other commands appended entries of the same keys during each attempt.
    #[error(
        "topic {topic}: expected to append without entries of others in between, found others in each of {round} attempts; wait \
         until they end, and run the command again"
    )]
    Contended {
        /// The topic.
        topic: String,
        /// Number of attempts.
        round: usize,
    },
    /// Another command appended an entry of the key with another state after the one of this command.
    #[error(
        "{kind} `{key}`: expected state `{expected}` in its last entry, found `{found}` of another command; wait until that ends, \
         check the {kind} with `agentgov registry list`, and run the command again"
    )]
    Overtaken {
        /// Agent, tool or server.
        kind: &'static str,
        /// The key.
        key: String,
        /// State that this command appended.
        expected: String,
        /// State in the last entry, or `unknown` if this build cannot read it.
        found: String,
    },
    /// The state must not be changed.
    #[error(transparent)]
    Suspension(#[from] crate::SuspensionRefusal),
    /// No key with this id is published.
    #[error("expected the id of a published key, found `{kid}`; `agentgov registry key list` lists them")]
    UnknownKey {
        /// The id.
        kid: String,
    },
    /// A bundle of another name is active in an environment of a pushed one.
    #[error(
        "bundle {name} version {version}: expected environments without an active bundle of another name, found {found}; to \
         replace it, run `agentgov policy push --replace BUNDLE`"
    )]
    OtherBundleActive {
        /// Name of the pushed bundle.
        name: String,
        /// Version of the pushed bundle.
        version: String,
        /// Active bundles with their environments.
        found: String,
    },
    /// The version of a bundle was pushed before with other files. A version has one content for ever.
    #[error(
        "bundle {name} version {version}: expected the files pushed before with digest {pushed}, found digest {found}; set \
         another version in bundle.yaml"
    )]
    VersionTaken {
        /// Name of the bundle.
        name: String,
        /// Version of the bundle.
        version: String,
        /// Digest of the pushed version.
        pushed: Digest,
        /// Digest of the files.
        found: Digest,
    },
}
