//! Schemas that name types of other subjects. The registry answers such a schema with a list of references; a decoder, and
//! whoever reads the log without the registry, needs one text. So each type that is referred to stands in the text where it is first
//! named. The fingerprint is of that text: a writer that registers the same types in one schema has the same.

use std::collections::{HashMap, HashSet};

use agentgov_schemas::bounds::MAX_AVRO_SCHEMA_BYTES;
use serde::Deserialize;
use serde_json::Value;

/// So many schemas may be referred to, directly or not.
const MOST: usize = 64;
/// So many references may follow one another.
const DEEPEST: usize = 16;
/// How deeply a schema may nest: as deeply as its JSON may.
const NESTED: usize = 128;

/// A schema of another subject, as the registry names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Reference {
    /// The full name of the type that it defines.
    #[serde(default)]
    pub name: String,
    /// The subject.
    pub subject: String,
    /// The version of that subject.
    pub version: i64,
}

/// A schema's text, and what it refers to.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Referring {
    pub schema: String,
    #[serde(default)]
    pub references: Option<Vec<Reference>>,
}

/// Why the references of a schema do not resolve.
#[derive(Debug)]
pub(crate) enum Unresolved<E> {
    /// One could not be fetched.
    Fetch(E),
    /// They are not what they should be: this says how.
    Wrong(String),
}

/// The schema as one text. Without references it is as it was.
pub(crate) fn resolve<E>(
    schema: Referring,
    fetch: &mut dyn FnMut(&Reference) -> Result<Referring, E>,
) -> Result<String, Unresolved<E>> {
    let Some(references) = schema.references.filter(|references| !references.is_empty()) else {
        return Ok(schema.schema);
    };
    let mut gathering = Gathering {
        fetch,
        bytes: schema.schema.len(),
        path: Vec::new(),
        done: HashSet::new(),
        types: HashMap::new(),
    };
    gathering.gather(&references)?;
    let mut types = Types { known: gathering.types, there: HashSet::new() };
    let mut value = json(&schema.schema).map_err(Unresolved::Wrong)?;
    types.put_into(&mut value, "", 0).map_err(Unresolved::Wrong)?;
    Ok(value.to_string())
}

struct Gathering<'f, E> {
    fetch: &'f mut dyn FnMut(&Reference) -> Result<Referring, E>,
    bytes: usize,
    path: Vec<Reference>,
    done: HashSet<(String, i64)>,
    types: HashMap<String, Value>,
}

impl<E> Gathering<'_, E> {
    /// Fetches what is referred to, and what that refers to.
    fn gather(&mut self, references: &[Reference]) -> Result<(), Unresolved<E>> {
        let wrong = |message: String| Err(Unresolved::Wrong(message));
        for reference in references {
            let Reference { subject, version, .. } = reference;
            let place = (subject.clone(), *version);
            if self.path.iter().any(|above| (&above.subject, above.version) == (subject, *version)) {
                return wrong(format!("subject {subject} version {version} refers to itself"));
            }
            if self.path.len() == DEEPEST {
                return wrong(format!(
                    "expected at most {DEEPEST} references one after the other, found more"
                ));
            }
            if !self.done.insert(place) {
                continue;
            }
            if self.done.len() > MOST {
                return wrong(format!("expected at most {MOST} references, found more"));
            }
            let found = (self.fetch)(reference).map_err(Unresolved::Fetch)?;
            self.bytes += found.schema.len();
            if self.bytes > MAX_AVRO_SCHEMA_BYTES {
                return wrong(format!(
                    "expected at most {MAX_AVRO_SCHEMA_BYTES} bytes with all references, found more"
                ));
            }
            let defined = json(&found.schema).and_then(definition).map_err(|error| {
                Unresolved::Wrong(format!("reference to subject {subject} version {version}: {error}"))
            })?;
            if let Some((name, value)) = defined
                && let Some(before) = self.types.insert(name.clone(), value.clone())
                && before != value
            {
                return wrong(format!("two references define {name}, each in its own way"));
            }
            self.path.push(reference.clone());
            self.gather(&found.references.unwrap_or_default())?;
            self.path.pop();
        }
        Ok(())
    }
}

/// The full name of the type that a schema defines, and its definition with a namespace of its own, so that it means the same
/// wherever it stands. `None`: it defines none.
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

/// The full name and the namespace of a named type that stands in a namespace. `None`: it is none.
fn full_name(schema: &Value, enclosing: &str) -> Option<(String, String)> {
    let kind = schema.get("type")?.as_str()?;
    if !["record", "error", "enum", "fixed"].contains(&kind) {
        return None;
    }
    // `definition` refuses a type without a name.
    let name = schema.get("name").and_then(Value::as_str).unwrap_or_default();
    if let Some((namespace, _)) = name.rsplit_once('.') {
        return Some((name.to_owned(), namespace.to_owned()));
    }
    let namespace = schema.get("namespace").and_then(Value::as_str).unwrap_or(enclosing);
    Some((qualified(name, namespace), namespace.to_owned()))
}

/// A name as it is meant in a namespace.
fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

struct Types {
    known: HashMap<String, Value>,
    /// Those that stand in the text already.
    there: HashSet<String>,
}

