//! Finds the end of a JSON value.

use serde_json::value::RawValue;

/// A syntax error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Offset of the error.
    pub(crate) at: usize,
    pub(crate) message: String,
}

impl Mistake {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Returns the offset of the first byte from `at` on that is no white space.
pub(crate) fn skip_whitespace(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// Returns the offset after the value that begins at `at`. Uses one byte of memory per level of nesting.
pub(crate) fn value_end(bytes: &[u8], at: usize) -> Result<usize, Mistake> {
    let mut closers = Vec::new();
    let mut at = at;
    loop {
        at = skip_whitespace(bytes, at);
        at = match bytes.get(at) {
            Some(b'"') => string_end(bytes, at)?,
            Some(open @ (b'{' | b'[')) => {
                let closer = if *open == b'{' { b'}' } else { b']' };
                let inside = skip_whitespace(bytes, at + 1);
                if bytes.get(inside) == Some(&closer) {
                    inside + 1
                } else {
                    closers.push(closer);
                    at = if closer == b'}' { key_end(bytes, inside)? } else { inside };
                    continue;
                }
            }
            _ => scalar_end(bytes, at)?,
        };
        // After a value, the enclosing arrays and objects may end.
        loop {
            let Some(closer) = closers.last() else { return Ok(at) };
            at = skip_whitespace(bytes, at);
            match bytes.get(at) {
                Some(byte) if byte == closer => {
                    closers.pop();
                    at += 1;
                }
                Some(b',') if *closer == b'}' => {
                    at = key_end(bytes, skip_whitespace(bytes, at + 1))?;
                    break;
                }
                Some(b',') => {
                    at += 1;
                    break;
                }
                _ => return Err(unexpected(bytes, at, &format!("`,` or `{}`", char::from(*closer)))),
            }
        }
    }
}

/// Returns the offset after a key and its colon.
pub(super) fn key_end(bytes: &[u8], at: usize) -> Result<usize, Mistake> {
    if bytes.get(at) != Some(&b'"') {
        return Err(unexpected(bytes, at, "a key in double quotes"));
    }
    let colon = skip_whitespace(bytes, string_end(bytes, at)?);
    if bytes.get(colon) == Some(&b':') { Ok(colon + 1) } else { Err(unexpected(bytes, colon, "`:`")) }
}

/// Returns the offset after the string that begins at `at`.
pub(super) fn string_end(bytes: &[u8], at: usize) -> Result<usize, Mistake> {
    let mut end = at + 1;
    loop {
        match bytes.get(end) {
            Some(b'"') => return Ok(end + 1),
            Some(b'\\') => end = escape_end(bytes, end)?,
            Some(0..=0x1f) => return Err(Mistake::new(end, "a control character within a string")),
            Some(_) => end += 1,
            None => return Err(Mistake::new(end, "the end within a string")),
        }
    }
}

fn escape_end(bytes: &[u8], at: usize) -> Result<usize, Mistake> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match bytes.get(at + 2..at + 6) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            _ => Err(Mistake::new(at, "an escape without four hexadecimal digits")),
        },
        Some(_) => Err(Mistake::new(at, "an escape that JSON does not have")),
        None => Err(Mistake::new(at, "the end within a string")),
    }
}

/// Returns the offset after a number, a literal, or one of Python's three additional literals.
fn scalar_end(bytes: &[u8], at: usize) -> Result<usize, Mistake> {
    let rest = bytes.get(at..).unwrap_or_default();
    let length = rest
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        .count();
    let word = rest.get(..length).unwrap_or_default();
    let known = matches!(word, b"NaN" | b"Infinity" | b"-Infinity")
        || (length > 0 && serde_json::from_slice::<&RawValue>(word).is_ok());
    if known { Ok(at + length) } else { Err(unexpected(bytes, at, "a value")) }
}

fn unexpected(bytes: &[u8], at: usize, expected: &str) -> Mistake {
    let found = match bytes.get(at) {
        None => return Mistake::new(at, format!("the end, where {expected} is due")),
        Some(byte) if byte.is_ascii_graphic() => format!("`{}`", char::from(*byte)),
        Some(byte) => format!("byte 0x{byte:02x}"),
    };
    Mistake::new(at, format!("{found}, where {expected} is due"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(text: &str) -> Result<usize, usize> {
        value_end(text.as_bytes(), 0).map_err(|mistake| mistake.at)
    }

    #[test]
    fn value_end_is_found_for_each_kind() {
        for text in [
            "null",
            "-1.5e+300",
            "1e400",
            "NaN",
            "-Infinity",
            r#""\ud83d \u0000 \" é""#,
            "[]",
            "[ 1 , [ ] ]",
            r#"{ "a" : { } , "a" : [ NaN ] }"#,
        ] {
            assert_eq!(end(text), Ok(text.len()), "{text}");
            assert_eq!(end(&format!("{text} ,rest")), Ok(text.len()), "{text}");
        }
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(end(&deep), Ok(deep.len()));
    }

    #[test]
    fn error_has_its_offset() {
        for (text, at) in [
            ("", 0),
            ("nul", 0),
            ("01", 0),
            ("-", 0),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\" 1}", 5),
            ("{a:1}", 1),
            ("{\"a\":1,}", 7),
            ("[}", 1),
            ("\"a\nb\"", 2),
            ("\"\\x\"", 1),
            ("\"\\u12\"", 1),
            ("[\"a", 3),
            ("infinity", 0),
        ] {
            assert_eq!(end(text), Err(at), "{text}");
        }
    }

    proptest! {
        /// For texts without the additional literals, the scanner accepts what serde_json accepts.
        #[test]
        fn scanner_accepts_what_serde_json_accepts(text in r#"[\[\]{}",:a1 .\\e-]{0,12}"#) {
            let ours = value_end(text.as_bytes(), 0).is_ok_and(|end| skip_whitespace(text.as_bytes(), end) == text.len());
            prop_assert_eq!(ours, serde_json::from_str::<&RawValue>(&text).is_ok(), "{}", text);
        }
    }
}
