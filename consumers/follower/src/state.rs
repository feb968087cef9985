//! State that the reader threads write and the request threads read.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use agentgov_enrichment::{AgentTable, Session, ToolTable};
use agentgov_evaluator::{Replica, UndecodableRecord};
use agentgov_policy::{BundleTable, Kernel, RequestCache};
use agentgov_schemas::event::Through;
use agentgov_schemas::key::partition_of;
use agentgov_schemas::topology::SessionLimits;
use agentgov_schemas::{NotReadyReason, SessionKey};
use agentgov_service::Health;
use agentgov_service::metrics::{CopyState, FollowerMetrics};
use agentgov_token::KeySet;
use rdkafka::error::KafkaError;
use tokio::sync::Notify;

use crate::freshness::Freshness;

/// Sequence number that a session must include before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After<'a> {
    /// The source.
    pub source_id: &'a str,
    /// The sequence number.
    pub sequence: i64,
}

/// Reason why the state of a session is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The changelog or a topic is still being read to its end.
    #[error("the state is still being read: {0}")]
    Loading(&'static str),
    /// The copy may be older than the limit.
    #[error("nothing was heard of {topic} for {} s; expected at most {} s", age.as_secs(), limit.as_secs())]
    Stale {
        /// The topic.
        topic: &'static str,
        /// Upper bound of the copy's age.
        age: Duration,
        /// Maximum age.
        limit: Duration,
    },
    /// The evaluator is behind: the records that it has not processed exceed their bound.
    #[error("the evaluator is behind: {bytes} bytes of actions wait for it; expected at most {limit}")]
    Behind {
        /// Bytes of these records.
        bytes: usize,
        /// Their bound.
        limit: usize,
    },
    /// The topic of actions has another number of partitions, so sessions are in other partitions than expected.
    #[error("the topic of actions has {found} partitions; expected {expected}; run `agentgov topology plan`")]
    OtherPartitions {
        /// The number in the topology.
        expected: usize,
        /// The number according to the brokers.
        found: i32,
    },
    /// Two partitions have records of the session, so neither has its whole state.
    #[error("session `{session_id}` has records in partitions {expected} and {found}; expected them in one")]
    TwoPartitions {
        /// The session.
        session_id: String,
        /// The partition of its key.
        expected: i32,
        /// The other partition.
        found: i32,
    },
    /// The sequence number that the caller waits for did not arrive in time.
    #[error("number {sequence} of source `{source_id}` did not arrive within {} ms", waited.as_millis())]
    NotArrived {
        /// The source.
        source_id: String,
        /// The number.
        sequence: i64,
        /// Time waited.
        waited: Duration,
    },
    /// A bug.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Unavailable {
    /// Returns the name of the reason, as `decision.made` records it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Loading(_) => "loading",
            Self::Stale { .. } => "stale",
            Self::Behind { .. } => "behind",
            Self::OtherPartitions { .. } => "other_partitions",
            Self::TwoPartitions { .. } => "two_partitions",
            Self::NotArrived { .. } => "not_arrived",
            Self::Internal(_) => "internal",
        }
    }
}

/// A session and the position of its last record, for the closure of [`State::read`].
#[derive(Clone, Copy, Debug)]
pub struct SessionView<'s> {
    /// Kernel with the current tables.
    pub kernel: Kernel<'s>,
    /// The session, empty if it is new.
    pub session: &'s Session,
    /// Position of the last record that is applied.
    pub through: Through,
    /// Reason why the table of keys may be older than the limit. No approval counts then: its key may be revoked.
    pub stale_keys: Option<&'s Unavailable>,
}

/// Name of the process in errors, as of a stage.
pub(crate) const STAGE: &str = "pdp";

/// Topics of the tables.
#[derive(Clone, Debug)]
pub(crate) struct TableTopics {
    pub agents: String,
    pub tools: String,
    pub bundles: String,
    pub keys: String,
}

/// Bounds of the copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub max_staleness: Duration,
    /// Maximum bytes of the records ahead of the evaluator, per partition.
    pub max_ahead_bytes: usize,
}

