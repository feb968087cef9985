//! Limits of policies, expressions and files: at its limit every construct compiles and is judged on a thread with the documented
//! stack, in a debug build. Beyond the limit it is a problem with its place.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_enrichment::Tools;
use agentgov_policy::{Bundle, BundleFiles, Problem, generated_schema, testing};
use agentgov_schemas::bounds::STACK_BYTES;

/// Runs `work` on a thread with the stack of `agentgov run` and of every command. A test thread has only 2 MiB.
fn on_the_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap()
}

fn files(tools: &str, policies: &str) -> BundleFiles {
    let test = "agent: { roles: [] }\ntests: [{ name: t, steps: [{ call: c, decision: allow }] }]\n";
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), b"name: b\nversion: \"1\"\nenvironments: [e]\n".to_vec()),
        ("tools.yaml".to_owned(), tools.into()),
        ("tests/t.yaml".to_owned(), test.into()),
        ("p.cedar".to_owned(), policies.into()),
    ]);
    if let Ok(schema) = generated_schema(&BundleFiles(files.clone())) {
        files.insert("schema.cedarschema".to_owned(), schema.into());
    }
    BundleFiles(files)
}

/// Compiles a policy with a condition that begins in line 2, column 1, and judges a call by it.
fn compile(condition: &str) -> Result<(), Vec<Problem>> {
    let policies = format!("@id(\"p\") permit (principal, action, resource) when {{\n{condition}\n}};");
    let files = files("default: { effect: external }\n", &policies);
    let bundle = Arc::new(Bundle::compile(&files)?);
    let report = testing::run(&bundle, &files);
    assert_eq!(report.cases.len(), 1);
    assert!(report.problems.is_empty(), "{report}");
    let errors = report.cases[0].failures.iter().filter(|failure| failure.message.contains("errors"));
    assert_eq!(errors.count(), 0, "{report}");
    Ok(())
}

fn is_the_bound(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.message.contains("within each other"))
}

