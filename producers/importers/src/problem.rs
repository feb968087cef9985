//! What is wrong with a file, and what of it is not imported.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::json::{Kind, Value};

/// Most problems that are kept; of the others there is a count.
const KEPT: usize = 20;
/// Most kinds of notes; a field's name may be anything.
const KINDS: usize = 50;
/// Most characters of a name or text of the file in a message.
const SHOWN: usize = 40;

/// What is wrong with a line of a file: shown as `file:line: message`. May hold any text of the file: escape it before a
/// person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What was expected, what was found, and where in the line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// The first problems of a file, at most 20, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    count: u64,
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: impl FnOnce() -> Problem) {
        if self.kept.len() < KEPT {
            self.kept.push(problem());
        }
        self.count += 1;
    }

    /// These, and others behind them.
    #[must_use]
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.count += others.count;
        self.kept.extend(others.kept);
        self.kept.truncate(KEPT);
        self
    }

    /// The first of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.kept.iter()
    }

    /// How many there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// True if there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A line for each that is kept, and one for the rest.
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

/// What was not imported, or not as the file has it, although its run was: each kind once, with a count. To be escaped like
/// [`Problem`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    kinds: BTreeMap<String, (u64, String)>,
    others: u64,
}

impl Notes {
    /// Counts one of a kind; `place` is of the first.
    pub(crate) fn note(&mut self, kind: &str, place: impl FnOnce() -> String) {
        if let Some((count, _)) = self.kinds.get_mut(kind) {
            *count += 1;
        } else if self.kinds.len() < KINDS {
            self.kinds.insert(kind.to_owned(), (1, place()));
        } else {
            self.others += 1;
        }
    }

    /// A line for each kind.
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

/// A text of the file for a message: its start, if it is long.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// A JSON value in a few words, for "found …".
pub(crate) fn found(value: Option<Value<'_>>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    match value.kind() {
        Kind::Array => format!("an array of {}", value.items().count()),
        Kind::Object => "an object".to_owned(),
        Kind::String => {
            let text = value.text().unwrap_or_default();
            let cut: String = text.chars().take(SHOWN).collect();
            let more = if cut.len() < text.len() { "…" } else { "" };
            format!("{}{more}", serde_json::Value::from(cut))
        }
        Kind::Null | Kind::Bool | Kind::Number => cut(&value.as_written()).into_owned(),
    }
}
