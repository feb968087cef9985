//! Compatibility of schemas: a reader of any version reads every example of every other version. The Rust types encode to the
//! same bytes as Apache Avro's implementation, and have the defaults of the schemas.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy takes helpers of tests for product code"
)]

mod natural;

use std::collections::{BTreeMap, BTreeSet};

use agentgov_schemas::alert::Alert;
use agentgov_schemas::basis::EvaluationBasis;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::{AgentEntry, Bundle, Control, KeyEntry, ToolEntry};
use agentgov_schemas::reject::Reject;
use agentgov_schemas::state::{AlertState, SessionState};
use agentgov_schemas::subject::{self, SUBJECTS, Subject};
use agentgov_schemas::verdict::Verdict;
use agentgov_schemas::wire::{HEADER_LEN, Schema, SchemaId, WireError};
use agentgov_schemas::{Record, RecordEncoder};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use apache_avro::writer::datum::GenericDatumWriter;
use natural::{Examples, datum, examples};
use serde::Deserialize;
use serde_json::{Value as Json, json};

const ID: SchemaId = SchemaId(1);

fn avro(text: &str) -> apache_avro::Schema {
    apache_avro::Schema::parse_str(text).unwrap()
}

/// Decodes a datum of `writer` into the Rust type of `subject`, and encodes the value with the latest schema.
fn through_rust(subject: Subject, writer: &str, datum: &[u8]) -> Result<Vec<u8>, WireError> {
    fn round_trip<'a, T: Deserialize<'a> + Record>(
        subject: Subject,
        writer: &Schema,
        datum: &'a [u8],
    ) -> Result<Vec<u8>, WireError> {
        let value: T = writer.decode(ID, datum)?;
        assert_eq!(T::SUBJECT, subject);
        let encoded = RecordEncoder::<T::Static>::new(ID).unwrap().encode(&value).unwrap();
        Ok(encoded[HEADER_LEN..].to_vec())
    }
    let writer = Schema::parse(writer).unwrap();
    match subject {
        subject::ACTION_EVENT => round_trip::<ActionEvent<'_>>(subject, &writer, datum),
        subject::VERDICT => round_trip::<Verdict<'_>>(subject, &writer, datum),
        subject::ALERT => round_trip::<Alert<'_>>(subject, &writer, datum),
        subject::REJECT => round_trip::<Reject<'_>>(subject, &writer, datum),
        subject::SESSION_STATE => round_trip::<SessionState<'_>>(subject, &writer, datum),
        subject::ALERT_STATE => round_trip::<AlertState<'_>>(subject, &writer, datum),
        subject::AGENT => round_trip::<AgentEntry<'_>>(subject, &writer, datum),
        subject::TOOL => round_trip::<ToolEntry<'_>>(subject, &writer, datum),
        subject::BUNDLE => round_trip::<Bundle<'_>>(subject, &writer, datum),
        subject::CONTROL => round_trip::<Control<'_>>(subject, &writer, datum),
        subject::KEY => round_trip::<KeyEntry<'_>>(subject, &writer, datum),
        subject::EVALUATION_BASIS => round_trip::<EvaluationBasis<'_>>(subject, &writer, datum),
        other => panic!("no Rust type is known for subject {}", other.name),
    }
}

/// Resolves a datum of `writer` to `reader` by Avro's rules, and encodes the result.
fn through_avro(writer: &str, reader: &str, mut datum: &[u8]) -> Result<Vec<u8>, String> {
    let (writer, reader) = (avro(writer), avro(reader));
    let decoder = GenericDatumReader::builder(&writer).reader_schema(&reader).build().unwrap();
    let value = decoder.read_value(&mut datum).map_err(|e| e.to_string())?;
    GenericDatumWriter::builder(&reader).build().unwrap().write_value_to_vec(value).map_err(|e| e.to_string())
}

