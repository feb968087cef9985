//! Splits a file into documents: one per line, or consecutive values over any number of lines.

use super::bytes::{Bytes, LineEnd};
use super::layout::{Layout, layout};
use super::{Ending, MAX_DOCUMENT_BYTES, Reader};
use crate::json::Value;

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// A part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// Bytes of a document, and the line on which it begins, from 1.
    Bytes { line: u64, bytes: Vec<u8> },
    /// An error. `last` means that the rest of the file cannot be read.
    Bad { line: u64, message: String, last: bool },
}

/// Iterator over the documents of a file.
pub(crate) struct Documents<'i> {
    bytes: Bytes<'i>,
    layout: Layout,
    /// Line of the next byte.
    line: u64,
    after_cr: bool,
    array: Option<Element>,
    /// Returns true for a document. If the first element of an array is one, each element is a document.
    is_document: fn(Value<'_>) -> bool,
    limit: usize,
}

/// Next token of an array that is read element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    First,
    Next,
}

/// A value that was not read to its end.
enum Unread {
    EndOfFile,
    TooLong,
}

impl<'i> Documents<'i> {
    pub(crate) fn new(reader: Reader<'i>, is_document: fn(Value<'_>) -> bool) -> Self {
        Self::limited(reader, is_document, MAX_DOCUMENT_BYTES)
    }

    fn limited(reader: Reader<'i>, is_document: fn(Value<'_>) -> bool, limit: usize) -> Self {
        let mut bytes = Bytes::new(reader);
        let layout = layout(&mut bytes, limit);
        Self { bytes, layout, line: 1, after_cr: false, array: None, is_document, limit }
    }

    /// Reads the rest, and returns how the file ended.
    pub(crate) fn ending(self) -> Ending {
        self.bytes.ending()
    }

    fn bad(&self, line: u64, message: impl Into<String>) -> Option<Document> {
        Some(Document::Bad { line, message: message.into(), last: self.layout == Layout::Ended })
    }

    /// Returns an error after which the rest of the file cannot be read.
    fn last(&mut self, line: u64, message: impl Into<String>) -> Option<Document> {
        self.layout = Layout::Ended;
        self.bad(line, message)
    }

    fn next_line(&mut self, separator: u8) -> Option<Document> {
        loop {
            let mut text = Vec::new();
            let line = self.line;
            let mut end = self.bytes.line(separator, self.limit, &mut text);
            let too_long = end == LineEnd::Limit;
            if too_long {
                end = self.bytes.skip_line(separator);
            }
            self.line += 1;
            if end == LineEnd::EndOfFile {
                self.layout = Layout::Ended;
            }
            if too_long {
                let message = format!("expected at most {} bytes a line, found more", self.limit);
                return Some(Document::Bad { line, message, last: false });
            }
            let trimmed = trimmed(&text);
            if !trimmed.is_empty() {
                return Some(Document::Bytes { line, bytes: trimmed.to_vec() });
            }
            if end == LineEnd::EndOfFile {
                return None;
            }
        }
    }

    fn next_value(&mut self) -> Option<Document> {
        loop {
            let next = self.skip_blank();
            let line = self.line;
            match (self.array, next) {
                (None, None) => return None,
                (Some(_), None) => {
                    return self.last(line, "expected the array's `]`, found the end: is the file cut off?");
                }
                (Some(_), Some(b']')) => {
                    self.take(1);
                    self.array = None;
                }
                (Some(Element::Next), Some(b',')) => {
                    self.take(1);
                    self.array = Some(Element::First);
                    if self.skip_blank() == Some(b']') {
                        return self.last(self.line, "expected JSON, found `]` behind a comma");
                    }
                }
                (Some(Element::Next), Some(other)) => {
                    return self
                        .last(line, format!("expected `,` or `]` behind a run, found {}", shown(other)));
                }
                (_, Some(b'{' | b'[')) => return self.structure(line),
                (_, Some(other)) => {
                    return self.last(line, format!("expected a run, found {}", shown(other)));
                }
            }
        }
    }

    /// Reads an object or an array, or the first document of an array of documents.
    fn structure(&mut self, line: u64) -> Option<Document> {
        let mut bytes = Vec::new();
        if self.array.is_some() {
            self.array = Some(Element::Next);
        } else if self.bytes.fill().first() == Some(&b'[') {
            self.take_into(1, &mut bytes);
            self.skip_blank();
            bytes.extend((line..self.line).map(|_| b'\n'));
            let line = self.line;
            if matches!(self.bytes.fill().first(), Some(b'{' | b'[')) {
                let mut element = Vec::new();
                let read = self.value(0, &mut element);
                let is_document =
                    || Value::first(&element, 0).is_ok_and(|(value, _)| (self.is_document)(value));
                if read.is_ok() && is_document() {
                    self.array = Some(Element::Next);
                    return Some(Document::Bytes { line, bytes: element });
                }
                bytes.extend(element);
                if let Err(unread) = read {
                    return self.unread(line, &unread);
                }
            }
        }
        let depth = usize::from(!bytes.is_empty());
        match self.value(depth, &mut bytes) {
            Ok(()) => Some(Document::Bytes { line, bytes }),
            Err(unread) => self.unread(line, &unread),
        }
    }

    fn unread(&mut self, line: u64, unread: &Unread) -> Option<Document> {
        match unread {
            Unread::EndOfFile => self.last(
                line,
                "expected the end of the value that begins here, found the end of the file: is it cut off?",
            ),
            Unread::TooLong => {
                let limit = self.limit;
                self.bad(line, format!("expected at most {limit} bytes a document, found more; one run a line or element needs the least"))
            }
        }
    }

    /// Appends bytes up to the end of an object or array. It begins here, or with `depth` 1 has begun before.
    fn value(&mut self, depth: usize, value: &mut Vec<u8>) -> Result<(), Unread> {
        let (mut depth, mut in_string, mut escaped, mut too_long) = (depth, false, false, false);
        loop {
            let chunk = self.bytes.fill();
            if chunk.is_empty() {
                return Err(Unread::EndOfFile);
            }
            let mut end = None;
            for (at, byte) in chunk.iter().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    _ if in_string => {}
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 {
                            end = Some(at + 1);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let count = end.unwrap_or(chunk.len());
            too_long |= value.len() + count > self.limit;
            if too_long {
                *value = Vec::new();
                self.take(count);
            } else {
                self.take_into(count, value);
            }
            if end.is_some() {
                return if too_long { Err(Unread::TooLong) } else { Ok(()) };
            }
        }
    }

    /// Skips white space. Returns the next byte.
    fn skip_blank(&mut self) -> Option<u8> {
        loop {
            let chunk = self.bytes.fill();
            if chunk.is_empty() {
                return None;
            }
            if chunk.starts_with(BOM) {
                self.take(BOM.len());
                continue;
            }
            let count = chunk.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let next = chunk.get(count).copied();
            self.take(count);
            if next.is_some() {
                return next;
            }
        }
    }

    fn take_into(&mut self, count: usize, into: &mut Vec<u8>) {
        let chunk = self.bytes.fill();
        into.extend_from_slice(chunk.get(..count).unwrap_or(chunk));
        self.take(count);
    }

    /// Consumes bytes and counts their lines. A line ends with LF, CR or both.
    fn take(&mut self, count: usize) {
        let chunk = self.bytes.fill();
        for byte in chunk.iter().take(count) {
            self.line += u64::from(*byte == b'\r' || (*byte == b'\n' && !self.after_cr));
            self.after_cr = *byte == b'\r';
        }
        self.bytes.consume(count);
    }
}

impl Iterator for Documents<'_> {
    type Item = Document;

    fn next(&mut self) -> Option<Document> {
        match &self.layout {
            Layout::Lines(separator) => self.next_line(*separator),
            Layout::Values => self.next_value(),
            Layout::Foreign(message) => {
                let message = message.clone();
                self.last(1, message)
            }
            Layout::Ended => None,
        }
    }
}

/// Removes a byte order mark, and white space at both ends.
pub(super) fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_prefix(BOM).unwrap_or(line).trim_ascii()
}

fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("`{}`", char::from(byte)) } else { format!("byte 0x{byte:02x}") }
}

#[cfg(test)]
mod tests;
