//! Definition of a tool as its server lists it, in the canonical form of RFC 8785, and its digest. A person accepts the
//! digest; a call of a tool with another one is denied.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Digest;

/// Members of a listed tool that its definition consists of.
const MEMBERS: [&str; 6] = ["annotations", "description", "inputSchema", "name", "outputSchema", "title"];
/// Maximum nesting of a listed tool.
const MAX_DEPTH: usize = 128;
/// Maximum size of a listed tool in bytes.
pub const MAX_DEFINITION_BYTES: usize = 256 << 10;

/// Definition of a tool: the members that describe it to a model, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolDefinition {
    /// Name of the tool at its server.
    pub name: String,
    /// The definition as RFC 8785 JSON.
    pub json: String,
    /// SHA-256 of `json`.
    pub digest: Digest,
}

/// Listed tool that has no definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// The tool is too large.
    #[error("expected a tool of at most {MAX_DEFINITION_BYTES} bytes, found {0}")]
    TooLarge(usize),
    /// The text is not JSON, or a key stands twice in an object.
    #[error("expected a JSON object in which no key stands twice: {0}")]
    NotJson(String),
    /// The nesting is too deep.
    #[error("expected JSON nested at most {MAX_DEPTH} deep, found deeper nesting")]
    TooDeep,
    /// The tool is no object.
    #[error("expected a tool as a JSON object, found another value")]
    NotAnObject,
    /// The tool has no name.
    #[error("expected a `name` that is a text and not empty, found none")]
    NoName,
    /// RFC 8785 has no form for the number, so that two definitions could have one digest.
    #[error(
        "expected numbers that a binary64 number can hold, found {0}; the server must state it otherwise, e.g. as a text"
    )]
    Number(String),
}

impl ToolDefinition {
    /// Reads an item of the result of `tools/list`.
    ///
    /// # Errors
    /// If the item is not a JSON object with a name, or RFC 8785 cannot hold it.
    pub fn parse(item: &str) -> Result<Self, DefinitionError> {
        if item.len() > MAX_DEFINITION_BYTES {
            return Err(DefinitionError::TooLarge(item.len()));
        }
        // The whole item is checked: clients read the other members as well.
        canonical_json(item)?;
        let members = members(item)?;
        let name = members.get("name").and_then(|name| serde_json::from_str::<String>(name.get()).ok());
        let name = name.filter(|name| !name.is_empty()).ok_or(DefinitionError::NoName)?;
        let defining = members.into_iter().filter(|(key, _)| MEMBERS.contains(&key.as_str()));
        let mut json = String::new();
        write_object(defining.collect(), MAX_DEPTH, &mut json)?;
        Ok(Self { name, digest: Digest::of(json.as_bytes()), json })
    }
}

/// Returns the form of RFC 8785 of a JSON text.
///
/// # Errors
/// If the text is not JSON, a key stands twice in an object, or binary64 cannot hold a number.
pub fn canonical_json(text: &str) -> Result<String, DefinitionError> {
    let raw: &RawValue = parse(text)?;
    let mut json = String::with_capacity(text.len());
    write(raw, MAX_DEPTH, &mut json)?;
    Ok(json)
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, DefinitionError> {
    serde_json::from_str(text).map_err(|error| DefinitionError::NotJson(error.to_string()))
}

fn write(raw: &RawValue, depth: usize, json: &mut String) -> Result<(), DefinitionError> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => write_object(members(text)?, depth, json),
        Some(b'[') => {
            let depth = depth.checked_sub(1).ok_or(DefinitionError::TooDeep)?;
            json.push('[');
            for (at, item) in parse::<Vec<&RawValue>>(text)?.into_iter().enumerate() {
                if at > 0 {
                    json.push(',');
                }
                write(item, depth, json)?;
            }
            json.push(']');
            Ok(())
        }
        Some(b'"') => write_text(&parse::<String>(text)?, json),
        Some(b'-' | b'0'..=b'9') => write_number(text, json),
        _ => {
            json.push_str(text);
            Ok(())
        }
    }
}

fn write_object(
    members: BTreeMap<String, &RawValue>,
    depth: usize,
    json: &mut String,
) -> Result<(), DefinitionError> {
    let depth = depth.checked_sub(1).ok_or(DefinitionError::TooDeep)?;
    let mut members: Vec<(String, &RawValue)> = members.into_iter().collect();
    // By UTF-16 code units; the order of UTF-8 differs from it above U+FFFF.
    members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
    json.push('{');
    for (at, (key, value)) in members.into_iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        write_text(&key, json)?;
        json.push(':');
        write(value, depth, json)?;
    }
    json.push('}');
    Ok(())
}

/// Writes a text with the escapes of RFC 8785, which are those of `serde_json`.
fn write_text(text: &str, json: &mut String) -> Result<(), DefinitionError> {
    json.push_str(&serde_json::to_string(text).map_err(|error| DefinitionError::NotJson(error.to_string()))?);
    Ok(())
}

/// Writes a number as ECMAScript does. Parses its text, since `serde_json` rounds some numbers differently.
fn write_number(text: &str, json: &mut String) -> Result<(), DefinitionError> {
    let refused = || DefinitionError::Number(text.chars().take(40).collect());
    let number: f64 = text.parse().map_err(|_| refused())?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let is_zero = !mantissa.contains(|c: char| ('1'..='9').contains(&c));
    let is_integer = !text.contains(['.', 'e', 'E']);
    // Two integers must not become one number, nor a small number zero.
    let is_exact = !is_integer || format!("{number:.0}") == text || (is_zero && number == 0.0);
    if !number.is_finite() || !is_exact || (number == 0.0 && !is_zero) {
        return Err(refused());
    }
    json.push_str(ryu_js::Buffer::new().format_finite(number));
    Ok(())
}

