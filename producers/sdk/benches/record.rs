//! Cost of `record` for its caller: the pure part, and each spool policy with brokers in this process. With AGENTGOV_KAFKA
//! (host:port) and AGENTGOV_SCHEMA_REGISTRY (URL) of a stack with the topology applied, also against that stack.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "a benchmark fails by a panic")]

#[path = "../tests/fake/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod fake;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_schemas::subject::ACTION_EVENT;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::wire::SchemaId;
use agentgov_sdk::{
    Composer, Content, Event, Fsync, Message, Recorder, RecorderOptions, SpoolOptions, ToolCall,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rdkafka::mocking::MockCluster;

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn event(arguments: &[u8]) -> Event<'_> {
    let agent = Agent { id: "bench-agent", name: None, version: Some("1.0") };
    let content = Content { data: arguments, media_type: "application/json" };
    Event {
        message: Some(Message { id: "m7", role: "assistant", has_text: false, tool_calls: 1, content: None }),
        tool: Some(ToolCall::new("get_reservation_details", "call_oIHa", content)),
        ..Event::new(catalogue::TOOL_INVOKED, "0192f0c1-7a3b-8c4d-9e5f-001122334455", agent)
    }
}

fn pure(c: &mut Criterion) {
    let composer = Composer::new("bench", "bench", "bench", SchemaId(1), 1 << 20).unwrap();
    let mut encoder = composer.encoder();
    let mut value = Vec::new();
    let mut group = c.benchmark_group("pure: check, digest, encode");
    for size in SIZES {
        let arguments = vec![b'x'; size];
        let event = event(&arguments);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{size} B of arguments"), |b| {
            b.iter(|| {
                let prepared = composer.prepare(black_box(&event)).unwrap();
                prepared.encode_into(black_box(7), &mut encoder, &mut value).unwrap();
            });
        });
    }
}

/// Measures `record` without a spool and with each spool policy, against librdkafka's mock brokers in this process.
fn spooled(c: &mut Criterion) {
    let topology = Arc::new(Topology::embedded().unwrap());
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topology.topic_of(ACTION_EVENT).unwrap().0, 3, 1).unwrap();
    let kafka = KafkaEndpoint::at(cluster.bootstrap_servers());
    let registry = fake::registry_with_every_schema();
    let folder = tempfile::tempdir().unwrap();
    let timeout = Duration::from_secs(60);
    let mut group = c.benchmark_group("brokers in this process");
    group.sample_size(20);
    for (name, fsync) in [
        ("no spool", None),
        ("never synced", Some(Fsync::Never)),
        ("synced every 100 ms", Some(Fsync::Every(Duration::from_millis(100)))),
        ("every event synced", Some(Fsync::EveryEvent)),
    ] {
        let options =
            RecorderOptions::new(kafka.clone(), registry.clone(), Arc::clone(&topology), "bench", "bench");
        let spool = fsync.map(|fsync| SpoolOptions { fsync, ..SpoolOptions::new(folder.path()) });
        let recorder = Recorder::start(RecorderOptions { spool, ..options }).unwrap();
        let arguments = vec![b'x'; 1_000];
        let event = event(&arguments);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("record, {name}, 1000 B of arguments"), |b| {
            b.iter_custom(|events| {
                recorder.flush(timeout).unwrap();
                let start = Instant::now();
                for _ in 0..events {
                    recorder.record(&event).unwrap();
                }
                start.elapsed()
            });
        });
        recorder.close(timeout).unwrap();
    }
}

fn recorder() -> Option<Recorder> {
    let kafka = KafkaEndpoint::at(std::env::var("AGENTGOV_KAFKA").ok()?);
    let registry = SchemaRegistryEndpoint::at(std::env::var("AGENTGOV_SCHEMA_REGISTRY").ok()?);
    let topology = Arc::new(Topology::embedded().unwrap());
    Some(Recorder::start(RecorderOptions::new(kafka, registry, topology, "bench", "bench")).unwrap())
}

fn on_a_stack(c: &mut Criterion) {
    let Some(recorder) = recorder() else {
        eprintln!("skipped: record on a stack (AGENTGOV_KAFKA and AGENTGOV_SCHEMA_REGISTRY are not set)");
        return;
    };
    let timeout = Duration::from_secs(60);
    let mut group = c.benchmark_group("on a stack");
    for size in SIZES {
        let arguments = vec![b'x'; size];
        let event = event(&arguments);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("record, {size} B of arguments"), |b| {
            b.iter_custom(|events| {
                // Empties the buffer, so that earlier events do not affect the measurement.
                recorder.flush(timeout).unwrap();
                let start = Instant::now();
                for _ in 0..events {
                    recorder.record(&event).unwrap();
                }
                start.elapsed()
            });
        });
        group.bench_function(format!("record, and durable at the end, {size} B of arguments"), |b| {
            b.iter_custom(|events| {
                let start = Instant::now();
                for _ in 0..events {
                    recorder.record(&event).unwrap();
                }
                recorder.flush(timeout).unwrap();
                start.elapsed()
            });
        });
    }
    drop(group);
    recorder.close(timeout).unwrap();
}

criterion_group!(benches, pure, spooled, on_a_stack);
criterion_main!(benches);
