//! Resolution of schema references. The schema registry returns a schema that uses types of other subjects with a list of
//! references. Decoders, and readers of the log without the schema registry, need one text. Therefore each referenced type is
//! inserted where it is first named. The fingerprint is computed from that text, so it equals that of a writer that registers the
//! same types in one schema.

use std::collections::{HashMap, HashSet};

use agentgov_schemas::bounds::MAX_AVRO_SCHEMA_BYTES;
use serde::Deserialize;
use serde_json::Value;

/// Maximum number of schemas that are referenced directly or indirectly.
const MAX_REFERENCES: usize = 64;
/// Maximum length of a chain of references.
const MAX_CHAIN: usize = 16;
/// Maximum nesting of a schema, equal to that of its JSON.
const MAX_NESTING: usize = 128;

/// Reference to a schema of another subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Reference {
    /// Full name of the referenced type.
    #[serde(default)]
    pub name: String,
    /// Subject of the schema.
    pub subject: String,
    /// Version of the subject.
    pub version: i64,
}

/// Schema with its references, as the schema registry returns it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SchemaResponse {
    pub schema: String,
    #[serde(default)]
    pub references: Option<Vec<Reference>>,
}

/// Error while resolving references.
#[derive(Debug)]
pub(crate) enum ResolveError<E> {
    /// A schema could not be fetched.
    Fetch(E),
    /// The references are invalid; the message has the reason.
    Invalid(String),
}

/// Returns the schema as one text. A schema without references is unchanged.
pub(crate) fn resolve<E>(
    schema: SchemaResponse,
    fetch: &mut dyn FnMut(&Reference) -> Result<SchemaResponse, E>,
) -> Result<String, ResolveError<E>> {
    let Some(references) = schema.references.filter(|references| !references.is_empty()) else {
        return Ok(schema.schema);
    };
    let mut collector = ReferenceCollector {
        fetch,
        bytes: schema.schema.len(),
        path: Vec::new(),
        done: HashSet::new(),
        types: HashMap::new(),
    };
    collector.collect_references(&references)?;
    let mut types = TypeInserter { known: collector.types, defined: HashSet::new() };
    let mut value = json(&schema.schema).map_err(ResolveError::Invalid)?;
    types.insert_into(&mut value, "", 0).map_err(ResolveError::Invalid)?;
    Ok(value.to_string())
}

struct ReferenceCollector<'f, E> {
    fetch: &'f mut dyn FnMut(&Reference) -> Result<SchemaResponse, E>,
    bytes: usize,
    path: Vec<Reference>,
    done: HashSet<(String, i64)>,
    types: HashMap<String, Value>,
}

impl<E> ReferenceCollector<'_, E> {
    /// Fetches the referenced schemas, and their references.
    fn collect_references(&mut self, references: &[Reference]) -> Result<(), ResolveError<E>> {
        let wrong = |message: String| Err(ResolveError::Invalid(message));
        for reference in references {
            let Reference { subject, version, .. } = reference;
            let place = (subject.clone(), *version);
            if self.path.iter().any(|above| (&above.subject, above.version) == (subject, *version)) {
                return wrong(format!("subject {subject} version {version} refers to itself"));
            }
            if self.path.len() == MAX_CHAIN {
                return wrong(format!(
                    "expected chains of at most {MAX_CHAIN} references, found a longer one"
                ));
            }
            if !self.done.insert(place) {
                continue;
            }
            if self.done.len() > MAX_REFERENCES {
                return wrong(format!("expected at most {MAX_REFERENCES} references, found more"));
            }
            let found = (self.fetch)(reference).map_err(ResolveError::Fetch)?;
            self.bytes += found.schema.len();
            if self.bytes > MAX_AVRO_SCHEMA_BYTES {
                return wrong(format!(
                    "expected at most {MAX_AVRO_SCHEMA_BYTES} bytes with all references, found more"
                ));
            }
            let defined = json(&found.schema).and_then(definition).map_err(|error| {
                ResolveError::Invalid(format!("reference to subject {subject} version {version}: {error}"))
            })?;
            if let Some((name, value)) = defined
                && let Some(before) = self.types.insert(name.clone(), value.clone())
                && before != value
            {
                return wrong(format!("two references define {name} differently"));
            }
            self.path.push(reference.clone());
            self.collect_references(&found.references.unwrap_or_default())?;
            self.path.pop();
        }
        Ok(())
    }
}

