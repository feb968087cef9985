use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::spool::folder::SpoolFolder;
use crate::spool::format::{SpoolRecord, encode_record};

const TOPIC: &str = "actions";

/// Encodes a segment of `count` records from `first` on.
fn segment(first: i64, count: i64, topic: &str) -> Vec<u8> {
    let header = SegmentHeader {
        source_id: "source-1".into(),
        tenant_id: "acme".into(),
        environment: "test".into(),
        topic: topic.into(),
        schema_id: 7,
        first,
    };
    let (mut bytes, mut one) = (header.to_bytes().unwrap(), Vec::new());
    for sequence in first..first + count {
        encode_record(
            &SpoolRecord { sequence, kind: RecordKind::Event, key: b"acme/s", value: b"value" },
            &mut one,
        );
        bytes.extend_from_slice(&one);
    }
    bytes
}

fn write_source(segments: &[(i64, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    drop(SpoolFolder::lock(folder.path()).unwrap().create_source("source-1").unwrap());
    for (first, bytes) in segments {
        fs::write(segment_path(&folder.path().join("source-1"), *first), bytes).unwrap();
    }
    folder
}

fn read(folder: &Path) -> Result<Option<(i64, i64)>, SpoolError> {
    let mut claimed = SpoolFolder::lock(folder).unwrap().claim_dead_sources().unwrap();
    Ok(DeadSource::read(claimed.pop().unwrap(), TOPIC)?.map(|source| (source.first, source.end)))
}

fn truncated(mut bytes: Vec<u8>, by: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - by);
    bytes
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

#[test]
fn source_whole_or_torn_at_its_end_is_read() {
    let plain = |first, count| segment(first, count, TOPIC);
    for (case, segments, expected) in [
        ("one segment", vec![(0, plain(0, 3))], (0, 3)),
        ("two segments", vec![(0, plain(0, 3)), (3, plain(3, 2))], (0, 5)),
        ("the first segment was durable and is removed", vec![(3, plain(3, 2))], (3, 5)),
        ("all segments with events are removed", vec![(3, plain(3, 0))], (3, 3)),
        ("torn last event", vec![(0, plain(0, 3)), (3, truncated(plain(3, 2), 1))], (0, 4)),
        ("torn last header", vec![(0, plain(0, 3)), (3, truncated(plain(3, 0), 30))], (0, 3)),
        ("empty last segment", vec![(0, plain(0, 3)), (3, vec![])], (0, 3)),
    ] {
        let folder = write_source(&segments);
        assert_eq!(read(folder.path()), Ok(Some(expected)), "{case}");
        assert!(folder.path().join("source-1").exists(), "{case}: reading removes no file");
    }
}

#[test]
fn source_without_events_is_removed() {
    for segments in [
        vec![],
        vec![(0, vec![])],
        vec![(0, segment(0, 0, TOPIC))],
        vec![(0, truncated(segment(0, 1, TOPIC), 1))],
    ] {
        let folder = write_source(&segments);
        assert_eq!(read(folder.path()), Ok(None));
        assert!(!folder.path().join("source-1").exists());
    }
}

#[test]
fn damage_is_an_error_with_file_and_offset_and_removes_no_file() {
    let plain = |first, count| segment(first, count, TOPIC);
    let head = plain(0, 0).len();
    for (case, segments, file, at) in [
        ("a flipped bit", vec![(0, flipped(plain(0, 3), head + 30)), (3, plain(3, 1))], 0, head),
        ("a flipped bit in the last event", vec![(0, flipped(plain(0, 1), head + 30))], 0, head),
        ("a flipped bit in a header", vec![(0, flipped(plain(0, 1), 40))], 0, 0),
        ("a torn event in the middle", vec![(0, truncated(plain(0, 1), 1)), (1, plain(1, 1))], 1, 0),
        ("a torn header in the middle", vec![(0, truncated(plain(0, 0), 1)), (3, plain(3, 1))], 0, 0),
        ("a missing segment", vec![(0, plain(0, 3)), (5, plain(5, 1))], 5, 0),
        ("a segment under another name", vec![(0, plain(0, 3)), (3, plain(4, 1))], 3, 0),
        ("another file", vec![(0, b"hello".to_vec())], 0, 0),
    ] {
        let folder = write_source(&segments);
        let error = read(folder.path()).unwrap_err();
        let path = segment_path(&folder.path().join("source-1"), file);
        assert!(
            matches!(&error, SpoolError::Damaged { file, offset, .. } if *file == path && *offset == at),
            "{case}: {error}"
        );
        assert!(error.to_string().contains("move its folder away"), "{error}");
        for (first, bytes) in &segments {
            let there = fs::read(segment_path(&folder.path().join("source-1"), *first)).unwrap();
            assert_eq!(&there, bytes, "{case}");
        }
    }
}

#[test]
fn events_of_another_topic_are_an_error() {
    let folder = write_source(&[(0, segment(0, 1, "elsewhere"))]);
    assert!(matches!(read(folder.path()), Err(SpoolError::OtherTopic { .. })));
}

#[test]
fn foreign_files_are_ignored() {
    let folder = write_source(&[(0, segment(0, 1, TOPIC))]);
    for name in ["1.seg", "x.seg", "note.txt"] {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.path().join("source-1").join(name))
            .unwrap();
        file.write_all(b"foreign").unwrap();
    }
    assert_eq!(read(folder.path()), Ok(Some((0, 1))));
}
