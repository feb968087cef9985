//! Reads the runs of a file in order.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use super::reader;
use super::run::Run;
use super::shape::{self, RunAt};
use crate::file::{Document, Documents, Ending, Reader};
use crate::json::{Mistake, Value, skip_whitespace};
use crate::problem::{Notes, Problem};

/// Location of a run: its line, and the number of runs that begin earlier on that line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunLocation {
    /// Line number, from 1.
    pub line: u64,
    /// Number of earlier runs on the line.
    pub before: u64,
}

impl fmt::Display for RunLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.before {
            0 => write!(f, "{}", self.line),
            before => write!(f, "{}.{}", self.line, before + 1),
        }
    }
}

/// Iterator over the runs of a file. Holds one document in memory.
pub(crate) struct Runs<'i> {
    documents: Documents<'i>,
    label: Option<String>,
    /// Bytes of the document that has the `pending` runs.
    bytes: Vec<u8>,
    pending: VecDeque<Pending>,
    last: RunLocation,
    notes: Notes,
}

#[derive(Debug)]
struct Pending {
    line: u64,
    run: Result<(String, Range<usize>), String>,
}

impl<'i> Runs<'i> {
    pub(crate) fn new(reader: Reader<'i>, label: Option<String>) -> Self {
        Self {
            documents: Documents::new(reader, shape::is_run),
            label,
            bytes: Vec::new(),
            pending: VecDeque::new(),
            last: RunLocation { line: 0, before: 0 },
            notes: Notes::default(),
        }
    }

    /// Returns the notes, the line of the last run, and how the file ended.
    pub(crate) fn end(self) -> (Notes, u64, Ending) {
        (self.notes, self.last.line.max(1), self.documents.ending())
    }

    fn place(&mut self, line: u64) -> RunLocation {
        // Never goes back: a line that ends with LF may have a lone CR between two runs.
        let line = line.max(self.last.line);
        let before = if line == self.last.line { self.last.before + 1 } else { 0 };
        self.last = RunLocation { line, before };
        self.last
    }

    /// Lists the runs of a document. A syntax error anywhere in it makes the whole document an error.
    fn list(&mut self, line: u64, bytes: Vec<u8>) {
        self.pending = match pending(line, &bytes) {
            Ok(pending) => pending,
            Err((line, message)) => VecDeque::from([Pending { line, run: Err(message) }]),
        };
        self.bytes = bytes;
    }
}

impl Iterator for Runs<'_> {
    type Item = (RunLocation, Result<Run, Vec<Problem>>);

    fn next(&mut self) -> Option<Self::Item> {
        let problem = |line, message| Problem { file: String::new(), line, message };
        loop {
            if let Some(Pending { line, run }) = self.pending.pop_front() {
                let place = self.place(line);
                let (path, range) = match run {
                    Ok(run) => run,
                    Err(message) => return Some((place, Err(vec![problem(line, message)]))),
                };
                let bytes = self.bytes.get(range).unwrap_or_default();
                let Ok((value, _)) = Value::first(bytes, 0) else { continue };
                let run = RunAt { path, value };
                let read =
                    reader::read(&run, self.label.as_deref(), format!("line {place}"), &mut self.notes);
                let problems = |messages: Vec<String>| {
                    messages.into_iter().map(|message| problem(line, message)).collect()
                };
                return Some((place, read.map_err(problems)));
            }
            match self.documents.next()? {
                Document::Bytes { line, bytes } => self.list(line, bytes),
                Document::Bad { line, message, last } => {
                    let rest = if last { "; nothing behind it can be read" } else { "" };
                    let place = self.place(line);
                    // An error on the first line concerns the whole file, so the addition is redundant.
                    let rest = if place == (RunLocation { line: 1, before: 0 }) { "" } else { rest };
                    return Some((place, Err(vec![problem(line, format!("{message}{rest}"))])));
                }
            }
        }
    }
}

/// Lists the runs of a document that begins on `line`, each with its own line.
fn pending(line: u64, bytes: &[u8]) -> Result<VecDeque<Pending>, (u64, String)> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let (lines, column) = position(bytes, error.valid_up_to());
        let found = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        let message = format!("expected UTF-8, found byte 0x{found:02x} at column {column}");
        return Err((line + lines, message));
    }
    let mistake = |Mistake { at, message }| {
        let (lines, column) = position(bytes, at);
        (line + lines, format!("expected JSON, found {message}, at column {column}"))
    };
    let mut pending = VecDeque::new();
    let (mut at, mut counted, mut lines) = (0, 0, 0);
    while at < bytes.len() {
        let (document, end) = Value::first(bytes, at).map_err(mistake)?;
        for run in shape::runs(document) {
            let (value, run) = match run {
                Ok(RunAt { path, value }) => (value, Ok((path, range(bytes, value)))),
                Err((value, message)) => (value, Err(message)),
            };
            let start = range(bytes, value).start;
            lines += newlines(bytes.get(counted..start).unwrap_or_default());
            counted = start;
            pending.push_back(Pending { line: line + lines, run });
        }
        at = skip_whitespace(bytes, end);
    }
    Ok(pending)
}

/// Returns the range of a value in the bytes that it is a slice of.
fn range(bytes: &[u8], value: Value<'_>) -> Range<usize> {
    let start = (value.bytes().as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
    start..start + value.bytes().len()
}

fn newlines(bytes: &[u8]) -> u64 {
    let after_cr = |at: usize| at.checked_sub(1).is_some_and(|before| bytes.get(before) == Some(&b'\r'));
    let ends =
        bytes.iter().enumerate().filter(|(at, byte)| **byte == b'\r' || (**byte == b'\n' && !after_cr(*at)));
    ends.count() as u64
}

/// Returns the number of lines before an offset, and its column, from 1.
fn position(bytes: &[u8], at: usize) -> (u64, usize) {
    let before = bytes.get(..at).unwrap_or_default();
    let line = before.iter().rev().take_while(|byte| !matches!(byte, b'\n' | b'\r')).count();
    (newlines(before), line + 1)
}
