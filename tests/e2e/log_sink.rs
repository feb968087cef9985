//! Tests of the log-sink on a real stack: every offset is one row. Each test has its own topics, group and database.

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentgov_audit::FindingKind;
use agentgov_connect::{Endpoints, KafkaEndpoint, SchemaRegistry};
use agentgov_log_sink::{Config, migrate};
use agentgov_runtime::sink::{Store, protocol};
use agentgov_schemas::event::{ActionEvent, Agent, Source};
use agentgov_schemas::subject;
use agentgov_schemas::topology::{EMBEDDED, Topology, registry_subject};
use agentgov_schemas::wire::Encoder;
use agentgov_schemas::{Micros, SessionKey};
use agentgov_service::lag::{self, Lag, LagReader};
use agentgov_service::{ExitCode, Health, ShutdownSignal, StageError};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::queries;

const DEADLINE: Duration = Duration::from_secs(60);

/// Log with its own topics on the shared stack.
pub struct Log {
    endpoints: Endpoints,
    topology: Arc<Topology>,
    pub actions: String,
    store: Store,
}

/// Outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Aborted,
}

/// Sink in a thread.
pub struct Running {
    stop: ShutdownSignal,
    pub thread: JoinHandle<Result<(), StageError>>,
}

impl Running {
    fn stop(self) {
        self.stop.request();
        self.thread.join().unwrap().unwrap();
    }
}

/// Answer to question 8 for a partition.
#[derive(Debug, Deserialize)]
struct Complete {
    skipped: u64,
    missing: i64,
    doubled: i64,
}

#[derive(Deserialize)]
struct Count {
    n: u64,
}

impl Log {
    pub fn new(name: &str) -> Self {
        Self::of(name, EMBEDDED)
    }

    /// Creates a log whose topics have a short retention, so that quiet partitions are read every second.
    fn with_short_retention(name: &str) -> Self {
        Self::of(name, &short_retention(EMBEDDED))
    }

    fn of(name: &str, map: &str) -> Self {
        let text = map
            .replace("agent.", &format!("{name}.agent."))
            .replace("governance.", &format!("{name}.governance."))
            .replace("agentgov.", &format!("{name}.agentgov."));
        let topology = Topology::parse("topology.yaml", &text).unwrap();
        let mut endpoints = crate::stack::stack().endpoints.clone();
        endpoints.clickhouse.database = format!("sink_{name}");
        let admin: AdminClient<DefaultClientContext> = endpoints.kafka.client_config().create().unwrap();
        let topics: Vec<_> = topology
            .topics
            .keys()
            .map(|topic| {
                NewTopic::new(topic, 2, TopicReplication::Fixed(1))
                    .set("message.timestamp.type", "LogAppendTime")
            })
            .collect();
        for created in block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap() {
            created.unwrap();
        }
        let actions = topology.topic_of(subject::ACTION_EVENT).unwrap().0.to_owned();
        migrate(&endpoints.clickhouse, &topology).unwrap();
        let store = Store::new(&endpoints.clickhouse, Duration::from_secs(10)).unwrap();
        Self { endpoints, topology: Arc::new(topology), actions, store }
    }

    pub fn start(&self, accept_gap: bool) -> Running {
        let stop = ShutdownSignal::default();
        let config = Config {
            endpoints: self.endpoints.clone(),
            topology: Arc::clone(&self.topology),
            stop: stop.clone(),
            health: Health::new("log-sink"),
            accept_gap,
        };
        Running { stop, thread: std::thread::spawn(move || agentgov_log_sink::run(config)) }
    }

    /// Runs a sink that must end by itself.
    fn end(&self) -> StageError {
        self.start(false).thread.join().unwrap().unwrap_err()
    }

    fn producer(&self) -> BaseProducer {
        self.endpoints.kafka.client_config().set("enable.idempotence", "true").create().unwrap()
    }

