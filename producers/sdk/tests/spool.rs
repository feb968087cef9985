//! A process with a spool is killed (SIGKILL) at some moment, again and again, with brokers there and away: what it acknowledged
//! is in the topic, in order, and each source is closed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for product code"
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
use agentgov_schemas::wire;
use agentgov_sdk::{Event, Fsync, Recorder, RecorderOptions, SpoolError, SpoolOptions, StartError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use fake::{brokers, full_registry, options, topic};

const PATIENCE: Duration = Duration::from_secs(60);

fn spooled(kafka: &KafkaEndpoint, registry: SchemaRegistryEndpoint, folder: &Path) -> RecorderOptions {
    let spool = SpoolOptions { fsync: Fsync::Never, ..SpoolOptions::new(folder) };
    RecorderOptions { spool: Some(spool), ..options(kafka, registry) }
}

fn started(session_id: &str) -> Event<'_> {
    Event::new(catalogue::SESSION_STARTED, session_id, Agent { id: "agent", name: None, version: None })
}

#[test]
#[ignore = "the process that the next test kills"]
fn writes_until_it_is_killed() {
    let variable = |name| std::env::var(name).unwrap();
    let kafka = KafkaEndpoint::at(variable("TEST_KAFKA"));
    let registry = SchemaRegistryEndpoint::at(variable("TEST_REGISTRY"));
    let recorder = Recorder::start(spooled(&kafka, registry, Path::new(&variable("TEST_SPOOL")))).unwrap();
    println!("source {}", recorder.source_id());
    for i in 0.. {
        let session = format!("{}-{}", recorder.source_id(), i % 5);
        let receipt = recorder.record(&started(&session)).unwrap();
        println!("acknowledged {}", receipt.sequence);
        #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
        std::io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Runs such a process until it has said so many lines. Its source, and the last sequence that it acknowledged.
fn killed_after(
    lines: usize,
    kafka: &KafkaEndpoint,
    registry: &SchemaRegistryEndpoint,
    folder: &Path,
) -> (String, i64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env("TEST_KAFKA", &kafka.bootstrap)
        .env("TEST_REGISTRY", &registry.url)
        .env("TEST_SPOOL", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut source, mut last, mut heard) = (String::new(), -1, 0);
    let mut hear = |line: String| {
        if let Some((_, id)) = line.split_once("source ") {
            source = id.to_owned();
        } else if let Some(sequence) = line.strip_prefix("acknowledged ") {
            last = sequence.parse().unwrap();
            heard += 1;
        }
        heard
    };
    while hear(said.next().unwrap()) < lines {}
    child.kill().unwrap();
    child.wait().unwrap();
    for line in said {
        hear(line);
    }
    (source, last)
}

/// By source: the sequences of the topic in their order, by session; and the total that it closed with.
type Found = BTreeMap<String, (BTreeMap<String, Vec<i64>>, Option<i64>)>;

fn found(kafka: &KafkaEndpoint, closed: usize) -> Found {
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
    let (mut found, until) = (Found::new(), Instant::now() + PATIENCE);
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
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let (cluster, kafka) = brokers();
    let (registry, folder) = (full_registry(), tempfile::tempdir().unwrap());
    let mut acknowledged = BTreeMap::new();
    for (round, lines) in [1, 40, 700, 3, 300].into_iter().enumerate() {
        // Away from the first event on, and back while the next process recovers. Which starts without them.
        let away = round % 2 == 1;
        if away {
            cluster.broker_down(1).unwrap();
        }
        let (source, last) = killed_after(lines, &kafka, &registry, folder.path());
        assert!(last >= 0 && acknowledged.insert(source, last).is_none());
        if away {
            cluster.broker_up(1).unwrap();
        }
    }
    let last = Recorder::start(spooled(&kafka, registry, folder.path())).unwrap();
    last.wait_for_dead_sources(PATIENCE).unwrap();
    last.close(PATIENCE).unwrap();
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
fn starts_without_registry_and_brokers_where_it_has_started_before() {
    let folder = tempfile::tempdir().unwrap();
    let registry = full_registry();
    let nowhere = KafkaEndpoint::at("127.0.0.1:1");
    let (_cluster, kafka) = brokers();
    Recorder::start(spooled(&kafka, registry.clone(), folder.path())).unwrap().close(PATIENCE).unwrap();
    // The registry has this address no more, and says so to nobody.
    let note = folder.path().join("schema.json");
    let gone = "http://127.0.0.1:1";
    let noted = std::fs::read_to_string(&note).unwrap().replace(&registry.url, gone);
    std::fs::write(&note, noted).unwrap();
    let gone = SchemaRegistryEndpoint::at(gone);
    let recorder = Recorder::start(spooled(&nowhere, gone.clone(), folder.path())).unwrap();
    recorder.record(&started("s")).unwrap();
    std::mem::forget(recorder); // would wait a while for brokers that are not there

    // Another registry's id is worth nothing, and neither is a note that does not read.
    let other = SchemaRegistryEndpoint::at("http://127.0.0.1:2");
    assert!(matches!(Recorder::start(spooled(&kafka, other, folder.path())), Err(StartError::Registry(_))));
    std::fs::write(&note, "{").unwrap();
    assert!(matches!(Recorder::start(spooled(&kafka, gone, folder.path())), Err(StartError::Registry(_))));
}

#[test]
fn says_what_to_do_about_a_spool_that_cannot_be_used() {
    let (_cluster, kafka) = brokers();
    let folder = tempfile::tempdir().unwrap();
    let good = || spooled(&kafka, full_registry(), folder.path());
    let named = RecorderOptions { source_id: Some("mine".into()), ..good() };
    let error = Recorder::start(named).unwrap_err().to_string();
    assert!(error.contains("source_id: expected none, as there is a spool"), "{error}");
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
    assert!(Recorder::start(good()).unwrap().close(PATIENCE).is_ok());
}
