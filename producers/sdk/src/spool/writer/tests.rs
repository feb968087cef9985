use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;
use crate::spool::Kind;
use crate::spool::found::Found;

const MAX: u64 = 1 << 20;
/// The smallest that records of 15,000 bytes allow.
const SMALL: u64 = 64 << 10;

fn header() -> Header {
    Header {
        source_id: "source-1".into(),
        tenant_id: "acme".into(),
        environment: "test".into(),
        topic: "actions".into(),
        schema_id: 7,
        first: 0,
    }
}

fn spool(folder: &Path, fsync: Fsync) -> Spool {
    bounded(folder, fsync, MAX)
}

fn bounded(folder: &Path, fsync: Fsync, max_bytes: u64) -> Spool {
    let options = SpoolOptions { folder: folder.to_owned(), max_bytes, fsync };
    let failed = |error| panic!("{error}");
    Spool::create(&Folder::lock(folder).unwrap(), header(), &options, failed).unwrap()
}

fn append(spool: &mut Spool, sequence: i64, value: &[u8], durable: i64) -> Appended {
    let record = Record { sequence, kind: Kind::Event, key: b"acme/s", value };
    spool.append(&record, || durable).unwrap()
}

/// First sequence and end of what a spool that is not used any more holds.
fn left(folder: &Path) -> Option<(i64, i64)> {
    let mut dead = Folder::lock(folder).unwrap().claim_dead().unwrap();
    let found = Found::read(dead.pop().unwrap(), "actions").unwrap();
    found.map(|found| (found.first, found.end))
}

fn bytes_on_disk(spool: &Spool) -> u64 {
    let sizes =
        std::fs::read_dir(&spool.folder.path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    sizes.sum()
}

#[test]
fn every_policy_keeps_what_was_appended() {
    for fsync in [Fsync::EveryEvent, Fsync::Every(Duration::from_millis(1)), Fsync::Never] {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(folder.path(), fsync);
        // Some segments' worth.
        for sequence in 0..40 {
            assert_eq!(append(&mut spool, sequence, &[b'x'; 5_000], 0), Appended::Yes);
        }
        assert!(spool.sealed.len() >= 2);
        drop(spool);
        assert_eq!(left(folder.path()), Some((0, 40)), "{fsync:?}");
    }
}

#[test]
fn never_more_bytes_than_its_bound_and_room_again_when_they_are_durable() {
    for (max, small, large) in [(MAX, 4_000, 200_000), (SMALL, 1_000, 15_000)] {
        stays_within(max, small, large);
    }
}

fn stays_within(max: u64, small: usize, large: usize) {
    let folder = tempfile::tempdir().unwrap();
    assert!(least_bytes(&header().to_bytes().unwrap(), large) <= max);
    let mut spool = bounded(folder.path(), Fsync::Never, max);
    let (mut sequence, mut durable, mut waits) = (0, 0, 0);
    while sequence < 2_000 {
        // Now and then one that is larger than a segment may be.
        let value = vec![b'x'; if sequence % 97 == 0 { large } else { small }];
        match append(&mut spool, sequence, &value, durable) {
            Appended::Yes => sequence += 1,
            Appended::Full { until, bytes } => {
                assert!(durable < until && until <= sequence, "waits for ever: {durable} {until} {sequence}");
                assert!(bytes <= max && bytes > max / 2, "{bytes}");
                durable = until;
                waits += 1;
            }
        }
        assert!(bytes_on_disk(&spool) <= max);
        assert_eq!(bytes_on_disk(&spool), spool.total);
    }
    assert!(waits > 10, "{waits}");
    drop(spool);
    let (first, end) = left(folder.path()).unwrap();
    assert!(first <= durable && end == 2_000, "{first} {end}");
}

#[test]
fn what_is_taken_back_was_never_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::Never);
    append(&mut spool, 0, b"first", 0);
    append(&mut spool, 1, b"second", 0);
    spool.rollback_to().unwrap();
    append(&mut spool, 1, b"another second", 0);
    assert_eq!(bytes_on_disk(&spool), spool.total);
    drop(spool);
    assert_eq!(left(folder.path()), Some((0, 2)));
}

#[test]
fn a_closed_source_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::Never);
    for sequence in 0..40 {
        append(&mut spool, sequence, &[b'x'; 5_000], 0);
    }
    spool.remove().unwrap();
    assert!(Folder::lock(folder.path()).unwrap().claim_dead().unwrap().is_empty());
    assert!(!folder.path().join("source-1").exists());
}

impl Spool {
    /// Has the next writes find a disk that is full: in memory, sealed against growing. And, if `stuck`, against being cut.
    pub(crate) fn fill_disk(&mut self, stuck: bool) {
        let mut full = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap());
        full.write_all(&std::fs::read(&self.active.path).unwrap()).unwrap();
        if stuck {
            // As long as nothing can be.
            full.set_len(self.active.len + 1).unwrap();
        }
        let shrink = if stuck { SealFlags::SHRINK } else { SealFlags::empty() };
        fcntl_add_seals(&full, SealFlags::GROW | shrink).unwrap();
        self.active.file = Arc::new(full);
    }

    /// The disk has room again.
    pub(crate) fn free_disk(&mut self) {
        self.active.file = Arc::new(OpenOptions::new().append(true).open(&self.active.path).unwrap());
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::EveryEvent);
    append(&mut spool, 0, b"first", 0);
    let record = Record { sequence: 1, kind: Kind::Event, key: b"acme/s", value: b"second" };
    spool.fill_disk(false);
    for _ in 0..2 {
        let error = spool.append(&record, || 0).unwrap_err();
        let AppendError::Refused(SpoolError::Io { doing: "appending an event", .. }) = error else {
            panic!("{error:?}")
        };
    }
    spool.free_disk();
    assert_eq!(spool.append(&record, || 0).unwrap(), Appended::Yes);
    spool.fill_disk(true);
    let error = spool.append(&Record { sequence: 2, ..record }, || 0).unwrap_err();
    assert!(matches!(error, AppendError::Broken(_)), "nobody knows what it holds: {error:?}");
    drop(spool);
    assert_eq!(left(folder.path()), Some((0, 2)));
}
