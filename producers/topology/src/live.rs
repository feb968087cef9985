//! Live state: topics with their settings, and subjects with their versions.

use std::collections::BTreeMap;
use std::time::Duration;

use agentgov_connect::{Endpoints, KafkaEndpoint, SchemaRegistry, SchemaRegistryError};
use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{Topology, registry_subject};
use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

/// Timeout of one request to a broker.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The live state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ClusterReadError {
    /// A request to Kafka failed.
    #[error("kafka {bootstrap}: {operation}: {source}; is it running and reachable?")]
    Kafka {
        /// The bootstrap servers.
        bootstrap: String,
        /// The failed operation.
        operation: String,
        /// Error of the client.
        source: Box<KafkaError>,
    },
    /// The async runtime of Kafka's admin client did not start.
    #[error("cannot start the async runtime of Kafka's admin client: {0}")]
    Runtime(#[from] std::io::Error),
    /// A request to the schema registry failed.
    #[error(transparent)]
    SchemaRegistry(#[from] SchemaRegistryError),
}

/// Live state of a topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveTopic {
    pub(crate) partitions: usize,
    /// Replicas of the partition with the fewest.
    pub(crate) replication: usize,
    /// True if each partition has a leader, so that the topic can be written.
    pub(crate) has_leaders: bool,
    pub(crate) settings: Settings,
}

/// Settings of a topic by Kafka's names.
pub(crate) type Settings = BTreeMap<String, LiveSetting>;

/// Live value of a setting.
#[derive(Clone, Debug)]
pub(crate) struct LiveSetting {
    pub(crate) value: String,
    /// True if it is set on this topic; false if it is the broker's default.
    pub(crate) is_override: bool,
}

/// Live state of a subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveSubject {
    pub(crate) compatibility: Option<String>,
    /// Numbers, from 1, of this build's schema versions that are not registered.
    pub(crate) missing: Vec<usize>,
}

/// Live state of all objects of the topology.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveState {
    pub(crate) topics: BTreeMap<String, LiveTopic>,
    pub(crate) subjects: BTreeMap<String, LiveSubject>,
    /// Topics of the cluster that are not in the topology, without internal ones.
    pub(crate) unknown_topics: Vec<String>,
}

/// Kafka's admin client with its async runtime.
pub(crate) struct KafkaAdmin {
    pub(crate) admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    bootstrap: String,
}

impl KafkaAdmin {
    pub(crate) fn connect(endpoint: &KafkaEndpoint) -> Result<Self, ClusterReadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bootstrap = endpoint.bootstrap.clone();
        let admin = endpoint.client_config().create().map_err(|source| ClusterReadError::Kafka {
            bootstrap: bootstrap.clone(),
            operation: "creating the admin client".to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self { admin, runtime, bootstrap })
    }

    pub(crate) fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
    }

    /// Waits for the result of a request. `operation` is its name in an error.
    pub(crate) fn wait<T>(
        &self,
        operation: &str,
        request: impl Future<Output = Result<T, KafkaError>>,
    ) -> Result<T, ClusterReadError> {
        self.runtime.block_on(request).map_err(|source| self.error(operation, source))
    }

    pub(crate) fn error(&self, operation: &str, source: KafkaError) -> ClusterReadError {
        ClusterReadError::Kafka {
            bootstrap: self.bootstrap.clone(),
            operation: operation.to_owned(),
            source: Box::new(source),
        }
    }

    /// Reads the topics of the topology, and the names of all others.
    pub(crate) fn topics(
        &self,
        topology: &Topology,
    ) -> Result<(BTreeMap<String, LiveTopic>, Vec<String>), ClusterReadError> {
        let metadata = self
            .admin
            .inner()
            .fetch_metadata(None, REQUEST_TIMEOUT)
            .map_err(|source| self.error("fetching metadata", source))?;
        let (known, unknown): (Vec<_>, Vec<_>) = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .partition(|topic| topology.topics.contains_key(topic.name()));
        let mut topics: BTreeMap<String, LiveTopic> = known
            .into_iter()
            .map(|topic| {
                let partitions = topic.partitions();
                let live = LiveTopic {
                    partitions: partitions.len(),
                    replication: partitions.iter().map(|p| p.replicas().len()).min().unwrap_or_default(),
                    has_leaders: partitions.iter().all(|p| p.leader() >= 0),
                    settings: Settings::new(),
                };
                (topic.name().to_owned(), live)
            })
            .collect();
        for (name, settings) in self.settings(topics.keys())? {
            if let Some(topic) = topics.get_mut(&name) {
                topic.settings = settings;
            }
        }
        // Internal topics of Kafka and of the schema registry begin with an underscore.
        let mut unknown: Vec<_> =
            unknown.iter().map(|t| t.name().to_owned()).filter(|name| !name.starts_with('_')).collect();
        unknown.sort();
        Ok((topics, unknown))
    }

    fn settings<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<Vec<(String, Settings)>, ClusterReadError> {
        let topics: Vec<_> = names.map(|name| ResourceSpecifier::Topic(name)).collect();
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let operation = "describing the topics' settings";
        let results = self.wait(operation, self.admin.describe_configs(&topics, &Self::options()))?;
        let mut all = Vec::new();
        for result in results {
            let resource = result.map_err(|code| self.error(operation, KafkaError::AdminOp(code)))?;
            let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
            let settings = resource.entries.into_iter().filter_map(|entry| {
                let is_override = entry.source == ConfigSource::DynamicTopic;
                Some((entry.name, LiveSetting { value: entry.value?, is_override }))
            });
            all.push((name, settings.collect()));
        }
        Ok(all)
    }
}

/// Reads the live state of all objects of the topology.
pub(crate) fn read(topology: &Topology, endpoints: &Endpoints) -> Result<LiveState, ClusterReadError> {
    let (topics, unknown_topics) = KafkaAdmin::connect(&endpoints.kafka)?.topics(topology)?;
    let registry = SchemaRegistry::new(&endpoints.schema_registry)?;
    let mut subjects = BTreeMap::new();
    for (name, topic) in &topology.topics {
        let Some(family) = Subject::by_name(&topic.value.schema.value) else { continue };
        let subject = registry_subject(name);
        let mut missing = Vec::new();
        for (number, schema) in (1..).zip(family.versions) {
            if registry.id_of(&subject, schema)?.is_none() {
                missing.push(number);
            }
        }
        let compatibility = registry.compatibility(&subject)?;
        subjects.insert(subject, LiveSubject { compatibility, missing });
    }
    Ok(LiveState { topics, subjects, unknown_topics })
}
