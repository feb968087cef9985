//! Escaping of text from records, files and servers for terminals, log lines and TSV files.
//!
//! Escaped text contains no control character, no line break, no bidirectional override and no invisible character, so
//! it cannot move a cursor, forge a line or hide text. Each such character becomes `\u{HEX}`, each byte that is not UTF-8
//! becomes `\xHH`. A backslash stays unchanged, which keeps paths and JSON readable, unless the text after it reads as an
//! escape; then it is doubled. Distinct texts therefore have distinct escaped forms.

use std::borrow::Cow;
use std::fmt;

/// Displays a value on one line.
///
/// ```
/// # use agentgov_schemas::escape::Escaped;
/// assert_eq!(Escaped("a\x1b[2K\nb").to_string(), r"a\u{1b}[2K\u{a}b");
/// assert_eq!(Escaped(r"C:\temp").to_string(), r"C:\temp");
/// assert_eq!(format!("{:<6}|", Escaped("a\t")), r"a\u{9}|");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escaped<T>(pub T);

/// Displays a report of several lines whose parts are already escaped with [`Escaped`]. Line feeds and backslashes stay
/// unchanged; every other character for which [`is_escaped`] returns true is escaped. Idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscapedLines<T>(pub T);

/// Displays bytes on one line, whether they are UTF-8 or not.
///
/// ```
/// # use agentgov_schemas::escape::EscapedBytes;
/// assert_eq!(EscapedBytes(b"\x89PNG\r").to_string(), r"\x89PNG\u{d}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscapedBytes<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escaped(self.0.to_string().as_bytes(), false))
    }
}

impl<T: fmt::Display> fmt::Display for EscapedLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escaped(self.0.to_string().as_bytes(), true))
    }
}

impl<T: AsRef<[u8]>> fmt::Display for EscapedBytes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escaped(self.0.as_ref(), false))
    }
}

/// Returns the escaped text, borrowed if nothing needs an escape.
pub fn escape(text: &str) -> Cow<'_, str> {
    if text.contains(is_escaped) || text.contains('\\') {
        Cow::Owned(Escaped(text).to_string())
    } else {
        Cow::Borrowed(text)
    }
}

/// Quotes `word` for a POSIX shell. Returns `None` for a word that must be escaped to be displayed, since a reader could not
/// check the command.
///
/// ```
/// # use agentgov_schemas::escape::shell_word;
/// assert_eq!(shell_word("run 1; rm -rf ~").as_deref(), Some("'run 1; rm -rf ~'"));
/// assert_eq!(shell_word("\x1b[2K"), None);
/// ```
pub fn shell_word(word: &str) -> Option<Cow<'_, str>> {
    if word.contains(is_escaped) {
        return None;
    }
    shlex::try_quote(word).ok()
}

/// Returns true for a character that is invisible, or that changes how a terminal or an editor displays the text around it.
pub fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Line and paragraph separators.
            '\u{2028}' | '\u{2029}'
            // Directional marks, embeddings, overrides and isolates.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Zero width, and other characters without a glyph.
            | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            // Tags and variation selectors, which carry hidden text.
            | '\u{e0000}'..='\u{e0fff}')
}

fn escaped(bytes: &[u8], keep_lines: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        escape_into(&mut out, chunk.valid(), keep_lines, !chunk.invalid().is_empty());
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Appends the escaped form of `text`. `escape_follows`: the next character of the output is an escape.
fn escape_into(out: &mut String, text: &str, keep_lines: bool, escape_follows: bool) {
    let needs = |c: char| is_escaped(c) && !(keep_lines && c == '\n');
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { return };
        if c == '\\' {
            let after = rest.trim_start_matches('\\');
            let run = rest.len() - after.len();
            let ambiguous = match after.chars().next() {
                None => escape_follows,
                Some(next) => needs(next) || reads_as_escape(after),
            } && !keep_lines;
            out.extend(std::iter::repeat_n('\\', if ambiguous { 2 * run } else { run }));
            rest = after;
        } else if needs(c) {
            out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            rest = chars.as_str();
        } else {
            let end = rest.find(|c| c == '\\' || needs(c)).unwrap_or(rest.len());
            let (plain, after) = rest.split_at(end);
            out.push_str(plain);
            rest = after;
        }
    }
}

