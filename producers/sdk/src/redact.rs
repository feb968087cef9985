//! Redaction of payloads before they leave the process: the hook, and an implementation by tool and JSON pointer.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::Content;

/// Kind of a payload in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// The text of a chat message.
    Message,
    /// The arguments of a tool call.
    Arguments,
    /// The answer of a tool.
    Result,
}

/// A payload before it is published, with its context.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// Kind of the payload.
    pub kind: PayloadKind,
    /// The event's type.
    pub event_type: &'a str,
    /// Name of the tool. Set for arguments, and for results if the caller named the tool.
    pub tool: Option<&'a str>,
    /// The bytes.
    pub content: Content<'a>,
}

/// Hook that redacts payloads. It runs in the caller's thread, once per payload and before the digest is computed, so that
/// removed data leaves no trace outside the process.
pub trait Redact: Send + Sync {
    /// Returns the bytes to publish instead of the payload. `None` publishes it unchanged. Must not panic for any bytes.
    fn redact(&self, payload: &Payload<'_>) -> Option<Vec<u8>>;
}

/// Replaces values in the arguments and results of named tools by [`RedactFields::REPLACEMENT`].
///
/// If a payload of a named tool is not JSON, or an object in it has a duplicate key (parsers differ on which value they
/// use), the whole payload is replaced: a rule that cannot be applied must not publish everything. If no rule matches, the
/// bytes stay unchanged. Results are redacted only if the caller names their tool. Texts of messages are not redacted.
#[derive(Clone, Debug, Default)]
pub struct RedactFields {
    pointers: BTreeMap<String, Vec<String>>,
}

/// A redaction rule with an invalid JSON pointer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "redaction of tool {tool}: expected a JSON pointer (RFC 6901: empty, or starting with /), found `{pointer}`"
)]
pub struct InvalidPointer {
    tool: String,
    pointer: String,
}

impl RedactFields {
    /// Replacement of a removed value, as a JSON string.
    pub const REPLACEMENT: &str = "[redacted]";

    /// Creates the hook from rules: a tool name, and JSON pointers (RFC 6901) to the values to replace. The empty pointer is
    /// the whole payload.
    pub fn new<T, P>(rules: impl IntoIterator<Item = (T, Vec<P>)>) -> Result<Self, InvalidPointer>
    where
        T: Into<String>,
        P: Into<String>,
    {
        let mut pointers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tool, tool_pointers) in rules {
            let tool = tool.into();
            for pointer in tool_pointers.into_iter().map(Into::into) {
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

/// A JSON value without duplicate keys.
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
        f.write_str("JSON without duplicate keys")
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
                return Err(A::Error::custom("duplicate key"));
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
        let payload = Payload { kind: PayloadKind::Arguments, event_type: "tool.invoked", tool, content };
        rules.redact(&payload).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_of_matching_rules_are_replaced() {
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
    fn payload_that_is_not_utf8_is_replaced_whole() {
        assert_eq!(redact(Some("pay"), &[b'"', 0xff, b'"']).as_deref(), Some("\"[redacted]\""));
    }

    #[test]
    fn invalid_pointer_is_an_error() {
        let error = RedactFields::new([("pay", vec!["cvv"])]).unwrap_err();
        assert!(error.to_string().contains("`cvv`"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(data: Vec<u8>) {
            redact(Some("pay"), &data);
        }

        #[test]
        fn value_is_removed_whatever_surrounds_it(key in "[a-z]{1,8}", text in "[^\u{0}]{0,20}") {
            let data = serde_json::json!({ key: text, "cvv": "secret-8731" }).to_string();
            prop_assert!(!redact(Some("pay"), data.as_bytes()).unwrap().contains("secret-8731"));
        }
    }
}