/// Returns the members of an object, with the text of each value.
fn members(text: &str) -> Result<BTreeMap<String, &RawValue>, DefinitionError> {
    if !text.trim_start().starts_with('{') {
        parse::<IgnoredAny>(text)?;
        return Err(DefinitionError::NotAnObject);
    }
    parse::<Members<'_>>(text).map(|members| members.0)
}

struct Members<'t>(BTreeMap<String, &'t RawValue>);

impl<'de: 't, 't> Deserialize<'de> for Members<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.insert(key, value).is_some() {
                        return Err(de::Error::custom("a key stands twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The examples of RFC 8785, 3.2.2 to 3.2.4, and of its appendix B.
    #[test]
    fn canonical_form_is_that_of_the_rfc() {
        let input = r#" { "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false] }"#;
        let expected = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
                        \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical_json(input).unwrap(), expected);
        let input = r#"{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O"}"#;
        let json = canonical_json(input).unwrap();
        let order: Vec<&str> =
            json.split("\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(
            order,
            [
                "Carriage Return",
                "One",
                "Control",
                "Latin Small Letter O",
                "Euro Sign",
                "Emoji: Grinning Face",
                "Hebrew Letter Dalet With Dagesh"
            ]
        );
        for (bits, expected) in [
            (0x0000_0000_0000_0001_u64, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let text = format!("{:e}", f64::from_bits(bits));
            assert_eq!(canonical_json(&text).unwrap(), expected);
        }
    }

    #[test]
    fn number_that_binary64_cannot_hold_is_refused() {
        for (text, is_held) in [
            ("0", true),
            ("-0", true),
            ("-0.0e7", true),
            ("9007199254740993", false),
            ("9007199254740992", true),
            ("1152921504606846976", true),
            ("-9223372036854775808", true),
            ("9223372036854775807", false),
            ("12345678901234567890123", false),
            ("1e400", false),
            ("1e-400", false),
            ("0e-400", true),
            ("0.1", true),
        ] {
            let found = canonical_json(text);
            assert_eq!(found.is_ok(), is_held, "{text}: {found:?}");
            assert!(is_held || found == Err(DefinitionError::Number(text.to_owned())));
        }
    }

    #[test]
    fn definition_has_the_defining_members_only() {
        let listed = r#"{"title": "Read", "name": "read", "icons": [{"src": "x"}], "_meta": {"a": 1}, "inputSchema":
            {"type": "object", "properties": {}}, "outputSchema": null, "annotations": {"readOnlyHint": true},
            "description": "Reads a file."}"#;
        let definition = ToolDefinition::parse(listed).unwrap();
        assert_eq!(
            definition.json,
            r#"{"annotations":{"readOnlyHint":true},"description":"Reads a file.","inputSchema":{"properties":{},"type":"object"},"name":"read","outputSchema":null,"title":"Read"}"#
        );
        assert_eq!(
            (definition.name.as_str(), definition.digest),
            ("read", Digest::of(definition.json.as_bytes()))
        );
        let parse = |text: &str| ToolDefinition::parse(text).unwrap();
        let same = parse(r#"{"description":"a","name":"read"}"#).digest;
        assert_eq!(parse(r#"{ "name": "\u0072ead", "description": "a", "icons": [] }"#).digest, same);
        for changed in [
            r#"{"description":"b","name":"read"}"#,
            r#"{"description":"a","name":"Read"}"#,
            r#"{"description":"a","name":"read","title":null}"#,
            r#"{"description":"a","name":"read","inputSchema":{"x":1}}"#,
            r#"{"description":"a","name":"read","outputSchema":{}}"#,
            r#"{"description":"a","name":"read","annotations":{}}"#,
        ] {
            assert_ne!(parse(changed).digest, same, "{changed}");
        }
    }

    #[test]
    fn listed_tool_without_a_definition_is_an_error() {
        let deep = format!(r#"{{"name": "a", "inputSchema": {}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let large = format!(r#"{{"name": "a", "description": "{}"}}"#, "x".repeat(MAX_DEFINITION_BYTES));
        for (listed, expected) in [
            ("{", "no key stands twice: EOF"),
            ("[]", "found another value"),
            ("7 7", "no key stands twice: trailing"),
            (r#"{"name": ""}"#, "expected a `name`"),
            (r#"{"name": 7}"#, "expected a `name`"),
            (r#"{"title": "a"}"#, "expected a `name`"),
            (r#"{"name": "a", "name": "b"}"#, "a key stands twice"),
            (r#"{"name": "a", "n\u0061me": "b"}"#, "a key stands twice"),
            (r#"{"name": "a", "inputSchema": {"x": {"y": 1, "y": 1}}}"#, "a key stands twice"),
            (r#"{"name": "a", "_meta": {"x": 1, "x": 1}}"#, "a key stands twice"),
            (r#"{"name": "a", "inputSchema": {"maximum": 18446744073709551615}}"#, "18446744073709551615"),
            (r#"{"name": "\ud800"}"#, "no key stands twice: unexpected end of hex escape"),
            (&deep, "deeper nesting"),
            (&large, "at most 262144 bytes"),
        ] {
            let error = ToolDefinition::parse(listed).unwrap_err().to_string();
            assert!(error.contains(expected), "{listed:.60}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_canonical_form_or_an_error(text in "[\\[\\]{}\",:0-9a-z.eE+ -]{0,60}|\\PC{0,40}") {
            if let Ok(json) = canonical_json(&text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", json);
            }
        }
    }
}
