//! The live source's side: appends records, begins segments, and lets go of what is durable.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self as stdio, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::{Folder, Owned, remove_file, sync_folder};
use super::format::{Header, Record, frame, frame_len};
use super::sync::Syncer;
use super::{SpoolError, io};
use crate::{Fsync, SpoolOptions};

/// A spool has some sixteen segments, of at least and at most so many bytes. What is trimmed is whole segments.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(16 << 20);

/// A live source's spool.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: Owned,
    header: Header,
    fsync: Fsync,
    max_bytes: u64,
    active: Active,
    sealed: VecDeque<Sealed>,
    /// Bytes of all segments.
    total: u64,
    frame: Vec<u8>,
    syncer: Option<Syncer>,
}

/// The segment that is being written.
#[derive(Debug)]
struct Active {
    path: PathBuf,
    file: Arc<File>,
    /// What it holds, whatever else a failed write may have left behind it.
    len: u64,
    first: i64,
    next: i64,
}

#[derive(Debug)]
struct Sealed {
    path: PathBuf,
    len: u64,
    end: i64,
}

/// How an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    Yes,
    /// No room until every sequence below `until` is durable.
    Full {
        until: i64,
        bytes: u64,
    },
}

/// Why nothing was appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The spool is as it was.
    Refused(SpoolError),
    /// Nobody knows what the file holds; nothing may follow.
    Broken(SpoolError),
}

/// The smallest bound for records of at most `largest` bytes: with less, one that waits for room could wait for ever.
pub(crate) fn least_bytes(header: &[u8], largest: usize) -> u64 {
    4 * (frame_len(&[], &[]) + header.len() + largest) as u64
}

impl Spool {
    /// Makes the source's folder and its first segment. `failed` is told when the group commit fails.
    pub(crate) fn create(
        folder: &Folder,
        header: Header,
        options: &SpoolOptions,
        failed: impl Fn(SpoolError) + Send + 'static,
    ) -> Result<Self, SpoolError> {
        let owned = folder.make(&header.source_id)?;
        let (active, total) = begin(&owned, &header, options.fsync)?;
        if options.fsync != Fsync::Never {
            sync_folder(folder.path()).map_err(io(folder.path(), "syncing the folder"))?;
        }
        let syncer = match options.fsync {
            Fsync::Every(every) => {
                let path = owned.path.clone();
                let failed = move |error| failed(io(&path, "syncing a segment")(error));
                let started = Syncer::start(Arc::clone(&active.file), every, failed);
                Some(started.map_err(io(&owned.path, "starting the thread that syncs"))?)
            }
            Fsync::EveryEvent | Fsync::Never => None,
        };
        Ok(Self {
            folder: owned,
            header,
            fsync: options.fsync,
            max_bytes: options.max_bytes,
            active,
            sealed: VecDeque::new(),
            total,
            frame: Vec::with_capacity(2048),
            syncer,
        })
    }

    /// Appends a record in one write. When it returns `Yes`, the record is in the file, and with [`Fsync::EveryEvent`] on
    /// disk; otherwise it is not there. `durable_below` is asked only when room is needed.
    pub(crate) fn append(
        &mut self,
        record: &Record<'_>,
        durable_below: impl Fn() -> i64,
    ) -> Result<Appended, AppendError> {
        let bytes = frame_len(record.key, record.value) as u64;
        let segment_bytes = segment_bytes(self.max_bytes);
        let roll = self.active.next > self.active.first && self.active.len + bytes > segment_bytes;
        // A new header is as long as the last one, but for the digits of a number.
        let needed = if roll { bytes + 1024 } else { bytes };
        if roll || self.total + needed > self.max_bytes {
            self.trim(durable_below())?;
        }
        if self.total + needed > self.max_bytes {
            let until = self.sealed.front().map_or(record.sequence, |oldest| oldest.end);
            return Ok(Appended::Full { until, bytes: self.total });
        }
        if roll {
            self.roll(record.sequence)?;
        }
        frame(record, &mut self.frame);
        let mut file = &*self.active.file;
        if let Err(error) = file.write_all(&self.frame) {
            let error = io(&self.active.path, "appending an event")(error);
            return Err(match self.cut() {
                Ok(()) => AppendError::Refused(error),
                Err(_) => AppendError::Broken(error),
            });
        }
        if self.fsync == Fsync::EveryEvent
            && let Err(error) = file.sync_data()
        {
            // Said to be neither numbered nor recorded, so the next process had better not find it.
            let _ = self.cut();
            return Err(AppendError::Broken(io(&self.active.path, "syncing an event")(error)));
        }
        if let Some(syncer) = &self.syncer {
            syncer.written();
        }
        self.active.len += bytes;
        self.active.next = record.sequence + 1;
        self.total += bytes;
        Ok(Appended::Yes)
    }

