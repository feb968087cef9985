//! Fuzz check: any bytes as records of the topic of actions. Each record becomes a row of the log, the kernel steps the
//! decodable ones, and the audit finishes. A record is a byte of flags, a byte with the key's length, the key, two bytes
//! with the value's length, and the value.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentgov_audit::{Record as Audited, examine};
use agentgov_enrichment::{AgentTable, Session, ToolTable};
use agentgov_log_sink::ActionRows;
use agentgov_policy::{Bundle, BundleFiles, BundleTable, Kernel, KeySet, RequestCache};
use agentgov_runtime::sink::{Headers, Record as Logged, TopicPartition};
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::{AgentEntry, AgentState};
use agentgov_schemas::topology::{HumanDuration, SessionLimits};
use agentgov_schemas::verdict::Origin;
use agentgov_schemas::wire::{self, Encoder, SchemaId};
use agentgov_schemas::{Millis, subject};

const PARTITIONS: usize = 4;

struct Record<'d> {
    partition: i32,
    offset: i64,
    key: Option<&'d [u8]>,
    value: Option<&'d [u8]>,
}

pub fn check(data: &[u8]) {
    let records = records(data);
    check_rows(&records);
    check_steps(&records);
    check_audit(&records);
}

fn records(mut data: &[u8]) -> Vec<Record<'_>> {
    let mut next: HashMap<i32, i64> = HashMap::new();
    let mut records = Vec::new();
    while let [flags, length, rest @ ..] = data {
        let (key, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let (length, rest) = match rest {
            [a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            rest => (0, rest),
        };
        let (value, rest) = rest.split_at(length.min(rest.len()));
        let partition = i32::from(flags >> 2) % PARTITIONS as i32;
        let next = next.entry(partition).or_default();
        records.push(Record {
            partition,
            offset: *next,
            key: (flags & 1 == 0).then_some(key),
            value: (flags & 2 == 0).then_some(value),
        });
        // Skipped offsets must not count as loss.
        *next += 1 + i64::from(flags >> 6);
        data = rest;
    }
    records
}

/// Checks that every record becomes a row.
fn check_rows(records: &[Record<'_>]) {
    let mut actions = ActionRows::new().expect("a schema of this build");
    for record in records {
        let at = TopicPartition::new("actions", record.partition);
        let Record { offset, key, value, .. } = *record;
        let (logged_at, headers) = (Millis(offset), Headers::none());
        actions.push(&Logged { at: &at, offset, logged_at, key, value, headers, skipped: 0 });
    }
    assert_eq!(actions.rows(), records.len());
    let bytes = actions.encode().expect("each row has each of its cells");
    assert!(bytes.len() >= records.iter().filter_map(|record| record.value).map(<[u8]>::len).sum::<usize>());
}

/// Checks that each judged event gets a verdict, and that each verdict can be encoded.
fn check_steps(records: &[Record<'_>]) {
    let (agents, bundles, requests) = (agents(), BundleTable::with_bundle(bundle()), RequestCache::default());
    let limits =
        SessionLimits { ttl: HumanDuration(Duration::from_secs(3600)), max_facts: 100, max_bytes: 1 << 16 };
    let kernel = Kernel {
        agents: &agents,
        tools: &ToolTable::default(),
        bundles: &bundles,
        keys: const { &KeySet::new() },
        limits,
        agents_topic: "agents",
        tools_topic: "tools",
        bundles_topic: "bundles",
        requests: &requests,
    };
    let schema = subject::ACTION_EVENT.schema().expect("a schema of this build");
    let mut verdicts = Encoder::new(SchemaId(7), subject::VERDICT.schema().expect("a schema of this build"));
    let mut sessions: HashMap<(String, String), Session> = HashMap::new();
    for record in records {
        let Ok((id, datum)) = wire::split(record.value.unwrap_or_default()) else { continue };
        let event = match schema.decode::<ActionEvent<'_>>(id, datum) {
            Ok(event) => event,
            Err(error) => {
                assert!(!error.reason().as_str().is_empty(), "{error}");
                continue;
            }
        };
        let origin = Origin {
            topic: "actions",
            partition: record.partition,
            offset: record.offset,
            logged_at: Millis(record.offset),
        };
        let name = (event.tenant_id.to_owned(), event.session_id.to_owned());
        let session = sessions.entry(name).or_default();
        let step = kernel.step(session, &event, &origin).expect("no invariant is broken");
        assert_eq!(step.verdict.is_some(), event.is_judged());
        if let Some(judgement) = &step.verdict {
            verdicts.encode(&judgement.verdict(&event, &origin)).expect("a verdict fits its schema");
        }
    }
}

/// Checks that the audit counts every record and is deterministic.
fn check_audit(records: &[Record<'_>]) {
    let schema = subject::ACTION_EVENT.schema().expect("a schema of this build").text();
    let audited = || {
        records.iter().map(|Record { partition, offset, key, value }| Audited {
            partition: *partition,
            offset: *offset,
            logged_at: *offset,
            key: *key,
            value: *value,
        })
    };
    let report = examine(schema, PARTITIONS, audited());
    assert_eq!(report.records, records.len() as u64);
    assert_eq!(examine(schema, PARTITIONS, audited()), report);
}

fn agents() -> AgentTable {
    let mut agents = AgentTable::default();
    let entry = AgentEntry {
        name: "Service agent",
        owner: "customer-care",
        roles: vec!["airline-agent"],
        ..AgentEntry::new("airline", "airline-service", AgentState::Active)
    };
    agents.fold(&entry, 0);
    agents
}

/// Compiles the airline's bundle of the corpus.
fn bundle() -> Arc<Bundle> {
    static BUNDLE: OnceLock<Arc<Bundle>> = OnceLock::new();
    let compile = || {
        let text = include_str!("../corpus/bundle/airline");
        let files = text.split("=== ").skip(1).filter_map(|file| file.split_once('\n'));
        let files = files.map(|(path, content)| (path.to_owned(), content.as_bytes().to_vec()));
        Arc::new(Bundle::compile(&BundleFiles(files.collect())).expect("it is a seed that compiles"))
    };
    Arc::clone(BUNDLE.get_or_init(compile))
}
