//! Kills processes with a spool and two sources by SIGKILL, with brokers available and unavailable: the topic has every
//! acknowledged event, in order, and each source is closed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy treats helpers of tests as product code"
)]

mod fake;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::{ActionEvent, Agent};
use agentgov_schemas::subject::ACTION_EVENT;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::wire;
use agentgov_sdk::{
    Event, Fsync, Producer, ProducerOptions, Recorder, RecorderOptions, SourceOptions, SpoolError,
    SpoolOptions, StartError,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use fake::{brokers, options, registry_with_every_schema, topic};

const TIMEOUT: Duration = Duration::from_secs(60);

fn spooled(kafka: &KafkaEndpoint, registry: SchemaRegistryEndpoint, folder: &Path) -> RecorderOptions {
    let spool = SpoolOptions { fsync: Fsync::Never, ..SpoolOptions::new(folder) };
    RecorderOptions { spool: Some(spool), ..options(kafka, registry) }
}

fn started(session_id: &str) -> Event<'_> {
    Event::new(catalogue::SESSION_STARTED, session_id, Agent { id: "agent", name: None, version: None })
}

#[test]
#[ignore = "run as a child process by the next test"]
fn child_records_until_killed() {
    let variable = |name| std::env::var(name).unwrap();
    let kafka = KafkaEndpoint::at(variable("TEST_KAFKA"));
    let registry = SchemaRegistryEndpoint::at(variable("TEST_REGISTRY"));
    let spool = SpoolOptions { fsync: Fsync::Never, ..SpoolOptions::new(variable("TEST_SPOOL")) };
    let options = ProducerOptions::new(kafka, registry, Topology::embedded().unwrap().into());
    let producer = Producer::start(ProducerOptions { spool: Some(spool), ..options }).unwrap();
    let recorders =
        ["acme", "globex"].map(|tenant| producer.recorder(SourceOptions::new(tenant, "test")).unwrap());
    for i in 0.. {
        let recorder = &recorders[i % 2];
        let session = format!("{}-{}", recorder.source_id(), i % 5);
        let receipt = recorder.record(&started(&session)).unwrap();
        println!("acknowledged {} {}", recorder.source_id(), receipt.sequence);
        #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
        std::io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Starts such a process and kills it after `lines` acknowledgements. Returns the last acknowledged sequence of each source.
fn killed_after(
    lines: usize,
    kafka: &KafkaEndpoint,
    registry: &SchemaRegistryEndpoint,
    folder: &Path,
) -> BTreeMap<String, i64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_records_until_killed", "--ignored", "--nocapture"])
        .env("TEST_KAFKA", &kafka.bootstrap)
        .env("TEST_REGISTRY", &registry.url)
        .env("TEST_SPOOL", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut last, mut acknowledged) = (BTreeMap::new(), 0);
    let mut parse = |line: String| {
        // The last line may be cut off.
        if let Some(("acknowledged", receipt)) = line.split_once(' ')
            && let Some((source, sequence)) = receipt.split_once(' ')
            && let Ok(sequence) = sequence.parse()
        {
            last.insert(source.to_owned(), sequence);
            acknowledged += 1;
        }
        acknowledged
    };
    while parse(output.next().unwrap()) < lines {}
    child.kill().unwrap();
    child.wait().unwrap();
    for line in output {
        parse(line);
    }
    last
}

/// By source: the sequences of each session in the order of the topic, and the total of the closing event.
type SourcesInTopic = BTreeMap<String, (BTreeMap<String, Vec<i64>>, Option<i64>)>;

fn found(kafka: &KafkaEndpoint, closed: usize) -> SourcesInTopic {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.bootstrap)
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..3 {
        assignment.add_partition_offset(&topic(), partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut found, until) = (SourcesInTopic::new(), Instant::now() + TIMEOUT);
    loop {
        let Some(record) = consumer.poll(Duration::from_millis(300)) else {
            if found.values().filter(|(_, total)| total.is_some()).count() >= closed {
                return found;
            }
            assert!(Instant::now() < until, "found {found:?}");
            continue;
        };
        let record = record.unwrap();
        let (id, datum) = wire::split(record.payload().unwrap()).unwrap();
        let event: ActionEvent<'_> = ACTION_EVENT.schema().unwrap().decode(id, datum).unwrap();
        let (sessions, total) = found.entry(event.source.id.to_owned()).or_default();
        match event.closing {
            Some(closing) => *total = Some(closing.total),
            None => sessions.entry(event.session_id.to_owned()).or_default().push(event.source.sequence),
        }
    }
}

#[test]
fn killed_process_loses_no_acknowledged_event() {
    let (cluster, kafka) = brokers();
    let (registry, folder) = (registry_with_every_schema(), tempfile::tempdir().unwrap());
    let mut acknowledged = BTreeMap::new();
    for (round, lines) in [1, 40, 700, 3, 300].into_iter().enumerate() {
        // In odd rounds the brokers are down for the whole process, and up again while the next one recovers its source.
        let is_down = round % 2 == 1;
        if is_down {
            cluster.broker_down(1).unwrap();
        }
        let sources = killed_after(lines, &kafka, &registry, folder.path());
        assert!(sources.len() >= lines.min(2), "each process has two sources");
        acknowledged.extend(sources);
        if is_down {
            cluster.broker_up(1).unwrap();
        }
    }
    let last = Recorder::start(spooled(&kafka, registry, folder.path())).unwrap();
    last.wait_for_dead_sources(TIMEOUT).unwrap();
    last.close(TIMEOUT).unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        0
    );

    let found = found(&kafka, acknowledged.len() + 1);
    for (source, last) in acknowledged {
        let (sessions, total) = &found[&source];
        let total = total.unwrap();
        assert!(total > last, "source {source} acknowledged {last}, and closed with {total}");
        let mut all = Vec::new();
        for (session, sequences) in sessions {
            let mut first_seen: Vec<i64> = Vec::new();
            for sequence in sequences {
                let known = first_seen.contains(sequence);
                assert!(
                    known || first_seen.last().is_none_or(|last| last < sequence),
                    "{session}: {sequence}"
                );
                if !known {
                    first_seen.push(*sequence);
                }
            }
            all.extend(first_seen);
        }
        all.sort_unstable();
        assert_eq!(all, (0..total).collect::<Vec<_>>(), "source {source}");
    }
}

