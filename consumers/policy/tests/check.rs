//! Checks of a bundle with mistakes: all of them in one run, and hints for similar names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod support;

use agentgov_policy::{Bundle, BundleFiles, SCHEMA_FILE, check, generated_schema};
use support::airline_files;

const TOOLS: &str = "\
default: { effect: external }
tools:
  pay:
    effect: write
    derived:
      amount: { type: Long, value: input.amount }
  refund: { effect: write }
";
const POLICIES: &str = "\
@id(\"all\") permit (principal in Role::\"clerk\", action, resource);
@id(\"clerks-too\") permit (principal in Role::\"clerk\", action, resource);
@id(\"large\") @severity(\"high\")
forbid (principal, action, resource == Tool::\"pay\") when { context has amount && context.amount > 9 };
";
const TESTS: &str = "\
agent: { roles: [clerk] }
tests:
  - name: large
    steps:
      - { call: pay, id: one, input: { amount: 10 }, expect: [large] }
      - { result: {}, of: one }
";

/// Returns the files of a valid bundle with some of them replaced, and the schema of its tools.yaml.
fn files(changed: &[(&str, &str)]) -> BundleFiles {
    let whole = [
        ("bundle.yaml", "name: b\nversion: '1'\nenvironments: [demo]\n"),
        ("tools.yaml", TOOLS),
        ("rules.cedar", POLICIES),
        ("tests/t.yaml", TESTS),
    ];
    let all = whole.iter().chain(changed);
    let mut files =
        BundleFiles(all.map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect());
    let schema = generated_schema(&files).unwrap_or_default();
    files.0.insert(SCHEMA_FILE.to_owned(), schema.into_bytes());
    files
}

/// Returns mistakes and warnings of those files.
fn found(changed: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let checked = check(&files(changed));
    let texts = |found: &[agentgov_policy::Problem]| found.iter().map(ToString::to_string).collect();
    (texts(&checked.problems), texts(&checked.warnings))
}

#[track_caller]
fn assert_begins(found: &[String], expected: &[&str]) {
    for start in expected {
        assert!(found.iter().any(|line| line.starts_with(start)), "{start}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn bundle_without_mistakes_has_neither_problems_nor_warnings() {
    assert_eq!(found(&[]), (vec![], vec![]));
    let airline = check(&airline_files());
    assert!(airline.bundle.is_some(), "{airline:#?}");
    assert!(airline.problems.is_empty() && airline.warnings.is_empty(), "{airline:#?}");
}

#[test]
fn repeated_id_is_reported_whatever_other_mistakes_its_policies_have() {
    let policy = |more: &str| {
        format!("@id(\"one\") @severity(\"high\") {more} forbid (principal, action, resource);\n")
    };
    let rules = format!("{}{}{}", policy("@effect(\"frag\")"), policy(""), policy("@mode(\"off\")"));
    let (problems, _) = found(&[("rules.cedar", &rules), ("tests/t.yaml", "agent: {}\ntests: []\n")]);
    let repeated = |line| {
        format!("rules.cedar:{line}:1: `@id(\"one\")` is already used in rules.cedar:1; ids must be unique")
    };
    for expected in [repeated(2), repeated(3)] {
        assert!(problems.contains(&expected), "{problems:#?}");
    }
    for begin in ["rules.cedar:1:1: `@effect`: expected", "rules.cedar:3:1: `@mode`: expected"] {
        assert!(problems.iter().any(|problem| problem.starts_with(begin)), "{problems:#?}");
    }
}

#[test]
fn mistakes_of_all_phases_come_in_one_run() {
    let tools = TOOLS.replace(
        "{ effect: external }",
        "{ effect: extern, derived: { late: { type: Bool, value: inputs.x } } }",
    );
    let policies = format!(
        "{POLICIES}@id(\"broken\") forbid (principal action, resource);\n\
         @id(\"no-severity\") forbid (principal, action, resource) when {{ principal.stat == \"active\" }};\n\
         @id(\"large\") @severity(\"low\") forbid (principal, action, resource) when {{ context.session.evnts > 1 }};\n"
    );
    let tests = format!(
        "{TESTS}      - {{ call: pay, expect: [largee, broken, no-severity], decision: alow }}\n      - {{ inputs: {{}} }}\n"
    );
    let (problems, warnings) = found(&[
        ("bundle.yaml", "name: ''\nversion: 1\nenvironments: []\n"),
        ("tools.yaml", &tools),
        ("rules.cedar", &policies),
        ("tests/t.yaml", &tests),
        ("tests/u.yaml", "agent: {}\ntests: [{ name: x }\n"),
    ]);
    assert_begins(
        &problems,
        &[
            "bundle.yaml:1:7: `name` must not be empty",
            "bundle.yaml:2:10: expected text, found the number 1",
            "bundle.yaml:3:1: expected at least one of `environments`",
            "rules.cedar:5:33: ",
            "rules.cedar:6:1: expected `@severity` of low",
            "rules.cedar:6:64: for policy `rules.cedar:6:1`, attribute `stat`",
            "rules.cedar:7:1: `@id(\"large\")` is already used in rules.cedar:3",
            "rules.cedar:7:75: for policy `rules.cedar:7:1`, attribute `session.evnts` in context for Action::\"tool.invoked\"",
            "rules.cedar:7:75: for policy `rules.cedar:7:1`, attribute `session.evnts` in context for Action::\"tool.retried\"",
            "tests/t.yaml:7:31: expected the id of a policy of the bundle, found `largee`; did you mean `large`?",
            "tests/t.yaml:7:71: expected allow, deny, ask, indeterminate or duplicate, found `alow`; did you mean `allow`?",
            "tests/t.yaml:8:9: expected a step with `call`, `result` or `end: true`",
            "tests/t.yaml:8:11: unknown key `inputs` of a step",
            "tests/u.yaml:",
            "tools.yaml:1:20: expected read, write, destructive or external, found `extern`",
            "tools.yaml:1:66: unknown name `inputs`",
        ],
    );
    assert!(warnings.is_empty(), "{warnings:#?}");
}

/// A derived value with a mistake may have any name and type, so policies that read it are not reported.
#[test]
fn consequences_of_a_mistake_are_not_reported() {
    let tools = TOOLS.replace("type: Long", "type: Longer");
    let (problems, warnings) = found(&[("tools.yaml", &tools)]);
    assert_begins(&problems, &["tools.yaml:6:23: expected"]);
    assert!(warnings.is_empty(), "{warnings:#?}");
    // The policy that a test names may be one that Cedar cannot parse.
    let policies = POLICIES.replace("forbid (", "forbidden (").replace("@id(\"large\") ", "");
    let (problems, _) = found(&[("rules.cedar", &policies)]);
    assert!(
        !problems.is_empty() && problems.iter().all(|p| p.starts_with("rules.cedar:4:")),
        "{problems:#?}"
    );
}

#[test]
fn names_in_tests_that_nothing_has_are_problems() {
    let tests = "\
start: yesterday
agent: { roles: [clerk], state: asleep }
tests:
  - name: t
    agent: { roles: [clerk], state: unregistered }
    steps:
      - { call: pay, expect: [all], errors: [derived_eror amount, policy_error large] }
      - { end: false }
  - steps: []
";
    let (problems, warnings) = found(&[("tests/t.yaml", tests)]);
    assert_begins(
        &problems,
        &[
            "tests/t.yaml:1:8: expected a time such as",
            "tests/t.yaml:2:33: expected active, suspended, retired or unregistered, found `asleep`",
            "tests/t.yaml:7:31: `all` is a permit: no call violates it",
            "tests/t.yaml:7:46: expected arguments_not_json",
            "tests/t.yaml:8:9: expected a step with",
            "tests/t.yaml:9:5: a test must have `name`",
        ],
    );
    assert!(warnings.is_empty(), "{warnings:#?}");
    // Stages do not read tests, so the bundle judges.
    let files = files(&[("tests/t.yaml", tests)]);
    assert!(check(&files).bundle.is_some() && Bundle::compile(&files).is_ok());
}

#[test]
fn name_that_nothing_else_has_gets_a_hint() {
    for (policy, expected) in [
        (
            "principal, action, resource == Tool::\"payy\"",
            "the tool `payy` is mentioned nowhere else; did you mean `pay`?",
        ),
        (
            "principal in Role::\"clrek\", action, resource",
            "the role `clrek` is mentioned nowhere else; did you mean `clerk`?",
        ),
        (
            "principal, action, resource in Effect::\"wirte\"",
            "no tool has the effect Effect::\"wirte\": expected read, write, destructive or external; did you mean `write`?",
        ),
        ("principal, action, resource == Tool::\"archive\"", ""),
    ] {
        let policies = format!("{POLICIES}@id(\"x\") @severity(\"low\")\nforbid ({policy});\n");
        let (problems, warnings) = found(&[("rules.cedar", &policies)]);
        assert!(problems.is_empty(), "{problems:#?}");
        let at = policy.find("::").map(|at| policy[..at].rfind(' ').unwrap() + "forbid (".len() + 2).unwrap();
        let expected: Vec<String> = Some(expected)
            .filter(|e| !e.is_empty())
            .map(|e| format!("rules.cedar:6:{at}: {e}"))
            .into_iter()
            .collect();
        assert_eq!(warnings, expected, "{policy}");
    }
    let agents = |last: &str| {
        let rule = |n: usize, id: &str| {
            format!("@id(\"a{n}\") permit (principal == Agent::\"acme/{id}\", action, resource);\n")
        };
        let policies = format!("{}{}{}", rule(1, "settlement"), rule(2, "settlement"), rule(3, last));
        found(&[("rules.cedar", &format!("{POLICIES}{policies}"))]).1
    };
    assert_begins(
        &agents("setlement"),
        &[
            "rules.cedar:7:32: the agent `acme/setlement` is mentioned nowhere else; did you mean `acme/settlement`?",
        ],
    );
    assert!(agents("reporting").is_empty());
}

#[test]
fn attribute_that_the_context_never_has_gets_a_hint() {
    let policies =
        POLICIES.replace("context has amount &&", "!(context has amuont) || context has amount &&");
    let (problems, warnings) = found(&[("rules.cedar", &policies)]);
    assert!(problems.is_empty(), "{problems:#?}");
    let hint = "no tool derives `amuont`, and the context has no such attribute; did you mean `amount`?";
    assert_begins(&warnings, &[&format!("rules.cedar:4:74: {hint}")]);
}

#[test]
fn names_in_tests_get_hints() {
    let tests = "\
agent: { roles: [clrk] }
tests:
  - name: t
    steps:
      - { call: payy, id: first }
      - { result: {}, of: firts }
      - { result: {} }
      - { result: {}, of: nobody }
";
    let (problems, warnings) = found(&[("tests/t.yaml", tests)]);
    assert!(problems.is_empty(), "{problems:#?}");
    assert_begins(
        &warnings,
        &[
            "tests/t.yaml:1:18: the role `clrk` is mentioned nowhere else; did you mean `clerk`?",
            "tests/t.yaml:5:17: the tool `payy` is mentioned nowhere else; did you mean `pay`?",
            "tests/t.yaml:6:27: no call before has the id `firts`; did you mean `first`?",
            "tests/t.yaml:7:19: the result answers no call; name the id of the call with `of`",
        ],
    );
}
