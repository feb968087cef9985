//! Converts JSON to Cedar values, by the declared type.

use cedar_policy::{Context, EntityId, EntityUid, RestrictedExpression};
use chrono::{DateTime, FixedOffset, SecondsFormat};
use serde_json::{Number, Value};

use super::attributes::{Attribute, AttributeType, Attributes};
use super::model::Model;
use super::request::Properties;

/// A value that does not have its declared type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Names of attributes and positions in lists, from the outermost to the innermost.
    pub(super) path: Vec<String>,
    /// The expected and the found type. Contains no value.
    pub(super) message: String,
}

impl Mismatch {
    fn new(of: &AttributeType, found: &Value) -> Self {
        Self { path: Vec::new(), message: format!("expected {}, found {}", of.described(), described(found)) }
    }

    fn within(mut self, name: impl ToString) -> Self {
        self.path.insert(0, name.to_string());
        self
    }
}

/// Converts the declared properties, in order of their names. Ignores all others, since no policy can read them. `refs`
/// collects the entities to which values refer.
pub(super) fn declared(
    properties: &Properties,
    declared: &Attributes,
    model: &Model,
    refs: &mut Vec<EntityUid>,
) -> Vec<Result<(String, RestrictedExpression), Mismatch>> {
    let converted = declared.iter().filter_map(|(name, Attribute { of, .. })| {
        let value = properties.get(name)?;
        Some(match expression(value, of, model, refs) {
            Ok(value) => Ok((name.clone(), value)),
            Err(mismatch) => Err(mismatch.within(name)),
        })
    });
    converted.collect()
}

fn expression(
    value: &Value,
    of: &AttributeType,
    model: &Model,
    refs: &mut Vec<EntityUid>,
) -> Result<RestrictedExpression, Mismatch> {
    let mismatch = || Mismatch::new(of, value);
    let built = match (of, value) {
        (AttributeType::Bool, Value::Bool(value)) => RestrictedExpression::new_bool(*value),
        (AttributeType::Long, Value::Number(number)) => {
            RestrictedExpression::new_long(number.as_i64().ok_or_else(mismatch)?)
        }
        (AttributeType::Text, Value::String(text)) => RestrictedExpression::new_string(text.clone()),
        (AttributeType::Set(of), Value::Array(items)) => {
            let items = items.iter().enumerate();
            let items = items
                .map(|(at, item)| expression(item, of, model, refs).map_err(|mismatch| mismatch.within(at)));
            RestrictedExpression::new_set(items.collect::<Result<Vec<_>, _>>()?)
        }
        (AttributeType::Record(attributes), Value::Object(properties)) => {
            let fields = declared(properties, attributes, model, refs);
            let fields = fields.into_iter().collect::<Result<Vec<_>, _>>()?;
            RestrictedExpression::new_record(fields).map_err(|_| mismatch())?
        }
        (AttributeType::Entity(kind), Value::Object(entity)) => {
            let text = |key: &str| entity.get(key).and_then(Value::as_str);
            let (of, id) = text("type").zip(text("id")).ok_or_else(mismatch)?;
            if model.entity_type(of).is_none_or(|found| found.name != *kind) {
                return Err(mismatch());
            }
            let uid = EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
            refs.push(uid.clone());
            RestrictedExpression::new_entity_uid(uid)
        }
        (AttributeType::Decimal, Value::Number(number)) => {
            checked(RestrictedExpression::new_decimal(decimal(number))).ok_or_else(mismatch)?
        }
        (AttributeType::Decimal, Value::String(text)) => {
            checked(RestrictedExpression::new_decimal(text)).ok_or_else(mismatch)?
        }
        (AttributeType::Ip, Value::String(text)) => {
            checked(RestrictedExpression::new_ip(text)).ok_or_else(mismatch)?
        }
        (AttributeType::Duration, Value::String(text)) => {
            checked(RestrictedExpression::new_duration(text)).ok_or_else(mismatch)?
        }
        (AttributeType::Datetime, Value::String(text)) => {
            let text = utc(text).unwrap_or_else(|| text.clone());
            checked(RestrictedExpression::new_datetime(text)).ok_or_else(mismatch)?
        }
        _ => return Err(mismatch()),
    };
    Ok(built)
}

/// Evaluates a value of an extension type, since Cedar parses its text only then. `None` if the text is invalid.
fn checked(value: RestrictedExpression) -> Option<RestrictedExpression> {
    Context::from_pairs([("value".to_owned(), value.clone())]).is_ok().then_some(value)
}

/// Returns a number in Cedar's notation of decimals: with a point.
fn decimal(number: &Number) -> String {
    let text = number.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// Converts a time to Cedar's format: RFC 3339, or without seconds as in examples of the AuthZEN specification.
fn utc(text: &str) -> Option<String> {
    let time: DateTime<FixedOffset> = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M%:z"))
        .ok()?;
    Some(time.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Returns the type of a value, without its content.
const fn described(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
