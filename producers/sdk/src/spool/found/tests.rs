use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::spool::folder::Folder;
use crate::spool::format::{Record, frame};

const TOPIC: &str = "actions";

/// A segment of `count` records from `first` on.
fn segment(first: i64, count: i64, topic: &str) -> Vec<u8> {
    let header = Header {
        source_id: "source-1".into(),
        tenant_id: "acme".into(),
        environment: "test".into(),
        topic: topic.into(),
        schema_id: 7,
        first,
    };
    let (mut bytes, mut one) = (header.to_bytes().unwrap(), Vec::new());
    for sequence in first..first + count {
        frame(&Record { sequence, kind: Kind::Event, key: b"acme/s", value: b"value" }, &mut one);
        bytes.extend_from_slice(&one);
    }
    bytes
}

fn written(segments: &[(i64, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    drop(Folder::lock(folder.path()).unwrap().make("source-1").unwrap());
    for (first, bytes) in segments {
        fs::write(segment_path(&folder.path().join("source-1"), *first), bytes).unwrap();
    }
    folder
}

fn read(folder: &Path) -> Result<Option<(i64, i64)>, SpoolError> {
    let mut dead = Folder::lock(folder).unwrap().claim_dead().unwrap();
    Ok(Found::read(dead.pop().unwrap(), TOPIC)?.map(|found| (found.first, found.end)))
}

fn cut(mut bytes: Vec<u8>, by: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - by);
    bytes
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

#[test]
fn whole_or_torn_at_the_end_it_is_read() {
    let plain = |first, count| segment(first, count, TOPIC);
    for (what, segments, expected) in [
        ("one", vec![(0, plain(0, 3))], (0, 3)),
        ("two", vec![(0, plain(0, 3)), (3, plain(3, 2))], (0, 5)),
        ("the first is durable and gone", vec![(3, plain(3, 2))], (3, 5)),
        ("all but the total is gone", vec![(3, plain(3, 0))], (3, 3)),
        ("the last event torn", vec![(0, plain(0, 3)), (3, cut(plain(3, 2), 1))], (0, 4)),
        ("the last header torn", vec![(0, plain(0, 3)), (3, cut(plain(3, 0), 30))], (0, 3)),
        ("the last not begun", vec![(0, plain(0, 3)), (3, vec![])], (0, 3)),
    ] {
        let folder = written(&segments);
        assert_eq!(read(folder.path()), Ok(Some(expected)), "{what}");
        assert!(folder.path().join("source-1").exists(), "{what}: reading removes nothing");
    }
}

#[test]
fn a_source_that_recorded_nothing_is_removed() {
    for segments in
        [vec![], vec![(0, vec![])], vec![(0, segment(0, 0, TOPIC))], vec![(0, cut(segment(0, 1, TOPIC), 1))]]
    {
        let folder = written(&segments);
        assert_eq!(read(folder.path()), Ok(None));
        assert!(!folder.path().join("source-1").exists());
    }
}

#[test]
fn damage_is_told_with_file_and_offset_and_nothing_is_removed() {
    let plain = |first, count| segment(first, count, TOPIC);
    let head = plain(0, 0).len();
    for (what, segments, file, at) in [
        ("a flipped bit", vec![(0, flipped(plain(0, 3), head + 30)), (3, plain(3, 1))], 0, head),
        ("a flipped bit in the last event", vec![(0, flipped(plain(0, 1), head + 30))], 0, head),
        ("a flipped bit in a header", vec![(0, flipped(plain(0, 1), 40))], 0, 0),
        ("a torn event in the middle", vec![(0, cut(plain(0, 1), 1)), (1, plain(1, 1))], 1, 0),
        ("a torn header in the middle", vec![(0, cut(plain(0, 0), 1)), (3, plain(3, 1))], 0, 0),
        ("a missing segment", vec![(0, plain(0, 3)), (5, plain(5, 1))], 5, 0),
        ("a segment under another name", vec![(0, plain(0, 3)), (3, plain(4, 1))], 3, 0),
        ("another file", vec![(0, b"hello".to_vec())], 0, 0),
    ] {
        let folder = written(&segments);
        let error = read(folder.path()).unwrap_err();
        let path = segment_path(&folder.path().join("source-1"), file);
        assert!(
            matches!(&error, SpoolError::Damaged { file, offset, .. } if *file == path && *offset == at),
            "{what}: {error}"
        );
        assert!(error.to_string().contains("move its folder away"), "{error}");
        for (first, bytes) in &segments {
            let there = fs::read(segment_path(&folder.path().join("source-1"), *first)).unwrap();
            assert_eq!(&there, bytes, "{what}");
        }
    }
}

#[test]
fn events_of_another_topic_are_told() {
    let folder = written(&[(0, segment(0, 1, "elsewhere"))]);
    assert!(matches!(read(folder.path()), Err(SpoolError::OtherTopic { .. })));
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = written(&[(0, segment(0, 1, TOPIC))]);
    for name in ["1.seg", "x.seg", "note.txt"] {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.path().join("source-1").join(name))
            .unwrap();
        file.write_all(b"not ours").unwrap();
    }
    assert_eq!(read(folder.path()), Ok(Some((0, 1))));
}
