use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, Spanned};

use super::Problems;
use crate::bounds::{MAX_YAML_ALIASES, MAX_YAML_DEPTH, MAX_YAML_VALUES};

/// Value of a YAML file with its location.
#[derive(Clone, Debug)]
pub struct Node {
    /// Start of the value; for a mapping or list in block style, start of the first entry.
    pub at: Location,
    /// The value.
    pub value: Value,
}

/// Value of a node.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A number with a fraction.
    Number(f64),
    /// Any other scalar, and every quoted scalar.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, including duplicate keys.
    Mapping(Vec<(Spanned<String>, Node)>),
}

impl Node {
    /// Parses one YAML document. A syntax error is the only problem reported, since the text after it cannot be parsed.
    pub fn parse(text: &str, problems: &mut Problems) -> Option<Self> {
        let options = serde_saphyr::options! {
            // Duplicates are kept, so that they are reported together with all other problems.
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            // YAML 1.2 has only true and false. An agent may have the name `y`, and an owner `no`.
            strict_booleans: true,
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: MAX_YAML_DEPTH,
                max_nodes: MAX_YAML_VALUES,
                // Each value has at most two events: the begin and the end of a mapping or list.
                max_events: 2 * MAX_YAML_VALUES + 1_000,
                max_aliases: MAX_YAML_ALIASES,
                max_anchors: MAX_YAML_ALIASES,
                max_documents: 1,
                // Another limit than the number of aliases would not be understood.
                enforce_alias_anchor_ratio: false,
            },
        };
        serde_saphyr::from_str_with_options::<Self>(text, options)
            .map_err(|error| {
                let at = error.location().unwrap_or(Location::UNKNOWN);
                problems.add(at, one_line(&error));
            })
            .ok()
    }

    /// Returns the start of the value at `path`, whose segments are keys of mappings and texts of lists. If the path does not
    /// exist, returns the location of the deepest key that does, so that a missing value is reported at its parent.
    pub fn location(&self, path: &[&str]) -> Location {
        let mut node = self;
        let mut place = node.at;
        for (i, segment) in path.iter().enumerate() {
            let next = match &node.value {
                Value::Mapping(entries) => {
                    entries.iter().find(|(key, _)| key.value == *segment).map(|(key, value)| {
                        let inner =
                            matches!(value.value, Value::Mapping(_) | Value::List(_)) || i + 1 < path.len();
                        (value, if inner { key.referenced } else { value.at })
                    })
                }
                Value::List(items) => items
                    .iter()
                    .find(|item| matches!(&item.value, Value::Text(text) if text == segment))
                    .map(|item| (item, item.at)),
                _ => None,
            };
            let Some((value, at)) = next else { break };
            node = value;
            place = at;
        }
        place
    }
}

/// Returns the parser's message without the location, which the problem has in fields of its own.
fn one_line(error: &Error) -> String {
    let mut error = error;
    // An alias error has the locations of definition and use; a problem has one location.
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } = error {
        error = inner;
    }
    match error {
        Error::Budget { breach, .. } => return beyond_budget(breach),
        Error::MultipleDocuments { .. } => return SECOND_DOCUMENT.to_owned(),
        // Only keys are read as a type of their own.
        Error::Unexpected { .. } => {
            return "expected a key that is a text, found a list or a mapping".to_owned();
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            return "expected aliases (`*name`) that stand for fewer and flatter values; write the values out"
                .to_owned();
        }
        _ => {}
    }
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    format!("not YAML: {}", text.rsplit_once(" at line ").map_or(text, |(message, _)| message))
}

const SECOND_DOCUMENT: &str =
    "expected one document, found `---` and a second one; put it into a file of its own";

/// Returns the message for a file that exceeds a limit of the parser.
fn beyond_budget(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => {
            format!("expected mappings and lists nested at most {MAX_YAML_DEPTH} deep, found more")
        }
        BudgetBreach::Documents { .. } => SECOND_DOCUMENT.to_owned(),
        BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. } => format!(
            "expected at most {MAX_YAML_ALIASES} anchors (`&name`) and as many aliases (`*name`), found more; write the values out"
        ),
        BudgetBreach::SequenceUnbalanced => {
            "expected each mapping and list to end where it began, found an end without a begin".to_owned()
        }
        _ => format!(
            "expected at most {MAX_YAML_VALUES} values and keys in a file, found more; split the file"
        ),
    }
}

impl fmt::Display for Value {
    /// Writes the description of the value for messages ("found …").
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "the number {value}"),
            Self::Number(value) => write!(f, "the number {value:?}"),
            Self::Text(text) => write!(f, "`{text}`"),
            Self::List(_) => f.write_str("a list"),
            Self::Mapping(_) => f.write_str("a mapping"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: spanned.referenced, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValueVisitor)
    }
}

struct AnyValueVisitor;