/// Checks FULL_TRANSITIVE compatibility on the examples: every pair of versions, in both directions.
fn check_full_transitive(versions: &[(&str, Examples)]) -> Result<(), String> {
    for (w, (writer, examples)) in versions.iter().enumerate() {
        for (r, (reader, _)) in versions.iter().enumerate() {
            let pair = format!("reader of version {} on data of version {}", r + 1, w + 1);
            match SchemaCompatibility::can_read(&avro(writer), &avro(reader)) {
                Ok(Compatibility::Full) => {}
                other => return Err(format!("{pair}: {other:?}")),
            }
            for (what, example) in examples {
                through_avro(writer, reader, &datum(&avro(writer), example))
                    .map_err(|e| format!("{pair}: {what}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Checks that the Rust type reads data of `writer` as Avro's resolution to the latest schema does.
fn check_rust_reads_as_avro(subject: Subject, writer: &str, examples: &Examples) {
    for (what, example) in examples {
        let datum = datum(&avro(writer), example);
        let expected = through_avro(writer, subject.latest(), &datum).unwrap();
        let found =
            through_rust(subject, writer, &datum).unwrap_or_else(|e| panic!("{}: {what}: {e}", subject.name));
        assert_eq!(found, expected, "{}: {what}", subject.name);
    }
}

fn versions(subject: Subject) -> Vec<(&'static str, Examples)> {
    (1..).zip(subject.versions).map(|(version, text)| (*text, examples(subject, version))).collect()
}

#[test]
fn every_schema_version_reads_every_other() {
    for subject in SUBJECTS {
        check_full_transitive(&versions(*subject)).unwrap_or_else(|e| panic!("{}: {e}", subject.name));
    }
}

#[test]
fn rust_types_read_every_version_as_avro_does() {
    for subject in SUBJECTS {
        for (writer, examples) in versions(*subject) {
            assert!(examples.len() >= 3, "{}: expected at least 3 examples", subject.name);
            check_rust_reads_as_avro(*subject, writer, &examples);
        }
    }
}

#[test]
fn rust_types_encode_the_latest_version_to_the_same_bytes() {
    for subject in SUBJECTS {
        let (latest, examples) = versions(*subject).pop().unwrap();
        for (what, example) in examples {
            let datum = datum(&avro(latest), &example);
            assert_eq!(through_rust(*subject, latest, &datum).unwrap(), datum, "{}: {what}", subject.name);
        }
    }
}

/// The writer knows no field with a default, so both readers use their defaults.
#[test]
fn serde_defaults_equal_schema_defaults() {
    for subject in SUBJECTS {
        let (latest, examples) = versions(*subject).pop().unwrap();
        let oldest = without_defaults(latest);
        assert!(!oldest.contains("\"default\""));
        check_rust_reads_as_avro(*subject, &oldest, &examples);
    }
}

/// The comparison of `serde_defaults_equal_schema_defaults` finds a default that differs.
#[test]
fn differing_default_is_found() {
    let oldest = without_defaults(subject::TOOL.latest());
    let (_, example) = examples(subject::TOOL, 1).swap_remove(0);
    let datum = datum(&avro(&oldest), &example);
    let mut other: Json = serde_json::from_str(subject::TOOL.latest()).unwrap();
    for field in
        other["fields"].as_array_mut().unwrap().iter_mut().filter(|field| field["name"] == "description")
    {
        field["default"] = json!("another default");
    }
    let found = through_rust(subject::TOOL, &oldest, &datum).unwrap();
    assert_eq!(found, through_avro(&oldest, subject::TOOL.latest(), &datum).unwrap());
    assert_ne!(found, through_avro(&oldest, &other.to_string(), &datum).unwrap());
}

#[test]
fn every_union_branch_has_an_example() {
    for subject in SUBJECTS {
        for (text, examples) in versions(*subject) {
            let schema: Json = serde_json::from_str(text).unwrap();
            let mut names = BTreeMap::new();
            collect_names(&schema, &mut names);
            let mut missing = BTreeSet::new();
            for (name, record) in names.iter().filter(|(_, schema)| schema["type"] == "record") {
                for field in record["fields"].as_array().unwrap() {
                    let at = format!("{name}.{}", field["name"].as_str().unwrap());
                    if field["type"].is_array() {
                        missing.extend([format!("{at} null"), format!("{at} not null")]);
                    } else if field["type"]["type"] == "array" {
                        missing.extend([format!("{at} empty"), format!("{at} not empty")]);
                    }
                }
            }
            for (_, example) in &examples {
                cover(&names, &schema, example, "", &mut missing);
            }
            assert!(missing.is_empty(), "{}: no example has {missing:?}", subject.name);
        }
    }
}

fn cover(
    names: &BTreeMap<String, Json>,
    schema: &Json,
    example: &Json,
    at: &str,
    missing: &mut BTreeSet<String>,
) {
    let schema = schema.as_str().and_then(|name| names.get(name)).unwrap_or(schema);
    if let Some(branches) = schema.as_array() {
        missing.remove(&format!("{at} {}", if example.is_null() { "null" } else { "not null" }));
        if !example.is_null() {
            cover(names, &branches[1], example, at, missing);
        }
    } else if schema["type"] == "array" {
        let items = example.as_array().cloned().unwrap_or_default();
        missing.remove(&format!("{at} {}", if items.is_empty() { "empty" } else { "not empty" }));
        for item in &items {
            cover(names, &schema["items"], item, at, missing);
        }
    } else if schema["type"] == "record" {
        for field in schema["fields"].as_array().unwrap() {
            let name = field["name"].as_str().unwrap();
            let at = format!("{}.{name}", schema["name"].as_str().unwrap());
            cover(names, &field["type"], &example[name], &at, missing);
        }
    }
}

fn collect_names(schema: &Json, names: &mut BTreeMap<String, Json>) {
    match schema {
        Json::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        Json::Object(map) => {
            if let (Some(Json::String(name)), Some("record" | "fixed")) =
                (map.get("name"), map.get("type").and_then(Json::as_str))
            {
                names.insert(name.clone(), schema.clone());
            }
            map.values().for_each(|value| collect_names(value, names));
        }
        _ => {}
    }
}

/// Returns the schema of a writer that knows no field with a default. A name whose definition is removed is defined at its
/// first remaining use.
fn without_defaults(text: &str) -> String {
    fn strip(schema: &Json, names: &BTreeMap<String, Json>, defined: &mut BTreeSet<String>) -> Json {
        if let Some(branches) = schema.as_array() {
            return branches.iter().map(|branch| strip(branch, names, defined)).collect();
        }
        let name = schema.as_str().or(schema["name"].as_str()).unwrap_or_default();
        let Some(mut stripped) = names.get(name).or(schema.as_object().map(|_| schema)).cloned() else {
            return schema.clone();
        };
        if !name.is_empty() && !defined.insert(name.to_owned()) {
            return name.into();
        }
        if let Some(items) = stripped.get_mut("items") {
            *items = strip(items, names, defined);
        }
        if let Some(fields) = stripped.get_mut("fields").and_then(Json::as_array_mut) {
            fields.retain(|field| field.get("default").is_none());
            fields.iter_mut().for_each(|field| field["type"] = strip(&field["type"], names, defined));
        }
        stripped
    }
    let schema: Json = serde_json::from_str(text).unwrap();
    let mut names = BTreeMap::new();
    collect_names(&schema, &mut names);
    strip(&schema, &names, &mut BTreeSet::new()).to_string()
}

// Tests of the checks above, with version 1 of actions and a version 2 that the test creates.

/// Returns version 1 of actions, and a version 2 with the fields of ActionEvent after `edit`, each with examples.
fn evolved(edit: impl FnOnce(&mut Vec<Json>), examples_of_2: Examples) -> [(String, Examples); 2] {
    let first = subject::ACTION_EVENT.versions[0];
    let mut second: Json = serde_json::from_str(first).unwrap();
    edit(second["fields"].as_array_mut().unwrap());
    [(first.to_owned(), examples(subject::ACTION_EVENT, 1)), (second.to_string(), examples_of_2)]
}

fn check(evolved: &[(String, Examples); 2]) -> Result<(), String> {
    let versions = evolved.each_ref().map(|(text, examples)| (text.as_str(), examples.clone()));
    check_full_transitive(&versions)
}

/// Returns every example with one additional field.
fn with(field: &str, value: &Json) -> Examples {
    let mut examples = examples(subject::ACTION_EVENT, 1);
    for (_, example) in &mut examples {
        example[field] = value.clone();
    }
    examples
}

#[test]
fn field_with_a_default_may_be_added_and_removed() {
    let region = json!({"name": "region", "type": ["null", "string"], "default": null});
    let added = evolved(|fields| fields.push(region), with("region", &json!("eu")));
    check(&added).unwrap();
    // The Rust type does not know the field of the later writer, and skips it.
    check_rust_reads_as_avro(subject::ACTION_EVENT, &added[1].0, &added[1].1);

    let flags = json!({"name": "flags", "type": {"type": "array", "items": "long"}, "default": []});
    let in_front = evolved(|fields| fields.insert(0, flags), with("flags", &json!([1, -2])));
    check(&in_front).unwrap();
    check_rust_reads_as_avro(subject::ACTION_EVENT, &in_front[1].0, &in_front[1].1);

    let removed = evolved(
        |fields| fields.retain(|field| field["name"] != "session_label"),
        examples(subject::ACTION_EVENT, 1),
    );
    check(&removed).unwrap();
    check_rust_reads_as_avro(subject::ACTION_EVENT, &removed[1].0, &removed[1].1);
}

#[test]
fn incompatible_change_is_found() {
    let region = json!({"name": "region", "type": "string"});
    let number = |fields: &mut Vec<Json>| {
        fields
            .iter_mut()
            .filter(|field| field["name"] == "environment")
            .for_each(|field| field["type"] = json!("long"));
    };
    let numbered = with("environment", &json!(3));
    let plain = || examples(subject::ACTION_EVENT, 1);
    for (what, versions, expected) in [
        (
            "a field without a default is added",
            evolved(|fields| fields.push(region), with("region", &json!("eu"))),
            "reader of version 2 on data of version 1",
        ),
        (
            "a field without a default is removed",
            evolved(|fields| fields.retain(|field| field["name"] != "environment"), plain()),
            "reader of version 1 on data of version 2",
        ),
        ("a field changes its type", evolved(number, numbered), "reader of version 2 on data of version 1"),
    ] {
        let error = check(&versions).expect_err(what);
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}
