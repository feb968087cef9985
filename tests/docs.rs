//! Tests that documents match the code: every code has a page and every page a code, links resolve, and the tests that
//! ARCHITECTURE.md names for an invariant exist.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: what is not there fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::verdict::{ErrorCode, RecordFinding};
use agentgov_schemas::{NotReadyReason, Vocabulary};
use agentgov_service::ExitCode;
use agentgov_service::metrics::{METRICS, Metric, MetricKind};

#[path = "docs/dependencies.rs"]
mod dependencies;
#[path = "docs/glossary.rs"]
mod glossary;
#[path = "docs/shipping.rs"]
mod shipping;

/// Pages of docs/errors about one case of an exit code.
const CASES: [&str; 4] = ["hole", "hanging-transaction", "held-back", "offsets-skipped"];

#[test]
fn every_exit_code_has_its_page() {
    let index = read("docs/errors/README.md");
    for (code, page) in exit_codes() {
        let title = read(&format!("docs/errors/{page}.md"));
        assert!(title.starts_with(&format!("# Exit code {code}: ")), "docs/errors/{page}.md: {title:.60}");
        assert!(index.contains(&format!("| {code} | [{page}]({page}.md)")), "index: {code} {page}");
    }
}

#[test]
fn every_code_in_a_record_has_its_page_and_every_page_its_code() {
    let codes = codes();
    let sources = sources();
    for (code, written) in &codes {
        assert!(sources.iter().any(|(_, text)| text.contains(written)), "nothing writes {code}, {written}");
    }
    let mut expected: BTreeSet<String> = codes.into_keys().map(str::to_owned).collect();
    expected.extend(exit_codes().into_values().map(str::to_owned));
    expected.extend(CASES.map(str::to_owned));
    let index = read("docs/errors/README.md");
    let pages: BTreeSet<String> = files("docs/errors", "md")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|stem| stem != "README")
        .collect();
    assert_eq!(pages, expected, "left: the pages of docs/errors; right: what the code says");
    for page in &pages {
        assert!(index.contains(&format!("({page}.md)")), "docs/errors/README.md does not list {page}");
    }
}

#[test]
fn index_lists_stage_alerts_and_readiness_reasons() {
    let index = read("docs/errors/README.md");
    let mut met = 0;
    for (path, text) in sources() {
        let alerts = after(&text, "\"agentgov:")
            .map(word)
            .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        for name in alerts {
            met += 1;
            let alert = format!("`agentgov:{name}`");
            assert!(index.contains(&alert), "{path}: docs/errors/README.md lacks {alert}");
        }
    }
    assert!(met > 3, "this test does not see the code any more: {met}");
    let sources = sources();
    for reason in NotReadyReason::ALL {
        let written = format!("NotReadyReason::{reason:?}");
        assert!(sources.iter().any(|(_, text)| text.contains(&written)), "nothing reports {written}");
        assert!(index.contains(&format!("`{reason}`")), "docs/errors/README.md lacks `{reason}`");
    }
}

#[test]
fn pages_named_by_the_code_exist() {
    for (path, text) in sources() {
        for rest in after(&text, "docs/") {
            let named: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || "-_/.".contains(*c)).collect();
            let page = named.trim_end_matches('.');
            assert!(root().join("docs").join(page).exists(), "{path} names docs/{page}, which is not there");
        }
        for rest in after(&text, "ADR ") {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let there = files("docs/adr", "md").iter().any(|adr| {
                let name = adr.file_name().unwrap().to_string_lossy();
                number.len() == 4 && name.starts_with(&format!("{number}-"))
            });
            assert!(number.is_empty() || there, "{path} names ADR {number}, which is not there");
        }
    }
}

#[test]
fn links_resolve() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (_, target) in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            if target.contains("://") || file.is_empty() {
                continue;
            }
            seen += 1;
            let path = document.parent().unwrap().join(file);
            assert!(path.exists(), "{}: link to {target}, which is not there", document.display());
        }
    }
    assert!(seen > 50, "this test does not see the links any more: {seen}");
}

#[test]
fn every_adr_is_in_the_index() {
    let index = read("docs/adr/README.md");
    for adr in files("docs/adr", "md") {
        let name = adr.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            name == "README.md" || index.contains(&format!("({name})")),
            "docs/adr/README.md lacks {name}"
        );
    }
}

