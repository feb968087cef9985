//! What a dead source left: read whole and checked before anything of it is published.

use std::fs;
use std::path::PathBuf;

use super::folder::Dead;
use super::format::{Broken, Header, Kind, Segment};
use super::writer::segment_path;
use super::{SpoolError, io};

/// A dead source's events.
#[derive(Debug)]
pub(crate) struct Found {
    pub(super) dead: Dead,
    pub(super) header: Header,
    /// In their order.
    pub(super) segments: Vec<PathBuf>,
    pub(super) first: i64,
    /// Sequence after the last event.
    pub(super) end: i64,
    /// Whether the last event is the source's own end.
    pub(super) closed: bool,
}

/// What reading one segment came to.
struct Read {
    header: Header,
    end: i64,
    closed: bool,
    torn: Option<usize>,
}

impl Found {
    /// Reads what is there. `None`: nothing was ever recorded, and the folder is removed.
    pub(crate) fn read(dead: Dead, topic: &str) -> Result<Option<Self>, SpoolError> {
        let segments = segments(&dead)?;
        let mut read: Option<(i64, Read)> = None;
        for (i, (first, path)) in segments.iter().enumerate() {
            let damaged =
                |offset, expected: String| SpoolError::Damaged { file: path.clone(), offset, expected };
            if let Some((_, before)) = &read
                && (before.end != *first || before.torn.is_some())
            {
                let expected = format!("a segment that begins with sequence {}", before.end);
                return Err(damaged(0, expected));
            }
            let bytes = fs::read(path).map_err(io(path, "reading a segment"))?;
            let segment = match read_segment(&bytes) {
                Ok(segment) => segment,
                // The process died when it began the segment: there is nothing in it.
                Err(Broken::Torn { .. }) if i + 1 == segments.len() => break,
                Err(Broken::Torn { offset }) => {
                    return Err(damaged(offset, "the rest of the segment".into()));
                }
                Err(Broken::Damaged { offset, expected }) => return Err(damaged(offset, expected.into())),
            };
            if segment.header.first != *first {
                return Err(damaged(0, "the first sequence that the file's name says".into()));
            }
            if segment.header.topic != topic {
                let (expected, found) = (topic.to_owned(), segment.header.topic);
                return Err(SpoolError::OtherTopic { path: dead.path.clone(), expected, found });
            }
            if let Some(offset) = segment.torn {
                tracing::info!(file = %path.display(), offset, "spool: the last event was cut off while it was written");
            }
            read = Some((read.map_or(*first, |(first, _)| first), segment));
        }
        let paths: Vec<PathBuf> = segments.into_iter().map(|(_, path)| path).collect();
        match read {
            Some((first, Read { header, end, closed, .. })) if end > 0 => {
                Ok(Some(Self { dead, header, segments: paths, first, end, closed }))
            }
            _ => {
                dead.remove(paths.iter().map(PathBuf::as_path))?;
                Ok(None)
            }
        }
    }

    /// How many events are to be published again.
    pub(crate) const fn events(&self) -> i64 {
        self.end - self.first
    }
}

fn segments(dead: &Dead) -> Result<Vec<(i64, PathBuf)>, SpoolError> {
    let listing = io(&dead.path, "listing the folder");
    let entries = match fs::read_dir(&dead.path) {
        // Who recovered it removed it while it was being claimed.
        Err(_) if !dead.path.exists() => return Ok(Vec::new()),
        entries => entries.map_err(&listing)?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(&listing)?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(first) = name
            && segment_path(&dead.path, first) == path
        {
            segments.push((first, path));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

fn read_segment(bytes: &[u8]) -> Result<Read, Broken> {
    let mut segment = Segment::open(bytes)?;
    let (mut closed, mut torn) = (false, None);
    loop {
        match segment.next() {
            Ok(Some(record)) => closed = record.kind == Kind::Closing,
            Ok(None) => break,
            Err(Broken::Torn { offset }) => {
                torn = Some(offset);
                break;
            }
            Err(damaged) => return Err(damaged),
        }
    }
    Ok(Read { end: segment.end(), header: segment.header, closed, torn })
}

#[cfg(test)]
mod tests;
