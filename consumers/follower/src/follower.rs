//! The reader threads, and the reads of the state that they maintain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, SchemaRegistry, SchemaRegistryEndpoint, TopicReader};
use agentgov_policy::{Bundle, Kernel};
use agentgov_runtime::SchemaCache;
use agentgov_schemas::bounds::STACK_BYTES;
use agentgov_schemas::topology::{DECISION_GROUP, MissingRole, Topology};
use agentgov_schemas::{Digest, NotReadyReason, SessionKey, subject};
use agentgov_service::metrics::FollowerMetrics;
use agentgov_service::{Health, ShutdownSignal, StageError};
use agentgov_token::KeySet;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::freshness::Freshness;
use crate::state::{After, Bounds, Partition, SessionView, State, TableTopics, Unavailable};
use crate::tables::{self, Agents, Bundles, Keys, Tools};
use crate::{actions, changelog};

/// Interval between requests for the end offsets of the partitions.
const END_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of a request for an end offset. A slow broker delays the requests to the others.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum time of one pass over the partitions. The next pass continues where it ended.
const PASS_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between updates of the readiness.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which a thread polls whether the threads that it depends on are done.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Settings of a [`Follower`].
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    /// The brokers.
    pub kafka: KafkaEndpoint,
    /// Maximum age of a topic's copy. An older copy counts as unknown.
    pub max_staleness: Duration,
    /// Maximum bytes of actions that wait for the evaluator, per partition.
    pub max_ahead_bytes: usize,
}

/// A copy of the evaluator's state.
#[derive(Debug)]
pub struct Follower {
    state: State,
    topics: Topics,
    config: FollowerConfig,
}

#[derive(Debug)]
struct Topics {
    actions: String,
    changelog: String,
    agents: String,
    tools: String,
    bundles: String,
    keys: String,
}

impl Follower {
    /// Creates a follower with an empty state.
    ///
    /// # Errors
    /// If the topology does not have the evaluator, its topics or its limits.
    pub fn new(topology: &Topology, config: FollowerConfig) -> Result<Self, MissingRole> {
        let missing = |setting| MissingRole::Setting { stage: "evaluator", setting };
        let stage = topology.stage("evaluator")?;
        let limits = stage.session.as_ref().ok_or_else(|| missing("session"))?.value;
        let changelog = stage.state.as_ref().ok_or_else(|| missing("state"))?.value.clone();
        let (actions, topic) = topology.topic_of(subject::ACTION_EVENT)?;
        let topics = Topics {
            actions: actions.to_owned(),
            changelog,
            agents: topology.topic_of(subject::AGENT)?.0.to_owned(),
            tools: topology.topic_of(subject::TOOL)?.0.to_owned(),
            bundles: topology.topic_of(subject::BUNDLE)?.0.to_owned(),
            keys: topology.topic_of(subject::KEY)?.0.to_owned(),
        };
        let bounds = Bounds { max_staleness: config.max_staleness, max_ahead_bytes: config.max_ahead_bytes };
        let tables = TableTopics {
            agents: topics.agents.clone(),
            tools: topics.tools.clone(),
            bundles: topics.bundles.clone(),
            keys: topics.keys.clone(),
        };
        let state = State::new(actions, topic.partitions.value, tables, limits, bounds);
        Ok(Self { state, topics, config })
    }