    /// Writes `count` good actions, then each of `values`, over both partitions.
    pub fn produce(&self, count: i64, values: &[Option<&[u8]>]) {
        let schema = subject::ACTION_EVENT.schema().unwrap();
        let registry = SchemaRegistry::new(&self.endpoints.schema_registry).unwrap();
        let id = registry.register(&registry_subject(&self.actions), schema.text()).unwrap();
        let mut encoder = Encoder::new(id, schema);
        let producer = self.producer();
        let key = SessionKey { tenant_id: "acme", session_id: "s" }.to_bytes();
        let send = |number: usize, value: Option<&[u8]>| {
            let record =
                BaseRecord::to(&self.actions).key(&key).partition(i32::try_from(number % 2).unwrap());
            let record = if let Some(value) = value { record.payload(value) } else { record };
            producer.send(record).map_err(|(error, _)| error).unwrap();
        };
        for number in 0..count {
            let event_id = format!("e{number}");
            let event = ActionEvent {
                environment: "test",
                occurred_at: Micros(i64::MIN + number),
                ..ActionEvent::new(
                    &event_id,
                    "session.started",
                    SessionKey { tenant_id: "acme", session_id: "s" },
                    Source { id: "source", sequence: number },
                    Agent::new("agent"),
                )
            };
            send(usize::try_from(number).unwrap(), Some(&encoder.encode(&event).unwrap()));
        }
        for (number, value) in values.iter().enumerate() {
            send(number, *value);
        }
        producer.flush(DEADLINE).unwrap();
    }

    pub fn count(&self, what: &str) -> u64 {
        self.store.select::<Count>(&format!("SELECT {what} AS n FROM actions")).unwrap()[0].n
    }

    fn wait_until_rows(&self, rows: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.count("count()") < rows {
            assert!(Instant::now() < deadline, "expected {rows} rows, found {}", self.count("count()"));
            std::thread::yield_now();
        }
    }

    /// Waits for `rows` rows and checks that their offsets are distinct and without a hole.
    pub fn wait_for(&self, rows: u64) {
        self.wait_until_rows(rows);
        assert_eq!(self.count("count()"), rows);
        assert_eq!(self.count("uniqExact(partition, offset)"), rows);
        let by_arithmetic =
            "sum(n) AS n FROM (SELECT max(offset) + 1 AS n FROM actions GROUP BY partition) --";
        assert_eq!(self.store.select::<Count>(&format!("SELECT {by_arithmetic}")).unwrap()[0].n, rows);
    }

    fn transact(&self, partitions: &[i32], count: usize, outcome: Outcome) {
        transact(&self.endpoints.kafka, &self.actions, partitions, count, outcome);
    }

    /// Waits until the sink's group has no lag.
    fn wait_until_done(&self) {
        let group = &self.topology.stage("log-sink").unwrap().group.value;
        let places = lag::input_partitions(&self.topology, "log-sink").unwrap();
        let mut reader = LagReader::new(&self.endpoints.kafka, group, places).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let lags = reader.read().unwrap();
            if lags.values().all(|lag| *lag == Lag::default()) {
                return;
            }
            assert!(Instant::now() < deadline, "{lags:?}");
        }
    }

    /// Waits until these offsets are recorded as skipped.
    fn wait_until_proven(&self, topic: &str, partition: i32, offsets: Range<i64>) {
        let of = format!("topic_partition = '{topic}/{partition}' AND from_offset = {}", offsets.start);
        let sql = format!("SELECT toUInt64(max(to_offset)) AS n FROM sink_empty_ranges WHERE {of}");
        let deadline = Instant::now() + DEADLINE;
        let end = u64::try_from(offsets.end).unwrap();
        while self.store.select::<Count>(&sql).unwrap()[0].n != end {
            assert!(Instant::now() < deadline, "{topic}/{partition}: {offsets:?}");
            std::thread::yield_now();
        }
    }

    /// Deletes all records of these partitions, as retention does.
    fn delete_all(&self, partitions: &[(&str, i32)]) {
        delete(
            &self.endpoints.kafka,
            partitions.iter().map(|(topic, partition)| (*topic, *partition, Offset::End)),
        );
    }

    /// Inserts rows that nobody produced, as an accident or an attacker would.
    fn forge(&self, offsets: &[i64]) {
        let name = format!("{}/0", self.actions);
        self.store.execute(&format!("INSERT INTO sink_claims VALUES ('{name}', 5)")).unwrap();
        for offset in offsets {
            let row = format!("('{name}', {offset}, 5)");
            self.store
                .execute(&format!("INSERT INTO actions (topic_partition, offset, claim) VALUES {row}"))
                .unwrap();
        }
    }
}

