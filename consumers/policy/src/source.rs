//! A `*.cedar` file, split into its policies, so that each keeps its text and its place.

use agentgov_schemas::yaml::Problem;
use miette::Diagnostic;

/// The text of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statement<'f> {
    /// The file.
    pub(crate) file: &'f str,
    /// The whole file's text.
    whole: &'f str,
    /// Where `text` begins in it, in bytes.
    start: usize,
    /// From its first comment or token to its semicolon.
    pub(crate) text: &'f str,
    /// The line that its text begins in, from 1.
    pub(crate) line: u64,
}

/// The policies of a file, in order. What follows the last semicolon is one more, unless it is blank or comment: the
/// parser then says what is missing.
pub(crate) fn split<'f>(file: &'f str, whole: &'f str) -> Vec<Statement<'f>> {
    let mut statements = Vec::new();
    let (mut start, mut line, mut left) = (0, 1, whole);
    // `end` is behind a character of `whole`.
    let mut take = |end: usize| {
        let (raw, rest) = left.split_at(end - start);
        let text = raw.trim();
        let (blank, _) = raw.split_at(raw.len() - raw.trim_start().len());
        let lines = |text: &str| text.matches('\n').count() as u64;
        statements.push(Statement {
            file,
            whole,
            start: start + blank.len(),
            text,
            line: line + lines(blank),
        });
        (start, line, left) = (end, line + lines(raw), rest);
    };
    let mut has_token = false;
    let mut chars = whole.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                while chars.next().is_some_and(|(_, c)| !matches!(c, '\n' | '\r')) {}
            }
            '"' => {
                has_token = true;
                while let Some((_, c)) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            ';' => {
                take(at + c.len_utf8());
                has_token = false;
            }
            c => has_token |= !c.is_whitespace(),
        }
    }
    if has_token {
        take(whole.len());
    }
    statements
}

impl<'f> Statement<'f> {
    /// A problem at `offset` bytes within its text.
    pub(crate) fn problem(&self, offset: usize, message: impl Into<String>) -> Problem {
        let (line, column) = place(self.whole, self.start + offset);
        Problem { file: self.file.to_owned(), line, column, message: message.into() }
    }

    /// Where its first token begins within its text: behind the comments in front of it.
    pub(crate) fn first_token(&self) -> usize {
        let mut offset = 0;
        for line in self.text.split_inclusive('\n') {
            let blank = line.len() - line.trim_start().len();
            if !line.trim_start().is_empty() && !line.trim_start().starts_with("//") {
                return offset + blank;
            }
            offset += line.len();
        }
        0
    }

    /// A problem where a diagnostic of Cedar points.
    pub(crate) fn diagnosed(&self, diagnostic: &dyn Diagnostic) -> Problem {
        let offset =
            diagnostic.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
        // Nothing is wrong with the comments in front.
        let offset = offset.max(self.first_token());
        let mut message = diagnostic.to_string();
        if let Some(help) = diagnostic.help() {
            message.push_str("; ");
            message.push_str(&help.to_string());
        }
        self.problem(offset, message)
    }
}

/// Line and column of a byte, from 1.
fn place(text: &str, offset: usize) -> (u64, u64) {
    // A diagnostic may point behind the end.
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line as u64, column as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_texts_and_comments_end_nothing() {
        let whole = "// a; b\n@title(\"x; \\\" y;\")\npermit(principal, action, resource);\n\n  forbid(principal, action, resource) // ;\n;\n// the end;\n";
        let found: Vec<_> =
            split("f.cedar", whole).iter().map(|s| (s.line, s.text.lines().count())).collect();
        assert_eq!(found, [(1, 3), (5, 2)]);
    }

    #[test]
    fn what_has_no_semicolon_is_still_shown_to_the_parser() {
        let found = split("f.cedar", "permit(principal, action, resource)");
        assert_eq!(found.len(), 1);
        let error = cedar_policy::Policy::parse(None, found[0].text).unwrap_err();
        assert_eq!(found[0].diagnosed(&error).line, 1);
    }
}
