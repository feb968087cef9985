//! Values of the log, whose columns may contain any bytes. Reading them never fails.

use std::fmt;

use agentgov_schemas::escape::EscapedBytes;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Bytes of a payload. Display them with [`EscapedBytes`]. They serialize as a string, which is escaped if the bytes are not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggedBytes(pub Vec<u8>);

impl LoggedBytes {
    /// Returns true if there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text, which is escaped if the bytes are not UTF-8.
    fn into_text(self) -> String {
        String::from_utf8(self.0).unwrap_or_else(|error| EscapedBytes(error.as_bytes()).to_string())
    }
}

impl AsRef<[u8]> for LoggedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for LoggedBytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Serialize for LoggedBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_str(&EscapedBytes(&self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for LoggedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = LoggedBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<LoggedBytes, E> {
                Ok(LoggedBytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<LoggedBytes, E> {
                Ok(LoggedBytes(bytes))
            }

            fn visit_str<E>(self, text: &str) -> Result<LoggedBytes, E> {
                Ok(LoggedBytes(text.as_bytes().to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// Deserializes a text, which is escaped if it is not UTF-8.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    LoggedBytes::deserialize(deserializer).map(LoggedBytes::into_text)
}

/// Deserializes an array of texts as [`text`] does.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of bytes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while let Some(bytes) = array.next_element::<LoggedBytes>()? {
                texts.push(bytes.into_text());
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_seq(Texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_serialize_as_text_and_invalid_utf_8_is_escaped() {
        for (bytes, json) in [
            (&b"plain"[..], r#""plain""#),
            ("ü\n".as_bytes(), r#""ü\n""#),
            (b"\x89PNG\r\n\x1a", r#""\\x89PNG\\u{d}\\u{a}\\u{1a}""#),
        ] {
            assert_eq!(serde_json::to_string(&LoggedBytes(bytes.to_vec())).unwrap(), json);
        }
    }

    /// `String` would reject a row whose text is not UTF-8.
    #[test]
    fn every_text_of_a_row_accepts_invalid_utf_8() {
        let mut seen = 0;
        let sources = [
            include_str!("session.rs"),
            include_str!("imported.rs"),
            include_str!("decided.rs"),
            include_str!("overview.rs"),
        ];
        for source in sources {
            let lines: Vec<&str> = source.lines().map(str::trim).collect();
            for (at, line) in lines.iter().enumerate() {
                if line.ends_with(": String,") || line.ends_with(": Vec<String>,") {
                    seen += 1;
                    let reader = if line.contains("Vec<") { "texts" } else { "text" };
                    let expected = format!("#[serde(deserialize_with = \"logged::{reader}\")]");
                    assert_eq!(lines[at - 1], expected, "above `{line}`");
                }
            }
        }
        assert!(seen > 30, "expected more than 30 texts in rows, found {seen}");
    }
}
