//! Foreign client beside the load: librdkafka's defaults, transactions, odd headers, claims of any size, invalid events. It
//! must not stop any stage, and each committed record must be a row.

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
use serde::Serialize;

use crate::run::Setup;
use crate::table::query;

/// Prefix of the keys of all its records.
const KEY_PREFIX: &str = "foreign/";
/// Pause between two operations, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 50..=250;
/// Timeout of a broker call while the broker may be unreachable.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the final flush.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum duration of an open transaction, in milliseconds; the broker aborts abandoned ones.
const MAX_OPEN_TRANSACTION_MS: u64 = 4_000;
const TRANSACTION_TIMEOUT_MS: &str = "10000";

/// Partition and offset.
type Position = (i32, i64);

/// Operations of a foreign client and their results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ForeignClientReport {
    /// Operations by kind.
    pub operations: BTreeMap<&'static str, u64>,
    /// Records that the broker acknowledged and that were not aborted.
    pub records: u64,
    /// Records of aborted or abandoned transactions.
    pub aborted: u64,
    /// Records of transactions with unknown outcome.
    pub unknown: u64,
    /// Committed records without a row.
    pub missing: u64,
    /// Aborted records with a row.
    pub aborted_rows: u64,
    #[serde(skip)]
    written: BTreeSet<Position>,
    #[serde(skip)]
    aborted_positions: BTreeSet<Position>,
}

/// Collects the positions of acknowledged records.
#[derive(Default)]
struct AcknowledgedPositions(Mutex<BTreeSet<Position>>);

impl AcknowledgedPositions {
    fn take(&self) -> BTreeSet<Position> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for AcknowledgedPositions {}

impl ProducerContext for AcknowledgedPositions {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Ok(message) = delivered {
            let at = (message.partition(), message.offset());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(at);
        }
    }
}

/// Stops the foreign client on drop, independent of the run's result.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the foreign client until `stop` is set.
pub(crate) fn run(setup: &Setup<'_>, stop: &AtomicBool) -> Result<ForeignClientReport, String> {
    let mut client = ForeignClient::new(setup)?;
    while !stop.load(Ordering::Relaxed) {
        match client.rng.u8(..8) {
            0 => client.transaction("committed transaction", Some(true), stop),
            1 => client.transaction("aborted transaction", Some(false), stop),
            2 => client.transaction("abandoned transaction", None, stop),
            3 => client.headers(),
            4 => client.claims(),
            5 => client.bytes(),
            6 => client.payload(),
            _ => client.call(),
        }
        let pause = Duration::from_millis(client.rng.u64(PAUSE_MS));
        client.plain.poll(Duration::ZERO);
        std::thread::sleep(pause);
    }
    // Unacknowledged records may or may not exist.
    let _ = client.plain.flush(FLUSH_TIMEOUT);
    let mut report = client.report;
    report.written.append(&mut client.plain.context().take());
    report.records = report.written.len() as u64;
    report.aborted = report.aborted_positions.len() as u64;
    Ok(report)
}

struct ForeignClient<'a> {
    kafka: &'a KafkaEndpoint,
    topic: &'a str,
    encoder: RecordEncoder<ActionEvent<'static>>,
    /// Producer with default settings, whose partitioner differs from that of the SDK.
    plain: BaseProducer<AcknowledgedPositions>,
    rng: Rng,
    number: u64,
    report: ForeignClientReport,
}

