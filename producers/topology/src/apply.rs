//! Applies the topology to Kafka and the schema registry, unless that could lose a record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use agentgov_connect::{Endpoints, SchemaRegistry, SchemaRegistryError};
use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{Topology, registry_subject};
use rdkafka::admin::{AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::types::RDKafkaErrorCode;
use serde::Serialize;

use crate::ClusterReadError;
use crate::compare::{COMPATIBILITY, compare};
use crate::live::{self, KafkaAdmin, LiveState};
use crate::plan::{Aspect, Difference, Kind, Plan};
use crate::settings::settings_of;

/// Time within which the cluster must show the created and changed topics, with a leader for each partition.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between two reads of the live state during that time.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Result of [`apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApplyReport {
    /// The removed differences, in the order of their removal.
    pub removed: Vec<Difference>,
}

/// The topology is not applied, or only partly.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The live state cannot be read.
    #[error(transparent)]
    ClusterRead(#[from] ClusterReadError),
    /// Applying the topology could lose records. Nothing was changed.
    #[error("nothing was changed, since applying the topology could lose records:\n{0}")]
    Refused(Plan),
    /// A topic could not be created or changed. Differences reported as progress are removed; apply again to continue.
    #[error("topic {topic}: expected it to be {change}, found error {code}; apply again to continue")]
    Topic {
        /// The topic.
        topic: String,
        /// The requested change.
        change: &'static str,
        /// Error code of Kafka.
        code: RDKafkaErrorCode,
    },
    /// A request to the schema registry failed. The topics are applied; apply again to continue.
    #[error(transparent)]
    SchemaRegistry(#[from] SchemaRegistryError),
    /// The cluster accepted the changes and does not show them.
    #[error("expected the cluster to match the topology within {} s, found:\n{remaining}", SETTLE_TIMEOUT.as_secs())]
    NotSettled {
        /// The remaining differences.
        remaining: Plan,
    },
}

/// Creates and changes topics and subjects until they match the topology. A second call changes nothing. Calls `progress` with
/// each difference once it is removed. Blocks until each partition of the new topics has a leader.
///
/// Never deletes a topic, changes partitions or replicas, shortens a retention or lowers a compatibility level. If the topology
/// requires one of these, nothing is changed ([`ApplyError::Refused`]).
pub fn apply(
    topology: &Topology,
    endpoints: &Endpoints,
    progress: &mut dyn FnMut(&Difference),
) -> Result<ApplyReport, ApplyError> {
    let live = live::read(topology, endpoints)?;
    let plan = compare(topology, &live);
    if plan.refused().next().is_some() {
        return Err(ApplyError::Refused(plan));
    }
    let (topics, subjects): (Vec<_>, Vec<_>) =
        plan.differences.into_iter().partition(|difference| difference.kind == Kind::Topic);
    let mut applied = ApplyReport::default();
    let mut done = |differences: Vec<Difference>| {
        differences.iter().for_each(&mut *progress);
        applied.removed.extend(differences);
    };
    if !topics.is_empty() {
        let kafka = KafkaAdmin::connect(&endpoints.kafka)?;
        create_topics(&kafka, topology, &topics)?;
        change_topics(&kafka, &live, &topics)?;
        wait_until_settled(&kafka, topology, &live)?;
        done(topics);
    }
    let registry = SchemaRegistry::new(&endpoints.schema_registry)?;
    for difference in subjects {
        apply_subject(&registry, topology, &difference)?;
        done(vec![difference]);
    }
    Ok(applied)
}

fn create_topics(
    kafka: &KafkaAdmin,
    topology: &Topology,
    differences: &[Difference],
) -> Result<(), ApplyError> {
    let missing: Vec<_> = differences
        .iter()
        .filter(|difference| difference.aspect == Aspect::Whole)
        .filter_map(|difference| topology.topics.get_key_value(&difference.name))
        .map(|(name, topic)| (name, &topic.value, settings_of(&topic.value)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let requests: Vec<_> = missing
        .iter()
        .map(|(name, topic, settings)| {
            // -1: the broker's default.
            let replication = TopicReplication::Fixed(topic.replication.unwrap_or(-1));
            let request = NewTopic::new(name, topic.partitions.value, replication);
            settings.iter().fold(request, |request, setting| request.set(setting.name, &setting.value))
        })
        .collect();
    let results =
        kafka.wait("creating topics", kafka.admin.create_topics(&requests, &KafkaAdmin::options()))?;
    for result in results {
        match result {
            // Another process created the topic. `wait_until_settled` checks that it matches.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => (),
            Err((topic, code)) => return Err(ApplyError::Topic { topic, change: "created", code }),
        }
    }
    Ok(())
}

/// Changes settings with AlterConfigs, which replaces all overrides of a topic and resets those that the request omits: so the
/// request repeats the existing ones. (librdkafka 2.12 has IncrementalAlterConfigs, but rdkafka 0.39 does not expose it.)
fn change_topics(kafka: &KafkaAdmin, live: &LiveState, differences: &[Difference]) -> Result<(), ApplyError> {
    let mut overrides: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for difference in differences {
        let (Aspect::Setting(setting), Some(topic)) = (difference.aspect, live.topics.get(&difference.name))
        else {
            continue;
        };
        let existing = || topic.settings.iter().filter(|(_, setting)| setting.is_override);
        overrides
            .entry(&difference.name)
            .or_insert_with(|| {
                existing().map(|(name, setting)| (name.as_str(), setting.value.as_str())).collect()
            })
            .insert(setting, &difference.expected);
    }
    let requests: Vec<_> = overrides
        .into_iter()
        .map(|(topic, settings)| {
            let request = AlterConfig::new(ResourceSpecifier::Topic(topic));
            settings.into_iter().fold(request, |request, (name, value)| request.set(name, value))
        })
        .collect();
    if requests.is_empty() {
        return Ok(());
    }
    // The binding returns no error of a single topic. `wait_until_settled` finds settings that did not change.
    kafka.wait("changing topics' settings", kafka.admin.alter_configs(&requests, &KafkaAdmin::options()))?;
    Ok(())
}

/// Waits until no topic differs and each partition has a leader.
fn wait_until_settled(kafka: &KafkaAdmin, topology: &Topology, before: &LiveState) -> Result<(), ApplyError> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let (topics, unknown_topics) = kafka.topics(topology)?;
        let have_leaders = topics.values().all(|topic| topic.has_leaders);
        let live = LiveState { topics, subjects: before.subjects.clone(), unknown_topics };
        let mut remaining = compare(topology, &live);
        remaining.differences.retain(|difference| difference.kind == Kind::Topic);
        if remaining.is_empty() && have_leaders {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ApplyError::NotSettled { remaining });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn apply_subject(
    registry: &SchemaRegistry,
    topology: &Topology,
    difference: &Difference,
) -> Result<(), ApplyError> {
    match difference.aspect {
        Aspect::Compatibility => registry.set_compatibility(&difference.name, COMPATIBILITY)?,
        Aspect::Version(number) => {
            let schema = topology
                .topics
                .iter()
                .find(|(name, _)| registry_subject(name) == difference.name)
                .and_then(|(_, topic)| Subject::by_name(&topic.value.schema.value))
                .and_then(|family| family.versions.get(number.checked_sub(1)?));
            if let Some(schema) = schema {
                registry.register(&difference.name, schema)?;
            }
        }
        _ => (),
    }
    Ok(())
}

impl fmt::Display for ApplyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.removed.is_empty() {
            return write!(f, "nothing to do: the cluster matches the topology");
        }
        let names_of = |kind| {
            self.removed.iter().filter(move |d| d.kind == kind).map(|d| &d.name).collect::<BTreeSet<_>>()
        };
        write!(
            f,
            "{} topics and {} subjects now match the topology",
            names_of(Kind::Topic).len(),
            names_of(Kind::Subject).len()
        )
    }
}