/// Writes `count` records to each of `partitions` in one transaction of a foreign client.
pub fn transact(kafka: &KafkaEndpoint, topic: &str, partitions: &[i32], count: usize, outcome: Outcome) {
    let mut config = kafka.client_config();
    config.set("transactional.id", format!("{topic}-stranger"));
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..count {
        for partition in partitions {
            let value = format!("{outcome:?}");
            let record = BaseRecord::<(), str>::to(topic).partition(*partition).payload(&value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    }
    producer.flush(DEADLINE).unwrap();
    match outcome {
        Outcome::Committed => producer.commit_transaction(DEADLINE).unwrap(),
        Outcome::Aborted => producer.abort_transaction(DEADLINE).unwrap(),
    }
}

/// Deletes records before an offset, as retention does.
pub fn delete<'t>(kafka: &KafkaEndpoint, before: impl IntoIterator<Item = (&'t str, i32, Offset)>) {
    let admin: AdminClient<DefaultClientContext> = kafka.client_config().create().unwrap();
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in before {
        list.add_partition_offset(topic, partition, offset).unwrap();
    }
    let deleted = block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
    deleted.elements().iter().for_each(|deleted| deleted.error().unwrap());
}

/// Returns a topology whose topics have retentions of minutes.
pub fn short_retention(map: &str) -> String {
    ["30d", "90d"]
        .iter()
        .fold(map.to_owned(), |map, days| map.replace(&format!("retention: {days}"), "retention: 10m"))
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn every_record_is_a_row_whether_it_decodes_or_not() {
    let log = Log::new("rows");
    let unknown_id = [0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3];
    let cut: Vec<u8> = [0, 0, 0, 0].to_vec();
    log.produce(100, &[None, Some(b""), Some(b"{}"), Some(&unknown_id), Some(&cut)]);
    let sink = log.start(false);
    log.wait_for(105);
    sink.stop();
    for (reason, expected) in
        [("empty_value", 2), ("wrong_magic_byte", 1), ("unknown_schema_id", 1), ("truncated_header", 1)]
    {
        assert_eq!(
            log.count(&format!("countIf(startsWith(decode_error, '{reason}: '))")),
            expected,
            "{reason}"
        );
    }
    assert_eq!(log.count("countIf(value IS NULL)"), 1);
    assert_eq!(log.count("countIf(SHA256(ifNull(value, '')) = record_sha256)"), 105);
    // The producer's time is kept, and displayed as closely as possible.
    let claimed = format!("countIf(occurred_at_micros < {} AND toYear(occurred_at) = 1900)", i64::MIN + 100);
    assert_eq!(log.count(&claimed), 100);
    let recorded = "countIf(schema_fingerprint IN (SELECT fingerprint FROM schemas))";
    assert_eq!(log.count(recorded), 100);
}

#[test]
fn sinks_that_start_and_stop_neither_lose_nor_double_rows() {
    let log = Log::new("two");
    let mut sinks = vec![log.start(false), log.start(false)];
    for round in 1..=4_u64 {
        log.produce(500, &[]);
        sinks.remove(0).stop();
        sinks.push(log.start(false));
        log.produce(500, &[]);
        log.wait_for(round * 1_000);
    }
    sinks.into_iter().for_each(Running::stop);
}

/// Request body that stalls until its sender is dropped, then sends one more row.
struct Stalling {
    row: Vec<u8>,
    rows_left: u8,
    release: std::sync::mpsc::Receiver<()>,
}

impl std::io::Read for Stalling {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.rows_left == 0 {
            return Ok(0);
        }
        if self.rows_left == 1 {
            // An error means that the sender was dropped.
            let _ = self.release.recv();
        }
        self.rows_left -= 1;
        out[..self.row.len()].copy_from_slice(&self.row);
        Ok(self.row.len())
    }
}