/// Returns the full name of the type that a schema defines, and its definition with an explicit namespace, so that it is valid in
/// any place. `None` if the schema defines no named type.
fn definition(mut schema: Value) -> Result<Option<(String, Value)>, String> {
    let Some((name, namespace)) = full_name(&schema, "") else { return Ok(None) };
    if name.is_empty() {
        return Err("expected a named type, found one without a name".to_owned());
    }
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("namespace".to_owned(), Value::String(namespace));
    }
    Ok(Some((name, schema)))
}

/// Returns full name and namespace of a named type within `enclosing`. `None` if the schema is not a named type.
fn full_name(schema: &Value, enclosing: &str) -> Option<(String, String)> {
    let kind = schema.get("type")?.as_str()?;
    if !["record", "error", "enum", "fixed"].contains(&kind) {
        return None;
    }
    // `definition` rejects a type without a name.
    let name = schema.get("name").and_then(Value::as_str).unwrap_or_default();
    if let Some((namespace, _)) = name.rsplit_once('.') {
        return Some((name.to_owned(), namespace.to_owned()));
    }
    let namespace = schema.get("namespace").and_then(Value::as_str).unwrap_or(enclosing);
    Some((qualified(name, namespace), namespace.to_owned()))
}

/// Returns the full name of a name within a namespace.
fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// Types that are inserted into a schema.
struct TypeInserter {
    known: HashMap<String, Value>,
    /// Types that the text already defines.
    defined: HashSet<String>,
}

