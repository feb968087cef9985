//! Types of attributes, read from Cedar's schema in JSON with resolved names.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::EntityTypeName;
use serde_json::{Map, Value};

/// Maximum nesting of a type. A reference to a common type counts as one level in addition to the levels of that type.
const MAX_DEPTH: usize = 64;
/// Maximum number of types in one type. A common type counts at each reference, since Cedar copies it there.
const MAX_SIZE: usize = 10_000;

/// Attributes of an entity type or of a context, by name.
pub(super) type Attributes = BTreeMap<String, Attribute>;

/// A declared attribute.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    pub(super) of: Arc<AttributeType>,
    pub(super) required: bool,
}

/// The type of an attribute.
#[derive(Clone, Debug)]
pub(super) enum AttributeType {
    Bool,
    Long,
    Text,
    Set(Arc<Self>),
    Record(Attributes),
    Entity(EntityTypeName),
    Decimal,
    Ip,
    Datetime,
    Duration,
}

/// Reads types, each common type once.
pub(super) struct TypeReader<'s> {
    /// Definitions of common types, by their full names.
    common: BTreeMap<String, &'s Value>,
    read: BTreeMap<String, MeasuredType>,
}

/// Type with its size and depth.
#[derive(Clone)]
struct MeasuredType {
    of: Arc<AttributeType>,
    size: usize,
    depth: usize,
}

impl<'s> TypeReader<'s> {
    /// Creates a reader for the namespaces of a schema, by name.
    pub(super) fn new(namespaces: &'s Map<String, Value>) -> Self {
        let mut common = BTreeMap::new();
        for (namespace, of) in namespaces {
            for (name, definition) in of.get("commonTypes").and_then(Value::as_object).into_iter().flatten() {
                common.insert(full_name(namespace, name), definition);
            }
        }
        Self { common, read: BTreeMap::new() }
    }

    /// Returns the attributes that a record declares; none for a type that is absent.
    ///
    /// # Errors
    /// If the type is not a record, is too large, or is nested too deep.
    pub(super) fn attributes(&mut self, of: Option<&Value>) -> Result<Attributes, String> {
        let Some(of) = of else { return Ok(Attributes::new()) };
        match &*self.sized(of, 0)?.of {
            AttributeType::Record(attributes) => Ok(attributes.clone()),
            other => Err(format!("expected a record, found {}", other.described())),
        }
    }

    fn sized(&mut self, of: &Value, outer: usize) -> Result<MeasuredType, String> {
        if outer >= MAX_DEPTH {
            return Err(format!("expected types nested at most {MAX_DEPTH} deep, found more"));
        }
        let name = of.get("type").and_then(Value::as_str).unwrap_or_default();
        let sized = match name {
            "Set" => {
                let element = self.sized(of.get("element").unwrap_or(&Value::Null), outer + 1)?;
                MeasuredType::around(AttributeType::Set(element.of.clone()), [element])
            }
            "Record" => {
                let mut attributes = Attributes::new();
                let mut inner = Vec::new();
                for (name, of) in of.get("attributes").and_then(Value::as_object).into_iter().flatten() {
                    let sized = self.sized(of, outer + 1)?;
                    let required = of.get("required").and_then(Value::as_bool).unwrap_or(true);
                    attributes.insert(name.clone(), Attribute { of: Arc::clone(&sized.of), required });
                    inner.push(sized);
                }
                MeasuredType::around(AttributeType::Record(attributes), inner)
            }
            "Entity" => {
                let name = of.get("name").and_then(Value::as_str).unwrap_or_default();
                let kind = EntityTypeName::from_str(name).map_err(|e| format!("`{name}`: {e}"))?;
                MeasuredType::around(AttributeType::Entity(kind), [])
            }
            "Extension" => builtin(of.get("name").and_then(Value::as_str).unwrap_or_default())?,
            other => self.named(other, outer)?,
        };
        if sized.size > MAX_SIZE {
            return Err(format!(
                "expected types of at most {MAX_SIZE} parts, each counted where it is used, found more"
            ));
        }
        if outer + sized.depth > MAX_DEPTH {
            return Err(format!("expected types nested at most {MAX_DEPTH} deep, found more"));
        }
        Ok(sized)
    }

    fn named(&mut self, name: &str, outer: usize) -> Result<MeasuredType, String> {
        if let Some(read) = self.read.get(name) {
            return Ok(read.clone());
        }
        let Some(definition) = self.common.get(name).copied() else { return builtin(name) };
        let sized = self.sized(definition, outer + 1)?;
        self.read.insert(name.to_owned(), sized.clone());
        Ok(sized)
    }
}

impl MeasuredType {
    fn around(of: AttributeType, inner: impl IntoIterator<Item = Self>) -> Self {
        let (mut size, mut depth) = (1_usize, 0);
        for inner in inner {
            size = size.saturating_add(inner.size);
            depth = depth.max(inner.depth);
        }
        Self { of: Arc::new(of), size, depth: depth + 1 }
    }
}

impl AttributeType {
    /// Returns the JSON type of a value, for messages.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Long => "a whole number of 64 bits".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Set(_) => "a list".to_owned(),
            Self::Record(_) => "an object".to_owned(),
            Self::Entity(kind) => format!("an object with `type` and `id`, of type {kind}"),
            Self::Decimal => "a decimal number with at most 4 digits behind the point".to_owned(),
            Self::Ip => "an IP address or range, as a text".to_owned(),
            Self::Datetime => "a time of RFC 3339, as a text".to_owned(),
            Self::Duration => "a duration such as 1h30m, as a text".to_owned(),
        }
    }
}

fn builtin(name: &str) -> Result<MeasuredType, String> {
    let of = match name.strip_prefix("__cedar::").unwrap_or(name) {
        "Bool" | "Boolean" => AttributeType::Bool,
        "Long" => AttributeType::Long,
        "String" => AttributeType::Text,
        "decimal" => AttributeType::Decimal,
        "ipaddr" => AttributeType::Ip,
        "datetime" => AttributeType::Datetime,
        "duration" => AttributeType::Duration,
        other => return Err(format!("expected a type that properties can have, found `{other}`")),
    };
    Ok(MeasuredType::around(of, []))
}

/// Returns the full name of a declaration in a namespace.
pub(super) fn full_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}::{name}") }
}
