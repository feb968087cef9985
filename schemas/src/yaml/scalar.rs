//! Readers of scalars, lists and enums.

use serde_saphyr::Spanned;

use super::{FromNode, Node, Problems, Value};

impl FromNode for String {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            found @ (Value::Bool(_) | Value::Integer(_) | Value::Number(_)) => {
                problems.add(
                    node.at,
                    format!("expected text, found {found}; put it in quotes if it is meant as text"),
                );
                None
            }
            found => unexpected(node, problems, "text", found),
        }
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            found => unexpected(node, problems, "true or false", found),
        }
    }
}

impl FromNode for f64 {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Number(value) => Some(*value),
            // Exact up to 2^53; shares and weights are far below.
            Value::Integer(value) => Some(*value as Self),
            found => unexpected(node, problems, "a number", found),
        }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl FromNode for $type {
            fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
                match &node.value {
                    found @ Value::Integer(value) => Self::try_from(*value).ok().or_else(|| {
                        let range = format!("a whole number between {} and {}", Self::MIN, Self::MAX);
                        unexpected(node, problems, &range, found)
                    }),
                    found => unexpected(node, problems, "a whole number", found),
                }
            }
        }
    )*};
}
integers!(i32, u32, i64, u64);

impl<T: FromNode> FromNode for Option<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        T::from_node(node, problems).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: FromNode> FromNode for Spanned<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        T::from_node(node, problems).map(|value| Self::new(value, node.at, node.at))
    }

    fn absent() -> Option<Self> {
        T::absent().map(|value| Self::new(value, super::Location::UNKNOWN, super::Location::UNKNOWN))
    }
}

/// An absent list is empty.
impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::List(items) => {
                // Reads all items before the result is decided, so that each mistake is reported.
                let read: Vec<_> = items.iter().map(|item| T::from_node(item, problems)).collect();
                read.into_iter().collect()
            }
            found => unexpected(node, problems, "a list", found),
        }
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// Reports an unexpected value.
pub(super) fn unexpected<T>(
    node: &Node,
    problems: &mut Problems,
    expected: &str,
    found: &Value,
) -> Option<T> {
    problems.add(node.at, format!("expected {expected}, found {found}"));
    None
}

/// Implements [`FromNode`] for an enum: `words!(Cleanup { "delete" => Delete, "compact" => Compact });`. An optional
/// `, absent: Variant` after the braces is the value for an absent key.
#[macro_export]
macro_rules! words {
    ($type:ident { $($word:literal => $variant:ident),+ $(,)? } $(, absent: $absent:ident)?) => {
        impl $crate::yaml::FromNode for $type {
            fn from_node(
                node: &$crate::yaml::Node,
                problems: &mut $crate::yaml::Problems,
            ) -> Option<Self> {
                match &node.value {
                    $($crate::yaml::Value::Text(text) if text == $word => Some(Self::$variant),)+
                    found => {
                        let words = $crate::yaml::one_of(&[$($word),+]);
                        problems.add(node.at, format!("expected {words}, found {found}"));
                        None
                    }
                }
            }
            $(fn absent() -> Option<Self> {
                Some(Self::$absent)
            })?
        }
    };
}

/// Joins words to "a, b or c".
pub fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