impl TypeInserter {
    /// Inserts each known type where the schema first names it.
    fn insert_into(&mut self, schema: &mut Value, namespace: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_NESTING {
            return Err(format!("expected at most {MAX_NESTING} levels with all references, found more"));
        }
        if let Some((name, own)) = full_name(schema, namespace) {
            self.defined.insert(name);
            let fields = schema.get_mut("fields").and_then(Value::as_array_mut);
            for field in fields.into_iter().flatten() {
                if let Some(schema) = field.get_mut("type") {
                    self.insert_into(schema, &own, depth + 1)?;
                }
            }
            return Ok(());
        }
        match schema {
            Value::String(name) => {
                // A name without a dot may refer to a type without a namespace.
                let names = [qualified(name, namespace), name.clone()];
                let Some(name) = names.into_iter().find(|name| self.known.contains_key(name)) else {
                    return Ok(());
                };
                if self.defined.contains(&name) {
                    *schema = Value::String(name);
                } else if let Some(definition) = self.known.get(&name) {
                    *schema = definition.clone();
                    self.insert_into(schema, "", depth + 1)?;
                }
                Ok(())
            }
            Value::Array(branches) => {
                branches.iter_mut().try_for_each(|branch| self.insert_into(branch, namespace, depth + 1))
            }
            Value::Object(parts) => match parts.get_mut("type") {
                Some(Value::String(kind)) if is_built_in(kind) => {
                    let inner = ["items", "values"].into_iter().find(|part| parts.contains_key(*part));
                    match inner.and_then(|part| parts.get_mut(part)) {
                        Some(schema) => self.insert_into(schema, namespace, depth + 1),
                        None => Ok(()),
                    }
                }
                // A type in a redundant object, which not every parser accepts.
                Some(inner) => {
                    let mut inner = inner.take();
                    self.insert_into(&mut inner, namespace, depth + 1)?;
                    *schema = inner;
                    Ok(())
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Returns true for a type that the Avro specification defines.
fn is_built_in(kind: &str) -> bool {
    ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "array", "map"].contains(&kind)
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected the JSON of an Avro schema: {error}"))
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::wire::Schema;

    use super::*;

    type Registry<'a> = &'a [(&'a str, &'a str, &'a [&'a str])];

    fn referring(schema: &str, references: &[&str]) -> SchemaResponse {
        let reference =
            |subject: &&str| Reference { name: String::new(), subject: (*subject).to_owned(), version: 1 };
        SchemaResponse {
            schema: schema.to_owned(),
            references: Some(references.iter().map(reference).collect()),
        }
    }

    /// Resolves a schema with the schemas of `registry`. Returns the fetched subjects and the result.
    fn resolved(
        schema: &str,
        references: &[&str],
        registry: Registry<'_>,
    ) -> (Vec<String>, Result<String, String>) {
        let mut fetched = Vec::new();
        let mut fetch = |reference: &Reference| {
            fetched.push(reference.subject.clone());
            let found = registry.iter().find(|(subject, ..)| *subject == reference.subject);
            found
                .map(|(_, schema, references)| referring(schema, references))
                .ok_or("no such subject".to_owned())
        };
        let resolved = resolve(referring(schema, references), &mut fetch);
        let resolved = resolved.map_err(|error| match error {
            ResolveError::Fetch(error) | ResolveError::Invalid(error) => error,
        });
        (fetched, resolved)
    }

    const MONEY: &str = r#"{"type": "record", "name": "Money", "namespace": "pay", "fields": [
        {"name": "currency", "type": "Currency"}, {"name": "amount", "type": "long"}]}"#;
    const CURRENCY: &str = r#"{"type": "enum", "name": "pay.Currency", "symbols": ["EUR", "USD"]}"#;
    const LOOSE: &str = r#"{"type": "fixed", "name": "Loose", "size": 4}"#;

    #[test]
    fn referenced_type_is_inserted_where_it_is_first_named() {
        let registry: Registry<'_> =
            &[("money", MONEY, &["currency"]), ("currency", CURRENCY, &[]), ("loose", LOOSE, &[])];
        let order = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
            {"name": "price", "type": ["null", "pay.Money"], "default": null},
            {"name": "parts", "type": {"type": "array", "items": "pay.Money"}},
            {"name": "rates", "type": {"type": "map", "values": {"type": "pay.Currency"}}},
            {"name": "mark", "type": "Loose", "default": "pay.Money"}]}"#;
        let (fetched, text) = resolved(order, &["money", "currency", "loose"], registry);
        assert_eq!(fetched, ["money", "currency", "loose"], "each fetched once");
        let text = text.unwrap();
        let whole = r#"{"type": "record", "name": "shop.Order", "fields": [
            {"name": "price", "type": ["null", {"type": "record", "name": "pay.Money", "fields": [
                {"name": "currency", "type": {"type": "enum", "name": "pay.Currency", "symbols": ["EUR", "USD"]}},
                {"name": "amount", "type": "long"}]}]},
            {"name": "parts", "type": {"type": "array", "items": "pay.Money"}},
            {"name": "rates", "type": {"type": "map", "values": "pay.Currency"}},
            {"name": "mark", "type": {"type": "fixed", "name": "Loose", "namespace": "", "size": 4}}]}"#;
        let (found, expected) = (Schema::parse(&text).unwrap(), Schema::parse(whole).unwrap());
        assert_eq!(found.fingerprint(), expected.fingerprint(), "{text}");
        assert!(text.contains(r#""default":"pay.Money""#), "a default is not a type");
        let alone = r#"{"type": "string"}"#;
        assert_eq!(resolved(alone, &[], registry), (vec![], Ok(alone.to_owned())), "unchanged");
    }

    #[test]
    fn references_are_bounded_and_cycles_are_refused() {
        let refers = |to: &str| {
            format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "f", "type": "{to}"}}]}}"#)
        };
        let fails = |references: &[&str], registry: Registry<'_>, why: &str| {
            let (fetched, found) = resolved(&refers("pay.Money"), references, registry);
            assert!(found.as_ref().is_err_and(|error| error.contains(why)), "{why}: {found:?}");
            assert!(fetched.len() <= MAX_REFERENCES + 1, "{why}: {}", fetched.len());
        };
        fails(
            &["money"],
            &[("money", MONEY, &["currency"]), ("currency", CURRENCY, &["money"])],
            "refers to itself",
        );
        fails(&["money"], &[("money", MONEY, &["money"])], "refers to itself");
        fails(&["gone"], &[], "no such subject");
        fails(
            &["a", "b"],
            &[("a", CURRENCY, &[]), ("b", &CURRENCY.replace("EUR", "GBP"), &[])],
            "two references define",
        );
        fails(&["money"], &[("money", "not JSON", &[])], "subject money version 1: expected the JSON");
        let names: Vec<String> = (0..MAX_REFERENCES + 2).map(|number| format!("s{number}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let wide: Vec<_> = all.iter().map(|name| (*name, r#""int""#, &[][..])).collect();
        fails(&all, &wide, "at most 64 references");
        let next: Vec<[&str; 1]> = all.iter().skip(1).map(|name| [*name]).collect();
        let deep: Vec<_> = all.iter().zip(&next).map(|(name, next)| (*name, r#""int""#, &next[..])).collect();
        fails(&["s0"], &deep, "chains of at most 16 references");
        let large = format!(
            r#"{{"type": "fixed", "name": "L", "size": 1, "doc": "{}"}}"#,
            "x".repeat(MAX_AVRO_SCHEMA_BYTES)
        );
        fails(&["large"], &[("large", &large, &[])], "bytes with all references");
        // A recursive type is inserted once.
        let (_, list) = resolved(
            &refers("List"),
            &["list"],
            &[(
                "list",
                r#"{"type": "record", "name": "List", "fields": [{"name": "next", "type": ["null", "List"]}]}"#,
                &[],
            )],
        );
        assert_eq!(list.unwrap().matches("\"next\"").count(), 1);
    }
}
