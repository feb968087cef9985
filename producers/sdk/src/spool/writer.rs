//! Segments of the live source: appends records, starts new segments, and removes durable ones.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self as stdio, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::{SourceFolder, SpoolFolder, remove_file, reserve_path, sync_folder};
use super::format::{SegmentHeader, SpoolRecord, encode_record, encoded_len};
use super::sync::{SyncedFile, Syncer};
use super::{SpoolError, io};
use crate::{Fsync, SpoolOptions};

/// Target number of segments of a spool. Durable events are removed by whole segments.
const SEGMENTS_PER_SPOOL: u64 = 16;
/// Smallest and largest size of a segment.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(16 << 20);

/// Bytes of the reserve: room for the header of a segment, and for its entry in the folder.
const RESERVE_BYTES: usize = 8 << 10;

/// Spool of the live source.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: SourceFolder,
    header: SegmentHeader,
    fsync: Fsync,
    max_bytes: u64,
    active: ActiveSegment,
    /// Closed segments, the oldest first.
    closed: VecDeque<ClosedSegment>,
    /// Bytes of all segments.
    total: u64,
    /// Encoded form of the last record.
    encoded: Vec<u8>,
    /// With [`Fsync::Every`].
    synced: Option<SyncedFile>,
}

/// The segment that records are appended to.
#[derive(Debug)]
struct ActiveSegment {
    path: PathBuf,
    file: Arc<File>,
    /// Bytes of whole records. A failed write may leave further bytes in the file.
    len: u64,
    first: i64,
    next: i64,
}

#[derive(Debug)]
struct ClosedSegment {
    path: PathBuf,
    len: u64,
    /// Sequence number after its last record.
    end: i64,
}

/// Result of [`Spool::append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendOutcome {
    Appended,
    /// The spool has no room until every sequence below `until` is durable.
    Full {
        until: i64,
        bytes: u64,
    },
}

/// A record that was not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The file is unchanged.
    Unchanged(SpoolError),
    /// The content of the file is unknown, so no record may follow.
    Indeterminate(SpoolError),
}

/// Returns the minimum size of a spool for records of at most `max_record` bytes. In a smaller one, a record could wait for
/// room for ever.
pub(crate) fn min_spool_bytes(header: &[u8], max_record: usize) -> u64 {
    4 * (encoded_len(&[], &[]) + header.len() + max_record) as u64
}

impl Spool {
    /// Creates the source's folder and its first segment. `syncer` is required for [`Fsync::Every`]; it calls
    /// `on_sync_error` if a sync fails.
    pub(crate) fn create(
        folder: &SpoolFolder,
        header: SegmentHeader,
        options: &SpoolOptions,
        syncer: Option<&Syncer>,
        on_sync_error: impl Fn(SpoolError) + Send + Sync + 'static,
    ) -> Result<Self, SpoolError> {
        let source = folder.create_source(&header.source_id)?;
        let (active, total) = create_segment(&source, &header, options.fsync)?;
        write_reserve(&source.path);
        if options.fsync != Fsync::Never {
            sync_folder(folder.path()).map_err(io(folder.path(), "syncing the folder"))?;
        }
        let synced = syncer.map(|syncer| {
            let path = source.path.clone();
            let on_error = move |error| on_sync_error(io(&path, "syncing a segment")(error));
            syncer.register(Arc::clone(&active.file), on_error)
        });
        Ok(Self {
            folder: source,
            header,
            fsync: options.fsync,
            max_bytes: options.max_bytes,
            active,
            closed: VecDeque::new(),
            total,
            encoded: Vec::with_capacity(2048),
            synced,
        })
    }

    /// Appends a record in one write. [`AppendOutcome::Appended`] means that the record is in the file, and with
    /// [`Fsync::EveryEvent`] on disk; otherwise it is not in the file. Calls `durable_below` only if it needs room.
    pub(crate) fn append(
        &mut self,
        record: &SpoolRecord<'_>,
        durable_below: impl Fn() -> i64,
    ) -> Result<AppendOutcome, AppendError> {
        let bytes = encoded_len(record.key, record.value) as u64;
        let segment_bytes = segment_bytes(self.max_bytes);
        let is_full = self.active.next > self.active.first && self.active.len + bytes > segment_bytes;
        // 1024 bytes for the header of a new segment and its longer sequence number.
        let needed = if is_full { bytes + 1024 } else { bytes };
        if is_full || self.total + needed > self.max_bytes {
            self.remove_durable_segments(durable_below())?;
        }
        if self.total + needed > self.max_bytes {
            let until = self.closed.front().map_or(record.sequence, |oldest| oldest.end);
            return Ok(AppendOutcome::Full { until, bytes: self.total });
        }
        if is_full {
            self.start_segment(record.sequence)?;
        }
        encode_record(record, &mut self.encoded);
        match self.write_encoded() {
            // The disk is full, or the file is broken.
            Err(AppendError::Unchanged(error)) => {
                if !self.free_durable_bytes(record.sequence, durable_below())? {
                    return Err(AppendError::Unchanged(error));
                }
                self.write_encoded()?;
            }
            written => written?,
        }
        let file = &*self.active.file;
        if self.fsync == Fsync::EveryEvent
            && let Err(error) = file.sync_data()
        {
            // The caller gets an error for this event, so the next process should not find it.
            let _ = self.truncate();
            return Err(AppendError::Indeterminate(io(&self.active.path, "syncing an event")(error)));
        }
        if let Some(synced) = &self.synced {
            synced.mark_dirty();
        }
        self.active.len += bytes;
        self.active.next = record.sequence + 1;
        self.total += bytes;
        Ok(AppendOutcome::Appended)
    }

