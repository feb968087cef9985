use proptest::prelude::*;

use super::*;

fn header(first: i64) -> Header {
    Header {
        source_id: "source-1".into(),
        tenant_id: "acme".into(),
        environment: "test".into(),
        topic: "actions".into(),
        schema_id: 7,
        first,
    }
}

type Written = (i64, Kind, Vec<u8>, Vec<u8>);

/// A segment of these keys and values, and where each record begins.
fn written(first: i64, contents: &[(Vec<u8>, Vec<u8>, bool)]) -> (Vec<u8>, Vec<usize>, Vec<Written>) {
    let (mut bytes, mut begins, mut records) = (header(first).to_bytes().unwrap(), Vec::new(), Vec::new());
    let mut one = Vec::new();
    for (sequence, (key, value, closing)) in (first..).zip(contents) {
        let kind = if *closing { Kind::Closing } else { Kind::Event };
        frame(&Record { sequence, kind, key, value }, &mut one);
        assert_eq!(one.len(), frame_len(key, value));
        begins.push(bytes.len());
        bytes.extend_from_slice(&one);
        records.push((sequence, kind, key.clone(), value.clone()));
    }
    (bytes, begins, records)
}

fn read(bytes: &[u8]) -> (Vec<Written>, Option<Broken>) {
    let mut records = Vec::new();
    let mut segment = match Segment::open(bytes) {
        Ok(segment) => segment,
        Err(broken) => return (records, Some(broken)),
    };
    loop {
        match segment.next() {
            Ok(Some(Record { sequence, kind, key, value })) => {
                records.push((sequence, kind, key.to_vec(), value.to_vec()));
            }
            Ok(None) => return (records, None),
            Err(broken) => return (records, Some(broken)),
        }
    }
}

fn contents() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>, bool)>> {
    let bytes = |most| prop_oneof![prop::collection::vec(any::<u8>(), 0..most), Just(vec![0; most])];
    prop::collection::vec((bytes(12), bytes(60), any::<bool>()), 0..12)
}

proptest! {
    #[test]
    fn what_was_written_is_read(first in 0..i64::MAX / 2, contents in contents()) {
        let (bytes, _, records) = written(first, &contents);
        prop_assert_eq!(Segment::open(&bytes).unwrap().header, header(first));
        prop_assert_eq!(read(&bytes), (records, None));
    }

    #[test]
    fn cut_anywhere_it_is_a_prefix_and_torn(contents in contents(), at in any::<prop::sample::Index>()) {
        let (bytes, begins, records) = written(3, &contents);
        let cut = at.index(bytes.len());
        // Also if the file was made longer before the power went.
        for zeros in [0, 5, 100] {
            let mut there = bytes[..cut].to_vec();
            let (found, broken) = read(&there);
            let whole = begins.iter().chain([&bytes.len()]).skip(1).filter(|end| **end <= cut).count();
            prop_assert_eq!(&found, &records[..whole]);
            let at_an_end = begins.contains(&cut);
            match broken {
                None => prop_assert!(at_an_end),
                Some(Broken::Torn { offset }) => prop_assert!(!at_an_end && offset <= cut),
                Some(Broken::Damaged { .. }) => prop_assert!(false, "{:?}", broken),
            }
            if at_an_end && zeros > 0 {
                there.resize(cut + zeros, 0);
                prop_assert_eq!(read(&there), (records[..whole].to_vec(), Some(Broken::Torn { offset: cut })));
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_what_was_before_it_is_read(
        contents in contents(), at in any::<prop::sample::Index>(), bit in 0..8,
    ) {
        let (mut bytes, begins, records) = written(0, &contents);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let (found, broken) = read(&bytes);
        let before = begins.iter().filter(|begin| **begin <= at).count().saturating_sub(1);
        prop_assert_eq!(&found, &records[..before]);
        let begin = begins.iter().rev().find(|begin| **begin <= at).copied().unwrap_or(0);
        prop_assert!(matches!(broken, Some(Broken::Damaged { offset, .. }) if offset == begin), "{:?}", broken);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        contents in contents(),
        noise in prop::collection::vec(any::<u8>(), 0..80),
        at in any::<prop::sample::Index>(),
    ) {
        read(&noise);
        let (mut bytes, _, _) = written(0, &contents);
        let at = at.index(bytes.len());
        bytes.splice(at..(at + noise.len()).min(bytes.len()), noise);
        read(&bytes);
    }
}

/// Bytes with their checksums made right again: what a clever or unlucky writer could leave.
fn with_right_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    let head = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&head.to_le_bytes());
    bytes
}

#[test]
fn hostile_segments() {
    let (good, begins, _) = written(0, &[(b"k".to_vec(), b"v".to_vec(), false)]);
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let record = |sequence, key_len: u32, kind: u8| {
        let mut head = Vec::new();
        frame(&Record { sequence, kind: Kind::Event, key: b"k", value: b"v" }, &mut head);
        head[..4].copy_from_slice(&key_len.to_le_bytes());
        head[16] = kind;
        let crc = crc32fast::hash(&head[..RECORD_HEAD - 4]);
        head[RECORD_HEAD - 4..RECORD_HEAD].copy_from_slice(&crc.to_le_bytes());
        [&good[..], &head].concat()
    };
    let json = |json: &[u8]| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(crc32fast::hash(json).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(json);
        with_right_checksums(bytes)
    };
    let negative = serde_json::to_vec(&header(-1)).unwrap();
    let end = good.len();
    for (what, bytes, expected) in [
        ("nothing", vec![], Broken::Torn { offset: 0 }),
        ("zeros", vec![0; 4096], Broken::Torn { offset: 0 }),
        (
            "text",
            b"hello".to_vec(),
            Broken::Damaged { offset: 0, expected: "a segment of a spool, version 1" },
        ),
        (
            "version 2",
            changed(7, &[2]),
            Broken::Damaged { offset: 0, expected: "a segment of a spool, version 1" },
        ),
        (
            "4 GiB of header",
            with_right_checksums(changed(8, &u32::MAX.to_le_bytes())),
            Broken::Torn { offset: 0 },
        ),
        ("no JSON", json(b"{"), Broken::Damaged { offset: 0, expected: "a header of version 1" }),
        (
            "before 0",
            json(&negative),
            Broken::Damaged { offset: 0, expected: "a first sequence of 0 or more" },
        ),
        ("4 GiB of key", record(1, u32::MAX, 0), Broken::Torn { offset: end }),
        ("a number twice", record(0, 1, 0), Broken::Damaged { offset: end, expected: "the next sequence" }),
        ("a number too far", record(2, 1, 0), Broken::Damaged { offset: end, expected: "the next sequence" }),
        (
            "no kind",
            record(1, 1, 9),
            Broken::Damaged { offset: end, expected: "an event or a closing event" },
        ),
        (
            "a value of another record",
            changed(end - 1, b"w"),
            Broken::Damaged { offset: begins[0], expected: "the checksum of a record" },
        ),
    ] {
        assert_eq!(read(&bytes).1, Some(expected), "{what}");
    }
}
