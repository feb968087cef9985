//! A producer as a stranger has it, beside the load: librdkafka's defaults, transactions, odd headers, claims of any size, bytes that are
//! no event. Nothing that it does may stop a stage, and each record that it does not take back is a row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_connect::{Endpoints, KafkaEndpoint, SchemaRegistry};
use agentgov_schemas::event::{ActionEvent, Agent, Closing, Payload, Source, ToolCall};
use agentgov_schemas::topology::{Topology, registry_subject};
use agentgov_schemas::{Digest, Micros, RecordEncoder, SessionKey, catalogue, subject};
use fastrand::Rng;
use rdkafka::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use reqwest::blocking::Client;
use serde::Serialize;

use crate::run::Setup;

/// Keys of all its records begin so.
const KEYS: &str = "strangers/";
/// One of its deeds after the other, in milliseconds.
const PAUSE: std::ops::RangeInclusive<u64> = 50..=250;
/// How long a broker may take to answer while it may be away.
const CALL: Duration = Duration::from_secs(10);
/// How long what is on its way at the end may take.
const LAST: Duration = Duration::from_secs(60);
/// A transaction is left open at most so long, in milliseconds; and the broker ends one that nobody ends.
const OPEN: u64 = 4_000;
const BROKER_ENDS: &str = "10000";

/// A partition and an offset.
type At = (i32, i64);

/// What a stranger did, and what became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Strangers {
    /// What it did, by kind.
    pub deeds: BTreeMap<&'static str, u64>,
    /// Records that the broker acknowledged for good.
    pub records: u64,
    /// Records of transactions that were aborted, or that nobody ended.
    pub withdrawn: u64,
    /// Records of which it is not known.
    pub unknown: u64,
    /// Of the records, how many are no row.
    pub missing: u64,
    /// Of those that were withdrawn, how many are a row.
    pub returned: u64,
    #[serde(skip)]
    written: BTreeSet<At>,
    #[serde(skip)]
    taken_back: BTreeSet<At>,
}

/// Notes where the records of a producer stand.
#[derive(Default)]
struct Acknowledged(Mutex<BTreeSet<At>>);

impl Acknowledged {
    fn take(&self) -> BTreeSet<At> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Ok(message) = delivered {
            let at = (message.partition(), message.offset());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(at);
        }
    }
}

/// Ends the stranger when it goes out of scope, whatever the run came to.
pub(crate) struct Leaves<'a>(pub(crate) &'a AtomicBool);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes until `leaves`.
pub(crate) fn write(setup: &Setup<'_>, leaves: &AtomicBool) -> Result<Strangers, String> {
    let mut stranger = Stranger::new(setup)?;
    while !leaves.load(Ordering::Relaxed) {
        match stranger.rng.u8(..8) {
            0 => stranger.transaction("committed transaction", Some(true), leaves),
            1 => stranger.transaction("aborted transaction", Some(false), leaves),
            2 => stranger.transaction("abandoned transaction", None, leaves),
            3 => stranger.headers(),
            4 => stranger.claims(),
            5 => stranger.bytes(),
            6 => stranger.payload(),
            _ => stranger.call(),
        }
        let pause = Duration::from_millis(stranger.rng.u64(PAUSE));
        stranger.plain.poll(Duration::ZERO);
        std::thread::sleep(pause);
    }
    // What was not acknowledged by then may be there or not.
    let _ = stranger.plain.flush(LAST);
    let mut did = stranger.did;
    did.written.append(&mut stranger.plain.context().take());
    did.records = did.written.len() as u64;
    did.withdrawn = did.taken_back.len() as u64;
    Ok(did)
}

struct Stranger<'a> {
    kafka: &'a KafkaEndpoint,
    topic: &'a str,
    encoder: RecordEncoder<ActionEvent<'static>>,
    /// With no setting but where the brokers are: its partitioner is another than the log's.
    plain: BaseProducer<Acknowledged>,
    rng: Rng,
    number: u64,
    did: Strangers,
}