#[test]
fn insert_of_a_zombie_is_awaited_and_rejected() {
    let log = Log::new("zombie");
    log.produce(20, &[]);
    let name = format!("{}/0", log.actions);
    log.store.execute(&format!("INSERT INTO sink_claims VALUES ('{name}', 77)")).unwrap();
    let (release, released) = std::sync::mpsc::channel();
    let body = Stalling { row: format!("{name}\t0\t77\n").into_bytes(), rows_left: 2, release: released };
    let mut url = reqwest::Url::parse(&log.endpoints.clickhouse.url).unwrap();
    let insert = format!(
        "/* sink:{name}:77 */ INSERT INTO actions (topic_partition, offset, claim) FORMAT TabSeparated"
    );
    url.query_pairs_mut()
        .append_pair("database", &log.endpoints.clickhouse.database)
        .append_pair("async_insert", "0")
        .append_pair("query", &insert);
    let zombie = std::thread::spawn(move || {
        let client = reqwest::blocking::Client::new();
        client.post(url).body(reqwest::blocking::Body::new(body)).send().unwrap().text().unwrap()
    });
    let wait_until = |what: &str| {
        let deadline = Instant::now() + DEADLINE;
        while log.store.select::<Count>(&format!("SELECT count() AS n FROM {what}")).unwrap()[0].n == 0 {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    wait_until(&format!("system.processes WHERE startsWith(query, '/* sink:{name}:77 */')"));
    let sink = log.start(false);
    wait_until(&format!("sink_claims WHERE topic_partition = '{name}' AND claim != 77"));
    // The sink has claimed. It reads no tail and inserts nothing while the zombie's insert is in progress.
    let patience = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < patience {
        assert_eq!(log.count("count()"), 0);
    }
    drop(release);
    let refused = zombie.join().unwrap();
    assert!(refused.contains("469"), "{refused}");
    log.wait_for(20);
    sink.stop();
}

#[test]
fn table_that_is_no_prefix_of_the_topic_ends_the_sink() {
    let cases: [(&str, &[i64], ExitCode, &str); 3] = [
        ("shorter", &[0, 1, 2, 3, 4, 5, 6], ExitCode::OtherCluster, "ends at 5"),
        ("different", &[0, 1, 2], ExitCode::OtherCluster, "offset 2"),
        ("hole", &[0, 1, 3], ExitCode::Failed, "the first missing offset is 2"),
    ];
    for (name, offsets, code, says) in cases {
        let log = Log::new(name);
        log.produce(10, &[]);
        log.forge(offsets);
        let error = log.end();
        assert_eq!(error.exit_code(), code, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
}

#[test]
fn gap_stops_the_sink_until_it_is_accepted_and_recorded() {
    let log = Log::new("gap");
    log.produce(20, &[]);
    delete(&log.endpoints.kafka, [(log.actions.as_str(), 0, Offset::Offset(4))]);
    let error = log.end();
    assert_eq!(error.exit_code(), ExitCode::Overtaken, "{error}");
    let sink = log.start(true);
    log.wait_until_rows(16);
    sink.stop();
    let gaps = "SELECT count() AS n FROM sink_gaps WHERE from_offset = 0 AND to_offset = 4";
    assert_eq!(log.store.select::<Count>(gaps).unwrap()[0].n, 1);
    // A recorded gap needs no further acceptance.
    log.produce(2, &[]);
    let sink = log.start(false);
    log.wait_until_rows(18);
    sink.stop();
}

#[test]
fn foreign_transactions_leave_skipped_offsets_and_lose_nothing() {
    const PARTITIONS: [i32; 2] = [0, 1];
    let log = Log::new("strangers");
    let mut rows = 0;
    // Topic that begins with an aborted transaction.
    log.transact(&[0], 3, Outcome::Aborted);
    let mut sinks = vec![log.start(false), log.start(false)];
    for round in 0..4 {
        log.transact(&PARTITIONS, 2, Outcome::Committed);
        log.produce(6, &[Some(b"plain")]);
        log.transact(&PARTITIONS, 3, Outcome::Aborted);
        log.transact(&[1], 1, Outcome::Committed);
        rows += 4 + 7 + 1;
        // The sink resumes among them, or after a marker that no record follows.
        sinks.remove(0).stop();
        if round % 2 == 0 {
            log.wait_until_rows(rows);
        }
        sinks.push(log.start(false));
    }
    log.wait_until_done();
    assert_eq!(log.count("count()"), rows);
    assert_eq!(log.count("countIf(value = 'Committed')"), 4 * 5);
    assert_eq!(log.count("countIf(value = 'Aborted')"), 0, "they were taken back");
    assert_eq!(log.count("countIf(value = 'plain')"), 4);
    // Only markers follow the last row; one more record makes them visible.
    log.produce(2, &[]);
    log.wait_until_rows(rows + 2);
    sinks.into_iter().for_each(Running::stop);
    assert_eq!(log.count("uniqExact(partition, offset)"), rows + 2);
    let complete: Vec<Complete> = log.store.select(&queries::statement("8")).unwrap();
    assert_eq!(complete.len(), PARTITIONS.len());
    for partition in complete {
        assert_eq!((partition.missing, partition.doubled), (0, 0), "{partition:?}");
        assert!(partition.skipped > 0, "{partition:?}");
    }
    for partition in PARTITIONS {
        let of = format!("FROM actions WHERE partition = {partition}");
        let number = |what: &str| {
            log.store.select::<Count>(&format!("SELECT toUInt64({what}) AS n {of}")).unwrap()[0].n
        };
        let reader = log.producer();
        let (_, high) = reader.client().fetch_watermarks(&log.actions, partition, DEADLINE).unwrap();
        assert_eq!(number("max(offset) + 1"), u64::try_from(high).unwrap());
        assert_eq!(number("count() + sum(skipped)"), number("max(offset) + 1"), "partition {partition}");
        let odd = format!(
            "SELECT count() AS n FROM (SELECT offset - skipped AS first, lagInFrame(offset, 1, -1) OVER (ORDER BY offset \
             ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before {of}) WHERE first != before + 1"
        );
        assert_eq!(
            log.store.select::<Count>(&odd).unwrap()[0].n,
            0,
            "each row counts what is right before it"
        );
        let tail = protocol::read_tails(
            &log.store,
            "actions",
            true,
            &[format!("{}/{partition}", log.actions)].into(),
        );
        assert_eq!(tail.unwrap().into_values().next().unwrap().first, 0);
    }
}

/// The end of the partition moves in every round.
#[test]
fn client_that_keeps_aborting_does_not_prevent_the_proof() {
    let log = Log::with_short_retention("aborts");
    log.produce(2, &[]);
    let sink = log.start(false);
    log.wait_until_rows(2);
    let of = format!("topic_partition = '{}/0'", log.actions);
    let sql = format!("SELECT toUInt64(uniqExact(to_offset)) AS n FROM sink_empty_ranges WHERE {of}");
    let deadline = Instant::now() + DEADLINE;
    while log.store.select::<Count>(&sql).unwrap()[0].n < 2 {
        assert!(Instant::now() < deadline, "no second range");
        log.transact(&[0], 1, Outcome::Aborted);
    }
    sink.stop();
}

/// Retention deletes the remains of an aborted transaction at the end of a partition, and the marker after the last
/// verdict.
#[test]
fn deleted_empty_offsets_are_no_gap() {
    let log = Log::with_short_retention("tail");
    let kafka = &log.endpoints.kafka;
    let verdicts = log.topology.topic_of(subject::VERDICT).unwrap().0.to_owned();
    log.produce(4, &[]);
    log.transact(&[0], 3, Outcome::Aborted);
    transact(kafka, &verdicts, &[0], 1, Outcome::Committed);
    transact(kafka, &verdicts, &[1], 2, Outcome::Aborted);
    let sink = log.start(false);
    log.wait_until_rows(4);
    log.wait_until_proven(&log.actions, 0, 2..6);
    log.wait_until_proven(&verdicts, 0, 1..2);
    log.wait_until_proven(&verdicts, 1, 0..3);
    sink.stop();
    log.delete_all(&[(&log.actions, 0), (&verdicts, 0), (&verdicts, 1)]);

    let sink = log.start(false);
    log.produce(2, &[]);
    transact(kafka, &verdicts, &[0, 1], 1, Outcome::Committed);
    log.wait_until_rows(6);
    let of = |what: &str| log.store.select::<Count>(&format!("SELECT {what}")).unwrap()[0].n;
    let deadline = Instant::now() + DEADLINE;
    while of("count() AS n FROM verdicts") < 3 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(log.count("sumIf(skipped, partition = 0 AND offset = 6)"), 4, "the next row counts them");
    assert_eq!(of("count() AS n FROM sink_gaps"), 0, "nothing was lost");
    let complete: Vec<Complete> = log.store.select(&queries::statement("8")).unwrap();
    let found: Vec<_> = complete.iter().map(|of| (of.skipped, of.missing, of.doubled)).collect();
    assert_eq!(found, [(4, 0, 0), (0, 0, 0)]);
    let report = agentgov_audit::completeness(&log.topology, &log.endpoints).unwrap();
    for kind in [FindingKind::Lost, FindingKind::Doubled, FindingKind::Different, FindingKind::Transactional]
    {
        assert_eq!(report.count(kind), 0, "{kind:?}: {report:?}");
    }

    // A deleted record after the proven offsets is a loss, although markers follow it.
    log.transact(&[0], 1, Outcome::Aborted);
    log.wait_until_proven(&log.actions, 0, 7..9);
    sink.stop();
    log.transact(&[0], 1, Outcome::Committed);
    log.transact(&[0], 1, Outcome::Aborted);
    log.delete_all(&[(&log.actions, 0)]);
    let error = log.end();
    assert_eq!(error.exit_code(), ExitCode::Overtaken, "{error}");
    assert!(error.to_string().contains("at offset 7, but the topic starts at 13"), "{error}");
}

#[test]
fn proof_contradicted_by_the_topic_ends_the_sink() {
    let log = Log::new("unproven");
    log.produce(10, &[]);
    let name = format!("{}/0", log.actions);
    log.store.execute(&format!("INSERT INTO sink_claims VALUES ('{name}', 5)")).unwrap();
    let columns = "topic_partition, from_offset, to_offset, claim";
    let forge = format!("INSERT INTO sink_empty_ranges ({columns}) VALUES ('{name}', 0, 4, 5)");
    log.store.execute(&forge).unwrap();
    delete(&log.endpoints.kafka, [(log.actions.as_str(), 0, Offset::Offset(2))]);
    let error = log.end();
    assert_eq!(error.exit_code(), ExitCode::OtherCluster, "{error}");
    assert!(error.to_string().contains("expected no record at offset 2"), "{error}");
    assert_eq!(log.count("countIf(partition = 0)"), 0);
}
