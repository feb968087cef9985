//! Cache of writers' schemas by id. An unknown id is cached briefly, an outage never. The cache regularly compares its
//! ids with the schema registry: a schema registry that has lost its data assigns the same ids to other schemas.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use agentgov_connect::{SchemaRegistry, SchemaRegistryError};
use agentgov_schemas::NotReadyReason;
use agentgov_schemas::wire::{Schema, SchemaId};

use agentgov_service::backoff::Backoff;
use agentgov_service::{Health, ShutdownSignal, StageError};

/// Interval at which the cache compares its ids with the schema registry.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Time for which an unknown id is cached. It limits a flood of records with one unknown id to ten requests a second. A
/// producer registers its schema before it publishes. The cached answer is therefore wrong only if a bad record had
/// used the id that the registry assigns next, or if a replica of the registry lags; then the records of this interval
/// are rejected.
const UNKNOWN_TTL: Duration = Duration::from_millis(100);
/// Limit of the ids that are cached as unknown.
const MAX_UNKNOWN: usize = 1000;
/// Maximum number of requests about unknown ids per [`LIMIT_WINDOW`]. Further records with unknown ids wait, since a
/// rejection without a request could reject a record with a new schema. A local schema registry answers some 500
/// requests a second.
const MAX_UNKNOWN_ANSWERS: u32 = 200;
const LIMIT_WINDOW: Duration = Duration::from_secs(1);

/// Schemas that a thread has looked up. Each thread has its own cache, so it needs no lock.
#[derive(Debug)]
pub struct SchemaCache {
    registry: Arc<SchemaRegistry>,
    known: HashMap<SchemaId, Arc<Schema>>,
    /// Unknown ids, each with its expiry and the registry's answer.
    unknown: HashMap<SchemaId, (Instant, String)>,
    next_recheck: Instant,
    recheck_results: Option<Receiver<(SchemaId, Result<Schema, SchemaRegistryError>)>>,
    /// True if the running comparison has found an id that the registry no longer has.
    any_missing: bool,
    /// True if the last comparison has. Other caches of the process may report the same reason.
    was_missing: bool,
    unknown_limit: UnknownLimit,
}

/// Limits the rate of requests for unknown ids, however many of them records contain.
#[derive(Debug)]
struct UnknownLimit {
    since: Instant,
    answers: u32,
}

impl UnknownLimit {
    const fn new(now: Instant) -> Self {
        Self { since: now, answers: 0 }
    }

    /// Returns the time that the next request must wait; zero if it need not wait.
    fn pause(&mut self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.since);
        if age >= LIMIT_WINDOW {
            *self = Self::new(now);
        }
        if self.answers < MAX_UNKNOWN_ANSWERS { Duration::ZERO } else { LIMIT_WINDOW.saturating_sub(age) }
    }
}

/// Result of a schema lookup.
#[derive(Clone, Debug)]
pub enum SchemaLookup {
    /// The registry has the schema.
    Known(Arc<Schema>),
    /// The registry has no such id, or its content is not an Avro schema; the text says which.
    Unknown(String),
    /// Shutdown was requested during the wait for the registry.
    Stopped,
}

impl SchemaCache {
    /// Creates an empty cache over `registry`.
    pub fn new(registry: SchemaRegistry) -> Self {
        let next_recheck = Instant::now() + RECHECK_INTERVAL;
        Self {
            registry: Arc::new(registry),
            known: HashMap::new(),
            unknown: HashMap::new(),
            next_recheck,
            recheck_results: None,
            any_missing: false,
            was_missing: false,
            unknown_limit: UnknownLimit::new(Instant::now()),
        }
    }

    /// Returns the schema of `id`. During an outage of the registry, or while its answers are invalid, it waits, not
    /// ready, until the registry recovers or `stop` is requested: an outage never rejects a record.
    pub fn get(&mut self, id: SchemaId, health: &Health, stop: &ShutdownSignal) -> SchemaLookup {
        if let Some(schema) = self.known.get(&id) {
            return SchemaLookup::Known(Arc::clone(schema));
        }
        if let Some((until, why)) = self.unknown.get(&id)
            && Instant::now() < *until
        {
            return SchemaLookup::Unknown(why.clone());
        }
        let pause = self.unknown_limit.pause(Instant::now());
        if !pause.is_zero() && stop.wait(pause) {
            return SchemaLookup::Stopped;
        }
        self.fetch(id, health, stop)
    }