impl<'a> Stranger<'a> {
    fn new(setup: &'a Setup<'_>) -> Result<Self, String> {
        let (topic, _) = setup.topology.topic_of(subject::ACTION_EVENT).map_err(|e| e.to_string())?;
        let schema = subject::ACTION_EVENT.schema().map_err(|e| e.to_string())?;
        let registry = SchemaRegistry::new(&setup.endpoints.schema_registry).map_err(|e| e.to_string())?;
        let id = registry.register(&registry_subject(topic), schema.text()).map_err(|e| e.to_string())?;
        let kafka = &setup.endpoints.kafka;
        Ok(Self {
            kafka,
            topic,
            encoder: RecordEncoder::new(id).map_err(|e| e.to_string())?,
            plain: producer(kafka, None)?,
            rng: Rng::with_seed(setup.seed),
            number: 0,
            did: Strangers::default(),
        })
    }

    /// An event of a source of its own, in one of a few sessions.
    fn event(&mut self, sequence: i64, total: Option<i64>, arguments: &[u8]) -> (String, Vec<u8>) {
        self.number += 1;
        let session = format!("s{}", self.rng.u8(..20));
        let id = format!("stranger-{}", self.number);
        let payload = Payload {
            data: arguments,
            media_type: "application/json",
            sha256: Digest::of(arguments),
            redacted: false,
        };
        let event = ActionEvent {
            environment: "demo",
            occurred_at: Micros(self.rng.i64(..)),
            tool: total.is_none().then_some(ToolCall::new("think", "c", payload)),
            closing: total.map(|total| Closing { total }),
            ..ActionEvent::new(
                &id,
                if total.is_some() { catalogue::SOURCE_CLOSED } else { catalogue::TOOL_INVOKED },
                SessionKey { tenant_id: "strangers", session_id: &session },
                Source { id: &id, sequence },
                Agent::new("stranger"),
            )
        };
        (format!("{KEYS}{session}"), self.encoder.encode(&event).unwrap_or_default())
    }

    fn send(&mut self, deed: &'static str, key: &str, value: &[u8], headers: Option<OwnedHeaders>) {
        let record = BaseRecord::to(self.topic).key(key).payload(value);
        let record = if let Some(headers) = headers { record.headers(headers) } else { record };
        // Its queue is full while the broker is away: then it did nothing.
        if self.plain.send(record).is_ok() {
            *self.did.deeds.entry(deed).or_default() += 1;
        }
    }

    /// `ends`: committed or aborted; else it is left to the broker.
    fn transaction(&mut self, deed: &'static str, ends: Option<bool>, leaves: &AtomicBool) {
        let id = format!("strangers-{}", self.rng.u8(..3));
        let Ok(producer) = producer(self.kafka, Some(&id)) else { return };
        if producer.init_transactions(CALL).and_then(|()| producer.begin_transaction()).is_err() {
            return;
        }
        for _ in 0..self.rng.u8(1..=4) {
            let (key, value) = self.event(0, None, b"{}");
            let _ = producer.send(BaseRecord::to(self.topic).key(&key).payload(&value));
        }
        let flushed = producer.flush(CALL);
        if self.rng.bool() {
            let until = Instant::now() + Duration::from_millis(self.rng.u64(..OPEN));
            while Instant::now() < until && !leaves.load(Ordering::Relaxed) {
                producer.poll(Duration::from_millis(50));
            }
        }
        let outcome = match ends {
            Some(true) => flushed.and_then(|()| producer.commit_transaction(CALL)).map(|()| true),
            Some(false) => producer.abort_transaction(CALL).map(|()| false),
            None => Ok(false),
        };
        let mut acknowledged = producer.context().take();
        *self.did.deeds.entry(deed).or_default() += 1;
        match outcome {
            Ok(true) => self.did.written.append(&mut acknowledged),
            Ok(false) => self.did.taken_back.append(&mut acknowledged),
            Err(_) => self.did.unknown += acknowledged.len() as u64,
        }
    }

    fn headers(&mut self) {
        let (key, value) = self.event(0, None, b"{}");
        let odd = ["", "\u{1b}[2J", "\u{202e}", "a\r\nb", "日本"];
        let mut headers = OwnedHeaders::new();
        for _ in 0..self.rng.usize(1..=200) {
            let key = odd.get(self.rng.usize(..odd.len())).copied().unwrap_or_default();
            let value: Vec<u8> = (0..self.rng.usize(..20)).map(|_| self.rng.u8(..)).collect();
            let value = self.rng.bool().then_some(value.as_slice());
            headers = headers.insert(Header { key, value });
        }
        self.send("odd headers", &key, &value, Some(headers));
    }

