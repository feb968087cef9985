//! A reader of bytes that can be pushed back.

use std::io::{BufRead as _, ErrorKind};

use super::{Ending, Reader};

pub(super) struct Bytes<'i> {
    /// Pushed-back bytes.
    again: Vec<u8>,
    at: usize,
    reader: Reader<'i>,
}

/// End of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    Separator,
    EndOfFile,
    /// The size limit; the rest of the line is not read.
    Limit,
}

impl<'i> Bytes<'i> {
    pub(super) const fn new(reader: Reader<'i>) -> Self {
        Self { again: Vec::new(), at: 0, reader }
    }

    /// Returns the next bytes, or none at the end. A read error ends the bytes; [`Bytes::ending`] returns it.
    pub(super) fn fill(&mut self) -> &[u8] {
        if self.at < self.again.len() {
            return self.again.get(self.at..).unwrap_or_default();
        }
        if !self.again.is_empty() {
            (self.again, self.at) = (Vec::new(), 0);
        }
        loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        // The same buffer: the borrow checker does not see that an early return ends the borrow.
        self.reader.buffer()
    }

    pub(super) fn consume(&mut self, count: usize) {
        if self.at < self.again.len() {
            self.at += count;
        } else {
            self.reader.consume(count);
        }
    }

    /// Pushes `bytes` back: they are read next.
    pub(super) fn unread(&mut self, mut bytes: Vec<u8>) {
        bytes.extend(self.again.get(self.at..).unwrap_or_default());
        (self.again, self.at) = (bytes, 0);
    }

    /// Reads up to `count` bytes.
    pub(super) fn head(&mut self, count: usize) -> Vec<u8> {
        let mut head = Vec::new();
        while head.len() < count {
            let chunk = self.fill();
            let taken = chunk.len().min(count - head.len());
            head.extend_from_slice(chunk.get(..taken).unwrap_or_default());
            self.consume(taken);
            if taken == 0 {
                break;
            }
        }
        head
    }

    /// Appends a line with its separator, up to a total of `limit` bytes.
    pub(super) fn line(&mut self, separator: u8, limit: usize, line: &mut Vec<u8>) -> LineEnd {
        loop {
            let chunk = self.fill();
            if chunk.is_empty() {
                return LineEnd::EndOfFile;
            }
            let found = chunk.iter().position(|byte| *byte == separator);
            let count = found.map_or(chunk.len(), |at| at + 1);
            let room = limit.saturating_sub(line.len());
            line.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
            self.consume(count.min(room));
            if count > room {
                return LineEnd::Limit;
            }
            if found.is_some() {
                return LineEnd::Separator;
            }
        }
    }

    /// Skips the rest of a line.
    pub(super) fn skip_line(&mut self, separator: u8) -> LineEnd {
        loop {
            let chunk = self.fill();
            if chunk.is_empty() {
                return LineEnd::EndOfFile;
            }
            let found = chunk.iter().position(|byte| *byte == separator);
            let count = found.map_or(chunk.len(), |at| at + 1);
            self.consume(count);
            if found.is_some() {
                return LineEnd::Separator;
            }
        }
    }

    /// Reads the rest, and returns how the bytes ended.
    pub(super) fn ending(self) -> Ending {
        self.reader.into_inner().ending()
    }
}