/// Returns true if `text` after a backslash reads as an escape: `u{`, or `x` and two hexadecimal digits.
fn reads_as_escape(text: &str) -> bool {
    match text.strip_prefix('x') {
        Some(digits) => {
            let mut digits = digits.chars();
            digits.next().is_some_and(|c| c.is_ascii_hexdigit())
                && digits.next().is_some_and(|c| c.is_ascii_hexdigit())
        }
        None => text.starts_with("u{"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_and_invisible_characters_are_escaped_and_others_stay() {
        for (raw, shown) in [
            ("plain ünïcode 日本語 ¥", "plain ünïcode 日本語 ¥"),
            ("\u{1b}[31mRED\u{1b}[0m", r"\u{1b}[31mRED\u{1b}[0m"),
            ("a\tb\r\nc\u{7f}\u{9b}2K", r"a\u{9}b\u{d}\u{a}c\u{7f}\u{9b}2K"),
            ("\u{202e}txt.exe\u{2066}", r"\u{202e}txt.exe\u{2066}"),
            ("ad\u{200b}min\u{feff}\u{e0041}", r"ad\u{200b}min\u{feff}\u{e0041}"),
            ("a\u{2028}b\u{2029}c\u{85}d", r"a\u{2028}b\u{2029}c\u{85}d"),
            (r"C:\temp\new\x\users", r"C:\temp\new\x\users"),
            (r#"{"a":"b\n\u001b"}"#, r#"{"a":"b\n\u001b"}"#),
            (r"\u{1b}", r"\\u{1b}"),
            ("\\\u{1b}", r"\\\u{1b}"),
            (r"\x1b", r"\\x1b"),
        ] {
            assert_eq!(escape(raw), shown);
        }
    }

    #[test]
    fn format_width_counts_the_escaped_form() {
        assert_eq!(format!("{:<8}|{:>3}|", Escaped("a\n"), Escaped(7)), r"a\u{a}  |  7|");
        let lines = EscapedLines("a\n\u{1b}b").to_string();
        assert_eq!(lines, "a\n\\u{1b}b");
        assert_eq!(EscapedLines(&lines).to_string(), lines);
    }

    #[test]
    fn quoted_word_is_unchanged_by_a_shell() {
        for word in
            ["plain", "", "two words", "$(id)", "`id`", "it's", "a\"b", "a\\", "*", "~", "a;b|c&d", "!!", "é"]
        {
            let command = format!("printf %s {}", shell_word(word).unwrap());
            let out = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word, "{command}");
        }
        for word in ["a\nb", "\u{1b}[2K", "\0", "a\u{202e}b"] {
            assert_eq!(shell_word(word), None);
        }
    }

    /// Decodes an escaped form.
    fn unescape(shown: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = shown;
        while let Some(c) = rest.chars().next() {
            let after = rest.trim_start_matches('\\');
            let run = rest.len() - after.len();
            if run == 0 {
                bytes.extend(c.to_string().as_bytes());
                rest = &rest[c.len_utf8()..];
            } else if !reads_as_escape(after) {
                bytes.extend(vec![b'\\'; run]);
                rest = after;
            } else {
                bytes.extend(vec![b'\\'; run / 2]);
                if run % 2 == 1 {
                    if let Some(hex) = after.strip_prefix("u{") {
                        let (hex, after) = hex.split_once('}').unwrap();
                        let c = char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap();
                        bytes.extend(c.to_string().as_bytes());
                        rest = after;
                    } else {
                        bytes.push(u8::from_str_radix(&after[1..3], 16).unwrap());
                        rest = &after[3..];
                    }
                } else {
                    let plain = after.chars().next().unwrap();
                    bytes.extend(plain.to_string().as_bytes());
                    rest = &after[plain.len_utf8()..];
                }
            }
        }
        bytes
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "\\", "\\\\", "x", "u", "u{", "{", "1b", "}", "\x1b", "\n", "a", "\u{202e}", "é"
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn escaped_bytes_are_one_visible_line_and_decode_to_the_input(bytes in pieces()) {
            let shown = EscapedBytes(&bytes).to_string();
            prop_assert!(!shown.contains(is_escaped), "{shown:?}");
            prop_assert_eq!(unescape(&shown), bytes);
        }

        #[test]
        fn escaped_lines_keep_line_feeds_only(text in any::<String>()) {
            let shown = EscapedLines(&text).to_string();
            prop_assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
            prop_assert!(!shown.contains(|c| c != '\n' && is_escaped(c)), "{shown:?}");
        }
    }
}
