//! JSON of requests. A repeated key in an object is an error: parsers disagree about which of the two values counts, so
//! the caller and the decision point could read two different requests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use agentgov_schemas::escape::Escaped;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// Key of the object whose member `arguments` is also kept as text.
const CONTEXT: &str = "context";
/// Member that is also kept as text.
const ARGUMENTS: &str = "arguments";
/// List of the evaluations, each with or without a context.
const EVALUATIONS: &str = "evaluations";

/// A parsed request.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) value: Value,
    texts: BTreeMap<ContextOf, Box<RawValue>>,
}

/// Owner of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ContextOf {
    /// The body.
    Whole,
    /// An item of `evaluations`.
    Evaluation(usize),
}

impl Body {
    /// Parses a request.
    ///
    /// # Errors
    /// The expected and the found content, with its position.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err("expected a JSON object as the body, found an empty body".to_owned());
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| format!("expected UTF-8, found another byte at {}", e.valid_up_to()))?;
        let texts = RefCell::default();
        let value = parse(text, &Path::Root, &texts).map_err(|error| describe(&error))?;
        Ok(Self { value, texts: texts.into_inner() })
    }

    /// Returns the text of `arguments` within this context.
    pub(crate) fn arguments(&self, context: ContextOf) -> Option<&str> {
        self.texts.get(&context).map(|text| text.get())
    }
}

type Texts = RefCell<BTreeMap<ContextOf, Box<RawValue>>>;

fn parse(text: &str, path: &Path<'_>, texts: &Texts) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = ValueSeed { path, texts }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Describes an error. Only that of a visitor says what it expects.
fn describe(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => error.to_string(),
        Category::Syntax | Category::Eof | Category::Io => format!("expected JSON with one value: {error}"),
    }
}

/// Path of a value within the request.
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// Returns the owner if this is the path of a context. A context within a context is none, so the text of a member is
    /// parsed by a further parser once at most, not once per level.
    fn context_of(&self) -> Option<ContextOf> {
        match self {
            Self::Key(Path::Root, key) if *key == CONTEXT => Some(ContextOf::Whole),
            Self::Key(Path::Item(Path::Key(Path::Root, list), at), key)
                if *key == CONTEXT && *list == EVALUATIONS =>
            {
                Some(ContextOf::Evaluation(*at))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => write!(f, "{}", Escaped(key)),
            Self::Key(outer, key) => write!(f, "{outer}.{}", Escaped(key)),
            Self::Item(outer, at) => write!(f, "{outer}[{at}]"),
        }
    }
}

