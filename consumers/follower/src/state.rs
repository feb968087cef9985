//! State that the reader threads write and the request threads read.

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use agentgov_enrichment::{AgentTable, Session};
use agentgov_evaluator::{Replica, UndecodableRecord};
use agentgov_policy::{BundleTable, InternalError, Kernel, RequestCache};
use agentgov_schemas::event::Through;
use agentgov_schemas::key::partition_of;
use agentgov_schemas::topology::SessionLimits;
use agentgov_schemas::{NotReadyReason, SessionKey};
use agentgov_service::Health;
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
    /// True until the reader reaches the end of the changelog, and again if it has not reached the end for a long time.
    loading: RwLock<bool>,
}

impl Partition {
    pub fn replica(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the replica, and wakes the tasks that wait for a change.
    pub fn update<R>(&self, change: impl FnOnce(&mut Replica) -> R) -> R {
        let result = change(&mut self.replica.write().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    pub fn set_loading(&self, loading: bool) {
        *self.loading.write().unwrap_or_else(PoisonError::into_inner) = loading;
        self.changed.notify_waiters();
    }

    pub fn is_loading(&self) -> bool {
        *self.loading.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All partitions and tables.
#[derive(Debug)]
pub(crate) struct State {
    pub partitions: Vec<Partition>,
    agents: RwLock<AgentTable>,
    bundles: RwLock<BundleTable>,
    pub agents_freshness: Freshness,
    pub bundles_freshness: Freshness,
    pub limits: SessionLimits,
    pub agents_topic: String,
    pub bundles_topic: String,
    pub bounds: Bounds,
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
        tables: (&str, &str),
        limits: SessionLimits,
        bounds: Bounds,
    ) -> Self {
        let partition = |number| Partition {
            replica: RwLock::new(Replica::new(actions_topic, number)),
            changed: Notify::new(),
            freshness: Freshness::default(),
            loading: RwLock::new(true),
        };
        Self {
            partitions: (0..partitions).map(partition).collect(),
            agents: RwLock::default(),
            bundles: RwLock::default(),
            agents_freshness: Freshness::default(),
            bundles_freshness: Freshness::default(),
            limits,
            agents_topic: tables.0.to_owned(),
            bundles_topic: tables.1.to_owned(),
            bounds,
            requests: RequestCaches::default(),
        }
    }

    pub fn agents(&self) -> RwLockReadGuard<'_, AgentTable> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn agents_mut(&self) -> RwLockWriteGuard<'_, AgentTable> {
        self.agents.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bundles(&self) -> RwLockReadGuard<'_, BundleTable> {
        self.bundles.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bundles_mut(&self) -> RwLockWriteGuard<'_, BundleTable> {
        self.bundles.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `answer` with the session and the kernel if the session is known.
    pub fn read<R>(
        &self,
        key: SessionKey<'_>,
        after: Option<After<'_>>,
        answer: impl FnOnce(SessionView<'_>) -> R,
    ) -> Result<Option<R>, Unavailable> {
        let now = Instant::now();
        self.check_tables(now)?;
        let (number, partition) = self.partition(key)?;
        self.check_partition(now, partition)?;
        self.check_others(key, number)?;
        let requests = self.requests.take();
        let (agents, bundles) = (self.agents(), self.bundles());
        let kernel = Kernel {
            agents: &agents,
            bundles: &bundles,
            limits: self.limits,
            agents_topic: &self.agents_topic,
            bundles_topic: &self.bundles_topic,
            requests: &requests.0,
        };
        let replica = partition.replica();
        if replica.ahead_bytes() > self.bounds.max_ahead_bytes {
            let (bytes, limit) = (replica.ahead_bytes(), self.bounds.max_ahead_bytes);
            return Err(Unavailable::Behind { bytes, limit });
        }
        let undecodable = |error: UndecodableRecord| Unavailable::Internal(error.to_string());
        let session = replica.session(&kernel, key.tenant_id, key.session_id).map_err(undecodable)?;
        if after.is_some_and(|after| !session.has_seen(after.source_id, after.sequence)) {
            return Ok(None);
        }
        Ok(Some(answer(SessionView { kernel, session: &session, through: replica.through() })))
    }

    /// Calls `decide` with the kernel over the tables, whatever their age.
    pub fn with_kernel<R>(&self, decide: impl FnOnce(&Kernel<'_>) -> R) -> R {
        let requests = self.requests.take();
        let (agents, bundles) = (self.agents(), self.bundles());
        decide(&Kernel {
            agents: &agents,
            bundles: &bundles,
            limits: self.limits,
            agents_topic: &self.agents_topic,
            bundles_topic: &self.bundles_topic,
            requests: &requests.0,
        })
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

    /// Returns the reason for which no session can be read, if there is one.
    pub fn check(&self, now: Instant) -> Result<(), Unavailable> {
        self.check_tables(now)?;
        self.partitions.iter().try_for_each(|partition| self.check_partition(now, partition))
    }

    fn partition(&self, key: SessionKey<'_>) -> Result<(i32, &Partition), Unavailable> {
        let count = i32::try_from(self.partitions.len()).unwrap_or(i32::MAX);
        let number = partition_of(&key.to_bytes(), count).unwrap_or(-1);
        let partition = usize::try_from(number).ok().and_then(|index| self.partitions.get(index));
        partition.map(|partition| (number, partition)).ok_or_else(|| {
            Unavailable::Internal(format!("expected a partition of {count}, found partition {number}"))
        })
    }

    fn check_tables(&self, now: Instant) -> Result<(), Unavailable> {
        self.check_fresh(now, "governance.agents", &self.agents_freshness)?;
        self.check_fresh(now, "governance.bundles", &self.bundles_freshness)
    }

    fn check_partition(&self, now: Instant, partition: &Partition) -> Result<(), Unavailable> {
        if partition.is_loading() {
            return Err(Unavailable::Loading("the changelog of sessions"));
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
            if partition.replica().contains(key.tenant_id, key.session_id) {
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

impl From<InternalError> for Unavailable {
    fn from(error: InternalError) -> Self {
        Self::Internal(error.to_string())
    }
}
