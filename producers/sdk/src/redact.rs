//! What must not leave the process: the hook, and a plain implementation by tool and JSON pointer.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::Content;

/// Where in an event a payload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// The text of a chat message.
    Message,
    /// The arguments of a tool call.
    Arguments,
    /// The answer of a tool.
    Result,
}

/// A payload that is about to be published, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// Where it stands.
    pub part: PayloadKind,
    /// The event's type.
    pub event_type: &'a str,
    /// The tool, of arguments, and of results whose caller named it.
    pub tool: Option<&'a str>,
    /// The bytes.
    pub content: Content<'a>,
}

/// Decides what of a payload is published. Runs in the caller's thread, once a payload, before its digest is taken: no
/// trace of what it removes leaves the process.
pub trait Redact: Send + Sync {
    /// The bytes to publish in place of the payload's; `None`: publish it as it is. Must not panic, whatever the bytes.
    fn redact(&self, payload: &Payload<'_>) -> Option<Vec<u8>>;
}

/// Replaces values in the arguments and results of named tools by [`RedactFields::REPLACEMENT`].
///
/// A payload of a named tool that is not JSON, or in which a key of an object stands twice (readers differ on which one
/// counts), is replaced whole: a rule that cannot be applied must not let everything through. Where nothing is found to
/// replace, the bytes stay as they came. Results are redacted only where the caller names their tool; texts of
/// messages never.
#[derive(Clone, Debug, Default)]
pub struct RedactFields {
    pointers: BTreeMap<String, Vec<String>>,
}

/// A text that is no JSON pointer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "redaction of tool {tool}: expected a JSON pointer (RFC 6901: empty, or starting with /), found `{pointer}`"
)]
pub struct InvalidPointer {
    tool: String,
    pointer: String,
}

impl RedactFields {
    /// Stands in place of what was removed, as a JSON string.
    pub const REPLACEMENT: &str = "[redacted]";

    /// Rules: tool name, and JSON pointers (RFC 6901) to the values to replace; the empty pointer is the whole payload.
    pub fn new<T, P>(rules: impl IntoIterator<Item = (T, Vec<P>)>) -> Result<Self, InvalidPointer>
    where
        T: Into<String>,
        P: Into<String>,
    {
        let mut pointers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tool, of_tool) in rules {
            let tool = tool.into();
            for pointer in of_tool.into_iter().map(Into::into) {
                if !(pointer.is_empty() || pointer.starts_with('/')) {
                    return Err(InvalidPointer { tool, pointer });
                }
                pointers.entry(tool.clone()).or_default().push(pointer);
            }
        }
        Ok(Self { pointers })
    }
}

impl Redact for RedactFields {
    fn redact(&self, payload: &Payload<'_>) -> Option<Vec<u8>> {
        let pointers = self.pointers.get(payload.tool?)?;
        let Ok(UniqueKeys(mut value)) = serde_json::from_slice(payload.content.data) else {
            return Some(Value::from(Self::REPLACEMENT).to_string().into_bytes());
        };
        let mut found = false;
        for pointer in pointers {
            if let Some(target) = value.pointer_mut(pointer) {
                *target = Value::from(Self::REPLACEMENT);
                found = true;
            }
        }
        found.then(|| value.to_string().into_bytes())
    }
}

/// A JSON value in which no key stands twice in an object.
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor).map(UniqueKeys)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a key that stands twice")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueKeys(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((key, UniqueKeys(value))) = map.next_entry::<String, _>()? {
            if values.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redact(tool: Option<&str>, data: &[u8]) -> Option<String> {
        let rules = RedactFields::new([("pay", vec!["/card/number", "/cvv", "/items/1"])]).unwrap();
        let content = Content { data, media_type: "application/json" };
        let payload = Payload { part: PayloadKind::Arguments, event_type: "tool.invoked", tool, content };
        rules.redact(&payload).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn table() {
        let whole = Some("\"[redacted]\"");
        for (tool, data, expected) in [
            (Some("pay"), r#"{"cvv": 123, "to": "x"}"#, Some(r#"{"cvv":"[redacted]","to":"x"}"#)),
            (Some("pay"), r#"{"card":{"number":[4,2]}}"#, Some(r#"{"card":{"number":"[redacted]"}}"#)),
            (Some("pay"), r#"{"items":[1,2,3]}"#, Some(r#"{"items":[1,"[redacted]",3]}"#)),
            (Some("pay"), r#"{"card":"4242"}"#, None),
            (Some("pay"), r#"{"to": "x"}"#, None),
            (Some("pay"), "card 4242, cvv 123", whole),
            (Some("pay"), r#"{"cvv": 123"#, whole),
            (Some("pay"), "", whole),
            (Some("pay"), r#"{"card":{"number":1},"card":{}}"#, whole),
            (Some("refund"), r#"{"cvv": 123}"#, None),
            (None, r#"{"cvv": 123}"#, None),
        ] {
            assert_eq!(redact(tool, data.as_bytes()).as_deref(), expected, "{tool:?} {data}");
        }
    }

    #[test]
    fn not_utf8_is_replaced_whole() {
        assert_eq!(redact(Some("pay"), &[b'"', 0xff, b'"']).as_deref(), Some("\"[redacted]\""));
    }

    #[test]
    fn pointers_are_checked() {
        let error = RedactFields::new([("pay", vec!["cvv"])]).unwrap_err();
        assert!(error.to_string().contains("`cvv`"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes(data: Vec<u8>) {
            redact(Some("pay"), &data);
        }

        /// Whatever else stands around it, the value is gone.
        #[test]
        fn the_value_never_leaves(key in "[a-z]{1,8}", text in "[^\u{0}]{0,20}") {
            let data = serde_json::json!({ key: text, "cvv": "secret-8731" }).to_string();
            prop_assert!(!redact(Some("pay"), data.as_bytes()).unwrap().contains("secret-8731"));
        }
    }
}
