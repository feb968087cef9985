//! Parses JSON into CEL values, as leniently as the parsers of tools.
//!
//! The parser accepts extensions of RFC 8259 that other parsers either refuse or read in the same way: a leading byte order mark,
//! control characters in texts, `Infinity`. A value that parsers read differently, or that no type holds, becomes an
//! [`UnreadableValue`] in its place; the rest is parsed.

use cel::common::types::{CelBool, CelDouble, CelList, CelNull, CelString};
use cel::common::value::Val;

use super::{MAX_DEPTH, MAX_VALUES, Object, Origin, PayloadError, UnreadableValue};
use crate::number;

/// A value, or the reason why it is unreadable.
pub(super) type Item = Result<Box<dyn Val>, UnreadableValue>;

pub(super) fn read(bytes: &[u8]) -> Result<Item, PayloadError> {
    let text = std::str::from_utf8(bytes).map_err(|e| syntax(bytes, e.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { text, at: 0, left: MAX_VALUES };
    let item = reader.value(0)?;
    reader.blank();
    if reader.at < text.len() { Err(reader.syntax()) } else { Ok(item) }
}

fn syntax(bytes: &[u8], at: usize) -> PayloadError {
    let before = bytes.get(..at).unwrap_or(bytes);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    PayloadError::Syntax { line, column }
}

/// Returns the number of bytes before the next quote or backslash. Reads whole chunks first, which the compiler compares at
/// once.
fn plain_length(bytes: &[u8]) -> usize {
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
    let (chunks, _) = bytes.as_chunks::<16>();
    let has_end = |chunk: &[u8; 16]| chunk.iter().fold(false, |found, byte| found | is_end(byte));
    let whole = chunks.iter().take_while(|chunk| !has_end(chunk)).count() * 16;
    let rest = bytes.get(whole..).unwrap_or_default();
    whole + rest.iter().take_while(|byte| !is_end(byte)).count()
}

struct Reader<'j> {
    text: &'j str,
    at: usize,
    /// Remaining number of values.
    left: usize,
}

impl<'j> Reader<'j> {
    fn syntax(&self) -> PayloadError {
        syntax(self.text.as_bytes(), self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Returns the remaining bytes; none at the end of the text.
    fn rest(&self) -> &'j [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips blanks and returns the next byte without consuming it.
    fn next(&mut self) -> Option<u8> {
        self.blank();
        self.peek()
    }

    fn expect(&mut self, byte: u8) -> Result<(), PayloadError> {
        if self.next() != Some(byte) {
            return Err(self.syntax());
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Item, PayloadError> {
        self.left = self.left.checked_sub(1).filter(|left| *left > 0).ok_or(PayloadError::TooLarge)?;
        match self.next() {
            Some(b'"') => Ok(Ok(Box::new(CelString::from(self.string()?)))),
            Some(b'{' | b'[') if depth >= MAX_DEPTH => self.skip().map(|()| Err(UnreadableValue::TooDeep)),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.list(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Item, PayloadError> {
        type Word = (&'static str, fn() -> Item);
        const WORDS: [Word; 5] = [
            ("true", || Ok(Box::new(CelBool::from(true)))),
            ("false", || Ok(Box::new(CelBool::from(false)))),
            ("null", || Ok(Box::new(CelNull))),
            ("Infinity", || Ok(Box::new(CelDouble::from(f64::INFINITY)))),
            ("NaN", || Err(UnreadableValue::NotANumber)),
        ];
        let found = WORDS.into_iter().find(|(word, _)| self.rest().starts_with(word.as_bytes()));
        let (word, item) = found.ok_or_else(|| self.syntax())?;
        self.at += word.len();
        Ok(item())
    }

    fn number(&mut self) -> Result<Item, PayloadError> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.rest().starts_with(b"Infinity") {
            self.at += "Infinity".len();
            return Ok(Ok(Box::new(CelDouble::from(f64::NEG_INFINITY))));
        }
        let leading = self.peek();
        let whole = self.digits()?;
        if leading == Some(b'0') && whole > 1 {
            return Err(self.syntax());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let token = self.text.get(start..self.at).ok_or_else(|| self.syntax())?;
        Ok(number::parse(token).ok_or(UnreadableValue::TooManyDigits))
    }

    /// Consumes one or more digits and returns their number.
    fn digits(&mut self) -> Result<usize, PayloadError> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(self.syntax()) } else { Ok(count) }
    }

    fn list(&mut self, depth: usize) -> Result<Item, PayloadError> {
        self.at += 1;
        let mut items: Vec<Box<dyn Val>> = Vec::new();
        let mut unread = None;
        if self.next() == Some(b']') {
            self.at += 1;
            return Ok(Ok(Box::new(CelList::from(items))));
        }
        loop {
            match self.value(depth)? {
                Ok(item) => items.push(item),
                Err(why) => unread = unread.or(Some(why)),
            }
            match self.next() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.expect(b']')?;
        // An unreadable element makes the list unreadable, since length and indices depend on it.
        Ok(match unread {
            None => Ok(Box::new(CelList::from(items))),
            Some(why) => Err(why),
        })
    }

    fn object(&mut self, depth: usize) -> Result<Item, PayloadError> {
        self.at += 1;
        let mut entries = Vec::new();
        if self.next() != Some(b'}') {
            loop {
                if self.next() != Some(b'"') {
                    return Err(self.syntax());
                }
                let key = self.string()?;
                self.expect(b':')?;
                entries.push((key, self.value(depth)?));
                match self.next() {
                    Some(b',') => self.at += 1,
                    _ => break,
                }
            }
        }
        self.expect(b'}')?;
        Ok(Ok(Box::new(Object::read(entries, Origin::Payload))))
    }

    /// Parses a text. A lone surrogate becomes U+FFFD.
    fn string(&mut self) -> Result<String, PayloadError> {
        self.at += 1;
        let plain = self.plain()?;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(plain.to_owned());
        }
        let mut text = plain.to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escaped()?);
                }
                Some(_) => text.push_str(self.plain()?),
                None => return Err(self.syntax()),
            }
        }
    }

    /// Consumes characters up to the next quote or backslash.
    fn plain(&mut self) -> Result<&'j str, PayloadError> {
        let start = self.at;
        self.at += plain_length(self.rest());
        self.text.get(start..self.at).ok_or_else(|| self.syntax())
    }

    fn escaped(&mut self) -> Result<char, PayloadError> {
        let escape = self.peek().ok_or_else(|| self.syntax())?;
        self.at += 1;
        Ok(match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                match first {
                    0xd800..0xdc00 if self.rest().starts_with(b"\\u") => {
                        let back = self.at;
                        self.at += 2;
                        let second = self.unit()?;
                        let pair = char::decode_utf16([first, second]).next().and_then(Result::ok);
                        if pair.is_none() {
                            self.at = back;
                        }
                        pair.unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    _ => char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            _ => {
                self.at -= 1;
                return Err(self.syntax());
            }
        })
    }

    /// Parses four hexadecimal digits.
    fn unit(&mut self) -> Result<u16, PayloadError> {
        let digits = self.rest().get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let unit = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.syntax())?;
        self.at += 4;
        Ok(unit)
    }

    /// Skips a list or an object of any depth.
    fn skip(&mut self) -> Result<(), PayloadError> {
        let mut open = Vec::new();
        loop {
            match self.next() {
                Some(b'"') => drop(self.string()?),
                Some(byte @ (b'{' | b'[')) => {
                    // In ASCII, the closing bracket is the opening one plus 2.
                    open.push(byte + 2);
                    self.at += 1;
                }
                Some(byte @ (b'}' | b']')) => {
                    if open.pop() != Some(byte) {
                        return Err(self.syntax());
                    }
                    self.at += 1;
                    if open.is_empty() {
                        return Ok(());
                    }
                }
                Some(_) => self.at += 1,
                None => return Err(self.syntax()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cel::common::types::CelInt;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::number::Number;

    fn same(found: &dyn Val, expected: &Value) -> bool {
        match expected {
            Value::Null => found.downcast_ref::<CelNull>().is_some(),
            Value::Bool(b) => found.downcast_ref::<CelBool>().is_some_and(|found| found.inner() == b),
            Value::String(s) => found.downcast_ref::<CelString<'_>>().is_some_and(|found| found.inner() == s),
            Value::Number(n) => n.as_i64().map_or_else(
                || Number::from_val(found).is_some(),
                |n| found.downcast_ref::<CelInt>().is_some_and(|found| *found.inner() == n),
            ),
            Value::Array(items) => found.downcast_ref::<CelList<'_>>().is_some_and(|list| {
                list.len() == items.len() && list.iter().zip(items).all(|(a, b)| same(a.as_ref(), b))
            }),
            Value::Object(entries) => {
                found
                    .as_sizer()
                    .is_some_and(|sizer| sizer.size() == CelInt::from(i64::try_from(entries.len()).unwrap()))
                    && entries.iter().all(|(key, value)| {
                        let found = found.as_indexer().unwrap().get(&CelString::from(key.as_str()));
                        found.is_ok_and(|found| same(found.as_ref(), value))
                    })
            }
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}|[\\x00-\\x7f]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\\u{1}é]{0,3}", inner, 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn serde_json_output_reads_back_equal(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let read = read(text.unwrap().as_bytes()).unwrap().unwrap();
            prop_assert!(same(read.as_ref(), &value), "{value} {read:?}");
        }

        /// The parser accepts every text that serde_json accepts, and otherwise only the listed extensions.
        #[test]
        fn any_text_is_accepted_or_refused_as_by_serde_json(text in "[\\[\\]{}:,\" 0-9eE.+\\-\\\\utrfalsn]{0,24}") {
            let (found, expected) = (read(text.as_bytes()), serde_json::from_str::<Value>(&text));
            match (&found, &expected) {
                (Ok(_), Err(e)) => prop_assert!(
                    ["out of range", "surrogate", "end of hex"].iter().any(|known| e.to_string().contains(known)),
                    "{text}: {e}"
                ),
                (Err(found), Ok(_)) => prop_assert!(false, "{text}: {found}"),
                (Ok(Ok(found)), Ok(expected)) => prop_assert!(same(found.as_ref(), expected), "{text}: {found:?}"),
                _ => {}
            }
        }
    }
}
