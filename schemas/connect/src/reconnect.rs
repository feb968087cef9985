//! Watchdog that re-adds the bootstrap brokers to librdkafka clients that no longer know any broker.
//!
//! A broker that was paused for longer than its session is fenced when it resumes, and reports for a moment that the cluster has no
//! brokers. librdkafka (at least 2.10 to 2.13, its issue 5301) then removes every broker, including the bootstrap servers, and may
//! never send a request again: a producer keeps its records, and a consumer receives none, forever.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use crate::KafkaEndpoint;

/// Interval of the checks of each client.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Consecutive checks without a broker after which the client counts as lost. A single failure may be one broken connection.
const LOST_AFTER_CHECKS: u32 = 2;
/// Consecutive checks without a broker after which the brokers are added. A broker that restarts is mostly back by then.
const ADD_AFTER_CHECKS: u32 = 5;
/// Checks between two additions of the brokers. Each addition uses memory of the client until it is dropped.
const ADD_EVERY_CHECKS: u32 = 5;

/// Kafka client that the watchdog checks.
pub trait BrokerClient: Send + Sync {
    /// Returns true if the client has no broker that it could ask about `topic`.
    fn has_no_broker(&self, topic: &str) -> bool;
    /// Adds brokers to the client.
    fn add_brokers(&self, brokers: &CStr);
}

impl<C: ConsumerContext> BrokerClient for BaseConsumer<C> {
    fn has_no_broker(&self, topic: &str) -> bool {
        has_no_broker(self.client(), topic)
    }

    fn add_brokers(&self, brokers: &CStr) {
        add_brokers(self.client(), brokers);
    }
}

impl<C: ProducerContext> BrokerClient for BaseProducer<C> {
    fn has_no_broker(&self, topic: &str) -> bool {
        has_no_broker(self.client(), topic)
    }

    fn add_brokers(&self, brokers: &CStr) {
        add_brokers(self.client(), brokers);
    }
}

/// Entry of a client that the watchdog checks.
#[derive(Clone)]
struct WatchedClient {
    client: Weak<dyn BrokerClient>,
    topic: String,
    brokers: CString,
    liveness: BrokerLiveness,
}

/// Result of the last checks of a client. librdkafka's event that all brokers are down does not occur in every such case.
#[derive(Clone, Debug, Default)]
pub struct BrokerLiveness {
    /// Consecutive checks that found no broker.
    failed_checks: Arc<AtomicU32>,
}

impl BrokerLiveness {
    /// Returns true if the client has had no broker for some seconds.
    pub fn is_lost(&self) -> bool {
        self.failed_checks.load(Ordering::Relaxed) >= LOST_AFTER_CHECKS
    }

    /// Records that the client has received a response from a broker.
    pub fn record_response(&self) {
        self.failed_checks.store(0, Ordering::Relaxed);
    }

    /// Returns the state of a client without a broker, for tests.
    pub fn lost() -> Self {
        Self { failed_checks: Arc::new(AtomicU32::new(LOST_AFTER_CHECKS)) }
    }
}

static WATCHED: Mutex<Vec<WatchedClient>> = Mutex::new(Vec::new());

/// Adds `client`, which reads or writes `topic`, to the watchdog, a thread that all clients share, until the client is dropped.
/// Returns the results of the checks. If the thread cannot be started, logs an error; the client works without the watchdog.
pub fn spawn_reconnect_watchdog<T: BrokerClient + 'static>(
    kafka: &KafkaEndpoint,
    topic: &str,
    client: &Arc<T>,
) -> BrokerLiveness {
    let liveness = BrokerLiveness::default();
    // An address with a zero byte is invalid, and the client never connects.
    let Ok(brokers) = CString::new(kafka.bootstrap.as_str()) else { return liveness };
    let client: Arc<dyn BrokerClient> = Arc::<T>::clone(client);
    let mut watched = lock();
    if watched.is_empty()
        && let Err(error) = thread::Builder::new().name("kafka-reconnect".into()).spawn(check_clients)
    {
        tracing::error!(%error, "cannot start the reconnect watchdog; clients that lose every broker do not recover");
        return liveness;
    }
    let client = Arc::downgrade(&client);
    watched.push(WatchedClient { client, topic: topic.to_owned(), brokers, liveness: liveness.clone() });
    liveness
}

/// Checks the clients until all are dropped.
fn check_clients() {
    loop {
        thread::sleep(CHECK_INTERVAL);
        let present = {
            let mut watched = lock();
            watched.retain(|entry| entry.client.strong_count() > 0);
            if watched.is_empty() {
                return;
            }
            watched.clone()
        };
        for WatchedClient { client, topic, brokers, liveness } in present {
            // Outside of the lock, since a client may take long.
            let Some(present) = client.upgrade() else { continue };
            let has_no_broker = present.has_no_broker(&topic);
            let failed = if has_no_broker {
                liveness.failed_checks.load(Ordering::Relaxed).saturating_add(1)
            } else {
                0
            };
            liveness.failed_checks.store(failed, Ordering::Relaxed);
            if must_add_brokers(failed) {
                present.add_brokers(&brokers);
            }
        }
    }
}

/// Returns true if the brokers must be added after this number of consecutive checks without a broker.
const fn must_add_brokers(failed: u32) -> bool {
    failed >= ADD_AFTER_CHECKS && (failed - ADD_AFTER_CHECKS).is_multiple_of(ADD_EVERY_CHECKS)
}

fn lock() -> MutexGuard<'static, Vec<WatchedClient>> {
    // No code panics while it holds the lock.
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_no_broker<C: ClientContext>(client: &Client<C>, topic: &str) -> bool {
    // The response is irrelevant, so the timeout is short; without a broker the error is another one, and immediate.
    let asked = client.fetch_metadata(Some(topic), Duration::from_millis(1));
    asked.is_err_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure))
}

/// Calls librdkafka directly, since rust-rdkafka has no binding for adding brokers.
#[allow(
    unsafe_code,
    reason = "one call of librdkafka's API that takes a live client and a string that ends with zero"
)]
fn add_brokers<C: ClientContext>(client: &Client<C>, brokers: &CStr) {
    // SAFETY: the client lives as long as the borrow; the string is copied before the call returns; brokers may be added
    // from any thread at any time (rdkafka.h).
    let known = unsafe { rdkafka::bindings::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    tracing::info!(known, "kafka: no known broker; added the bootstrap servers again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::producer::DefaultProducerContext;

    #[test]
    fn brokers_are_added_after_five_checks_and_every_five_more() {
        let due: Vec<_> = (0..15).filter(|failed| must_add_brokers(*failed)).collect();
        assert_eq!(due, [5, 10]);
    }

    #[test]
    fn client_without_a_broker_is_found_and_accepts_brokers() {
        // A port without a listener.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let kafka = KafkaEndpoint::at(free.to_string());
        let client: BaseProducer<DefaultProducerContext> =
            kafka.client_config().create_with_context(DefaultProducerContext).unwrap();
        assert!(client.has_no_broker("t"));
        client.add_brokers(c"127.0.0.1:1");
    }
}
