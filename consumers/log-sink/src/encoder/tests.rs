use std::collections::BTreeSet;

use agentgov_connect::SchemaRegistryEndpoint;
use agentgov_runtime::sink::{Headers, TopicPartition};
use agentgov_schemas::Millis;
use agentgov_schemas::topology::Topology;

use super::*;
use crate::tables::feeds;

/// Returns an encoder whose schema registry is never called.
fn encoder() -> (LogEncoder, Vec<Feed>) {
    let feeds = feeds(&Topology::embedded().unwrap()).unwrap();
    let registry =
        agentgov_connect::SchemaRegistry::new(&SchemaRegistryEndpoint::at("http://127.0.0.1:9")).unwrap();
    let (health, stop) = (Health::new("log-sink"), ShutdownSignal::default());
    (LogEncoder::new(&feeds, SchemaCache::new(registry), RecordedSchemas::default(), &health, &stop), feeds)
}

/// Returns the names of a table's columns, as its migrations declare and add them; nested ones with a dot.
fn declared(table: &str) -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let files = std::fs::read_dir(folder).unwrap();
    let files: Vec<_> = files.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    let of = |statement: &str| {
        let of = files.iter().filter(|sql| sql.lines().any(|line| line == format!("{statement} {table}")));
        of.flat_map(|sql| sql.lines()).filter_map(|line| line.strip_prefix("    ")).collect::<Vec<_>>()
    };
    let made = of("CREATE TABLE IF NOT EXISTS").into_iter();
    let made = made.filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.ends_with(','));
    let added =
        of("ALTER TABLE").into_iter().filter_map(|line| line.strip_prefix("ADD COLUMN IF NOT EXISTS "));
    made.chain(added)
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            match kind.strip_prefix("Nested(") {
                None => vec![name.to_owned()],
                Some(nested) => {
                    nested.split(", ").map(|n| format!("{name}.{}", n.split(' ').next().unwrap())).collect()
                }
            }
        })
        .collect()
}

#[test]
fn rows_have_the_columns_of_the_migrations() {
    let (encoder, feeds) = encoder();
    for feed in feeds {
        let block = encoder.block(&feed.route.topic).unwrap();
        let names: BTreeSet<_> = block.names().map(str::to_owned).collect();
        assert_eq!(names, declared(&feed.route.table), "{}", feed.route.table);
    }
}

#[test]
fn undecodable_record_is_a_row() {
    let (mut encoder, feeds) = encoder();
    for feed in feeds {
        let at = TopicPartition::new(&feed.route.topic, 3);
        let mut block = encoder.block(&feed.route.topic).unwrap();
        let bad: [(Option<&[u8]>, &str); 4] = [
            (None, "empty_value"),
            (Some(b""), "empty_value"),
            (Some(b"{}"), "wrong_magic_byte"),
            (Some(&[0, 0, 0]), "truncated_header"),
        ];
        for (value, reason) in bad {
            let record = Record {
                at: &at,
                offset: 7,
                logged_at: Millis(0),
                key: None,
                value,
                headers: Headers::none(),
                skipped: 0,
            };
            block.clear();
            assert_eq!(encoder.push(&mut block, &record, 1).unwrap(), EncodeOutcome::Row);
            let encoded = block.encode().unwrap();
            let found = encoded.windows(reason.len()).any(|window| window == reason.as_bytes());
            assert!(found, "{}: {reason}", feed.route.table);
        }
    }
}

#[test]
fn shutdown_during_a_registry_outage_leaves_the_block_unchanged() {
    let (mut encoder, feeds) = encoder();
    let topic = &feeds[0].route.topic;
    let at = TopicPartition::new(topic, 0);
    let mut block = encoder.block(topic).unwrap();
    let record = Record {
        at: &at,
        offset: 0,
        logged_at: Millis(0),
        key: None,
        value: Some(&[0, 0, 0, 0, 1, 2]),
        headers: Headers::none(),
        skipped: 0,
    };
    encoder.stop.request();
    assert_eq!(encoder.push(&mut block, &record, 1).unwrap(), EncodeOutcome::Stopped);
    assert_eq!(block.rows(), 0);
}
