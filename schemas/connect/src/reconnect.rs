//! Clients that have lost every broker are told again where the brokers are.
//!
//! A broker that hung longer than its own session is fenced when it wakes, and answers for a moment that the cluster has no
//! brokers. librdkafka (2.10 to 2.13 at least, its issue 5301) takes that for true, forgets all that it knows, bootstrap
//! servers too, and may then never ask anybody again: a producer keeps what it holds, a consumer is alone, for ever. What
//! `bootstrap.servers` says is therefore named again to each client that has had nobody to ask for a while.

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

/// How often a client is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Looks in a row without a broker before that is told: a connection may just be broken.
const SURE: u32 = 2;
/// Looks in a row without a broker before they are named: one that is only away is mostly back by then.
const PATIENCE: u32 = 5;
/// Each naming costs a client the name's bytes until it ends: so it is said every so many looks.
const EVERY: u32 = 5;

/// A client of Kafka.
pub trait BrokerClient: Send + Sync {
    /// True if it has nobody to ask about `topic`.
    fn has_no_broker(&self, topic: &str) -> bool;
    /// Names brokers to it.
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

/// Who is looked at.
#[derive(Clone)]
struct Kept {
    client: Weak<dyn BrokerClient>,
    topic: String,
    brokers: CString,
    alone: BrokerLiveness,
}

/// Whether a client has somebody to ask, as the last looks found it. librdkafka's own event, that all brokers are down, does
/// not come in each such case.
#[derive(Clone, Debug, Default)]
pub struct BrokerLiveness {
    /// Looks in a row that found it alone.
    looks: Arc<AtomicU32>,
}

impl BrokerLiveness {
    /// True if it has had nobody to ask for some seconds.
    pub fn is_lost(&self) -> bool {
        self.looks.load(Ordering::Relaxed) >= SURE
    }

    /// Notes that the client has got an answer from a broker.
    pub fn record_response(&self) {
        self.looks.store(0, Ordering::Relaxed);
    }

    /// Of a client that has had nobody to ask, for tests of those who wait for one.
    pub fn lost() -> Self {
        Self { looks: Arc::new(AtomicU32::new(SURE)) }
    }
}

static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Looks at `client`, which reads or writes `topic`, from now on until it is dropped, in a thread that all share. Without a
/// thread the client works all the same, and this is logged. What the looks find is told by the answer.
pub fn spawn_reconnect_watchdog<T: BrokerClient + 'static>(
    kafka: &KafkaEndpoint,
    topic: &str,
    client: &Arc<T>,
) -> BrokerLiveness {
    let alone = BrokerLiveness::default();
    // A name with a zero byte in it reaches nobody in the first place.
    let Ok(brokers) = CString::new(kafka.bootstrap.as_str()) else { return alone };
    let client: Arc<dyn BrokerClient> = Arc::<T>::clone(client);
    let mut kept = lock();
    if kept.is_empty()
        && let Err(error) = thread::Builder::new().name("kafka-reach".into()).spawn(watch)
    {
        tracing::error!(%error, "clients that lose every broker are not told again where they are");
        return alone;
    }
    let client = Arc::downgrade(&client);
    kept.push(Kept { client, topic: topic.to_owned(), brokers, alone: alone.clone() });
    alone
}

/// Until there is nobody left to look at.
fn watch() {
    loop {
        thread::sleep(LOOK);
        let present = {
            let mut kept = lock();
            kept.retain(|kept| kept.client.strong_count() > 0);
            if kept.is_empty() {
                return;
            }
            kept.clone()
        };
        for Kept { client, topic, brokers, alone: reach } in present {
            // Not under the lock: a client may take its time.
            let Some(present) = client.upgrade() else { continue };
            let has_no_broker = present.has_no_broker(&topic);
            let alone = if has_no_broker { reach.looks.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
            reach.looks.store(alone, Ordering::Relaxed);
            if is_due(alone) {
                present.add_brokers(&brokers);
            }
        }
    }
}

/// Whether the brokers are named after so many looks in a row that found nobody to ask.
const fn is_due(alone: u32) -> bool {
    alone >= PATIENCE && (alone - PATIENCE).is_multiple_of(EVERY)
}

fn lock() -> MutexGuard<'static, Vec<Kept>> {
    // Nothing panics under it.
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_no_broker<C: ClientContext>(client: &Client<C>, topic: &str) -> bool {
    // The answer does not matter, and is not waited for; without a broker there is another error at once.
    let asked = client.fetch_metadata(Some(topic), Duration::from_millis(1));
    asked.is_err_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure))
}

/// rust-rdkafka has no word for this.
#[allow(
    unsafe_code,
    reason = "one call of librdkafka's API that takes a live client and a string that ends with zero"
)]
fn add_brokers<C: ClientContext>(client: &Client<C>, brokers: &CStr) {
    // SAFETY: the client lives as long as the borrow; the string is copied before the call returns; brokers may be added
    // from any thread at any time (rdkafka.h).
    let known = unsafe { rdkafka::bindings::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    tracing::info!(known, "kafka: nobody to ask; the bootstrap servers are named again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::producer::DefaultProducerContext;

    #[test]
    fn brokers_are_named_after_some_looks_and_then_now_and_then() {
        let due: Vec<_> = (0..15).filter(|alone| is_due(*alone)).collect();
        assert_eq!(due, [5, 10]);
    }

    #[test]
    fn a_client_whom_nobody_answers_is_alone_and_takes_a_name() {
        // A port on which nobody listens.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let kafka = KafkaEndpoint::at(free.to_string());
        let client: BaseProducer<DefaultProducerContext> =
            kafka.client_config().create_with_context(DefaultProducerContext).unwrap();
        assert!(client.has_no_broker("t"));
        client.add_brokers(c"127.0.0.1:1");
    }
}
