//! Tests of a bundle: `tests/*.yaml` with requests and the expected decision of each.
//!
//! ```yaml
//! tests:
//!   - name: an archived record is closed
//!     subject: { type: user, id: alice }
//!     action: { name: write }
//!     resource: { type: record, id: record-2, properties: { status: archived } }
//!     expect: deny
//!     policies: [archived-is-closed]   # all that determine it; left out: any
//! ```

use std::collections::BTreeSet;

use agentgov_schemas::verdict::Decision;
use agentgov_schemas::yaml::{self, Fields, FromNode, Location, Node, Problem, Problems};
use agentgov_schemas::{Vocabulary as _, mapping};

use super::bundle::AccessBundle;
use super::entities::PropertiesEntry;
use super::request::{AccessAction, AccessEntity, AccessRequest, Properties};
use crate::draft::TESTS_FOLDER;
use crate::files::BundleFiles;
use crate::names::hint;
use crate::policy::PolicyKind;
use crate::testing::{Case, Report};

/// Decisions that a test may expect.
const EXPECTED: [Decision; 4] = [Decision::Allow, Decision::Deny, Decision::Ask, Decision::Indeterminate];

struct TestFile {
    tests: Vec<TestEntry>,
}
mapping!(TestFile, "a file of tests", { tests });

struct TestEntry {
    at: Location,
    name: String,
    subject: AccessEntity,
    action: AccessAction,
    resource: AccessEntity,
    context: Properties,
    expect: Decision,
    policies: Option<Vec<String>>,
}

impl FromNode for TestEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a test", problems)?;
        let name = fields.take("name");
        let subject = fields.take::<EntityEntry>("subject");
        let action = fields.take::<ActionEntry>("action");
        let resource = fields.take::<EntityEntry>("resource");
        let context = fields.take::<PropertiesEntry>("context");
        let expect = fields.take::<ExpectedDecision>("expect");
        let policies = fields.take("policies");
        fields.end();
        Some(Self {
            at: node.at,
            name: name?,
            subject: subject?.0,
            action: action?.0,
            resource: resource?.0,
            context: context?.0,
            expect: expect?.0,
            policies: policies?,
        })
    }
}

struct EntityEntry(AccessEntity);

impl FromNode for EntityEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a subject or a resource", problems)?;
        let (kind, id) = (fields.take("type"), fields.take("id"));
        let properties = fields.take::<PropertiesEntry>("properties");
        fields.end();
        Some(Self(AccessEntity { kind: kind?, id: id?, properties: properties?.0 }))
    }
}

struct ActionEntry(AccessAction);

impl FromNode for ActionEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "an action", problems)?;
        let name = fields.take("name");
        let properties = fields.take::<PropertiesEntry>("properties");
        fields.end();
        Some(Self(AccessAction { name: name?, properties: properties?.0 }))
    }
}

struct ExpectedDecision(Decision);

impl FromNode for ExpectedDecision {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let word = String::from_node(node, problems)?;
        let found = Decision::by_name(&word).filter(|decision| EXPECTED.contains(decision));
        if found.is_none() {
            let words = EXPECTED.map(Decision::as_str);
            problems.add(node.at, format!("expected {}, found `{word}`", yaml::one_of(&words)));
        }
        found.map(Self)
    }
}

/// Runs the tests of a bundle.
pub fn test(bundle: &AccessBundle, files: &BundleFiles) -> Report {
    let mut report = Report::default();
    let mut violated = BTreeSet::new();
    for (path, read) in tests(files) {
        match read {
            Ok(file) => {
                for entry in &file.tests {
                    let failures = run(bundle, path, entry, &mut violated);
                    let (file, line, name) = (path.to_owned(), entry.at.line(), entry.name.clone());
                    report.cases.push(Case { file, line, name, failures });
                }
            }
            Err(problems) => report.problems.extend(problems),
        }
    }
    let rules = bundle.policies().filter(|policy| matches!(policy.kind, PolicyKind::Rule { .. }));
    report.never_violated =
        rules.map(|policy| policy.id.clone()).filter(|id| !violated.contains(id)).collect();
    report
}

/// Returns the mistakes of all test files. Policies that a test names are compared with those of the bundle, if it compiles.
pub(super) fn problems(files: &BundleFiles, bundle: Option<&AccessBundle>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, read) in tests(files) {
        match (read, bundle) {
            (Err(found), _) => problems.extend(found),
            (Ok(file), Some(bundle)) => {
                problems.extend(file.tests.iter().flat_map(|entry| unknown_policies(bundle, path, entry)));
            }
            (Ok(_), None) => {}
        }
    }
    problems
}

fn unknown_policies(bundle: &AccessBundle, path: &str, entry: &TestEntry) -> Vec<Problem> {
    let known: BTreeSet<&str> = bundle.policies().map(|policy| policy.id.as_str()).collect();
    let named = entry.policies.iter().flatten().filter(|id| !known.contains(id.as_str()));
    let problem = |id: &String| {
        let near = hint(id, known.iter().copied());
        Problem {
            file: path.to_owned(),
            line: entry.at.line(),
            column: entry.at.column(),
            message: format!("policies: expected ids of policies of the bundle, found `{id}`{near}"),
        }
    };
    named.map(problem).collect()
}

fn tests(files: &BundleFiles) -> impl Iterator<Item = (&str, Result<TestFile, Vec<Problem>>)> {
    files.matching(TESTS_FOLDER, ".yaml").map(|(path, content)| {
        let read = match BundleFiles::text(content) {
            Ok(text) => yaml::parse(path, &text),
            Err(e) => Err(vec![crate::draft::problem(
                path,
                format!("expected UTF-8, found another byte at {}", e.valid_up_to()),
            )]),
        };
        (path, read)
    })
}

fn run(
    bundle: &AccessBundle,
    path: &str,
    entry: &TestEntry,
    violated: &mut BTreeSet<String>,
) -> Vec<Problem> {
    let TestEntry { at, subject, action, resource, context, expect, policies, .. } = entry;
    let failure =
        |message: String| Problem { file: path.to_owned(), line: at.line(), column: at.column(), message };
    let found = match bundle.evaluate(&AccessRequest { subject, action, resource, context }) {
        Ok(found) => found,
        Err(e) => return vec![failure(e.to_string())],
    };
    let rules = found.determining.iter().chain(&found.observed);
    violated.extend(rules.map(|policy| policy.id.clone()));
    let mut failures = Vec::new();
    if found.decision != *expect {
        let errors: Vec<String> =
            found.errors.iter().map(|error| format!("; {}: {}", error.at, error.message)).collect();
        failures.push(failure(format!(
            "expected {}, found {} ({}){}",
            expect.as_str(),
            found.decision.as_str(),
            found.reason.as_str(),
            errors.concat()
        )));
    }
    if let Some(expected) = policies {
        let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
        let determining: BTreeSet<&str> = found.determining.iter().map(|policy| policy.id.as_str()).collect();
        if determining != expected {
            let shown = |ids: &BTreeSet<&str>| ids.iter().copied().collect::<Vec<_>>().join(", ");
            failures.push(failure(format!(
                "expected the policies [{}], found [{}]",
                shown(&expected),
                shown(&determining)
            )));
        }
    }
    failures
}