    /// Returns the schema of `id` without the cache of unknown ids: for entries of global tables, which are read once.
    pub fn get_uncached(&mut self, id: SchemaId, health: &Health, stop: &ShutdownSignal) -> SchemaLookup {
        match self.known.get(&id) {
            Some(schema) => SchemaLookup::Known(Arc::clone(schema)),
            None => self.fetch(id, health, stop),
        }
    }

    fn fetch(&mut self, id: SchemaId, health: &Health, stop: &ShutdownSignal) -> SchemaLookup {
        let mut backoff = Backoff::default();
        loop {
            let registry = Arc::clone(&self.registry);
            let late = || {
                health.set_not_ready(
                    NotReadyReason::Registry,
                    "the schema registry has accepted a request and has not responded",
                )
            };
            match stop.run_cancellable(late, move || registry.schema(id)) {
                None => return SchemaLookup::Stopped,
                Some(Ok(schema)) => {
                    health.clear(NotReadyReason::Registry);
                    let schema = Arc::new(schema);
                    self.known.insert(id, Arc::clone(&schema));
                    self.unknown.remove(&id);
                    return SchemaLookup::Known(schema);
                }
                Some(Err(error)) if error.is_about_the_id() => {
                    health.clear(NotReadyReason::Registry);
                    let why = error.to_string();
                    self.remember_unknown(id, &why);
                    return SchemaLookup::Unknown(why);
                }
                Some(Err(error)) => {
                    health.set_not_ready(NotReadyReason::Registry, error.to_string());
                    if stop.wait(backoff.pause()) {
                        return SchemaLookup::Stopped;
                    }
                }
            }
        }
    }

    fn remember_unknown(&mut self, id: SchemaId, why: &str) {
        let now = Instant::now();
        self.unknown_limit.answers = self.unknown_limit.answers.saturating_add(1);
        if self.unknown.len() >= MAX_UNKNOWN {
            self.unknown.retain(|_, (until, _)| now < *until);
        }
        if self.unknown.len() < MAX_UNKNOWN {
            self.unknown.insert(id, (now + UNKNOWN_TTL, why.to_owned()));
        }
    }

    /// Compares the cached ids with the registry at each interval, without waiting for it. The loop calls it often. A
    /// registry that is unavailable, or has lost an id, is not an error yet.
    ///
    /// # Errors
    /// Fails if an id has another schema now: records written since may have been misread.
    pub fn recheck(&mut self, stage: &str, health: &Health) -> Result<(), StageError> {
        if let Some(answers) = &self.recheck_results {
            loop {
                match answers.try_recv() {
                    Ok((id, Ok(found))) => {
                        let known = self.known.get(&id).map(|schema| schema.fingerprint().0);
                        if let Some(known) = known.filter(|known| *known != found.fingerprint().0) {
                            let found = found.fingerprint().0;
                            return Err(StageError::OtherRegistry {
                                stage: stage.to_owned(),
                                id: id.0,
                                known,
                                found,
                            });
                        }
                    }
                    Ok((_, Err(error))) if error.is_about_the_id() => {
                        self.any_missing = true;
                        health.set_not_ready(
                            NotReadyReason::SchemaId,
                            format!("{error}; this process has read that schema before: check whether the schema registry has lost its data"),
                        );
                    }
                    Ok((id, Err(error))) => {
                        tracing::debug!(stage, id = id.0, %error, "could not compare the schema id with the schema registry")
                    }
                    Err(TryRecvError::Empty) => return Ok(()),
                    Err(TryRecvError::Disconnected) => break,
                }
            }
            let is_missing = std::mem::take(&mut self.any_missing);
            if std::mem::replace(&mut self.was_missing, is_missing) && !is_missing {
                health.clear(NotReadyReason::SchemaId);
            }
            self.recheck_results = None;
            self.next_recheck = Instant::now() + RECHECK_INTERVAL;
        } else if Instant::now() >= self.next_recheck && !self.known.is_empty() {
            let (send, answers) = channel();
            let (registry, ids) =
                (Arc::clone(&self.registry), self.known.keys().copied().collect::<Vec<_>>());
            // Ends when the receiver is gone, or at the first error.
            let recheck_ids = move || {
                ids.into_iter().map(|id| (id, registry.schema(id))).all(|answer| {
                    let is_ok = answer.1.is_ok();
                    send.send(answer).is_ok() && is_ok
                })
            };
            self.next_recheck = Instant::now() + RECHECK_INTERVAL;
            let spawned = std::thread::Builder::new().name("schemas".into()).spawn(recheck_ids);
            self.recheck_results = spawned.is_ok().then_some(answers);
        }
        Ok(())
    }