impl Types {
    /// Puts each type that is known into the place where it is named first.
    fn put_into(&mut self, schema: &mut Value, namespace: &str, depth: usize) -> Result<(), String> {
        if depth > NESTED {
            return Err(format!("expected at most {NESTED} levels with all references, found more"));
        }
        if let Some((name, own)) = full_name(schema, namespace) {
            self.there.insert(name);
            let fields = schema.get_mut("fields").and_then(Value::as_array_mut);
            for field in fields.into_iter().flatten() {
                if let Some(schema) = field.get_mut("type") {
                    self.put_into(schema, &own, depth + 1)?;
                }
            }
            return Ok(());
        }
        match schema {
            Value::String(name) => {
                // A name that stands in no namespace may be meant without one.
                let names = [qualified(name, namespace), name.clone()];
                let Some(name) = names.into_iter().find(|name| self.known.contains_key(name)) else {
                    return Ok(());
                };
                if self.there.contains(&name) {
                    *schema = Value::String(name);
                } else if let Some(definition) = self.known.get(&name) {
                    *schema = definition.clone();
                    self.put_into(schema, "", depth + 1)?;
                }
                Ok(())
            }
            Value::Array(branches) => {
                branches.iter_mut().try_for_each(|branch| self.put_into(branch, namespace, depth + 1))
            }
            Value::Object(parts) => match parts.get_mut("type") {
                Some(Value::String(kind)) if is_built_in(kind) => {
                    let inner = ["items", "values"].into_iter().find(|part| parts.contains_key(*part));
                    match inner.and_then(|part| parts.get_mut(part)) {
                        Some(schema) => self.put_into(schema, namespace, depth + 1),
                        None => Ok(()),
                    }
                }
                // A type within a type, which not every parser takes.
                Some(inner) => {
                    let mut inner = inner.take();
                    self.put_into(&mut inner, namespace, depth + 1)?;
                    *schema = inner;
                    Ok(())
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// True of what is no name of a type.
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

    fn referring(schema: &str, references: &[&str]) -> Referring {
        let reference =
            |subject: &&str| Reference { name: String::new(), subject: (*subject).to_owned(), version: 1 };
        Referring { schema: schema.to_owned(), references: Some(references.iter().map(reference).collect()) }
    }

    /// Resolves a schema against a registry; the fetched subjects, and what it came to.
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
            Unresolved::Fetch(error) | Unresolved::Wrong(error) => error,
        });
        (fetched, resolved)
    }

    const MONEY: &str = r#"{"type": "record", "name": "Money", "namespace": "pay", "fields": [
        {"name": "currency", "type": "Currency"}, {"name": "amount", "type": "long"}]}"#;
    const CURRENCY: &str = r#"{"type": "enum", "name": "pay.Currency", "symbols": ["EUR", "USD"]}"#;
    const LOOSE: &str = r#"{"type": "fixed", "name": "Loose", "size": 4}"#;

    #[test]
    fn what_is_referred_to_stands_where_it_is_named_first() {
        let registry: Registry<'_> =
            &[("money", MONEY, &["currency"]), ("currency", CURRENCY, &[]), ("loose", LOOSE, &[])];
        let order = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
            {"name": "price", "type": ["null", "pay.Money"], "default": null},
            {"name": "parts", "type": {"type": "array", "items": "pay.Money"}},
            {"name": "rates", "type": {"type": "map", "values": {"type": "pay.Currency"}}},
            {"name": "mark", "type": "Loose", "default": "pay.Money"}]}"#;
        let (fetched, text) = resolved(order, &["money", "currency", "loose"], registry);
        assert_eq!(fetched, ["money", "currency", "loose"], "each once");
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
        assert!(text.contains(r#""default":"pay.Money""#), "a default is no type");
        let alone = r#"{"type": "string"}"#;
        assert_eq!(resolved(alone, &[], registry), (vec![], Ok(alone.to_owned())), "as it was");
    }

    #[test]
    fn references_are_bounded_and_cycles_are_refused() {
        let refers = |to: &str| {
            format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "f", "type": "{to}"}}]}}"#)
        };
        let fails = |references: &[&str], registry: Registry<'_>, why: &str| {
            let (fetched, found) = resolved(&refers("pay.Money"), references, registry);
            assert!(found.as_ref().is_err_and(|error| error.contains(why)), "{why}: {found:?}");
            assert!(fetched.len() <= MOST + 1, "{why}: {}", fetched.len());
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
        let names: Vec<String> = (0..MOST + 2).map(|number| format!("s{number}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let wide: Vec<_> = all.iter().map(|name| (*name, r#""int""#, &[][..])).collect();
        fails(&all, &wide, "at most 64 references");
        let next: Vec<[&str; 1]> = all.iter().skip(1).map(|name| [*name]).collect();
        let deep: Vec<_> = all.iter().zip(&next).map(|(name, next)| (*name, r#""int""#, &next[..])).collect();
        fails(&["s0"], &deep, "one after the other");
        let large = format!(
            r#"{{"type": "fixed", "name": "L", "size": 1, "doc": "{}"}}"#,
            "x".repeat(MAX_AVRO_SCHEMA_BYTES)
        );
        fails(&["large"], &[("large", &large, &[])], "bytes with all references");
        // A type that needs itself is in the text once, as a recursive schema is.
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
