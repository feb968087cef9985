//! Segments of a dead source. All of them are read and checked before any event is published.

use std::fs;
use std::path::PathBuf;

use super::folder::SourceFolder;
use super::format::{RecordKind, SegmentError, SegmentHeader, SegmentReader};
use super::writer::segment_path;
use super::{SpoolError, io};

/// A source whose process has ended, with its segments.
#[derive(Debug)]
pub(crate) struct DeadSource {
    pub(super) folder: SourceFolder,
    pub(super) header: SegmentHeader,
    /// Paths in the order of their first sequence numbers.
    pub(super) segments: Vec<PathBuf>,
    pub(super) first: i64,
    /// Sequence number after the last event.
    pub(super) end: i64,
    /// Whether the last event is the closing event.
    pub(super) closed: bool,
}

/// Summary of one segment.
struct SegmentSummary {
    header: SegmentHeader,
    end: i64,
    closed: bool,
    /// Offset of a torn record.
    torn: Option<usize>,
}

impl DeadSource {
    /// Reads the segments. If the source has recorded no event, removes its folder and returns `None`.
    pub(crate) fn read(folder: SourceFolder, topic: &str) -> Result<Option<Self>, SpoolError> {
        let segments = list_segments(&folder)?;
        let mut read: Option<(i64, SegmentSummary)> = None;
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
                // The process ended while it created the segment, so the segment has no record.
                Err(SegmentError::Torn { .. }) if i + 1 == segments.len() => break,
                Err(SegmentError::Torn { offset }) => {
                    return Err(damaged(offset, "the rest of the segment".into()));
                }
                Err(SegmentError::Damaged { offset, expected }) => {
                    return Err(damaged(offset, expected.into()));
                }
            };
            if segment.header.first != *first {
                return Err(damaged(0, "the first sequence of the file's name".into()));
            }
            if segment.header.topic != topic {
                let (expected, found) = (topic.to_owned(), segment.header.topic);
                return Err(SpoolError::OtherTopic { path: folder.path.clone(), expected, found });
            }
            if let Some(offset) = segment.torn {
                tracing::info!(file = %path.display(), offset, "spool: skipped the last event, which was cut off during its write");
            }
            read = Some((read.map_or(*first, |(first, _)| first), segment));
        }
        let paths: Vec<PathBuf> = segments.into_iter().map(|(_, path)| path).collect();
        match read {
            Some((first, SegmentSummary { header, end, closed, .. })) if end > 0 => {
                Ok(Some(Self { folder, header, segments: paths, first, end, closed }))
            }
            _ => {
                folder.remove(paths.iter().map(PathBuf::as_path))?;
                Ok(None)
            }
        }
    }

    /// Returns the number of events in the segments.
    pub(crate) const fn event_count(&self) -> i64 {
        self.end - self.first
    }
}

fn list_segments(folder: &SourceFolder) -> Result<Vec<(i64, PathBuf)>, SpoolError> {
    let listing = io(&folder.path, "listing the folder");
    let entries = match fs::read_dir(&folder.path) {
        // The process that recovered the source has removed it in the meantime.
        Err(_) if !folder.path.exists() => return Ok(Vec::new()),
        entries => entries.map_err(&listing)?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(&listing)?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(first) = name
            && segment_path(&folder.path, first) == path
        {
            segments.push((first, path));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

fn read_segment(bytes: &[u8]) -> Result<SegmentSummary, SegmentError> {
    let mut segment = SegmentReader::open(bytes)?;
    let (mut closed, mut torn) = (false, None);
    loop {
        match segment.next_record() {
            Ok(Some(record)) => closed = record.kind == RecordKind::Closing,
            Ok(None) => break,
            Err(SegmentError::Torn { offset }) => {
                torn = Some(offset);
                break;
            }
            Err(damaged) => return Err(damaged),
        }
    }
    Ok(SegmentSummary { end: segment.end(), header: segment.header, closed, torn })
}

#[cfg(test)]
mod tests;
