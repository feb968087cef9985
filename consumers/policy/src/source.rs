//! Splits a `*.cedar` file into policies, each with its text and place.

use agentgov_schemas::yaml::Problem;
use miette::Diagnostic;

/// Text of one policy, with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statement<'f> {
    /// Path of the file in the bundle.
    pub(crate) file: &'f str,
    /// Text of the file.
    whole: &'f str,
    /// Byte offset of `text` in the file.
    start: usize,
    /// Text from the first comment or token to the semicolon.
    pub(crate) text: &'f str,
    /// Line of the beginning of `text`, from 1.
    pub(crate) line: u64,
}

/// Splits a file into statements, in order. Text after the last semicolon is a statement too, unless it is blank or a comment, so
/// that the parser reports the missing semicolon.
pub(crate) fn split<'f>(file: &'f str, whole: &'f str) -> Vec<Statement<'f>> {
    let mut statements = Vec::new();
    let (mut start, mut line, mut left) = (0, 1, whole);
    // `end` is a character boundary.
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
    /// Creates a problem at a byte offset of the statement's text.
    pub(crate) fn problem(&self, offset: usize, message: impl Into<String>) -> Problem {
        let (line, column) = place(self.whole, self.start + offset);
        Problem { file: self.file.to_owned(), line, column, message: message.into() }
    }

    /// Returns the byte offset of the first token, after leading comments.
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

    /// Creates a problem at the place of a Cedar diagnostic.
    pub(crate) fn problem_from_diagnostic(&self, diagnostic: &dyn Diagnostic) -> Problem {
        let offset =
            diagnostic.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
        // Cedar may point at the leading comments, which are not the cause.
        let offset = offset.max(self.first_token());
        let mut message = diagnostic.to_string();
        if let Some(help) = diagnostic.help() {
            message.push_str("; ");
            message.push_str(&help.to_string());
        }
        self.problem(offset, message)
    }
}

/// Returns line and column of a byte offset, from 1.
pub(crate) fn place(text: &str, offset: usize) -> (u64, u64) {
    // A diagnostic may point past the end.
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line as u64, column as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolon_in_text_or_comment_ends_no_statement() {
        let whole = "// a; b\n@title(\"x; \\\" y;\")\npermit(principal, action, resource);\n\n  forbid(principal, action, resource) // ;\n;\n// the end;\n";
        let found: Vec<_> =
            split("f.cedar", whole).iter().map(|s| (s.line, s.text.lines().count())).collect();
        assert_eq!(found, [(1, 3), (5, 2)]);
    }

    #[test]
    fn text_without_a_semicolon_is_a_statement() {
        let found = split("f.cedar", "permit(principal, action, resource)");
        assert_eq!(found.len(), 1);
        let error = cedar_policy::Policy::parse(None, found[0].text).unwrap_err();
        assert_eq!(found[0].problem_from_diagnostic(&error).line, 1);
    }
}