struct ValueSeed<'s> {
    path: &'s Path<'s>,
    texts: &'s Texts,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("expected a finite number: `{}`", self.path)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Item(self.path, items.len());
            match seq.next_element_seed(ValueSeed { path: &path, texts: self.texts })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let context_of = self.path.context_of();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            if object.contains_key(&key) {
                return Err(de::Error::custom(format!(
                    "expected JSON in which no key stands twice: `{path}` stands twice"
                )));
            }
            let value = match context_of {
                Some(of) if key == ARGUMENTS => {
                    let text: &RawValue = map.next_value()?;
                    let value = parse(text.get(), &path, self.texts).map_err(|error| {
                        // serde_json parses its position out of the end of a message.
                        let (line, column) = (error.line(), error.column());
                        let message = describe(&error);
                        let place = format!(" at line {line} column {column}");
                        let message = message.strip_suffix(&place).unwrap_or(&message);
                        de::Error::custom(format!("{message} (line {line}, column {column} of `{path}`)"))
                    })?;
                    self.texts.borrow_mut().insert(of, text.to_owned());
                    value
                }
                _ => map.next_value_seed(ValueSeed { path: &path, texts: self.texts })?,
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_that_stands_twice_is_named_at_any_depth() {
        for (text, named) in [
            (r#"{"a": 1, "a": 1}"#, "`a`"),
            (r#"{"subject": {"id": "x", "id": "y"}}"#, "`subject.id`"),
            (r#"{"a": [{}, {"b": {"c\n": 1, "\u0063\n": 2}}]}"#, r"`a[1].b.c\u{a}`"),
            (r#"{"context": {"arguments": {"x": [{"y": 1, "y": 1}]}}}"#, "`context.arguments.x[0].y`"),
            (r#"{"context": {"arguments": 1, "arguments": 1}}"#, "`context.arguments`"),
        ] {
            let error = Body::parse(text.as_bytes()).unwrap_err();
            let expected = format!("expected JSON in which no key stands twice: {named} stands twice");
            assert!(error.starts_with(&expected), "{text}: {error}");
        }
    }

    #[test]
    fn fault_names_its_kind_and_a_position_in_the_text_that_it_is_of() {
        for (text, expected) in [
            ("{\"a\": NaN}", "expected JSON with one value: expected value at line 1 column 7"),
            ("{} {}", "expected JSON with one value: trailing characters at line 1 column 4"),
            (
                "{\n\"context\": {\"arguments\": {\"x\": 1,\n \"x\": 2}}}",
                "expected JSON in which no key stands twice: `context.arguments.x` stands twice \
                 (line 2, column 4 of `context.arguments`) at line 3 column 9",
            ),
        ] {
            assert_eq!(Body::parse(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn arguments_of_a_context_keep_their_text() {
        let text = r#"{"context": {"arguments": { "n" : 12345678901234567890123 }},
                       "evaluations": [{"context": {"arguments": 1.0}}], "arguments": 2}"#;
        let body = Body::parse(text.as_bytes()).unwrap();
        assert_eq!(body.arguments(ContextOf::Whole), Some(r#"{ "n" : 12345678901234567890123 }"#));
        assert_eq!(body.arguments(ContextOf::Evaluation(0)), Some("1.0"));
        assert_eq!(body.texts.len(), 2);
    }

    #[test]
    fn key_that_is_spelled_like_the_path_of_a_context_is_none() {
        for text in [
            r#"{"evaluations[0]": {"context": {"arguments": 1}}}"#,
            r#"{"evaluations[0].context": {"arguments": 1}}"#,
            r#"{"evaluations": {"0": {"context": {"arguments": 1}}}}"#,
            r#"{"evaluations": [[{"context": {"arguments": 1}}]]}"#,
            r#"{"subject": {"context": {"arguments": 1}}}"#,
            r#"[{"context": {"arguments": 1}}]"#,
        ] {
            let body = Body::parse(text.as_bytes()).unwrap();
            assert!(body.texts.is_empty(), "{text}: {:?}", body.texts);
        }
        let text = r#"{"evaluations[0]": {"context": {"arguments": 1}}, "evaluations": [{"context": {"arguments": 2}}]}"#;
        let body = Body::parse(text.as_bytes()).unwrap();
        assert_eq!(body.arguments(ContextOf::Evaluation(0)), Some("2"));
        assert_eq!(body.texts.len(), 1);
    }

    #[test]
    fn arguments_within_arguments_keep_no_text_of_their_own() {
        let nested = |levels: usize| {
            format!("{}1{}", r#"{"context":{"arguments":"#.repeat(levels), "}}".repeat(levels))
        };
        let body = Body::parse(nested(50).as_bytes()).unwrap();
        assert_eq!(body.texts.len(), 1);
        for levels in [1_000, 40_000] {
            assert!(Body::parse(nested(levels).as_bytes()).is_err(), "{levels}");
            let item = format!(r#"{{"evaluations": [{}]}}"#, nested(levels));
            assert!(Body::parse(item.as_bytes()).is_err(), "{levels}");
        }
    }

    #[test]
    fn text_that_is_no_json_is_an_error_with_its_place() {
        for text in ["", "  \n", "{", "{} {}", "{\"a\": NaN}", "\u{feff}{}", "{'a': 1}", "{\"a\": 1e999}"] {
            assert!(Body::parse(text.as_bytes()).unwrap_err().starts_with("expected"), "{text}");
        }
        assert!(Body::parse(b"{\"a\": \"\xff\"}").unwrap_err().starts_with("expected UTF-8"));
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(Body::parse(deep(100).as_bytes()).is_ok());
        for text in [deep(1_000), deep(100_000), "[".repeat(500_000)] {
            assert!(Body::parse(text.as_bytes()).is_err());
        }
        let within = format!(r#"{{"context": {{"arguments": {}}}}}"#, deep(100_000));
        assert!(Body::parse(within.as_bytes()).is_err());
    }
}
