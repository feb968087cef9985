use std::time::Duration;

use agentgov_schemas::Digest;
use agentgov_schemas::topology::MissingRole;
use rdkafka::error::KafkaError;

/// Why something was not pushed or listed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The map has no topic for it.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// Kafka did not do as asked.
    #[error("kafka {bootstrap}: topic {topic}: {what}: {source}")]
    Kafka {
        /// Where it was asked.
        bootstrap: String,
        /// The topic.
        topic: String,
        /// What was asked.
        what: &'static str,
        /// What came back.
        source: Box<KafkaError>,
    },
    /// The topic is not there.
    #[error("kafka {bootstrap}: no topic {topic}; run `agentgov topology apply`")]
    NoTopic {
        /// Where it was asked.
        bootstrap: String,
        /// The topic.
        topic: String,
    },
    /// The topic's schema is not registered.
    #[error(
        "schema registry: subject {subject} does not have the schema of this build; run `agentgov topology apply`"
    )]
    NotRegistered {
        /// The subject.
        subject: String,
    },
    /// The schema registry did not do as asked.
    #[error(transparent)]
    SchemaRegistry(#[from] agentgov_connect::SchemaRegistryError),
    /// Reading the topic to its end stood still.
    #[error("kafka {bootstrap}: topic {topic}: expected its end, found no record for {} s", waited.as_secs())]
    Stalled {
        /// Where it was asked.
        bootstrap: String,
        /// The topic.
        topic: String,
        /// How long nothing came.
        waited: Duration,
    },
    /// An entry is larger than its topic allows.
    #[error(
        "{key} is {size} bytes; topic {topic} takes at most {allowed} (max_message_bytes in topology.yaml)"
    )]
    TooLarge {
        /// The entry.
        key: String,
        /// Its size, encoded.
        size: usize,
        /// The topic.
        topic: String,
        /// What fits.
        allowed: usize,
    },
    /// A mistake of ours: the types are tested against the schemas.
    #[error("{key}: {message}")]
    Encode {
        /// The entry.
        key: String,
        /// What the encoder said.
        message: String,
    },
    /// No key with this id is published.
    #[error("expected the id of a published key, found `{kid}`; `agentgov registry key list` lists them")]
    UnknownKey {
        /// The id.
        kid: String,
    },
    /// A bundle is immutable: its version names one content for ever.
    #[error(
        "bundle {name} version {version} was pushed with digest {pushed}, and now has {found}; expected the same files, or \
         another version in bundle.yaml"
    )]
    VersionTaken {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// The digest of that version, as pushed first.
        pushed: Digest,
        /// The digest now.
        found: Digest,
    },
}