    /// Writes the encoded record. If that fails, truncates the file after the last whole record.
    fn write_encoded(&self) -> Result<(), AppendError> {
        let mut file = &*self.active.file;
        let Err(error) = file.write_all(&self.encoded) else { return Ok(()) };
        let error = io(&self.active.path, "appending an event")(error);
        Err(match self.truncate() {
            Ok(()) => AppendError::Unchanged(error),
            Err(_) => AppendError::Indeterminate(error),
        })
    }

    /// Frees the disk of events that are durable, for a spool that is not full itself. Returns false if there are none. The
    /// reserve gives the room for a new segment, so that the active one can be removed.
    fn free_durable_bytes(&mut self, next: i64, durable_below: i64) -> Result<bool, AppendError> {
        let closed = self.closed.len();
        self.remove_durable_segments(durable_below)?;
        if self.closed.len() < closed {
            return Ok(true);
        }
        if self.active.next == self.active.first || self.active.next > durable_below {
            return Ok(false);
        }
        remove_file(&reserve_path(&self.folder.path)).map_err(AppendError::Unchanged)?;
        self.start_segment(next)?;
        self.remove_durable_segments(durable_below)?;
        write_reserve(&self.folder.path);
        Ok(true)
    }

    /// Removes the record that was appended last.
    pub(crate) fn undo_append(&mut self) -> Result<(), SpoolError> {
        let bytes = self.encoded.len() as u64;
        self.active.len -= bytes;
        self.active.next -= 1;
        self.total -= bytes;
        self.truncate().map_err(io(&self.active.path, "removing an event that was not enqueued"))
    }

    /// Removes the folder. All events are durable, including the closing event.
    pub(crate) fn remove(self) -> Result<(), SpoolError> {
        let closed = self.closed.iter().map(|closed| closed.path.as_path());
        self.folder.remove(closed.chain([self.active.path.as_path()]))
    }

    /// Ends the spool and leaves its files. Returns the ownership of them.
    pub(crate) fn into_folder(self) -> SourceFolder {
        self.folder
    }

    /// Removes the oldest segments whose events are all durable.
    fn remove_durable_segments(&mut self, durable_below: i64) -> Result<(), AppendError> {
        while let Some(oldest) = self.closed.front().filter(|oldest| oldest.end <= durable_below) {
            remove_file(&oldest.path).map_err(AppendError::Unchanged)?;
            self.total -= oldest.len;
            self.closed.pop_front();
        }
        Ok(())
    }

    /// Closes the active segment and starts the next.
    fn start_segment(&mut self, first: i64) -> Result<(), AppendError> {
        if let Fsync::Every(_) = self.fsync {
            self.active.file.sync_data().map_err(|error| {
                AppendError::Indeterminate(io(&self.active.path, "syncing a segment")(error))
            })?;
        }
        let header = SegmentHeader { first, ..self.header.clone() };
        let (active, len) = create_segment(&self.folder, &header, self.fsync).map_err(|error| {
            // A leftover file would block the creation of this segment later.
            match remove_file(&segment_path(&self.folder.path, first)) {
                Ok(()) => AppendError::Unchanged(error),
                Err(_) => AppendError::Indeterminate(error),
            }
        })?;
        if let Some(synced) = &self.synced {
            synced.switch_to(Arc::clone(&active.file));
        }
        let ActiveSegment { path, len: closed_len, next: end, .. } =
            std::mem::replace(&mut self.active, active);
        self.closed.push_back(ClosedSegment { path, len: closed_len, end });
        self.total += len;
        Ok(())
    }

    /// Truncates the file after the last whole record.
    fn truncate(&self) -> stdio::Result<()> {
        self.active.file.set_len(self.active.len)
    }
}

/// Returns the size of a segment: at most a quarter of the spool, so that a full spool has a closed segment to remove.
fn segment_bytes(max_bytes: u64) -> u64 {
    (max_bytes / SEGMENTS_PER_SPOOL).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()).min(max_bytes / 4)
}

/// Returns the path of a segment.
pub(super) fn segment_path(folder: &Path, first: i64) -> PathBuf {
    folder.join(format!("{first:020}.seg"))
}

/// Writes the reserve. Without it, a full disk may keep a durable segment until the source is closed.
fn write_reserve(folder: &Path) {
    let path = reserve_path(folder);
    if let Err(error) = std::fs::write(&path, [0; RESERVE_BYTES]) {
        tracing::debug!(%error, file = %path.display(), "spool: no reserve");
        let _ = remove_file(&path);
    }
}

fn create_segment(
    folder: &SourceFolder,
    header: &SegmentHeader,
    fsync: Fsync,
) -> Result<(ActiveSegment, u64), SpoolError> {
    let path = segment_path(&folder.path, header.first);
    let operation = "creating a segment";
    let bytes = header.to_bytes().map_err(|error| io(&path, operation)(error.into()))?;
    let create = || {
        let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        file.write_all(&bytes)?;
        if fsync != Fsync::Never {
            file.sync_all()?;
            folder.sync()?;
        }
        Ok(file)
    };
    let file = Arc::new(create().map_err(io(&path, operation))?);
    let (len, first) = (bytes.len() as u64, header.first);
    Ok((ActiveSegment { path, file, len, first, next: first }, len))
}

#[cfg(test)]
mod tests;
