//! Minimal SQL scanner that distinguishes an INSERT with data from other statements.
//!
//! The engine takes such an INSERT in two parts: the statement up to FORMAT or VALUES, and the data.

/// Parts of an INSERT with data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InsertWithData<'a> {
    /// Statement before FORMAT or VALUES, with comments and settings.
    pub(super) statement: &'a [u8],
    /// Named format, if any.
    pub(super) format: Option<&'a str>,
    /// Data in the same text.
    pub(super) data: &'a [u8],
}

/// Splits an INSERT with data; returns `None` for INSERT … SELECT and all other statements.
pub(super) fn insert_with_data(text: &[u8]) -> Option<InsertWithData<'_>> {
    let mut words = Words { text, at: 0, depth: 0 };
    if !words.next()?.is("INSERT") {
        return None;
    }
    let mut previous = None;
    while let Some(word) = words.next() {
        let names_a_table = previous.is_some_and(|word: Word<'_>| word.is("INTO") || word.is("TABLE"));
        previous = Some(word);
        if word.depth > 0 || names_a_table {
            continue;
        }
        if word.is("SELECT") || word.is("WITH") || word.is("WATCH") || word.is("FROM") {
            return None;
        }
        let statement = text.get(..word.start).unwrap_or_default();
        if word.is("VALUES") {
            let data = text.get(word.end..).unwrap_or_default();
            return Some(InsertWithData { statement, format: Some("Values"), data });
        }
        if word.is("FORMAT") {
            let format = words.next()?;
            let data = skip_line_break(text.get(format.end..).unwrap_or_default());
            return Some(InsertWithData { statement, format: std::str::from_utf8(format.text).ok(), data });
        }
    }
    Some(InsertWithData { statement: text.trim_ascii_end(), format: None, data: &[] })
}

/// Skips the blanks and the first line break after the format's name, or a semicolon; the data starts there.
fn skip_line_break(rest: &[u8]) -> &[u8] {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b';')).count();
    let rest = rest.get(blanks..).unwrap_or_default();
    rest.strip_prefix(b"\n").unwrap_or(rest)
}

#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a [u8],
    start: usize,
    end: usize,
    depth: usize,
}

impl Word<'_> {
    fn is(&self, keyword: &str) -> bool {
        self.text.eq_ignore_ascii_case(keyword.as_bytes())
    }
}

/// Iterator over words and quoted texts outside comments, each with its depth in parentheses.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        loop {
            let rest = self.text.get(self.at..)?;
            match *rest.first()? {
                b'-' if rest.starts_with(b"--") => self.at += length_through(rest, b"\n", 2),
                b'/' if rest.starts_with(b"/*") => self.at += length_through(rest, b"*/", 2),
                quote @ (b'\'' | b'"' | b'`') => return self.word(quoted_length(rest, quote)),
                byte if is_word(byte) => {
                    return self.word(rest.iter().take_while(|byte| is_word(**byte)).count());
                }
                byte => {
                    match byte {
                        b'(' => self.depth += 1,
                        b')' => self.depth = self.depth.saturating_sub(1),
                        _ => {}
                    }
                    self.at += 1;
                }
            }
        }
    }
}

impl<'a> Words<'a> {
    fn word(&mut self, length: usize) -> Option<Word<'a>> {
        let (start, end) = (self.at, self.at + length);
        self.at = end;
        Some(Word { text: self.text.get(start..end)?, start, end, depth: self.depth })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Returns the length up to and including `end`, searched from `from`; the whole length if it does not occur.
fn length_through(text: &[u8], end: &[u8], from: usize) -> usize {
    let found = text.get(from..).and_then(|text| text.windows(end.len()).position(|window| window == end));
    found.map_or(text.len(), |at| from + at + end.len())
}

/// Returns the length of a quoted text including quotes. A doubled quote counts as two adjacent texts, which are skipped as
/// well.
fn quoted_length(text: &[u8], quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match *byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_is_split_before_its_data() {
        let cases = [
            ("INSERT INTO t FORMAT Native", "INSERT INTO t ", Some("Native"), ""),
            (
                "insert into t(a, b) format RowBinary\n\u{1}\u{2}",
                "insert into t(a, b) ",
                Some("RowBinary"),
                "\u{1}\u{2}",
            ),
            ("INSERT INTO t FORMAT TSV\n\n1", "INSERT INTO t ", Some("TSV"), "\n1"),
            ("/* sink:x:1 */ INSERT INTO t FORMAT CSV", "/* sink:x:1 */ INSERT INTO t ", Some("CSV"), ""),
            (
                "INSERT INTO t (a) SETTINGS x = 'FORMAT' FORMAT CSV",
                "INSERT INTO t (a) SETTINGS x = 'FORMAT' ",
                Some("CSV"),
                "",
            ),
            ("INSERT INTO t VALUES (1), ('a')", "INSERT INTO t ", Some("Values"), " (1), ('a')"),
            (
                "INSERT INTO format (values) VALUES (1)",
                "INSERT INTO format (values) ",
                Some("Values"),
                " (1)",
            ),
            (
                "-- values\nINSERT INTO `a\\`values` FORMAT CSV",
                "-- values\nINSERT INTO `a\\`values` ",
                Some("CSV"),
                "",
            ),
            ("INSERT INTO t (a) ", "INSERT INTO t (a)", None, ""),
        ];
        for (text, statement, format, data) in cases {
            let expected = InsertWithData { statement: statement.as_bytes(), format, data: data.as_bytes() };
            assert_eq!(insert_with_data(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_statements_are_not_split() {
        for text in [
            "SELECT 1 FORMAT CSV",
            "INSERT INTO t SELECT 1",
            "INSERT INTO t (a) WITH 1 AS x SELECT x",
            "INSERT INTO t FROM INFILE 'a' FORMAT CSV",
            "/* INSERT INTO t VALUES */ SELECT 1",
            "CREATE TABLE t (a UInt8) ENGINE = Memory",
            "",
        ] {
            assert_eq!(insert_with_data(text.as_bytes()), None, "{text}");
        }
    }
}