    /// Returns the id under which `schema` is registered for `subject`, for a stage that writes it.
    pub fn id_for_writing(
        &self,
        subject: &str,
        schema: &Schema,
        health: &Health,
        stop: &ShutdownSignal,
    ) -> Result<SchemaId, StageError> {
        let (registry, named, text) =
            (Arc::clone(&self.registry), subject.to_owned(), schema.text().to_owned());
        let late = || {
            health.set_not_ready(
                NotReadyReason::Dependency,
                "the schema registry has accepted a request and has not responded",
            )
        };
        let unavailable = |message| StageError::Unavailable { what: "schema registry".into(), message };
        match stop.run_cancellable(late, move || registry.id_of(&named, &text)) {
            None => Err(unavailable("shutdown was requested before it responded".to_owned())),
            Some(Ok(Some(id))) => Ok(id),
            Some(Ok(None)) => Err(StageError::Config(format!(
                "schema registry: expected subject {subject} to hold the schema that this build writes, found other versions or none; run `agentgov topology apply`"
            ))),
            Some(Err(error @ SchemaRegistryError::Unavailable { .. })) => Err(unavailable(error.to_string())),
            Some(Err(error)) => Err(StageError::Config(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use agentgov_connect::SchemaRegistryEndpoint;

    use super::*;

    /// Serves these answers, one per connection.
    fn registry(answers: Vec<(u16, String)>) -> SchemaRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        SchemaRegistry::new(&SchemaRegistryEndpoint::at(url)).unwrap()
    }

    fn schema(text: &str) -> String {
        serde_json::json!({ "schema": text }).to_string()
    }

    fn unknown() -> String {
        serde_json::json!({ "error_code": 40403, "message": "Schema not found" }).to_string()
    }

    #[test]
    fn different_unknown_ids_are_requested_at_a_limited_rate() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut limit = UnknownLimit::new(start);
        limit.answers = MAX_UNKNOWN_ANSWERS - 1;
        assert_eq!(limit.pause(at(900)), Duration::ZERO);
        limit.answers += 1;
        assert_eq!(limit.pause(at(900)), Duration::from_millis(100));
        assert_eq!((limit.pause(at(1000)), limit.answers), (Duration::ZERO, 0), "the next second");

        let (health, stop) = (Health::new("test"), ShutdownSignal::default());
        let mut schemas = SchemaCache::new(registry(vec![(404, unknown()), (200, schema(r#""string""#))]));
        assert!(matches!(schemas.get(SchemaId(1), &health, &stop), SchemaLookup::Unknown(_)));
        assert_eq!(schemas.unknown_limit.answers, 1);
        assert!(matches!(schemas.get(SchemaId(2), &health, &stop), SchemaLookup::Known(_)));
        assert_eq!(schemas.unknown_limit.answers, 1, "an id that is known costs nothing");
        let since = Instant::now() + Duration::from_hours(1);
        schemas.unknown_limit = UnknownLimit { since, answers: MAX_UNKNOWN_ANSWERS };
        stop.request();
        assert!(matches!(schemas.get(SchemaId(2), &health, &stop), SchemaLookup::Known(_)), "from memory");
        assert!(matches!(schemas.get(SchemaId(3), &health, &stop), SchemaLookup::Stopped), "it waits");
    }

    #[test]
    fn registry_fault_rejects_no_record() {
        let (health, stop) = (Health::new("test"), ShutdownSignal::default());
        let faults = vec![
            (503, "starting".to_owned()),
            (401, "who are you?".to_owned()),
            (200, "<html>a proxy</html>".to_owned()),
            (200, schema(r#""string""#)),
            (404, "<html>no such page</html>".to_owned()),
            (404, unknown()),
            (200, schema("no avro")),
        ];
        let mut schemas = SchemaCache::new(registry(faults));
        assert!(matches!(schemas.get(SchemaId(1), &health, &stop), SchemaLookup::Known(_)));
        assert!(matches!(schemas.get(SchemaId(1), &health, &stop), SchemaLookup::Known(_)), "from memory");
        assert!(matches!(schemas.get(SchemaId(2), &health, &stop), SchemaLookup::Unknown(_)));
        assert!(matches!(schemas.get(SchemaId(3), &health, &stop), SchemaLookup::Unknown(_)));
        assert!(!health.snapshot().not_ready.contains_key(&NotReadyReason::Registry));
    }

    #[test]
    fn unknown_id_is_cached_briefly_and_found_once_registered() {
        let (health, stop) = (Health::new("test"), ShutdownSignal::default());
        for refused in [(404, unknown()), (200, schema("no avro"))] {
            // The answers after the cached one all know the id.
            let refused_again = refused.clone();
            let mut answers = vec![(200, schema(r#""string""#)); 2000];
            answers.splice(..1, [refused, (503, String::new())]);
            let mut schemas = SchemaCache::new(registry(answers));
            let is_known = |schemas: &mut SchemaCache| match schemas.get(SchemaId(1), &health, &stop) {
                SchemaLookup::Known(_) => true,
                SchemaLookup::Unknown(_) => false,
                SchemaLookup::Stopped => panic!("no shutdown was requested"),
            };
            assert!(!is_known(&mut schemas));
            let until = schemas.unknown[&SchemaId(1)].0;
            assert!(until <= Instant::now() + UNKNOWN_TTL);
            schemas.unknown.get_mut(&SchemaId(1)).unwrap().0 = until + Duration::from_mins(1);
            for _ in 0..1000 {
                assert!(!is_known(&mut schemas), "the registry is not asked again");
            }
            let fresh_cache =
                SchemaCache::new(registry(vec![refused_again.clone(), (200, schema(r#""string""#))]));
            for (mut schemas, found) in [(fresh_cache, [false, true])] {
                for known in found {
                    let found = schemas.get_uncached(SchemaId(1), &health, &stop);
                    assert_eq!(
                        matches!(found, SchemaLookup::Known(_)),
                        known,
                        "an entry of a global table is looked up again at once"
                    );
                }
            }
            schemas.unknown.get_mut(&SchemaId(1)).unwrap().0 = Instant::now();
            assert!(is_known(&mut schemas), "the cached answer has expired, and the outage is waited for");
            assert!(schemas.unknown.is_empty());
        }
    }

    #[test]
    fn unknown_id_cache_is_bounded() {
        let mut schemas = SchemaCache::new(registry(vec![]));
        let until = Instant::now() + Duration::from_mins(1);
        schemas.unknown.extend((0..MAX_UNKNOWN as u32).map(|id| (SchemaId(id), (until, String::new()))));
        schemas.remember_unknown(SchemaId(u32::MAX), "");
        assert!(schemas.unknown.len() == MAX_UNKNOWN && !schemas.unknown.contains_key(&SchemaId(u32::MAX)));
        schemas.unknown.values_mut().for_each(|(until, _)| *until = Instant::now());
        schemas.remember_unknown(SchemaId(u32::MAX), "");
        assert_eq!(schemas.unknown.len(), 1, "expired ids make room");
    }

    #[test]
    fn changed_id_is_an_error_and_missing_id_is_not_ready() {
        let (health, stop) = (Health::new("test"), ShutdownSignal::default());
        let answers = vec![
            (200, schema(r#""string""#)),
            (503, String::new()),
            (404, unknown()),
            (200, schema(r#""string""#)),
            (200, schema(r#""long""#)),
        ];
        let mut schemas = SchemaCache::new(registry(answers));
        assert!(matches!(schemas.get(SchemaId(1), &health, &stop), SchemaLookup::Known(_)));
        let mut rechecked = || {
            schemas.next_recheck = Instant::now();
            schemas.recheck("test", &health)?;
            while schemas.recheck_results.is_some() {
                schemas.recheck("test", &health)?;
            }
            Ok::<_, StageError>(health.snapshot().not_ready.contains_key(&NotReadyReason::SchemaId))
        };
        assert!(!rechecked().unwrap(), "an outage does not count as a missing id");
        assert!(rechecked().unwrap(), "it is gone");
        assert!(!rechecked().unwrap(), "it is back");
        assert_eq!(rechecked().unwrap_err().exit_code(), agentgov_service::ExitCode::OtherCluster);
    }
}
