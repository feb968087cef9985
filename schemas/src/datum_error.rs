//! Describes why a datum does not decode. The texts of the decoder quote values of the record, and name types of this build.

/// Parts of the decoder's texts, in lower case, and their descriptions.
const DESCRIPTIONS: [(&str, &str); 8] = [
    ("end of slice", "expected more bytes, found the end of the value"),
    ("varint", "expected a number, found no byte that ends it in the rest of the value"),
    ("eof", "expected more bytes, found the end of the value"),
    (
        "discriminant",
        "expected the index of a branch of a union or of a symbol of an enum, found a number that the schema does not have",
    ),
    ("utf-8", "expected a text in UTF-8, found other bytes"),
    ("bool", "expected a boolean as the byte 0 or 1, found another byte"),
    ("length", "expected the length of a text, an array or a map within the value, found another number"),
    ("depth", "expected values that are nested less deep, found more levels than the decoder follows"),
];

/// Returns the expected and the found content for an error of the decoder.
pub(crate) fn describe(error: &str) -> String {
    if let Some((found, expected)) =
        error.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        return format!(
            "expected {}, found {}; the writer's schema has another type there",
            expected_type(expected),
            found_type(found, expected)
        );
    }
    if let Some(field) = error.strip_prefix("missing field ") {
        return format!("expected the field {field}, which has no default; the writer's schema lacks it");
    }
    let lower = error.to_lowercase();
    let known = DESCRIPTIONS.iter().find(|(part, _)| lower.contains(part));
    known.map_or_else(|| error.to_owned(), |(_, description)| (*description).to_owned())
}

/// Returns the name of a type of this build for people.
fn expected_type(expected: &str) -> &str {
    match expected {
        "a borrowed string" => "a string",
        "a borrowed byte array" => "bytes",
        _ if expected.starts_with("struct ") => "a record",
        _ => expected,
    }
}

/// Returns the name of the found type without its value.
fn found_type<'e>(found: &'e str, expected: &str) -> &'e str {
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    match kind {
        // The decoder borrows a string from the datum, and the symbol of an enum from the schema.
        "string" if expected == "a borrowed string" => "an enum",
        "string" => "a string",
        "integer" => "a number",
        "floating point" => "a number with a fraction",
        "boolean" => "a boolean",
        "byte array" => "bytes",
        "unit value" | "Option value" => "null",
        "sequence" => "an array",
        "map" => "a map or a record",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::wire::{Schema, SchemaId};

    #[derive(Debug, Deserialize)]
    struct Named<'a> {
        name: &'a str,
        #[serde(default)]
        ok: bool,
    }

    /// Each way in which a datum does not fit has a description that quotes nothing of the datum.
    #[test]
    fn error_names_the_expected_and_the_found_type() {
        let name_of = |schema: &str| {
            format!(r#"{{"type":"record","name":"R","fields":[{{"name":"name","type":{schema}}}]}}"#)
        };
        let string = name_of(r#""string""#);
        let symbols = name_of(r#"{"type":"enum","name":"E","symbols":["secret"]}"#);
        let flagged = r#"{"type":"record","name":"R","fields":[{"name":"name","type":"string"},{"name":"ok","type":"boolean"}]}"#;
        let cases: [(&str, &[u8], &str); 13] = [
            (&string, &[0xff; 20], "expected a number, found no byte that ends it in the rest of the value"),
            (&string, b"\x0cse", "expected more bytes, found the end of the value"),
            (&string, b"", "expected a number, found no byte that ends it in the rest of the value"),
            (
                &string,
                b"\x01",
                "expected the length of a text, an array or a map within the value, found another number",
            ),
            (&string, b"\x02\xff", "expected a text in UTF-8, found other bytes"),
            (
                &symbols,
                b"\x00",
                "expected a string, found an enum; the writer's schema has another type there",
            ),
            (
                &symbols,
                b"\x08",
                "expected the index of a branch of a union or of a symbol of an enum, found a number that the schema does not have",
            ),
            (
                &name_of(r#""long""#),
                b"\x02",
                "expected a string, found a number; the writer's schema has another type there",
            ),
            (
                &name_of(r#""null""#),
                b"",
                "expected a string, found null; the writer's schema has another type there",
            ),
            (
                &name_of(r#"["null", "string"]"#),
                b"\x09",
                "expected the index of a branch of a union or of a symbol of an enum, found a number that the schema does not have",
            ),
            (
                r#""string""#,
                b"\x0csecret",
                "expected a record, found a string; the writer's schema has another type there",
            ),
            (
                r#"{"type":"record","name":"R","fields":[]}"#,
                b"",
                "expected the field `name`, which has no default; the writer's schema lacks it",
            ),
            (flagged, b"\x02s\x07", "expected a boolean as the byte 0 or 1, found another byte"),
        ];
        for (schema, datum, expected) in cases {
            let error = Schema::parse(schema).unwrap().decode::<Named<'_>>(SchemaId(7), datum).unwrap_err();
            assert_eq!(error.to_string(), format!("schema id 7: the datum does not decode: {expected}"));
        }
        let read: Named<'_> = Schema::parse(flagged).unwrap().decode(SchemaId(7), b"\x02s\x01").unwrap();
        assert_eq!((read.name, read.ok), ("s", true));
    }
}