    fn claims(&mut self) {
        let numbers = [i64::MAX, i64::MAX - 1, i64::MIN, -1, 1_764_547_200_000, 1 << 40];
        let mut number = || numbers.get(self.rng.usize(..numbers.len())).copied().unwrap_or_default();
        let (sequence, total) = (number(), number());
        let total = self.rng.bool().then_some(total);
        let (key, value) = self.event(sequence, total, b"{}");
        self.send("claim of any size", &key, &value, None);
    }

    fn bytes(&mut self) {
        let value: Vec<u8> = (0..self.rng.usize(..300)).map(|_| self.rng.u8(..)).collect();
        let key = format!("{KEYS}s{}", self.rng.u8(..20));
        self.send("no event", &key, &value, None);
    }

    fn payload(&mut self) {
        let arguments: Vec<u8> = (0..self.rng.usize(..300)).map(|_| self.rng.u8(..)).collect();
        let (key, value) = self.event(0, None, &arguments);
        self.send("binary payload", &key, &value, None);
    }

    fn call(&mut self) {
        let (key, value) = self.event(0, None, br#"{"thought":"hm"}"#);
        self.send("plain call", &key, &value, None);
    }
}

fn producer(
    kafka: &KafkaEndpoint,
    transactional: Option<&str>,
) -> Result<BaseProducer<Acknowledged>, String> {
    let mut config = kafka.client_config();
    if let Some(id) = transactional {
        config.set("transactional.id", id).set("transaction.timeout.ms", BROKER_ENDS);
    }
    config.create_with_context(Acknowledged::default()).map_err(|error| error.to_string())
}

impl Strangers {
    /// Looks which of its records are rows.
    pub(crate) fn look(&mut self, endpoints: &Endpoints, topology: &Topology) -> Result<(), String> {
        let (topic, _) = topology.topic_of(subject::ACTION_EVENT).map_err(|e| e.to_string())?;
        let (_, table) = topology.table_from(topic).map_err(|e| e.to_string())?;
        let store = &endpoints.clickhouse;
        let http = Client::builder().timeout(LAST).no_proxy().build().map_err(|e| e.to_string())?;
        let answer = http
            .post(&store.url)
            .query(&[("database", store.database.as_str())])
            .header("X-ClickHouse-User", &store.user)
            .header("X-ClickHouse-Key", store.password.expose())
            .body(format!(
                "SELECT partition, offset FROM {table} WHERE startsWith(ifNull(key, ''), '{KEYS}') FORMAT TabSeparated"
            ))
            .send()
            .and_then(|answer| answer.error_for_status()?.text())
            .map_err(|e| e.to_string())?;
        let rows: BTreeSet<At> = answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
            .collect();
        self.compare(&rows);
        Ok(())
    }

    fn compare(&mut self, rows: &BTreeSet<At>) {
        self.missing = self.written.difference(rows).count() as u64;
        self.returned = self.taken_back.intersection(rows).count() as u64;
    }

    /// What is wrong, a line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.missing > 0 {
            complaints
                .push(format!("{} records of a stranger were acknowledged and are no rows", self.missing));
        }
        if self.returned > 0 {
            complaints.push(format!("{} records of a stranger were taken back and are rows", self.returned));
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_row_and_what_should_be_none_is_counted() {
        let mut strangers = Strangers {
            written: [(0, 1), (0, 2), (1, 1)].into(),
            taken_back: [(0, 3), (1, 2)].into(),
            ..Strangers::default()
        };
        strangers.compare(&[(0, 1), (0, 2), (1, 1), (1, 7)].into());
        assert_eq!((strangers.missing, strangers.returned, strangers.complaints().len()), (0, 0, 0));
        strangers.compare(&[(0, 1), (0, 3)].into());
        assert_eq!((strangers.missing, strangers.returned, strangers.complaints().len()), (2, 1, 2));
    }
}
