//! Detects the layout of a file by its first lines.

use super::bytes::{Bytes, LineEnd};
use super::documents::trimmed;
use super::sniff;
use crate::json::{Value, skip_whitespace};

/// Layout of the documents in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each line that is not blank is a document; this byte ends a line.
    Lines(u8),
    /// Values with white space between them.
    Values,
    /// The file has no JSON; the message names its format.
    Foreign(String),
    /// No further documents.
    Ended,
}

/// Number of bytes by which a foreign format is detected.
const HEAD_BYTES: usize = 4096;

/// Detects the layout by the first two lines that are not blank.
pub(super) fn layout(bytes: &mut Bytes<'_>, limit: usize) -> Layout {
    let head = bytes.head(HEAD_BYTES);
    let foreign = sniff::foreign(&head);
    bytes.unread(head);
    if let Some(foreign) = foreign {
        return Layout::Foreign(format!("expected runs as JSON, found {foreign}"));
    }
    let mut seen = Vec::new();
    let mut lines = Vec::new();
    let mut too_long = false;
    while lines.len() < 2 && !too_long {
        let start = seen.len();
        let end = bytes.line(b'\n', limit, &mut seen);
        let line = trimmed(seen.get(start..).unwrap_or_default());
        if !line.is_empty() {
            lines.push(start..seen.len());
        }
        too_long = end == LineEnd::Limit;
        // If the first line is complete documents, the second line is not needed.
        if end == LineEnd::EndOfFile || are_documents(line) {
            break;
        }
    }
    let mut lines = lines.into_iter().map(|line| trimmed(seen.get(line).unwrap_or_default()));
    let layout = match (lines.next(), lines.next()) {
        (None, _) if too_long => Layout::Values,
        (None, _) => Layout::Lines(b'\n'),
        (Some(first), second) if !too_long || second.is_some() => of_lines(first, second),
        (Some(first), _) if first.starts_with(b"{") || first.starts_with(b"[") => Layout::Values,
        (Some(first), _) => text(first),
    };
    bytes.unread(seen);
    layout
}

fn of_lines(first: &[u8], second: Option<&[u8]>) -> Layout {
    // Lines may end with CR alone, as on old Macs.
    let mut parts = first.split(|byte| *byte == b'\r').map(trimmed).filter(|part| !part.is_empty());
    if let (Some(one), Some(two)) = (parts.next(), parts.next())
        && !is_one_document(first)
    {
        return decide(one, Some(two), b'\r');
    }
    decide(first, second, b'\n')
}

fn decide(first: &[u8], second: Option<&[u8]>, separator: u8) -> Layout {
    let begins = |line: &[u8]| line.starts_with(b"{") || line.starts_with(b"[");
    let goes_on = || {
        first.starts_with(b"[")
            || first.ends_with(b"{")
            || first.ends_with(b"[")
            || first.ends_with(b",")
            || first.ends_with(b":")
    };
    if are_documents(first) {
        Layout::Lines(separator)
    } else if begins(first) && goes_on() {
        Layout::Values
    } else if second.is_some_and(begins) {
        // The first line is invalid; later ones may be valid.
        Layout::Lines(separator)
    } else if begins(first) {
        Layout::Values
    } else {
        text(first)
    }
}

/// Returns true if a line consists of complete objects and arrays.
fn are_documents(line: &[u8]) -> bool {
    let mut at = 0;
    while at < line.len() {
        if !matches!(line.get(at), Some(b'{' | b'[')) {
            return false;
        }
        let Ok((_, end)) = Value::first(line, at) else { return false };
        at = skip_whitespace(line, end);
    }
    !line.is_empty()
}

fn is_one_document(line: &[u8]) -> bool {
    Value::first(line, 0).is_ok_and(|(_, end)| end == line.len())
}

fn text(line: &[u8]) -> Layout {
    const SHOWN: usize = 40;
    let text =
        String::from_utf8_lossy(line.get(..line.len().min(4 * SHOWN)).unwrap_or_default()).into_owned();
    let shown: String = text.chars().take(SHOWN).collect();
    Layout::Foreign(format!("expected runs as JSON, found text that begins with {shown:?}"))
}
