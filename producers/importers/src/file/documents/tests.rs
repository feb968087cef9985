//! Tests of splitting a file into documents.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::Input;
use crate::chat_completions::is_run;

/// Returns line and text of each document; for invalid text, `!` and the message.
fn cut_within(bytes: &[u8], limit: usize) -> Vec<(u64, String)> {
    let input = Input::bytes("f", bytes);
    let documents = Documents::limited(input.reader().unwrap(), is_run, limit);
    let shown = |document| match document {
        Document::Bytes { line, bytes } => (line, String::from_utf8_lossy(&bytes).into_owned()),
        Document::Bad { line, message, .. } => (line, format!("!{message}")),
    };
    documents.map(shown).collect()
}

fn cut(text: &str) -> Vec<(u64, String)> {
    cut_within(text.as_bytes(), 1 << 20)
}

fn assert_documents(found: &[(u64, String)], expected: &[(u64, &str)]) {
    let found: Vec<_> = found.iter().map(|(line, text)| (*line, text.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn documents_are_split_in_each_layout() {
    let run = r#"{"messages":[]}"#;
    let pretty = "{\n  \"messages\": []\n}";
    for (text, expected) in [
        // Lines.
        (format!("{run}\n\n {run} \r\n"), vec![(1, run), (3, run)]),
        (format!("\u{feff}{run}\n\u{feff}{run}"), vec![(1, run), (2, run)]),
        (format!("{run}\r{run}\r\r{run}"), vec![(1, run), (2, run), (4, run)]),
        (format!("{{\"tru\n{run}\n"), vec![(1, "{\"tru"), (2, run)]),
        (format!("{run}\n{{\"tru"), vec![(1, run), (2, "{\"tru")]),
        (format!("# runs\n{run}\n"), vec![(1, "# runs"), (2, run)]),
        (format!("[{run},{run}]\n"), vec![(1, "[{\"messages\":[]},{\"messages\":[]}]")]),
        (String::new(), vec![]),
        ("\n \n".into(), vec![]),
        // Values.
        (format!("{pretty}\n{pretty}"), vec![(1, pretty), (4, pretty)]),
        (format!("[\n{run},\n{run}\n]\n"), vec![(2, run), (3, run)]),
        (format!("[{run},\r\n{run}]"), vec![(1, run), (2, run)]),
        (format!("[{pretty}, {pretty}]\n{run}"), vec![(1, pretty), (3, pretty), (6, run)]),
        // Messages without an enclosing run.
        ("[\n\n{\"role\":\"user\"},\n{}]".into(), vec![(1, "[\n\n{\"role\":\"user\"},\n{}]")]),
        ("[{\"role\":\"user\"},\n{}]".into(), vec![(1, "[{\"role\":\"user\"},\n{}]")]),
        ("[\n]".into(), vec![(1, "[\n]")]),
        ("[\n1, [2]]".into(), vec![(1, "[\n1, [2]]")]),
    ] {
        assert_documents(&cut(&text), &expected);
    }
}

#[test]
fn end_of_the_documents_is_reported() {
    let run = r#"{"messages":[]}"#;
    for (text, line, message) in [
        (format!("[\n{run},\n{run}"), 3, "expected the array's `]`, found the end: is the file cut off?"),
        (format!("[\n{run}\n{run}]"), 3, "expected `,` or `]` behind a run, found `{`"),
        (format!("[\n{run},\n]"), 3, "expected JSON, found `]` behind a comma"),
        (format!("[\n{run},\nnull]"), 3, "expected a run, found `n`"),
        (
            "{\n\"a\": [".into(),
            1,
            "expected the end of the value that begins here, found the end of the file: is it cut off?",
        ),
        ("hello\nworld".into(), 1, "expected runs as JSON, found text that begins with \"hello\""),
    ] {
        let found = cut(&text);
        let (found_line, found) = found.last().unwrap();
        assert_eq!((*found_line, found.as_str()), (line, format!("!{message}").as_str()), "{text}");
    }
}

#[test]
fn document_beyond_the_limit_is_skipped_unbuffered() {
    let run = r#"{"messages":[]}"#;
    let long = format!(r#"{{"messages":["{}"]}}"#, "x".repeat(200));
    assert_documents(
        &cut_within(format!("{run}\n{long}\n{run}").as_bytes(), 100),
        &[(1, run), (2, "!expected at most 100 bytes a line, found more"), (3, run)],
    );
    for text in [format!("[\n{run},\n{long},\n{run}]"), format!("[\n{run},\n{long}\n,{run}]")] {
        let found = cut_within(text.as_bytes(), 100);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[1].1.starts_with("!expected at most 100 bytes a document"), "{found:?}");
    }
}

#[test]
fn gzip_of_several_members_is_one_file() {
    let packed = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let bytes = [packed("{\"a\":1}\n{\"b\""), packed(":2}\n")].concat();
    assert_documents(&cut_within(&bytes, 100), &[(1, r#"{"a":1}"#), (2, r#"{"b":2}"#)]);
}

proptest! {
    /// Any layout of a file gives the same runs.
    #[test]
    fn layouts_of_the_same_runs_are_the_same_import(texts in prop::collection::vec("[a-z\\[\\]{}\", ]{0,9}", 1..6), pretty: bool) {
        let runs: Vec<_> = texts.iter().map(|text| serde_json::json!({"messages": [], "x": text})).collect();
        let line = |run: &serde_json::Value| {
            if pretty { serde_json::to_string_pretty(run).unwrap() } else { run.to_string() }
        };
        let lines: Vec<String> = runs.iter().map(line).collect();
        let read = |text: &str| -> Vec<serde_json::Value> {
            cut(text).iter().flat_map(|(_, text)| {
                let values = serde_json::Deserializer::from_str(text).into_iter();
                values.map(|value: Result<_, _>| value.unwrap()).collect::<Vec<serde_json::Value>>()
            }).collect()
        };
        prop_assert_eq!(&read(&lines.join("\n")), &runs);
        prop_assert_eq!(&read(&lines.join("\r")), &runs);
        prop_assert_eq!(&read(&lines.concat()), &runs);
        prop_assert_eq!(&read(&format!("[\n{}]", lines.join(",\n"))), &runs);
    }
}