/// In ARCHITECTURE.md and bad-input.md, a link whose text is a test's name leads to the file with that test.
#[test]
fn tests_of_invariants_exist() {
    for (page, at_least) in [("docs/ARCHITECTURE.md", 20), ("docs/bad-input.md", 10)] {
        let text = read(page);
        let tests: Vec<_> = links(&text)
            .filter(|(name, file)| {
                file.ends_with(".rs") && name.starts_with('`') && !name.contains(['.', '/', ':'])
            })
            .collect();
        assert!(
            tests.len() > at_least,
            "this test does not see the list in {page} any more: {}",
            tests.len()
        );
        for (name, file) in tests {
            let source = fs::read_to_string(root().join("docs").join(file)).unwrap();
            let function = format!("fn {}(", name.trim_matches('`'));
            assert!(source.contains(&function), "{page}: {file} has no test {name}");
        }
    }
}

/// Rows of docs/operations/metrics.md and metrics of the code correspond one to one, with identical texts.
#[test]
fn every_metric_has_its_row_and_every_row_its_metric() {
    let page = read("docs/operations/metrics.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = METRICS
        .iter()
        .map(|metric| {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let labels = match metric.labels.join(", ") {
                none if none.is_empty() => " ".to_owned(),
                labels => format!(" {labels} "),
            };
            format!("| `{}` | {kind} |{labels}| {} |", metric.name, metric.help)
        })
        .collect();
    assert_eq!(rows, expected, "left: docs/operations/metrics.md; right: what the code says");
}

#[test]
fn dashboard_and_alert_rules_use_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("docs/operations/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(expressions.len() > 20 && dashboard["title"] == "agentgov");
    let rules: serde_json::Value = serde_saphyr::from_str(&read("docs/operations/alert-rules.yaml")).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let sections = headings(&read("docs/operations/runbook.md"));
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        expressions.push(rule["expr"].as_str().unwrap().to_owned());
        assert!(
            rule["labels"]["severity"].is_string() && rule["annotations"]["summary"].is_string(),
            "{name}"
        );
        let (page, section) =
            rule["annotations"]["runbook"].as_str().unwrap().split_once('#').unwrap_or_default();
        assert!(
            section.is_empty() || (root().join(page).exists() && sections.contains(section)),
            "{name}: {section}"
        );
    }
    let mut used = BTreeSet::new();
    for expression in &expressions {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names = words.filter(|word| word.starts_with("agentgov_") || word.starts_with("process_"));
        let named: Vec<_> = names.map(|name| (name, metric(name))).collect();
        assert!(!named.is_empty(), "no metric in {expression}");
        for (name, metric) in named {
            let metric = metric.unwrap_or_else(|| panic!("{name}, which is no metric, in {expression}"));
            used.insert(metric.name);
            let labels = labels_of(expression);
            let mut unknown =
                labels.iter().filter(|label| !METRICS.iter().any(|m| m.labels.contains(&label.as_str())));
            assert_eq!(unknown.next(), None, "a label that no metric has, in {expression}");
        }
    }
    let unused: Vec<_> =
        METRICS.iter().map(|metric| metric.name).filter(|name| !used.contains(name)).collect();
    assert!(unused.is_empty(), "neither dashboard nor alert rules look at {unused:?}");
}

#[test]
fn runbook_has_a_section_for_every_exit_code() {
    let text = read("docs/operations/runbook.md");
    for (code, page) in exit_codes() {
        let (_, rest) =
            text.split_once(&format!("\n### {code}: ")).unwrap_or_else(|| panic!("no section for {code}"));
        let section = rest.split("\n### ").next().unwrap();
        assert!(section.contains(&format!("(../errors/{page}.md)")), "section {code} does not link {page}");
    }
}

/// Checks Cargo.lock, which includes optional and test dependencies, so that no feature can bring Kafka back.
#[test]
fn stages_build_without_kafka() {
    let lock = read("Cargo.lock");
    let mut dependencies: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let name = after(package, "name = \"").next().map(word).unwrap_or_default();
        let list = after(package, "dependencies = [").next().and_then(|rest| rest.split(']').next());
        // If a dependency has several versions, its version follows the name.
        let quoted = list.unwrap_or_default().split('"').skip(1).step_by(2);
        dependencies.entry(name).or_default().extend(quoted.filter_map(|name| name.split(' ').next()));
    }
    for stage in ["agentgov-evaluator", "agentgov-alerter", "agentgov-policy", "agentgov-processor"] {
        let mut reached = BTreeSet::from([stage]);
        let mut open = vec![stage];
        while let Some(name) = open.pop() {
            open.extend(dependencies[name].iter().filter(|name| reached.insert(name)));
        }
        assert!(reached.contains("agentgov-schemas"), "{stage}: {reached:?}");
        assert!(!reached.contains("rdkafka"), "{stage} depends on Kafka's client");
    }
}

fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| {
        let part = name.strip_prefix(metric.name);
        part == Some("")
            || (metric.kind == MetricKind::Histogram && matches!(part, Some("_bucket" | "_sum" | "_count")))
    })
}

/// Returns the labels that an expression groups by, except those that Prometheus adds.
fn labels_of(expression: &str) -> Vec<String> {
    let groups = after(expression, "by (").chain(after(expression, "on ("));
    let lists = groups.filter_map(|rest| rest.split(')').next());
    let labels = lists.flat_map(|list| list.split(',')).map(|label| label.trim().to_owned());
    labels.filter(|label| !["le", "instance", "job"].contains(&label.as_str())).collect()
}

/// Returns the anchors of a page's headings in GitHub's form.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    titles
        .map(|title| {
            let kept = title.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
        })
        .collect()
}

/// Returns the documented exit codes with their pages.
fn exit_codes() -> BTreeMap<u8, &'static str> {
    const fn page(code: ExitCode) -> Option<&'static str> {
        // Makes the compiler require an entry here and below for a new code.
        match code {
            ExitCode::Done => None,
            ExitCode::Failed => Some("failed"),
            ExitCode::Usage => Some("usage"),
            ExitCode::Findings => Some("findings"),
            ExitCode::Panicked => Some("panicked"),
            ExitCode::TryAgain => Some("try-again"),
            ExitCode::Config => Some("config"),
            ExitCode::Fenced => Some("fenced"),
            ExitCode::Overtaken => Some("overtaken"),
            ExitCode::OtherCluster => Some("other-cluster"),
        }
    }
    [
        ExitCode::Done,
        ExitCode::Failed,
        ExitCode::Usage,
        ExitCode::Findings,
        ExitCode::Panicked,
        ExitCode::TryAgain,
        ExitCode::Config,
        ExitCode::Fenced,
        ExitCode::Overtaken,
        ExitCode::OtherCluster,
    ]
    .into_iter()
    .filter_map(|code| Some((code as u8, page(code)?)))
    .collect()
}

/// Returns every code of rejects, verdicts and rows, with its name in product code.
fn codes() -> BTreeMap<&'static str, String> {
    fn of<T: Vocabulary + std::fmt::Debug>(name: &str) -> impl Iterator<Item = (&'static str, String)> {
        T::ALL.iter().map(move |code| (code.as_str(), format!("{name}::{code:?}")))
    }
    of::<RejectReason>("RejectReason")
        .chain(of::<ErrorCode>("ErrorCode"))
        .chain(of::<RecordFinding>("RecordFinding"))
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Returns product code by path: each file up to its tests.
fn sources() -> Vec<(String, String)> {
    let folders = ["src", "schemas", "producers", "consumers", "testenv", "bench"];
    let of = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        (path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), product)
    };
    folders
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(of)
        .filter(|(path, _)| !path.contains("tests/") && !path.ends_with("tests.rs"))
        .collect()
}

/// Returns the files below a folder with this extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<PathBuf> {
    let mut documents =
        vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("SECURITY.md")];
    for folder in ["docs", "examples", "producers", "consumers", "bench"] {
        documents.extend(files(folder, "md"));
    }
    documents
}

/// Returns text and target of every link and image outside of code blocks.
fn links(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let prose = text.split("\n```").step_by(2);
    prose.flat_map(|prose| {
        prose.match_indices("](").filter_map(|(at, between)| {
            let name = prose.get(..at)?.rsplit_once('[')?.1;
            let target = prose.get(at + between.len()..)?.split_once(')')?.0;
            Some((name, target))
        })
    })
}

/// Returns the text after each occurrence of `before`.
fn after<'t>(text: &'t str, before: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(before).filter_map(move |(at, _)| text.get(at + before.len()..))
}

/// Returns the text up to the closing quote.
fn word(rest: &str) -> &str {
    rest.split('"').next().unwrap_or_default()
}
