//! The bundles of the examples: their own tests, and the airline's sample runs, and recorded runs if they are available.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use agentgov_policy::{Bundle, BundleTable, PolicyKind, testing};
use serde_json::Value;
use support::{airline, airline_files, kernel, read_bundle, replay_run, root, service_agent};

#[test]
fn airline_tests_pass_and_violate_every_rule() {
    let report = testing::run(&airline(), &airline_files());
    assert!(report.passed(), "{report}");
    assert_eq!(report.never_violated, Vec::<String>::new());
    assert!(report.cases.len() > 40, "{report}");
}

#[test]
fn desk_tests_pass_and_violate_every_rule() {
    let files = read_bundle(&root().join("examples/desk/bundle"));
    let checked = agentgov_policy::check(&files);
    assert!(
        checked.problems.is_empty() && checked.warnings.is_empty(),
        "{:?} {:?}",
        checked.problems,
        checked.warnings
    );
    let report = testing::run(&Arc::new(Bundle::compile(&files).unwrap()), &files);
    assert!(report.passed(), "{report}");
    assert_eq!(report.never_violated, Vec::<String>::new());
    for name in [
        "reading is allowed",
        "a write before the read is denied",
        "a write right after the read of the same path is allowed, and again",
        "a write to another path is denied, also to another spelling of the path",
        "moving asks, also after a read",
        "create_directory, edit_file and unknown tools have no grant",
    ] {
        assert!(report.cases.iter().any(|case| case.name == name), "{name}: {report}");
    }
}

fn replay(path: &std::path::Path) -> (Vec<String>, BTreeSet<String>, Vec<String>) {
    let (agents, bundles) = (service_agent(), BundleTable::with_bundle(airline()));
    let (mut lines, mut fired, mut errors) = (Vec::new(), BTreeSet::new(), Vec::new());
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let run: Value = serde_json::from_str(line).unwrap();
        let label = format!("{}/{}", run["task_id"], run["trial"]);
        let (violations, found) = replay_run(kernel(&agents, &bundles), &run);
        for (call, tool, policy) in violations {
            lines.push(format!("{label}\t{call}\t{tool}\t{policy}"));
            fired.insert(policy);
        }
        errors.extend(found.iter().map(|(call, tool, what)| format!("{label}\t{call}\t{tool}\t{what}")));
    }
    lines.sort();
    (lines, fired, errors)
}

#[test]
fn sample_runs_violate_every_rule() {
    let (lines, fired, errors) = replay(&root().join("examples/airline/runs.jsonl"));
    let bundle = airline();
    let rules =
        bundle.policies().filter(|policy| policy.kind != PolicyKind::Grant).map(|policy| policy.id.clone());
    assert_eq!(fired, rules.collect::<BTreeSet<_>>(), "{lines:#?}");
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn recorded_runs_give_the_expected_violations() {
    let Some(data) = agentgov_test_support::shared("airline-agent-runs") else { return };
    let expected = std::fs::read_to_string(data.join("expected-violations.tsv")).unwrap();
    let mut expected: Vec<&str> = expected.lines().skip(1).collect();
    expected.sort_unstable();
    let (lines, _, errors) = replay(&data.join("runs.jsonl"));
    assert_eq!(lines, expected);
    assert_eq!(errors, Vec::<String>::new());
}
