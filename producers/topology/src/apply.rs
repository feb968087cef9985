//! Makes the world as the topology says, as far as nothing is lost by it.

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
use crate::look::{Kafka, Live, look};
use crate::plan::{Aspect, Difference, Kind, Plan};
use crate::settings::settings_of;

/// How long a created or changed topic may take until the cluster shows it as ordered, with a leader for each partition.
const SETTLE: Duration = Duration::from_secs(30);
/// How often is looked meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApplyReport {
    /// Every difference that was there and is no more, in the order in which they were removed.
    pub removed: Vec<Difference>,
}

/// Why the topology was not applied, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What is there could not be seen.
    #[error(transparent)]
    ClusterRead(#[from] ClusterReadError),
    /// Applying the topology could lose something. Nothing was changed.
    #[error("nothing was changed, since applying the topology could lose records:\n{0}")]
    Refused(Plan),
    /// A topic could not be created or changed. What was reported as progress is done; apply again to go on.
    #[error("topic {topic}: expected it {what}, found error {code}")]
    Topic {
        /// The topic.
        topic: String,
        /// What was asked.
        what: &'static str,
        /// Kafka's answer.
        code: RDKafkaErrorCode,
    },
    /// The registry did not take a schema or a level. Topics are done; apply again to go on.
    #[error(transparent)]
    Registry(#[from] SchemaRegistryError),
    /// The cluster took the orders and does not show them.
    #[error("expected the cluster to be as ordered within {} s, found:\n{still}", SETTLE.as_secs())]
    NotSettled {
        /// What still differs.
        still: Plan,
    },
}

/// Creates and changes what the topology asks for, and does nothing on a second call. `progress` hears of each difference once
/// it is removed. Blocks until every new topic has a leader for each partition.
///
/// Never deletes a topic, never changes partitions or replicas, never shrinks a retention, never lowers compatibility: if
/// the topology asks for that, nothing at all is changed ([`ApplyError::Refused`]).
pub fn apply(
    topology: &Topology,
    endpoints: &Endpoints,
    progress: &mut dyn FnMut(&Difference),
) -> Result<ApplyReport, ApplyError> {
    let live = look(topology, endpoints)?;
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
        let kafka = Kafka::connect(&endpoints.kafka)?;
        create_topics(&kafka, topology, &topics)?;
        change_topics(&kafka, &live, &topics)?;
        settle(&kafka, topology, &live)?;
        done(topics);
    }
    let registry = SchemaRegistry::new(&endpoints.schema_registry)?;
    for difference in subjects {
        apply_subject(&registry, topology, &difference)?;
        done(vec![difference]);
    }
    Ok(applied)
}

fn create_topics(kafka: &Kafka, topology: &Topology, differences: &[Difference]) -> Result<(), ApplyError> {
    let missing: Vec<_> = differences
        .iter()
        .filter(|difference| difference.aspect == Aspect::Whole)
        .filter_map(|difference| topology.topics.get_key_value(&difference.name))
        .map(|(name, topic)| (name, &topic.value, settings_of(&topic.value)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let orders: Vec<_> = missing
        .iter()
        .map(|(name, topic, settings)| {
            // -1: the broker's default.
            let replication = TopicReplication::Fixed(topic.replication.unwrap_or(-1));
            let order = NewTopic::new(name, topic.partitions.value, replication);
            settings.iter().fold(order, |order, setting| order.set(setting.name, &setting.value))
        })
        .collect();
    let answers = kafka.wait("creating topics", kafka.admin.create_topics(&orders, &Kafka::options()))?;
    for answer in answers {
        match answer {
            // Another apply was faster; whether it made the same topic is seen when we look again.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => (),
            Err((topic, code)) => return Err(ApplyError::Topic { topic, what: "created", code }),
        }
    }
    Ok(())
}

/// Kafka's AlterConfigs sets all of a topic's own settings and resets those that it is not given: so all of them are
/// given again. (librdkafka 2.12 has IncrementalAlterConfigs, rdkafka 0.39 does not show it.)
fn change_topics(kafka: &Kafka, live: &Live, differences: &[Difference]) -> Result<(), ApplyError> {
    let mut wanted: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for difference in differences {
        let (Aspect::Setting(setting), Some(topic)) = (difference.aspect, live.topics.get(&difference.name))
        else {
            continue;
        };
        let own = || topic.settings.iter().filter(|(_, setting)| setting.own);
        wanted
            .entry(&difference.name)
            .or_insert_with(|| own().map(|(name, setting)| (name.as_str(), setting.value.as_str())).collect())
            .insert(setting, &difference.expected);
    }
    let orders: Vec<_> = wanted
        .into_iter()
        .map(|(topic, settings)| {
            let order = AlterConfig::new(ResourceSpecifier::Topic(topic));
            settings.into_iter().fold(order, |order, (name, value)| order.set(name, value))
        })
        .collect();
    if orders.is_empty() {
        return Ok(());
    }
    // The binding gives no error of a single topic: `settle` sees what was not done.
    kafka.wait("changing topics' settings", kafka.admin.alter_configs(&orders, &Kafka::options()))?;
    Ok(())
}

/// Looks until no topic differs and each partition has a leader.
fn settle(kafka: &Kafka, topology: &Topology, before: &Live) -> Result<(), ApplyError> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let (topics, strangers) = kafka.topics(topology)?;
        let led = topics.values().all(|topic| topic.led);
        let live = Live { topics, subjects: before.subjects.clone(), strangers };
        let mut still = compare(topology, &live);
        still.differences.retain(|difference| difference.kind == Kind::Topic);
        if still.is_empty() && led {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ApplyError::NotSettled { still });
        }
        std::thread::sleep(PAUSE);
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
        let of = |kind| {
            self.removed.iter().filter(move |d| d.kind == kind).map(|d| &d.name).collect::<BTreeSet<_>>()
        };
        write!(
            f,
            "{} topics and {} subjects now match the topology",
            of(Kind::Topic).len(),
            of(Kind::Subject).len()
        )
    }
}