/// One partition of the topic of actions.
#[derive(Debug)]
pub(crate) struct Partition {
    replica: RwLock<Replica>,
    /// Notified after each change of the replica.
    changed: Notify,
    /// Freshness of the copy of the topic of actions.
    pub freshness: Freshness,
    /// Freshness of the copy of the changelog.
    pub changelog: Freshness,
    /// Offset of the next entry of the changelog to read.
    changelog_position: AtomicI64,
    /// True until the reader reaches the end of the changelog, and again if it has not reached the end for a long time.
    loading: AtomicBool,
    was_loaded: AtomicBool,
}

impl Partition {
    fn new(actions_topic: &str, number: i32) -> Self {
        Self {
            replica: RwLock::new(Replica::new(actions_topic, number)),
            changed: Notify::new(),
            freshness: Freshness::default(),
            changelog: Freshness::default(),
            changelog_position: AtomicI64::new(0),
            loading: AtomicBool::new(true),
            was_loaded: AtomicBool::new(false),
        }
    }

    /// Returns the replica for positions and gauges. Its sessions may be inconsistent after a panic.
    pub fn replica(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the replica for reads of its sessions.
    fn sound_replica(&self) -> Result<RwLockReadGuard<'_, Replica>, Unavailable> {
        let panicked =
            |_| Unavailable::Internal("a thread panicked while it changed the sessions".to_owned());
        self.replica.read().map_err(panicked)
    }

    /// Changes the replica, and wakes the tasks that wait for a change.
    pub fn update<R>(&self, change: impl FnOnce(&mut Replica) -> R) -> R {
        let result = change(&mut self.replica.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    pub fn set_loading(&self, loading: bool) {
        if !loading {
            self.was_loaded.store(true, Ordering::SeqCst);
        }
        self.loading.store(loading, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub fn is_loading(&self) -> bool {
        self.loading.load(Ordering::SeqCst)
    }

    /// Returns true once the changelog has been read to its end.
    pub fn was_loaded(&self) -> bool {
        self.was_loaded.load(Ordering::SeqCst)
    }

    pub fn changelog_position(&self) -> i64 {
        self.changelog_position.load(Ordering::SeqCst)
    }

    pub fn set_changelog_position(&self, next_offset: i64) {
        self.changelog_position.store(next_offset, Ordering::SeqCst);
    }
}

/// All partitions and tables.
#[derive(Debug)]
pub(crate) struct State {
    pub partitions: Vec<Partition>,
    agents: RwLock<AgentTable>,
    tools: RwLock<ToolTable>,
    bundles: RwLock<BundleTable>,
    keys: RwLock<KeySet>,
    pub agents_freshness: Freshness,
    pub tools_freshness: Freshness,
    pub bundles_freshness: Freshness,
    pub keys_freshness: Freshness,
    pub limits: SessionLimits,
    pub topics: TableTopics,
    pub bounds: Bounds,
    /// Number of partitions of the topic of actions according to the brokers, if it is not the expected one; otherwise 0.
    other_partitions: AtomicI32,
    requests: RequestCaches,
}

/// Unused request caches. A cache serves one thread at a time.
#[derive(Debug, Default)]
struct RequestCaches(Mutex<Vec<RequestCache>>);

/// A cache in use. Returns to the pool when dropped.
struct LentCache<'c>(RequestCache, &'c RequestCaches);

impl RequestCaches {
    fn take(&self) -> LentCache<'_> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        LentCache(cache.unwrap_or_default(), self)
    }
}

impl Drop for LentCache<'_> {
    fn drop(&mut self) {
        let cache = std::mem::take(&mut self.0);
        self.1.0.lock().unwrap_or_else(PoisonError::into_inner).push(cache);
    }
}

impl State {
    pub fn new(
        actions_topic: &str,
        partitions: i32,
        topics: TableTopics,
        limits: SessionLimits,
        bounds: Bounds,
    ) -> Self {
        Self {
            partitions: (0..partitions).map(|number| Partition::new(actions_topic, number)).collect(),
            agents: RwLock::default(),
            tools: RwLock::default(),
            bundles: RwLock::default(),
            keys: RwLock::default(),
            agents_freshness: Freshness::default(),
            tools_freshness: Freshness::default(),
            bundles_freshness: Freshness::default(),
            keys_freshness: Freshness::default(),
            limits,
            topics,
            bounds,
            other_partitions: AtomicI32::new(0),
            requests: RequestCaches::default(),
        }
    }