#[test]
fn restart_in_a_known_folder_needs_no_registry_and_brokers() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry_with_every_schema();
    let unreachable = KafkaEndpoint::at("127.0.0.1:1");
    let (_cluster, kafka) = brokers();
    Recorder::start(spooled(&kafka, registry.clone(), folder.path())).unwrap().close(TIMEOUT).unwrap();
    // The cached schema id is of an address at which no schema registry runs any more.
    let cache = folder.path().join("schema.json");
    let gone = "http://127.0.0.1:1";
    let cached = std::fs::read_to_string(&cache).unwrap().replace(&registry.url, gone);
    std::fs::write(&cache, cached).unwrap();
    let gone = SchemaRegistryEndpoint::at(gone);
    let recorder = Recorder::start(spooled(&unreachable, gone.clone(), folder.path())).unwrap();
    recorder.record(&started("s")).unwrap();
    // Dropping it would wait for the unreachable brokers.
    std::mem::forget(recorder);

    // A cached id of another schema registry, or an unreadable cache, is not used.
    let other = SchemaRegistryEndpoint::at("http://127.0.0.1:2");
    assert!(matches!(
        Recorder::start(spooled(&kafka, other, folder.path())),
        Err(StartError::SchemaRegistry(_))
    ));
    std::fs::write(&cache, "{").unwrap();
    assert!(matches!(
        Recorder::start(spooled(&kafka, gone, folder.path())),
        Err(StartError::SchemaRegistry(_))
    ));
}

#[test]
fn unusable_spool_is_an_error_with_advice() {
    let (_cluster, kafka) = brokers();
    let folder = tempfile::tempdir().unwrap();
    let good = || spooled(&kafka, registry_with_every_schema(), folder.path());
    let named = RecorderOptions { source_id: Some("mine".into()), ..good() };
    let error = Recorder::start(named).unwrap_err().to_string();
    assert!(error.contains("source_id: expected none, since the recorder has a spool"), "{error}");
    let small = SpoolOptions { max_bytes: 1 << 20, ..SpoolOptions::new(folder.path()) };
    let error = Recorder::start(RecorderOptions { spool: Some(small), ..good() }).unwrap_err().to_string();
    assert!(error.contains("spool.max_bytes: expected at least 4"), "{error}");

    let source = folder.path().join("0192f0c1-dead");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("00000000000000000000.seg"), "not a spool").unwrap();
    let error = Recorder::start(good()).unwrap_err();
    assert!(matches!(&error, StartError::Spool(SpoolError::Damaged { offset: 0, .. })), "{error}");
    assert!(error.to_string().contains("00000000000000000000.seg, byte 0"), "{error}");
    std::fs::remove_dir_all(&source).unwrap();
    assert!(Recorder::start(good()).unwrap().close(TIMEOUT).is_ok());
}
