//! A scanned JSON value and its content.

use std::borrow::Cow;

use serde_bytes::ByteBuf;

use super::scan::{Mistake, key_end, skip_whitespace, string_end, value_end};

/// The bytes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value<'b>(&'b [u8]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl<'b> Value<'b> {
    /// Returns the value that begins at `at` or after white space, and the offset after it.
    pub(crate) fn first(bytes: &'b [u8], at: usize) -> Result<(Self, usize), Mistake> {
        let start = skip_whitespace(bytes, at);
        let end = value_end(bytes, start)?;
        Ok((Self(bytes.get(start..end).unwrap_or_default()), end))
    }

    pub(crate) const fn bytes(self) -> &'b [u8] {
        self.0
    }

    /// Returns the text of the value in the file, which is valid UTF-8.
    pub(crate) fn as_written(self) -> Cow<'b, str> {
        String::from_utf8_lossy(self.0)
    }

    pub(crate) fn kind(self) -> Kind {
        match self.0.first() {
            Some(b'n') | None => Kind::Null,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'"') => Kind::String,
            Some(b'[') => Kind::Array,
            Some(b'{') => Kind::Object,
            Some(_) => Kind::Number,
        }
    }

    pub(crate) fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Iterates over the items of an array. Other values have none.
    pub(crate) fn items(self) -> impl Iterator<Item = Self> + use<'b> {
        let mut at = if self.kind() == Kind::Array { 1 } else { self.0.len() };
        std::iter::from_fn(move || {
            let (item, end) = Self::first(self.0, at).ok()?;
            at = skip_whitespace(self.0, end) + 1;
            Some(item)
        })
    }

    pub(crate) fn object(self) -> Option<Object<'b>> {
        if self.kind() != Kind::Object {
            return None;
        }
        let mut fields = Vec::new();
        let mut at = 1;
        loop {
            let start = skip_whitespace(self.0, at);
            let Ok(key) = string_end(self.0, start) else { break };
            let Ok(colon) = key_end(self.0, start) else { break };
            let Ok((value, end)) = Self::first(self.0, colon) else { break };
            let (key, _) = decode(self.0.get(start..key).unwrap_or_default());
            fields.push((key, value));
            at = skip_whitespace(self.0, end) + 1;
        }
        Some(Object { fields })
    }

    /// Returns the text of a string.
    pub(crate) fn text(self) -> Option<Cow<'b, str>> {
        self.text_and_surrogates().map(|(text, _)| text)
    }

    /// Returns true if a string or a key of the value has a lone surrogate.
    pub(crate) fn has_lone_surrogate(self) -> bool {
        has_lone_surrogate(self.0)
    }

    /// Returns the text of a string, and whether it has a lone surrogate. UTF-8 cannot represent one, so it becomes U+FFFD.
    pub(crate) fn text_and_surrogates(self) -> Option<(Cow<'b, str>, bool)> {
        (self.kind() == Kind::String).then(|| decode(self.0))
    }
}

/// Fields of an object, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<'b> {
    fields: Vec<(Cow<'b, str>, Value<'b>)>,
}

impl<'b> Object<'b> {
    /// Returns a field. The last of duplicate keys counts, as in Python, JavaScript and serde_json.
    pub(crate) fn get(&self, name: &str) -> Option<Value<'b>> {
        self.fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// Returns a field that exists and is not null.
    pub(crate) fn some(&self, name: &str) -> Option<Value<'b>> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// Returns the first of several fields that exists and is not null.
    pub(crate) fn any(&self, names: &[&str]) -> Option<Value<'b>> {
        names.iter().find_map(|name| self.some(name))
    }

    /// Returns the text of a field that is a non-empty string.
    pub(crate) fn name(&self, name: &str) -> Option<Cow<'b, str>> {
        self.get(name)?.text().filter(|text| !text.is_empty())
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, Value<'b>)> {
        self.fields.iter().map(|(key, value)| (&**key, *value))
    }
}

/// Returns true if JSON has an escape of one half of a surrogate pair without the other.
pub(crate) fn has_lone_surrogate(json: &[u8]) -> bool {
    let unit = |escape: &[u8]| match escape {
        [b'\\', b'u', hex @ ..] => {
            let hex = std::str::from_utf8(hex.get(..4)?).ok()?;
            u16::from_str_radix(hex, 16).ok()
        }
        _ => None,
    };
    let mut rest = json;
    while let Some(escape) = rest.iter().position(|byte| *byte == b'\\') {
        rest = rest.get(escape..).unwrap_or_default();
        let after = |n: usize| rest.get(n..).unwrap_or_default();
        rest = match (unit(rest), unit(after(6))) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => after(12),
            (Some(0xd800..=0xdfff), _) => return true,
            _ => after(2),
        };
    }
    false
}

/// Returns the text of a quoted string, and whether a lone surrogate was replaced.
fn decode(quoted: &[u8]) -> (Cow<'_, str>, bool) {
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if !plain.contains(&b'\\') {
        return (String::from_utf8_lossy(plain), false);
    }
    // As bytes, serde_json encodes a lone surrogate like a character of three bytes. A test checks that serde_json accepts
    // every string of the scanner; otherwise the text would keep its escapes.
    let bytes = serde_json::from_slice::<ByteBuf>(quoted).map_or_else(|_| plain.to_vec(), ByteBuf::into_vec);
    match String::from_utf8(bytes) {
        Ok(text) => (Cow::Owned(text), false),
        Err(error) => (Cow::Owned(replace_surrogates(error.as_bytes())), true),
    }
}

fn replace_surrogates(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(chunk) = rest.utf8_chunks().next() {
        text.push_str(chunk.valid());
        rest = rest.get(chunk.valid().len()..).unwrap_or_default();
        if !rest.is_empty() {
            text.push('\u{fffd}');
            rest = rest.get(3..).unwrap_or_default();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value<'_> {
        Value::first(text.as_bytes(), 0).unwrap().0
    }

    #[test]
    fn values_are_kept_as_written() {
        let object =
            value(r#" { "a" : [ 1 , "x" , {} ] , "b":null, "a\n": 1e400, "b": NaN } "#).object().unwrap();
        let items: Vec<_> = object.get("a").unwrap().items().map(|item| item.as_written()).collect();
        assert_eq!(items, ["1", "\"x\"", "{}"]);
        assert_eq!(object.get("b").unwrap().as_written(), "NaN", "the last of two");
        assert_eq!(object.fields().map(|(key, _)| key).collect::<Vec<_>>(), ["a", "b", "a\n", "b"]);
        assert_eq!(value("[ ]").items().count() + value("{\"a\":1}").items().count(), 0);
    }

    #[test]
    fn lone_surrogates_are_replaced_one_by_one() {
        for (json, text, lone) in [
            (r#""a\ud83d""#, "a\u{fffd}", true),
            (r#""\udc00\ud800é\n""#, "\u{fffd}\u{fffd}é\n", true),
            (r#""\ud83d\u0041""#, "\u{fffd}A", true),
            (r#""\ud83d\ude00""#, "😀", false),
            (r#""é""#, "é", false),
        ] {
            assert_eq!(value(json).text_and_surrogates(), Some((Cow::Borrowed(text), lone)), "{json}");
            let within = format!(r#"{{"a": [{json}]}}"#);
            assert_eq!(value(&within).has_lone_surrogate(), lone, "{within}");
        }
    }
}
