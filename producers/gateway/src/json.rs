//! JSON that two parsers cannot read differently. The gateway decides about what it reads, and sends on the bytes that it
//! received, so a peer must not find other names or arguments in them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use agentgov_schemas::escape::Escaped;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Depth up to which names that differ in case only count as the same: the frame and its `params`. Some parsers ignore the
/// case of the names that they look for.
const FOLDED_DEPTH: usize = 2;

/// Checks that `text` is one JSON text in which no name stands twice in an object.
///
/// # Errors
/// The expected and the found content, with its position.
pub fn check(text: &str) -> Result<(), String> {
    check_folded(text, FOLDED_DEPTH)
}

/// Checks the same as [`check`]; names that differ in case only count as the same up to `folded_depth`.
///
/// # Errors
/// The expected and the found content, with its position.
pub fn check_folded(text: &str, folded_depth: usize) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let checked =
        Checked { depth: 0, folded_depth }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    checked.map_err(|error| format!("expected JSON in which no name stands twice: {error}"))
}

/// Members of an object in their order, with the bytes of each value.
#[derive(Clone, Debug, Default)]
pub struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// If `text` is no object.
    pub fn read(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("expected an object: {error}"))
    }

    /// Returns the bytes of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// Checks that each of these names is spelled exactly. A parser that ignores case would read another spelling, which this one
    /// does not see.
    ///
    /// # Errors
    /// The expected and the found name.
    pub fn check_spelling(&self, known: &[&str]) -> Result<(), String> {
        for (name, _) in &self.0 {
            let same = folded(name);
            if let Some(expected) = known.iter().find(|known| folded(known) == same && *known != name) {
                return Err(format!("expected the name `{expected}`, found `{}`", Escaped(name)));
            }
        }
        Ok(())
    }

    /// Returns the text of a member that is a string.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.get(name)?)
    }

    /// Returns the members of a member that is an object.
    pub fn object(&self, name: &str) -> Option<Self> {
        Self::read(self.get(name)?.get()).ok()
    }

    /// Returns the object with another value of a member; `None` removes the member. The other values keep their bytes.
    pub fn with(&self, name: &str, value: Option<&str>) -> String {
        let is_new = self.get(name).is_none();
        let kept =
            self.0.iter().map(|(key, raw)| (key.as_str(), if key == name { value } else { Some(raw.get()) }));
        let added = std::iter::once((name, value)).filter(|_| is_new);
        let mut object = String::from("{");
        for (key, value) in kept.chain(added) {
            let Some(value) = value else { continue };
            if object.len() > 1 {
                object.push(',');
            }
            object.push_str(&quoted(key));
            object.push(':');
            object.push_str(value);
        }
        object.push('}');
        object
    }
}

/// Returns the text of a JSON string; `None` for another value.
pub fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// Returns `text` as a JSON string.
pub fn quoted(text: &str) -> String {
    to_text(&text)
}

/// Returns `value` as JSON. The values of this crate always have a JSON form.
pub fn to_text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// Replaces the bytes of `part`, which must be a part of `whole`, by `by`.
pub fn splice(whole: &str, part: &str, by: &str) -> Option<String> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let (before, rest) = (whole.get(..start)?, whole.get(start..)?);
    Some([before, by, rest.get(part.len()..)?].concat())
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Value whose objects have no name twice.
#[derive(Clone, Copy)]
struct Checked {
    depth: usize,
    folded_depth: usize,
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = Self { depth: self.depth + 1, ..self };
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        let inner = Self { depth: self.depth + 1, ..self };
        while let Some(name) = map.next_key::<String>()? {
            let same = if self.depth < self.folded_depth { folded(&name) } else { name.clone() };
            if !names.insert(same) {
                return Err(de::Error::custom(format!("`{}` stands twice", Escaped(name))));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Returns a name without its case, as parsers compare names that ignore it: the Kelvin sign is a k, the long s an s, an i with or
/// without its dot an i.
fn folded(name: &str) -> String {
    let lower = name.chars().flat_map(char::to_lowercase).filter(|c| *c != '\u{307}');
    lower
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{131}' => 'i',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_stands_twice_is_refused_at_any_depth() {
        for (text, named) in [
            (r#"{"a": 1, "a": 1}"#, "`a`"),
            (r#"{"params": {"arguments": {"x": [{"y": 1, "\u0079": 1}]}}}"#, "`y`"),
            (r#"{"method": 1, "Method": 2}"#, "`Method`"),
            (r#"{"params": {"name": "read", "NAME": "write"}}"#, "`NAME`"),
            ("{\"params\": {\"tasK\": 1, \"ta\u{17f}\u{212a}\": 2}}", "`ta\u{17f}\u{212a}`"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(&format!("{named} stands twice")), "{text}: {error}");
        }
        // An argument's names are the tool's.
        check(r#"{"params": {"arguments": {"a": 1, "A": 2}}}"#).unwrap();
        check(r#"[{"a": 1}, {"a": 1}]"#).unwrap();
    }

    #[test]
    fn known_name_in_another_case_is_refused() {
        let check = |object: &str| Members::read(object).unwrap().check_spelling(&["uri", "task", "_meta"]);
        for name in ["URI", "ur\u{131}", "UR\u{130}", "ta\u{17f}\u{212a}", "\\u0054ask", "_Meta"] {
            check(&format!(r#"{{"a":1,"{name}":2}}"#)).unwrap_err();
        }
        check(r#"{"uri":1,"task":2,"_meta":3,"Other":4,"ta-sk":5}"#).unwrap();
    }

    #[test]
    fn other_text_than_one_json_value_is_refused() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "{} {}",
            "{'a': 1}",
            "{\"a\": NaN}",
            "{\"a\": 1e999}",
            "\u{feff}{}",
            "\"\u{1b}\"",
            &deep,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn members_keep_the_bytes_of_their_values() {
        let text = r#"{"n" : 12345678901234567890123, "s":"\u0041", "o":{ "x" : 1.0 },"z":null}"#;
        let members = Members::read(text).unwrap();
        assert_eq!(members.get("n").unwrap().get(), "12345678901234567890123");
        assert_eq!(members.text("s").unwrap(), "A");
        assert_eq!((members.text("n"), members.get("z").unwrap().get()), (None, "null"));
        assert_eq!(members.object("o").unwrap().get("x").unwrap().get(), "1.0");
        assert_eq!(members.with("o", None), r#"{"n":12345678901234567890123,"s":"\u0041","z":null}"#);
        assert_eq!(
            members.with("s", Some("7")),
            r#"{"n":12345678901234567890123,"s":7,"o":{ "x" : 1.0 },"z":null}"#
        );
        assert_eq!(Members::read("{}").unwrap().with("a", Some("1")), r#"{"a":1}"#);
        assert_eq!(Members::read("{}").unwrap().with("a", None), "{}");
        assert!(Members::read("[]").is_err());
    }

    #[test]
    fn spliced_text_keeps_all_other_bytes() {
        let whole = r#"{"a": {"b" : 1 }, "c":2}"#;
        let part = Members::read(whole).unwrap().get("a").unwrap().get();
        assert_eq!(splice(whole, part, "7").as_deref(), Some(r#"{"a": 7, "c":2}"#));
    }
}
