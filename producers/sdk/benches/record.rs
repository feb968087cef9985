//! What recording an event costs its caller. The pure part and the spool's policies always; against a real stack where the environment names one:
//! AGENTGOV_KAFKA (host:port) and AGENTGOV_SCHEMA_REGISTRY (URL), with the topology applied.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a measurement stops where it cannot go on"
)]

#[path = "../tests/fake/mod.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
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

/// What `record` costs with a spool under each policy, beside none. The brokers are librdkafka's own, in this process.
fn spooled(c: &mut Criterion) {
    let topology = Arc::new(Topology::embedded().unwrap());
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topology.topic_of(ACTION_EVENT).unwrap().0, 3, 1).unwrap();
    let kafka = KafkaEndpoint::at(cluster.bootstrap_servers());
    let registry = fake::full_registry();
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_secs(60);
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
                recorder.flush(patience).unwrap();
                let start = Instant::now();
                for _ in 0..events {
                    recorder.record(&event).unwrap();
                }
                start.elapsed()
            });
        });
        recorder.close(patience).unwrap();
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
    let patience = Duration::from_secs(60);
    let mut group = c.benchmark_group("on a stack");
    for size in SIZES {
        let arguments = vec![b'x'; size];
        let event = event(&arguments);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("record, {size} B of arguments"), |b| {
            b.iter_custom(|events| {
                // What stands in the buffer from before is not this measurement's.
                recorder.flush(patience).unwrap();
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
                recorder.flush(patience).unwrap();
                start.elapsed()
            });
        });
    }
    drop(group);
    recorder.close(patience).unwrap();
}

criterion_group!(benches, pure, spooled, on_a_stack);
criterion_main!(benches);