/// Name of a construct, function that builds a condition with a number of parts, and the number that must be possible.
type Construct = (&'static str, fn(usize) -> String, usize);

const CONSTRUCTS: &[Construct] = &[
    ("||", |n| chain(" || ", n, |i| format!("context.environment == \"x{i}\"")), 250),
    ("&&", |n| chain(" && ", n, |i| format!("context.environment != \"x{i}\"")), 250),
    (
        "|| and &&",
        |n| chain(" || ", n, |_| "(context has actor && context.actor.id == \"a\")".to_owned()),
        240,
    ),
    ("brackets", |n| "(".repeat(n) + "true" + &")".repeat(n), 250),
    ("|| to the right", |n| "(context.environment == \"x\" || ".repeat(n) + "true" + &")".repeat(n), 120),
    ("else if", |n| "if context.environment == \"x\" then true else ".repeat(n) + "true", 120),
    (
        "then if",
        |n| "if context.environment == \"x\" then ".repeat(n) + "true" + &" else true".repeat(n),
        120,
    ),
    ("if in if", |n| "if (".repeat(n) + "true" + &") then true else false".repeat(n), 120),
    ("+", |n| chain(" + ", n, |_| "context.session.events".to_owned()) + " > 1", 80),
    ("-", |n| chain(" - ", n, |_| "1".to_owned()) + " < 1", 250),
    ("*", |n| chain(" * ", n, |_| "1".to_owned()) + " == 1", 250),
    ("!", |n| "!".repeat(n) + "true", 250),
    ("!(", |n| "!(".repeat(n) + "true" + &")".repeat(n), 120),
    ("-(", |n| "-(".repeat(n) + "1" + &")".repeat(n) + " == 1", 120),
    ("<", |n| chain(" < ", n, |_| "1".to_owned()), 250),
    ("in", |n| chain(" in ", n, |_| "principal".to_owned()), 250),
    ("attributes", |n| "context".to_owned() + &".a".repeat(n), 250),
    ("indices", |n| "context".to_owned() + &"[\"a\"]".repeat(n), 250),
    ("calls", |n| "[1]".to_owned() + &".contains(1)".repeat(n), 120),
    ("calls in calls", |n| "[1].contains(".repeat(n) + "1" + &")".repeat(n), 80),
    ("lookups", |n| chain(" || ", n, |_| "[1, 2, 3].contains(context.session.events)".to_owned()), 240),
    ("sets", |n| "[".repeat(n) + "1" + &"]".repeat(n) + " == 1", 250),
    ("records", |n| "{a: ".repeat(n) + "1" + &"}".repeat(n) + " has a", 250),
    ("has", |n| "context has a".to_owned() + &".a".repeat(n), 250),
    ("functions", |n| "decimal(".repeat(n) + "\"1.0\"" + &")".repeat(n) + " == 1", 250),
    ("conditions", |n| "true".to_owned() + &"} when { true".repeat(n), 250),
];

fn chain(join: &str, n: usize, part: fn(usize) -> String) -> String {
    (0..n).map(part).collect::<Vec<_>>().join(join)
}

/// Tests half of the constructs, so that two tests share the work.
fn check_at_the_limit_and_beyond_it(half: usize) {
    for (name, of, least) in CONSTRUCTS.iter().skip(half).step_by(2) {
        on_the_stack(move || {
            let past = |n: usize| compile(&of(n)).err().filter(|problems| is_the_bound(problems));
            let numbers: Vec<usize> = (0..300).collect();
            let most = numbers.partition_point(|n| past(*n).is_none()) - 1;
            assert!(most >= *least, "{name}: {most}");
            for more in [most + 1, 10 * most, 100_000] {
                let problems = past(more).unwrap_or_else(|| panic!("{name}: {more} compile"));
                assert_eq!(problems.len(), 1, "{name}: {problems:#?}");
                let problem = &problems[0];
                let columns = of(more).len() as u64;
                assert!(problem.file == "p.cedar" && problem.line == 2, "{name}: {problem}");
                assert!((10..=columns).contains(&problem.column), "{name}: {problem}");
            }
        });
    }
}

#[test]
fn policies_compile_at_their_limit_and_fail_beyond_it() {
    check_at_the_limit_and_beyond_it(0);
}

#[test]
fn other_policies_compile_at_their_limit_and_fail_beyond_it() {
    check_at_the_limit_and_beyond_it(1);
}

#[test]
fn elements_of_a_set_do_not_count_as_depth() {
    on_the_stack(|| {
        let elements: Vec<String> = (0..2_000).map(|i| format!("\"t{i}\"")).collect();
        compile(&format!("[{}].contains(context.environment)", elements.join(", "))).unwrap();
    });
}

#[test]
fn problem_of_a_chain_is_at_the_first_operand_beyond_the_limit() {
    on_the_stack(|| {
        let problems = compile(&vec!["true"; 300].join("\n|| ")).unwrap_err();
        // Three levels are the enclosing brackets.
        assert_eq!((problems[0].line, problems[0].column), (2 + 256 - 3 + 1, 1), "{problems:#?}");
    });
}

#[test]
fn expression_of_any_construct_compiles_or_is_a_problem() {
    fn fit(unit: &str, tail: &str) -> String {
        unit.repeat((4096 - tail.len()) / unit.len()) + tail
    }
    let expressions = [
        fit("!", "true"),
        fit("-", "1"),
        fit("- ", "1"),
        fit("true||", "true"),
        fit("true&&false||", "true"),
        fit("1+", "1"),
        fit("1-", "1"),
        fit("1*", "1"),
        fit("1%", "1"),
        fit("1<", "1"),
        fit("1==", "1"),
        fit("1 in ", "input"),
        fit("a.", "a"),
        fit("a.", "a{}"),
        format!("input{}", fit(".a", "     ")),
        format!("input{}", fit("[1]", "     ")),
        format!("input{}", fit("[?1]", "     ")),
        format!("input{}", fit(".?a", "     ")),
        format!("input{}", fit(".size()", "     ")),
        format!("input{}", fit(".map(x, x)", "     ")),
        format!("input{}", fit(".exists(x, true)", "     ")),
        format!("{}x{}", "input.map(x, ".repeat(8), ")".repeat(8)),
        format!("{}true{}", "input.all(x, input.exists(y, ".repeat(4), "))".repeat(4)),
        format!("{}1{}", "(".repeat(8), ")".repeat(8)),
        format!("{}1{}", "[".repeat(8), "]".repeat(8)),
        format!("{}1{}", "{'a': ".repeat(8), "}".repeat(8)),
        format!("{}{}true{}", "!(".repeat(8), "!".repeat(4000), ")".repeat(8)),
        format!("{}1{}", "(".repeat(9), ")".repeat(9)),
        format!("{}1", "(".repeat(100_000)),
        fit("true ? 1 : ", "1"),
        "[[[[[[[[".to_owned(),
        "!".repeat(100_000) + "true",
    ];
    on_the_stack(move || {
        for expression in expressions {
            let quoted = format!("{expression:?}");
            let tools =
                format!("default:\n  effect: read\n  derived:\n    x: {{ type: Bool, value: {quoted} }}\n");
            for problem in Tools::compile("tools.yaml", &tools, &[]).err().into_iter().flatten() {
                assert_eq!(
                    (problem.file.as_str(), problem.line),
                    ("tools.yaml", 4),
                    "{expression:.40}: {problem}"
                );
                assert_eq!(problem.column, 29, "{expression:.40}: {problem}");
            }
        }
    });
}

#[test]
fn file_of_any_depth_is_a_problem_with_its_line() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    on_the_stack(move || {
        for n in [39, 41, 300, 100_000] {
            for file in ["bundle.yaml", "tools.yaml", "tests/t.yaml"] {
                let mut files =
                    files("default: { effect: read }\n", "@id(\"p\") permit (principal, action, resource);");
                files.0.insert(file.to_owned(), deep(n).into());
                let problems = match Bundle::compile(&files) {
                    Ok(bundle) => testing::run(&Arc::new(bundle), &files).problems,
                    Err(problems) => problems,
                };
                assert!(
                    problems.iter().any(|problem| problem.file == file && problem.line == 1),
                    "{problems:?}"
                );
            }
            let nested = "Set<".repeat(n) + "String" + &">".repeat(n);
            let tools =
                format!("default:\n  effect: read\n  derived:\n    x: {{ type: {nested}, value: input }}\n");
            let problems = Tools::compile("tools.yaml", &tools, &[]).unwrap_err();
            assert_eq!(problems[0].line, 4, "{:.200}", problems[0].message);
        }
    });
}