    /// Takes back the record that was appended last.
    pub(crate) fn rollback_to(&mut self) -> Result<(), SpoolError> {
        let bytes = self.frame.len() as u64;
        self.active.len -= bytes;
        self.active.next -= 1;
        self.total -= bytes;
        self.cut().map_err(io(&self.active.path, "taking an event back"))
    }

    /// Removes everything: it is all durable, the closing event too.
    pub(crate) fn remove(self) -> Result<(), SpoolError> {
        drop(self.syncer);
        let sealed = self.sealed.iter().map(|sealed| sealed.path.as_path());
        self.folder.remove(sealed.chain([self.active.path.as_path()]))
    }

    /// Lets go of the segments that are durable throughout.
    fn trim(&mut self, durable_below: i64) -> Result<(), AppendError> {
        while let Some(oldest) = self.sealed.front().filter(|oldest| oldest.end <= durable_below) {
            remove_file(&oldest.path).map_err(AppendError::Refused)?;
            self.total -= oldest.len;
            self.sealed.pop_front();
        }
        Ok(())
    }

    /// Seals the segment and begins the next.
    fn roll(&mut self, first: i64) -> Result<(), AppendError> {
        if let Fsync::Every(_) = self.fsync {
            self.active
                .file
                .sync_data()
                .map_err(|error| AppendError::Broken(io(&self.active.path, "syncing a segment")(error)))?;
        }
        let header = Header { first, ..self.header.clone() };
        let (active, len) = begin(&self.folder, &header, self.fsync).map_err(|error| {
            // Left there, it would stand for a later segment.
            match remove_file(&segment_path(&self.folder.path, first)) {
                Ok(()) => AppendError::Refused(error),
                Err(_) => AppendError::Broken(error),
            }
        })?;
        if let Some(syncer) = &self.syncer {
            syncer.follow(Arc::clone(&active.file));
        }
        let Active { path, len: sealed_len, next: end, .. } = std::mem::replace(&mut self.active, active);
        self.sealed.push_back(Sealed { path, len: sealed_len, end });
        self.total += len;
        Ok(())
    }

    /// Cuts what a failed write may have left.
    fn cut(&self) -> stdio::Result<()> {
        self.active.file.set_len(self.active.len)
    }
}

/// With a quarter at most, there is a sealed segment to let go of, or room.
fn segment_bytes(max_bytes: u64) -> u64 {
    (max_bytes / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()).min(max_bytes / 4)
}

/// Where a segment stands.
pub(super) fn segment_path(folder: &Path, first: i64) -> PathBuf {
    folder.join(format!("{first:020}.seg"))
}

fn begin(folder: &Owned, header: &Header, fsync: Fsync) -> Result<(Active, u64), SpoolError> {
    let path = segment_path(&folder.path, header.first);
    let doing = "beginning a segment";
    let bytes = header.to_bytes().map_err(|error| io(&path, doing)(error.into()))?;
    let begin = || {
        let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        file.write_all(&bytes)?;
        if fsync != Fsync::Never {
            file.sync_all()?;
            folder.sync()?;
        }
        Ok(file)
    };
    let file = Arc::new(begin().map_err(io(&path, doing))?);
    let (len, first) = (bytes.len() as u64, header.first);
    Ok((Active { path, file, len, first, next: first }, len))
}

#[cfg(test)]
mod tests;