    /// Follows the topics until `stop` is requested. Call it once.
    ///
    /// # Errors
    /// If a client cannot be created, or the changelog is not the evaluator's.
    pub fn run(
        &self,
        registry: &SchemaRegistryEndpoint,
        health: &Health,
        stop: &ShutdownSignal,
    ) -> Result<(), StageError> {
        health.set_not_ready(
            NotReadyReason::Changelog,
            format!("reading {} to its end", self.topics.changelog),
        );
        let reader = |topic: &str| {
            TopicReader::new(&self.config.kafka, topic, DECISION_GROUP)
                .map_err(StageError::kafka(format!("creating a reader of {topic}")))
        };
        let schemas = || {
            SchemaRegistry::new(registry).map(SchemaCache::new).map_err(|error| StageError::Unavailable {
                what: "schema registry".to_owned(),
                message: error.to_string(),
            })
        };
        let mut caches = [schemas()?, schemas()?, schemas()?, schemas()?, schemas()?, schemas()?];
        let partitions = 0..i32::try_from(self.state.partitions.len()).unwrap_or(i32::MAX);
        let changelog = reader(&self.topics.changelog)?;
        let actions = reader(&self.topics.actions)?;
        let agents = reader(&self.topics.agents)?;
        let tools = reader(&self.topics.tools)?;
        let bundles = reader(&self.topics.bundles)?;
        let keys = reader(&self.topics.keys)?;
        let tables = [&agents, &tools, &bundles, &keys].map(|reader| (reader, 0..1));
        for (reader, numbers) in std::iter::once((&changelog, partitions)).chain(tables) {
            let topic = reader.topic();
            reader.start(numbers).map_err(StageError::kafka(format!("reading {topic}")))?;
        }
        let failed = Mutex::new(None);
        let end = |result: Result<(), StageError>| {
            if let Err(error) = result {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.request();
            }
        };
        let state = &self.state;
        let [of_changelog, of_actions, of_agents, of_tools, of_bundles, of_keys] = &mut caches;
        std::thread::scope(|scope| {
            scope.spawn(|| end(changelog::follow(state, &changelog, of_changelog, health, stop)));
            scope.spawn(|| end(self.follow_actions(&actions, of_actions, health, stop)));
            scope.spawn(|| end(tables::follow(Agents, state, &agents, of_agents, health, stop)));
            scope.spawn(|| end(tables::follow(Tools, state, &tools, of_tools, health, stop)));
            scope.spawn(|| end(tables::follow(Keys, state, &keys, of_keys, health, stop)));
            scope.spawn(|| end(self.watch_ends(stop)));
            scope.spawn(|| self.report_readiness(health, stop));
            let compiler = std::thread::Builder::new().name("bundles".to_owned()).stack_size(STACK_BYTES);
            let compiling = compiler.spawn_scoped(scope, || {
                end(tables::follow(Bundles::default(), state, &bundles, of_bundles, health, stop));
            });
            let failed = |error: std::io::Error| StageError::Unavailable {
                what: "starting a thread".to_owned(),
                message: error.to_string(),
            };
            end(compiling.map(|_| ()).map_err(failed));
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Waits until the changelog is loaded, then follows the actions from its progress entries on.
    fn follow_actions(
        &self,
        reader: &TopicReader,
        schemas: &mut SchemaCache,
        health: &Health,
        stop: &ShutdownSignal,
    ) -> Result<(), StageError> {
        while !self.state.partitions.iter().all(Partition::was_loaded) {
            health.heartbeat();
            if stop.wait(POLL_INTERVAL) {
                return Ok(());
            }
        }
        let progress = |p: &Partition| p.replica().progress();
        let offsets: BTreeMap<i32, i64> = (0..).zip(self.state.partitions.iter().map(progress)).collect();
        reader.start_at(offsets).map_err(StageError::kafka(format!("reading {}", reader.topic())))?;
        actions::follow(&self.state, reader, schemas, health, stop)
    }

    /// Requests the end offsets of the topics each second.
    fn watch_ends(&self, stop: &ShutdownSignal) -> Result<(), StageError> {
        let consumer: BaseConsumer = self
            .config
            .kafka
            .reader_config(DECISION_GROUP)
            .create()
            .map_err(StageError::kafka("creating a client"))?;
        let copies = self.copies();
        let mut rest = copies.iter().cycle();
        loop {
            let began = Instant::now();
            self.watch_partitions(&consumer);
            for copy in rest.by_ref().take(copies.len()) {
                if stop.is_requested() || began.elapsed() > PASS_TIMEOUT {
                    break;
                }
                copy.observe(&consumer);
            }
            if stop.wait(END_INTERVAL.saturating_sub(began.elapsed())) {
                return Ok(());
            }
        }
    }

    /// Returns the copies whose freshness the ends of their topics confirm.
    fn copies(&self) -> Vec<Copied<'_>> {
        let (state, topics) = (&self.state, &self.topics);
        let agents: Box<dyn Fn() -> i64> = Box::new(|| state.agents().next_offset());
        let tools: Box<dyn Fn() -> i64> = Box::new(|| state.tools().next_offset());
        let bundles: Box<dyn Fn() -> i64> = Box::new(|| state.bundles().next_offset());
        let keys: Box<dyn Fn() -> i64> = Box::new(|| state.keys().next_offset());
        let tables = [
            (&topics.agents, &state.agents_freshness, agents),
            (&topics.tools, &state.tools_freshness, tools),
            (&topics.bundles, &state.bundles_freshness, bundles),
            (&topics.keys, &state.keys_freshness, keys),
        ];
        let tables = tables.into_iter().map(|(topic, freshness, position)| Copied {
            topic,
            partition: 0,
            freshness,
            position,
        });
        let actions = (0..).zip(&state.partitions).map(|(partition, copy)| Copied {
            topic: &topics.actions,
            partition,
            freshness: &copy.freshness,
            position: Box::new(|| copy.replica().through().next_offset),
        });
        let changelog = (0..).zip(&state.partitions).map(|(partition, copy)| Copied {
            topic: &topics.changelog,
            partition,
            freshness: &copy.changelog,
            position: Box::new(|| copy.changelog_position()),
        });
        tables.chain(actions).chain(changelog).collect()
    }

    /// Compares the number of partitions of the topic of actions with the topology.
    fn watch_partitions(&self, consumer: &BaseConsumer) {
        let topic = self.topics.actions.as_str();
        let Ok(metadata) = consumer.fetch_metadata(Some(topic), END_TIMEOUT) else { return };
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        if let Some(found) = found.map(|found| found.partitions().len())
            && self.state.observe_partitions(found)
        {
            let expected = self.state.partitions.len();
            tracing::error!(
                topic,
                found,
                expected,
                "the topic has another number of partitions; no state is used; run `agentgov topology plan`"
            );
        }
    }

    /// Reports each second whether the copy is ready, also while a request for an end offset waits.
    fn report_readiness(&self, health: &Health, stop: &ShutdownSignal) {
        let metrics = FollowerMetrics::new();
        loop {
            let now = Instant::now();
            report(health, self.state.check(now));
            self.state.record_metrics(now, &metrics);
            if stop.wait(REPORT_INTERVAL) {
                return;
            }
        }
    }

    /// Calls `answer` with the session. First waits, at most `wait`, until the session includes the sequence number of
    /// `after`.
    ///
    /// # Errors
    /// If the state of the session is not known.
    pub async fn read<R>(
        &self,
        key: SessionKey<'_>,
        after: Option<After<'_>>,
        wait: Duration,
        answer: impl Fn(SessionView<'_>) -> R,
    ) -> Result<R, Unavailable> {
        self.state.read_after(key, after, wait, answer).await
    }

    /// Returns the tables, even if they are outdated.
    pub const fn tables(&self) -> Tables<'_> {
        Tables(&self.state)
    }

    /// Returns the partition of a session.
    pub fn partition_of(&self, key: SessionKey<'_>) -> i32 {
        let partitions = i32::try_from(self.state.partitions.len()).unwrap_or(i32::MAX);
        agentgov_schemas::key::partition_of(&key.to_bytes(), partitions).unwrap_or(0)
    }
}

/// Current tables of agents, tools and bundles.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'f>(&'f State);

impl Tables<'_> {
    /// Returns whether each of these tables was read to its end once.
    pub fn are_loaded(self) -> bool {
        let State { agents_freshness, tools_freshness, bundles_freshness, .. } = self.0;
        [agents_freshness, tools_freshness, bundles_freshness].iter().all(|table| table.fresh_at().is_some())
    }

    /// Calls `decide` with the kernel over the tables.
    ///
    /// # Errors
    /// If a panic may have left a table half changed.
    pub fn with_kernel<R>(self, decide: impl FnOnce(&Kernel<'_>) -> R) -> Result<R, Unavailable> {
        self.0.with_kernel(decide)
    }

    /// Calls `read` with the published keys.
    ///
    /// # Errors
    /// If their topic was not read to its end yet, or a panic may have left them half changed.
    pub fn with_keys<R>(self, read: impl FnOnce(&KeySet) -> R) -> Result<R, Unavailable> {
        self.0.with_keys(read)
    }

    /// Returns the bundle that is active in an environment.
    pub fn bundle(self, environment: &str) -> Option<Arc<Bundle>> {
        self.0.bundles().active(environment).map(Arc::clone)
    }

    /// Returns the names of a tenant's registered tools, sorted.
    pub fn tools(self, tenant_id: &str) -> Vec<String> {
        self.0.tools().names(tenant_id).map(str::to_owned).collect()
    }

    /// Returns the digest of a tool's accepted definition.
    pub fn definition(self, tenant_id: &str, tool: &str) -> Option<Digest> {
        self.0.tools().get(tenant_id, tool).and_then(|tool| tool.definition)
    }

    /// Returns the ids of a tenant's agents, sorted.
    pub fn agents(self, tenant_id: &str) -> Vec<String> {
        self.0.agents().ids(tenant_id).map(str::to_owned).collect()
    }
}

/// Sets or clears the reasons of a follower. The readers set theirs on an error; a state that is fresh is the evidence
/// that they read again, also on an idle topic.
fn report(health: &Health, checked: Result<(), Unavailable>) {
    match checked {
        Ok(()) => {
            use NotReadyReason::{Changelog, Kafka, Stale, Starting, Tables};
            [Starting, Stale, Changelog, Kafka, Tables].into_iter().for_each(|reason| health.clear(reason));
            health.record_progress(0, 0);
        }
        Err(reason) => health.set_not_ready(NotReadyReason::Stale, reason.to_string()),
    }
}

/// Copy of a partition.
struct Copied<'s> {
    topic: &'s str,
    partition: i32,
    freshness: &'s Freshness,
    /// Returns the offset of the next record to read.
    position: Box<dyn Fn() -> i64 + 's>,
}

impl Copied<'_> {
    /// Requests the end offset of the partition. Without a response the copy's age grows.
    fn observe(&self, consumer: &BaseConsumer) {
        let Self { topic, partition, .. } = *self;
        let (asked, position) = (Instant::now(), (self.position)());
        match consumer.fetch_watermarks(topic, partition, END_TIMEOUT) {
            Ok((_, end)) => {
                if self.freshness.observe_end(asked, end, position) {
                    tracing::error!(
                        topic,
                        partition,
                        end,
                        position,
                        "the partition ends before an offset that was read: it was truncated or created again; its state \
                         is not used; restore the topics, then restart the process"
                    );
                }
            }
            Err(error) => tracing::debug!(topic, partition, %error, "the end of the partition is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::KafkaError;

    use super::*;
    use crate::state::report_error;

    #[test]
    fn fresh_state_clears_each_error_of_a_reader() {
        let health = Health::new("pdp");
        let errors = [NotReadyReason::Changelog, NotReadyReason::Kafka, NotReadyReason::Tables];
        for reason in errors {
            report_error(&health, reason, "topic", &KafkaError::Canceled);
        }
        report(&health, Err(Unavailable::Loading("topic")));
        let reasons = health.snapshot().not_ready;
        assert!(errors.iter().all(|reason| reasons.contains_key(reason)), "{reasons:?}");
        assert!(reasons.contains_key(&NotReadyReason::Stale));
        report(&health, Ok(()));
        assert_eq!(health.snapshot().not_ready.len(), 0, "no reader needs another end of its topic");
    }
}
