//! What is there: topics with their settings, subjects with their versions.

use std::collections::BTreeMap;
use std::time::Duration;

use agentgov_connect::{Endpoints, KafkaEndpoint, SchemaRegistry, SchemaRegistryError};
use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{Topology, registry_subject};
use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

/// How long a broker may take to answer one request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// Why the world could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ClusterReadError {
    /// Kafka did not answer, or not as asked.
    #[error("kafka {bootstrap}: {what}: {source}; is it running and reachable?")]
    Kafka {
        /// Where it was asked.
        bootstrap: String,
        /// What was asked.
        what: String,
        /// What came back.
        source: Box<KafkaError>,
    },
    /// The runtime that drives Kafka's admin client did not start.
    #[error("cannot start a runtime for Kafka's admin client: {0}")]
    Runtime(#[from] std::io::Error),
    /// The registry did not answer, or not as asked.
    #[error(transparent)]
    Registry(#[from] SchemaRegistryError),
}

/// A topic as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveTopic {
    pub(crate) partitions: usize,
    /// Replicas of the partition that has fewest.
    pub(crate) replication: usize,
    /// True if each partition has a leader, so that it can be written.
    pub(crate) led: bool,
    pub(crate) settings: Settings,
}

/// A topic's settings by Kafka's names.
pub(crate) type Settings = BTreeMap<String, LiveSetting>;

/// A setting as it is.
#[derive(Clone, Debug)]
pub(crate) struct LiveSetting {
    pub(crate) value: String,
    /// True if it was set on this topic; false if it is the broker's default.
    pub(crate) own: bool,
}

/// A registry's subject as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveSubject {
    pub(crate) compatibility: Option<String>,
    /// Numbers of this build's versions that are not registered, from 1.
    pub(crate) missing: Vec<usize>,
}

/// All that the topology speaks of, as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub(crate) topics: BTreeMap<String, LiveTopic>,
    pub(crate) subjects: BTreeMap<String, LiveSubject>,
    /// Topics of the cluster that the topology does not know; Kafka's own are left out.
    pub(crate) strangers: Vec<String>,
}

/// Kafka's admin client, and the runtime that drives it.
pub(crate) struct Kafka {
    pub(crate) admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    bootstrap: String,
}

impl Kafka {
    pub(crate) fn connect(endpoint: &KafkaEndpoint) -> Result<Self, ClusterReadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bootstrap = endpoint.bootstrap.clone();
        let admin = endpoint.client_config().create().map_err(|source| ClusterReadError::Kafka {
            bootstrap: bootstrap.clone(),
            what: "creating the admin client".to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self { admin, runtime, bootstrap })
    }

    pub(crate) fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
    }

    /// Waits for an answer of the admin client to `what`.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, KafkaError>>,
    ) -> Result<T, ClusterReadError> {
        self.runtime.block_on(answer).map_err(|source| self.error(what, source))
    }

    pub(crate) fn error(&self, what: &str, source: KafkaError) -> ClusterReadError {
        ClusterReadError::Kafka {
            bootstrap: self.bootstrap.clone(),
            what: what.to_owned(),
            source: Box::new(source),
        }
    }

    /// The topology's topics that are there, and the names of all others.
    pub(crate) fn topics(
        &self,
        topology: &Topology,
    ) -> Result<(BTreeMap<String, LiveTopic>, Vec<String>), ClusterReadError> {
        let metadata = self
            .admin
            .inner()
            .fetch_metadata(None, TIMEOUT)
            .map_err(|source| self.error("fetching metadata", source))?;
        let (known, strangers): (Vec<_>, Vec<_>) = metadata
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
                    led: partitions.iter().all(|p| p.leader() >= 0),
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
        // Kafka's own topics, and the registry's, begin with an underscore.
        let mut strangers: Vec<_> =
            strangers.iter().map(|t| t.name().to_owned()).filter(|name| !name.starts_with('_')).collect();
        strangers.sort();
        Ok((topics, strangers))
    }

    fn settings<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<Vec<(String, Settings)>, ClusterReadError> {
        let topics: Vec<_> = names.map(|name| ResourceSpecifier::Topic(name)).collect();
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let what = "describing the topics' settings";
        let answers = self.wait(what, self.admin.describe_configs(&topics, &Self::options()))?;
        let mut all = Vec::new();
        for answer in answers {
            let resource = answer.map_err(|code| self.error(what, KafkaError::AdminOp(code)))?;
            let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
            let settings = resource.entries.into_iter().filter_map(|entry| {
                let own = entry.source == ConfigSource::DynamicTopic;
                Some((entry.name, LiveSetting { value: entry.value?, own }))
            });
            all.push((name, settings.collect()));
        }
        Ok(all)
    }
}

/// Looks at everything that the topology speaks of.
pub(crate) fn look(topology: &Topology, endpoints: &Endpoints) -> Result<Live, ClusterReadError> {
    let (topics, strangers) = Kafka::connect(&endpoints.kafka)?.topics(topology)?;
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
    Ok(Live { topics, subjects, strangers })
}