impl<'a> ForeignClient<'a> {
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
            report: ForeignClientReport::default(),
        })
    }

    /// Returns an event of a new source, in one of a few sessions.
    fn event(&mut self, sequence: i64, total: Option<i64>, arguments: &[u8]) -> (String, Vec<u8>) {
        self.number += 1;
        let session = format!("s{}", self.rng.u8(..20));
        let id = format!("foreign-{}", self.number);
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
                SessionKey { tenant_id: "foreign", session_id: &session },
                Source { id: &id, sequence },
                Agent::new("foreign"),
            )
        };
        (format!("{KEY_PREFIX}{session}"), self.encoder.encode(&event).unwrap_or_default())
    }

    fn send(&mut self, operation: &'static str, key: &str, value: &[u8], headers: Option<OwnedHeaders>) {
        let record = BaseRecord::to(self.topic).key(key).payload(value);
        let record = if let Some(headers) = headers { record.headers(headers) } else { record };
        // The queue is full while the broker is unreachable; then the operation is not counted.
        if self.plain.send(record).is_ok() {
            *self.report.operations.entry(operation).or_default() += 1;
        }
    }

    /// Writes a transaction, and commits it (`commits` is true), aborts it (false) or leaves it open (`None`).
    fn transaction(&mut self, operation: &'static str, commits: Option<bool>, stop: &AtomicBool) {
        let id = format!("foreign-{}", self.rng.u8(..3));
        let Ok(producer) = producer(self.kafka, Some(&id)) else { return };
        if producer.init_transactions(CALL_TIMEOUT).and_then(|()| producer.begin_transaction()).is_err() {
            return;
        }
        for _ in 0..self.rng.u8(1..=4) {
            let (key, value) = self.event(0, None, b"{}");
            let _ = producer.send(BaseRecord::to(self.topic).key(&key).payload(&value));
        }
        let flushed = producer.flush(CALL_TIMEOUT);
        if self.rng.bool() {
            let until = Instant::now() + Duration::from_millis(self.rng.u64(..MAX_OPEN_TRANSACTION_MS));
            while Instant::now() < until && !stop.load(Ordering::Relaxed) {
                producer.poll(Duration::from_millis(50));
            }
        }
        let outcome = match commits {
            Some(true) => flushed.and_then(|()| producer.commit_transaction(CALL_TIMEOUT)).map(|()| true),
            Some(false) => producer.abort_transaction(CALL_TIMEOUT).map(|()| false),
            None => Ok(false),
        };
        let mut acknowledged = producer.context().take();
        *self.report.operations.entry(operation).or_default() += 1;
        match outcome {
            Ok(true) => self.report.written.append(&mut acknowledged),
            Ok(false) => self.report.aborted_positions.append(&mut acknowledged),
            Err(_) => self.report.unknown += acknowledged.len() as u64,
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
        let key = format!("{KEY_PREFIX}s{}", self.rng.u8(..20));
        self.send("invalid event", &key, &value, None);
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
) -> Result<BaseProducer<AcknowledgedPositions>, String> {
    let mut config = kafka.client_config();
    if let Some(id) = transactional {
        config.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
    }
    config.create_with_context(AcknowledgedPositions::default()).map_err(|error| error.to_string())
}

impl ForeignClientReport {
    /// Reads the rows of the table and compares them with the records.
    pub(crate) fn compare_with_rows(
        &mut self,
        endpoints: &Endpoints,
        topology: &Topology,
    ) -> Result<(), String> {
        let (topic, _) = topology.topic_of(subject::ACTION_EVENT).map_err(|e| e.to_string())?;
        let (_, table) = topology.table_from(topic).map_err(|e| e.to_string())?;
        let answer = query(
            &endpoints.clickhouse,
            format!(
                "SELECT partition, offset FROM {table} WHERE startsWith(ifNull(key, ''), '{KEY_PREFIX}') FORMAT TabSeparated"
            ),
        )?;
        let rows: BTreeSet<Position> = answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
            .collect();
        self.compare(&rows);
        Ok(())
    }

    fn compare(&mut self, rows: &BTreeSet<Position>) {
        self.missing = self.written.difference(rows).count() as u64;
        self.aborted_rows = self.aborted_positions.intersection(rows).count() as u64;
    }

    /// Returns the problems, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.missing > 0 {
            problems.push(format!(
                "expected a row for each acknowledged record of the foreign client, found none for {}",
                self.missing
            ));
        }
        if self.aborted_rows > 0 {
            problems.push(format!(
                "expected no row for aborted records of the foreign client, found {}",
                self.aborted_rows
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rows_and_aborted_rows_are_counted() {
        let mut foreign_client = ForeignClientReport {
            written: [(0, 1), (0, 2), (1, 1)].into(),
            aborted_positions: [(0, 3), (1, 2)].into(),
            ..ForeignClientReport::default()
        };
        foreign_client.compare(&[(0, 1), (0, 2), (1, 1), (1, 7)].into());
        assert_eq!(
            (foreign_client.missing, foreign_client.aborted_rows, foreign_client.problems().len()),
            (0, 0, 0)
        );
        foreign_client.compare(&[(0, 1), (0, 3)].into());
        assert_eq!(
            (foreign_client.missing, foreign_client.aborted_rows, foreign_client.problems().len()),
            (2, 1, 2)
        );
    }
}
