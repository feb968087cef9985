//! A bundle with CRLF line ends and byte order marks, as Git and editors write them on Windows: it compiles to the same bundle, and
//! its problems have the same places.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod support;

use std::sync::Arc;

use agentgov_policy::{Bundle, BundleFiles, SCHEMA_FILE, generated_schema, testing};
use support::airline_files;

/// Returns the airline's bundle with a change applied to each file.
fn airline(change: impl Fn(String) -> String) -> BundleFiles {
    let changed = airline_files().0.into_iter().map(|(path, content)| {
        let text = change(String::from_utf8(content).unwrap());
        (path, text.into_bytes())
    });
    BundleFiles(changed.collect())
}

fn crlf(text: String) -> String {
    text.replace('\n', "\r\n")
}

fn mark(text: String) -> String {
    format!("\u{feff}{text}")
}

/// Returns the policies of a bundle and the report of its tests as text.
fn read(files: &BundleFiles) -> (String, String) {
    let bundle = Arc::new(Bundle::compile(files).unwrap_or_else(|problems| panic!("{problems:#?}")));
    let report = testing::run(&bundle, files);
    assert!(report.passed() && report.cases.len() > 50, "{report}");
    let policies: Vec<_> = bundle.policies().collect();
    (format!("{} {} {policies:#?}", bundle.name(), bundle.version()), report.to_string())
}

#[test]
fn line_ends_and_byte_order_marks_change_only_the_digest() {
    let as_it_is = airline(|text| text);
    let expected = read(&as_it_is);
    for other in [airline(crlf), airline(mark), airline(|text| mark(crlf(text)))] {
        assert!(read(&other) == expected);
        assert_eq!(generated_schema(&other).unwrap(), generated_schema(&as_it_is).unwrap());
        assert_ne!(other.digest(), as_it_is.digest(), "a digest is over the bytes");
    }
}

/// Plants a mistake in each file after other lines.
#[test]
fn problems_have_the_same_places_with_any_line_ends() {
    let broken = |change: &dyn Fn(String) -> String| {
        let mut files = airline(|text| text);
        let mut replace = |path: &str, from: &str, to: &str| {
            let text = String::from_utf8(files.0[path].clone()).unwrap();
            assert!(text.contains(from), "{path}: {from}");
            files.0.insert(path.to_owned(), text.replacen(from, to, 1).into_bytes());
        };
        replace("bundle.yaml", "version:", "versions:");
        replace("tools.yaml", "type: Long", "type: Longer");
        replace("conduct.cedar", "@severity(\"low\")", "@severity(\"lowest\")");
        replace("payment.cedar", "forbid", "forbidden");
        let changed = files
            .0
            .into_iter()
            .map(|(path, content)| (path, change(String::from_utf8(content).unwrap()).into_bytes()));
        Bundle::compile(&BundleFiles(changed.collect())).unwrap_err()
    };
    let expected = broken(&|text| text);
    assert!(expected.iter().filter(|problem| problem.line > 1).count() >= 4, "{expected:#?}");
    assert_eq!(broken(&crlf), expected);
    assert_eq!(broken(&|text| mark(crlf(text))), expected);

    // The problem is at the line of the schema that differs.
    let mut files = airline(crlf);
    let schema = String::from_utf8(files.0[SCHEMA_FILE].clone()).unwrap();
    let line = 1 + schema.lines().position(|line| line.contains("state: String")).unwrap();
    files.0.insert(SCHEMA_FILE.to_owned(), schema.replace("state: String", "state: Long").into_bytes());
    let problems = Bundle::compile(&files).unwrap_err();
    assert_eq!((problems[0].file.as_str(), problems[0].line), (SCHEMA_FILE, line as u64));
    assert_eq!(problems.len(), 1);
}

#[test]
fn failing_test_has_the_same_place_with_any_line_ends() {
    let failing = |change: &dyn Fn(String) -> String| {
        let mut files = airline(|text| text);
        let test = "agent: { roles: [airline-agent] }\ntests:\n  - name: t\n    steps:\n      - { call: think, decision: deny }\n";
        files.0.insert("tests/t.yaml".to_owned(), change(test.to_owned()).into_bytes());
        let report = testing::run(&Arc::new(Bundle::compile(&files).unwrap()), &files);
        report.cases.into_iter().flat_map(|case| case.failures).collect::<Vec<_>>()
    };
    let expected = failing(&|text| text);
    assert_eq!((expected.len(), expected[0].line), (1, 5));
    assert_eq!(failing(&|text| mark(crlf(text))), expected);
}
