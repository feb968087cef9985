use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;
use crate::spool::RecordKind;
use crate::spool::dead_source::DeadSource;

const MAX: u64 = 1 << 20;
/// Minimum size of a spool for records of 15,000 bytes.
const SMALL: u64 = 64 << 10;

fn header() -> SegmentHeader {
    SegmentHeader {
        source_id: "source-1".into(),
        tenant_id: "acme".into(),
        environment: "test".into(),
        topic: "actions".into(),
        schema_id: 7,
        first: 0,
    }
}

fn spool(folder: &Path, fsync: Fsync) -> Spool {
    bounded(folder, fsync, MAX, None)
}

fn bounded(folder: &Path, fsync: Fsync, max_bytes: u64, syncer: Option<&Syncer>) -> Spool {
    let options = SpoolOptions { folder: folder.to_owned(), max_bytes, fsync };
    let on_sync_error = |error| panic!("{error}");
    Spool::create(&SpoolFolder::lock(folder).unwrap(), header(), &options, syncer, on_sync_error).unwrap()
}

fn append(spool: &mut Spool, sequence: i64, value: &[u8], durable: i64) -> AppendOutcome {
    let record = SpoolRecord { sequence, kind: RecordKind::Event, key: b"acme/s", value };
    spool.append(&record, || durable).unwrap()
}

/// Returns the first sequence and the end of the dead source in the folder.
fn dead_range(folder: &Path) -> Option<(i64, i64)> {
    let mut claimed = SpoolFolder::lock(folder).unwrap().claim_dead_sources().unwrap();
    let source = DeadSource::read(claimed.pop().unwrap(), "actions").unwrap();
    source.map(|source| (source.first, source.end))
}

fn bytes_on_disk(spool: &Spool) -> u64 {
    let entries = std::fs::read_dir(&spool.folder.path).unwrap().map(Result::unwrap);
    let segments = entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "seg"));
    segments.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn appended_records_are_read_back_with_every_policy() {
    for fsync in [Fsync::EveryEvent, Fsync::Every(Duration::from_millis(1)), Fsync::Never] {
        let folder = tempfile::tempdir().unwrap();
        let syncer = Syncer::start(Duration::from_millis(1)).unwrap();
        let mut spool = bounded(folder.path(), fsync, MAX, Some(&syncer));
        // Enough for several segments.
        for sequence in 0..40 {
            assert_eq!(append(&mut spool, sequence, &[b'x'; 5_000], 0), AppendOutcome::Appended);
        }
        assert!(spool.closed.len() >= 2);
        drop(spool);
        assert_eq!(dead_range(folder.path()), Some((0, 40)), "{fsync:?}");
    }
}

#[test]
fn spool_stays_within_its_bound_and_frees_durable_segments() {
    for (max, small, large) in [(MAX, 4_000, 200_000), (SMALL, 1_000, 15_000)] {
        check_bound(max, small, large);
    }
}

fn check_bound(max: u64, small: usize, large: usize) {
    let folder = tempfile::tempdir().unwrap();
    assert!(min_spool_bytes(&header().to_bytes().unwrap(), large) <= max);
    let mut spool = bounded(folder.path(), Fsync::Never, max, None);
    let (mut sequence, mut durable, mut waits) = (0, 0, 0);
    while sequence < 2_000 {
        // Some records are larger than a segment.
        let value = vec![b'x'; if sequence % 97 == 0 { large } else { small }];
        match append(&mut spool, sequence, &value, durable) {
            AppendOutcome::Appended => sequence += 1,
            AppendOutcome::Full { until, bytes } => {
                assert!(
                    durable < until && until <= sequence,
                    "would wait for ever: {durable} {until} {sequence}"
                );
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
    let (first, end) = dead_range(folder.path()).unwrap();
    assert!(first <= durable && end == 2_000, "{first} {end}");
}

#[test]
fn undone_append_leaves_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::Never);
    append(&mut spool, 0, b"first", 0);
    append(&mut spool, 1, b"second", 0);
    spool.undo_append().unwrap();
    append(&mut spool, 1, b"another second", 0);
    assert_eq!(bytes_on_disk(&spool), spool.total);
    drop(spool);
    assert_eq!(dead_range(folder.path()), Some((0, 2)));
}

#[test]
fn removed_spool_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::Never);
    for sequence in 0..40 {
        append(&mut spool, sequence, &[b'x'; 5_000], 0);
    }
    spool.remove().unwrap();
    assert!(SpoolFolder::lock(folder.path()).unwrap().claim_dead_sources().unwrap().is_empty());
    assert!(!folder.path().join("source-1").exists());
}

impl Spool {
    /// Makes the next writes fail as on a full disk: replaces the file by a file in memory that cannot grow. With
    /// `cannot_shrink`, truncating it fails as well.
    pub(crate) fn fill_disk(&mut self, cannot_shrink: bool) {
        let mut full = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap());
        full.write_all(&std::fs::read(&self.active.path).unwrap()).unwrap();
        if cannot_shrink {
            // One byte more than the records, so that truncating has to shrink the file.
            full.set_len(self.active.len + 1).unwrap();
        }
        let shrink = if cannot_shrink { SealFlags::SHRINK } else { SealFlags::empty() };
        fcntl_add_seals(&full, SealFlags::GROW | shrink).unwrap();
        self.active.file = Arc::new(full);
    }

    /// Opens the original file again, as on a disk with room.
    pub(crate) fn free_disk(&mut self) {
        self.active.file = Arc::new(OpenOptions::new().append(true).open(&self.active.path).unwrap());
    }
}

#[test]
fn full_disk_rejects_appends_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::EveryEvent);
    append(&mut spool, 0, b"first", 0);
    let record = SpoolRecord { sequence: 1, kind: RecordKind::Event, key: b"acme/s", value: b"second" };
    spool.fill_disk(false);
    for _ in 0..2 {
        let error = spool.append(&record, || 0).unwrap_err();
        let AppendError::Unchanged(SpoolError::Io { operation: "appending an event", .. }) = error else {
            panic!("{error:?}")
        };
    }
    spool.free_disk();
    assert_eq!(spool.append(&record, || 0).unwrap(), AppendOutcome::Appended);
    spool.fill_disk(true);
    let error = spool.append(&SpoolRecord { sequence: 2, ..record }, || 0).unwrap_err();
    assert!(matches!(error, AppendError::Indeterminate(_)), "{error:?}");
    drop(spool);
    assert_eq!(dead_range(folder.path()), Some((0, 2)));
}

/// A decision point on a full disk would deny every call otherwise, even when all of its events are in Kafka.
#[test]
fn full_disk_has_room_again_once_the_events_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spool(folder.path(), Fsync::Never);
    append(&mut spool, 0, b"first", 0);
    append(&mut spool, 1, b"second", 0);
    let first = segment_path(&spool.folder.path, 0);
    let record = SpoolRecord { sequence: 2, kind: RecordKind::Event, key: b"acme/s", value: b"third" };
    spool.fill_disk(false);
    let error = spool.append(&record, || 1).unwrap_err();
    assert!(matches!(error, AppendError::Unchanged(_)), "one event is not durable: {error:?}");
    assert!(first.exists() && reserve_path(&spool.folder.path).exists());
    assert_eq!(spool.append(&record, || 2).unwrap(), AppendOutcome::Appended);
    assert!(!first.exists(), "its events are durable");
    assert!(reserve_path(&spool.folder.path).exists());
    assert_eq!(spool.total, bytes_on_disk(&spool));
    drop(spool);
    assert_eq!(dead_range(folder.path()), Some((2, 3)));
}