impl<'de> Visitor<'de> for AnyValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_types_of_yaml_1_2() {
        let words = "[true, y, no, On, 7, -7, 0.5, 30d, ~, '7', a:b]";
        let Value::List(items) = Node::parse(words, &mut Problems::new("t")).unwrap().value else {
            panic!("{words}")
        };
        let found: Vec<_> = items.iter().map(|item| item.value.to_string()).collect();
        let expected = [
            "true",
            "`y`",
            "`no`",
            "`On`",
            "the number 7",
            "the number -7",
            "the number 0.5",
            "`30d`",
            "nothing",
            "`7`",
            "`a:b`",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn location_is_the_value_or_the_deepest_existing_key() {
        let node = Node::parse("a:\n  b: [x, y]\n  c: 1\n", &mut Problems::new("t")).unwrap();
        for (path, line, column) in [
            (&["a"][..], 1, 1),
            (&["a", "b"], 2, 3),
            (&["a", "b", "y"], 2, 10),
            (&["a", "c"], 3, 6),
            (&["a", "missing", "more"], 1, 1),
            (&["missing"], 1, 1),
        ] {
            let at = node.location(path);
            assert_eq!((at.line(), at.column()), (line, column), "{path:?}");
        }
    }

    #[test]
    fn limit_of_the_parser_is_named_with_its_place() {
        let parse = |text: &str| {
            let mut problems = Problems::new("t");
            let value = Node::parse(text, &mut problems);
            problems.finish(value).map_err(|found| found[0].to_string())
        };
        let values = |n: usize| "- x\n".repeat(n);
        let aliases = |n: usize| "- &a x\n".to_owned() + &"- *a\n".repeat(n);
        assert!(parse(&values(10_000)).is_ok());
        assert!(parse(&aliases(MAX_YAML_ALIASES)).is_ok());
        for (text, expected) in [
            (
                values(MAX_YAML_VALUES),
                "expected at most 250000 values and keys in a file, found more; split the file",
            ),
            (
                aliases(MAX_YAML_ALIASES + 1),
                "expected at most 10000 anchors (`&name`) and as many aliases (`*name`), found more; write the values out",
            ),
            (
                "a: 1\n---\nb: 2\n".to_owned(),
                "expected one document, found `---` and a second one; put it into a file of its own",
            ),
            ("? [a]\n: b\n".to_owned(), "expected a key that is a text, found a list or a mapping"),
        ] {
            let problem = parse(&text).unwrap_err();
            let (place, message) = problem.split_once(": ").unwrap();
            assert_eq!(message, expected);
            assert!(place.split(':').nth(1).unwrap().parse::<u64>().unwrap() > 0, "{place}");
        }
    }

    /// In each style of nesting, 40 levels are a value and 41 levels are a problem with a location. The test thread has a stack
    /// of 2 MiB.
    #[test]
    fn nesting_is_bounded() {
        let list = |n: usize| "[".repeat(n) + "x" + &"]".repeat(n);
        let mapping = |n: usize| "{a: ".repeat(n) + "x" + &"}".repeat(n);
        let block =
            |n: usize| (0..n).map(|level| format!("\n{}a:", " ".repeat(level))).collect::<String>() + " x";
        let dashes = |n: usize| "- ".repeat(n) + "x";
        // Nested keys: only a scalar can be a key.
        let keys = |n: usize| "? ".repeat(n) + "x";
        // Nested through aliases, not through brackets.
        let aliases = |n: usize| {
            let mut text = "- &a0 [x]\n".to_owned();
            (1..n).for_each(|i| text += &format!("- &a{i} [*a{}]\n", i - 1));
            text
        };
        let parse = |text: &str| {
            let mut problems = Problems::new("t");
            let value = Node::parse(text, &mut problems);
            problems.finish(value).map_err(|found| found[0].to_string())
        };
        for (text, column) in
            [(&list as &dyn Fn(usize) -> String, 41), (&mapping, 161), (&dashes, 81), (&block, 41)]
        {
            assert!(parse(&text(MAX_YAML_DEPTH)).is_ok(), "{}", text(MAX_YAML_DEPTH));
            for more in [MAX_YAML_DEPTH + 1, 200] {
                let line = if text(1).starts_with('\n') { 42 } else { 1 };
                let expected = format!(
                    "t:{line}:{column}: expected mappings and lists nested at most 40 deep, found more"
                );
                assert_eq!(parse(&text(more)).unwrap_err(), expected);
            }
            assert!(parse(&text(3_000)).is_err());
        }
        assert!(parse(&aliases(MAX_YAML_DEPTH - 1)).is_ok());
        for text in [
            aliases(MAX_YAML_DEPTH),
            aliases(3_000),
            keys(3_000),
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
        ] {
            let problem = parse(&text).unwrap_err();
            assert!(problem.starts_with("t:") && !problem.contains("budget"), "{problem}");
        }
    }
}
