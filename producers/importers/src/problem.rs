//! Errors of a file, and notes about content that is not imported.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::json::{Kind, Value};

/// Maximum number of kept problems; further ones are counted.
const MAX_PROBLEMS: usize = 20;
/// Maximum number of kinds of notes, since a kind may contain any field name of the file.
const MAX_KINDS: usize = 50;
/// Maximum characters of a name or text of the file in a message.
const MAX_SHOWN_CHARS: usize = 40;

/// An error in a line of a file, displayed as `file:line: message`. It may contain any text of the file: escape it before
/// printing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// Line number, from 1.
    pub line: u64,
    /// Expected and found content, and the position in the line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The first 20 problems of a file, and the total number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    count: u64,
}

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, problem: impl FnOnce() -> Problem) {
        if self.kept.len() < MAX_PROBLEMS {
            self.kept.push(problem());
        }
        self.count += 1;
    }

    /// Returns these problems followed by `others`.
    #[must_use]
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.count += others.count;
        self.kept.extend(others.kept);
        self.kept.truncate(MAX_PROBLEMS);
        self
    }

    /// Iterates over the kept problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.kept.iter()
    }

    /// Returns the total number.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns true if there is no problem.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns a line for each kept problem, and one with the number of the others.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.kept.iter().map(ToString::to_string).collect();
        match self.count - lines.len() as u64 {
            0 => {}
            more => lines.push(format!("and {more} more")),
        }
        lines
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

/// Notes about content of imported runs that is not imported, or is imported in another form. Each kind has a count and its
/// first location. Escape them like a [`Problem`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    kinds: BTreeMap<String, (u64, String)>,
    others: u64,
}

impl Notes {
    /// Counts a note of a kind. Calls `place` for the first one.
    pub(crate) fn note(&mut self, kind: &str, place: impl FnOnce() -> String) {
        if let Some((count, _)) = self.kinds.get_mut(kind) {
            *count += 1;
        } else if self.kinds.len() < MAX_KINDS {
            self.kinds.insert(kind.to_owned(), (1, place()));
        } else {
            self.others += 1;
        }
    }

    /// Returns a line for each kind.
    pub fn lines(&self) -> Vec<String> {
        let kinds = self.kinds.iter();
        let mut lines: Vec<String> = kinds
            .map(|(kind, (count, place))| match count {
                1 => format!("{kind}: once, at {place}"),
                _ => format!("{kind}: {count} times, first at {place}"),
            })
            .collect();
        if self.others > 0 {
            lines.push(format!("and {} of further kinds", self.others));
        }
        lines
    }
}

/// Truncates a text of the file for a message.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// Describes a JSON value for a message after "found".
pub(crate) fn found(value: Option<Value<'_>>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    match value.kind() {
        Kind::Array => format!("an array of {}", value.items().count()),
        Kind::Object => "an object".to_owned(),
        Kind::String => {
            let text = value.text().unwrap_or_default();
            let cut: String = text.chars().take(MAX_SHOWN_CHARS).collect();
            let more = if cut.len() < text.len() { "…" } else { "" };
            format!("{}{more}", serde_json::Value::from(cut))
        }
        Kind::Null | Kind::Bool | Kind::Number => cut(&value.as_written()).into_owned(),
    }
}
