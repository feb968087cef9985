use proptest::prelude::*;

use super::*;

fn header(first: i64) -> SegmentHeader {
    SegmentHeader {
        source_id: "source-1".into(),
        tenant_id: "acme".into(),
        environment: "test".into(),
        topic: "actions".into(),
        schema_id: 7,
        first,
    }
}

type DecodedRecord = (i64, RecordKind, Vec<u8>, Vec<u8>);

/// Encodes a segment with these keys and values. Returns its bytes, the offset of each record, and the records.
fn encode_segment(
    first: i64,
    contents: &[(Vec<u8>, Vec<u8>, bool)],
) -> (Vec<u8>, Vec<usize>, Vec<DecodedRecord>) {
    let (mut bytes, mut begins, mut records) = (header(first).to_bytes().unwrap(), Vec::new(), Vec::new());
    let mut one = Vec::new();
    for (sequence, (key, value, closing)) in (first..).zip(contents) {
        let kind = if *closing { RecordKind::Closing } else { RecordKind::Event };
        encode_record(&SpoolRecord { sequence, kind, key, value }, &mut one);
        assert_eq!(one.len(), encoded_len(key, value));
        begins.push(bytes.len());
        bytes.extend_from_slice(&one);
        records.push((sequence, kind, key.clone(), value.clone()));
    }
    (bytes, begins, records)
}

fn read(bytes: &[u8]) -> (Vec<DecodedRecord>, Option<SegmentError>) {
    let mut records = Vec::new();
    let mut segment = match SegmentReader::open(bytes) {
        Ok(segment) => segment,
        Err(error) => return (records, Some(error)),
    };
    loop {
        match segment.next_record() {
            Ok(Some(SpoolRecord { sequence, kind, key, value })) => {
                records.push((sequence, kind, key.to_vec(), value.to_vec()));
            }
            Ok(None) => return (records, None),
            Err(error) => return (records, Some(error)),
        }
    }
}

fn contents() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>, bool)>> {
    let bytes = |max| prop_oneof![prop::collection::vec(any::<u8>(), 0..max), Just(vec![0; max])];
    prop::collection::vec((bytes(12), bytes(60), any::<bool>()), 0..12)
}

proptest! {
    #[test]
    fn segment_written_is_read_back_unchanged(first in 0..i64::MAX / 2, contents in contents()) {
        let (bytes, _, records) = encode_segment(first, &contents);
        prop_assert_eq!(SegmentReader::open(&bytes).unwrap().header, header(first));
        prop_assert_eq!(read(&bytes), (records, None));
    }

    #[test]
    fn segment_truncated_anywhere_is_a_torn_prefix(contents in contents(), at in any::<prop::sample::Index>()) {
        let (bytes, begins, records) = encode_segment(3, &contents);
        let cut = at.index(bytes.len());
        // The zeros stand for a file that was extended before a power loss.
        for zeros in [0, 5, 100] {
            let mut found_bytes = bytes[..cut].to_vec();
            let (found, error) = read(&found_bytes);
            let whole = begins.iter().chain([&bytes.len()]).skip(1).filter(|end| **end <= cut).count();
            prop_assert_eq!(&found, &records[..whole]);
            let at_an_end = begins.contains(&cut);
            match error {
                None => prop_assert!(at_an_end),
                Some(SegmentError::Torn { offset }) => prop_assert!(!at_an_end && offset <= cut),
                Some(SegmentError::Damaged { .. }) => prop_assert!(false, "{:?}", error),
            }
            if at_an_end && zeros > 0 {
                found_bytes.resize(cut + zeros, 0);
                prop_assert_eq!(read(&found_bytes), (records[..whole].to_vec(), Some(SegmentError::Torn { offset: cut })));
            }
        }
    }

    #[test]
    fn flipped_bit_is_damage_and_earlier_records_are_read(
        contents in contents(), at in any::<prop::sample::Index>(), bit in 0..8,
    ) {
        let (mut bytes, begins, records) = encode_segment(0, &contents);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let (found, error) = read(&bytes);
        let before = begins.iter().filter(|begin| **begin <= at).count().saturating_sub(1);
        prop_assert_eq!(&found, &records[..before]);
        let begin = begins.iter().rev().find(|begin| **begin <= at).copied().unwrap_or(0);
        prop_assert!(matches!(error, Some(SegmentError::Damaged { offset, .. }) if offset == begin), "{:?}", error);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        contents in contents(),
        noise in prop::collection::vec(any::<u8>(), 0..80),
        at in any::<prop::sample::Index>(),
    ) {
        read(&noise);
        let (mut bytes, _, _) = encode_segment(0, &contents);
        let at = at.index(bytes.len());
        bytes.splice(at..(at + noise.len()).min(bytes.len()), noise);
        read(&bytes);
    }
}

/// Corrects the checksum of the segment's head.
fn with_correct_head_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let head = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&head.to_le_bytes());
    bytes
}

#[test]
fn hostile_segment_is_torn_or_damaged() {
    let (good, begins, _) = encode_segment(0, &[(b"k".to_vec(), b"v".to_vec(), false)]);
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let record = |sequence, key_len: u32, kind: u8| {
        let mut head = Vec::new();
        encode_record(&SpoolRecord { sequence, kind: RecordKind::Event, key: b"k", value: b"v" }, &mut head);
        head[..4].copy_from_slice(&key_len.to_le_bytes());
        head[16] = kind;
        let crc = crc32fast::hash(&head[..RECORD_HEAD_BYTES - 4]);
        head[RECORD_HEAD_BYTES - 4..RECORD_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        [&good[..], &head].concat()
    };
    let json = |json: &[u8]| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(crc32fast::hash(json).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(json);
        with_correct_head_checksum(bytes)
    };
    let negative = serde_json::to_vec(&header(-1)).unwrap();
    let end = good.len();
    for (case, bytes, expected) in [
        ("no bytes", vec![], SegmentError::Torn { offset: 0 }),
        ("zeros", vec![0; 4096], SegmentError::Torn { offset: 0 }),
        (
            "text",
            b"hello".to_vec(),
            SegmentError::Damaged { offset: 0, expected: "a segment of a spool, version 1" },
        ),
        (
            "version 2",
            changed(7, &[2]),
            SegmentError::Damaged { offset: 0, expected: "a segment of a spool, version 1" },
        ),
        (
            "4 GiB of header",
            with_correct_head_checksum(changed(8, &u32::MAX.to_le_bytes())),
            SegmentError::Torn { offset: 0 },
        ),
        ("invalid JSON", json(b"{"), SegmentError::Damaged { offset: 0, expected: "a header of version 1" }),
        (
            "negative first sequence",
            json(&negative),
            SegmentError::Damaged { offset: 0, expected: "a first sequence of 0 or more" },
        ),
        ("4 GiB of key", record(1, u32::MAX, 0), SegmentError::Torn { offset: end }),
        (
            "repeated sequence",
            record(0, 1, 0),
            SegmentError::Damaged { offset: end, expected: "the next sequence" },
        ),
        (
            "skipped sequence",
            record(2, 1, 0),
            SegmentError::Damaged { offset: end, expected: "the next sequence" },
        ),
        (
            "unknown kind",
            record(1, 1, 9),
            SegmentError::Damaged { offset: end, expected: "an event or a closing event" },
        ),
        (
            "a value of another record",
            changed(end - 1, b"w"),
            SegmentError::Damaged { offset: begins[0], expected: "the checksum of a record" },
        ),
    ] {
        assert_eq!(read(&bytes).1, Some(expected), "{case}");
    }
}
