//! Types of derived values, and the conversion of CEL values to them.

use std::collections::BTreeSet;
use std::fmt;

use agentgov_schemas::yaml::{FromNode, Node, Problems, Value};
use cel::common::types::{CelBool, CelList, CelString};
use cel::common::value::Val;

use crate::call_context::Scalar;
use crate::number::Number;

/// Maximum size of a derived value in bytes, since verdicts carry derived values.
const MAX_BYTES: usize = 8 * 1024;

/// Declared type of a derived value: a type of Cedar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A single value.
    One(ScalarType),
    /// A set of values of one type.
    Set(ScalarType),
}

/// Scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// true or false.
    Bool,
    /// A 64-bit integer, in any notation of JSON.
    Long,
    /// Text.
    String,
}

const ALL: [ValueType; 6] = [
    ValueType::One(ScalarType::Bool),
    ValueType::One(ScalarType::Long),
    ValueType::One(ScalarType::String),
    ValueType::Set(ScalarType::Bool),
    ValueType::Set(ScalarType::Long),
    ValueType::Set(ScalarType::String),
];

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "Bool",
            Self::Long => "Long",
            Self::String => "String",
        })
    }
}

impl fmt::Display for ValueType {
    /// Writes the type as in a Cedar schema.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(scalar) => write!(f, "{scalar}"),
            Self::Set(scalar) => write!(f, "Set<{scalar}>"),
        }
    }
}

impl FromNode for ValueType {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let found = match &node.value {
            Value::Text(text) => ALL.into_iter().find(|known| known.to_string() == *text),
            _ => None,
        };
        if found.is_none() {
            let known = ALL.map(|known| known.to_string()).join(", ");
            problems.add(node.at, format!("expected a type of {known}, found {}", node.value));
        }
        found
    }
}

impl ValueType {
    /// Converts a value of this type.
    ///
    /// # Errors
    /// If the value has another type or is too long.
    pub(super) fn convert(self, value: &dyn Val) -> Result<Scalar, String> {
        let mut bytes = 0;
        let taken = match self {
            Self::One(scalar) => scalar.convert(value, &mut bytes),
            Self::Set(scalar) => value
                .downcast_ref::<CelList<'_>>()
                .and_then(|list| {
                    list.iter()
                        .map(|item| scalar.convert(item.as_ref(), &mut bytes))
                        .collect::<Option<BTreeSet<_>>>()
                })
                .map(Scalar::Set),
        };
        match taken {
            Some(_) if bytes > MAX_BYTES => Err(format!("expected at most {MAX_BYTES} bytes, found {bytes}")),
            Some(value) => Ok(value),
            None => {
                Err(format!("expected a value of type {self}, found one of type {}", value.get_type().name()))
            }
        }
    }
}

impl ScalarType {
    fn convert(self, value: &dyn Val, bytes: &mut usize) -> Option<Scalar> {
        *bytes += 8;
        match self {
            Self::Bool => value.downcast_ref::<CelBool>().map(|b| Scalar::Bool(*b.inner())),
            Self::Long => Number::from_val(value).and_then(Number::to_i64).map(Scalar::Long),
            Self::String => value.downcast_ref::<CelString<'_>>().map(|text| {
                *bytes += text.inner().len();
                Scalar::Text(text.inner().to_owned())
            }),
        }
    }
}