    pub fn agents(&self) -> RwLockReadGuard<'_, AgentTable> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn agents_mut(&self) -> RwLockWriteGuard<'_, AgentTable> {
        self.agents.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tools(&self) -> RwLockReadGuard<'_, ToolTable> {
        self.tools.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tools_mut(&self) -> RwLockWriteGuard<'_, ToolTable> {
        self.tools.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bundles(&self) -> RwLockReadGuard<'_, BundleTable> {
        self.bundles.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bundles_mut(&self) -> RwLockWriteGuard<'_, BundleTable> {
        self.bundles.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keys(&self) -> RwLockReadGuard<'_, KeySet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keys_mut(&self) -> RwLockWriteGuard<'_, KeySet> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `read` with the published keys, whatever their age: a token counts by the keys that the evaluator knows.
    pub fn with_keys<R>(&self, read: impl FnOnce(&KeySet) -> R) -> Result<R, Unavailable> {
        if self.keys_freshness.fresh_at().is_none() {
            return Err(Unavailable::Loading("governance.keys"));
        }
        let panicked = |_| Unavailable::Internal("a thread panicked while it changed the keys".to_owned());
        self.keys.read().map(|keys| read(&keys)).map_err(panicked)
    }

    /// Calls `answer` with the session and the kernel if the session is known.
    pub fn read<R>(
        &self,
        key: SessionKey<'_>,
        after: Option<After<'_>>,
        answer: impl FnOnce(SessionView<'_>) -> R,
    ) -> Result<Option<R>, Unavailable> {
        let now = Instant::now();
        self.check_all(now)?;
        let (number, partition) = self.partition(key)?;
        self.check_others(key, number)?;
        let requests = self.requests.take();
        let (agents, tools) = (self.agents(), self.tools());
        let (bundles, keys) = (self.bundles(), self.keys());
        let kernel = self.kernel((&agents, &tools, &bundles, &keys), &requests.0);
        // Checked while the replica is locked: a partition is set to loading before its replica changes.
        let replica = partition.sound_replica()?;
        self.check_partition(now, partition, &replica)?;
        if after.is_some_and(|after| {
            !replica.may_have_seen(key.tenant_id, key.session_id, after.source_id, after.sequence)
        }) {
            return Ok(None);
        }
        let undecodable = |error: UndecodableRecord| Unavailable::Internal(error.to_string());
        let session = replica.session(&kernel, key.tenant_id, key.session_id).map_err(undecodable)?;
        if after.is_some_and(|after| !session.has_seen(after.source_id, after.sequence)) {
            return Ok(None);
        }
        let stale_keys = self.check_fresh(now, "governance.keys", &self.keys_freshness).err();
        let through = replica.through();
        Ok(Some(answer(SessionView { kernel, session: &session, through, stale_keys: stale_keys.as_ref() })))
    }

    /// Calls `decide` with the kernel over the tables, whatever their age.
    pub fn with_kernel<R>(&self, decide: impl FnOnce(&Kernel<'_>) -> R) -> Result<R, Unavailable> {
        self.check_tables()?;
        let requests = self.requests.take();
        let (agents, tools) = (self.agents(), self.tools());
        let (bundles, keys) = (self.bundles(), self.keys());
        Ok(decide(&self.kernel((&agents, &tools, &bundles, &keys), &requests.0)))
    }

    /// Returns an error if a panic may have left a table half changed.
    fn check_tables(&self) -> Result<(), Unavailable> {
        let is_poisoned = self.agents.is_poisoned()
            || self.tools.is_poisoned()
            || self.bundles.is_poisoned()
            || self.keys.is_poisoned();
        if is_poisoned {
            return Err(Unavailable::Internal("a thread panicked while it changed a table".to_owned()));
        }
        Ok(())
    }

    fn kernel<'k>(
        &'k self,
        (agents, tools, bundles, keys): (&'k AgentTable, &'k ToolTable, &'k BundleTable, &'k KeySet),
        requests: &'k RequestCache,
    ) -> Kernel<'k> {
        Kernel {
            agents,
            tools,
            bundles,
            keys,
            limits: self.limits,
            agents_topic: &self.topics.agents,
            tools_topic: &self.topics.tools,
            bundles_topic: &self.topics.bundles,
            requests,
        }
    }

    /// Like [`Self::read`], once the session includes the sequence number of `after`.
    pub async fn read_after<R>(
        &self,
        key: SessionKey<'_>,
        after: Option<After<'_>>,
        wait: Duration,
        answer: impl Fn(SessionView<'_>) -> R,
    ) -> Result<R, Unavailable> {
        let began = Instant::now();
        let (_, partition) = self.partition(key)?;
        loop {
            // Registered before the state is read, so that no change is missed.
            let changed = partition.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(result) = self.read(key, after, &answer)? {
                return Ok(result);
            }
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() || tokio::time::timeout(left, changed).await.is_err() {
                let After { source_id, sequence } = after.unwrap_or(After { source_id: "", sequence: -1 });
                return Err(Unavailable::NotArrived {
                    source_id: source_id.to_owned(),
                    sequence,
                    waited: wait,
                });
            }
        }
    }

    /// Returns the reason for which a session cannot be read, if there is one.
    pub fn check(&self, now: Instant) -> Result<(), Unavailable> {
        self.check_all(now)?;
        self.partitions.iter().try_for_each(|partition| {
            let replica = partition.sound_replica()?;
            self.check_partition(now, partition, &replica)
        })
    }

    pub fn partition_at(&self, number: i32) -> Option<&Partition> {
        usize::try_from(number).ok().and_then(|index| self.partitions.get(index))
    }

    /// Records the number of partitions of the topic of actions. Returns true if it is a new unexpected number.
    pub fn observe_partitions(&self, found: usize) -> bool {
        let found = if found == self.partitions.len() { 0 } else { i32::try_from(found).unwrap_or(i32::MAX) };
        self.other_partitions.swap(found, Ordering::SeqCst) != found && found != 0
    }

    /// Records the state of each partition's copy, and the active bundles.
    pub fn record_metrics(&self, now: Instant, metrics: &FollowerMetrics) {
        let mut sessions = 0;
        for (number, partition) in (0..).zip(&self.partitions) {
            let replica = partition.replica();
            sessions += replica.base_sessions();
            metrics.record_copy(
                number,
                &CopyState {
                    is_known: self.check_partition(now, partition, &replica).is_ok(),
                    behind: partition.freshness.end().map(|end| end - replica.through().next_offset),
                    age: partition.freshness.fresh_at().map(|at| now.saturating_duration_since(at)),
                    ahead_bytes: replica.ahead_bytes(),
                },
            );
        }
        metrics.record_sessions(sessions);
        let bundles = self.bundles();
        metrics.record_bundles(bundles.all_active().map(|(of, bundle)| (of, bundle.digest().to_string())));
    }

    fn partition(&self, key: SessionKey<'_>) -> Result<(i32, &Partition), Unavailable> {
        let count = i32::try_from(self.partitions.len()).unwrap_or(i32::MAX);
        let number = partition_of(&key.to_bytes(), count).unwrap_or(-1);
        self.partition_at(number).map(|partition| (number, partition)).ok_or_else(|| {
            Unavailable::Internal(format!("expected a partition of {count}, found partition {number}"))
        })
    }

    /// Returns the reason for which no session can be read, if there is one.
    fn check_all(&self, now: Instant) -> Result<(), Unavailable> {
        let found = self.other_partitions.load(Ordering::SeqCst);
        if found != 0 {
            return Err(Unavailable::OtherPartitions { expected: self.partitions.len(), found });
        }
        // A partition that was never loaded may have records of any session.
        if !self.partitions.iter().all(Partition::was_loaded) {
            return Err(Unavailable::Loading("the changelog of sessions"));
        }
        self.check_tables()?;
        self.check_fresh(now, "governance.agents", &self.agents_freshness)?;
        self.check_fresh(now, "governance.tools", &self.tools_freshness)?;
        self.check_fresh(now, "governance.bundles", &self.bundles_freshness)
    }

    fn check_partition(
        &self,
        now: Instant,
        partition: &Partition,
        replica: &Replica,
    ) -> Result<(), Unavailable> {
        if partition.is_loading() {
            return Err(Unavailable::Loading("the changelog of sessions"));
        }
        // Before the age: the reader of a partition that is behind is paused, so its copy becomes stale as well.
        let (bytes, limit) = (replica.ahead_bytes(), self.bounds.max_ahead_bytes);
        if bytes > limit {
            return Err(Unavailable::Behind { bytes, limit });
        }
        self.check_fresh(now, "agent.actions", &partition.freshness)
    }

    fn check_fresh(
        &self,
        now: Instant,
        topic: &'static str,
        freshness: &Freshness,
    ) -> Result<(), Unavailable> {
        let Some(fresh_at) = freshness.fresh_at() else { return Err(Unavailable::Loading(topic)) };
        let age = now.saturating_duration_since(fresh_at);
        let limit = self.bounds.max_staleness;
        if age > limit { Err(Unavailable::Stale { topic, age, limit }) } else { Ok(()) }
    }

    /// Returns an error if another partition has records of the session: a producer with another partitioner wrote
    /// them.
    fn check_others(&self, key: SessionKey<'_>, expected: i32) -> Result<(), Unavailable> {
        let others = (0..).zip(&self.partitions).filter(|(number, _)| *number != expected);
        for (found, partition) in others {
            if partition.sound_replica()?.contains(key.tenant_id, key.session_id) {
                let session_id = key.session_id.to_owned();
                return Err(Unavailable::TwoPartitions { session_id, expected, found });
            }
        }
        Ok(())
    }
}

/// Sets the reason of a reader whose client reports an error. A later report clears it once the state is fresh.
pub(crate) fn report_error(health: &Health, reason: NotReadyReason, topic: &str, error: &KafkaError) {
    health.set_not_ready(reason, format!("reading {topic}: {error}"));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentgov_evaluator::Action;
    use agentgov_schemas::event::{ActionEvent, Agent, Source};
    use agentgov_schemas::topology::HumanDuration;
    use agentgov_schemas::wire::{self, Schema, SchemaId};
    use agentgov_schemas::{Millis, RecordEncoder, subject};

    use super::*;

    fn state(max_ahead_bytes: usize) -> State {
        let ttl = HumanDuration(Duration::from_secs(60));
        let limits = SessionLimits { ttl, max_facts: 10, max_bytes: 1000 };
        let bounds = Bounds { max_staleness: Duration::from_secs(10), max_ahead_bytes };
        let [agents, tools, bundles, keys] = ["agents", "tools", "bundles", "keys"].map(str::to_owned);
        State::new("actions", 2, TableTopics { agents, tools, bundles, keys }, limits, bounds)
    }

    fn loaded(now: Instant) -> State {
        let state = state(1000);
        let partitions = state.partitions.iter();
        partitions.clone().for_each(|partition| partition.set_loading(false));
        let freshness = partitions.map(|p| &p.freshness).chain([
            &state.agents_freshness,
            &state.tools_freshness,
            &state.bundles_freshness,
        ]);
        freshness.for_each(|freshness| {
            freshness.observe_end(now, 0, 0);
        });
        state
    }

    fn reason(state: &State, session_id: &str) -> Option<&'static str> {
        let key = SessionKey { tenant_id: "t", session_id };
        state.read(key, None, |_| ()).err().map(|reason| reason.name())
    }

    /// Returns a session of each partition.
    fn sessions(state: &State) -> [String; 2] {
        [0, 1].map(|number| {
            let is_there = |id: &String| {
                state.partition(SessionKey { tenant_id: "t", session_id: id }).unwrap().0 == number
            };
            (0..).map(|i| format!("s{i}")).find(is_there).unwrap()
        })
    }

    #[test]
    fn no_session_is_known_until_all_partitions_were_loaded_once() {
        let state = loaded(Instant::now());
        let [a, b] = sessions(&state);
        state.partitions[1].loading.store(true, Ordering::SeqCst);
        state.partitions[1].was_loaded.store(false, Ordering::SeqCst);
        assert_eq!(reason(&state, &a), Some("loading"), "partition 1 may have records of it");
        state.partitions[1].set_loading(false);
        assert_eq!((reason(&state, &a), reason(&state, &b)), (None, None));
        state.partitions[1].set_loading(true);
        assert_eq!((reason(&state, &a), reason(&state, &b)), (None, Some("loading")));
        assert!(state.check(Instant::now()).is_err());
    }

    #[test]
    fn other_number_of_partitions_is_reported_once_and_makes_every_session_unknown() {
        let state = loaded(Instant::now());
        let [a, _] = sessions(&state);
        assert!(!state.observe_partitions(2));
        assert_eq!(reason(&state, &a), None);
        assert!(state.observe_partitions(3) && !state.observe_partitions(3));
        assert_eq!(reason(&state, &a), Some("other_partitions"));
        assert!(!state.observe_partitions(2));
        assert_eq!(reason(&state, &a), None);
    }

    #[test]
    fn view_with_an_old_table_of_keys_says_so() {
        let now = Instant::now();
        let state = loaded(now);
        let key = SessionKey { tenant_id: "t", session_id: "s" };
        let stale = || {
            let read = state.read(key, None, |view| view.stale_keys.map(Unavailable::name));
            read.unwrap().unwrap()
        };
        assert_eq!(stale(), Some("loading"));
        if let Some(long_ago) = now.checked_sub(Duration::from_secs(11)) {
            state.keys_freshness.observe_end(long_ago, 0, 0);
            assert_eq!(stale(), Some("stale"));
        }
        state.keys_freshness.observe_end(now, 0, 0);
        assert_eq!(stale(), None);
    }

    #[test]
    fn sessions_of_a_poisoned_replica_are_unknown() {
        let state = loaded(Instant::now());
        let [a, b] = sessions(&state);
        let panics = || state.partitions[0].update(|_| panic!("a bug"));
        assert!(std::thread::scope(|scope| scope.spawn(panics).join()).is_err());
        assert_eq!((reason(&state, &a), reason(&state, &b)), (Some("internal"), Some("internal")));
        assert_eq!(state.check(Instant::now()).unwrap_err().name(), "internal");
    }

    #[test]
    fn tables_that_a_panic_left_half_changed_decide_nothing() {
        for poison in [
            (|state: &State| {
                let _table = state.agents_mut();
                panic!("a bug")
            }) as fn(&State),
            |state| {
                let _table = state.bundles_mut();
                panic!("a bug")
            },
        ] {
            let state = loaded(Instant::now());
            assert_eq!(state.with_kernel(|_| ()), Ok(()));
            assert!(std::thread::scope(|scope| scope.spawn(|| poison(&state)).join()).is_err());
            assert_eq!(state.with_kernel(|_| ()).map_err(|reason| reason.name()), Err("internal"));
            assert_eq!(reason(&state, "s"), Some("internal"));
        }
    }

    #[test]
    fn partition_of_a_paused_reader_is_behind_although_its_copy_is_stale() {
        let now = Instant::now();
        let state = loaded(now);
        let [a, b] = sessions(&state);
        let key = SessionKey { tenant_id: "t", session_id: &a };
        let source = Source { id: &"s".repeat(1000), sequence: 0 };
        let event = ActionEvent::new("e", "user.input", key, source, Agent::new("a"));
        let encoded =
            RecordEncoder::<ActionEvent<'static>>::new(SchemaId(1)).unwrap().encode(&event).unwrap();
        let (schema_id, datum) = wire::split(&encoded).unwrap();
        let schema = Arc::new(Schema::parse(subject::ACTION_EVENT.latest()).unwrap());
        let action = Action { offset: 0, logged_at: Millis(1), schema_id, schema: &schema, datum };
        state.partitions[0].update(|replica| replica.push(&action)).unwrap();
        assert_eq!((reason(&state, &a), reason(&state, &b)), (Some("behind"), None));
        let later = now + Duration::from_secs(11);
        let partition = &state.partitions[0];
        let found = state.check_partition(later, partition, &partition.replica());
        assert_eq!(found.unwrap_err().name(), "behind");
        let partition = &state.partitions[1];
        let found = state.check_partition(later, partition, &partition.replica());
        assert_eq!(found.unwrap_err().name(), "stale");
    }
}
